"""What the ledger says, read once and shared by the dashboard, the API, the metrics and the alerts. Reads only.

`read_ledger(settings)` answers a `Snapshot`: every job with its latest runs, what failed and the command that mends
it, what is owed, quarantined, stale or overdue. Nothing in it is a record, a key of a patient or a study, or the text
of an error that this package did not write itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

import psycopg
from psycopg.rows import dict_row

from clinical_conductor.cron import CronClock
from clinical_conductor.database import connect, database_url, translated
from clinical_conductor.errors import ConfigurationError
from clinical_conductor.health import health_of, night_of, remedy_of
from clinical_conductor.instances import scheduled_instances
from clinical_conductor.jobs_config import load_timezone
from clinical_conductor.ledger import Check, Day, Job, Run, Snapshot, Transformation
from clinical_conductor.settings import Settings

TREND_RUNS = 14
GRACE = timedelta(hours=1)
"""A scheduled run may begin so much later than its time before it counts as missed."""


def read_ledger(settings: Settings, *, now: datetime | None = None) -> Snapshot:
    """A snapshot of the configured (or embedded) database.

    Raises:
        DatabaseTrouble: the database cannot be reached.
        DatabaseRefused: it has no ledger, or may not be read.
    """
    zone = zone_of(settings)
    with connect(database_url(settings), name="trialsync-monitor") as conn:
        return take_snapshot(conn, zone=zone, now=now)


def zone_of(settings: Settings) -> tzinfo:
    """The time zone of the schedules; UTC when config/jobs.yaml cannot be read."""
    try:
        return load_timezone(settings.jobs_file)
    except ConfigurationError:
        return UTC


def take_snapshot(conn: psycopg.Connection[Any], *, zone: tzinfo = UTC, now: datetime | None = None) -> Snapshot:
    """Read the ledger over an open connection.

    Args:
        conn: A connection whose time zone is UTC, as `database.connect` makes it.
        zone: In which zone the cron expressions are meant.
        now: Stands in for the clock.

    Raises:
        DatabaseTrouble: the connection was lost.
        DatabaseRefused: there is no ledger, or it may not be read.
    """
    now = now or datetime.now(UTC)
    with translated(), conn.transaction():
        jobs = _read_jobs(conn, zone, now)
        days = _read_days(conn, now)
        transformations = _read_transformations(conn)
        checks = _read_checks(conn)
    return Snapshot(now, night_of(jobs, transformations, checks, now), jobs, days, transformations, checks, zone)


def read_run(conn: psycopg.Connection[Any], run_id: int) -> Run | None:
    """One run, or None if there is no such run."""
    found = read_runs(conn, run_id=run_id, limit=1)
    return found[0] if found else None


def read_runs(
    conn: psycopg.Connection[Any],
    *,
    run_id: int | None = None,
    job_id: int | None = None,
    status: str | None = None,
    before: int | None = None,
    limit: int = 50,
) -> list[Run]:
    """Runs, newest first; `before` is the id of the last run already seen."""
    with translated():
        rows = _rows(
            conn,
            _RUNS.format(source="dw_etl_runs")
            + """
            where (%(run)s::integer is null or r.id = %(run)s)
                and (%(job)s::integer is null or r.job_id = %(job)s)
                and (%(status)s::text is null or r.run_status = %(status)s)
                and (%(before)s::integer is null or r.id < %(before)s)
            order by r.id desc
            limit %(limit)s
            """,
            {"run": run_id, "job": job_id, "status": status, "before": before, "limit": limit},
        )
    return [_run(row) for row in rows]


def rejection_reasons(conn: psycopg.Connection[Any], run: Run) -> list[tuple[str, int]]:
    """Why a run put records into quarantine, and how many; never which."""
    with translated():
        rows = _rows(
            conn,
            """
            select reason, count(*) as records from dw_etl_rejected_records
            where etl_run_id = %(run)s group by reason order by count(*) desc, reason limit 20
            """,
            {"run": run.id},
        )
    return [(row["reason"], row["records"]) for row in rows]


_RUNS = """
    select
        r.id, r.job_id, r.source_instance_id, r.run_status, r.started_at, r.completed_at, r.records_read,
        r.records_inserted, r.records_updated, r.records_unchanged, r.records_deleted, r.records_rejected,
        r.records_duplicate, r.records_loaded, r.requests, r.retries, r.throttled, r.limiter_wait_seconds,
        r.request_seconds, r.parents_total, r.parents_fetched, r.parents_failed, r.parents_owed, r.upstream_count,
        r.staged_count, r.full_refresh, r.error_type, r.error_category, r.error_message, r.warning, r.stages,
        r.batch_id, r.retry_of_run_id, r.heartbeat_at, r.host, r.process_id,
        coalesce(j.resource, j.name, 'job ' || r.job_id) as resource, i.instance_name as instance
    from {source} as r
    left join dw_etl_jobs as j on r.job_id = j.id
    left join dw_api_credentials as i on r.source_instance_id = i.id
"""


def _rows(
    conn: psycopg.Connection[Any], query: str, values: Mapping[str, object] | None = None
) -> list[dict[str, Any]]:
    """The rows of a query as dictionaries."""
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(query, values).fetchall()


def _utc(value: datetime | None) -> datetime | None:
    """The ledger's timestamps have no zone and are UTC."""
    return None if value is None else value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def _run(row: Mapping[str, Any]) -> Run:
    """A row of dw_etl_runs; what the existing system left null is 0."""
    started, ended = _utc(row["started_at"]), _utc(row["completed_at"])
    started = started or ended or datetime.fromtimestamp(0, UTC)
    stages = {name: float(value) for name, value in (row["stages"] or {}).items() if isinstance(value, (int, float))}
    seconds = (ended - started).total_seconds() if ended else None
    return Run(
        id=row["id"],
        job_id=row["job_id"],
        resource=row["resource"],
        instance=row["instance"],
        status=row["run_status"],
        started_at=started,
        completed_at=ended,
        seconds=max(seconds, 0.0) if seconds is not None else None,
        records_read=row["records_read"] or 0,
        inserted=row["records_inserted"] or 0,
        updated=row["records_updated"] or 0,
        unchanged=row["records_unchanged"] or 0,
        deleted=row["records_deleted"] or 0,
        rejected=row["records_rejected"] or 0,
        duplicates=row["records_duplicate"] or 0,
        loaded=row["records_loaded"] or 0,
        requests=row["requests"] or 0,
        retries=row["retries"] or 0,
        throttled=row["throttled"] or 0,
        limiter_wait_seconds=row["limiter_wait_seconds"] or 0.0,
        request_seconds=row["request_seconds"] or 0.0,
        parents_total=row["parents_total"],
        parents_fetched=row["parents_fetched"],
        parents_failed=row["parents_failed"] or 0,
        parents_owed=row["parents_owed"],
        upstream_count=row["upstream_count"],
        staged_count=row["staged_count"],
        full_refresh=bool(row["full_refresh"]),
        error_type=row["error_type"],
        error_category=row["error_category"],
        error=row["error_message"] if row["error_type"] else None,
        warning=row["warning"],
        stages=stages,
        batch=str(row["batch_id"]) if row["batch_id"] else None,
        retry_of=row["retry_of_run_id"],
        heartbeat_at=_utc(row["heartbeat_at"]),
        host=row["host"],
        process_id=row["process_id"],
    )


def _read_jobs(conn: psycopg.Connection[Any], zone: tzinfo, now: datetime) -> tuple[Job, ...]:
    """Every job, once per instance it has run on."""
    rows = _rows(conn, "select * from dw_etl_jobs order by id")
    names = {row["id"]: row["instance_name"] for row in _rows(conn, "select id, instance_name from dw_api_credentials")}
    runs: dict[tuple[int, int | None], list[Run]] = {}
    for row in _rows(
        conn,
        _RUNS.format(
            source="""(
                -- The newest by dw_etl_runs_job_latest alone; the table is read for the runs that are shown.
                select * from dw_etl_runs where id = any (array(
                    select n.id
                    from (
                        select x.id, row_number() over (
                            partition by x.job_id, x.source_instance_id order by x.started_at desc, x.id desc
                        ) as place
                        from dw_etl_jobs as k
                        cross join lateral (
                            select y.id, y.job_id, y.source_instance_id, y.started_at
                            from dw_etl_runs as y where y.job_id = k.id
                            order by y.started_at desc, y.id desc limit %(some)s
                        ) as x
                    ) as n
                    where n.place <= %(many)s
                ))
            )"""
        )
        + "order by r.started_at, r.id",
        {"some": TREND_RUNS * 5, "many": TREND_RUNS},
    ):
        runs.setdefault((row["job_id"], row["source_instance_id"]), []).append(_run(row))
    success = {
        (row["job_id"], row["instance"]): _utc(row["at"])
        for row in _rows(
            conn,
            """
            select job_id, source_instance_id as instance, max(completed_at) as at
            from dw_etl_runs where run_status = 'success' group by job_id, source_instance_id
            """,
        )
    }
    quarantine = {
        (row["job"], row["instance"]): row["records"]
        for row in _rows(
            conn,
            """
            select etl_job_id as job, source_instance_id as instance, count(*) as records
            from dw_etl_rejected_records group by etl_job_id, source_instance_id
            """,
        )
    }
    parents = {
        (row["job_id"], row["instance"], row["status"]): row["parents"]
        for row in _rows(
            conn,
            """
            select job_id, source_instance_id as instance, status, count(*) as parents
            from dw_etl_parents where status <> 'fetched' group by job_id, source_instance_id, status
            """,
        )
    }
    marks = {
        (row["job_id"], row["source_instance_id"]): _utc(row["watermark"])
        for row in _rows(conn, "select job_id, source_instance_id, watermark from dw_etl_watermarks")
    }

    clock = CronClock(zone, now, grace=GRACE)
    scheduled = {None, *scheduled_instances(conn).values()}
    several = len({instance for _, instance in runs if instance is not None}) > 1
    jobs: list[Job] = []
    for row in rows:
        for instance in sorted((i for job, i in runs if job == row["id"]), key=lambda i: i or 0) or [None]:
            key = (row["id"], instance)
            name = names.get(instance) if several and instance is not None else None
            mine = tuple(runs.get(key, ()))
            active = bool(row["is_active"])
            due = active and instance in scheduled
            schedule, next_run, missed = _schedule(row, mine, clock) if due else (row["schedule_cron"], None, 0)
            health = health_of(active, mine, missed, now)
            jobs.append(
                Job(
                    id=row["id"],
                    resource=row["resource"] or row["name"] or f"job {row['id']}",
                    name=row["name"] or "",
                    category=row["category"] or "",
                    table=row["target_table"] or "",
                    instance_id=instance,
                    instance=name,
                    active=active,
                    inactive_reason=row["inactive_reason"],
                    schedule=schedule,
                    next_run=next_run,
                    missed=missed,
                    health=health,
                    runs=mine,
                    last_success_at=success.get(key),
                    quarantined=quarantine.get(key, 0),
                    parents_failed=parents.get((*key, "failed"), 0),
                    parents_gone=parents.get((*key, "gone"), 0),
                    watermark=marks.get(key),
                    remedy=remedy_of(health, row["id"], row["resource"] or str(row["id"]), mine, name),
                )
            )
    return tuple(jobs)


def _schedule(row: Mapping[str, Any], runs: Sequence[Run], clock: CronClock) -> tuple[str | None, datetime | None, int]:
    """A job's cron expression, when it fires next, and how many fires nobody answered."""
    text = row["schedule_cron"]
    if not text:
        return None, None, 0
    since = runs[-1].started_at if runs else _utc(row["updated_at"] or row["created_at"]) or clock.now
    try:
        return text, clock.next(text), clock.missed(text, since)
    except (ValueError, KeyError, StopIteration):
        # Written by SQL and not a schedule: shown as it is, and never due.
        return text, None, 0


def _read_days(conn: psycopg.Connection[Any], now: datetime) -> tuple[Day, ...]:
    """The last 14 days, oldest first, quiet ones included."""
    first = (now - timedelta(days=TREND_RUNS - 1)).astimezone(UTC).date()
    found = {
        row["day"]: row
        for row in _rows(
            conn,
            """
            select
                started_at::date as day,
                count(*) filter (where run_status = 'success') as succeeded,
                count(*) filter (where run_status = 'failed') as failed,
                coalesce(sum(records_inserted + records_updated + records_deleted), 0)::bigint as changed
            from dw_etl_runs where started_at >= %(first)s group by started_at::date
            """,
            {"first": first},
        )
    }
    days = []
    for offset in range(TREND_RUNS):
        day = first + timedelta(days=offset)
        row = found.get(day)
        days.append(
            Day(day.isoformat(), row["succeeded"], row["failed"], row["changed"])
            if row
            else Day(day.isoformat(), 0, 0, 0)
        )
    return tuple(days)


def _exists(conn: psycopg.Connection[Any], table: str) -> bool:
    """Whether the database has a table; the warehouse's own come with its migrations."""
    row = conn.execute("select to_regclass(%s) is not null", (table,)).fetchone()
    return bool(row and row[0])


def _read_transformations(conn: psycopg.Connection[Any]) -> tuple[Transformation, ...]:
    """The latest run of every procedure; () before the warehouse exists."""
    if not _exists(conn, "dw_transformation_runs"):
        return ()
    rows = _rows(
        conn,
        """
        select t.*
        from (select distinct procedure_name from dw_transformation_runs) as p
        cross join lateral (
            select
                x.id, x.procedure_name, x.status, x.started_at, x.finished_at, x.rows_inserted, x.rows_updated,
                x.rows_expired, x.rows_deleted, x.rows_rejected, x.error
            from dw_transformation_runs as x where x.procedure_name = p.procedure_name
            order by x.started_at desc, x.id desc limit 1
        ) as t
        order by t.procedure_name
        """,
    )
    return tuple(
        Transformation(
            id=row["id"],
            name=row["procedure_name"],
            status=row["status"],
            started_at=_utc(row["started_at"]),
            seconds=(row["finished_at"] - row["started_at"]).total_seconds() if row["finished_at"] else None,
            inserted=row["rows_inserted"],
            updated=row["rows_updated"],
            expired=row["rows_expired"],
            deleted=row["rows_deleted"],
            rejected=row["rows_rejected"],
            error=row["error"],
        )
        for row in rows
    )


def _read_checks(conn: psycopg.Connection[Any]) -> tuple[Check, ...]:
    """The latest result of every check; () before the warehouse exists."""
    if not _exists(conn, "dw_quality_results"):
        return ()
    rows = _rows(
        conn,
        """
        select r.check_name, r.severity, r.failures, r.passed, r.checked_at, c.description
        from (select distinct check_name from dw_quality_results) as n
        left join dw_quality_checks as c on n.check_name = c.name
        cross join lateral (
            select * from dw_quality_results as x where x.check_name = n.check_name
            order by x.checked_at desc, x.id desc limit 1
        ) as r
        where c.is_active is not false
        order by r.check_name
        """,
    )
    return tuple(
        Check(
            name=row["check_name"],
            severity=row["severity"],
            passed=row["passed"],
            failures=row["failures"] or 0,
            checked_at=_utc(row["checked_at"]),
            description=row["description"] or "",
        )
        for row in rows
    )
