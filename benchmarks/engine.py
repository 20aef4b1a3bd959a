"""Initial load, unchanged re-read and one per cent changed, against a hand-written COPY + upsert of the same bytes.

    python benchmarks/engine.py [--records 200000] [--rounds 1]

Both sides read patients over HTTP from one simulator in a process of its own and write to one PostgreSQL (the embedded
one, or DATABASE_URL), in turns. The hand-written side is what a careful engineer writes in an afternoon: requests, JSON
decode for the key, COPY into a temporary jsonb table, INSERT .. ON CONFLICT DO UPDATE, commit per 50,000 rows. Process
start is not counted on either side; peak memory is that of a fresh process for each side.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psycopg
import requests

from clinical_conductor.catalog import find_endpoint
from clinical_conductor.database import connect, database_url, migrate
from clinical_conductor.settings import Settings, load_settings
from clinical_conductor.simulator import SimulatorProcess

KEY = "benchmark-key"
PATIENTS_AT_SCALE_1 = 152_751


def by_hand(settings: Settings) -> dict[str, Any]:
    """The hand-written side: every record is sent to PostgreSQL and compared there by nobody."""
    session = requests.Session()
    session.headers["X-ApiKey"] = settings.api_key
    rows = skip = 0
    with psycopg.connect(database_url(settings)) as conn:
        conn.execute(
            "create table if not exists by_hand (id serial, data jsonb not null, "
            "source_id varchar(255) not null unique, loaded_at timestamp default now(), "
            "updated_at timestamp default now())"
        )
        conn.commit()
        started = time.monotonic()
        pending: list[tuple[str, str]] = []

        def flush() -> None:
            conn.execute("create temporary table incoming (source_id text, data jsonb) on commit drop")
            with conn.cursor().copy("copy incoming from stdin") as copy:
                for row in pending:
                    copy.write_row(row)
            conn.execute(
                "insert into by_hand (source_id, data) select source_id, data from incoming "
                "on conflict (source_id) do update set data = excluded.data, loaded_at = now(), updated_at = now()"
            )
            conn.commit()
            pending.clear()

        while True:
            url = f"{settings.api_base_url}/api/v1/patients/odata?$top=1000&$skip={skip}&$orderby=id"
            page = session.get(url, timeout=60).json()
            if not page:
                break
            pending += [(str(record["id"]), json.dumps(record)) for record in page]
            rows += len(page)
            skip += len(page)
            if len(pending) >= 50_000:
                flush()
        if pending:
            flush()
        return {"seconds": time.monotonic() - started, "rows": rows}


def by_trialsync(settings: Settings) -> dict[str, Any]:
    """Our side: the job as the command line runs it."""
    import dlt  # noqa: F401 (process start is not counted)

    from clinical_conductor.orchestrator import run_jobs

    started = time.monotonic()
    job = run_jobs(settings, [find_endpoint("patients")])[0]
    if job.status != "success":
        raise SystemExit(job.error)
    return {"seconds": time.monotonic() - started, "rows": job.records_read, "written": job.inserted + job.updated}


def measure(side: str, base_url: str, url: str) -> dict[str, Any]:
    """One side in a process of its own: seconds of work and peak memory in MB."""
    with tempfile.TemporaryDirectory() as home:
        environment = {
            **os.environ,
            "CC_API_BASE_URL": base_url,
            "CC_API_KEY": KEY,
            "CC_API_RATE_LIMIT": "0",
            "DATABASE_URL": url,
            "TRIALSYNC_HOME": home,
            "LOG_LEVEL": "ERROR",
        }
        done = subprocess.run(
            [sys.executable, __file__, "--side", side], env=environment, capture_output=True, text=True, check=False
        )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    """Runs the rounds and prints a table of ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=200_000)
    parser.add_argument("--side", choices=("by_hand", "by_trialsync"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.side:
        figures = {"by_hand": by_hand, "by_trialsync": by_trialsync}[chosen.side](load_settings(dotenv=None))
        figures["megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(figures))
        return
    settings = load_settings(work_dir=Path(tempfile.gettempdir()) / "trialsync-benchmark")
    url = database_url(settings)
    with connect(url, autocommit=True) as conn:
        migrate(conn)
        conn.execute("truncate dim_patients_staging")
        conn.execute("drop table if exists by_hand")
    table: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
    with SimulatorProcess(scale=chosen.records / PATIENTS_AT_SCALE_1, seed=1, api_key=KEY) as simulator:
        for what in ("initial load", "unchanged re-read", "1 % changed"):
            if what == "1 % changed":
                simulator.advance(days=1, change=0.01)
            hand = measure("by_hand", simulator.base_url, url)
            ours = measure("by_trialsync", simulator.base_url, url)
            table.append((what, hand, ours))
    print(f"| {chosen.records:,} patients over HTTP | by hand, s | TrialSync, s | ratio | TrialSync, peak MB |")
    print("|---|---|---|---|---|")
    for what, hand, ours in table:
        ratio = ours["seconds"] / hand["seconds"]
        print(f"| {what} | {hand['seconds']:.1f} | {ours['seconds']:.1f} | {ratio:.2f} | {ours['megabytes']:.0f} |")


if __name__ == "__main__":
    main()
