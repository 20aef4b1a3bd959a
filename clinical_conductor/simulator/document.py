"""The instance's own OpenAPI document (Swagger 2.0, as the vendor writes it): its paths, and the models behind them.

Worked out from what is served: the paths of this instance, and the fields of each table's first records.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from clinical_conductor.simulator.routes import Route
from clinical_conductor.simulator.rows import Rows
from clinical_conductor.simulator.world import World

DOCUMENT_PATH = "/api/docs/v1"
_LOOKED_AT = 20
_TIME = re.compile(r"\d{4}-\d\d-\d\dT")


def write_document(world: World, routes: Iterable[Route], base_path: str) -> dict[str, Any]:
    """The document of an instance that serves these routes."""
    models: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    for route in routes:
        if route.table not in models:
            models[route.table] = _model(_first_records(world.tables[route.table]))
        answer: dict[str, Any] = {"$ref": f"#/definitions/{route.table}"}
        if not route.single:
            answer = {"type": "array", "items": answer}
            if route.odata and not route.bare:
                models[f"PageResult.{route.table}"] = {
                    "type": "object",
                    "properties": {
                        "Items": answer,
                        "NextPageLink": {"type": "string", "format": "uri"},
                        "Count": {"type": "integer", "format": "int64"},
                    },
                }
                answer = {"$ref": f"#/definitions/PageResult.{route.table}"}
        paths[f"/api/v1{route.path}"] = {
            "get": {
                "operationId": re.sub(r"\W+", "_", route.path.strip("/")),
                "parameters": [
                    {"name": name, "in": "path", "required": True, "type": "string"}
                    for name in re.findall(r"{(\w+)}", route.path)
                ],
                "responses": {"200": {"description": "OK", "schema": answer}},
            }
        }
    return {
        "swagger": "2.0",
        "info": {"title": "Clinical Conductor Web API", "version": "v1"},
        "basePath": base_path,
        "paths": paths,
        "definitions": models,
    }


def _first_records(rows: Rows) -> list[Any]:
    """Some records of a table; a text is a record too."""
    return [json.loads(rows.record(row)) for row in rows.of(None)[:_LOOKED_AT]]


def _model(values: Sequence[Any]) -> dict[str, Any]:
    """The schema that these values have in common."""
    known = [value for value in values if value is not None]
    if not known:
        return {"type": "string"}
    first = known[0]
    if isinstance(first, dict):
        names = list(dict.fromkeys(name for value in known for name in value))
        return {"type": "object", "properties": {name: _model([value.get(name) for value in known]) for name in names}}
    if isinstance(first, list):
        return {"type": "array", "items": _model([item for value in known for item in value])}
    if isinstance(first, bool):
        return {"type": "boolean"}
    if isinstance(first, int | float):
        whole = all(isinstance(value, int) for value in known)
        return {"type": "integer", "format": "int32"} if whole else {"type": "number", "format": "double"}
    return {"type": "string", "format": "date-time"} if _TIME.match(first) else {"type": "string"}
