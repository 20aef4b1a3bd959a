"""Jobs of listings, from the API to the closed run: on a real PostgreSQL and a simulated API over HTTP."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from clinical_conductor import job, runs, staging
from clinical_conductor.errors import ConfigurationError, DatabaseTrouble, WorkspaceTrouble
from clinical_conductor.landing import Landing
from clinical_conductor.simulator import Simulator
from clinical_conductor.simulator.api import Request
from tests.fixtures.pipeline import LOADED, Pipeline, land_by_copy


def some_id(simulator: Simulator, resource: str, place: int = 0) -> str:
    """The id of one of a resource's records."""
    for number, (_, record) in enumerate(simulator.truth(resource)):
        if number == place:
            return str(json.loads(record)["id"])
    raise AssertionError(resource)


def test_staging_equals_what_is_served_value_for_value(loaded: Pipeline) -> None:
    assert loaded.differences(*LOADED) == {}
    assert all(loaded.count(name) for name in LOADED)
    assert loaded.unsound() == []


def test_the_same_again_writes_nothing(loaded: Pipeline) -> None:
    before = loaded.written(*LOADED)
    results = loaded.run(*LOADED)
    assert {r.status for r in results.values()} == {"success"}
    assert loaded.written(*LOADED) == before
    assert {(r.inserted, r.updated, r.deleted, r.rejected) for r in results.values()} == {(0, 0, 0, 0)}
    assert results["sites"].unchanged == loaded.count("sites")
    assert loaded.left_over() == []


def test_one_change_is_one_update(loaded: Pipeline, simulator: Simulator) -> None:
    before = {row[:2]: row for row in loaded.written("elements", "sites")}
    changed = some_id(simulator, "elements", 3)
    simulator.edit("elements", "", changed, name="Blood draw, 15.00 ml")
    results = loaded.run("elements", "sites")
    assert (results["elements"].updated, results["elements"].inserted, results["elements"].deleted) == (1, 0, 0)
    after = {row[:2]: row for row in loaded.written("elements", "sites")}
    assert [row[4] for key, row in after.items() if row != before[key]] == [changed]
    assert loaded.differences("elements", "sites") == {}


def test_what_is_deleted_upstream_is_archived(loaded: Pipeline, simulator: Simulator) -> None:
    gone = some_id(simulator, "elements")
    simulator.delete("elements", "", gone)
    assert loaded.one("elements").deleted == 1
    assert loaded.differences("elements") == {}
    archived = loaded.query("select target_table, source_id, data ->> 'id', reason from dw_etl_deleted_records")
    assert archived == [("dim_elements_staging", gone, gone, "no longer listed")]


def test_a_mass_delete_stops_and_asks(loaded: Pipeline, simulator: Simulator) -> None:
    ids = [str(json.loads(record)["id"]) for _, record in simulator.truth("elements")]
    for key in ids[: len(ids) // 2]:
        simulator.delete("elements", "", key)
    simulator.edit("elements", "", ids[-1], name="still staged")
    result = loaded.one("elements")
    assert (result.status, result.error_type, result.deleted, result.updated) == ("failed", "MassDelete", 0, 1)
    assert result.error is not None
    assert "dim_elements_staging" in result.error and "--allow-mass-delete" in result.error
    assert loaded.count("elements") == len(ids)
    allowed = loaded.one("elements", allow_mass_delete=True)
    assert (allowed.status, allowed.deleted) == ("success", len(ids) // 2)
    assert loaded.differences("elements") == {}


def test_by_its_watermark_a_listing_takes_fewer_requests(
    pipeline_to: Callable[..., Pipeline], simulator: Simulator
) -> None:
    pipeline = pipeline_to(simulator, batch_size=10)
    first = pipeline.one("patient_visits")
    parent, record = next(simulator.truth("patient_visits"))
    simulator.edit("patient_visits", parent, str(json.loads(record)["id"]), status="Missed")
    second = pipeline.one("patient_visits")
    assert (second.status, second.updated, second.inserted) == ("success", 1, 0)
    assert second.requests < first.requests / 3
    assert second.records_read < 10
    assert second.warning is None
    assert pipeline.differences("patient_visits") == {}


def test_a_watermark_alone_does_not_hide_a_deletion(pipeline_to: Callable[..., Pipeline], simulator: Simulator) -> None:
    pipeline = pipeline_to(simulator, batch_size=10)
    pipeline.one("patient_visits")
    parent, record = next(simulator.truth("patient_visits"))
    simulator.delete("patient_visits", parent, str(json.loads(record)["id"]))
    result = pipeline.one("patient_visits")
    assert (result.status, result.deleted) == ("success", 1)
    assert pipeline.differences("patient_visits") == {}


def test_a_full_refresh_finds_what_did_not_touch_its_modification_date(
    pipeline_to: Callable[..., Pipeline], simulator: Simulator
) -> None:
    pipeline = pipeline_to(simulator, batch_size=3)  # more than five pages, so that the cursor is used
    pipeline.one("patient_visits")
    parent, record = next(simulator.truth("patient_visits"))
    simulator.edit("patient_visits", parent, str(json.loads(record)["id"]), touch=False, status="Missed")
    assert pipeline.one("patient_visits").updated == 0
    assert pipeline.one("patient_visits", full_refresh=True).updated == 1
    assert pipeline.differences("patient_visits") == {}


def test_a_full_refresh_that_fails_is_made_good_by_the_next_run(
    pipeline_to: Callable[..., Pipeline], simulator: Simulator
) -> None:
    pipeline = pipeline_to(simulator, batch_size=3, max_retries=0)  # more than five pages, so that the cursor is used
    pipeline.one("patient_visits")
    parent, record = next(simulator.truth("patient_visits"))
    simulator.edit("patient_visits", parent, str(json.loads(record)["id"]), touch=False, status="Missed")
    simulator.fault("error", resource="patient_visits", count=1)
    assert pipeline.one("patient_visits", full_refresh=True).status == "failed"
    assert pipeline.one("patient_visits").updated == 1
    assert pipeline.differences("patient_visits") == {}


def test_a_watermark_stays_behind_the_source_clock(pipeline_to: Callable[..., Pipeline], simulator: Simulator) -> None:
    pipeline = pipeline_to(simulator)
    future = simulator.now + timedelta(days=900)
    simulator.edit("rooms", "", some_id(simulator, "rooms"), modifiedDate=future.isoformat())
    pipeline.one("rooms")
    (watermark,) = pipeline.query("select watermark from dw_etl_watermarks")[0]
    assert watermark < simulator.now


def test_a_filter_that_is_refused_is_remembered_and_said(
    pipeline_to: Callable[..., Pipeline], simulator: Simulator
) -> None:
    pipeline = pipeline_to(simulator, batch_size=10)
    simulator.fault("reject-filter", resource="patient_visits")
    results = [pipeline.one("patient_visits") for _ in range(3)]
    assert {result.status for result in results} == {"success"}
    assert pipeline.differences("patient_visits") == {}
    assert [bool(result.warning) for result in results] == [False, True, False]  # when it is found out, and once
    found = pipeline.capabilities("patient_visits")
    assert found["cursor_filter"] is False and found["keyset"] is False
    assert any("400" in note for note in found["notes"])
    asked = len(simulator.log)
    pipeline.one("patient_visits")
    assert [entry.status for entry in simulator.log[asked:] if entry.status == 400] == []


def test_without_modified_dates_every_listing_is_read_in_full(
    pipeline_to: Callable[..., Pipeline], simulator_factory: Callable[..., Simulator]
) -> None:
    simulator = simulator_factory(modified_date=False)
    pipeline = pipeline_to(simulator)
    pipeline.one("rooms")
    simulator.edit("rooms", "", some_id(simulator, "rooms"), description="moved")
    again = pipeline.one("rooms")
    assert (again.updated, again.records_read) == (1, pipeline.count("rooms"))
    assert pipeline.query("select count(*) from dw_etl_watermarks") == [(0,)]


def test_the_ledger_tells_what_the_result_tells(loaded: Pipeline, simulator: Simulator) -> None:
    simulator.edit("elements", "", some_id(simulator, "elements"), name="x")
    result = loaded.one("elements", full_refresh=True)
    run = loaded.ledger("elements")
    assert (run["id"], run["run_status"], run["full_refresh"]) == (result.run_id, "success", True)
    assert run["records_loaded"] == run["records_inserted"] + run["records_updated"] + run["records_unchanged"]
    assert run["records_read"] == result.records_read == loaded.count("elements") == run["upstream_count"]
    assert (run["requests"], run["records_updated"]) == (result.requests, 1)
    assert loaded.query("select last_run_status, last_run_records from dw_etl_jobs where id = 8") == [
        ("success", run["records_loaded"])
    ]


def test_an_endpoint_that_is_not_there_is_named(loaded: Pipeline, simulator: Simulator) -> None:
    simulator.fault("not-found", resource="elements")
    result = loaded.one("elements")
    assert (result.status, result.error_type) == ("failed", "EndpointNotFound")
    assert result.error is not None and "/api/v1/elements/odata" in result.error
    assert loaded.differences("elements") == {}


def test_the_alternate_path_is_tried_and_remembered(
    pipeline_to: Callable[..., Pipeline], simulator_factory: Callable[..., Simulator]
) -> None:
    simulator = simulator_factory(paths="inventory")
    pipeline = pipeline_to(simulator)
    assert pipeline.one("system_study_statuses").status == "success"
    assert pipeline.capabilities("system_study_statuses")["path"].endswith("/odata")
    assert pipeline.one("system_study_statuses").requests == 1
    assert pipeline.differences("system_study_statuses") == {}


def test_the_operators_path_wins(loaded: Pipeline, simulator: Simulator) -> None:
    loaded.query("update dw_etl_jobs set source_endpoint = '/api/v1/no-such/odata' where id = 8 returning id")
    result = loaded.one("elements")
    assert result.error is not None and "/api/v1/no-such/odata" in result.error


def test_the_row_says_which_job_starts_first(loaded: Pipeline) -> None:
    (loaded.home / "jobs.yaml").write_text("jobs: {sites: {priority: 1}, elements: {priority: 9}}\n", encoding="utf-8")
    for priority, order in ((None, [1, 8]), (0, [8, 1])):
        loaded.query("update dw_etl_jobs set priority = %s where resource = 'elements' returning id", priority)
        results = loaded.run("sites", "elements", parallel=1)
        assert [job.job_id for job in sorted(results.values(), key=lambda job: job.run_id or 0)] == order


def test_two_instances_do_not_touch_each_other(
    loaded: Pipeline, simulator: Simulator, simulator_factory: Callable[..., Simulator], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC_KEY_WEST", "west-key")
    west = simulator_factory(seed=7, api_key="west-key", key_header="CCAPIKey")
    loaded.query(
        "insert into dw_api_credentials (instance_name, base_url, api_key, api_key_header, is_active)"
        " values ('west', %s, 'env:CC_KEY_WEST', 'CCAPIKey', true) returning id",
        west.base_url,
    )
    other = Pipeline(loaded.url, west, loaded.home, instance="west")
    names = ("sites", "elements", "studies", "study_arms")
    before = loaded.written(*names)
    assert {r.status for r in other.run(*names).values()} == {"success"}
    assert loaded.written(*names) == before
    assert (other.differences(*names), loaded.differences(*names)) == ({}, {})
    for key in [str(json.loads(record)["id"]) for _, record in west.truth("elements")]:
        west.delete("elements", "", key)
    assert other.one("elements", allow_mass_delete=True).deleted
    assert other.count("elements") == 0
    assert loaded.differences("elements") == {}


def test_an_unknown_instance_is_refused(loaded: Pipeline) -> None:
    with pytest.raises(ConfigurationError, match="'east'"):
        loaded.one("sites", instance="east")


def test_the_second_run_of_a_job_says_who_holds_it(loaded: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "LOCK_SECONDS", 0.0)
    instance = loaded.instance_id()
    with loaded.database() as conn:
        runs.lock_table(conn, instance, "dim_elements_staging")
        run_id = runs.open_run(conn, 8, instance, batch_id=uuid4())
        results = loaded.run("elements", "sites")
        result = results["elements"]
        assert (result.status, result.error_type) == ("failed", "JobLocked")
        assert result.error is not None and f"run {run_id} (process " in result.error
        assert results["sites"].status == "success"
        assert loaded.query("select run_status from dw_etl_runs where id = %s", run_id) == [("running",)]


def test_a_dead_run_is_closed_by_the_next_start(loaded: Pipeline) -> None:
    with loaded.database() as conn:
        run_id = runs.open_run(conn, 8, loaded.instance_id(), batch_id=uuid4())
    loaded.one("sites")
    ((status, kind, message),) = loaded.query(
        "select run_status, error_type, error_message from dw_etl_runs where id = %s", run_id
    )
    assert (status, kind) == ("failed", "Killed")
    assert "run the job again" in message


def test_a_job_ends_at_its_timeout_and_keeps_what_it_read(
    pipeline_to: Callable[..., Pipeline], simulator: Simulator
) -> None:
    pipeline = pipeline_to(simulator, batch_size=10)
    pipeline.home.joinpath("jobs.yaml").write_text("jobs:\n  patient_visits:\n    timeout_seconds: 1\n")
    simulator.fault("latency", resource="patient_visits", seconds=0.4)
    result = pipeline.one("patient_visits")
    assert (result.status, result.error_type) == ("failed", "JobTimedOut")
    assert result.error is not None and "timeout of 1 s" in result.error and "requests of 0.4 s." in result.error
    assert 0 < pipeline.count("patient_visits") == result.inserted
    assert pipeline.ledger("patient_visits")["records_inserted"] == result.inserted


def test_a_row_without_a_timeout_has_none_whatever_the_file_says(
    pipeline_to: Callable[..., Pipeline], simulator: Simulator
) -> None:
    pipeline = pipeline_to(simulator)
    pipeline.home.joinpath("jobs.yaml").write_text("jobs: {rooms: {timeout_seconds: 1}}\n")
    pipeline.one("elements")
    assert pipeline.query("select timeout_seconds from dw_etl_jobs where resource = 'rooms'") == [(1,)]
    pipeline.query("update dw_etl_jobs set timeout_seconds = null where resource = 'rooms' returning 1")
    simulator.fault("latency", resource="rooms", seconds=1.2, count=1)
    assert pipeline.one("rooms").error is None


def test_a_timeout_counts_from_the_start_of_its_own_job(
    pipeline_to: Callable[..., Pipeline], simulator: Simulator
) -> None:
    pipeline = pipeline_to(simulator)
    pipeline.home.joinpath("jobs.yaml").write_text(
        "jobs:\n  rooms: {priority: 1}\n  elements: {priority: 2, timeout_seconds: 1}\n"
    )
    simulator.fault("latency", resource="rooms", seconds=1.2, count=1)
    results = pipeline.run("rooms", "elements", parallel=1)
    assert {name: result.error for name, result in results.items()} == {"rooms": None, "elements": None}


def test_a_stop_ends_a_run_within_seconds(loaded: Pipeline, simulator: Simulator) -> None:
    simulator.fault("latency", resource="elements", seconds=8)
    stop = threading.Event()
    threading.Timer(0.5, stop.set).start()
    started = time.monotonic()
    results = loaded.run("elements", "sites", stop=stop, parallel=1)
    assert time.monotonic() - started < 7
    assert results["elements"].error_type == "Interrupted"
    assert loaded.ledger("elements")["run_status"] == "failed"
    assert loaded.unsound() == []
    assert loaded.left_over() == []


def test_a_database_session_ended_in_the_middle_is_opened_again(
    pipeline_to: Callable[..., Pipeline], simulator: Simulator
) -> None:
    pipeline = pipeline_to(simulator, batch_size=10)
    ended: list[int] = []

    def end_session(request: Request) -> None:
        if len(ended) < 2 and "patient-visits" in request.path and len(simulator.log) % 7 == 6:
            with psycopg.connect(pipeline.url, autocommit=True) as conn:
                found = conn.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where application_name like 'trialsync patient_visits' and datname = current_database()"
                ).fetchall()
            ended.extend(1 for _ in found)

    simulator.on_request(end_session)
    result = pipeline.one("patient_visits")
    assert len(ended) == 2
    assert result.status == "success", result.error
    assert pipeline.differences("patient_visits") == {}
    assert pipeline.unsound() == []
    assert len(pipeline.query("select id from dw_etl_runs")) == 1


def test_rows_that_were_committed_before_the_connection_was_lost_are_not_served_twice(
    pipeline_to: Callable[..., Pipeline], simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging, "CHUNK_ROWS", 20)
    monkeypatch.setattr(Landing, "land", land_by_copy)
    pipeline = pipeline_to(simulator, batch_size=10)
    kept: list[int] = []

    def end_session(request: Request) -> None:
        if kept or "patient-visits" not in request.path:
            return
        with psycopg.connect(pipeline.url, autocommit=True) as conn:
            if rows := conn.execute("select count(*) from dim_patient_visits_staging").fetchall()[0][0]:
                conn.execute(
                    "select pg_terminate_backend(pid) from pg_stat_activity"
                    " where application_name like 'trialsync patient_visits' and datname = current_database()"
                )
                kept.append(rows)

    simulator.on_request(end_session)
    result = pipeline.one("patient_visits")
    assert kept and result.duplicates >= kept[0]
    assert (result.status, result.warning, result.inserted) == ("success", None, pipeline.count("patient_visits"))
    assert pipeline.differences("patient_visits") == {}
    assert pipeline.query("select count(*) from dw_etl_watermarks") == [(1,)]


def test_a_deadline_that_is_over_starts_nothing(loaded: Pipeline, simulator: Simulator) -> None:
    asked = len(simulator.log)
    result = loaded.one("elements", deadline=datetime.now(UTC) - timedelta(seconds=1))
    assert (result.status, len(simulator.log)) == ("skipped", asked)


def test_no_key_and_no_record_in_what_is_said(
    loaded: Pipeline, simulator: Simulator, capfd: pytest.CaptureFixture[str]
) -> None:
    secret = "Wilhelmina Quackenbush"
    simulator.edit("elements", "", some_id(simulator, "elements"), name=secret)
    simulator.fault("truncate", resource="elements")
    failed = loaded.one("elements")
    assert (failed.status, failed.error_type) == ("failed", "UnreadableAnswer")
    simulator.faults.clear(simulator.api)
    loaded.one("elements")
    said = "".join(capfd.readouterr()) + json.dumps(
        loaded.query("select row_to_json(r) from dw_etl_runs as r"), default=str
    )
    assert secret not in said
    assert simulator.api_key not in said


def test_jobs_of_unknown_trouble_say_where_and_not_what(loaded: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    def burst(*_: Any, **__: Any) -> None:
        raise RuntimeError("John Doe's record")

    monkeypatch.setattr("clinical_conductor.syncing.Sync.run", burst)
    result = loaded.one("elements")
    assert result.error_type == "RuntimeError"
    assert result.error is not None and "test_jobs.py" in result.error and "Doe" not in result.error
    assert loaded.ledger("elements")["run_status"] == "failed"


def test_a_failed_run_is_closed_when_a_database_that_restarts_is_back(
    pipeline_to: Callable[..., Pipeline], simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real = job.connect

    def connect(url: str, **options: Any) -> Any:
        calls.append(url)
        if len(calls) in (2, 3):  # the first is the job's own, the next ones want to close its run
            raise DatabaseTrouble("PostgreSQL restarts.")
        return real(url, **options)

    monkeypatch.setattr(job, "connect", connect)
    monkeypatch.setattr(job, "CLOSING_WAITS", (0.01, 0.01))
    simulator.fault("not-implemented", resource="rooms")
    pipeline = pipeline_to(simulator)
    assert pipeline.one("rooms").status == "failed"
    assert len(calls) == 4
    assert pipeline.query("select run_status from dw_etl_runs") == [("failed",)]


def test_a_home_that_cannot_be_written_is_named(loaded: Pipeline) -> None:
    (loaded.home / "file").touch()
    with pytest.raises(WorkspaceTrouble, match="TRIALSYNC_HOME"):
        Pipeline(loaded.url, loaded.upstream, loaded.home, changes={"work_dir": loaded.home / "file"}).run("sites")
