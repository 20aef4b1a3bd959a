"""kill -9 at any moment, run again, and the result is the same as without the kill.

TRIALSYNC_PROOF=nightly kills at 60 moments spread over a run, fan-outs included; else at 3.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from clinical_conductor.simulator import Simulator
from clinical_conductor.simulator.api import Request
from tests.fixtures.pipeline import KEY, Pipeline

NIGHTLY = os.environ.get("TRIALSYNC_PROOF") == "nightly"
MOMENTS = 60 if NIGHTLY else 3
RESOURCES = (
    *("studies", "patients", "patient_visits", "subjects", "visits"),
    *("study_arms", "patient_devices", "visit_elements_by_study"),
)
ROOT = Path(__file__).parents[2]

# Chunks of 20 rows, so that a run commits many times; everything else is what the command line does.
COMMAND = """
import sys
from clinical_conductor import staging
staging.CHUNK_ROWS = 20
from clinical_conductor.cli import main
sys.argv = ["trialsync-etl", *sys.argv[1:]]
main()
"""


class Victim:
    """The command line as a process of its own, killed after its n-th request and a little while."""

    def __init__(self, pipeline: Pipeline, simulator: Simulator) -> None:
        self._pipeline = pipeline
        self._process: subprocess.Popen[bytes] | None = None
        self._moment = (0, 0.0)
        self._seen = 0
        simulator.on_request(self._count)

    def _count(self, request: Request) -> None:
        process, (after, delay) = self._process, self._moment
        self._seen += 1
        if process is not None and self._seen == after:
            if delay:
                threading.Timer(delay, process.kill).start()
            else:
                process.kill()

    def run(self, after: int, delay: float) -> bool:
        """Run to the kill, or to the end if that comes first; whether it was killed."""
        (self._pipeline.home / "jobs.yaml").touch()
        settings = {
            "DATABASE_URL": self._pipeline.url,
            "CC_API_BASE_URL": self._pipeline.upstream.base_url,
            "CC_API_KEY": KEY,
            "CC_API_RATE_LIMIT": "0",
            "ETL_BATCH_SIZE": "30",
            "ETL_PARALLEL_JOBS": "2",
            "TRIALSYNC_HOME": str(self._pipeline.home),
            "TRIALSYNC_JOBS": str(self._pipeline.home / "jobs.yaml"),
            "PYTHONPATH": str(ROOT),
        }
        plain = {name: value for name, value in os.environ.items() if not name.startswith(("CC_", "ETL_", "DATABASE_"))}
        arguments = [
            "run",
            "--no-transform",
            "--full-refresh",
            "--allow-mass-delete",
            "--resources",
            ",".join(RESOURCES),
        ]
        self._seen, self._moment = 0, (after, delay)
        self._process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *arguments],
            cwd=self._pipeline.home,
            env={**plain, **settings},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            return self._process.wait(120) == -signal.SIGKILL
        finally:
            self._process.kill()
            self._process = None


def test_killed_anywhere_and_run_again_staging_equals_the_truth(
    database: str, tmp_path: Path, simulator: Simulator
) -> None:
    pipeline = Pipeline(database, simulator, tmp_path, changes={"batch_size": 30})
    victim = Victim(pipeline, simulator)
    pipeline.run(*RESOURCES)
    place = len(simulator.log)
    pipeline.run(*RESOURCES, full_refresh=True)
    requests = len(simulator.log) - place
    assert requests > 60
    killed = 0
    for number in range(MOMENTS):
        simulator.advance(1, 0.2)
        after = 1 + number * requests // MOMENTS
        killed += victim.run(after, (number % 4) * 0.15)
        if number % 3 == 2:  # killed once more on its way up
            killed += victim.run(max(1, after // 2), 0.0)
        if number % 2:
            shutil.rmtree(tmp_path / "work", ignore_errors=True)
        results = pipeline.run(*RESOURCES, full_refresh=True, allow_mass_delete=True)
        assert {name: r.error for name, r in results.items() if r.status != "success"} == {}, f"killed after {after}"
        assert pipeline.differences(*RESOURCES) == {}, f"killed after {after}"
        assert pipeline.unsound() == []
        assert pipeline.left_over() == []
    assert killed >= MOMENTS
    before = pipeline.written(*RESOURCES)
    results = pipeline.run(*RESOURCES, full_refresh=True)
    assert pipeline.written(*RESOURCES) == before
    landed = pipeline.query(
        "select tablename from pg_tables where schemaname like 'trialsync_landing%%' and tablename like 'dim%%'"
    )
    assert [
        name for (name,) in landed if pipeline.query(f"select 1 from trialsync_landing_{pipeline.instance_id()}.{name}")
    ] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop_it_closes_its_runs_and_ends(
    database: str, tmp_path: Path, simulator: Simulator, number: signal.Signals
) -> None:
    pipeline = Pipeline(database, simulator, tmp_path)
    pipeline.one("studies")
    victim = Victim(pipeline, simulator)
    simulator.fault("latency", seconds=0.2)

    def stop(request: Request) -> None:
        process = victim._process
        if process is not None and victim._seen == 10:
            process.send_signal(number)

    simulator.on_request(stop)
    assert victim.run(10_000, 0.0) is False
    states = {status for (status,) in pipeline.query("select run_status from dw_etl_runs")}
    assert "running" not in states
    assert "failed" in states or "skipped" in states
    assert pipeline.left_over() == []
