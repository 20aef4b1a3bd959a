"""Alerts: one message about what is new since the last one, by e-mail and Slack, and a ping while all is well.

`check_alerts(settings)` looks at the ledger, remembers in dw_alerts what it saw, and tells what is new or over. `run`
and `retry` look when they end, `serve` looks every minute, `trialsync-etl alerts check` for runs that never began.
Every trouble is told once per run; at most MOST_PER_HOUR messages go out, and what comes up meanwhile waits for the
next look. A message that cannot be sent is logged, tried again at the next look, and fails nothing.

A ledger that cannot be read or written is told, too: once, by a mark in TRIALSYNC_HOME, until it works again.

Messages leave the house, so they hold names of jobs and checks, the kind of error, what it means and a command; never
the error's own text.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

from clinical_conductor.channels import ping, send
from clinical_conductor.database import connect, database_url, translated
from clinical_conductor.errors import TrialSyncError
from clinical_conductor.ledger import Job, Snapshot
from clinical_conductor.logs import get_logger
from clinical_conductor.monitoring import take_snapshot, zone_of
from clinical_conductor.remedies import NO_LEDGER, QUALITY, REMEDIES, TRANSFORMATION, UNKNOWN, fewest_commands
from clinical_conductor.settings import Settings

QUIET_SECONDS = 600
"""`serve`, which looks again in a minute, leaves so long between two messages: a bad night is one and not six."""
MOST_PER_HOUR = 6
"""No more messages than this in an hour, whoever looks."""
MOST_NAMES = 20
"""A message names so many jobs per trouble; the rest is a number."""
MARK = "no-ledger"
"""Empty file of TRIALSYNC_HOME: the ledger cannot be used. Its time is when that was told, 1970 when it was not yet."""
MARK_HOLDS = timedelta(hours=12)
"""A ledger that is still away after so long is told again."""

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that somebody should know."""

    kind: str
    subject: str
    run_id: int | None
    title: str
    command: str | None
    what: str
    """The same of several: "jobs failed: ServerTrouble"."""
    meaning: str

    @property
    def key(self) -> tuple[str, str, int]:
        """What tells it from others, as the unique index of dw_alerts has it."""
        return (self.kind, self.subject, self.run_id or 0)


@dataclass(frozen=True, slots=True)
class Told:
    """What a check did."""

    new: int
    over: int
    sent: bool
    failed: tuple[str, ...]
    """Channels that did not take the message."""


def find_troubles(snapshot: Snapshot) -> list[Trouble]:
    """What the ledger shows at the moment, worst first."""
    found = [_job_trouble(job) for job in snapshot.troubles if job.health in ("failed", "stuck", "overdue")]
    found += [
        Trouble(
            "quality",
            check.name,
            None,
            f"Data quality: {check.name} finds {check.failures:,} rows",
            QUALITY.command,
            "checks of the data found something",
            check.description or QUALITY.meaning,
        )
        for check in snapshot.quality_errors
    ]
    found += [
        Trouble(
            "transformation",
            step.name,
            step.id,
            f"{step.name} failed",
            TRANSFORMATION.command,
            "procedures failed",
            TRANSFORMATION.meaning,
        )
        for step in snapshot.failed_procedures
    ]
    return found


def _job_trouble(job: Job) -> Trouble:
    """A job that failed, is stuck or did not run."""
    name = job.resource + (f" @ {job.instance}" if job.instance else "")
    command, meaning = (job.remedy.command, job.remedy.meaning) if job.remedy else (None, "")
    run_id = job.last.id if job.last else None
    error = (job.last.error_type if job.last else None) or "unknown error"
    if job.health == "overdue":
        # Once per run that did take place: the same silence is one trouble, however long it lasts.
        kind, what = "overdue", "jobs are overdue"
        title = f"{name} is overdue: {job.missed} scheduled runs did not begin"
    elif job.health == "stuck":
        kind, what, title = "stuck", "jobs are stuck", f"{name} is stuck: run {run_id} has been silent"
    elif error == "MassDelete":
        kind, what = "mass_delete", "jobs stopped before a mass delete"
        title = f"{name} stopped before a mass delete (run {run_id})"
    else:
        kind, what, title = "failed", f"jobs failed: {error}", f"{name} failed: {error} (run {run_id})"
    return Trouble(kind, name, run_id, title, command, what, meaning)


def check_alerts(
    settings: Settings,
    *,
    now: datetime | None = None,
    quiet_seconds: float = 0,
    unstarted: Exception | None = None,
) -> Told:
    """Look, remember, tell. Raises nothing: alerts must not fail what they watch.

    Args:
        settings: The database, and ALERT_*.
        now: Stands in for the clock.
        quiet_seconds: Send nothing so soon after the last message; for those who look again soon.
        unstarted: What kept a run from starting at all: told even if the ledger can be read by now.
    """
    error = unstarted
    snapshot: Snapshot | None = None
    told = Told(0, 0, sent=False, failed=())
    try:
        try:
            with connect(database_url(settings), autocommit=True, name="trialsync-alerts") as conn:
                snapshot = take_snapshot(conn, zone=zone_of(settings), now=now)
                if error is None:
                    with translated():
                        told = _tell(conn, settings, snapshot, quiet_seconds)
        except TrialSyncError as caught:
            log.warning("the ledger cannot be used for alerts", error=caught)
            error = error or caught
        if error is not None:
            moment = now or datetime.now(UTC)
            soon = quiet_seconds > 0
            told = _tell_without_ledger(settings, error, snapshot, moment, began=unstarted is None, soon=soon)
        well = error is None and snapshot is not None and snapshot.night.verdict not in ("failed", "silent")
        if settings.alert_ping_url and not ping(settings.alert_ping_url, well=well):
            told = Told(told.new, told.over, told.sent, (*told.failed, "ping"))
    except Exception:
        log.exception("alerts could not be checked")
    return told


def _tell(conn: psycopg.Connection[Any], settings: Settings, snapshot: Snapshot, quiet_seconds: float) -> Told:
    """Bring dw_alerts in line with the troubles, and send what nobody has been told."""
    now, troubles = snapshot.taken_at, find_troubles(snapshot)
    # One at a time: serve and a cron job may look in the same second.
    with conn.transaction():
        conn.execute("select pg_advisory_xact_lock(hashtextextended('trialsync:alerts', 0))")
        _remember(conn, troubles, now)
        _remember_return(conn, settings, now)
        with conn.cursor(row_factory=dict_row) as cursor:
            waiting = cursor.execute(
                "select id, kind, subject, coalesce(run_id, 0) as run_id from dw_alerts"
                " where sent_at is null and recovered_at is null"
            ).fetchall()
            over = cursor.execute(
                "select id, title from dw_alerts where sent_at is not null and recovered_at is not null"
                " and recovery_sent_at is null order by id"
            ).fetchall()
        ids = {(row["kind"], row["subject"], row["run_id"]): row["id"] for row in waiting}
        fresh = [trouble for trouble in troubles if trouble.key in ids]
        if not (fresh or over) or _quiet(conn, now, quiet_seconds) or not _talks(settings):
            return Told(len(fresh), len(over), sent=False, failed=())
        title, body = _message(fresh, [row["title"] for row in over], snapshot)
        failed = send(settings, title, body)
        sent = len(failed) < len(_talks(settings))
        if sent:
            told = [ids[trouble.key] for trouble in fresh], [row["id"] for row in over]
            conn.execute("update dw_alerts set sent_at = %s where id = any(%s)", (now, told[0]))
            conn.execute("update dw_alerts set recovery_sent_at = %s where id = any(%s)", (now, told[1]))
        return Told(len(fresh), len(over), sent, failed)


def _talks(settings: Settings) -> set[str]:
    """The channels that take messages."""
    return set(settings.alert_channels) - {"ping"}


def _quiet(conn: psycopg.Connection[Any], now: datetime, quiet_seconds: float) -> bool:
    """Whether the last messages went out too lately for another one."""
    row = conn.execute(
        """
        select max(m.moment), count(distinct m.moment) filter (where m.moment > %s)
        from (
            select sent_at as moment from dw_alerts
            union all
            select recovery_sent_at from dw_alerts
        ) as m
        """,
        (now - timedelta(hours=1),),
    ).fetchone()
    last, messages = row or (None, 0)
    return messages >= MOST_PER_HOUR or (last is not None and now - last < timedelta(seconds=quiet_seconds))


def _remember(conn: psycopg.Connection[Any], troubles: Sequence[Trouble], now: datetime) -> None:
    """A row for every trouble that is new; the others are over."""
    for trouble in troubles:
        conn.execute(
            """
            insert into dw_alerts (kind, subject, run_id, title, command, first_seen_at) values (%s, %s, %s, %s, %s, %s)
            on conflict (kind, subject, coalesce(run_id, 0)) where recovered_at is null
            do update set title = case when dw_alerts.sent_at is null then excluded.title else dw_alerts.title end
            """,
            (trouble.kind, trouble.subject, trouble.run_id, trouble.title, trouble.command, now),
        )
    # A job that fails again is still in trouble: its older alert ends without a word of recovery.
    conn.execute(
        """
        update dw_alerts as a set
            recovered_at = %s,
            recovery_sent_at = case when a.subject = any(%s::text[]) then a.sent_at end
        where a.recovered_at is null
            and not exists (
                select from unnest(%s::text[], %s::text[], %s::bigint[]) as t (kind, subject, run_id)
                where t.kind = a.kind and t.subject = a.subject and coalesce(t.run_id, 0) = coalesce(a.run_id, 0)
            )
        """,
        (
            now,
            [trouble.subject for trouble in troubles],
            [trouble.kind for trouble in troubles],
            [trouble.subject for trouble in troubles],
            [trouble.run_id for trouble in troubles],
        ),
    )


def _message(fresh: Sequence[Trouble], over: Sequence[str], snapshot: Snapshot) -> tuple[str, str]:
    """Title and text of a message."""
    groups: dict[tuple[str, str], list[Trouble]] = {}
    for trouble in fresh:
        groups.setdefault((trouble.what, trouble.meaning), []).append(trouble)
    paragraphs = [_paragraph(group) for group in groups.values()]
    commands = fewest_commands(trouble.command for trouble in fresh if trouble.command)
    if len(paragraphs) > 1 and len(commands) == 1:
        paragraphs.append(f"All of it at once:\n    {commands[0]}")
    if over:
        more = [f"and {len(over) - MOST_NAMES} more"] if over[MOST_NAMES:] else []
        paragraphs.append("\n    ".join(["Over:", *over[:MOST_NAMES], *more]))
    paragraphs.append(f"The last 24 hours: {snapshot.night.headline}.")
    if not fresh:
        title = f"over: {over[0]}" if len(over) == 1 else f"{len(over)} troubles are over"
    elif len(groups) == 1:
        title = paragraphs[0].partition("\n")[0]
    else:
        names = ", ".join(trouble.subject for trouble in fresh[:3])
        title = f"{len(fresh)} troubles: {names}" + (f" and {len(fresh) - 3} more" if fresh[3:] else "")
    return f"TrialSync: {title}", "\n\n".join(paragraphs)


def _paragraph(group: Sequence[Trouble]) -> str:
    """Troubles of one kind: what happened, to whom, what it means, and the command."""
    lines = [group[0].title if len(group) == 1 else f"{len(group)} {group[0].what}"]
    if len(group) > 1:
        names = ", ".join(trouble.subject for trouble in group[:MOST_NAMES])
        lines.append(names + (f" and {len(group) - MOST_NAMES} more" if group[MOST_NAMES:] else ""))
    lines += [group[0].meaning] if group[0].meaning else []
    lines += fewest_commands(trouble.command for trouble in group if trouble.command)
    return "\n    ".join(lines)


def _tell_without_ledger(
    settings: Settings, error: Exception, snapshot: Snapshot | None, now: datetime, *, began: bool, soon: bool
) -> Told:
    """Tell that the ledger cannot be read or written, or that a run could not begin; the first once, until it works.

    Who looks again `soon` says nothing at the first look: a server that restarts is back by the second.
    """
    nothing = Told(1, 0, sent=False, failed=())
    kind, mark = type(error).__name__, settings.work_dir / MARK
    away = NO_LEDGER.get(kind)
    if (away is None and began) or not _talks(settings):
        return nothing
    seen = mark.exists()
    if away and seen and now.timestamp() - mark.stat().st_mtime < MARK_HOLDS.total_seconds():
        return nothing
    if away and soon and not seen and _mark(mark, 0):
        return nothing
    title = (away.meaning if away else kind) if began else f"no job could run: {away.meaning if away else kind}"
    advice = "What was committed is safe. Mend that first; the doctor tells more." if away else ""
    lines = [title, advice or REMEDIES.get(kind, UNKNOWN).meaning, away.command if away else "trialsync-etl doctor"]
    paragraphs = ["\n    ".join(lines)]
    troubles = find_troubles(snapshot) if snapshot is not None else []
    paragraphs.append(_message(troubles, (), snapshot)[1] if snapshot and troubles else "Then:\n    trialsync-etl run")
    failed = send(settings, f"TrialSync: {title}", "\n\n".join(paragraphs))
    sent = len(failed) < len(_talks(settings))
    if sent and away:
        _mark(mark, now.timestamp())
    return Told(1, 0, sent, failed)


def _mark(mark: Path, moment: float) -> bool:
    """Make the mark, if that is possible: a full disk takes an empty file. Without one, every look tells."""
    with contextlib.suppress(OSError):
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        os.utime(mark, (moment, moment))
        return True
    return False


def _remember_return(conn: psycopg.Connection[Any], settings: Settings, now: datetime) -> None:
    """After a time without the ledger: a trouble that was told and is over."""
    mark = settings.work_dir / MARK
    try:
        since = datetime.fromtimestamp(mark.stat().st_mtime, UTC)
        mark.unlink()
    except OSError:
        return
    if since.year == 1970:
        return
    conn.execute(
        """
        insert into dw_alerts (kind, subject, title, first_seen_at, sent_at, recovered_at)
        values ('database', 'database', 'The database could not be used', %s, %s, %s)
        """,
        (since, since, now),
    )
