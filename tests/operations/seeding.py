"""Ledger rows for tests: what a night of the real pipeline leaves in the database, without running one."""

from __future__ import annotations

import random
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg.types.json import Jsonb

from clinical_conductor.catalog import ENDPOINTS, Endpoint, dependency_order

BOUNDS = ("0.05", "0.1", "0.25", "0.5", "1", "2", "5", "10", "+Inf")
INSTANCE = 1


def add_run(conn: psycopg.Connection[Any], resource: str, started: datetime, **columns: Any) -> int:
    """One row of dw_etl_runs; 60 seconds and success unless said otherwise."""
    seconds = columns.pop("seconds", 60.0)
    status = columns.get("run_status", "success")
    values: dict[str, Any] = {
        "job_id": ENDPOINTS[resource].job_id,
        "source_instance_id": INSTANCE,
        "run_status": "success",
        "started_at": started.replace(tzinfo=None),
        "completed_at": None if status == "running" else (started + timedelta(seconds=seconds)).replace(tzinfo=None),
        "duration_seconds": None if status == "running" else round(seconds),
        "heartbeat_at": started,
        "batch_id": uuid4(),
        **columns,
    }
    for name in ("stages", "latency_histogram"):
        if isinstance(values.get(name), dict):
            values[name] = Jsonb(values[name])
    row = conn.execute(
        f"insert into dw_etl_runs ({', '.join(values)}) values ({', '.join(['%s'] * len(values))}) returning id",
        list(values.values()),
    ).fetchone()
    assert row is not None
    return int(row[0])


def add_instance(conn: psycopg.Connection[Any], number: int = INSTANCE, name: str = "default") -> None:
    conn.execute(
        "insert into dw_api_credentials (id, instance_name, base_url) "
        "values (%s, %s, 'https://ccs.example.com/CCSWEB') "
        "on conflict (id) do nothing",
        (number, name),
    )


def histogram(requests: int, slow: float = 0.02) -> dict[str, int]:
    """Cumulative counts per bound, as the ledger holds them."""
    shares = (0.1, 0.35, 0.75, 0.9, 1 - slow, 1 - slow / 2, 1 - slow / 8, 1.0, 1.0)
    return {bound: round(requests * share) for bound, share in zip(BOUNDS, shares, strict=True)}


FAILURES: dict[str, tuple[str, str, str]] = {
    "invoices": (
        "ServerTrouble",
        "api",
        "invoices: the API answered 503 four times. Run it again: trialsync-etl retry.",
    ),
    "queries": ("EndpointNotFound", "api", "queries: /api/v1/studies/{studyId}/monitor-queries/odata answered 404."),
    "appointments": ("DatabaseTrouble", "database", "PostgreSQL 57P01: terminating connection. Run again."),
    "rooms": (
        "MassDelete",
        "data",
        "dim_rooms_staging: 212 of 240 rows are gone upstream. --allow-mass-delete lets them go.",
    ),
    "staff": ("Killed", "system", "The process ended without closing this run. Run the job again for the rest."),
}


def seed_nights(
    conn: psycopg.Connection[Any], now: datetime, *, nights: int = 14, trouble: bool = True, seed: int = 7
) -> dict[str, int]:
    """Some nights of all active jobs, the last one begun eight hours ago; the ids of its runs by resource."""
    draw = random.Random(seed)
    add_instance(conn)
    conn.execute("update dw_etl_jobs set schedule_cron = '0 2 * * *' where is_active")
    rows: list[Endpoint] = dependency_order(row for row in ENDPOINTS.values() if row.active)
    latest: dict[str, int] = {}
    for night in reversed(range(nights)):
        batch, clock = uuid4(), now - timedelta(days=night, hours=8)
        for place, row in enumerate(rows):
            latest[row.resource] = _night_run(
                conn, row, clock + timedelta(seconds=20 * place), batch, night, draw, trouble
            )
    if trouble:
        conn.execute(
            "insert into dw_etl_rejected_records "
            "(source_instance_id, etl_job_id, etl_run_id, target_table, reason, content_hash) "
            "select 1, 3, %s, 'dim_patients_staging', 'holds \\u0000, which PostgreSQL cannot store', "
            "md5(n::text)::bytea "
            "from generate_series(1, 3) as n",
            (latest["patients"],),
        )
        conn.execute(
            "insert into dw_etl_parents "
            "(job_id, source_instance_id, parent_key, status, failures, reason, etl_run_id, fetched_at) "
            "select 141, 1, n::text, case when n < 5 then 'failed' else 'gone' end, 1, 'ServerTrouble', %s, now() "
            "from generate_series(1, 6) as n",
            (latest["study_arms"],),
        )
    conn.execute(
        "insert into dw_etl_watermarks (job_id, source_instance_id, cursor_field, watermark, etl_run_id) "
        "values (3, 1, 'modifiedDate', %s, %s) on conflict do nothing",
        (now - timedelta(hours=9), latest["patients"]),
    )
    return latest


def _night_run(
    conn: psycopg.Connection[Any],
    row: Endpoint,
    started: datetime,
    batch: UUID,
    night: int,
    draw: random.Random,
    trouble: bool,
) -> int:
    size = 40 + (row.job_id * 7919) % 90_000
    changed = draw.randrange(1 + size // 50)
    requests = max(1, size // 1000) if row.parent is None else 60 + row.job_id
    seconds = requests / 9.5 * draw.uniform(0.8, 1.3) + 2
    columns: dict[str, Any] = {
        "batch_id": batch,
        "seconds": seconds,
        "records_read": size,
        "records_inserted": changed // 3,
        "records_updated": changed - changed // 3,
        "records_unchanged": size - changed,
        "records_loaded": size,
        "records_deleted": draw.randrange(3),
        "requests": requests,
        "request_seconds": requests * 0.2,
        "retries": draw.randrange(3) if night % 5 == 0 else 0,
        "throttled": 1 if night % 7 == 0 else 0,
        "limiter_wait_seconds": seconds * 0.4,
        "latency_histogram": histogram(requests),
        "stages": {
            "read": round(seconds * 0.55, 3),
            "ask": round(seconds * 0.15, 3),
            "land": round(seconds * 0.2, 3),
            "merge": round(seconds * 0.1, 3),
        },
        "upstream_count": size,
        "staged_count": size,
    }
    if row.parent is not None:
        columns |= {"parents_total": 1050, "parents_fetched": 60, "parents_failed": 0, "parents_owed": 0}
    if trouble and night == 0:
        if row.resource in FAILURES:
            kind, category, message = FAILURES[row.resource]
            columns |= {
                "run_status": "failed",
                "error_type": kind,
                "error_category": category,
                "error_message": message,
            }
        if row.resource == "patients":
            columns |= {"records_rejected": 3}
        if row.resource == "study_arms":
            columns |= {"parents_failed": 4, "parents_owed": 4, "warning": "4 of 1,050 parents failed and stay owed."}
        if row.resource == "patient_allergies":
            columns |= {"parents_owed": 48_211, "warning": "Stopped at the deadline; 48,211 parents stay owed."}
    return add_run(conn, row.resource, started, **columns)
