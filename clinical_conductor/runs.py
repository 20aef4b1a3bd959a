"""The ledger of runs: the only writer of dw_etl_runs and of the quarantine.

A run is opened as `running` and closed as `success`, `failed` or `skipped`. Everything a run commits goes through
`fence`, so that a run which another process has closed can commit nothing more. Times are UTC.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any
from uuid import UUID

from psycopg import Connection, sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from clinical_conductor.errors import JobLocked, RunFenced, TrialSyncError
from clinical_conductor.processes import is_alive

LOCK_SECONDS = 1.0
"""How long a lock is asked for: a killed process's session, and a start that looks for dead runs, hold it so long."""


@dataclass(slots=True)
class Counts:
    """What a run has done so far; adds up over its transactions. read = the sum of the next five."""

    read: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    rejected: int = 0
    duplicate: int = 0
    deleted: int = 0

    def add(self, other: Counts) -> None:
        """Adds another count to this one."""
        for item in fields(self):
            setattr(self, item.name, getattr(self, item.name) + getattr(other, item.name))

    @property
    def loaded(self) -> int:
        """records_loaded: what the source served and staging now holds."""
        return self.inserted + self.updated + self.unchanged


@dataclass(slots=True)
class Traffic:
    """HTTP figures of a run so far (absolute, not to be added)."""

    requests: int = 0
    retries: int = 0
    throttled: int = 0
    limiter_wait_seconds: float = 0.0
    request_seconds: float = 0.0
    histogram: Mapping[str, int] = field(default_factory=dict)


def lock_table(conn: Connection[Any], instance_id: int, table: str, *, own_run: int | None = None) -> None:
    """Takes the session lock of one instance and target table; released with the connection.

    Whoever holds it knows that no other run of the table lives: those still open are closed.

    Args:
        own_run: The run that asks again, after its connection was lost.

    Raises:
        JobLocked: another session holds it; the message says which process, on which host, since when.
    """
    name = _lock_name(instance_id, table)
    patience = time.monotonic() + LOCK_SECONDS
    while True:
        row = conn.execute("select pg_try_advisory_lock(hashtextextended(%s, 0))", (name,)).fetchone()
        if row is not None and row[0]:
            _close_dead_runs_of(conn, instance_id, table, own_run)
            return
        if time.monotonic() >= patience:
            break
        time.sleep(0.1)
    holder = conn.execute(
        """
        select r.id, r.host, r.process_id, r.started_at
        from dw_etl_runs as r
        inner join dw_etl_jobs as j on r.job_id = j.id
        where r.run_status = 'running' and r.source_instance_id = %s and j.target_table = %s
        order by r.id desc limit 1
        """,
        (instance_id, table),
    ).fetchone()
    who = (
        f"run {holder[0]} (process {holder[2]} on {holder[1]}, since {holder[3]:%Y-%m-%d %H:%M:%S} UTC)"
        if holder
        else "another session that has just started or is about to end"
    )
    raise JobLocked(f"{table} is locked by {who}. Wait for it to end, or stop that process, and run again.")


def _lock_name(instance_id: int, table: str) -> str:
    return f"trialsync:{instance_id}:{table}"


def close_dead_runs(conn: Connection[Any]) -> list[int]:
    """Closes as failed every run that is `running` although nobody holds its table's lock: its process was killed.

    Returns:
        The ids of the runs that were closed.
    """
    closed: list[int] = []
    running = conn.execute(
        """
        select r.id, r.source_instance_id, j.target_table, r.host, r.process_id
        from dw_etl_runs as r
        inner join dw_etl_jobs as j on r.job_id = j.id
        where r.run_status = 'running'
        """
    ).fetchall()
    for run_id, instance_id, table, host, process_id in running:
        if host == socket.gethostname()[:255] and process_id != os.getpid() and is_alive(process_id or 0):
            # It holds no lock while it waits for a database that restarts.
            continue
        # A run of the existing system has no instance and holds no lock of ours; it may not be ours to judge
        # while it is young.
        name = _lock_name(instance_id or 0, table)
        row = conn.execute("select pg_try_advisory_lock(hashtextextended(%s, 0))", (name,)).fetchone()
        if row is None or not row[0]:
            continue
        try:
            if _close_as_killed(conn, run_id):
                closed.append(run_id)
        finally:
            conn.execute("select pg_advisory_unlock(hashtextextended(%s, 0))", (name,))
    return closed


def _close_dead_runs_of(conn: Connection[Any], instance_id: int, table: str, own_run: int | None) -> None:
    """Closes what a killed process left open, when its session had not ended yet as this process started."""
    dead = conn.execute(
        """
        select r.id from dw_etl_runs as r
        inner join dw_etl_jobs as j on r.job_id = j.id
        where r.run_status = 'running' and r.source_instance_id = %s and j.target_table = %s
            and r.id is distinct from %s
        """,
        (instance_id, table, own_run),
    ).fetchall()
    for (run_id,) in dead:
        _close_as_killed(conn, run_id)


def _close_as_killed(conn: Connection[Any], run_id: int) -> bool:
    """Closes a run whose process no longer lives; False when somebody else has closed it."""
    done = conn.execute(
        """
        update dw_etl_runs set
            run_status = 'failed', completed_at = now(), error_type = 'Killed', error_category = 'system',
            error_message = 'The process ended without closing this run (killed, or the machine went down). '
                || 'What it had committed stays; run the job again for the rest.',
            duration_seconds = greatest(0, extract(epoch from coalesce(heartbeat_at, now()) - started_at))::integer
        where id = %s and run_status = 'running'
            and (source_instance_id is not null or started_at < now() - interval '1 day')
        returning job_id
        """,
        (run_id,),
    ).fetchone()
    if done is not None:
        conn.execute("update dw_etl_jobs set last_run_status = 'failed', updated_at = now() where id = %s", (done[0],))
    return done is not None


def open_run(
    conn: Connection[Any],
    job_id: int,
    instance_id: int,
    *,
    batch_id: UUID,
    full_refresh: bool = False,
    retry_of: int | None = None,
    planned_requests: int | None = None,
) -> int:
    """Writes the row of a run that starts now; returns its id."""
    row = conn.execute(
        """
        insert into dw_etl_runs (
            job_id, source_instance_id, batch_id, run_status, full_refresh, retry_of_run_id, planned_requests,
            host, process_id, heartbeat_at, started_at
        ) values (%s, %s, %s, 'running', %s, %s, %s, %s, %s, now(), now()) returning id
        """,
        (
            job_id,
            instance_id,
            batch_id,
            full_refresh,
            retry_of,
            planned_requests,
            socket.gethostname()[:255],
            os.getpid(),
        ),
    ).fetchone()
    assert row is not None
    conn.execute(
        "update dw_etl_jobs set last_run_at = now(), last_run_status = 'running', updated_at = now() where id = %s",
        (job_id,),
    )
    return int(row[0])


def fence(conn: Connection[Any], run_id: int) -> None:
    """Makes the transaction depend on the run being open; call it first in every transaction of a run.

    Raises:
        RunFenced: the run was closed by somebody else.
    """
    row = conn.execute(
        "select 1 from dw_etl_runs where id = %s and run_status = 'running' for update", (run_id,)
    ).fetchone()
    if row is None:
        raise RunFenced(
            f"Run {run_id} was closed by another process while it worked; nothing more is committed for it. "
            "`trialsync-etl history` shows which run took over."
        )


def add_to_run(conn: Connection[Any], run_id: int, counts: Counts, traffic: Traffic) -> None:
    """Adds what one transaction did to the run's row, in that transaction."""
    conn.execute(
        """
        update dw_etl_runs set
            records_read = records_read + %(read)s,
            records_inserted = records_inserted + %(inserted)s,
            records_updated = records_updated + %(updated)s,
            records_unchanged = records_unchanged + %(unchanged)s,
            records_rejected = records_rejected + %(rejected)s,
            records_duplicate = records_duplicate + %(duplicate)s,
            records_deleted = records_deleted + %(deleted)s,
            records_loaded = least(records_loaded::bigint + %(loaded)s, 2147483647)::integer,
            requests = %(requests)s,
            retries = %(retries)s,
            heartbeat_at = now()
        where id = %(run)s
        """,
        {
            "run": run_id,
            **{item.name: getattr(counts, item.name) for item in fields(counts)},
            "loaded": counts.loaded,
            "requests": traffic.requests,
            "retries": traffic.retries,
        },
    )


def close_run(
    conn: Connection[Any],
    run_id: int,
    status: str,
    *,
    traffic: Traffic | None = None,
    error: BaseException | None = None,
    error_message: str | None = None,
    warning: str | None = None,
    stages: Mapping[str, float] | None = None,
    details: Mapping[str, int | None] | None = None,
) -> None:
    """Closes a run that is still open; does nothing to one that is closed.

    Args:
        details: Further columns of dw_etl_runs: parents_total, parents_fetched, parents_failed, parents_owed,
            upstream_count, staged_count.
    """
    allowed = (
        "parents_total",
        "parents_fetched",
        "parents_failed",
        "parents_owed",
        "upstream_count",
        "staged_count",
    )
    extra = {name: value for name, value in (details or {}).items() if name in allowed and value is not None}
    traffic = traffic or Traffic()
    assignments = sql.SQL("").join(
        sql.SQL(", {} = {}").format(sql.Identifier(name), sql.Literal(value)) for name, value in extra.items()
    )
    row = conn.execute(
        sql.SQL(
            """
            update dw_etl_runs set
                run_status = %(status)s, completed_at = now(), heartbeat_at = now(),
                duration_seconds = greatest(0, round(extract(epoch from clock_timestamp() - started_at)))::integer,
                error_message = %(message)s, error_type = %(type)s, error_category = %(category)s,
                warning = %(warning)s, stages = %(stages)s, latency_histogram = %(histogram)s,
                requests = greatest(requests, %(requests)s), retries = greatest(retries, %(retries)s),
                throttled = %(throttled)s, limiter_wait_seconds = %(waited)s, request_seconds = %(spent)s
            """
        )
        + assignments
        + sql.SQL(" where id = %(run)s and run_status = 'running' returning job_id, records_loaded"),
        {
            "run": run_id,
            "status": status,
            "message": error_message,
            "type": type(error).__name__ if error else None,
            "category": error.category if isinstance(error, TrialSyncError) else ("system" if error else None),
            "warning": warning,
            "stages": Jsonb({name: round(value, 3) for name, value in (stages or {}).items()}),
            "histogram": Jsonb(dict(traffic.histogram)),
            "requests": traffic.requests,
            "retries": traffic.retries,
            "throttled": traffic.throttled,
            "waited": traffic.limiter_wait_seconds,
            "spent": traffic.request_seconds,
        },
    ).fetchone()
    if row is not None:
        conn.execute(
            "update dw_etl_jobs set last_run_status = %s, last_run_records = %s, updated_at = now() where id = %s",
            (status, row[1], row[0]),
        )


def read_outcome(conn: Connection[Any], run_id: int) -> tuple[str, Counts]:
    """What the ledger holds of a run: its status, and the counts of what was committed."""
    row = conn.execute(
        """
        select run_status, records_read, records_inserted, records_updated, records_unchanged, records_rejected,
            records_duplicate, records_deleted
        from dw_etl_runs where id = %s
        """,
        (run_id,),
    ).fetchone()
    assert row is not None
    return row[0], Counts(*row[1:])


def latest_runs(conn: Connection[Any], job_id: int | None = None) -> list[dict[str, Any]]:
    """Every job with its newest run on each instance (columns of dw_etl_runs, null when it never ran), by job id.

    Messages of runs that an older system left, which have no error_type, are left out: they may quote a record.
    """
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            """
            select
                j.id as job_id, j.resource, j.name, j.category, j.target_table, j.is_active, j.inactive_reason,
                j.schedule_cron, i.instance_name, r.id as run_id, r.run_status, r.started_at, r.completed_at,
                r.duration_seconds, r.records_read, r.records_inserted, r.records_updated, r.records_unchanged,
                r.records_rejected, r.records_deleted, r.records_duplicate, r.requests, r.retries, r.parents_total,
                r.parents_fetched, r.parents_failed, r.parents_owed, r.upstream_count, r.staged_count, r.warning,
                r.error_type, case when r.error_type is not null then r.error_message end as error_message,
                c.details -> 'notes' as notes
            from dw_etl_jobs as j
            left join lateral (
                select n.id
                from dw_api_credentials as a
                cross join lateral (
                    select x.id from dw_etl_runs as x
                    where x.job_id = j.id and x.source_instance_id = a.id
                    order by x.started_at desc, x.id desc limit 1
                ) as n
            ) as newest on true
            left join dw_etl_runs as r on r.id = newest.id
            left join dw_api_credentials as i on r.source_instance_id = i.id
            left join dw_etl_capabilities as c on c.job_id = j.id and c.source_instance_id = r.source_instance_id
            where %(job)s::integer is null or j.id = %(job)s
            order by j.id, r.source_instance_id
            """,
            {"job": job_id},
        ).fetchall()


def run_history(
    conn: Connection[Any], job_id: int | None = None, limit: int = 10, *, run_id: int | None = None
) -> list[dict[str, Any]]:
    """The newest runs first, with their job's resource name; of one job, or one run, when asked.

    Messages of runs that an older system left, which have no error_type, are left out: they may quote a record.
    """
    with conn.cursor(row_factory=dict_row) as cursor:
        return cursor.execute(
            """
            select
                r.*, case when r.error_type is not null then r.error_message end as error_message, r.id as run_id,
                j.resource, j.name, i.instance_name
            from dw_etl_runs as r
            inner join dw_etl_jobs as j on r.job_id = j.id
            left join dw_api_credentials as i on r.source_instance_id = i.id
            where (%(job)s::integer is null or r.job_id = %(job)s)
                and (%(run)s::integer is null or r.id = %(run)s)
            order by r.started_at desc, r.id desc
            limit %(limit)s
            """,
            {"job": job_id, "run": run_id, "limit": limit},
        ).fetchall()


def quarantine(
    conn: Connection[Any],
    run_id: int,
    job_id: int,
    instance_id: int,
    table: str,
    rejected: Iterable[tuple[str, str | None, str, str, bytes]],
) -> None:
    """Stores records that cannot be staged.

    Args:
        rejected: (parent_source_id, source_id or None, reason, raw text, content hash) of each.
    """
    rows = list({(parent, hash_): (parent, key, why, raw, hash_) for parent, key, why, raw, hash_ in rejected}.values())
    if not rows:
        return
    conn.execute(
        """
        insert into dw_etl_rejected_records as q (
            source_instance_id, etl_job_id, etl_run_id, target_table, parent_source_id, source_id, reason, raw,
            content_hash
        )
        select %s, %s, %s, %s, r.* from unnest(%s::text[], %s::text[], %s::text[], %s::text[], %s::bytea[]) as r
        on conflict (source_instance_id, target_table, parent_source_id, content_hash) do update set
            etl_run_id = excluded.etl_run_id, reason = excluded.reason, last_seen_at = now(),
            times_seen = q.times_seen + 1
        """,
        (instance_id, job_id, run_id, table, *(list(column) for column in zip(*rows, strict=True))),
    )
