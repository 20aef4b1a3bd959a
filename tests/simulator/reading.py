"""A plain reader of the simulated API: no part of the product, so that it can contradict it."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote

import requests

from clinical_conductor.simulator import Simulator, SimulatorProcess

session = requests.Session()
session.trust_env = False


def get(simulator: Simulator | SimulatorProcess, path: str, **options: object) -> requests.Response:
    """GET a path below /api/v1; options become $options, percent-encoded."""
    query = "&".join(f"${name}={quote(str(value), safe='')}" for name, value in options.items())
    url = f"{simulator.base_url}/api/v1{path}{'?' if query else ''}{query}"
    return session.get(url, headers={"X-ApiKey": simulator.api_key}, timeout=10)


def listed(simulator: Simulator | SimulatorProcess, path: str, **options: object) -> list[Any]:
    """The records of one answer, whatever the envelope."""
    answer = get(simulator, path, **options)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    if isinstance(body, list):
        return body
    return next(body[name] for name in ("Items", "items", "value") if name in body)


def ids(records: list[Any]) -> list[Any]:
    """Their ids."""
    return [record["id"] for record in records]


def everything(simulator: Simulator, resource: str) -> list[tuple[str, Any]]:
    """The truth of a resource, decoded."""
    return [(parent, json.loads(record)) for parent, record in simulator.truth(resource)]
