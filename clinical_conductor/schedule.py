"""When jobs run: cron expressions in dw_etl_jobs, and the loop of `serve` that acts on them.

Jobs with the same expression run together, as one command per active instance in a process of its own, so that parents
come before children and a run that dies takes nothing along. What happens when things do not go by the clock:

- The process was down at the time, or the database away: the run is made up for at the start, if its time is not longer
  ago than CATCH_UP; only the jobs that have not run since.
- A job's time comes while its last run, made up for or not, still goes on: that time is left out.
- Two processes serve one database: one of them schedules (an advisory lock), the other takes over when it ends.
- The clock skips an hour in spring: runs of that hour begin right after it. It repeats one in autumn: they run once.
- The database is away: the schedules known last stay in force.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import psycopg
from psycopg.rows import dict_row

from clinical_conductor.catalog import Endpoint
from clinical_conductor.cron import check_cron, fire_times, next_fire
from clinical_conductor.database import connect, database_url, translated
from clinical_conductor.errors import ConfigurationError, DatabaseRefused, DatabaseTrouble
from clinical_conductor.instances import scheduled_instances
from clinical_conductor.jobs_config import load_jobs_config
from clinical_conductor.logs import get_logger
from clinical_conductor.monitoring import zone_of
from clinical_conductor.selection import seed_jobs
from clinical_conductor.settings import Settings

CATCH_UP = timedelta(hours=6)
"""A missed time is made up for if it is not longer ago."""
LOOK_AGAIN_SECONDS = 60
STOP_SECONDS = 30
_LEADER = 7_265_010_002  # of pg_advisory_lock: one scheduler at a time
CLI = (sys.executable, "-c", "from clinical_conductor.cli import main; raise SystemExit(main())")

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ScheduledJob:
    """A job's row, as far as its schedule goes."""

    job_id: int
    resource: str
    active: bool
    schedule: str | None
    last_run_at: datetime | None

    def next_run(self, now: datetime, zone: tzinfo) -> datetime | None:
        """When it runs next; None for a job without a schedule, or one that is off."""
        if not self.active or not self.schedule:
            return None
        try:
            return next_fire(check_cron(self.schedule), now, zone)
        except ConfigurationError:
            return None


def set_schedule(conn: psycopg.Connection[Any], endpoint: Endpoint, cron: str | None) -> None:
    """Store when a job runs; None: only when it is asked for.

    Raises:
        ConfigurationError: the expression is none.
        DatabaseRefused: the row may not be written.
    """
    text = check_cron(cron) if cron is not None else None
    with translated(), conn.transaction():
        conn.execute(
            "update dw_etl_jobs set schedule_cron = %s, updated_at = now() where id = %s", (text, endpoint.job_id)
        )


def set_timeout(conn: psycopg.Connection[Any], endpoint: Endpoint, seconds: int) -> None:
    """Store how many seconds a job may take.

    Raises:
        DatabaseRefused: the row may not be written.
    """
    with translated(), conn.transaction():
        conn.execute(
            "update dw_etl_jobs set timeout_seconds = %s, updated_at = now() where id = %s", (seconds, endpoint.job_id)
        )


def set_enabled(conn: psycopg.Connection[Any], endpoint: Endpoint, enabled: bool) -> None:
    """Switch a job on or off.

    Raises:
        DatabaseRefused: the row may not be written.
    """
    with translated(), conn.transaction():
        conn.execute(
            "update dw_etl_jobs set is_active = %s, inactive_reason = %s, updated_at = now() where id = %s",
            (enabled, None if enabled else "switched off by trialsync-etl schedule --disable", endpoint.job_id),
        )


def read_schedules(conn: psycopg.Connection[Any], instance_id: int | None = None) -> list[ScheduledJob]:
    """Every job with its schedule, by job id.

    Args:
        conn: A connection to the database.
        instance_id: Whose last run counts; None: that of any instance.

    Raises:
        DatabaseTrouble: the connection was lost.
        DatabaseRefused: there is no such table.
    """
    with translated(), conn.transaction(), conn.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(
            """
            select j.id, j.resource, j.is_active, j.schedule_cron, max(r.started_at) as last_run_at
            from dw_etl_jobs as j
            left join dw_etl_runs as r
                on r.job_id = j.id and (r.source_instance_id = %(instance)s or %(instance)s::integer is null)
            where j.resource is not null
            group by j.id
            order by j.id
            """,
            {"instance": instance_id},
        ).fetchall()
    return [
        ScheduledJob(
            job_id=row["id"],
            resource=row["resource"],
            active=row["is_active"] is not False,
            schedule=row["schedule_cron"] or None,
            last_run_at=row["last_run_at"].replace(tzinfo=UTC) if row["last_run_at"] else None,
        )
        for row in rows
    ]


def by_expression(jobs: Sequence[ScheduledJob]) -> dict[str, list[ScheduledJob]]:
    """The active jobs of every valid expression; one that was written by SQL and is none is logged and left out."""
    groups: dict[str, list[ScheduledJob]] = {}
    for job in jobs:
        if job.active and job.schedule:
            try:
                groups.setdefault(check_cron(job.schedule), []).append(job)
            except ConfigurationError:
                log.warning("schedule_cron is not a schedule", job_id=job.job_id, resource=job.resource)
    return groups


def crontab(
    jobs: Sequence[ScheduledJob],
    zone: tzinfo,
    command: str = "trialsync-etl",
    instances: Iterable[str | None] = (None,),
) -> str:
    """What the schedules say, as lines for cron: one per expression and instance (None: the default one).

    All active jobs under one expression become `run --all`, so that the line stays right when jobs are added.
    """
    instances = list(instances)
    groups = by_expression(jobs)
    everything = sum(job.active for job in jobs)
    lines = [
        "# Written by `trialsync-etl schedule export --crontab`.",
        "# CRON_TZ is understood by cronie (RHEL, Fedora) and ignored by Debian's cron, which uses the machine's zone.",
        f"CRON_TZ={zone}",
    ]
    for expression, members in groups.items():
        names = ",".join(job.resource for job in members)
        what = "--all" if len(members) == everything else f"--resources {names}"
        for instance in instances:
            # To cron, % ends the command.
            whose = f" --instance {shlex.quote(instance)}".replace("%", r"\%") if instance is not None else ""
            lines.append(f"{expression} {command} run {what}{whose}")
    return "\n".join(lines) + "\n"


def missed(members: Sequence[ScheduledJob], expression: str, now: datetime, zone: tzinfo) -> list[ScheduledJob]:
    """The jobs whose latest time, not longer than CATCH_UP ago, passed without a run; new jobs have missed nothing."""
    latest = None
    for moment in fire_times(expression, now - CATCH_UP, zone):
        if moment > now:
            break
        latest = moment
    if latest is None:
        return []
    return [job for job in members if job.last_run_at is not None and job.last_run_at < latest]


class Scheduler:
    """The loop of `serve`: fires the schedules of a database, one process per expression and instance.

    Args:
        settings: Which database, and which zone.
        command: The command line to run; `run --resources …` is added.
        every_minute: Called once a minute besides, such as to send alerts; may not raise.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        command: Sequence[str] = CLI,
        every_minute: Callable[[], object] | None = None,
    ) -> None:
        from apscheduler.schedulers.background import BackgroundScheduler

        self.settings = settings
        self.command = tuple(command)
        self.every_minute = every_minute
        self.zone = zone_of(settings)
        self.leading = False
        self._lock: psycopg.Connection[Any] | None = None
        self._children: set[subprocess.Popen[bytes]] = set()
        self._busy: set[tuple[str | None, str]] = set()  # (instance, resource), while their command runs
        self._guard = threading.Lock()
        self._stopping = False
        self._taken_over = False
        self._apscheduler = BackgroundScheduler(
            timezone=UTC,
            job_defaults={"coalesce": True, "misfire_grace_time": int(CATCH_UP.total_seconds())},
        )

    def start(self) -> None:
        """Seed the schedules, make up for what was missed, and go on in the background."""
        self._tick()
        self._apscheduler.add_job(
            self._tick, "interval", seconds=LOOK_AGAIN_SECONDS, id="look", misfire_grace_time=None, name="look"
        )
        self._apscheduler.start()

    def stop(self, *, wait_seconds: float = STOP_SECONDS) -> None:
        """Begin nothing more, ask running commands to end, and wait for them; they commit what they have."""
        self._stopping = True
        if self._apscheduler.running:
            self._apscheduler.shutdown(wait=False)
        with self._guard:
            children = list(self._children)
        for child in children:
            child.terminate()
        for child in children:
            try:
                child.wait(wait_seconds)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def schedules(self) -> dict[str, datetime | None]:
        """The expressions in force, with the time each fires next."""
        return {job.id: job.next_run_time for job in self._apscheduler.get_jobs() if job.id != "look"}

    def _tick(self) -> None:
        """Once a minute: are we the one that schedules, and are the schedules still the same?"""
        try:
            self._lead()
            if self.leading and self._lock is not None:
                self._adopt(by_expression(read_schedules(self._lock)))
                if self._taken_over:
                    self._make_up(self._lock)
                    self._taken_over = False
            else:
                self._adopt({})
        except (DatabaseTrouble, DatabaseRefused) as error:
            self.leading, self._lock = False, None
            log.warning("the schedules cannot be read; those known last stay in force", error=error)
        if self.every_minute is not None:
            self.every_minute()

    def _lead(self) -> None:
        """Take or keep the lock that makes this the process that schedules."""
        if self._lock is not None:
            with translated():
                self._lock.execute("select 1")
            return
        conn = connect(database_url(self.settings), autocommit=True, name="trialsync-schedule")
        with translated():
            row = conn.execute("select pg_try_advisory_lock(%s)", (_LEADER,)).fetchone()
        if row is None or not row[0]:
            conn.close()
            self.leading = False
            return
        self._lock, self.leading, self._taken_over = conn, True, True
        seeded = seed_jobs(conn, load_jobs_config(self.settings.jobs_file))
        log.info("scheduling", seeded=seeded, zone=str(self.zone))

    def _adopt(self, groups: Mapping[str, list[ScheduledJob]]) -> None:
        """Bring the loop in line with the database; a schedule that was changed just now has missed nothing."""
        known = {job.id for job in self._apscheduler.get_jobs()} - {"look"}
        for expression in known - groups.keys():
            self._apscheduler.remove_job(expression)
        for expression in groups.keys() - known:
            self._apscheduler.add_job(
                self._fire, _trigger(expression, self.zone), args=(expression,), id=expression, name=expression
            )

    def _make_up(self, conn: psycopg.Connection[Any]) -> None:
        """Begin what passed without a run before this process began to schedule."""
        now = datetime.now(UTC)
        for instance, number in scheduled_instances(conn).items():
            for expression, members in by_expression(read_schedules(conn, number)).items():
                late = missed(members, expression, now, self.zone)
                if late:
                    log.warning("a scheduled time was missed; making up for it", schedule=expression, jobs=len(late))
                    self._begin(instance, late)

    def _fire(self, expression: str) -> None:
        """Begin the jobs that an expression has now, on every instance."""
        try:
            with connect(database_url(self.settings), name="trialsync-schedule") as conn:
                members = by_expression(read_schedules(conn)).get(expression, [])
                instances = scheduled_instances(conn)
        except (DatabaseTrouble, DatabaseRefused) as error:
            log.error("a scheduled run could not begin", schedule=expression, error=error)
            return
        for instance in instances:
            self._begin(instance, members)

    def _begin(self, instance: str | None, jobs: Sequence[ScheduledJob]) -> None:
        """One command for some jobs of an instance, without those that a command is still at."""
        with self._guard:
            mine = {(instance, job.resource) for job in jobs}
            free = [job.resource for job in jobs if (instance, job.resource) not in self._busy]
            if self._stopping or not jobs:
                return
            if len(free) < len(jobs):
                log.warning("left out: the last run still goes on", jobs=len(jobs) - len(free), instance=instance)
            if not free:
                return
            child = subprocess.Popen(  # noqa: S603 (our own command line, with names of the catalog)
                [
                    *self.command,
                    "run",
                    "--resources",
                    ",".join(free),
                    *(("--instance", instance) if instance is not None else ()),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
            self._children.add(child)
            mine -= self._busy
            self._busy |= mine
        threading.Thread(target=self._attend, args=(child, mine), daemon=True, name="scheduled run").start()

    def _attend(self, child: subprocess.Popen[bytes], jobs: set[tuple[str | None, str]]) -> None:
        """Wait for a command to end, and let its jobs run again."""
        code = child.wait()
        with self._guard:
            self._children.discard(child)
            self._busy -= jobs
        log.info("scheduled run ended", jobs=len(jobs), exit_code=code)


def _trigger(expression: str, zone: tzinfo) -> Any:
    """APScheduler's trigger for a cron expression as crontab(5) means it; its own counts weekdays from Monday."""
    from apscheduler.triggers.base import BaseTrigger

    class CrontabTrigger(BaseTrigger):  # type: ignore[misc]
        def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
            return next_fire(expression, previous_fire_time or now, zone)

    return CrontabTrigger()
