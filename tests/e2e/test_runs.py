"""Runs as a user starts them: a process, the simulator over HTTP, a real PostgreSQL; exit codes and what is left."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
import requests

from clinical_conductor.catalog import ENDPOINTS
from tests.e2e.conftest import CommandLine
from tests.fixtures.processes import wait_for

KEYS = {
    "job_id",
    "resource",
    "run_id",
    "status",
    "records_read",
    "inserted",
    "updated",
    "unchanged",
    "rejected",
    "deleted",
    "requests",
    "duration_seconds",
    "parents_failed",
    "error",
}

RUNNING = "select id from dw_etl_runs where run_status = 'running'"
Configured = Callable[..., CommandLine]


def query(url: str, statement: str) -> list[tuple[Any, ...]]:
    """The rows of a statement."""
    with psycopg.connect(url) as conn:
        return conn.execute(statement).fetchall()


def staged(url: str, table: str) -> list[tuple[str, str]]:
    """Parent and record of every staged row, as PostgreSQL writes JSON; sorted."""
    return sorted(query(url, f"select parent_source_id, data::text from {table}"))


def truth(simulator: Any, url: str, resource: str) -> list[tuple[str, str]]:
    """What the simulator serves, written the same way."""
    served = [(parent, bytes(record).decode()) for parent, record in simulator.truth(resource)]
    parents, records = [parent for parent, _ in served], [record for _, record in served]
    statement = "select p, r::jsonb::text from unnest(%s::text[], %s::text[]) as t (p, r)"
    with psycopg.connect(url) as conn:
        return sorted(conn.execute(statement, (parents, records)).fetchall())


@pytest.fixture
def nobody_listens() -> Iterator[int]:
    """A port of this machine that refuses connections."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


def test_a_run_stages_what_is_served_and_the_next_one_writes_nothing(
    simulator: Any, empty_database: str, configured: Configured
) -> None:
    etl = configured(simulator, empty_database)
    first = etl.results("--resources", "studies")
    assert set(first) == {"studies"}
    job = first["studies"]
    assert set(job) >= KEYS
    assert (job["status"], job["error"], job["parents_failed"]) == ("success", None, 0)
    assert isinstance(job["duration_seconds"], float)
    expected = truth(simulator, empty_database, "studies")
    assert job["inserted"] == job["records_read"] == len(expected) > 0
    assert staged(empty_database, "dim_studies_staging") == expected

    before = query(empty_database, "select id, xmin::text, loaded_at, updated_at from dim_studies_staging order by id")
    again = etl.results("--job-id", "2")["studies"]
    assert (again["inserted"], again["updated"], again["deleted"]) == (0, 0, 0)
    assert again["unchanged"] == len(expected)
    assert before == query(
        empty_database, "select id, xmin::text, loaded_at, updated_at from dim_studies_staging order by id"
    )

    shown = etl("status", "--job-id", "2")
    assert "success" in shown.stdout
    rows = json.loads(etl("history", "--json").stdout)
    assert [row["run_id"] for row in rows] == [again["run_id"], job["run_id"]]
    retried = etl("retry", "--run-id", str(job["run_id"]))
    assert retried.returncode == 0
    assert query(empty_database, "select retry_of_run_id from dw_etl_runs order by id desc limit 1") == [
        (job["run_id"],)
    ]


def test_the_summary_is_for_people_and_stays_off_the_progress_bar(
    simulator: Any, empty_database: str, configured: Configured
) -> None:
    done = configured(simulator, empty_database)("run", "--resources", "sites,studies")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert max(map(len, lines[:3])) <= 80
    assert [line.split()[1:3] for line in lines[1:3]] == [["sites", "success"], ["studies", "success"]]
    assert lines[-2].startswith("2 jobs: 2 success")
    assert lines[-1].startswith("Silver and gold: ")
    assert "\x1b[" not in done.stdout + done.stderr


def test_a_child_asked_for_alone_brings_its_parent_and_reports_only_itself(
    simulator: Any, empty_database: str, configured: Configured
) -> None:
    results = configured(simulator, empty_database).results("--resources", "study_arms")
    assert set(results) == {"study_arms"}
    assert staged(empty_database, "dim_study_arms_staging") == truth(simulator, empty_database, "study_arms")
    assert staged(empty_database, "dim_studies_staging") == truth(simulator, empty_database, "studies")


def test_a_wrong_key_fails_the_jobs_with_1_and_the_key_stays_secret(
    simulator: Any, empty_database: str, configured: Configured
) -> None:
    etl = configured(simulator, empty_database, CC_API_KEY="wrong-key-4711", LOG_LEVEL="DEBUG")
    results = etl.results("--resources", "sites,studies", code=1)
    assert {job["status"] for job in results.values()} == {"failed"}
    assert all("401" in job["error"] or "key" in job["error"] for job in results.values())
    done = etl("run", "--resources", "sites")
    assert "failed" in done.stdout
    left = str(query(empty_database, "select run::text from dw_etl_runs as run")) + json.dumps(results)
    assert "4711" not in done.stdout + done.stderr + left


def test_a_database_out_of_reach_is_1_with_every_job_failed(
    simulator: Any, configured: Configured, nobody_listens: int
) -> None:
    etl = configured(simulator, f"postgresql://etl:hunter2@127.0.0.1:{nobody_listens}/trialsync")
    results = etl.results("--category", "instance", code=1)
    assert set(results) == {"instance_details", "instance_topology"}
    for job in results.values():
        assert set(job) >= KEYS
        assert job["status"] == "failed"
        assert "cannot be reached" in job["error"]
    done = etl("run")
    assert done.returncode == 1
    assert done.stdout.count(" failed ") >= 74
    assert "Traceback" not in done.stderr
    assert "hunter2" not in done.stdout + done.stderr


def test_wrong_commands_and_settings_are_2_and_touch_nothing(
    simulator: Any, empty_database: str, configured: Configured
) -> None:
    etl = configured(simulator, empty_database)
    for args, message in (
        (["--resources", "studis"], "Did you mean 'studies'?"),
        (["--job-id", "30"], "Job 30 (monitor_queries) is switched off: answers 501 on CCS"),
        (["--resources", "studies", "--results", "no/such/place.json"], "cannot be written"),
        (["--parallel", "many"], "--parallel"),
    ):
        done = etl("run", *args)
        assert done.returncode == 2, done.stderr
        assert message in " ".join(done.stderr.split())
    assert etl("run", "--resources", "studies", ETL_BATCH_SIZE="5000").returncode == 2
    missing = etl("run", "--resources", "studies", CC_API_BASE_URL="")
    assert missing.returncode == 2
    assert "CC_API_BASE_URL is not set" in missing.stderr
    assert simulator.log == []


def test_a_missing_base_url_is_2_before_a_database_is_made(etl: CommandLine) -> None:
    done = etl("run")
    assert done.returncode == 2
    assert "CC_API_BASE_URL is not set" in done.stderr
    assert list(etl.cwd.iterdir()) == []


def test_a_dry_run_says_what_it_would_request_and_writes_nothing_anywhere(
    simulator: Any, empty_database: str, configured: Configured
) -> None:
    etl = configured(simulator, empty_database)
    results = etl.cwd / "results.json"
    for url in (empty_database, ""):
        done = etl("run", "--dry-run", "--results", str(results), DATABASE_URL=url)
        assert done.returncode == 0, done.stderr
        for row in ENDPOINTS.values():
            assert (row.path in done.stdout) or not row.active
    assert not results.exists()
    assert list(etl.cwd.iterdir()) == []
    assert simulator.log == []
    assert query(empty_database, "select count(*) from pg_class where relnamespace = 'public'::regnamespace") == [(0,)]


def test_a_dry_run_on_a_filled_database_counts_what_is_owed(
    simulator: Any, empty_database: str, configured: Configured
) -> None:
    etl = configured(simulator, empty_database)
    studies = etl.results("--resources", "studies")["studies"]["records_read"]
    before = query(empty_database, "select max(id), count(*) from dw_etl_runs")
    (plan,) = json.loads(etl("plan", "--resources", "study_arms", "--json").stdout)
    assert (plan["parents_owed"], plan["requests"]) == (studies, studies)
    assert query(empty_database, "select max(id), count(*) from dw_etl_runs") == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_ended_in_the_middle_is_made_good_by_the_next_one(
    number: signal.Signals, simulator_factory: Any, empty_database: str, configured: Configured
) -> None:
    jobs = "studies,study_arms,study_roles"
    slow = simulator_factory(scale=0.02)
    # Long enough for the signal to arrive while children are asked for, also on a busy machine.
    slow.on_request(lambda request: time.sleep(0.5 if request.path.endswith(("/arms", "/roles")) else 0.0))
    etl = configured(slow, empty_database, ETL_PARALLEL_JOBS="2")
    process = etl.start("run", "--resources", jobs, "--results", str(etl.cwd / "results.json"))
    wait_for(lambda: any(entry.path.endswith("/arms") for entry in slow.log))
    began = time.monotonic()
    process.send_signal(number)
    process.communicate(timeout=20)
    if number is signal.SIGTERM:
        assert time.monotonic() - began < 10
        assert process.returncode == 1
        entries = json.loads((etl.cwd / "results.json").read_text())["jobs"]
        assert {job["status"] for job in entries} >= {"success", "failed"}
        assert query(empty_database, RUNNING) == []
    else:
        assert query(empty_database, RUNNING) != []
    quick = simulator_factory(scale=0.02)
    etl.settings["CC_API_BASE_URL"] = quick.base_url
    results = etl.results("--resources", jobs)
    assert {job["status"] for job in results.values()} == {"success"}
    for resource in jobs.split(","):
        assert staged(empty_database, ENDPOINTS[resource].table) == truth(quick, empty_database, resource)
    assert query(empty_database, RUNNING) == []
    assert query(empty_database, "select distinct error_type from dw_etl_runs where run_status = 'failed'") != []


def test_simulate_serves_until_it_is_told_to_stop(etl: CommandLine) -> None:
    process = etl.start("simulate", "--port", "0", "--scale", "0.0001", "--envelope", "value")
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    answer = requests.get(f"{url}/api/v1/rooms/odata", headers={"X-ApiKey": "demo-key"}, timeout=10)
    assert len(answer.json()["value"]) > 0
    assert requests.get(f"{url}/api/v1/rooms/odata", timeout=10).status_code == 401
    process.send_signal(signal.SIGTERM)
    _, shown = process.communicate(timeout=10)
    assert process.returncode == 0
    assert f"export CC_API_BASE_URL={url} CC_API_KEY=demo-key" in shown
    assert etl("simulate", "--envelope", "paper").returncode == 2


def test_db_migrate_says_what_it_did_and_url_prints_nothing_else(etl: CommandLine, empty_database: str) -> None:
    etl.settings = {"DATABASE_URL": empty_database}
    assert etl("db", "url").stdout == f"{empty_database}\n"
    first = etl("db", "migrate")
    assert first.returncode == 0
    assert "0001_control" in first.stdout.splitlines()
    again = etl("db", "migrate")
    assert (again.stdout, again.stderr) == ("", "The schema is up to date.\n")
    assert etl("db", "stop").returncode == 2
    assert "No job has run yet" in etl("status").stderr
    assert etl("retry", "--failed").returncode == 0
    assert etl("retry", "--run-id", "7").returncode == 2
    assert etl("retry", "--run-id", "0").returncode == 2


def test_a_retry_takes_along_what_was_skipped_because_of_it(
    simulator: Any, empty_database: str, configured: Configured
) -> None:
    etl = configured(simulator, empty_database, ETL_MAX_RETRIES="0")
    names = "studies,study_arms,visits,visit_elements_by_study"
    for how in ("--run-id", "--failed"):
        simulator.fault("error", resource="studies")
        struck = etl.results("--resources", names, "--no-transform", code=1)
        simulator.faults.clear(simulator.api)
        assert {name: job["status"] for name, job in struck.items()} == {
            "studies": "failed",
            "study_arms": "skipped",
            "visits": "skipped",
            "visit_elements_by_study": "skipped",
        }
        which = (how, str(struck["studies"]["run_id"])) if how == "--run-id" else (how,)
        assert etl("retry", *which, "--no-transform").returncode == 0
        latest = (
            "select run_status, count(*) from (select distinct on (job_id) * from dw_etl_runs order by job_id, id desc)"
        )
        assert query(empty_database, f"{latest} as newest group by 1") == [("success", 4)]
    assert staged(empty_database, "dim_study_arms_staging") == truth(simulator, empty_database, "study_arms")
    # What a budget left is not a failure.
    etl.results("--resources", "study_arms,visit_elements_by_study", "--full-refresh", "--max-requests", "1")
    assert "No job's latest run failed." in etl("retry", "--failed").stderr


def test_each_instance_has_its_own_latest_run(simulator: Any, empty_database: str, configured: Configured) -> None:
    etl = configured(simulator, empty_database, ETL_MAX_RETRIES="0")
    simulator.fault("error", resource="sites")
    etl.results("--resources", "sites", code=1)
    simulator.faults.clear(simulator.api)
    query(
        empty_database,
        "insert into dw_api_credentials (instance_name, base_url, api_key, is_active)"
        f" values ('west', '{simulator.base_url}', 'env:CC_API_KEY', true) returning id",
    )
    etl.results("--resources", "sites", "--instance", "west")
    rows = json.loads(etl("status", "--job-id", "1", "--json").stdout)
    assert [(row["instance_name"], row["run_status"]) for row in rows] == [("default", "failed"), ("west", "success")]
    assert "instance" in etl("status", "--job-id", "1").stdout.splitlines()[0]
    assert etl("retry", "--failed", "--instance", "west").stderr.endswith("No job's latest run failed.\n")
    assert etl("retry", "--failed").returncode == 0
    rows = json.loads(etl("status", "--job-id", "1", "--json").stdout)
    assert {row["run_status"] for row in rows} == {"success"}
