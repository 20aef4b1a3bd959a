"""What people wait for: every gold view, and every query of status, history, plan, dashboard and metrics.

    python -m benchmarks.queries [--scale 0.2] [--runs 50000] [--explain]

Staging is filled by COPY from the simulator's records, without HTTP; silver and gold are built by `transform`; the
ledger gets so many runs; the parent ledger, the quarantine and the warehouse's own ledgers get what would be there
after as many nights. Prints a Markdown table of medians in milliseconds, slowest first, and ends with 1 if one takes
more than the limit. `--explain` prints the plans of the statements that took more than a fifth of it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from psycopg import ClientCursor, Cursor, sql

from benchmarks.sides import database
from clinical_conductor import monitoring, planning, runs
from clinical_conductor.catalog import ENDPOINTS
from clinical_conductor.database import Connection, connect
from clinical_conductor.metrics import render_metrics
from clinical_conductor.migrations import migrate
from clinical_conductor.settings import Settings, load_settings
from clinical_conductor.simulator import Simulator
from clinical_conductor.warehouse import transform

LIMIT_MS = 100.0
ROUNDS = 7
FED = (
    "sites", "studies", "staff", "sponsors", "patients", "elements", "monitors", "subjects", "visits", "study_arms",
    "subject_statuses", "patient_visits", "patient_visit_elements", "patient_campaign_touches",
    "patient_referral_touches", "system_allergies", "system_conditions", "system_medications", "system_procedures",
    "system_immunizations", "system_devices", "system_social_history",
)  # fmt: skip
"""What silver reads."""
GOLD = (
    "v_study_enrollment_summary",
    "v_subject_status_summary",
    "v_site_performance",
    "v_data_freshness",
    "mv_study_performance_metrics",
    "mv_site_visits",
)
CONNECTING = "dashboard with its connection (`read_ledger`)"
LARGE_PLAN = "plan: patient_allergies (a fan-out over patients)"
SCRAPE = "metrics: a scrape"
NOT_HELD = (CONNECTING, LARGE_PLAN, SCRAPE)
"""Shown, and not held to the limit: a new connection beside the queries; every patient compared with the parent ledger;
counters over the whole ledger, which a machine reads once a minute."""


def stage(conn: Connection, scale: float) -> int:
    """Fill staging from the simulator; how many rows."""
    world, total = Simulator(scale).start(), 0
    for name in FED:
        with conn.transaction():
            conn.execute("create temp table incoming (parent text, data jsonb) on commit drop")
            with conn.cursor().copy("copy incoming from stdin") as copy:
                for parent, record in world.truth(name):
                    copy.write_row((parent, record.decode()))
            into = sql.Identifier(ENDPOINTS[name].table)
            total += conn.execute(
                sql.SQL(
                    "insert into {} (source_instance_id, parent_source_id, source_id, data, content_hash)"
                    " select 1, parent, coalesce(data ->> 'id', data ->> 'Id', md5(data::text)), data,"
                    " decode(md5(data::text), 'hex') from incoming on conflict do nothing"
                ).format(into)
            ).rowcount
        conn.execute(sql.SQL("vacuum analyze {}").format(into))
    world.close()
    return total


def fill_ledger(conn: Connection, many: int) -> None:
    """As many runs as asked for, a night's worth each day until yesterday, and what else such a time leaves behind."""
    statement = """
        insert into dw_etl_runs (
            job_id, source_instance_id, batch_id, run_status, started_at, completed_at, duration_seconds, heartbeat_at,
            records_loaded, records_read, records_inserted, records_updated, records_unchanged, requests,
            request_seconds, latency_histogram, stages, parents_total, parents_fetched, host, process_id,
            error_message, error_type, error_category
        )
        select
            j.id, 1, md5('night ' || night)::uuid, case when odd %% 97 = 0 then 'failed' else 'success' end, began,
            began + interval '50 s', 50, began at time zone 'UTC', 900, 1000, 10, 90, 900, 12, 3.5,
            '{"0.05": 2, "0.1": 5, "0.25": 9, "0.5": 11, "1": 12, "2": 12, "5": 12, "10": 12, "+Inf": 12}',
            '{"read": 30.1, "ask": 6.2, "land": 8.3, "merge": 5.4}', 1000, 100, 'loader', 1000 + night,
            case when odd %% 97 = 0 then 'The API answered 503 four times. Run it again: trialsync-etl retry.' end,
            case when odd %% 97 = 0 then 'ServerTrouble' end, case when odd %% 97 = 0 then 'api' end
        from generate_series(1, ceil(%(many)s::numeric / (select count(*) from dw_etl_jobs))::integer) as g (night)
        cross join lateral (
            select id, row_number() over (order by id) as place from dw_etl_jobs
        ) as j
        cross join lateral (
            select
                (now() at time zone 'UTC') - ((select ceil(%(many)s::numeric / count(*)) from dw_etl_jobs) - night + 1)
                    * interval '1 day' + j.place * interval '1 minute' as began,
                night * 31 + j.id as odd
        ) as t
        order by night, j.place
        limit %(many)s
    """
    conn.execute("update dw_etl_jobs set schedule_cron = '0 2 * * *' where is_active")
    conn.execute(statement, {"many": many})
    for endpoint in ENDPOINTS.values():
        if endpoint.parent is not None:
            conn.execute(
                sql.SQL(
                    "insert into dw_etl_parents (job_id, source_instance_id, parent_key, parent_hash, status, records,"
                    " etl_run_id, fetched_at)"
                    " select %(job)s, 1, dw_parent_key(s.parent_source_id, s.source_id, %(parts)s), s.content_hash,"
                    " case when s.id %% 1000 = 0 then 'failed' else 'fetched' end, 3, 1,"
                    " now() - s.id %% 7 * interval '1 day' from {} as s on conflict do nothing"
                ).format(sql.Identifier(ENDPOINTS[endpoint.parent].table)),
                {"job": endpoint.job_id, "parts": len(endpoint.parameters)},
            )
    conn.execute(
        "insert into dw_etl_rejected_records"
        " (source_instance_id, etl_job_id, etl_run_id, target_table, reason, content_hash)"
        " select 1, 3, r.id, 'dim_patients_staging', 'holds \\u0000, which PostgreSQL cannot store',"
        " decode(md5(r.id::text || g), 'hex')"
        " from (select id from dw_etl_runs where job_id = 3 order by id desc limit 100) as r,"
        " generate_series(1, 100) as g"
    )
    nights = "generate_series(1, 500) as g (night)"
    conn.execute(
        "insert into dw_transformation_runs (procedure_name, status, started_at, finished_at)"
        " select t.procedure_name, 'success', at, at + interval '2 s'"
        f" from {nights}, lateral (select now() - night * interval '1 day') as n (at), dw_transformations as t"
    )
    conn.execute(
        "insert into dw_quality_results (batch_id, check_name, severity, failures, passed, seconds, checked_at)"
        " select md5(night::text)::uuid, c.name, c.severity, 0, true, 0.1, now() - night * interval '1 day'"
        f" from {nights}, dw_quality_checks as c"
    )
    conn.execute(
        "insert into dw_quality_measures (batch_id, table_name, column_name, value, measured_at)"
        " select md5(night::text)::uuid, t.target_table, 'column ' || c, 0.5, now() - night * interval '1 day'"
        f" from {nights}, dw_transformations as t, generate_series(1, 12) as c on conflict do nothing"
    )
    conn.execute("vacuum analyze")


def cases(conn: Connection, settings: Settings) -> dict[str, Callable[[], object]]:
    """What is measured, by what it is called in the table."""

    def select(text: str) -> Callable[[], object]:
        return lambda: conn.pgconn.exec_(text.encode())  # as psql receives it, without Python's values

    def plan(name: str) -> Callable[[], object]:
        return lambda: planning.plan_job(conn, ENDPOINTS[name], 1, page_size=1000, rate=10.0, beforehand=True)

    last = conn.execute("select max(id) from dw_etl_runs where job_id = 3").fetchone()
    run_id = int(last[0]) if last else 1
    newest = monitoring.read_run(conn, run_id)
    assert newest is not None
    return {
        **{name: select(f"select * from {name}") for name in GOLD},
        "mv_study_performance_metrics of one study": select(
            "select * from mv_study_performance_metrics where source_instance_id = 1 and study_id = '1005'"
        ),
        "status (`latest_runs`)": lambda: runs.latest_runs(conn),
        "status of one job": lambda: runs.latest_runs(conn, 3),
        "history (`run_history`)": lambda: runs.run_history(conn),
        "history, 500 runs": lambda: runs.run_history(conn, limit=500),
        "history of one job": lambda: runs.run_history(conn, 3),
        "history of one run": lambda: runs.run_history(conn, run_id=run_id),
        "dashboard (`take_snapshot`)": lambda: monitoring.take_snapshot(conn),
        CONNECTING: lambda: monitoring.read_ledger(settings),
        "API: 50 runs (`read_runs`)": lambda: monitoring.read_runs(conn),
        "API: 50 runs of a job": lambda: monitoring.read_runs(conn, job_id=3),
        "API: 50 failed runs": lambda: monitoring.read_runs(conn, status="failed"),
        "API: one run": lambda: monitoring.read_run(conn, run_id),
        "API: why records were rejected": lambda: monitoring.rejection_reasons(conn, newest),
        "plan: patients": plan("patients"),
        "plan: study_arms (a fan-out over studies)": plan("study_arms"),
        "plan: subjects": plan("subjects"),
        LARGE_PLAN: plan("patient_allergies"),
        SCRAPE: lambda: render_metrics(settings, version="0"),
    }


def measure(conn: Connection, settings: Settings) -> dict[str, tuple[float, float]]:
    """The median and the fastest time of each case, in milliseconds, after one that warms up."""
    found = {}
    for name, call in cases(conn, settings).items():
        spent = []
        for _ in range(ROUNDS + 1):
            began = time.perf_counter()
            call()
            spent.append(1000 * (time.perf_counter() - began))
        found[name] = (statistics.median(spent[1:]), min(spent[1:]))
    return found


class Explaining(ClientCursor[Any]):
    """Prints the plan of every statement that takes long."""

    def execute(self, query: Any, params: Any = None, **options: Any) -> Explaining:
        """Execute, and explain what took more than a fifth of the limit."""
        text = f"explain (analyze, costs off, timing off, buffers off) {self.mogrify(query, params)}"
        began = time.perf_counter()
        super().execute(query, params, **options)
        spent = 1000 * (time.perf_counter() - began)
        if spent > LIMIT_MS / 5:
            plan = Cursor(self.connection).execute(text.encode()).fetchall()
            print(f"{spent:.0f} ms", *(line for (line,) in plan), sep="\n")
        return self


def explain(settings: Settings, url: str) -> None:
    """Print the plans of what is slow."""
    with connect(url, autocommit=True, name="trialsync-benchmark") as conn:
        conn.cursor_factory = Explaining
        for name, call in cases(conn, settings).items():
            print(f"\n## {name}")
            if name in GOLD:
                conn.execute(f"select * from {name}".encode())
            else:
                call()


def run(url: str, home: Path, given: argparse.Namespace) -> int:
    """Fill the database behind the URL and measure."""
    settings = load_settings(dotenv=None, database_url=url, work_dir=home / "work")
    with connect(url, autocommit=True, name="trialsync-benchmark") as conn:
        migrate(conn)
        conn.execute(
            "insert into dw_api_credentials (id, instance_name, base_url) values (1, 'default', 'https://ccs.example.com')"
            " on conflict do nothing"
        )
        began = time.perf_counter()
        staged = stage(conn, given.scale)
        filled = time.perf_counter()
        broken = [f"{result.procedure}: {result.error}" for result in transform(url) if result.status != "success"]
        if broken:
            sys.exit("\n".join(broken))
        built = time.perf_counter()
        fill_ledger(conn, given.runs)
        found = measure(conn, settings)
        print(
            f"Scale {given.scale:g}: {staged:,} rows staged by COPY in {filled - began:.0f} s, silver and gold built "
            f"in {built - filled:.0f} s; {given.runs:,} runs in the ledger; {ROUNDS} rounds.\n"
        )
        print("| query | median, ms | fastest, ms |\n|---|---:|---:|")
        for name, (median, fastest) in sorted(found.items(), key=lambda pair: -pair[1][0]):
            print(f"| {name} | {median:.1f} | {fastest:.1f} |")
        if given.explain:
            explain(settings, url)
    return int(any(median > LIMIT_MS for name, (median, _) in found.items() if name not in NOT_HELD))


def main() -> int:
    """Measure in a server of its own, or in the empty database of --url."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=0.2)
    parser.add_argument("--runs", type=int, default=50_000)
    parser.add_argument("--explain", action="store_true", help="print the plans of slow statements")
    parser.add_argument("--url", help="an empty database; otherwise a server is started and removed again")
    parser.add_argument("--postgres", default="18", help="version of that server")
    given = parser.parse_args()
    with database(given.url, version=given.postgres) as (url, home):
        return run(url, home, given)


if __name__ == "__main__":
    sys.exit(main())
