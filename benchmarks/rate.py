"""The pace as the server sees it, and the records a day it comes to: `python -m benchmarks.rate`.

A listing twice, everything new and then nothing, and a fan-out, each at CC_API_RATE_LIMIT over so many seconds after
the first. Every answer to the fan-out takes 200 ms longer, as it may in life; a listing asks for a page when it has the
one before, so it gets them as fast as the simulator makes them. Held to 2 % of the rate over the window, a first load
to four fifths of it, since it waits for PostgreSQL now and then; and all to a fifth above it in any one second.
"""

from __future__ import annotations

import argparse
import sys
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace

from benchmarks.sides import ground
from benchmarks.table import Row, end, say
from clinical_conductor.catalog import ENDPOINTS
from clinical_conductor.context import RunOptions
from clinical_conductor.logs import configure_logging
from clinical_conductor.orchestrator import run_jobs
from clinical_conductor.settings import load_settings

CHILDREN = "patient_medications"
PAGE = 1000
DAY = 86_400
WANTED_A_DAY = 1_000_000
"""Records a day that the system was asked to move."""
EVEN, FIRST_LOAD = 0.98, 0.8
"""Share of the rate that has to be used."""


def rows(seconds: float = 20.0, rate: float = 10.0, latency: float = 0.2) -> list[Row]:
    """Run at the rate and look into the server's log."""
    needed = round(rate * (seconds + 3))
    found = []
    with ExitStack() as stack:
        place = stack.enter_context(ground(needed * (PAGE - 1)))
        settings = replace(
            load_settings(dotenv=None, work_dir=place.home / "work", database_url=place.url),
            api_base_url=place.simulator.base_url,
            api_key=place.simulator.api_key,
            api_rate_limit=rate,
            batch_size=PAGE,
            log_level="ERROR",
        )
        configure_logging(settings)
        for what, resource, least in (
            ("first load of a listing", "patients", FIRST_LOAD),
            ("unchanged listing", "patients", EVEN),
            ("first pass of a fan-out", CHILDREN, EVEN),
        ):
            place.simulator.clear()
            if resource == CHILDREN:
                place.simulator.fault("latency", seconds=latency)
            (job,) = run_jobs(settings, [ENDPOINTS[resource]], RunOptions(max_requests=needed))
            if job.status != "success":
                raise RuntimeError(f"{resource}: {job.error}")
            times = sorted(at for at, *_ in place.simulator.log())
            found.append(row(what, times, seconds, rate, least, job.records_read / job.requests))
            say(f"{found[-1].what}: {found[-1].remark}")
    return found


def row(what: str, times: Sequence[float], seconds: float, rate: float, least: float, each: float) -> Row:
    """The records a day that requests at these times come to, with so many records `each`."""
    start = times[0] + 1.0
    pace = sum(start <= at < start + seconds for at in times) / seconds
    most = max(bisect_left(times, at + 1.0) - number for number, at in enumerate(times))
    a_day = pace * each * DAY
    return Row(
        f"records a day at {rate:g} requests/s, {what}",
        f"{a_day / 1e6:,.{0 if a_day > 1e8 else 1}f} million",
        limit=f"≥ {WANTED_A_DAY / 1e6:g} million; {least * rate:.3g} to {1.02 * rate:.3g} requests/s",
        met=a_day >= WANTED_A_DAY and least * rate <= pace <= 1.02 * rate and most <= 1.2 * rate,
        remark=f"{pace:.2f} requests/s, at most {most} in any second; {each:,.{0 if each > 10 else 1}f} records each",
    )


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--latency", type=float, default=0.2)
    given = parser.parse_args()
    return end(rows(given.seconds, given.rate, given.latency))


if __name__ == "__main__":
    sys.exit(main())
