"""A simulated month: what a nightly budget of requests holds, and how old the oldest child becomes.

    python -m benchmarks.month [--scale 0.05] [--nights 30] [--budget 0.05]

Every night one per cent of all records changes (half of the children's changes touch their parent), records appear and
vanish, and one run may make so many requests as a share of a full fan-out says. Listings have to be equal to the
simulator's truth every morning; everything has to be after a last run without a budget. Time is moved by taking a
day off what the ledger remembers. Prints a Markdown table for docs/benchmarks.md; ends with 1 if anything differs that
must not.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from clinical_conductor.catalog import ENDPOINTS
from clinical_conductor.context import JobResult, RunOptions
from clinical_conductor.database import connect, database_url, stop_embedded
from clinical_conductor.logs import configure_logging
from clinical_conductor.migrations import migrate
from clinical_conductor.orchestrator import run_jobs
from clinical_conductor.settings import Settings, load_settings
from clinical_conductor.simulator import SimulatorProcess

LISTINGS = ("sites", "studies", "patients", "staff", "rooms", "elements", "subjects", "visits", "subject_statuses")
"""Read by listings of their own, children through their bulk routes."""
CHILDREN = ("study_arms", "study_documents", "patient_devices", "patient_allergies", "patient_conditions")
"""Fan-outs: a request for every study, or for every patient."""


class Month:
    """One simulator, one database, and what the nights came to."""

    def __init__(self, simulator: SimulatorProcess, settings: Settings) -> None:
        self.simulator = simulator
        self.settings = settings
        self.url = database_url(settings)

    def run(self, **options: Any) -> dict[str, JobResult]:
        """One run of all jobs."""
        chosen = [ENDPOINTS[name] for name in (*LISTINGS, *CHILDREN)]
        return {result.resource: result for result in run_jobs(self.settings, chosen, RunOptions(**options))}

    def pass_a_day(self) -> None:
        """The source lives through a day, and the ledger's memories are a day older."""
        self.simulator.advance(1, 0.01)
        with connect(self.url, autocommit=True) as conn:
            conn.execute("update dw_etl_parents set fetched_at = fetched_at - interval '1 day'")
            conn.execute("update dw_etl_watermarks set full_read_at = full_read_at - interval '1 day'")
            conn.execute("update dw_etl_runs set started_at = started_at - interval '1 day'")

    def difference(self, resource: str) -> int:
        """How many records staging and the source do not have in common."""
        truth = list(self.simulator.truth(resource))
        with connect(self.url, autocommit=True) as conn:
            row = conn.execute(
                f"""
                with staged as (select parent_source_id as parent, data::text as data from {ENDPOINTS[resource].table}),
                truth as (select p as parent, r::jsonb::text as data from unnest(%s::text[], %s::text[]) as t (p, r))
                select count(*) from (
                    (select * from truth except all select * from staged)
                    union all (select * from staged except all select * from truth)
                ) as d
                """.encode(),
                ([parent for parent, _ in truth], [record.decode() for _, record in truth]),
            ).fetchone()
        return 0 if row is None else int(row[0])

    def stalest(self) -> float:
        """Age in days of the parent whose children were asked for longest ago."""
        with connect(self.url, autocommit=True) as conn:
            row = conn.execute(
                "select extract(epoch from now() - min(fetched_at)) / 86400 from dw_etl_parents where job_id = any(%s)",
                ([ENDPOINTS[name].job_id for name in CHILDREN],),
            ).fetchone()
        return 0.0 if row is None else float(row[0] or 0)


def main() -> int:
    """Live through the month and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=0.05)
    parser.add_argument("--nights", type=int, default=30)
    parser.add_argument("--budget", type=float, default=0.05, help="share of a full fan-out's requests, per night")
    given = parser.parse_args()
    began = time.monotonic()
    wrong: list[str] = []
    with ExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory(prefix="trialsync-month-"))
        simulator = stack.enter_context(SimulatorProcess(given.scale))
        settings = replace(
            load_settings(work_dir=Path(home) / ".trialsync"),
            api_base_url=simulator.base_url,
            api_key=simulator.api_key,
            api_rate_limit=0.0,
            log_level="ERROR",
        )
        configure_logging(settings)
        stack.callback(stop_embedded, settings)
        with connect(database_url(settings), autocommit=True) as conn:
            migrate(conn)
        month = Month(simulator, settings)
        first = month.run()
        full = sum(first[name].requests for name in CHILDREN)
        budget = round(full * given.budget) + sum(first[name].requests for name in LISTINGS)
        print(
            f"Scale {given.scale:g}: the first run took {sum(r.requests for r in first.values()):,} requests, "
            f"{full:,} of them for children. Budget per night: {budget:,}.\n"
        )
        print("| night | requests | parents owed | stalest child, days | listings that differ | children that differ |")
        print("|---:|---:|---:|---:|---:|---:|")
        for night in range(1, given.nights + 1):
            month.pass_a_day()
            results = month.run(max_requests=budget)
            wrong += [f"night {night}: {r.error}" for r in results.values() if r.status == "failed"]
            differing = [name for name in LISTINGS if month.difference(name)]
            wrong += [f"night {night}: {name} differs" for name in differing]
            children = sum(month.difference(name) for name in CHILDREN)
            requests = sum(result.requests for result in results.values())
            owed = sum(result.parents_owed for result in results.values())
            print(
                f"| {night} | {requests:,} | {owed:,} | {month.stalest():.0f} | {len(differing)} | {children:,} |",
                flush=True,
            )
        month.run(full_refresh=True, allow_mass_delete=True)
        left = {name: count for name in (*LISTINGS, *CHILDREN) if (count := month.difference(name))}
        wrong += [f"after the last run: {name} differs by {count}" for name, count in left.items()]
        print(f"\nAfter a last run without a budget {'nothing differs' if not left else 'something differs'}.")
        print(f"{(time.monotonic() - began) / 60:.1f} minutes in all.")
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
