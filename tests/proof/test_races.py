"""Two of everything at once: processes on one job, instances in one database, a process that is taken for dead."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg

from clinical_conductor.context import JobResult
from clinical_conductor.simulator import Simulator
from clinical_conductor.simulator.api import Request
from tests.fixtures.pipeline import KEY, Pipeline

NAMES = ("studies", "patient_visits", "study_arms")


def at_once(*works: Callable[[], Any]) -> list[Any]:
    """What these return when they run at the same time."""
    results: list[Any] = [None] * len(works)

    def do(number: int) -> None:
        results[number] = works[number]()

    threads = [threading.Thread(target=do, args=(number,)) for number in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_two_runs_of_one_job_never_overlap(database: str, simulator: Simulator, tmp_path: Path) -> None:
    one = Pipeline(database, simulator, tmp_path, changes={"batch_size": 20})
    other = replace(one, home=tmp_path / "other")
    one.one("sites")
    simulator.fault("latency", resource="patient_visits", seconds=0.1)
    for _ in range(2):
        simulator.advance(1, 0.2)
        results: list[dict[str, JobResult]] = at_once(
            lambda: one.run(*NAMES, allow_mass_delete=True), lambda: other.run(*NAMES, allow_mass_delete=True)
        )
        kinds = {(r.status, r.error_type) for result in results for r in result.values()}
        assert kinds <= {("success", None), ("failed", "JobLocked"), ("skipped", "DependencyFailed")}, kinds
        visits = [result["patient_visits"] for result in results]
        assert {r.error_type for r in visits} == {None, "JobLocked"}
        assert one.unsound() == []
    one.run(*NAMES, full_refresh=True, allow_mass_delete=True)
    assert one.differences(*NAMES) == {}


def test_two_instances_at_once_stay_apart(
    database: str, simulator: Simulator, simulator_factory: Callable[..., Simulator], tmp_path: Path
) -> None:
    west = simulator_factory(seed=5, ids="guid")
    one = Pipeline(database, simulator, tmp_path)
    other = Pipeline(database, west, tmp_path, "west")
    one.one("sites")
    one.query(
        "insert into dw_api_credentials (instance_name, base_url, api_key) values ('west', %s, %s) returning 1",
        west.base_url,
        KEY,
    )
    for _ in range(2):
        results = at_once(lambda: one.run(*NAMES), lambda: other.run(*NAMES))
        assert {r.error for result in results for r in result.values()} == {None}
        assert (one.differences(*NAMES), other.differences(*NAMES)) == ({}, {})
        simulator.advance(1, 0.05)
        west.advance(1, 0.05)


def test_a_run_that_was_taken_for_dead_commits_nothing_more(
    database: str, simulator: Simulator, tmp_path: Path
) -> None:
    """Its session is gone, another process has taken the lock and done the job; then it wakes up."""
    late = Pipeline(database, simulator, tmp_path, changes={"batch_size": 20})
    early = replace(late, home=tmp_path / "other")
    late.one("sites")
    done: list[JobResult] = []

    def overtake(request: Request) -> None:
        if "patient-visits" in request.path and not done:
            done.append(JobResult(0, ""))
            with psycopg.connect(database, autocommit=True) as conn:
                conn.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where application_name = 'trialsync patient_visits' and datname = current_database()"
                )
            done.append(early.one("patient_visits"))

    simulator.on_request(overtake)
    result = late.one("patient_visits")
    assert done[1].status == "success"
    assert (result.status, result.error_type, result.inserted) == ("failed", "RunFenced", 0)
    assert late.differences("patient_visits") == {}
    assert late.unsound() == []
    runs = late.query("select run_status, error_type from dw_etl_runs where job_id = 9 order by id")
    assert runs == [("failed", "Killed"), ("success", None)]
