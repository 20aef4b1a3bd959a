"""The dlt source against a simulated instance, loaded into DuckDB."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import dlt
import duckdb
import pytest

from clinical_conductor.errors import ConfigurationError
from clinical_conductor.scripting import ClinicalConductorClient
from clinical_conductor.simulator import Simulator
from clinical_conductor.source import clinical_conductor, sample


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """dlt works in a directory of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RUNTIME__LOG_LEVEL", "CRITICAL")
    yield
    dlt.pipeline().deactivate()


def source(simulator: Simulator, *resources: str, **given: Any) -> Any:
    return clinical_conductor(
        base_url=simulator.base_url, api_key=simulator.api_key, rate_limit=0.0, resources=list(resources), **given
    )


def load(simulator: Simulator, *resources: str, **given: Any) -> dict[str, int]:
    """Load into DuckDB; returns the rows that this load carried, per resource."""
    pipeline = dlt.pipeline(
        "ccs", pipelines_dir="pipelines", destination=dlt.destinations.duckdb("loaded.duckdb"), dataset_name="ccs"
    )
    pipeline.run(source(simulator, *resources, **given))
    counts: dict[str, int] = pipeline.last_trace.last_normalize_info.row_counts
    return {name: counts.get(name, 0) for name in resources}


def query(text: str) -> list[tuple[Any, ...]]:
    with duckdb.connect("loaded.duckdb") as connection:
        return connection.execute(text).fetchall()


def test_records_are_as_served_with_their_parent_beside(simulator: Simulator) -> None:
    truth = [(parent, json.loads(record)) for parent, record in simulator.truth("subjects")]
    served = list(source(simulator, "subjects"))
    assert [{k: v for k, v in row.items() if k != "parent_source_id"} for row in served] == [row for _, row in truth]
    assert [row["parent_source_id"] for row in served] == [parent for parent, _ in truth]


def test_every_shape_loads_and_loads_again(simulator: Simulator) -> None:
    names = (
        "studies",
        "subjects",
        "subject_patient_visits",  # two levels down
        "patients",
        "patient_allergies",
        "patient_visits",  # a listing that names its parents
        "instance_details",  # one object
        "system_lookup_lists",  # bare texts
        "subject_statuses",  # no identity
        "study_personnel",  # a nested key
        "study_integration_info",  # one object per parent
        "system_organizations",  # Id
        "visit_elements_by_study",
    )
    first = load(simulator, *names)
    for name in names:
        served = sum(1 for _ in simulator.truth(name))
        assert first[name] == served, name
        assert query(f"select count(*) from ccs.{name}") == [(served,)], name
    load(simulator, *names)
    for name in names:
        assert query(f"select count(*) from ccs.{name}") == [(first[name],)], name


def test_only_what_changed_is_asked_for_again(simulator: Simulator) -> None:
    total = load(simulator, "patients")["patients"]
    assert load(simulator, "patients")["patients"] < total / 2  # those within the lag
    simulator.advance(days=3, change=0)
    key = next(str(json.loads(record)["id"]) for _, record in simulator.truth("patients"))
    simulator.edit("patients", "", key, firstName="Changed")
    assert load(simulator, "patients")["patients"] < total / 2
    assert query(f"select first_name from ccs.patients where id = {key}") == [("Changed",)]
    assert query("select count(*) from ccs.patients") == [(total,)]
    assert any("modifiedDate%20ge%20" in request.query for request in simulator.log)


def test_a_childs_change_is_found_though_its_parent_did_not_change(simulator: Simulator) -> None:
    load(simulator, "subjects")
    simulator.advance(days=3, change=0)
    parent, record = next(simulator.truth("subjects"))
    key = str(json.loads(record)["id"])
    simulator.edit("subjects", parent, key, status="Changed")
    load(simulator, "subjects")
    assert query(f"select status from ccs.subjects where id = {key}") == [("Changed",)]


def test_without_a_cursor_everything_loads_every_time(simulator_factory: Callable[..., Simulator]) -> None:
    simulator = simulator_factory(modified_date=False)
    total = sum(1 for _ in simulator.truth("patients"))
    assert load(simulator, "patients")["patients"] == total
    assert load(simulator, "patients")["patients"] == total


def test_a_window_keeps_no_state(simulator: Simulator) -> None:
    simulator.advance(days=10, change=0.3)
    since, until = simulator.now - timedelta(days=8), simulator.now - timedelta(days=3)

    def inside(resource: str) -> int:
        times = [json.loads(record)["modifiedDate"].rstrip("Z") for _, record in simulator.truth(resource)]
        first, last = since.strftime("%Y-%m-%dT%H:%M:%S"), until.strftime("%Y-%m-%dT%H:%M:%S")
        return sum(first <= time < last for time in times)

    for resource in ("patients", "subjects"):
        for _ in range(2):
            assert load(simulator, resource, since=since, until=until)[resource] == inside(resource)


def test_limits_filters_and_samples(simulator: Simulator, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(list(source(simulator, "patients", limit=3))) == 3
    assert len(list(source(simulator, "patient_allergies", limit=3))) == 3
    keys = [json.loads(record)["id"] for _, record in simulator.truth("patients")]
    assert [row["id"] for row in source(simulator, "patients", filters=f"id le {keys[2]}")] == keys[:3]
    assert [row["id"] for row in source(simulator, "patients", filters={"patients": f"id eq {keys[2]}"})] == keys[2:3]
    monkeypatch.setenv("CC_API_BASE_URL", simulator.base_url)
    monkeypatch.setenv("CC_API_KEY", simulator.api_key)
    rows = sample("patients", 2)
    assert [row["id"] for row in rows] == keys[:2]
    assert type(rows[0]) is dict
    assert len(sample("subjects", 4)) == 4


def test_arguments_that_cannot_be_meant_are_refused(simulator: Simulator) -> None:
    client = ClinicalConductorClient(simulator.base_url, simulator.api_key)
    for call in (client.get, client.get_odata, lambda name: list(client.get_paginated(name))):
        with pytest.raises(ConfigurationError, match="needs a parent's key"):
            call("study_arms")
    for size in (0, 1001):
        with pytest.raises(ConfigurationError, match="page_size"):
            list(client.get_paginated("sites", page_size=size))
    with pytest.raises(ConfigurationError, match="filters names patients"):
        source(simulator, "studies", filters={"patients": "id eq 1"})
    with pytest.raises(ConfigurationError, match="no resource 'studeis'"):
        source(simulator, "studies", filters={"studeis": "id eq 1"})
    with pytest.raises(ConfigurationError, match="workers is 0"):
        source(simulator, "studies", workers=0)
    with pytest.raises(ConfigurationError, match="n is -1"):
        sample("sites", -1, base_url=simulator.base_url, api_key=simulator.api_key)


def test_a_parent_that_is_gone_is_left_out(simulator: Simulator, caplog: pytest.LogCaptureFixture) -> None:
    parents = dict.fromkeys(parent for parent, _ in simulator.truth("subjects"))
    gone = next(iter(parents))
    simulator.fault("not-found", path=f"/studies/{gone}/subjects")
    served = {row["parent_source_id"] for row in source(simulator, "subjects")}
    assert served == set(parents) - {gone}
    assert "left out" in caplog.text


def test_what_cannot_be_stored_is_said(simulator: Simulator, caplog: pytest.LogCaptureFixture) -> None:
    simulator.fault("no-id", resource="patients", every=3)
    total = sum(1 for _ in simulator.truth("patients"))
    assert 0 < len(list(source(simulator, "patients"))) < total
    assert "records are left out, because each has no usable key in id" in caplog.text


def test_duckdb_without_a_postgresql_driver(simulator: Simulator, tmp_path: Path) -> None:
    script = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("psycopg", "psycopg2", "psycopg_binary", "asyncpg"):
            raise ImportError(name + " is blocked")

sys.meta_path.insert(0, Blocked())
from clinical_conductor import clinical_conductor
import dlt
pipeline = dlt.pipeline("bare", pipelines_dir="p", destination=dlt.destinations.duckdb("bare.duckdb"), dataset_name="d")
pipeline.run(clinical_conductor(resources=["sites", "studies", "subjects"]))
print(pipeline.last_trace.last_normalize_info.row_counts["subjects"])
assert "psycopg" not in sys.modules
"""
    environment = {
        **os.environ,
        "CC_API_BASE_URL": simulator.base_url,
        "CC_API_KEY": simulator.api_key,
        "PYTHONPATH": str(Path(__file__).parents[2]),
    }
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(sum(1 for _ in simulator.truth("subjects")))
