"""Metrics in Prometheus' text format, read from the ledger: right whoever ran the job, on whatever machine.

`serve` offers them on METRICS_PORT; `trialsync-etl metrics --textfile PATH` writes them for the node exporter's
textfile collector. Labels are resources, tables, statuses and names of checks: never a patient, a study or a site.
Counters are sums over the ledger, so they go back when old runs are deleted, which Prometheus takes as a restart.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import psycopg
from prometheus_client.core import (
    CollectorRegistry,
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.exposition import generate_latest

from clinical_conductor.cron import missed_fires
from clinical_conductor.database import connect, database_url, translated
from clinical_conductor.errors import ConfigurationError, DatabaseRefused, DatabaseTrouble
from clinical_conductor.ledger import HEALTH, Job, Snapshot
from clinical_conductor.monitoring import GRACE, take_snapshot, zone_of
from clinical_conductor.settings import Settings

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STATUSES = ("running", "success", "failed", "skipped")


def render_metrics(settings: Settings, *, version: str = "0", now: datetime | None = None) -> bytes:
    """The metrics as text. A database that cannot be read is a metric too: trialsync_ledger_up is 0 then."""
    registry = CollectorRegistry(auto_describe=False)
    try:
        with connect(database_url(settings), name="trialsync-metrics") as conn:
            snapshot = take_snapshot(conn, zone=zone_of(settings), now=now)
            families = [*collect(conn, snapshot, parallel=settings.parallel_jobs)]
    except (DatabaseTrouble, DatabaseRefused):
        families = [_gauge("ledger_up", "Whether the ledger could be read.", 0)]
    families.append(InfoMetricFamily("trialsync_build", "The version that wrote these metrics.", {"version": version}))
    registry.register(_Fixed(families))
    return bytes(generate_latest(registry))


def write_textfile(path: Path, text: bytes) -> None:
    """Write the metrics so that a reader sees the old file or the new one, never half of one.

    Raises:
        ConfigurationError: the directory cannot be written.
    """
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(text)
            # The node exporter runs as somebody else.
            Path(temporary).chmod(0o644)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ConfigurationError(
            f"--textfile {path} cannot be written: {error.strerror}. Choose another place."
        ) from None


def collect(conn: psycopg.Connection[Any], snapshot: Snapshot, *, parallel: int) -> Iterator[Metric]:
    """Every family of metrics, from a snapshot and from sums over the whole ledger.

    Raises:
        DatabaseTrouble: the connection was lost.
        DatabaseRefused: the ledger may not be read.
    """
    yield _gauge("ledger_up", "Whether the ledger could be read.", 1)
    yield _gauge("ledger_read_timestamp_seconds", "When the ledger was read.", snapshot.taken_at.timestamp())
    yield from _job_gauges(snapshot)
    with translated():
        yield from _run_totals(conn)
        yield _latency(conn)
        yield from _pool(conn, parallel)
    yield from _warehouse(snapshot)


def _job_gauges(snapshot: Snapshot) -> Iterator[Metric]:
    """What each job is at the moment."""
    active = snapshot.active
    counts = dict.fromkeys(HEALTH, 0)
    for job in snapshot.jobs:
        counts[job.health] += 1
    yield _labelled("jobs", "Jobs by health.", ("health",), (((health,), n) for health, n in counts.items()))
    finished = [job.last for job in active if job.last and job.last.status in ("success", "failed")]
    good = sum(run.status == "success" for run in finished)
    yield _gauge(
        "job_success_ratio",
        "Jobs whose latest run succeeded, of those that ran.",
        good / len(finished) if finished else 1.0,
    )
    yield _labelled(
        "job_last_success_timestamp_seconds",
        "When the job last succeeded; absent when it never did.",
        ("resource", "instance"),
        ((_who(job), _stamp(job.last_success_at)) for job in active if job.last_success_at),
    )
    yield _labelled(
        "job_last_run_timestamp_seconds",
        "When the job's latest run began.",
        ("resource", "instance"),
        ((_who(job), _stamp(job.last.started_at)) for job in active if job.last),
    )
    yield _labelled(
        "job_last_duration_seconds",
        "How long the job's latest finished run took.",
        ("resource", "instance"),
        ((_who(job), job.last.seconds) for job in active if job.last and job.last.seconds is not None),
    )
    yield _labelled(
        "job_missed_runs",
        "Scheduled times since the job's latest run began at which none did.",
        ("resource", "instance"),
        ((_who(job), job.missed) for job in active if job.schedule),
    )
    late = snapshot.taken_at - GRACE
    yield _labelled(
        "job_scheduled_runs_since_success",
        "Scheduled times since the last success, at most 10; 10 when there is none.",
        ("resource", "instance"),
        (
            (
                _who(job),
                missed_fires(job.schedule, job.last_success_at, late, snapshot.zone, at_most=10)
                if job.last_success_at
                else 10,
            )
            for job in active
            if job.schedule and job.next_run and job.runs
        ),
    )
    yield _labelled(
        "job_up",
        "1 when nobody has to look at the job, 0 when it is failed, stuck or overdue.",
        ("resource", "instance"),
        ((_who(job), job.health not in ("failed", "stuck", "overdue")) for job in active),
    )
    yield _labelled(
        "parents_owed",
        "Parents whose children are still to be asked for.",
        ("resource", "instance"),
        ((_who(job), job.owed) for job in active if any(run.parents_owed is not None for run in job.runs)),
    )
    yield _labelled(
        "quarantined_records",
        "Records in quarantine.",
        ("resource", "instance"),
        ((_who(job), job.quarantined) for job in active),
    )
    tables: dict[str, float] = {}
    for job in active:
        if job.last_success_at:
            tables[job.table] = max(tables.get(job.table, 0.0), job.last_success_at.timestamp())
    yield _labelled(
        "table_last_success_timestamp_seconds",
        "When the staging table was last loaded successfully.",
        ("table",),
        (((table,), stamp) for table, stamp in tables.items()),
    )


_TOTALS = """
    select
        coalesce(j.resource, j.name, 'job ' || r.job_id) as resource, r.run_status as status,
        count(*), sum(extract(epoch from r.completed_at - r.started_at)) filter (where r.completed_at is not null),
        sum(r.records_read), sum(r.records_inserted), sum(r.records_updated), sum(r.records_unchanged),
        sum(r.records_deleted), sum(r.records_rejected), sum(r.records_duplicate),
        sum(r.requests), sum(r.retries), sum(r.throttled), sum(r.limiter_wait_seconds)
    from dw_etl_runs as r
    left join dw_etl_jobs as j on r.job_id = j.id
    group by 1, 2
    order by 1, 2
"""
_OUTCOMES = ("inserted", "updated", "unchanged", "deleted", "rejected", "duplicate")


def _run_totals(conn: psycopg.Connection[Any]) -> Iterator[Metric]:
    """Sums over all runs, per resource."""
    runs = CounterMetricFamily("trialsync_runs", "Runs by status.", labels=("resource", "status"))
    seconds = SummaryMetricFamily("trialsync_run_duration_seconds", "Time of finished runs.", labels=("resource",))
    read = CounterMetricFamily("trialsync_records_read", "Records served by the API.", labels=("resource",))
    records = CounterMetricFamily("trialsync_records", "What became of the records.", labels=("resource", "outcome"))
    traffic = {
        name: CounterMetricFamily(f"trialsync_{name}", text, labels=("resource",))
        for name, text in (
            ("requests", "Requests sent to the API, retries included."),
            ("request_retries", "Requests that were sent again."),
            ("requests_throttled", "Answers 429, or 503 with Retry-After."),
            ("limiter_wait_seconds", "Time waited for the rate limit."),
        )
    }
    sums: dict[str, list[float]] = {}
    for resource, status, count, spent, *values in conn.execute(_TOTALS).fetchall():
        if status in STATUSES:
            runs.add_metric((resource, status), count)
        total = sums.setdefault(resource, [0.0] * (2 + len(values)))
        added = (count if status != "running" else 0, spent, *values)
        sums[resource] = [old + float(new or 0) for old, new in zip(total, added, strict=True)]
    for resource, (count, spent, seen, *values) in sums.items():
        seconds.add_metric((resource,), int(count), spent)
        read.add_metric((resource,), seen)
        for outcome, value in zip(_OUTCOMES, values, strict=False):
            records.add_metric((resource, outcome), value)
        for family, value in zip(traffic.values(), values[len(_OUTCOMES) :], strict=True):
            family.add_metric((resource,), value)
    yield from (runs, seconds, read, records, *traffic.values())


def _latency(conn: psycopg.Connection[Any]) -> Metric:
    """How long the API took to answer, over all requests the ledger knows."""
    rows = conn.execute(
        """
        select b.key, sum(b.value::numeric)
        from dw_etl_runs as r, jsonb_each_text(r.latency_histogram) as b
        where jsonb_typeof(r.latency_histogram) = 'object'
        group by b.key
        """
    ).fetchall()
    row = conn.execute("select coalesce(sum(request_seconds), 0) from dw_etl_runs").fetchone()
    bounds = sorted((float(key.replace("+Inf", "inf")), float(value)) for key, value in rows)
    total = max((value for _, value in bounds), default=0.0)
    buckets = [(_bound(bound), value) for bound, value in bounds if bound != float("inf")]
    family = HistogramMetricFamily("trialsync_request_duration_seconds", "How long the API took to answer.")
    family.add_metric((), [*buckets, ("+Inf", total)], float(row[0]) if row else 0.0)
    return family


def _bound(value: float) -> str:
    """A bucket's bound as Prometheus writes it."""
    return str(float(value))


def _pool(conn: psycopg.Connection[Any], parallel: int) -> Iterator[Metric]:
    """Our connections to the database, against what the server and the settings allow."""
    rows = conn.execute(
        """
        select
            case when state like 'idle in%%' then 'idle in transaction' when state = 'active' then state else 'idle' end
                as state,
            count(*)
        from pg_stat_activity
        where datname = current_database() and application_name like 'trialsync%%' and pid <> pg_backend_pid()
        group by 1
        """,
        (),
    ).fetchall()
    found = {"active": 0, "idle": 0, "idle in transaction": 0} | dict(rows)
    yield _labelled(
        "database_connections", "Our connections by state.", ("state",), (((state,), n) for state, n in found.items())
    )
    row = conn.execute(
        "select current_setting('max_connections')::integer, pg_database_size(current_database())"
    ).fetchone()
    most, size = row or (0, 0)
    yield _gauge("database_connections_limit", "Connections the server allows.", most)
    yield _gauge("database_size_bytes", "Size of the database.", size)
    yield _gauge("parallel_jobs_limit", "Jobs that may run at once (ETL_PARALLEL_JOBS).", parallel)


def _warehouse(snapshot: Snapshot) -> Iterator[Metric]:
    """Silver, gold and the data quality checks."""
    steps = snapshot.transformations
    yield _labelled(
        "transformation_last_run_timestamp_seconds",
        "When the procedure's latest run began.",
        ("procedure", "status"),
        (((step.name, step.status), _stamp(step.started_at)) for step in steps if step.started_at),
    )
    yield _labelled(
        "transformation_last_duration_seconds",
        "How long the procedure's latest finished run took.",
        ("procedure",),
        (((step.name,), step.seconds) for step in steps if step.seconds is not None),
    )
    yield _labelled(
        "quality_check_failed_rows",
        "Rows that a data quality check found.",
        ("check", "severity"),
        (((check.name, check.severity), check.failures) for check in snapshot.checks),
    )
    yield _labelled(
        "quality_check_up",
        "1 when the check found nothing.",
        ("check", "severity"),
        (((check.name, check.severity), check.passed) for check in snapshot.checks),
    )


class _Fixed:
    """A collector of families that exist already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self.families = list(families)

    def collect(self) -> Iterable[Metric]:
        """The families, as the registry asks for them."""
        return self.families

    def describe(self) -> Iterable[Metric]:
        """Nothing: names cannot clash in a registry of one."""
        return []


def _who(job: Job) -> tuple[str, str]:
    """The labels of a job: its resource and the name of its instance, where there are several."""
    return (job.resource, job.instance or "")


def _stamp(moment: datetime | None) -> float:
    """Seconds since the epoch."""
    return moment.timestamp() if moment else 0.0


def _gauge(name: str, text: str, value: float) -> Metric:
    """A gauge without labels."""
    return GaugeMetricFamily(f"trialsync_{name}", text, value=value)


def _labelled(
    name: str, text: str, labels: tuple[str, ...], values: Iterable[tuple[tuple[str, ...], float | None]]
) -> Metric:
    """A gauge with labels."""
    family = GaugeMetricFamily(f"trialsync_{name}", text, labels=labels)
    for label, value in values:
        family.add_metric(label, float(value or 0))
    return family
