"""Both sides on common ground: one PostgreSQL, one simulator over HTTP, and a process of its own for whoever works.

    python -m benchmarks.sides by_hand|by_trialsync RESOURCE

is such a process; it prints seconds, rows, requests and its own peak memory as JSON. The settings come by the
environment. What it takes to start a process is not counted on either side.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clinical_conductor.catalog import ENDPOINTS
from clinical_conductor.database import connect
from clinical_conductor.embedded import EmbeddedServer
from clinical_conductor.migrations import migrate
from clinical_conductor.settings import Settings, load_settings
from clinical_conductor.simulator import SimulatorProcess

PATIENTS_AT_SCALE_1 = 152_751
ROOT = Path(__file__).parents[1]


@contextmanager
def database(
    url: str | None = None, *, version: str = "18", options: Mapping[str, str] | None = None
) -> Iterator[tuple[str, Path]]:
    """The URL of an empty database, given or of a server that is removed again, and a directory to work in."""
    home = Path(tempfile.mkdtemp(prefix="trialsync-bench-"))
    home.chmod(0o711)  # started by root, the server runs as another user
    server = None if url else EmbeddedServer(home / "postgres", version, options or {})
    try:
        yield url or (server.start() if server else ""), home
    finally:
        if server:
            server.stop()
        shutil.rmtree(home)


@dataclass(frozen=True)
class Ground:
    """One simulator and one migrated database."""

    simulator: SimulatorProcess
    url: str
    home: Path

    def measure(self, side: str, name: str) -> dict[str, Any]:
        """What one side takes for one resource.

        Raises:
            RuntimeError: it failed; with the last it said.
        """
        environment = {
            **os.environ,
            "CC_API_BASE_URL": self.simulator.base_url,
            "CC_API_KEY": self.simulator.api_key,
            "CC_API_RATE_LIMIT": "0",
            "DATABASE_URL": self.url,
            "TRIALSYNC_HOME": str(self.home / "work"),
            "LOG_LEVEL": "ERROR",
        }
        command = [sys.executable, "-m", "benchmarks.sides", side, name]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{side} {name}: {done.stderr[-2000:]}")
        figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return figures


@contextmanager
def ground(patients: int) -> Iterator[Ground]:
    """A simulator with so many patients, and a database with nothing loaded."""
    with database() as (url, home), SimulatorProcess(patients / PATIENTS_AT_SCALE_1) as simulator:
        with connect(url, autocommit=True) as conn:
            migrate(conn)
        yield Ground(simulator, url, home)


def by_hand(settings: Settings, name: str) -> dict[str, Any]:
    """The hand-written side."""
    from benchmarks.by_hand import load_children, load_listing

    endpoint = ENDPOINTS[name]
    if endpoint.parent is None:
        return load_listing(settings, endpoint)
    return load_children(settings, endpoint, ENDPOINTS[endpoint.parent].table)


def by_trialsync(settings: Settings, name: str) -> dict[str, Any]:
    """Our side: the job as the command line runs it."""
    import dlt  # noqa: F401 (process start is not counted)

    from clinical_conductor.orchestrator import run_jobs

    began = time.monotonic()
    (job,) = run_jobs(settings, [ENDPOINTS[name]])
    if job.status != "success":
        sys.exit(job.error)
    return {"seconds": time.monotonic() - began, "rows": job.records_read, "requests": job.requests}


def peak_megabytes() -> float:
    """This process's peak memory. Linux's getrusage would count the memory of the process that started it, too."""
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    chosen, wanted = sys.argv[1:]
    found = {"by_hand": by_hand, "by_trialsync": by_trialsync}[chosen](load_settings(dotenv=None), wanted)
    print(json.dumps({**found, "megabytes": peak_megabytes()}))
