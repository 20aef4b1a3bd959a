"""The pace as the server sees it: a fan-out at 10 requests a second, every answer taking 200 ms.

    python benchmarks/rate.py [--rate 10] [--seconds 30] [--latency 0.2]

Prints requests per second over the window, the most in any one second, and the share of the rate that was used. Ends
with 1 unless the pace is within 2 % of the rate, no second holds more than a fifth above it, and 97 % of it is used.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from bisect import bisect_left
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from clinical_conductor.catalog import ENDPOINTS
from clinical_conductor.context import RunOptions
from clinical_conductor.database import stop_embedded
from clinical_conductor.logs import configure_logging
from clinical_conductor.orchestrator import run_jobs
from clinical_conductor.settings import load_settings
from clinical_conductor.simulator import SimulatorProcess

PATIENTS_AT_SCALE_1 = 152_751


def main() -> int:
    """Run the fan-out and look into the server's log."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=10.0)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--latency", type=float, default=0.2)
    given = parser.parse_args()
    needed = round(given.rate * (given.seconds + 3))
    with ExitStack() as stack:
        home = stack.enter_context(tempfile.TemporaryDirectory(prefix="trialsync-rate-"))
        simulator = stack.enter_context(SimulatorProcess((needed + 50) / PATIENTS_AT_SCALE_1))
        settings = replace(
            load_settings(work_dir=Path(home) / ".trialsync"),
            api_base_url=simulator.base_url,
            api_key=simulator.api_key,
            api_rate_limit=0.0,
            log_level="ERROR",
        )
        configure_logging(settings)
        stack.callback(stop_embedded, settings)
        run_jobs(settings, [ENDPOINTS["patients"]])
        simulator.fault("latency", seconds=given.latency)
        paced = replace(settings, api_rate_limit=given.rate)
        (result,) = run_jobs(paced, [ENDPOINTS["patient_devices"]], RunOptions(max_requests=needed))
        times = sorted(at for at, _, path, _, _ in simulator.log() if path.endswith("/devices"))
    start = times[0] + 1.0
    inside = [at for at in times if start <= at < start + given.seconds]
    most = max(bisect_left(times, at + 1.0) - number for number, at in enumerate(times))
    pace = len(inside) / given.seconds
    print(f"{len(times)} requests, {result.parents_failed} failed; over {given.seconds:g} s: {pace:.2f} a second,")
    print(f"at most {most} in any one second; {pace / given.rate:.1%} of the rate used at {given.latency * 1000:g} ms.")
    fine = abs(pace - given.rate) <= 0.02 * given.rate and most <= 1.2 * given.rate and pace >= 0.97 * given.rate
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
