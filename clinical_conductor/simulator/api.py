"""From a request to an answer: which path it is, who may ask, and in which envelope the records go."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal
from urllib.parse import quote, unquote

from clinical_conductor.catalog import join_key, split_key
from clinical_conductor.simulator.document import DOCUMENT_PATH, write_document
from clinical_conductor.simulator.odata import BadQuery, Query, Selector, known_properties, parse_query, split_query
from clinical_conductor.simulator.routes import RECORD_PARENTS, ROUTES, Route
from clinical_conductor.simulator.rows import Rows
from clinical_conductor.simulator.shapes import TABLES
from clinical_conductor.simulator.world import World

BASE_PATH = "/CCSWEB"

Envelope = Literal["spec", "items", "items-lower", "value", "array"]
NextLinks = Literal["absolute", "relative", "empty", "none"]
Paths = Literal["both", "inventory", "spec"]


@dataclass(frozen=True)
class Behaviour:
    """How this instance of the API behaves where instances differ."""

    api_key: str = "demo-key"
    key_header: str = "X-ApiKey"
    envelope: Envelope = "spec"
    next_links: NextLinks = "absolute"
    """absolute, relative to the host; "empty" is absolute with "" instead of null at the end; none: never any."""
    paths: Paths = "both"
    default_top: int = 50
    max_top: int = 1000
    over_max: Literal["reject", "cut"] = "reject"
    plus_is_blank: bool = False
    rate_limit: float = 0
    """Requests a second above which it answers 429; 0 for none."""
    odata: bool = True
    """False: the whole instance ignores every query option and serves everything at once."""
    document: bool = True
    """Whether the instance shows its OpenAPI document, to anybody."""


@dataclass
class Answer:
    """One HTTP answer. Faults change it on its way out."""

    status: int
    body: list[bytes]
    headers: dict[str, str] = field(default_factory=dict)
    content_type: str = "application/json; charset=utf-8"
    cut_at: float | None = None
    """Break the connection after this share of the body."""
    pace: tuple[float, int] | None = None
    """Send the body in this many pieces with a pause of so many seconds before each."""
    delay: float = 0.0
    """Seconds to wait before anything is sent."""
    rows: Sequence[int] = ()
    """The rows of a listing's page."""

    @classmethod
    def message(cls, status: int, text: str, **headers: str) -> Answer:
        """An error, as the API words it."""
        return cls(status, [json.dumps({"Message": text}).encode()], dict(headers))


@dataclass
class Request:
    """A request that reached the API."""

    method: str
    path: str
    query: str
    headers: dict[str, str]
    host: str = ""
    route: Route | None = None
    listing: Query | None = None
    parent: int | None = None


class Api:
    """Answers requests from a world."""

    def __init__(self, world: World, behaviour: Behaviour) -> None:
        self.world = world
        self.behaviour = behaviour
        self._selector = Selector(world)
        self._routes: dict[int, list[Route]] = {}
        for route in ROUTES:
            if behaviour.paths == "both" or route.known_from in ("both", behaviour.paths):
                self._routes.setdefault(route.path.count("/"), []).append(route)
        self._known = {
            name: known_properties(rows.table, world.shape(name), rows.ids) for name, rows in world.tables.items()
        }

    @cached_property
    def document(self) -> dict[str, Any]:
        """The instance's OpenAPI document; a change made to it is what the instance says from then on."""
        return write_document(self.world, (r for routes in self._routes.values() for r in routes), BASE_PATH)

    # -- a request, in steps between which faults may meddle

    def open(self, request: Request) -> Answer | None:
        """Find the path and check the key. An answer if that ends it, None to go on."""
        path = request.path.removeprefix(BASE_PATH)
        if request.path == BASE_PATH + DOCUMENT_PATH and self.behaviour.document:
            return Answer(200, [json.dumps(self.document).encode()])
        found: Route | None = None
        values: tuple[str, ...] = ()
        if path != request.path:
            for route in self._routes.get(path.count("/") - 2, ()):
                if match := route.pattern.fullmatch(path):
                    found, values = route, tuple(unquote(v) for v in match.groups())
                    break
        if found is None or found.table != "instance_details":
            given = request.headers.get(self.behaviour.key_header.lower())
            if given != self.behaviour.api_key:
                return Answer.message(401, "Authorization has been denied for this request.")
        if found is None:
            return Answer.message(404, "No HTTP resource was found that matches the request URI.")
        request.route = found
        if request.method != "GET":
            return Answer.message(405, "The requested resource does not support this method.")
        if found.not_offered:
            return Answer.message(501, "This resource is not available on this instance.")
        try:
            request.parent = self._parent(found, values)
        except LookupError:
            return Answer.message(404, "Not Found - the requested entity does not exist")
        if found.odata and self.behaviour.odata:
            try:
                request.listing = parse_query(
                    split_query(request.query, plus_is_blank=self.behaviour.plus_is_blank),
                    self._known[found.table],
                    cap=self.behaviour.max_top,
                    reject_above_cap=self.behaviour.over_max == "reject",
                )
            except BadQuery as error:
                return Answer.message(400, f"The query specified in the URI is not valid. {error}")
        return None

    def answer(self, request: Request) -> Answer:
        """What the API says to a request that was opened."""
        route = request.route
        if route is None:
            raise ValueError("the request was not opened")
        rows = self.world.tables[route.table]
        if route.row and request.parent is not None:
            return Answer(200, [rows.record(request.parent)])
        if route.single:
            found = rows.of(request.parent)
            if not found:
                return Answer.message(404, "Not Found - the requested entity does not exist")
            return Answer(200, [rows.record(found[0])])
        query = request.listing
        if query is None:
            found = self._selector.select(rows, request.parent, Query())
            return Answer(200, self._wrap(route, self._records(rows, found), None, None), rows=found)
        found = self._selector.select(rows, request.parent, query)
        top = self.behaviour.default_top if query.top is None else query.top
        page = found[query.skip : query.skip + top]
        count = len(found) if query.count else None
        link = None
        if query.skip + top < len(found) and top:
            link = self._next_link(request, query, query.skip + top)
        return Answer(200, self._wrap(route, self._records(rows, page), count, link), rows=page)

    # -- parts

    def _parent(self, route: Route, values: tuple[str, ...]) -> int | None:
        """The row that a path's parameters name; each must belong to the one before."""
        parent: int | None = None
        for name, value in zip(route.parents, values, strict=True):
            rows = self.world.tables[name]
            row = rows.find(value, parent if rows.parent else None)
            if row is None:
                raise LookupError(name)
            parent = row
        return parent

    def _records(self, rows: Rows, found: Sequence[int]) -> list[bytes]:
        record = rows.record
        return [record(row) for row in found]

    def _wrap(self, route: Route, records: list[bytes], count: int | None, link: str | None) -> list[bytes]:
        """The records in the endpoint's envelope, or in the one the instance is told to use."""
        listed = b",".join(records)
        envelope = self.behaviour.envelope
        if envelope == "spec":
            envelope = "items" if route.odata and not route.bare else "array"
        if envelope == "array":
            return [b"[", listed, b"]"]
        end = '""' if self.behaviour.next_links == "empty" else "null"
        shown = json.dumps(link).encode() if link else end.encode()
        number = b"null" if count is None else b"%d" % count
        if envelope == "items":
            return [b'{"Items":[', listed, b'],"NextPageLink":%b,"Count":%b}' % (shown, number)]
        if envelope == "items-lower":
            return [b'{"items":[', listed, b'],"nextPageLink":%b,"count":%b}' % (shown, number)]
        tail = b"]" + (b',"@odata.nextLink":' + shown if link else b"") + b"}"
        head = b'{"@odata.context":"$metadata"' + (b',"@odata.count":' + number if count is not None else b"")
        return [head + b',"value":[', listed, tail]

    def _next_link(self, request: Request, query: Query, skip: int) -> str | None:
        kind = self.behaviour.next_links
        if kind == "none":
            return None
        options = {**query.text, "$skip": str(skip)}
        # "$" stays as it is and a blank is %20, in the server's own spelling.
        text = "&".join(f"{quote(k, safe='$')}={quote(v, safe='')}" for k, v in options.items())
        return f"{'' if kind == 'relative' else f'http://{request.host}'}{request.path}?{text}"

    # -- the truth, for comparing

    def truth(self, resource: str) -> Iterator[tuple[str, bytes]]:
        """(parent_source_id, record) of everything that the API would serve for a resource now.

        Raises:
            KeyError: there is no such resource.
        """
        if not any(resource in route.resources for route in ROUTES):
            raise KeyError(resource)
        served = [r for routes in self._routes.values() for r in routes if resource in r.resources]
        if not served or served[0].not_offered:
            return
        route = served[0]
        rows = self.world.tables[route.table]
        if route.row:
            for keys, row in self.world.each(route.parents):
                yield join_key(keys), rows.record(row)
        elif route.parents:
            for keys, parent in self.world.each(route.parents):
                for row in rows.of(parent):
                    yield join_key(keys), rows.record(row)
        elif parents := RECORD_PARENTS.get(resource):
            for keys, row in self.world.each([*parents, route.table]):
                yield join_key(keys[:-1]), rows.record(row)
        else:
            for row in rows.of(None):
                yield "", rows.record(row)

    def locate(self, resource: str, parent: str | Iterable[str], key: str) -> tuple[str, int]:
        """The table and the row of a record, by the ids that staging knows it by.

        Records without an id of their own are named by their number within their parent.

        Raises:
            KeyError: there is no such record.
        """
        name, above = self.locate_parent(resource, parent)
        rows = self.world.tables[name]
        if above is not None and resource == "study_detail":
            return name, above
        row = rows.find(str(key), above)
        if row is None:
            raise KeyError(f"{resource} {key}")
        return name, row

    def locate_parent(self, resource: str, parent: str | Iterable[str]) -> tuple[str, int | None]:
        """The table of a resource, and the row of the parent.

        Raises:
            KeyError: there is no such resource or parent.
        """
        name = next((r.table for r in ROUTES if resource in r.resources), resource)
        if name not in TABLES:
            raise KeyError(resource)
        values = split_key(parent) if isinstance(parent, str) else tuple(map(str, parent))
        if not values:
            return name, None
        routes = [r for r in ROUTES if r.table == name and len(r.parents) == len(values)]
        chain = routes[0].parents if routes else (TABLES[name].parent or "",)
        above: int | None = None
        for table, value in zip(chain, values, strict=False):
            rows = self.world.tables[table]
            found = rows.find(value, above if rows.parent else None)
            if found is None:
                raise KeyError(f"{resource} of {table} {value}")
            above = found
        return name, above
