"""Alerts: one message about what is new since the last one, by e-mail and Slack, and a ping while all is well.

`check_alerts(settings)` looks at the ledger, remembers in dw_alerts what it saw, and tells what is new or over. Every
trouble is told once per run; at most one message goes out in QUIET_SECONDS, and what comes up meanwhile waits for the
next one. `serve` checks every minute; a machine with cron calls `trialsync-etl alerts check` after each run. A message
that cannot be sent is logged, tried again at the next check, and fails nothing.

Messages leave the house, so they hold names of jobs and checks, the kind of error and a command; never the error's
own text.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

import psycopg
import requests
from psycopg.rows import dict_row

from clinical_conductor.database import connect, database_url, translated
from clinical_conductor.errors import ConfigurationError, TrialSyncError
from clinical_conductor.ledger import Job, Snapshot
from clinical_conductor.logs import get_logger
from clinical_conductor.monitoring import take_snapshot, zone_of
from clinical_conductor.settings import Setting, Settings, read_environment

QUIET_SECONDS = 600
"""At most one message in so long."""
MOST_LINES = 20
"""A message names so many troubles; the rest is a number."""
TIMEOUT_SECONDS = 10

log = get_logger(__name__)

ALERT_SETTINGS: Mapping[str, Setting] = {
    "smtp_url": Setting(
        "ALERT_SMTP_URL", "Mail server for ALERT_EMAIL, such as smtps://user:password@mail.example.com:465", secret=True
    ),
    "slack_webhook": Setting("ALERT_SLACK_WEBHOOK", "Slack's incoming-webhook address", secret=True),
    "ping_url": Setting(
        "ALERT_PING_URL",
        "Dead-man switch: pinged while the last night is good, with /fail added when it is not",
        secret=True,
    ),
}
"""What alerts read besides ALERT_EMAIL, from the environment or .env."""


@dataclass(frozen=True, slots=True)
class Channels:
    """Where messages go."""

    email: str = ""
    smtp_url: str = ""
    slack_webhook: str = ""
    ping_url: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The channels that are set."""
        found = []
        if self.email and self.smtp_url:
            found.append("e-mail")
        if self.slack_webhook:
            found.append("Slack")
        if self.ping_url:
            found.append("ping")
        return tuple(found)


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that somebody should know."""

    kind: str
    subject: str
    run_id: int | None
    title: str
    command: str | None


@dataclass(frozen=True, slots=True)
class Told:
    """What a check did."""

    new: int
    over: int
    sent: bool
    failed: tuple[str, ...]
    """Channels that did not take the message."""


def load_channels(
    settings: Settings, environ: Mapping[str, str] | None = None, *, dotenv: Path | None = Path(".env")
) -> Channels:
    """The channels of ALERT_EMAIL and ALERT_SETTINGS.

    Raises:
        ConfigurationError: an address is none; the message names the variable and not the address.
    """
    given = read_environment(environ, dotenv=dotenv)
    values = {name: (given.get(setting.env) or "").strip() for name, setting in ALERT_SETTINGS.items()}
    schemes = {"smtp_url": ("smtp", "smtps"), "slack_webhook": ("http", "https"), "ping_url": ("http", "https")}
    for name, value in values.items():
        parts = urlsplit(value)
        if value and (parts.scheme not in schemes[name] or not parts.hostname):
            env = ALERT_SETTINGS[name].env
            raise ConfigurationError(f"{env} is not an address that begins with {' or '.join(schemes[name])}://.")
    return Channels(email=settings.alert_email, **values)


def find_troubles(snapshot: Snapshot) -> list[Trouble]:
    """What the ledger shows at the moment, worst first."""
    found = [_job_trouble(job) for job in snapshot.troubles if job.health in ("failed", "stuck", "overdue")]
    found += [
        Trouble(
            "quality",
            check.name,
            None,
            f"Data quality: {check.name} finds {check.failures:,} rows",
            "trialsync-etl check",
        )
        for check in snapshot.failed_checks
        if check.severity == "error"
    ]
    found += [
        Trouble("transformation", step.name, step.id, f"{step.name} failed", "trialsync-etl transform")
        for step in snapshot.transformations
        if step.status == "failed"
    ]
    return found


def _job_trouble(job: Job) -> Trouble:
    """A job that failed, is stuck or did not run."""
    name = job.resource + (f" @ {job.instance}" if job.instance else "")
    command = job.remedy.command if job.remedy else None
    run_id = job.last.id if job.last else None
    if job.health == "overdue":
        # Once per run that did take place: the same silence is one trouble, however long it lasts.
        return Trouble(
            "overdue", name, run_id, f"{name} is overdue: {job.missed} scheduled runs did not begin", command
        )
    if job.health == "stuck":
        return Trouble("stuck", name, run_id, f"{name} is stuck: run {run_id} has been silent", command)
    kind = job.last.error_type if job.last else None
    if kind == "MassDelete":
        return Trouble("mass_delete", name, run_id, f"{name} stopped before a mass delete (run {run_id})", command)
    return Trouble("failed", name, run_id, f"{name} failed: {kind or 'unknown error'} (run {run_id})", command)


def check_alerts(
    settings: Settings,
    channels: Channels | None = None,
    *,
    now: datetime | None = None,
    quiet_seconds: float = QUIET_SECONDS,
) -> Told:
    """Look, remember, tell. Raises nothing: alerts must not fail what they watch."""
    try:
        channels = channels or load_channels(settings)
        with connect(database_url(settings), autocommit=True, name="trialsync-alerts") as conn:
            snapshot = take_snapshot(conn, zone=zone_of(settings), now=now)
            with translated():
                told = _tell(conn, find_troubles(snapshot), channels, snapshot.taken_at, quiet_seconds)
        if channels.ping_url and not _ping(channels.ping_url, well=snapshot.night.verdict not in ("failed", "silent")):
            told = Told(told.new, told.over, told.sent, (*told.failed, "ping"))
    except TrialSyncError as error:
        log.warning("alerts could not be checked", error=error)
        return Told(0, 0, sent=False, failed=())
    except Exception:
        log.exception("alerts could not be checked")
        return Told(0, 0, sent=False, failed=())
    return told


def _tell(
    conn: psycopg.Connection[Any], troubles: Sequence[Trouble], channels: Channels, now: datetime, quiet_seconds: float
) -> Told:
    """Bring dw_alerts in line with the troubles, and send what nobody has been told."""
    # One at a time: serve and a cron job may look in the same second.
    with conn.transaction():
        conn.execute("select pg_advisory_xact_lock(hashtextextended('trialsync:alerts', 0))")
        _remember(conn, troubles, now)
        with conn.cursor(row_factory=dict_row) as cursor:
            fresh = cursor.execute(
                "select id, title, command from dw_alerts where sent_at is null and recovered_at is null order by id"
            ).fetchall()
            over = cursor.execute(
                "select id, title from dw_alerts where sent_at is not null and recovered_at is not null"
                " and recovery_sent_at is null order by id"
            ).fetchall()
        last = conn.execute("select greatest(max(sent_at), max(recovery_sent_at)) from dw_alerts").fetchone()
        quiet = last is not None and last[0] is not None and now - last[0] < timedelta(seconds=quiet_seconds)
        if not (fresh or over) or quiet or not set(channels.names) - {"ping"}:
            return Told(len(fresh), len(over), sent=False, failed=())
        title, body = _message(fresh, over)
        failed = send(channels, title, body)
        sent = len(failed) < len(set(channels.names) - {"ping"})
        if sent:
            ids = [row["id"] for row in fresh], [row["id"] for row in over]
            conn.execute("update dw_alerts set sent_at = %s where id = any(%s)", (now, ids[0]))
            conn.execute("update dw_alerts set recovery_sent_at = %s where id = any(%s)", (now, ids[1]))
        return Told(len(fresh), len(over), sent, failed)


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
            recovery_sent_at = case when a.subject = any(%s::text[]) then coalesce(a.sent_at, %s) end
        where a.recovered_at is null
            and not exists (
                select from unnest(%s::text[], %s::text[], %s::bigint[]) as t (kind, subject, run_id)
                where t.kind = a.kind and t.subject = a.subject and coalesce(t.run_id, 0) = coalesce(a.run_id, 0)
            )
        """,
        (
            now,
            [trouble.subject for trouble in troubles],
            now,
            [trouble.kind for trouble in troubles],
            [trouble.subject for trouble in troubles],
            [trouble.run_id for trouble in troubles],
        ),
    )


def _message(fresh: Sequence[Mapping[str, Any]], over: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Title and text of a message."""
    if not fresh:
        title = (
            f"TrialSync: {over[0]['title']} — over" if len(over) == 1 else f"TrialSync: {len(over)} troubles are over"
        )
    else:
        title = f"TrialSync: {fresh[0]['title']}" if len(fresh) == 1 else f"TrialSync: {len(fresh)} troubles"
    lines = [f"{row['title']}\n    {row['command']}" if row["command"] else row["title"] for row in fresh[:MOST_LINES]]
    if fresh[MOST_LINES:]:
        lines.append(f"and {len(fresh) - MOST_LINES} more: trialsync-etl status")
    if over:
        lines.append("Over:")
        lines += [f"    {row['title']}" for row in over[:MOST_LINES]]
        if over[MOST_LINES:]:
            lines.append(f"    and {len(over) - MOST_LINES} more")
    return title, "\n".join(lines)


def send(channels: Channels, title: str, body: str) -> tuple[str, ...]:
    """Send a message to every channel; the names of those that did not take it. Raises nothing."""
    failed = []
    for name, url in _targets(channels):
        if not _notify(url, title, body):
            log.warning("an alert could not be sent", channel=name)
            failed.append(name)
    return tuple(failed)


def send_test(channels: Channels) -> tuple[str, ...]:
    """Send a message that says it is a test to every channel, the ping included; the names of those that failed.

    Raises:
        ConfigurationError: no channel is set.
    """
    if not channels.names:
        raise ConfigurationError(
            "Nobody would be told: set ALERT_EMAIL with ALERT_SMTP_URL, ALERT_SLACK_WEBHOOK, or ALERT_PING_URL."
        )
    failed = send(channels, "TrialSync: a test", "This is a test of the alerts. Nothing is wrong.")
    if channels.ping_url and not _ping(channels.ping_url, well=True):
        failed = (*failed, "ping")
    return failed


def _targets(channels: Channels) -> Iterable[tuple[str, str]]:
    """The channels as apprise's addresses."""
    if channels.email and channels.smtp_url:
        parts = urlsplit(channels.smtp_url)
        scheme = "mailtos" if parts.scheme == "smtps" else "mailto"
        login = ""
        if parts.username:
            login = f"{quote(unquote(parts.username), safe='')}:{quote(unquote(parts.password or ''), safe='')}@"
        port = f":{parts.port}" if parts.port else ""
        sender = unquote(parts.username or "")
        if "@" not in sender:
            sender = f"trialsync@{channels.email.rpartition('@')[2]}"
        query = f"smtp={parts.hostname}&from={quote(sender, safe='@')}&to={quote(channels.email, safe='@')}"
        mode = "&mode=ssl" if scheme == "mailtos" else ""
        yield "e-mail", f"{scheme}://{login}{parts.hostname}{port}?{query}{mode}&name=TrialSync"
    if channels.slack_webhook:
        yield "Slack", channels.slack_webhook


def _notify(url: str, title: str, body: str) -> bool:
    """One message to one channel."""
    import apprise

    # apprise's log lines quote addresses, which are secrets.
    logging.getLogger("apprise").setLevel(logging.CRITICAL)
    try:
        if urlsplit(url).scheme in ("http", "https") and urlsplit(url).hostname != "hooks.slack.com":
            # A webhook that speaks Slack's language without being Slack (Mattermost, a relay inside the house).
            answer = requests.post(
                url, json={"text": f"*{title}*\n{body}"}, timeout=TIMEOUT_SECONDS, allow_redirects=False
            )
            return answer.status_code < 300
        channel = apprise.Apprise()
        return bool(channel.add(url)) and bool(
            channel.notify(title=title, body=body, body_format=apprise.NotifyFormat.TEXT)
        )
    except Exception as error:  # noqa: BLE001 (whatever a channel does, the job goes on)
        log.warning("an alert could not be sent", error_type=type(error).__name__)
        return False


def _ping(url: str, *, well: bool) -> bool:
    """Tell the dead-man switch that we live, or that the night was bad (the /fail of healthchecks.io and others)."""
    with contextlib.suppress(requests.RequestException):
        target = url if well else url.rstrip("/") + "/fail"
        return requests.get(target, timeout=TIMEOUT_SECONDS, allow_redirects=False).status_code < 300
    log.warning("the dead-man switch could not be pinged")
    return False
