"""The instance's own OpenAPI document (Swagger 2.0 or OpenAPI 3), held against the catalog.

Paths are compared without the names of their parameters; of the models only what a job relies on is looked at: the key,
the cursor and the fields that name a parent. The document is the vendor's word, not the instance's deed: what it says
makes warnings and notes, while what an endpoint answers is found out by probing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from clinical_conductor.catalog import Endpoint
from clinical_conductor.client import Client
from clinical_conductor.errors import TrialSyncError

DOCUMENT_PATHS = ("/api/docs/v1", "/swagger/docs/v1", "/api/docs")
_SCALARS = frozenset({"integer", "string", "number"})
_WRAPPERS = ("items", "value", "content")

Json = Mapping[str, Any]


@dataclass
class Comparison:
    """What a document says that the catalog does not."""

    path: str
    """Where the document is."""
    paths: int
    absent: list[str] = field(default_factory=list)
    """Active resources of which the document has no path."""
    elsewhere: dict[str, str] = field(default_factory=dict)
    """Active resources of which it has only another known path."""
    new: list[str] = field(default_factory=list)
    """Lists that the catalog does not know."""
    fields: list[tuple[str, str]] = field(default_factory=list)
    """(resource, what is the matter with its model)."""


def find_document(client: Client) -> tuple[str, Json] | None:
    """The document and its path, at one of the usual places; None if it is at none of them."""
    asker = client.scoped()
    asker.settings = replace(client.settings, max_retries=0)
    for path in DOCUMENT_PATHS:
        try:
            document = json.loads(asker.fetch(path).body)
        except (TrialSyncError, ValueError, RecursionError):
            continue
        if isinstance(document, dict) and isinstance(document.get("paths"), dict):
            return path, document
    return None


def compare(where: str, document: Json, rows: Iterable[Endpoint]) -> Comparison:
    """Hold a document against rows of the catalog."""
    operations = {
        _plain(path): item["get"]
        for path, item in document["paths"].items()
        if isinstance(item, dict) and isinstance(item.get("get"), dict)
    }
    result = Comparison(where, len(document["paths"]))
    rows = list(rows)
    known: set[str] = set()
    for row in rows:
        known.update(map(_plain, (*row.paths, *([row.bulk.path] if row.bulk else []))))
        if not row.active:
            continue
        path = next((path for path in row.paths if _plain(path) in operations), None)
        if path is None:
            result.absent.append(row.resource)
            continue
        if path != row.path:
            result.elsewhere[row.resource] = path
        result.fields += [
            (row.resource, text) for text in _faults(row, _answer(document, operations[_plain(path)]), document)
        ]
    result.new = sorted(
        _original(document, path)
        for path, operation in operations.items()
        if path not in known and _record(_answer(document, operation), document)[1]
    )
    return result


def _plain(path: str) -> str:
    """A path from /api on, in lower case, without the names of its parameters.

    >>> _plain("/CCSWEB/api/v1/Studies/{id}/arms/")
    '/api/v1/studies/{}/arms'
    """
    path = re.sub(r"{[^}]*}", "{}", path.rstrip("/").lower())
    return path[max(path.find("/api/"), 0) :]


def _original(document: Json, plain: str) -> str:
    """A path as the document spells it; names only, so that nothing else gets into a report."""
    return next(re.sub(r"[^\w/{}.-]", "?", path)[:120] for path in document["paths"] if _plain(path) == plain)


def _answer(document: Json, operation: Json) -> Json:
    """The schema of an operation's successful answer; {} where there is none."""
    responses = operation.get("responses")
    success = responses.get("200") if isinstance(responses, dict) else None
    success = _follow(success, document)
    if isinstance(success.get("content"), dict):  # OpenAPI 3
        media = next((m for name, m in success["content"].items() if "json" in name), None)
        success = media if isinstance(media, dict) else {}
    return _follow(success.get("schema"), document)


def _follow(schema: Any, document: Json) -> Json:
    """A schema, through its references and through the only part of an allOf."""
    for _ in range(10):
        if not isinstance(schema, dict):
            return {}
        reference = schema.get("$ref")
        parts = schema.get("allOf")
        if isinstance(reference, str) and reference.startswith("#/"):
            found: Any = document
            for step in reference[2:].split("/"):
                step = step.replace("~1", "/").replace("~0", "~")
                found = found.get(step) if isinstance(found, dict) else None
            schema = found
        elif isinstance(parts, list) and len(parts) == 1:
            schema = parts[0]
        else:
            return schema
    return {}


def _record(schema: Json, document: Json) -> tuple[Json, bool]:
    """The schema of one record of an answer, and whether the answer is a list of them."""
    if schema.get("type") == "array":
        return _follow(schema.get("items"), document), True
    for name, inner in _properties(schema, document).items():
        if name.lower() in _WRAPPERS and inner.get("type") == "array":
            return _follow(inner.get("items"), document), True
    return schema, False


def _properties(schema: Json, document: Json) -> dict[str, Json]:
    """The fields of an object, those of all parts of an allOf together."""
    found: dict[str, Json] = {}
    for part in schema.get("allOf") or ():
        found.update(_properties(_follow(part, document), document))
    own = schema.get("properties")
    found.update({name: _follow(inner, document) for name, inner in own.items()} if isinstance(own, dict) else {})
    return found


def _type(schema: Json) -> str:
    """A schema's type; of OpenAPI 3.1's lists the one that is not null."""
    kind = schema.get("type", "")
    if isinstance(kind, list):
        kind = next((item for item in kind if item != "null"), "")
    return str(kind)


def _faults(row: Endpoint, answer: Json, document: Json) -> Iterator[str]:
    """What of a model a job could not rely on."""
    record, listed = _record(answer, document)
    if row.single and listed:
        yield "the document says a list, the catalog one object"
    if not row.single and answer and not listed and _properties(record, document):
        yield "the document says one object, the catalog a list"
    if not _properties(record, document):
        return
    needed = row.key.fields if row.key.rule == "fields" else ()
    for name in (*needed, *row.parent_fields):
        found = _field(record, name, document)
        if found is None:
            yield f"the field {name} is gone from its model"
        elif _type(found) not in _SCALARS:
            yield f"the field {name} has become {_type(found) or 'something without a type'}"
    for name in row.cursor:
        found = _field(record, name, document)
        if found is not None and _type(found) != "string":
            yield f"the cursor {name} is no longer a date but {_type(found) or 'something without a type'}"


def _field(schema: Json, dotted: str, document: Json) -> Json | None:
    """A field by its dotted name, in whichever case; None if it is not there."""
    for part in dotted.split("."):
        fields = {name.lower(): inner for name, inner in _properties(schema, document).items()}
        if part.lower() not in fields:
            return None
        schema = fields[part.lower()]
    return schema
