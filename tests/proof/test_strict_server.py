"""Against an OData v4 server that takes the standard at its word, and none of whose code is the simulator's.

It answers 400 to a query that is not percent-encoded or holds a "+", to unknown options and properties, to literals of
the wrong type and to a $top above 1000. It cuts pages at 20 records, and its next links are relative and opaque.
"""

from __future__ import annotations

import json
import re
import threading
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote
from uuid import UUID

import pytest

from tests.fixtures.pipeline import KEY, Pipeline

PAGE = 20
BASE = "/tenant-7/CCSWEB"
ENCODED = re.compile(r"(?:[A-Za-z0-9\-._~!$'()*,;:@/?=&]|%[0-9A-Fa-f]{2})*")
TERM = re.compile(r"(\w+) (eq|ne|gt|ge|lt|le) (\S+)")
COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
}


class Refused(Exception):
    """The request is one that the standard does not allow."""


@dataclass
class StrictServer:
    """Entity sets by path below the base; a record's own values tell the types of its properties."""

    sets: dict[str, list[dict[str, Any]]]
    next_link: str = "{name}?{query}"
    """How next links are written: relative to the path."""
    resources: dict[str, list[tuple[str, str]]] = field(default_factory=dict)
    """For `truth`: resource → (parent, path) of the sets it is read from."""
    refusals: list[str] = field(default_factory=list)
    requests: int = 0

    def __enter__(self) -> StrictServer:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                """Quiet."""

            def do_GET(self) -> None:
                status, body = outer.answer(self.path, self.headers.get("CCAPIKey"))
                text = json.dumps(body, ensure_ascii=False).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json; odata.metadata=minimal")
                self.send_header("OData-Version", "4.0")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def base_url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self._server.server_port}{BASE}"

    def truth(self, resource: str) -> Iterator[tuple[str, bytes]]:
        """All that it serves for a resource."""
        for parent, path in self.resources[resource]:
            for record in self.sets[path]:
                yield parent, json.dumps(record).encode()

    def answer(self, target: str, key: str | None) -> tuple[int, Any]:
        """Status and body for a request."""
        self.requests += 1
        path, _, query = target.partition("?")
        if key != KEY:
            return 401, {"error": {"code": "Unauthorized", "message": "no key"}}
        records = self.sets.get(unquote(path).removeprefix(BASE))
        if records is None or not path.startswith(BASE):
            return 404, {"error": {"code": "NotFound", "message": "no such entity set"}}
        try:
            return 200, self.page(path, records, query)
        except Refused as error:
            self.refusals.append(str(error))
            return 400, {"error": {"code": "BadRequest", "message": str(error)}}

    def page(self, path: str, records: list[dict[str, Any]], query: str) -> dict[str, Any]:
        """The page that a query is about."""
        if not ENCODED.fullmatch(query):
            raise Refused(f"the query is not percent-encoded: {query}")
        pairs = [pair.partition("=") for pair in query.split("&") if pair]
        options = {unquote(name): unquote(value) for name, _, value in pairs}
        if len(options) != len(pairs):
            raise Refused("an option is given twice")
        if "$skiptoken" in options:
            options = json.loads(urlsafe_b64decode(options["$skiptoken"]))
        if unknown := options.keys() - {"$top", "$skip", "$filter", "$orderby", "$count", "after"}:
            raise Refused(f"unknown options: {unknown}")
        types = {name: type(value) for record in records for name, value in record.items()}
        found = [record for record in records if self.matches(record, options.get("$filter", ""), types)]
        for name, direction in reversed(list(self.order(options.get("$orderby", "id"), types))):
            found.sort(key=lambda record: record[name], reverse=direction == "desc")
        answer: dict[str, Any] = {"@odata.context": f"{BASE}/$metadata#set"}
        if self.flag(options.get("$count", "false")):
            answer["@odata.count"] = len(found)
        start = self.natural(options.get("after", options.get("$skip", "0")))
        top = min(self.natural(options.get("$top", "1000")), 1000)
        if self.natural(options.get("$top", "0")) > 1000:
            raise Refused("$top is above 1000")
        served = found[start : start + min(top, PAGE)]
        answer["value"] = served
        if top > PAGE and len(found) > start + PAGE:
            left = {**options, "after": str(start + PAGE), "$top": str(top - PAGE)}
            token = "$skiptoken=" + urlsafe_b64encode(json.dumps(left).encode()).decode().replace("=", "%3D")
            answer["@odata.nextLink"] = self.next_link.format(name=path.rsplit("/", 1)[-1], path=path, query=token)
        return answer

    @staticmethod
    def natural(text: str) -> int:
        """A number of an option."""
        if not re.fullmatch(r"\d+", text):
            raise Refused(f"not a number: {text}")
        return int(text)

    @staticmethod
    def flag(text: str) -> bool:
        """A truth value of an option."""
        if text not in ("true", "false"):
            raise Refused(f"neither true nor false: {text}")
        return text == "true"

    @staticmethod
    def order(text: str, types: dict[str, type]) -> Iterator[tuple[str, str]]:
        """Properties and directions of $orderby."""
        for part in text.split(","):
            name, _, direction = part.strip().partition(" ")
            if types and name not in types:
                raise Refused(f"there is no property {name}")
            if direction not in ("", "asc", "desc"):
                raise Refused(f"no direction: {direction}")
            yield name, direction

    @staticmethod
    def matches(record: dict[str, Any], text: str, types: dict[str, type]) -> bool:
        """Whether a record is one that $filter lets through."""
        for part in text.split(" and ") if text else ():
            term = TERM.fullmatch(part)
            if term is None:
                raise Refused(f"cannot be read: {part}")
            name, operator, literal = term.groups()
            if name not in types:
                raise Refused(f"there is no property {name}")
            if not COMPARE[operator](record[name], StrictServer.value(literal, name, types[name])):
                return False
        return True

    @staticmethod
    def value(literal: str, name: str, kind: type) -> Any:
        """A literal as a value of the property's type."""
        try:
            if kind is int:
                return int(literal)
            if name == "uid":
                return str(UUID(literal))  # a GUID stands bare
            if name == "modifiedDate":
                if literal.startswith("'") or not literal.endswith("Z"):
                    raise ValueError
                datetime.fromisoformat(literal)
                return literal
            if literal[0] != "'" or literal[-1] != "'":
                raise ValueError
            return literal[1:-1].replace("''", "'")
        except ValueError:
            raise Refused(f"no {kind.__name__} for {name}: {literal}") from None


def strict(*, texts: bool = False, dated: bool = True, **options: Any) -> StrictServer:
    """A server with studies, their subjects, and rooms; ids are numbers or texts."""

    def key(number: int) -> Any:
        return f"{'zyxw'[number % 4]}'{number}&+" if texts else number

    def records(first: int, many: int) -> list[dict[str, Any]]:
        return [
            {"id": key(first + n), "name": f"Record {n} / ä", "cost": 12345678901234567890 + n}
            | ({"modifiedDate": f"2026-05-{1 + n % 28:02}T10:00:00Z"} if dated else {})
            for n in range(many)
        ]

    studies = records(1, 45)
    sets = {"/api/v1/studies/odata": studies, "/api/v1/rooms/odata": records(900, 130), "/api/v1/staff/odata": []}
    below = {str(study["id"]): f"/api/v1/studies/{study['id']}/subjects/odata" for study in studies}
    for number, path in enumerate(below.values()):
        sets[path] = records(5000 + 100 * number, number)
    resources = {
        "studies": [("", "/api/v1/studies/odata")],
        "rooms": [("", "/api/v1/rooms/odata")],
        "staff": [("", "/api/v1/staff/odata")],
        "subjects": [(parent.replace("/", "%2F"), path) for parent, path in below.items()],
    }
    return StrictServer(sets, resources=resources, **options)


@pytest.mark.parametrize(
    ("link", "texts", "page_size"),
    [
        pytest.param("{name}?{query}", False, 7, id="numbers, relative to the path, small pages"),
        pytest.param("{path}?{query}", True, 1000, id="texts, relative to the host"),
        pytest.param("?{query}", False, 1000, id="numbers, a query alone"),
        pytest.param("{name}?{query}", True, 7, id="texts, small pages"),
    ],
)
def test_a_strict_server_is_read_whole(
    new_instance: Callable[..., Pipeline], link: str, texts: bool, page_size: int
) -> None:
    names = ("studies", "rooms", "staff", "subjects")
    with strict(texts=texts, dated=not texts, next_link=link) as server:
        pipeline = new_instance(server, api_key_header="CCAPIKey", batch_size=page_size)
        results = pipeline.run(*names)
        assert {name: r.error for name, r in results.items() if r.status != "success"} == {}
        assert pipeline.differences(*names) == {}
        assert server.requests < 700
        server.refusals.clear()
        before = pipeline.written(*names)
        assert {r.status for r in pipeline.run(*names).values()} == {"success"}
        assert pipeline.written(*names) == before
        assert server.refusals == []
        server.sets["/api/v1/rooms/odata"][77]["name"] = "changed"
        if not texts:
            server.sets["/api/v1/rooms/odata"][77]["modifiedDate"] = "2026-06-02T10:00:00Z"
        assert (pipeline.one("rooms").updated, pipeline.difference("rooms").missing) == (1, 0)
