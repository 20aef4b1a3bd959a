"""Jobs of children: what a parent owes, what came of each parent, and bulk routes that replace asking one by one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from clinical_conductor import parents, staging
from clinical_conductor.catalog import ENDPOINTS
from clinical_conductor.database import connect
from clinical_conductor.simulator import Simulator
from clinical_conductor.simulator.api import Request
from tests.fixtures.pipeline import Pipeline

ARMS = "study_arms"


def ids(simulator: Simulator, resource: str = "studies") -> list[str]:
    """The ids of a resource, in order."""
    return [str(json.loads(record)["id"]) for _, record in simulator.truth(resource)]


def asked(simulator: Simulator, since: int, ending: str = "/arms") -> list[str]:
    """The studies whose children were asked for since a place in the log, in order."""
    found = [entry.path for entry in simulator.log[since:] if entry.path.endswith(ending) and "/studies/" in entry.path]
    return [path.split("/studies/")[1].split("/")[0] for path in found]


def test_only_new_and_changed_parents_are_owed(loaded: Pipeline, simulator: Simulator) -> None:
    first = ids(simulator)[0]
    new = simulator.insert("studies", name="A new study")
    simulator.edit("studies", "", first, name="Renamed")
    loaded.one("studies")
    place = len(simulator.log)
    result = loaded.one(ARMS)
    assert sorted(asked(simulator, place)) == sorted([first, new])
    assert (result.status, result.requests, result.parents_owed) == ("success", 2, 0)
    assert loaded.differences("studies", ARMS) == {}
    quiet = loaded.one(ARMS)
    assert (quiet.requests, quiet.warning) == (0, None)
    run = loaded.ledger(ARMS)
    assert (run["parents_total"], run["parents_failed"], run["parents_owed"]) == (loaded.count("studies"), 0, 0)


def test_stale_parents_are_owed_the_stalest_first(loaded: Pipeline, simulator: Simulator) -> None:
    old, older = ids(simulator)[:2]
    days = {old: 40, older: 50}
    for key, age in days.items():
        loaded.query(
            "update dw_etl_parents set fetched_at = now() - make_interval(days => %s)"
            " where job_id = 141 and parent_key = %s returning 1",
            age,
            key,
        )
    place = len(simulator.log)
    assert loaded.one(ARMS, max_requests=1).parents_owed == 1
    loaded.one(ARMS, max_requests=1)
    assert asked(simulator, place) == [older, old]


def test_what_was_read_in_one_night_becomes_stale_over_many(loaded: Pipeline) -> None:
    """And nothing is older than the limit of 30 days."""
    patients = loaded.count("patients")
    owed = []
    for age in (14, 19, 25, 31):
        loaded.query(
            "update dw_etl_parents set fetched_at = now() - make_interval(days => %s) where job_id = 147 returning 1",
            age,
        )
        owed.append(loaded.one("patient_devices", max_requests=1).parents_owed + 1)
    assert owed[0] == 1  # none, but the sum counts the one that was not asked
    assert 1 < owed[1] < owed[2] < owed[3] == patients


def test_a_budget_goes_to_the_fan_out_that_waited_longest(
    pipeline_to: Callable[..., Pipeline], simulator: Simulator
) -> None:
    pipeline = pipeline_to(simulator, parallel_jobs=1)
    pipeline.one("studies")
    names = (ARMS, "study_notes", "study_roles")
    seen = []
    for _ in names:
        results = pipeline.run(*names, "subjects", max_requests=pipeline.count("studies"), full_refresh=True)
        assert results.pop("subjects").status == "success"  # by one listing, which comes before all fan-outs
        seen += [name for name in names if results[name].requests]
        assert sorted(r.status for r in results.values()) == ["skipped", "skipped", "success"]
    assert sorted(seen) == sorted(names)


def test_a_full_refresh_owes_everything(loaded: Pipeline, simulator: Simulator) -> None:
    parent, record = next(iter(simulator.truth(ARMS)))
    key = json.loads(record).get("id") or json.loads(record)["Id"]
    simulator.edit(ARMS, parent, str(key), touch=False, Name="Placebo, 0.50 mg")
    assert loaded.one(ARMS).requests == 0
    result = loaded.one(ARMS, full_refresh=True)
    assert (result.updated, result.requests) == (1, loaded.count("studies"))
    assert loaded.differences(ARMS) == {}


def test_what_a_full_refresh_did_not_reach_stays_owed(loaded: Pipeline, simulator: Simulator) -> None:
    studies, gone = loaded.count("studies"), ids(simulator)[0]
    loaded.query("update dw_etl_parents set status = 'gone' where job_id = 141 and parent_key = %s returning 1", gone)
    place = len(simulator.log)
    first = loaded.one(ARMS, full_refresh=True, max_requests=2)
    assert (first.requests, first.parents_owed) == (2, studies - 2)
    rest = loaded.one(ARMS)
    assert (rest.status, rest.requests, rest.parents_owed) == ("success", studies - 2, 0)
    assert sorted(asked(simulator, place)) == sorted(ids(simulator))
    assert loaded.one(ARMS).requests == 0
    assert set(loaded.parents(ARMS).values()) == {"fetched"}


def test_a_parent_that_is_404_is_recorded_and_not_asked_again(
    pipeline_to: Callable[..., Pipeline], simulator: Simulator
) -> None:
    pipeline = pipeline_to(simulator)
    pipeline.one("studies")
    gone = ids(simulator)[2]
    simulator.fault("not-found", path=f"/studies/{gone}/arms")
    result = pipeline.one(ARMS)
    assert (result.status, result.error_type, result.parents_failed) == ("failed", "ParentFailed", 1)
    assert result.error is not None and "1 × ParentGone" in result.error and gone not in result.error
    assert pipeline.parents(ARMS)[gone] == "gone"
    others = [(parent, record) for parent, record in simulator.truth(ARMS) if parent != gone]
    assert not pipeline.difference(ARMS, others)
    (reason,) = pipeline.query("select reason from dw_etl_parents where status = 'gone'")[0]
    assert reason.startswith("ParentGone: ")
    again = pipeline.one(ARMS)
    assert (again.status, again.requests, again.parents_failed) == ("success", 0, 0)
    # Until the parent changes.
    simulator.faults.clear(simulator.api)
    simulator.edit("studies", "", gone, name="back")
    pipeline.one("studies")
    assert pipeline.one(ARMS).requests == 1
    assert pipeline.differences(ARMS) == {}


def test_a_parent_that_failed_is_asked_again(pipeline_to: Callable[..., Pipeline], simulator: Simulator) -> None:
    pipeline = pipeline_to(simulator)
    pipeline.one("studies")
    broken = ids(simulator)[2]
    simulator.fault("error", path=f"/studies/{broken}/arms")
    result = pipeline.one(ARMS)
    assert (result.status, result.error_type, result.parents_failed) == ("failed", "ParentFailed", 1)
    assert pipeline.parents(ARMS)[broken] == "failed"
    assert not pipeline.difference(ARMS, [(p, r) for p, r in simulator.truth(ARMS) if p != broken])
    simulator.faults.clear(simulator.api)
    again = pipeline.one(ARMS)
    assert (again.status, again.requests, pipeline.parents(ARMS)[broken]) == ("success", 1, "fetched")
    assert pipeline.differences(ARMS) == {}


def test_an_endpoint_that_answers_no_parent_is_named_and_nobody_is_gone(
    pipeline_to: Callable[..., Pipeline], simulator: Simulator
) -> None:
    pipeline = pipeline_to(simulator)
    pipeline.one("studies")
    simulator.fault("not-found", path="/arms$")
    result = pipeline.one(ARMS)
    assert (result.status, result.error_type) == ("failed", "EndpointNotFound")
    assert result.error is not None and "/api/v1/studies/{studyId}/arms" in result.error
    assert pipeline.parents(ARMS) == {}
    simulator.faults.clear(simulator.api)
    assert pipeline.one(ARMS).status == "success"
    assert pipeline.differences(ARMS) == {}


def test_an_endpoint_that_vanishes_later_is_named_too(loaded: Pipeline, simulator: Simulator) -> None:
    simulator.fault("not-found", path="/devices$")
    result = loaded.one("patient_devices", full_refresh=True)
    assert (result.status, result.error_type) == ("failed", "EndpointNotFound")
    assert set(loaded.parents("patient_devices").values()) == {"fetched"}
    assert loaded.differences("patient_devices") == {}


def test_a_parent_that_is_gone_takes_its_children_along(loaded: Pipeline, simulator: Simulator) -> None:
    patient = next(parent for parent, _ in simulator.truth("patient_devices"))
    children = sum(parent == patient for parent, _ in simulator.truth("patient_devices"))
    simulator.delete("patients", "", patient)
    loaded.one("patients")
    result = loaded.one("patient_devices")
    assert (result.status, result.deleted, result.requests) == ("success", children, 0)
    assert loaded.differences("patients", "patient_devices") == {}
    assert patient not in loaded.parents("patient_devices")
    assert loaded.query("select distinct reason from dw_etl_deleted_records where target_table like '%%devices%%'") == [
        ("its parent is gone",)
    ]


def test_children_that_vanish_are_archived_up_to_the_threshold(loaded: Pipeline, simulator: Simulator) -> None:
    served = list(simulator.truth("study_detail"))
    arms = [(parent, json.loads(record)) for parent, record in simulator.truth(ARMS)]
    for parent, record in arms[: len(arms) // 2]:
        simulator.delete(ARMS, parent, str(record.get("id") or record["Id"]))
    result = loaded.one(ARMS, full_refresh=True)
    assert (result.status, result.error_type, result.deleted) == ("failed", "MassDelete", 0)
    owed = loaded.one(ARMS, allow_mass_delete=True)
    assert (owed.status, owed.deleted) == ("success", len(arms) // 2)
    assert loaded.differences(ARMS) == {}
    assert len(served) == loaded.count("study_detail")


def test_what_the_budget_does_not_reach_stays_owed(pipeline_to: Callable[..., Pipeline], simulator: Simulator) -> None:
    pipeline = pipeline_to(simulator)
    pipeline.one("studies")
    total = pipeline.count("studies")
    most = total // 2
    place = len(simulator.log)
    left = total
    for _ in range(5):
        result = pipeline.one(ARMS, max_requests=most)
        assert result.status == "success", result.error
        left -= result.requests
        assert result.parents_owed == left
        if not left:
            break
        assert result.warning is not None and "still owed" in result.warning
    assert sorted(asked(simulator, place)) == sorted(ids(simulator))  # each of them once
    assert pipeline.differences(ARMS) == {}


def test_a_bulk_route_replaces_the_fan_out_and_stages_the_same(
    pipeline_to: Callable[..., Pipeline], simulator: Simulator
) -> None:
    pipeline = pipeline_to(simulator)
    pipeline.one("studies")
    place = len(simulator.log)
    bulk = pipeline.one("subjects")
    assert asked(simulator, place, "/subjects/odata") == []
    assert bulk.requests < pipeline.count("studies")
    assert pipeline.differences("subjects") == {}
    assert set(pipeline.parents("subjects")) == set(ids(simulator))
    before = pipeline.written("subjects")
    pipeline.query("update dw_etl_capabilities set details = details || '{\"bulk\": false}' returning 1")
    by_parents = pipeline.one("subjects", full_refresh=True)
    assert len(asked(simulator, place, "/subjects/odata")) >= pipeline.count("studies")
    assert (by_parents.unchanged, pipeline.written("subjects")) == (bulk.inserted, before)


def test_without_the_bulk_route_parents_are_asked(
    pipeline_to: Callable[..., Pipeline], simulator_factory: Callable[..., Simulator]
) -> None:
    simulator = simulator_factory(paths="inventory")
    pipeline = pipeline_to(simulator)
    pipeline.run("studies", "subjects")
    assert pipeline.capabilities("subjects")["bulk"] is False
    assert pipeline.differences("subjects") == {}
    place = len(simulator.log)
    pipeline.one("subjects")
    assert len(simulator.log) == place


def test_a_child_asked_for_first_brings_its_parents(pipeline_to: Callable[..., Pipeline], simulator: Simulator) -> None:
    pipeline = pipeline_to(simulator)
    results = pipeline.run("visit_elements_by_study")
    assert list(results) == ["visit_elements_by_study"]
    assert results["visit_elements_by_study"].status == "success"
    assert pipeline.differences("studies", "visits", "visit_elements_by_study") == {}


def test_parents_whose_first_run_failed_are_read_again(
    pipeline_to: Callable[..., Pipeline], simulator: Simulator
) -> None:
    pipeline = pipeline_to(simulator, batch_size=10)
    failing = simulator.fault("error", resource="studies", after=1)
    assert pipeline.one("studies").status == "failed"
    failed = pipeline.one(ARMS)
    assert (failed.status, failed.error_type) == ("skipped", "DependencyFailed")
    assert failing.fired
    simulator.faults.clear(simulator.api)
    assert pipeline.one(ARMS).status == "success"
    assert pipeline.differences("studies", ARMS) == {}


def test_the_time_of_a_fan_out_is_told_though_it_failed(
    pipeline_to: Callable[..., Pipeline], simulator: Simulator
) -> None:
    pipeline = pipeline_to(simulator, max_retries=0)
    simulator.fault("latency", path="/arms$", seconds=0.2)
    simulator.fault("error", path="/arms$", count=1)
    assert pipeline.one(ARMS).error_type == "ParentFailed"
    assert pipeline.ledger(ARMS)["stages"]["read"] >= 0.2


def test_no_parents_is_a_success_that_says_so(pipeline_to: Callable[..., Pipeline], simulator: Simulator) -> None:
    for key in ids(simulator):
        simulator.delete("studies", "", key)
    result = pipeline_to(simulator).one(ARMS)
    assert (result.status, result.records_read, result.requests) == ("success", 0, 0)
    assert result.warning is not None and "No studies are staged" in result.warning


def test_what_was_committed_is_not_asked_for_again(
    pipeline_to: Callable[..., Pipeline], simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fan-out that breaks off goes on where it was committed."""
    monkeypatch.setattr(staging, "CHUNK_ROWS", 3)
    pipeline = pipeline_to(simulator, max_retries=0)
    pipeline.one("patients")
    seen: list[str] = []

    def refuse(request: Request) -> None:
        if request.path.endswith("/devices"):
            seen.append(request.path)

    simulator.on_request(refuse)
    key_refused = simulator.fault("unauthorised", path="/devices$", after=12)
    first = pipeline.one("patient_devices")
    assert first.status == "failed"
    assert key_refused.fired
    fetched = [key for key, status in pipeline.parents("patient_devices").items() if status == "fetched"]
    assert 0 < len(fetched) < pipeline.count("patients")
    simulator.faults.clear(simulator.api)
    seen.clear()
    assert pipeline.one("patient_devices").status == "success"
    assert not {path.split("/")[-2] for path in seen} & set(fetched)
    assert pipeline.differences("patient_devices") == {}


def test_a_parent_that_changes_while_its_children_are_read_is_owed_again(
    pipeline_to: Callable[..., Pipeline], simulator: Simulator
) -> None:
    pipeline = pipeline_to(simulator)
    pipeline.one("studies")
    changed = ids(simulator)[0]
    once: list[str] = []

    def change(request: Request) -> None:
        if request.path.endswith("/arms") and not once:
            once.append(request.path)
            simulator.edit("studies", "", changed, name="changed meanwhile")
            pipeline.one("studies")

    simulator.on_request(change)
    pipeline.one(ARMS)
    place = len(simulator.log)
    pipeline.one(ARMS)
    assert asked(simulator, place) == [changed]


def test_both_routes_of_a_table_agree(loaded: Pipeline, simulator: Simulator) -> None:
    before = loaded.written("patient_visits")
    results = loaded.run("subject_patient_visits", "studies_list", full_refresh=True)
    assert {(r.inserted, r.updated, r.deleted) for r in results.values()} == {(0, 0, 0)}
    assert results["subject_patient_visits"].unchanged == len(before)
    assert loaded.written("patient_visits") == before


def test_ids_that_repeat_across_parents_do_not_overwrite_each_other(loaded: Pipeline) -> None:
    rows = loaded.query("select parent_source_id, source_id from dim_patient_devices_staging")
    assert len({key for _, key in rows}) < len(rows) == len(set(rows))


class Explained(psycopg.ClientCursor[Any]):
    """Keeps the plan of everything that it executes."""

    plans: list[str]

    def execute(self, query: Any, params: Any = None, **options: Any) -> Explained:
        text = self.mogrify(query, params)
        if "dw_etl_parents" in text:
            plan = psycopg.Cursor(self.connection).execute(f"explain (analyze, timing off) {text}".encode()).fetchall()
            self.plans.append("\n".join(line for (line,) in plan))
        return super().execute(query, params, **options)


@pytest.mark.parametrize("compare", [parents.owed_parents, parents.forget_orphan_parents])
def test_no_parent_is_compared_with_every_other_one(
    database: str, monkeypatch: pytest.MonkeyPatch, compare: Callable[..., object]
) -> None:
    """Also where the planner believes the ledger empty, because its statistics are older than its rows."""
    devices = ENDPOINTS["patient_devices"]
    monkeypatch.setattr(Explained, "plans", [], raising=False)
    with connect(database, autocommit=True) as conn:
        conn.execute("insert into dw_api_credentials (id, instance_name) values (1, 'default') on conflict do nothing")
        conn.execute("analyze dw_etl_parents")
        conn.execute(
            "insert into dim_patients_staging (source_instance_id, parent_source_id, source_id, data)"
            " select 1, '', g::text, '{}' from generate_series(1, 300) as g"
        )
        conn.execute(
            "insert into dw_etl_parents (job_id, source_instance_id, parent_key, status, etl_run_id, fetched_at)"
            " select %s, 1, g::text, 'fetched', 1, now() from generate_series(1, 300) as g",
            (devices.job_id,),
        )
        for way in ("hashjoin", "mergejoin", "seqscan"):  # as the session that stages has them
            conn.execute(f"set enable_{way} = off".encode())
        conn.cursor_factory = Explained
        compare(conn, devices, "dim_patients_staging", 1)
        assert Explained.plans and "dw_etl_parents" in Explained.plans[0]
        assert "Removed by Join Filter" not in Explained.plans[0]
        conn.cursor_factory = psycopg.Cursor
        assert conn.execute("select current_setting('enable_nestloop')").fetchone() == ("on",)
        assert conn.execute("select current_setting('enable_hashjoin')").fetchone() == ("off",)
