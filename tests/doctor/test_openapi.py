"""An instance's OpenAPI document against the catalog."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from clinical_conductor.catalog import ENDPOINTS
from clinical_conductor.openapi import compare, find_document
from clinical_conductor.probing import Witness
from clinical_conductor.simulator import Simulator
from tests.doctor.test_doctor import settings_for


def client_of(upstream: Simulator) -> Witness:
    """A client of a simulator."""
    return Witness(settings_for(upstream))


@pytest.fixture
def document(simulator: Simulator) -> dict[str, Any]:
    """The simulator's document, to be changed at will."""
    return deepcopy(simulator.api.document)


def test_the_document_is_found_and_agrees(simulator: Simulator) -> None:
    found = find_document(client_of(simulator))
    assert found is not None
    path, document = found
    result = compare(path, document, ENDPOINTS.values())
    assert (result.path, result.paths) == ("/api/docs/v1", len(document["paths"]))
    assert (result.absent, result.elsewhere, result.new, result.fields) == ([], {}, [], [])


def test_without_a_document_there_is_none(simulator_factory: Callable[..., Simulator]) -> None:
    assert find_document(client_of(simulator_factory(document=False))) is None
    for nonsense in ([1], {"paths": []}, "text"):
        upstream = simulator_factory()
        vars(upstream.api)["document"] = nonsense
        assert find_document(client_of(upstream)) is None


def test_what_the_document_lacks_and_what_is_new(document: dict[str, Any]) -> None:
    paths = document["paths"]
    del paths["/api/v1/rooms/odata"]
    del paths["/api/v1/system/study-statuses"]
    paths["/api/v1/visits/{visitId}/scans/odata"] = deepcopy(paths["/api/v1/sponsors/odata"])
    paths["/api/v1/visits/{visitId}/scans/latest"] = deepcopy(paths["/api/v1/instance/details"])
    paths["/api/v1/Jane Doe <script>"] = deepcopy(paths["/api/v1/sites"])
    paths["/api/v1/sites/import"] = {"post": {}}
    result = compare("/api/docs", document, ENDPOINTS.values())
    assert result.absent == ["rooms"]
    assert result.elsewhere == {"system_study_statuses": "/api/v1/system/study-statuses/odata"}
    assert result.new == ["/api/v1/Jane?Doe??script?", "/api/v1/visits/{visitId}/scans/odata"]


def test_what_has_become_of_keys_cursors_and_parents(document: dict[str, Any]) -> None:
    models = document["definitions"]
    del models["rooms"]["properties"]["id"]
    models["sponsors"]["properties"]["id"] = {"type": "object", "properties": {"value": {"type": "string"}}}
    models["staff"]["properties"]["modifiedDate"] = {"type": "integer"}
    del models["patient_visits"]["properties"]["study"]["properties"]["id"]
    document["paths"]["/api/v1/instance/details"]["get"]["responses"]["200"]["schema"] = {
        "type": "array",
        "items": {"$ref": "#/definitions/instance_details"},
    }
    document["paths"]["/api/v1/sites"]["get"]["responses"]["200"]["schema"] = {"$ref": "#/definitions/sites"}
    faults = compare("/api/docs", document, ENDPOINTS.values()).fields
    assert set(faults) == {
        ("rooms", "the field id is gone from its model"),
        ("sponsors", "the field id has become object"),
        ("staff", "the cursor modifiedDate is no longer a date but integer"),
        ("patient_visits", "the field study.id is gone from its model"),
        ("instance_details", "the document says a list, the catalog one object"),
        ("sites", "the document says one object, the catalog a list"),
    }


def test_openapi_3_is_read_as_well() -> None:
    document = {
        "openapi": "3.1.0",
        "servers": [{"url": "/CCSWEB"}],
        "paths": {
            "/ccsweb/api/v1/Rooms/odata/": {
                "get": {
                    "responses": {
                        "200": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/RoomPage"}}}}
                    }
                }
            },
            "/api/v1/sites": {"get": {"responses": {"200": {"$ref": "#/components/responses/Sites"}}}},
        },
        "components": {
            "responses": {
                "Sites": {
                    "content": {
                        "application/json": {
                            "schema": {"type": "array", "items": {"$ref": "#/components/schemas/Named"}}
                        }
                    }
                }
            },
            "schemas": {
                "RoomPage": {
                    "properties": {"Items": {"type": "array", "items": {"$ref": "#/components/schemas/Room"}}}
                },
                "Named": {"type": "object", "properties": {"name": {"type": "string"}}},
                "Room": {
                    "allOf": [
                        {"$ref": "#/components/schemas/Named"},
                        {"type": "object", "properties": {"ID": {"type": ["null", "integer"]}}},
                    ]
                },
            },
        },
    }
    result = compare("/openapi.json", document, [ENDPOINTS["rooms"], ENDPOINTS["sites"]])
    assert result.absent == []
    assert result.fields == [("sites", "the field id is gone from its model")]


@pytest.mark.parametrize(
    "answer",
    [
        None,
        [],
        {"200": None},
        {"200": {"schema": {"$ref": "#/definitions/loop"}}},
        {"200": {"schema": {"$ref": "http://x"}}},
    ],
)
def test_a_document_that_says_little_is_no_trouble(answer: Any) -> None:
    document = {
        "paths": {"/api/v1/rooms/odata": {"get": {"responses": answer}}, "/api/v1/odd": "text"},
        "definitions": {"loop": {"$ref": "#/definitions/loop"}},
    }
    result = compare("/api/docs", json.loads(json.dumps(document)), [ENDPOINTS["rooms"]])
    assert (result.absent, result.new, result.fields) == ([], [], [])
