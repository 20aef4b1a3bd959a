"""What an instance answers, found out by asking: which header takes the key, what time it has, what each endpoint can.

An endpoint is read as a job would read it, by the same `Listing`, but only its first few records. What is kept of an
answer is its shape, its speed and what worked; a path is told with its parameters in braces, never with a patient's id.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import islice
from statistics import median
from typing import Any, Literal
from urllib.parse import urlsplit

from clinical_conductor.catalog import ENDPOINTS, Endpoint, depth, fill_path, split_key
from clinical_conductor.client import KEY_HEADERS, Answer, Client
from clinical_conductor.envelopes import open_envelope
from clinical_conductor.errors import (
    BadRequest,
    EndpointNotFound,
    EndpointNotOffered,
    ParentGone,
    TrialSyncError,
    Unauthorised,
    UnknownEnvelope,
    UnreadableAnswer,
)
from clinical_conductor.odata import MAX_PAGE, Capabilities
from clinical_conductor.pacing import Limiter
from clinical_conductor.paging import Listing
from clinical_conductor.settings import Settings

BASE_PATH = "/CCSWEB"
"""Where Clinical Conductor usually lives on its host."""
THREADS = 8
_FEW = 3
_PARENTS = 3
_NEVER = "2999-01-01T00:00:00Z"
"""Nothing was modified after this, so a filter that is honoured finds nothing."""


class Witness(Client):
    """The client, which remembers what shape its answers had and how long they took."""

    def __init__(self, settings: Settings, **arguments: Any) -> None:
        super().__init__(settings, **arguments)
        self.shapes: list[str] = []
        self.links = False
        self.seconds: list[float] = []
        self.clocks: list[float] = []
        """Seconds by which the instance's clock is ahead of ours, per answer."""

    def scoped(self) -> Witness:
        """The same client with memories of its own."""
        scoped = super().scoped()
        assert isinstance(scoped, Witness)
        scoped.shapes, scoped.links, scoped.seconds, scoped.clocks = [], False, [], []
        return scoped

    def fetch(self, path: str, query: Mapping[str, Any] | str | None = None) -> Answer:
        """See `Client.fetch`."""
        began, waited, retries = time.monotonic(), self.tally.limiter_wait_seconds, self.tally.retries
        answer = super().fetch(path, query)
        if self.tally.retries == retries:
            self.seconds.append(max(time.monotonic() - began - (self.tally.limiter_wait_seconds - waited), 0.0))
        if answer.server_date is not None:
            self.clocks.append((answer.server_date - datetime.now(UTC)).total_seconds())
        try:
            envelope = open_envelope(answer.document, what=path, single=None)
        except UnknownEnvelope:
            self.shapes.append("unknown")
        else:
            self.shapes.append(envelope.shape)
            self.links = self.links or bool(envelope.link)
        return answer


@dataclass
class Access:
    """How an instance lets itself be asked."""

    base_url: str
    """The one that works, or the one that was given."""
    key_header: str
    """The header that works, or the one that was given."""
    tried: tuple[str, ...] = ()
    """The headers that were tried."""
    error: TrialSyncError | None = None
    """Why nothing works."""


@dataclass
class Probe:
    """What was found out about one endpoint."""

    endpoint: Endpoint
    """As it is configured."""
    path: str | None = None
    """The template that answers."""
    envelope: str | None = None
    paging: str | None = None
    """key, link, skip; "all" for all at once, whatever is asked; "1 page" where there were too few records to tell."""
    cursor_filter: Literal["honoured", "ignored", "refused"] | None = None
    found: Capabilities = field(default_factory=Capabilities)
    records: bool = False
    """Whether there were any, without which little can be told."""
    seconds: float | None = None
    """The slowest request."""
    requests: int = 0
    error: TrialSyncError | None = None
    text: str | None = None
    """What the error says, without ids."""
    asked: bool = True
    tried: tuple[str, ...] = ()
    """The paths that were tried."""
    keys: list[tuple[str, ...]] = field(default_factory=list, repr=False)
    """Parents for the endpoint's children; never shown."""

    @property
    def status(self) -> str:
        """In a word or two: ok, 404, 501, …"""
        if not self.asked:
            return "-"
        if self.error is None:
            return "ok"
        kinds: Iterable[tuple[type[TrialSyncError] | tuple[type[TrialSyncError], ...], str]] = (
            ((EndpointNotFound, ParentGone), "404"),
            (EndpointNotOffered, "501"),
            (Unauthorised, "refused"),
            (BadRequest, "400"),
            (UnknownEnvelope, "shape"),
            (UnreadableAnswer, "no JSON"),
        )
        return next((text for kind, text in kinds if isinstance(self.error, kind)), "failed")

    def as_json(self) -> dict[str, Any]:
        """These findings as JSON types."""
        row, found = self.endpoint, self.found
        return {
            "job_id": row.job_id,
            "resource": row.resource,
            "status": self.status,
            "path": row.path,
            "answering_path": self.path,
            "envelope": self.envelope,
            "paging": self.paging,
            "order": found.order,
            "count": found.count,
            "top": found.top,
            "cursor": found.cursor,
            "cursor_filter": self.cursor_filter,
            "bulk": found.bulk,
            "has_records": self.records,
            "requests": self.requests,
            "slowest_seconds": None if self.seconds is None else round(self.seconds, 3),
            "notes": list(found.notes),
            "error": self.text,
        }


def hurried(settings: Settings) -> Settings:
    """The settings with the patience of somebody who waits for the answer: one retry, soon."""
    return replace(
        settings,
        max_retries=min(settings.max_retries, 1),
        retry_delay_seconds=min(settings.retry_delay_seconds, 1.0),
        timeout_seconds=min(settings.timeout_seconds, 30.0),
    )


def find_access(
    settings: Settings, *, base_url: str, api_key: str, key_header: str, limiter: Limiter | None = None
) -> Access:
    """Ask with each header the key may travel in, and below /CCSWEB too if the base URL has no path.

    Raises:
        ConfigurationError: there is no base URL or no key, or they cannot work.
    """
    headers = [key_header, *(name for name in KEY_HEADERS if name.lower() != key_header.lower())]
    bases = [base_url.rstrip("/")]
    if base_url and not urlsplit(base_url).path.strip("/"):
        bases.append(bases[0] + BASE_PATH)
    errors: list[TrialSyncError] = []
    for base in bases:
        for header in headers:
            with closing(
                Witness(settings, base_url=base, api_key=api_key, api_key_header=header, limiter=limiter)
            ) as client:
                error = _knock(client)
            if error is None:
                return Access(base, header)
            errors.append(error)
            if not isinstance(error, Unauthorised):
                break  # another header changes nothing
    # A refused key says more than a path that is not there.
    refused = next((error for error in errors if isinstance(error, Unauthorised)), None)
    return Access(bases[0], key_header, tuple(headers), refused or errors[0])


def _knock(client: Client) -> TrialSyncError | None:
    """Two endpoints that every instance has; None if one of them answers."""
    error: TrialSyncError | None = None
    for name in ("studies", "sites"):
        row = ENDPOINTS[name]
        try:
            client.fetch(row.path, {"$top": 1} if row.odata else None)
        except (EndpointNotFound, EndpointNotOffered, BadRequest) as problem:
            error = error or problem
        except TrialSyncError as problem:
            return problem
        else:
            return None
    return error


def probe_all(
    client: Witness,
    chosen: Sequence[Endpoint],
    paths: Mapping[str, Sequence[str]],
    *,
    off: frozenset[str] = frozenset(),
    on_probe: Callable[[Probe], None] = lambda _: None,
) -> dict[str, Probe]:
    """Probe endpoints, parents before children; parents that were not chosen are only asked for a few ids.

    Args:
        client: Whom to ask.
        chosen: Endpoints to report on.
        paths: Per resource, the paths to try besides the catalog's, the configured one first.
        off: Resources that are switched off: one request tells whether they answer.
        on_probe: Is told of each chosen endpoint that is done.
    """
    needed = {row.resource: row for row in chosen}
    for row in chosen:
        above = row.parent
        while above is not None:
            needed.setdefault(above, ENDPOINTS[above])
            above = ENDPOINTS[above].parent
    wanted = {row.resource for row in chosen}
    done: dict[str, Probe] = {}

    def one(row: Endpoint) -> Probe:
        parents = done[row.parent].keys if row.parent else [()]
        tried = list(dict.fromkeys([*paths.get(row.resource, ()), *row.paths]))
        made = probe(
            client, row, tried, parents, thoroughly=row.resource in wanted - off, patiently=row.resource not in off
        )
        if row.resource in wanted:
            on_probe(made)
        return made

    for level in range(1 + max(map(depth, needed.values()), default=-1)):
        rows = [row for row in needed.values() if depth(row) == level]
        with ThreadPoolExecutor(THREADS, thread_name_prefix="probe") as pool:
            try:
                done.update(zip((row.resource for row in rows), pool.map(one, rows), strict=True))
            except BaseException:
                client.stop.set()  # Ctrl-C: what is under way ends at its next wait
                raise
    return {row.resource: done[row.resource] for row in chosen}


def probe(
    client: Witness,
    endpoint: Endpoint,
    paths: Sequence[str],
    parents: Sequence[tuple[str, ...]],
    *,
    thoroughly: bool = True,
    patiently: bool = True,
) -> Probe:
    """Ask one endpoint, on each of its paths until one answers, for a few parents until one has records.

    Args:
        client: Whom to ask.
        endpoint: The catalog's row.
        paths: The paths to try, the configured one first.
        parents: Keys of its parents; [()] for a listing.
        thoroughly: Whether to find out how it pages and filters, too.
        patiently: Whether to try other parents when the first has nothing.
    """
    result = Probe(endpoint, tried=tuple(paths))
    if not parents:
        result.asked = False
        return result
    own = client.scoped()
    for parent in parents[: _PARENTS if patiently else 1]:
        for path in paths:
            row = replace(endpoint, path=path, alternate=None)
            listing = Listing(own, row, parent, capabilities=result.found, page_size=_FEW)
            try:
                result.records = _look(listing, parent, result, pages=2 if thoroughly else 1)
            except TrialSyncError as error:
                if result.path is not None:  # it answered for another parent
                    break
                result.error = result.error or error
                result.text = result.text or _without_ids(str(error), row, parent)
                if not isinstance(error, ParentGone | EndpointNotFound | BadRequest):
                    break
            else:
                result.path, result.error, result.text = path, None, None
                if thoroughly and result.records:
                    result.cursor_filter = _try_cursor(own, row, parent, result.found)
                break
        if result.records or (result.error is not None and not isinstance(result.error, ParentGone)):
            break
    if thoroughly and endpoint.bulk is not None:
        _try_bulk(own, endpoint, result)
    result.envelope = next((shape for shape in own.shapes if shape != "unknown"), None)
    if endpoint.single and result.envelope is not None:
        result.envelope = "object"
    result.paging = _paging(result, links=own.links)
    result.requests = own.tally.requests
    result.seconds = max(own.seconds, default=None)
    client.tally.requests += own.tally.requests
    client.tally.throttled += own.tally.throttled
    client.seconds += own.seconds
    client.clocks += own.clocks
    return result


def _look(listing: Listing, parent: tuple[str, ...], result: Probe, *, pages: int) -> bool:
    """Read a page or two, keep the keys of the first; whether there were records."""
    some = False
    for page in islice(listing, pages):
        if not some:
            keys = page.keys[:_FEW]
            above = [parent] * len(keys) if page.parents is None else [split_key(text) for text in page.parents[:_FEW]]
            result.keys += [(*parts, key) for parts, key in zip(above, keys, strict=True)]
        some = some or page.read > 0
        if page.read > MAX_PAGE:
            break  # everything at once: once is enough
    return some


def _try_cursor(
    client: Client, row: Endpoint, parent: tuple[str, ...], found: Capabilities
) -> Literal["honoured", "ignored", "refused"] | None:
    """What the endpoint makes of a filter on its cursor that nothing can match."""
    if not row.odata or found.cursor is None:
        return None
    path = fill_path(row.path, parent[-len(row.parameters) :] if row.parameters else ())
    try:
        answer = client.fetch(path, {"$top": 1, "$filter": f"{found.cursor} ge {_NEVER}"})
        return "ignored" if open_envelope(answer.document, what=row.resource).raws else "honoured"
    except BadRequest:
        return "refused"
    except TrialSyncError:
        return None


def _try_bulk(client: Client, endpoint: Endpoint, result: Probe) -> None:
    """Whether the listing is there that spares a request per parent; its records are parents with children as well."""
    listing = Listing(client, endpoint, capabilities=Capabilities(), page_size=_FEW, bulk=True)
    seen = Probe(endpoint)
    try:
        _look(listing, (), seen, pages=1)
    except TrialSyncError:
        result.found.bulk = False
    else:
        result.found.bulk = True
    result.keys = [*seen.keys, *result.keys]


def _paging(result: Probe, *, links: bool) -> str | None:
    """The way a job would go through the listing."""
    found = result.found
    if result.path is None or result.endpoint.single:
        return None
    if not result.path.endswith("/odata") or found.top is False:
        return "link" if links else "all"
    if found.keyset:
        return "key"
    if found.keyset is None and found.order:
        return "1 page" if result.records else None  # too few records to tell more
    return "link" if links else "skip"


def _without_ids(text: str, row: Endpoint, parent: tuple[str, ...]) -> str:
    """An error's message with the path's parameters in braces again."""
    if row.parameters:
        text = text.replace(fill_path(row.path, parent[-len(row.parameters) :]), row.path)
    return text


@dataclass(frozen=True)
class Pace:
    """How fast the instance answers, in seconds."""

    requests: int
    throttled: int
    """How often it asked for a pause."""
    median: float | None
    slow: float | None
    """95 % of the requests were faster."""
    clock_ahead: float | None
    """How far the instance's clock is ahead of ours."""


def pace_of(client: Witness) -> Pace:
    """The figures of all requests of a client."""
    seconds = sorted(client.seconds)
    return Pace(
        client.tally.requests,
        client.tally.throttled,
        median(seconds) if seconds else None,
        seconds[min(int(len(seconds) * 0.95), len(seconds) - 1)] if seconds else None,
        # The header has whole seconds, cut off: half a second more is the best guess.
        median(client.clocks) + 0.5 if client.clocks else None,
    )
