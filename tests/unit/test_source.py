"""The dlt source: what it is made of, and where its settings come from."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
import requests_mock

import clinical_conductor as package
from clinical_conductor.catalog import ENDPOINTS
from clinical_conductor.errors import ConfigurationError, EndpointNotFound, Unauthorised
from clinical_conductor.scripting import ClinicalConductorClient
from clinical_conductor.source import (
    Record,
    _moment,
    clinical_conductor,
    describe,
    endpoints,
    primary_key,
    sample,
)

URL = "https://ccs.example.com/CCSWEB"
LOGIN = {"base_url": URL, "api_key": "k", "rate_limit": 0.0}


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings but those a test gives."""
    monkeypatch.chdir(tmp_path)
    for name in ("CC_API_BASE_URL", "CC_API_KEY", "CC_API_KEY_HEADER", "CC_API_RATE_LIMIT", "ETL_BATCH_SIZE"):
        monkeypatch.delenv(name, raising=False)


def test_one_resource_per_active_endpoint() -> None:
    source = clinical_conductor(**LOGIN)
    assert set(source.selected_resources) == {row.resource for row in ENDPOINTS.values() if row.active}
    for row in ENDPOINTS.values():
        if row.active:
            resource = source.resources[row.resource]
            assert resource.write_disposition == "merge"
            assert resource.is_transformer is (row.parent is not None)
            assert row.path in (resource.__doc__ or "")
            assert list(resource.compute_table_schema()["columns"]) == primary_key(row)


def test_parents_come_along_unselected() -> None:
    source = clinical_conductor(**LOGIN, resources=["subject_patient_visits", "sites"])
    assert set(source.resources) == {"studies", "subjects", "subject_patient_visits", "sites"}
    assert set(source.selected_resources) == {"subject_patient_visits", "sites"}


def test_only_listings_without_chosen_children_are_incremental() -> None:
    def incremental(**given: Any) -> set[str]:
        return {name for name, made in clinical_conductor(**LOGIN, **given).resources.items() if made.incremental}

    assert incremental(resources=["studies", "patients", "sites"]) == {"studies", "patients"}
    assert incremental(resources=["studies", "subjects"]) == set()


def test_an_inactive_endpoint_can_be_asked_for() -> None:
    assert set(clinical_conductor(**LOGIN, resources="monitor_queries").selected_resources) == {"monitor_queries"}


def test_a_typo_suggests_the_right_name() -> None:
    with pytest.raises(ConfigurationError, match="Did you mean 'patients'"):
        clinical_conductor(**LOGIN, resources="pateints")


def test_nothing_configured() -> None:
    with pytest.raises(ConfigurationError, match="CC_API_BASE_URL is not set"):
        clinical_conductor()
    with pytest.raises(ConfigurationError, match="CC_API_KEY is not set"):
        clinical_conductor(base_url=URL)


def ask(**given: Any) -> requests_mock.request._RequestObjectProxy:
    with requests_mock.Mocker() as api:
        api.get(requests_mock.ANY, json=[{"id": 1}])
        assert list(clinical_conductor(resources="sites", **given)) == [{"id": 1}]
        return api.request_history[0]


def test_the_briefs_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC_API_BASE_URL", URL)
    monkeypatch.setenv("CC_API_KEY", "from the environment")
    monkeypatch.setenv("CC_API_KEY_HEADER", "CCAPIKey")
    monkeypatch.setenv("API_KEY", "somebody else's")
    monkeypatch.setenv("BASE_URL", "https://other.example.com")
    sent = ask()
    assert sent.url == f"{URL}/api/v1/sites"
    assert sent.headers["CCAPIKey"] == "from the environment"


def test_a_dotenv_file() -> None:
    Path(".env").write_text(f"CC_API_BASE_URL={URL}\nCC_API_KEY=from-dotenv\n")
    assert ask().headers["X-ApiKey"] == "from-dotenv"


def test_dlts_names_outrank_them_and_arguments_outrank_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CC_API_BASE_URL", "https://other.example.com")
    monkeypatch.setenv("CC_API_KEY", "brief")
    monkeypatch.setenv("SOURCES__CLINICAL_CONDUCTOR__BASE_URL", URL)
    monkeypatch.setenv("SOURCES__CLINICAL_CONDUCTOR__API_KEY", "dlt")
    assert ask().headers["X-ApiKey"] == "dlt"
    assert ask(api_key="argument").headers["X-ApiKey"] == "argument"


def test_telemetry_is_off() -> None:
    import os

    assert os.environ["RUNTIME__DLTHUB_TELEMETRY"] == "false"


def test_records_answer_for_their_cursor() -> None:
    record = Record({"id": 1, "lastUpdatedOn": "2026-01-01T01:00:00+01:00"}, ("modifiedDate", "lastUpdatedOn"))
    assert record["cursor_utc"] == datetime(2026, 1, 1, tzinfo=UTC)
    assert dict(record) == {"id": 1, "lastUpdatedOn": "2026-01-01T01:00:00+01:00"}
    for fields in ({}, {"modifiedDate": None}, {"modifiedDate": "yesterday"}, {"modifiedDate": 5}):
        with pytest.raises(KeyError):
            Record(fields, ("modifiedDate",))["cursor_utc"]


def test_moments() -> None:
    expected = datetime(2026, 1, 31, tzinfo=UTC)
    for given in ("2026-01-31", date(2026, 1, 31), datetime(2026, 1, 31), expected, "2026-01-31T01:00:00+01:00"):  # noqa: DTZ001
        assert _moment(given) == expected
    assert _moment(None) is None
    with pytest.raises(ConfigurationError, match="not a time"):
        _moment("tomorrow")


def test_the_catalog_as_a_table() -> None:
    rows = {row["resource"]: row for row in endpoints()}
    assert len(rows) == len(ENDPOINTS)
    assert rows["subjects"] == {
        "resource": "subjects",
        "job_id": 10,
        "category": "subjects",
        "path": "/api/v1/studies/{studyId}/subjects/odata",
        "parent": "studies",
        "key": "id",
        "cursor": "modifiedDate",
        "active": True,
        "why_not": None,
    }


def test_docstrings_say_what_one_needs_to_know() -> None:
    assert describe(ENDPOINTS["study_personnel"]).splitlines()[2:] == [
        "Key: Role.Id within its parent.",
        "Cursor: none.",
        "Parent: studies.",
    ]
    assert "Inactive: " in describe(ENDPOINTS["users"])


def test_the_package_offers_it() -> None:
    assert package.clinical_conductor is clinical_conductor
    assert package.sample is sample
    assert package.endpoints() == endpoints()
    assert package.ClinicalConductorClient is ClinicalConductorClient


# The client by path.


def test_get_and_its_relatives() -> None:
    client = ClinicalConductorClient(URL, "k", api_rate_limit=0.0)
    with requests_mock.Mocker() as api:
        api.get(f"{URL}/api/v1/instance/details", json={"version": "1", "value": 3})
        assert client.get("api/v1/instance/details", {"a": "b c"}) == {"version": "1", "value": 3}
        assert api.request_history[-1].url.endswith("?a=b%20c")
        api.get(f"{URL}/api/v1/studies/odata", json={"Items": [{"id": 1}], "Count": 1})
        assert client.get_odata("studies", "id ge 1", top=5) == [{"id": 1}]
        assert api.request_history[-1].url.endswith("?$filter=id%20ge%201&$top=5")
        assert list(client.get_paginated("/api/v1/studies/odata")) == [{"id": 1}]
        api.get(f"{URL}/api/v1/anything/odata", text='[{"name":"no id"},{"id":1,"a":"\\u0000"}]')
        assert list(client.get_paginated("/api/v1/anything/odata")) == [{"name": "no id"}, {"id": 1, "a": "\0"}]
        api.get(f"{URL}/api/v1/studies/7/arms", json=[{"Id": 2}])
        assert client.get_with_parameters("study_arms", {"studyId": 7}) == [{"Id": 2}]
        with pytest.raises(ConfigurationError, match="studyId"):
            client.get_with_parameters("study_arms", {})


def test_a_404_by_path_speaks_of_the_path_and_of_no_job() -> None:
    client = ClinicalConductorClient(URL, "k", api_rate_limit=0.0)
    with requests_mock.Mocker() as api:
        api.get(requests_mock.ANY, status_code=404)
        with pytest.raises(EndpointNotFound) as caught:
            client.get_with_parameters("study_arms", {"studyId": 4711})
        assert "/api/v1/studies/{studyId}/arms: the API answered 404. Either nothing has these values" in str(
            caught.value
        )
        assert "4711" not in str(caught.value) and "job" not in str(caught.value)
        with pytest.raises(EndpointNotFound, match="Check the path"):
            client.get("/api/v1/anything")


def test_what_the_client_says_comes_out_of_sample_unwrapped() -> None:
    with requests_mock.Mocker() as api:
        api.get(requests_mock.ANY, status_code=401)
        with pytest.raises(Unauthorised, match="CC_API_KEY"):
            sample("sites", 1, **LOGIN)


def test_no_resources_are_not_all_resources() -> None:
    for nothing in ([], (), ""):
        with pytest.raises(ConfigurationError, match="resources is empty"):
            clinical_conductor(resources=nothing, **LOGIN)
