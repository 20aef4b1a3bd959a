"""What a cron expression means, and when it fires.

Cron has five fields and means what crontab(5) says: 0 and 7 are Sunday, and when both the day of the month and the day
of the week are restricted, either is enough. Times are those on the wall of the time zone: a time that the clock skips
in spring runs right after the gap, a time that it shows twice in autumn runs once, the first time.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo
from itertools import islice, takewhile

from croniter import CroniterBadDateError, croniter  # type: ignore[import-untyped]

from clinical_conductor.errors import ConfigurationError


def check_cron(expression: str) -> str:
    """The expression with single blanks between its fields.

    Raises:
        ConfigurationError: it is not five valid cron fields, or it never happens.

    >>> check_cron("0  2 * * mon-fri")
    '0 2 * * mon-fri'
    """
    text = " ".join(expression.split())
    if len(text.split(" ")) != 5 or not croniter.is_valid(text):
        raise ConfigurationError(
            f"{expression!r} is not a schedule: give minute, hour, day of month, month and day of week: '0 2 * * *'."
        )
    try:
        next(fire_times(text, datetime(2024, 1, 1, tzinfo=UTC)))
    except StopIteration:
        raise ConfigurationError(f"{expression!r} never happens: there is no such day.") from None
    return text


def fire_times(expression: str, after: datetime, zone: tzinfo = UTC) -> Iterator[datetime]:
    """The moments after `after` at which a schedule fires, in `zone`.

    >>> from zoneinfo import ZoneInfo
    >>> next(fire_times("30 2 * * *", datetime(2026, 3, 28, 12, tzinfo=UTC), ZoneInfo("Europe/Zurich"))).isoformat()
    '2026-03-29T03:30:00+02:00'
    """
    # The clock on the wall, without its offset: what cron's fields are about. Two hours back, because a moment inside
    # the repeated hour has a wall time that may already have passed once.
    wall = (after.astimezone(zone) - timedelta(hours=2)).replace(tzinfo=None)
    last = after
    clock = croniter(expression, wall)
    while True:
        try:
            naive: datetime = clock.get_next(datetime)
        except CroniterBadDateError:
            return
        # Through UTC, so that a time the clock skips becomes the moment right after the gap.
        moment = naive.replace(tzinfo=zone, fold=0).astimezone(UTC).astimezone(zone)
        if moment > last:
            last = moment
            yield moment


def next_fire(expression: str, after: datetime, zone: tzinfo = UTC) -> datetime:
    """The first moment after `after` at which a schedule fires."""
    return next(fire_times(expression, after, zone))


def missed_fires(expression: str, since: datetime, until: datetime, zone: tzinfo = UTC, *, at_most: int = 100) -> int:
    """How often a schedule fired after `since` and not after `until`."""
    count = 0
    for moment in fire_times(expression, since, zone):
        if moment > until or count == at_most:
            break
        count += 1
    return count


class CronClock:
    """When schedules fire and fired, worked out once for all the jobs that share one: it takes a while.

    Args:
        zone: The schedules' time zone.
        now: The present.
        grace: A fire within it is not missed yet.
    """

    def __init__(self, zone: tzinfo, now: datetime, grace: timedelta) -> None:
        self.zone = zone
        self.now = now
        self._until = now - grace
        self._window = self._until - timedelta(days=2)
        self._next: dict[str, datetime] = {}
        self._recent: dict[str, list[datetime]] = {}

    def next(self, expression: str) -> datetime:
        """The next moment at which a schedule fires."""
        if expression not in self._next:
            self._next[expression] = next_fire(expression, self.now, self.zone)
        return self._next[expression]

    def missed(self, expression: str, since: datetime) -> int:
        """How often a schedule fired since then, as `missed_fires` counts."""
        if expression not in self._recent:
            due = takewhile(lambda moment: moment <= self._until, fire_times(expression, self._window, self.zone))
            self._recent[expression] = list(islice(due, 100))
        recent = self._recent[expression]
        if since < self._window or len(recent) == 100:
            return missed_fires(expression, since, self._until, self.zone)
        return sum(moment > since for moment in recent)
