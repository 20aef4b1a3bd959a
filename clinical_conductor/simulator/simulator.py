"""Simulator: the API on a port of 127.0.0.1, and the handles that tests and the demo steer it with."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from email.utils import format_datetime
from types import TracebackType
from typing import Any

from clinical_conductor.simulator.api import BASE_PATH, Answer, Api, Behaviour, Request
from clinical_conductor.simulator.faults import Fault, Faults
from clinical_conductor.simulator.rows import Ids
from clinical_conductor.simulator.server import Server
from clinical_conductor.simulator.world import World

CONTROL_PATH = "/_simulator/"
_LOG_LENGTH = 200_000
_STEERED = ("advance", "edit", "insert", "delete", "set_key", "fault")


@dataclass(frozen=True)
class Logged:
    """One request as the server saw it. Headers are not kept: the key travels in them."""

    at: float
    """time.monotonic() when its head was read."""
    method: str
    path: str
    """The path, the base included."""
    query: str
    status: int


class Simulator:
    """A Clinical Conductor instance, served over real HTTP from threads of this process.

    Records are worked out when they are asked for, so that any scale starts at once. Everything is a function of the
    seed and of what was done to the simulator; the wall clock plays no part.

    Args:
        scale: 1 is the size of one real instance (1,050 studies, 152,751 patients, 2.3 million patient visits).
        seed: another seed, another instance.
        port: 0 for any free one.
        modified_date: whether records have modifiedDate (the published models do not).
        ids: what ids look like, "number", "string" or "guid".
        behaviour: how the API behaves where instances differ; its fields may also be given by name.
    """

    def __init__(
        self,
        scale: float = 0.001,
        seed: int = 1,
        port: int = 0,
        *,
        modified_date: bool = True,
        ids: Ids = "number",
        behaviour: Behaviour | None = None,
        **switches: Any,
    ) -> None:
        self.world = World(scale, seed, ids=ids, modified_date=modified_date)
        self.api = Api(self.world, replace(behaviour or Behaviour(), **switches))
        self.faults = Faults(seed)
        self.log: list[Logged] = []
        """The last requests, at least a hundred thousand of them."""
        self._hooks: list[Callable[[Request], None]] = []
        self._recent: deque[float] = deque()
        self._server = Server(self._respond, lambda: format_datetime(self.world.now, usegmt=True), port)
        self.port = self._server.port

    @property
    def base_url(self) -> str:
        """What CC_API_BASE_URL is set to."""
        return f"http://127.0.0.1:{self.port}{BASE_PATH}"

    @property
    def api_key(self) -> str:
        """The key that is accepted."""
        return self.api.behaviour.api_key

    @property
    def now(self) -> datetime:
        """The instance's own time, which also stands in the Date header."""
        return self.world.now

    def start(self) -> Simulator:
        """Begin to serve."""
        self._server.start()
        return self

    def close(self) -> None:
        """Stop serving."""
        self._server.close()

    def __enter__(self) -> Simulator:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- what happens upstream

    def advance(self, days: int = 1, change: float = 0.01) -> None:
        """Let days pass: records change, appear and vanish."""
        self.world.advance(days, change)

    def edit(self, resource: str, parent: str | Iterable[str], key: str, *, touch: bool = True, **fields: Any) -> None:
        """Change fields of one record; `touch=False` leaves its modifiedDate alone.

        Raises:
            KeyError: there is no such record.
        """
        with self.world.lock:
            self.world.edit(*self.api.locate(resource, parent, key), fields, touch=touch)

    def insert(self, resource: str, parent: str | Iterable[str] = "", **fields: Any) -> str:
        """Add a record under a parent and return its id, which may be given as `id`.

        Raises:
            KeyError: there is no such parent.
        """
        with self.world.lock:
            table, above = self.api.locate_parent(resource, parent)
            return str(self.world.tables[table].key(self.world.insert(table, above, fields)))

    def delete(self, resource: str, parent: str | Iterable[str], key: str) -> None:
        """Remove a record and everything below it.

        Raises:
            KeyError: there is no such record.
        """
        with self.world.lock:
            self.world.delete(*self.api.locate(resource, parent, key))

    def replace_raw(self, resource: str, parent: str | Iterable[str], key: str, raw: bytes) -> None:
        """Serve exactly these bytes as the record, whatever they are.

        Raises:
            KeyError: there is no such record.
        """
        with self.world.lock:
            self.world.replace_raw(*self.api.locate(resource, parent, key), raw)

    def set_key(self, resource: str, parent: str | Iterable[str], key: str, new: int | str) -> None:
        """Give a record another id, perhaps one that another record has.

        Raises:
            KeyError: there is no such record.
        """
        with self.world.lock:
            self.world.set_key(*self.api.locate(resource, parent, key), new)

    def fault(self, kind: str, **options: Any) -> Fault:
        """Inject a fault by name; faults.py lists them and their options."""
        with self.world.lock:
            return self.faults.add(kind, self.api, **options)

    def on_request(self, hook: Callable[[Request], None]) -> None:
        """Call `hook` before every request is answered: it may change the world between any two pages."""
        self._hooks.append(hook)

    # -- what it is compared with

    def truth(self, resource: str) -> Iterator[tuple[str, bytes]]:
        """(parent_source_id, record) of all that is served for a resource now, byte for byte.

        Raises:
            KeyError: there is no such resource.
        """
        return self.api.truth(resource)

    # -- requests

    def _respond(self, request: Request, body: bytes) -> Answer:
        if request.path.startswith(CONTROL_PATH):
            return self._control(request, body)
        at = time.monotonic()
        for hook in self._hooks:
            hook(request)
        with self.world.lock:
            answer = self._throttled(at) or self._answer(request)
        if len(self.log) >= _LOG_LENGTH:
            del self.log[: _LOG_LENGTH // 2]
        self.log.append(Logged(at, request.method, request.path, request.query, answer.status))
        return answer

    def _throttled(self, at: float) -> Answer | None:
        """A 429 when the second before had too many requests."""
        limit = self.api.behaviour.rate_limit
        if not limit:
            return None
        while self._recent and self._recent[0] <= at - 1:
            self._recent.popleft()
        if len(self._recent) >= limit:
            return Answer.message(429, "Too many requests", **{"Retry-After": "1"})
        self._recent.append(at)
        return None

    def _answer(self, request: Request) -> Answer:
        answer = self.faults.before(request)
        if answer is None:
            answer = self.api.open(request)
            if answer is None:
                answer = self.faults.opened(request) or self.api.answer(request)
        return self.faults.after(request, answer, self.world)

    def _control(self, request: Request, body: bytes) -> Answer:
        """Steering from another process: POST /_simulator/<method>, arguments as JSON; GET log, state, truth/<name>."""
        name = request.path.removeprefix(CONTROL_PATH)
        try:
            if request.method == "GET" and name == "log":
                lines = [[e.at, e.method, e.path, e.query, e.status] for e in list(self.log)]
                return Answer(200, [json.dumps(lines).encode()])
            if request.method == "GET" and name == "state":
                with self.world.lock:
                    sizes = {name: len(rows.of(None)) for name, rows in self.world.tables.items()}
                return Answer(200, [json.dumps({"now": self.now.isoformat(), "rows": sizes}).encode()])
            if request.method == "GET" and name.startswith("truth/"):
                with self.world.lock:
                    lines_ = [b"%b\t%b\n" % (p.encode(), r) for p, r in self.truth(name.removeprefix("truth/"))]
                return Answer(200, lines_, content_type="text/plain; charset=utf-8")
            if request.method == "POST" and name in _STEERED:
                result = getattr(self, name)(**json.loads(body or b"{}"))
                return Answer(200, [json.dumps(result if isinstance(result, str) else None).encode()])
            if request.method == "POST" and name == "replace_raw":
                arguments = json.loads(body)
                self.replace_raw(**{**arguments, "raw": arguments["raw"].encode("latin-1")})
                return Answer(200, [b"null"])
            if request.method == "POST" and name == "clear":
                self.faults.clear(self.api)
                self.log.clear()
                return Answer(200, [b"null"])
        except (KeyError, TypeError, ValueError) as error:
            return Answer.message(400, f"{type(error).__name__}: {error}")
        return Answer.message(404, "The simulator has no such handle.")


def serve(port: int = 8080, scale: float = 1.0, seed: int = 1, **switches: Any) -> None:
    """Serve until interrupted; what `trialsync-etl simulate` runs."""
    with Simulator(scale, seed, port, **switches) as simulator:
        sys.stdout.write(f"{simulator.base_url}\n")
        sys.stdout.flush()
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            return
