"""ETLOrchestrator and DataLoader: what a script runs and loads, told by the database."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any
from uuid import uuid4

import pytest

from clinical_conductor import DataLoader, ETLOrchestrator, runs
from clinical_conductor.catalog import ENDPOINTS
from clinical_conductor.database import connect
from clinical_conductor.errors import ConfigurationError, JobLocked, RunFenced
from tests.fixtures.pipeline import Pipeline

SITES = "dim_sites_staging"
SITE = ENDPOINTS["sites"].job_id


@pytest.fixture
def orchestrator(pipeline: Pipeline) -> ETLOrchestrator:
    return ETLOrchestrator(pipeline.settings)


@pytest.fixture
def loader(pipeline: Pipeline) -> DataLoader:
    return DataLoader(pipeline.settings)


def staged(pipeline: Pipeline, table: str = SITES) -> dict[tuple[str, str], Any]:
    """Records by parent and key."""
    rows = pipeline.query(f"select parent_source_id, source_id, data from {table}")
    return {(parent, key): data for parent, key, data in rows}


# -- ETLOrchestrator --------------------------------------------------------------------------------------------------


def test_a_job_is_run_and_told_as_the_ledger_tells_it(orchestrator: ETLOrchestrator, pipeline: Pipeline) -> None:
    result = orchestrator.execute_job(SITE)
    ledger = pipeline.ledger("sites")
    assert (result.job_id, result.run_id, result.status) == (SITE, ledger["id"], "success")
    assert result.records_loaded == pipeline.count("sites") == ledger["records_loaded"] > 0
    assert result.duration_seconds > 0 and result.error_message is None
    assert not pipeline.differences("sites")


def test_a_category_leaves_out_what_is_switched_off(orchestrator: ETLOrchestrator, pipeline: Pipeline) -> None:
    pipeline.one("sites")
    chosen = [row.job_id for row in ENDPOINTS.values() if row.category == "instance" and row.active]
    assert len(chosen) > 1
    pipeline.query("update dw_etl_jobs set is_active = false where id = %s returning 1", chosen[0])
    results = orchestrator.execute_jobs_by_category("instance")
    assert [result.job_id for result in results] == chosen[1:]
    assert {result.status for result in results} == {"success"}


def test_all_active_jobs_are_those_of_the_database(orchestrator: ETLOrchestrator, pipeline: Pipeline) -> None:
    pipeline.one("sites")
    pipeline.query("update dw_etl_jobs set is_active = id in (1, 2) returning 1")
    assert [result.job_id for result in orchestrator.execute_all_active_jobs()] == [1, 2]


def test_a_job_that_fails_says_why(pipeline: Pipeline) -> None:
    wrong = ETLOrchestrator(replace(pipeline.settings, api_key="not the key"))
    result = wrong.execute_job(SITE)
    assert (result.status, result.records_loaded) == ("failed", 0)
    assert "CC_API_KEY" in (result.error_message or "")
    assert wrong.get_job_status(SITE).last_run_status == "failed"


def test_what_cannot_run_is_refused_before_anything_runs(orchestrator: ETLOrchestrator, pipeline: Pipeline) -> None:
    off = next(row.job_id for row in ENDPOINTS.values() if not row.active)
    for call, part in (
        (lambda: orchestrator.execute_job(99_999), "99999"),
        (lambda: orchestrator.execute_job(off), "switched off"),
        (lambda: orchestrator.execute_jobs_by_category("sights"), "use one of sites"),
        (lambda: orchestrator.schedule_job(SITE, "every night"), "not a schedule"),
        (lambda: orchestrator.get_job_status(99_999), "99999"),
    ):
        with pytest.raises(ConfigurationError, match=part):
            call()
    assert pipeline.query("select count(*) from dw_etl_runs") == [(0,)]


def test_a_job_is_scheduled_and_looked_up(orchestrator: ETLOrchestrator) -> None:
    before = orchestrator.get_job_status(SITE)
    assert (before.resource, before.is_active, before.last_run_id, before.last_run_records) == (
        "sites",
        True,
        None,
        None,
    )
    orchestrator.schedule_job(SITE, "15  3 * * mon-fri")
    result = orchestrator.execute_job(SITE)
    after = orchestrator.get_job_status(SITE)
    assert after.schedule_cron == "15 3 * * mon-fri"
    assert (after.last_run_id, after.last_run_status) == (result.run_id, "success")
    assert after.last_run_records == result.records_loaded
    assert after.last_run_at is not None and after.last_run_at.tzinfo is not None
    orchestrator.schedule_job(SITE, None)
    assert orchestrator.get_job_status(SITE).schedule_cron is None


def test_the_jobs_file_counts_from_python_too(orchestrator: ETLOrchestrator, pipeline: Pipeline) -> None:
    off = [row.resource for row in ENDPOINTS.values() if row.job_id > 2]
    pipeline.home.joinpath("jobs.yaml").write_text(
        "jobs:\n" + "".join(f"  {name}: {{enabled: false}}\n" for name in off)
    )
    assert [result.job_id for result in orchestrator.execute_all_active_jobs()] == [1, 2]


# -- DataLoader -------------------------------------------------------------------------------------------------------


def test_only_what_differs_is_written(loader: DataLoader, pipeline: Pipeline) -> None:
    first = loader.upsert_records(SITES, [{"id": 1, "name": "One"}, {"id": 2, "name": "Two"}])
    assert (first.read, first.inserted) == (2, 2)
    written = pipeline.query(f"select id, xmin::text, source_id from {SITES} order by source_id")
    again = loader.upsert_records(SITES, [{"id": 1, "name": "One"}, {"id": 2, "name": "2"}, {"id": 3}])
    assert (again.inserted, again.updated, again.unchanged) == (1, 1, 1)
    assert staged(pipeline)["", "2"] == {"id": 2, "name": "2"}
    assert pipeline.query(f"select id, xmin::text, source_id from {SITES} order by source_id")[0] == written[0]
    assert (pipeline.ledger("sites")["run_status"], pipeline.unsound(), pipeline.left_over()) == ("success", [], [])


def test_a_key_of_your_own(loader: DataLoader, pipeline: Pipeline) -> None:
    loader.upsert_records(SITES, [{"code": "A", "at": {"no": 7}}, {"code": "B", "at": {"no": 8}}], "code")
    loader.upsert_records(SITES, [{"code": "A", "at": {"no": 9}}], key_field="at.no")
    assert set(staged(pipeline)) == {("", "A"), ("", "B"), ("", "9")}


def test_many_records_some_of_them_twice(loader: DataLoader, pipeline: Pipeline) -> None:
    def records() -> Iterator[dict[str, Any]]:
        for number in range(2_500):
            yield {"id": number, "name": "first"}
        yield {"id": 7, "name": "last"}

    counts = loader.bulk_insert(SITES, records(), batch_size=100)
    assert (counts.read, counts.inserted, counts.duplicate) == (2_501, 2_500, 1)
    assert len(staged(pipeline)) == 2_500
    assert staged(pipeline)["", "7"]["name"] == "last"
    with pytest.raises(ConfigurationError, match="batch_size"):
        loader.bulk_insert(SITES, [], batch_size=0)


def test_a_reload_archives_what_is_not_in_it_and_keeps_the_ids(loader: DataLoader, pipeline: Pipeline) -> None:
    loader.bulk_insert(SITES, [{"id": number} for number in range(10)])
    ids = dict(pipeline.query(f"select source_id, id from {SITES}"))
    counts = loader.truncate_and_reload(SITES, [{"id": 3}, {"id": 11}])
    assert (counts.inserted, counts.unchanged, counts.deleted) == (1, 1, 9)
    after = dict(pipeline.query(f"select source_id, id from {SITES}"))
    assert after.keys() == {"3", "11"} and after["3"] == ids["3"]
    assert pipeline.query("select count(*) from dw_etl_deleted_records where target_table = %s", SITES) == [(9,)]


def test_a_reload_that_breaks_off_deletes_nothing_and_fails(loader: DataLoader, pipeline: Pipeline) -> None:
    loader.bulk_insert(SITES, [{"id": number} for number in range(10)])

    def records() -> Iterator[dict[str, Any]]:
        yield {"id": 0, "name": "new"}
        raise OSError("a secret of the source")

    with pytest.raises(OSError, match="a secret"):
        loader.truncate_and_reload(SITES, records())
    assert len(staged(pipeline)) == 10
    ledger = pipeline.ledger("sites")
    assert (ledger["run_status"], ledger["error_type"]) == ("failed", "OSError")
    assert "secret" not in ledger["error_message"]
    assert (pipeline.unsound(), pipeline.left_over()) == ([], [])


def test_what_cannot_be_staged_is_set_aside_and_the_rest_loads(loader: DataLoader, pipeline: Pipeline) -> None:
    circle: dict[str, Any] = {"id": 6}
    circle["self"] = circle
    counts = loader.upsert_records(
        SITES,
        [
            {"id": 1, "cost": Decimal("15000.00"), "big": 12345678901234567890123},
            {"name": "no key"},
            {"id": None},
            {"id": 2, "name": "a\0b"},
            {"id": 3, "name": "\ud800"},
            {"id": 4, "name": object()},
            circle,
            ["no", "record"],  # type: ignore[list-item]
            {"id": 5, "name": "Größe"},
        ],
    )
    assert (counts.read, counts.inserted, counts.rejected) == (9, 2, 7)
    assert set(staged(pipeline)) == {("", "1"), ("", "5")}
    numbers = pipeline.query(f"select data ->> 'cost', data ->> 'big' from {SITES} where source_id = '1'")
    assert numbers == [("15000.00", "12345678901234567890123")]
    reasons = sorted(row[0] for row in pipeline.query("select reason from dw_etl_rejected_records"))
    assert len(reasons) == 7
    for part in ("u0000", "lone surrogate", "cannot be written as JSON", "no usable key", "not a JSON object"):
        assert any(part in reason for reason in reasons), part


def test_children_are_kept_apart_by_their_parent(loader: DataLoader, pipeline: Pipeline) -> None:
    table = "dim_study_arms_staging"
    arms = [{"parent_source_id": study, "Id": 1, "name": f"Arm of {study}"} for study in (10, 11, 10)]
    counts = loader.upsert_records(table, arms)
    assert (counts.inserted, counts.duplicate) == (2, 1)
    assert staged(pipeline, table) == {
        ("10", "1"): {"Id": 1, "name": "Arm of 10"},
        ("11", "1"): {"Id": 1, "name": "Arm of 11"},
    }


def test_keys_follow_the_catalog(loader: DataLoader, pipeline: Pipeline) -> None:
    named = "dim_study_integration_info_staging"
    loader.upsert_records(named, [{"parent_source_id": "12", "name": "Study"}])
    assert set(staged(pipeline, named)) == {("12", "12")}
    loader.upsert_records(
        "dim_patient_visits_staging", [{"id": 5, "study": {"id": 1}, "subject": {"id": 2}}, {"id": 6}]
    )
    assert set(staged(pipeline, "dim_patient_visits_staging")) == {("1/2", "5")}


def test_records_are_loaded_for_a_run_that_is_open(loader: DataLoader, pipeline: Pipeline) -> None:
    pipeline.one("sites")
    with connect(pipeline.url, autocommit=True) as conn:
        run_id = runs.open_run(conn, SITE, pipeline.instance_id(), batch_id=uuid4())
        for name in ("One", "One", "Two"):
            loader.load_to_staging(SITES, [{"id": "mine", "name": name}], SITE, run_id)
        assert pipeline.ledger("sites")["run_status"] == "running"
        assert pipeline.query(f"select etl_run_id, etl_job_id from {SITES} where source_id = 'mine'") == [
            (run_id, SITE)
        ]
        with pytest.raises(ConfigurationError, match="fills dim_sites_staging"):
            loader.load_to_staging("dim_studies_staging", [], SITE, run_id)
        runs.close_run(conn, run_id, "success")
    assert staged(pipeline)["", "mine"]["name"] == "Two"
    assert pipeline.unsound() == []
    with pytest.raises(RunFenced, match="no open run"):
        loader.load_to_staging(SITES, [{"id": 1}], SITE, run_id)


def test_a_table_in_use_and_a_table_of_nobody(loader: DataLoader, pipeline: Pipeline) -> None:
    pipeline.one("sites")
    with connect(pipeline.url, autocommit=True) as conn:
        runs.lock_table(conn, pipeline.instance_id(), SITES)
        with pytest.raises(JobLocked):
            loader.upsert_records(SITES, [{"id": 1}])
    with pytest.raises(ConfigurationError, match="No job fills dim_nothing_staging"):
        loader.upsert_records("dim_nothing_staging", [{"id": 1}])
