"""What can go wrong, by name. `simulator.fault("throttle", resource="patients", count=3, seconds=1)`.

Which requests a fault meets: `path` (a regular expression, searched in the path), `resource` (all paths of a resource),
`after` (let so many matching requests pass first), `count` (how often at most), `probability`. All may be combined.

    instead of an answer   throttle (seconds)          429 with Retry-After in seconds
                           throttle-date (seconds)     429 with Retry-After as an HTTP date
                           error (status, seconds)     any status, 500 by default; Retry-After when seconds are given
                           unauthorised, not-found, not-implemented
    in the query           ignore-skip, ignore-paging, ignore-filter, ignore-orderby
                           reject-filter, reject-orderby, reject-count, reject-top: 400 when the request has it
                           cap (limit)                 pages are cut at `limit`, whatever $top says
    to the answer          latency (seconds)           later
                           slow (seconds, pieces)      the body in pieces, with a pause before each
                           reset (at)                  the connection breaks after this share of the body
                           truncate (at)               the body ends early, as a whole answer with status 200
                           html                        a login page with status 200
                           unknown-envelope            {"Results": [..]}
                           duplicate-page              the page before, once more
                           delete-between-pages        the first record of the page is deleted after it was served
    in records             no-id, null-id, nul, surrogate, raw-surrogate, invalid-utf8, big-integer, overflow,
      (resource, every)    non-ascii, big-record (size), duplicate-ids, big-ids: in every n-th row, in `truth` too
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

from clinical_conductor.simulator.api import BASE_PATH, Answer, Api, Request
from clinical_conductor.simulator.routes import ROUTES, table_of
from clinical_conductor.simulator.rows import Rows
from clinical_conductor.simulator.templates import mix
from clinical_conductor.simulator.world import World

_INSTEAD = frozenset({"throttle", "throttle-date", "error", "unauthorised", "not-found", "not-implemented"})
_IN_QUERY = frozenset(
    {"ignore-skip", "ignore-paging", "ignore-filter", "ignore-orderby", "cap"}
    | {"reject-filter", "reject-orderby", "reject-count", "reject-top"}
)
_TO_ANSWER = frozenset(
    ["latency", "slow", "reset", "truncate", "html", "unknown-envelope", "duplicate-page", "delete-between-pages"]
)
_EXTRA: dict[str, bytes] = {
    "nul": b'"before\\u0000after"',
    "surrogate": b'"\\ud83d alone"',
    "raw-surrogate": b'"\xed\xa0\xbd"',
    "invalid-utf8": b'"\xff\xfe"',
    "big-integer": b"12345678901234567890123",
    "overflow": b"1e400000",
    "non-ascii": '"Zoë, 東京, Ελλάδα, 🧪"'.encode(),
}
_IN_RECORDS = frozenset({*_EXTRA, "no-id", "null-id", "big-record", "duplicate-ids", "big-ids"})
KINDS = _INSTEAD | _IN_QUERY | _TO_ANSWER | _IN_RECORDS
"""Every name."""

_LOGIN = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>Your session has expired.</body></html>"


@dataclass
class Fault:
    """One injected fault."""

    kind: str
    patterns: list[re.Pattern[str]]
    count: int | None = None
    probability: float = 1.0
    after: int = 0
    options: dict[str, Any] = field(default_factory=dict)
    fired: int = 0
    """How often it happened."""
    seen: int = 0
    """How many requests it could have met."""

    def __post_init__(self) -> None:
        self.salt = 0

    def meets(self, path: str) -> bool:
        """Whether it happens to this request; counted as if it did."""
        if self.patterns and not any(p.search(path) for p in self.patterns):
            return False
        self.seen += 1
        if self.seen <= self.after or (self.count is not None and self.fired >= self.count):
            return False
        if self.probability < 1 and mix(self.salt + self.seen) % 1_000_000 >= self.probability * 1_000_000:
            return False
        self.fired += 1
        return True

    def number(self, name: str, default: float) -> float:
        """One of its options."""
        return float(self.options.get(name, default))


class Faults:
    """All faults of one simulator."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.active: list[Fault] = []
        self._last_page: dict[str, list[bytes]] = {}
        self._spoiled: list[tuple[Rows, Callable[[int, bytes], bytes] | None, list[int]]] = []

    def add(
        self,
        kind: str,
        api: Api,
        *,
        path: str | None = None,
        resource: str | None = None,
        count: int | None = None,
        probability: float = 1.0,
        after: int = 0,
        **options: Any,
    ) -> Fault:
        """Inject a fault; the module's docstring tells the names and options.

        Raises:
            ValueError: there is no fault of that name, or it needs a resource.
            KeyError: there is no such resource.
        """
        if kind not in KINDS:
            raise ValueError(f"There is no fault {kind!r}: {', '.join(sorted(KINDS))}")
        patterns = [re.compile(path)] if path else []
        if resource:
            table_of(resource)
            own = [r for r in ROUTES if resource in r.resources or r.table == resource]
            patterns += [re.compile(re.escape(BASE_PATH) + r.pattern.pattern + "$") for r in own]
        fault = Fault(kind, patterns, count, probability, after, options)
        fault.salt = mix(self._seed * 1000 + len(self.active))
        if kind in _IN_RECORDS:
            if resource is None:
                raise ValueError(f"{kind} needs a resource")
            self._spoil(api, fault, table_of(resource))
        else:
            self.active.append(fault)
        return fault

    def clear(self, api: Api) -> None:
        """Remove all faults, those in records included."""
        self.active.clear()
        self._last_page.clear()
        for rows, spoiler, keyed in self._spoiled:
            if spoiler is not None:
                rows.spoilers.remove(spoiler)
            for row in keyed:
                rows.keys.pop(row, None)
            rows.forget_keys()
        self._spoiled.clear()
        api.world.revision += 1

    # -- instead of an answer

    def before(self, request: Request) -> Answer | None:
        """What happens instead of an answer, if anything does."""
        for fault in self.active:
            if fault.kind in _INSTEAD and fault.meets(request.path):
                return _instead(fault)
        return None

    # -- in the query

    def opened(self, request: Request) -> Answer | None:
        """Change what the endpoint makes of the query, or refuse it."""
        query = request.listing
        if query is None:
            return None
        for fault in self.active:
            kind = fault.kind
            if kind not in _IN_QUERY or (kind.startswith("reject-") and f"${kind[7:]}" not in query.text):
                continue
            if not fault.meets(request.path):
                continue
            if kind.startswith("reject-"):
                return Answer.message(400, f"The query specified in the URI is not valid. ${kind[7:]} is not allowed.")
            if kind == "ignore-skip":
                query = replace(query, skip=0)
            elif kind == "ignore-filter":
                query = replace(query, conditions=())
            elif kind == "ignore-orderby":
                query = replace(query, order=())
            elif kind == "cap":
                limit = int(fault.number("limit", 50))
                query = replace(query, top=min(limit, limit if query.top is None else query.top))
            else:
                query = replace(query, skip=0, top=2**62)
        request.listing = query
        return None

    # -- to the answer

    def after(self, request: Request, answer: Answer, world: World) -> Answer:
        """Damage an answer on its way out."""
        before = self._last_page.get(request.path)
        whole = answer.status == 200 and request.route is not None
        if whole and any(f.kind == "duplicate-page" for f in self.active):
            self._last_page[request.path] = answer.body
        for fault in self.active:
            if fault.kind not in _TO_ANSWER or not (whole or fault.kind == "latency"):
                continue
            if fault.kind == "duplicate-page" and (before is None or before == answer.body):
                continue
            if fault.kind == "delete-between-pages" and not answer.rows:
                continue
            if fault.meets(request.path):
                self._damage(fault, request, answer, world, before)
        return answer

    def _damage(self, fault: Fault, request: Request, answer: Answer, world: World, before: list[bytes] | None) -> None:
        kind = fault.kind
        if kind == "latency":
            answer.delay += fault.number("seconds", 0.1)
        elif kind == "slow":
            answer.pace = (fault.number("seconds", 0.05), int(fault.number("pieces", 5)))
        elif kind == "reset":
            answer.cut_at = fault.number("at", 0.5)
        elif kind == "truncate":
            body = b"".join(answer.body)
            answer.body = [body[: max(1, int(len(body) * fault.number("at", 0.5)))]]
        elif kind == "html":
            answer.body, answer.content_type = [_LOGIN], "text/html"
        elif kind == "unknown-envelope":
            answer.body = [b'{"Results":', *answer.body, b',"Total":1}']
        elif kind == "duplicate-page" and before is not None:
            answer.body = before
            self._last_page[request.path] = before
        elif kind == "delete-between-pages" and request.route is not None:
            world.delete(request.route.table, answer.rows[0])

    # -- in records

    def _spoil(self, api: Api, fault: Fault, table: str) -> None:
        rows = api.world.tables[table]
        every = int(fault.number("every", 10))
        chosen = [row for row in rows.of(None) if row % every == every - 1]
        spoiler: Callable[[int, bytes], bytes] | None = None
        keyed: list[int] = []
        if fault.kind in ("duplicate-ids", "big-ids"):
            for row in chosen:
                if fault.kind == "big-ids" or row:
                    api.world.set_key(table, row, 10**22 + row if fault.kind == "big-ids" else rows.key(row - 1))
                    keyed.append(row)
        else:
            change = _spoiler(fault)
            marked = frozenset(chosen)

            def spoil(row: int, record: bytes) -> bytes:
                return change(record) if row in marked else record

            spoiler = spoil
            rows.spoilers.append(spoil)
        api.world.revision += 1
        fault.fired = len(chosen)
        self._spoiled.append((rows, spoiler, keyed))


def _instead(fault: Fault) -> Answer:
    if fault.kind == "throttle":
        return Answer.message(429, "Too many requests", **{"Retry-After": f"{fault.number('seconds', 1):g}"})
    if fault.kind == "throttle-date":
        # Both headers by the real clock: a client may compare with the answer's Date or with its own time.
        now = datetime.now(UTC)
        until = now + timedelta(seconds=fault.number("seconds", 1))
        dates = {"Retry-After": format_datetime(until, usegmt=True), "Date": format_datetime(now, usegmt=True)}
        return Answer.message(429, "Too many requests", **dates)
    if fault.kind == "error":
        headers = {"Retry-After": f"{fault.number('seconds', 1):g}"} if "seconds" in fault.options else {}
        return Answer.message(int(fault.number("status", 500)), "An error has occurred.", **headers)
    status = {"unauthorised": 401, "not-found": 404, "not-implemented": 501}[fault.kind]
    return Answer.message(status, "An error has occurred.")


def _spoiler(fault: Fault) -> Callable[[bytes], bytes]:
    """The function that spoils one record. All but the id faults only add a field."""
    if fault.kind in ("no-id", "null-id"):
        removed = fault.kind == "no-id"

        def change(record: bytes) -> bytes:
            fields = json.loads(record)
            name = "Id" if "Id" in fields else "id"
            fields.pop(name, None)
            if not removed:
                fields[name] = None
            return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()

        return change
    size = int(fault.number("size", 4_000_000))
    extra = b'"' + b"x" * size + b'"' if fault.kind == "big-record" else _EXTRA[fault.kind]
    return lambda record: record[:-1] + b',"comment2":' + extra + b"}"
