"""config/jobs.yaml: what a site decides about its jobs, and what a cron expression means. No database here.

    timezone: Europe/Zurich
    defaults: {schedule: "0 2 * * *", priority: 50}
    jobs:
      studies: {priority: 10, timeout_seconds: 3600}
      invoices: {enabled: false}
      patient_payments: {depends_on: [invoices]}

The file seeds the columns of dw_etl_jobs that are still empty; afterwards the row wins.

Cron has five fields and means what crontab(5) says: 0 and 7 are Sunday, and when both the day of the month and the day
of the week are restricted, either is enough. Times are those on the wall of the time zone: a time that the clock skips
in spring runs right after the gap, a time that it shows twice in autumn runs once, the first time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, tzinfo
from difflib import get_close_matches
from itertools import islice, takewhile
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from clinical_conductor.catalog import ENDPOINTS, find_endpoint
from clinical_conductor.errors import ConfigurationError

UTC = ZoneInfo("UTC")
DEFAULT_PRIORITY = 50
_TOP = ("timezone", "defaults", "jobs")
_FIELDS = ("enabled", "schedule", "priority", "timeout_seconds", "depends_on")


@dataclass(frozen=True, slots=True)
class JobConfig:
    """One resource's part of config/jobs.yaml."""

    resource: str
    enabled: bool = True
    schedule: str | None = None
    """Five cron fields, or None: the job runs only when it is asked for."""
    priority: int = DEFAULT_PRIORITY
    """Of jobs that could start, the one with the lowest number starts first."""
    timeout_seconds: int | None = None
    """After so long the job commits what it has, owes the rest, and is failed. None: no limit."""
    depends_on: tuple[str, ...] = ()
    """Resources that must have succeeded before, besides the parents the catalog knows."""


def load_jobs_config(path: Path) -> dict[str, JobConfig]:
    """The jobs of a YAML file by resource; {} when there is no such file.

    Raises:
        ConfigurationError: the file is not as described above; the message names the file and the entry.
    """
    raw = _read(path)
    defaults = _fields(path, "defaults", raw.get("defaults") or {})
    entries = raw.get("jobs") or {}
    if not isinstance(entries, Mapping):
        raise ConfigurationError(f"{path}: jobs must map a resource to its settings.")
    jobs: dict[str, JobConfig] = {}
    for name, entry in entries.items():
        try:
            resource = find_endpoint(str(name)).resource
        except ConfigurationError as error:
            raise ConfigurationError(f"{path}: jobs: {error}") from None
        jobs[resource] = JobConfig(resource=resource, **{**defaults, **_fields(path, resource, entry or {})})
    _check_dependencies(path, jobs)
    return jobs


def load_timezone(path: Path) -> tzinfo:
    """The time zone of the schedules in a YAML file; UTC when it names none.

    Raises:
        ConfigurationError: there is no such zone.
    """
    name = _read(path).get("timezone") or "UTC"
    try:
        return ZoneInfo(str(name))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ConfigurationError(f"{path}: timezone {name!r} is not known; use a name like Europe/Zurich.") from None


def check_cron(expression: str) -> str:
    """The expression with single blanks between its fields.

    Raises:
        ConfigurationError: it is not five valid cron fields, or it never happens.

    >>> check_cron("0  2 * * mon-fri")
    '0 2 * * mon-fri'
    """
    from croniter import croniter  # type: ignore[import-untyped]

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

    >>> from datetime import timezone
    >>> next(fire_times("30 2 * * *", datetime(2026, 3, 28, 12, tzinfo=UTC), ZoneInfo("Europe/Zurich"))).isoformat()
    '2026-03-29T03:30:00+02:00'
    """
    from croniter import CroniterBadDateError, croniter

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


def _read(path: Path) -> dict[str, Any]:
    """The YAML file as a mapping with known top-level names."""
    import yaml

    if not path.is_file():
        return {}
    try:
        # Written in C where PyYAML was built with it: ten times as fast, and the dashboard waits for it.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigurationError(f"{path} is not valid YAML{where}.") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise ConfigurationError(f"{path} must hold {', '.join(_TOP)}.")
    _check_names(f"{path}", raw, _TOP)
    return raw


def _fields(path: Path, entry: str, raw: object) -> dict[str, Any]:
    """One entry's fields, each checked."""
    where = f"{path}: {entry}"
    if not isinstance(raw, Mapping):
        raise ConfigurationError(f"{where} must hold {', '.join(_FIELDS)}.")
    _check_names(where, raw, _FIELDS)
    found: dict[str, Any] = dict(raw)
    if not isinstance(found.get("enabled", True), bool):
        raise ConfigurationError(f"{where}: enabled must be true or false.")
    for name, least in (("priority", 0), ("timeout_seconds", 1)):
        value = found.get(name, least)
        if value is None and name == "timeout_seconds":
            continue
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
            raise ConfigurationError(f"{where}: {name} must be a whole number, {least} or more.")
    if found.get("schedule") is not None:
        try:
            found["schedule"] = check_cron(str(found["schedule"]))
        except ConfigurationError as error:
            raise ConfigurationError(f"{where}: schedule {error}") from None
    if "depends_on" in found:
        value = found["depends_on"] or []
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise ConfigurationError(f"{where}: depends_on must be a list of resources.")
        found["depends_on"] = tuple(value)
    return found


def _check_names(where: str, raw: Mapping[Any, Any], known: tuple[str, ...]) -> None:
    """Refuse a name that is not known, suggesting the nearest."""
    for name in raw:
        if name not in known:
            near = get_close_matches(str(name), known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}."
            raise ConfigurationError(f"{where}: {str(name)!r} is not known; {hint}")


def _check_dependencies(path: Path, jobs: Mapping[str, JobConfig]) -> None:
    """Refuse a dependency that does not exist, or that waits for itself."""
    waits: dict[str, set[str]] = {}
    for name, row in ENDPOINTS.items():
        waits[name] = {row.parent} if row.parent else set()
    for name, job in jobs.items():
        for other in job.depends_on:
            if other not in ENDPOINTS:
                raise ConfigurationError(f"{path}: {name}: depends_on: there is no resource {other!r}.")
            waits[name].add(other)
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        if name in trail:
            circle = " → ".join((*trail[trail.index(name) :], name))
            raise ConfigurationError(f"{path}: depends_on goes in a circle: {circle}.")
        if name not in done:
            for other in waits[name]:
                visit(other, (*trail, name))
            done.add(name)

    for name in waits:
        visit(name, ())
