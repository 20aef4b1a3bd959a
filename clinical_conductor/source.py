"""Clinical Conductor as a dlt source: one resource per endpoint, made by one loop over the catalog.

    import dlt
    from clinical_conductor import clinical_conductor

    source = clinical_conductor(resources=["studies", "subjects"])
    dlt.pipeline("ccs", destination="duckdb", dataset_name="ccs").run(source)

    for patient in clinical_conductor(resources=["patients"], limit=10):
        ...

Settings come from the arguments, then from dlt's own places (`.dlt/*.toml` under `[sources.clinical_conductor]`, or
`SOURCES__CLINICAL_CONDUCTOR__API_KEY` and the like), then from `CC_API_BASE_URL`, `CC_API_KEY` and the rest of the
environment or `.env`.

Records are what the API sends, as dicts, with the least that a table needs added:

- `parent_source_id`: whose child it is ("12", or "12/345" for a study's subject), where the endpoint has a parent;
- `source_id`: the key, where it is not simply the record's own id;
- a bare text of a lookup list becomes {"value": text}.

An endpoint with a cursor is incremental. A parent whose children are chosen is read in full each time, because a child
may change without its parent; children are read in full too. Everything merges by primary key. Nothing is deleted:
deletions are inferred only by the full pipeline (`trialsync-etl run`), which proves that a listing was complete.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from itertools import islice
from typing import Any

import msgspec

from clinical_conductor.client import Client  # before dlt: it switches telemetry off

import dlt  # isort: skip
from dlt.common.configuration import configspec  # isort: skip
from dlt.common.configuration.specs import BaseConfiguration  # isort: skip
from dlt.extract import DltResource  # isort: skip
from dlt.extract.exceptions import PipeException  # isort: skip

from clinical_conductor.catalog import (
    ENDPOINTS,
    Endpoint,
    dependency_order,
    find_endpoint,
    join_key,
    split_key,
)
from clinical_conductor.errors import ConfigurationError, ParentGone, TrialSyncError
from clinical_conductor.odata import MAX_PAGE, Capabilities
from clinical_conductor.paging import Listing
from clinical_conductor.records import parse_time
from clinical_conductor.settings import Settings, load_settings

_log = logging.getLogger(__name__)

WORKERS = 8
"""Parents whose children are asked for at once."""
LAG_SECONDS = 300.0
"""How far behind the greatest cursor value a next run begins: a change may be committed later than it is dated."""
_CURSOR = "cursor_utc"

Moment = datetime | date | str


class Record(dict[str, Any]):
    """A record as served. It also answers to `cursor_utc`, which is not one of its fields: its cursor as UTC time.

    dlt's incremental looks there, so that naive, fractional and offset times compare rightly, and a record whose cursor
    is missing or unreadable counts as one without.
    """

    __slots__ = ("cursors",)

    def __init__(self, fields: Mapping[str, Any], cursors: tuple[str, ...] = ()) -> None:
        super().__init__(fields)
        self.cursors = cursors

    def __missing__(self, name: str) -> datetime:
        if name == _CURSOR:
            for cursor in self.cursors:
                time = parse_time(value) if isinstance(value := self.get(cursor), str) else None
                if time is not None:
                    return time
        raise KeyError(name)


class CursorIncremental(dlt.sources.incremental[datetime]):
    """dlt's incremental on `cursor_utc`, which is no column: so no column is announced for it."""

    def get_cursor_column_name(self) -> str | None:
        """None: the cursor is worked out, not stored."""
        return None


@configspec
class NothingInjected(BaseConfiguration):
    """The source reads its settings itself, so that a stray API_KEY in the environment is not taken for its own."""


@dlt.source(name="clinical_conductor", section="clinical_conductor", spec=NothingInjected)
def clinical_conductor(
    base_url: str | None = None,
    api_key: str | None = None,
    api_key_header: str | None = None,
    *,
    resources: Sequence[str] | str | None = None,
    page_size: int | None = None,
    since: Moment | None = None,
    until: Moment | None = None,
    filters: str | Mapping[str, str] | None = None,
    limit: int | None = None,
    rate_limit: float | None = None,
    workers: int = WORKERS,
) -> Iterator[DltResource]:
    """The Clinical Conductor API as dlt resources.

    Args:
        base_url: Such as https://ccs.example.com/CCSWEB.
        api_key: The instance's API key.
        api_key_header: The header it travels in; X-ApiKey by default.
        resources: Names of endpoints, see `endpoints()`; all active ones by default.
        page_size: Records per request, at most 1000.
        since: Only records whose cursor is at or after this; where dlt knows a later one, from there.
        until: Only records whose cursor is before this. dlt then keeps no state: a window can be loaded again.
        filters: An OData $filter for the chosen endpoints, or one per resource name.
        limit: At most so many records of each resource.
        rate_limit: Requests per second over all resources; 0 for no limit.
        workers: Parents whose children are asked for at once.

    Yields:
        One resource per chosen endpoint; those that are only needed as parents are not selected.

    Raises:
        ConfigurationError: a setting is missing or wrong, or there is no such resource.
    """
    settings = source_settings(
        api_base_url=base_url,
        api_key=api_key,
        api_key_header=api_key_header,
        batch_size=page_size,
        api_rate_limit=rate_limit,
    )
    names = [resources] if isinstance(resources, str) and resources else resources
    if names is not None and not names:
        raise ConfigurationError("resources is empty: name one or more, or leave it out for all active ones.")
    active = [row for row in ENDPOINTS.values() if row.active]
    chosen = active if names is None else [find_endpoint(name) for name in names]
    needed = {row.resource: row for row in chosen}
    for row in chosen:
        needed.update((name, ENDPOINTS[name]) for name in _ancestors(row))
    selected = {row.resource for row in chosen}
    for name in filters if isinstance(filters, Mapping) else ():
        if find_endpoint(name).resource not in selected:
            raise ConfigurationError(f"filters names {name}, which is not among the resources chosen; add it to them.")
    if workers < 1:
        raise ConfigurationError(f"workers is {workers}: it must be 1 or more.")
    parents = frozenset(row.parent for row in needed.values() if row.parent)
    reader = Reader(
        Client(settings),
        page_size=settings.batch_size,
        since=_moment(since),
        until=_moment(until),
        filters=filters,
        limit=limit,
        workers=workers,
        selected=frozenset(selected),
        parents=parents,
    )
    made: dict[str, DltResource] = {}
    for row in dependency_order(needed.values()):
        made[row.resource] = _resource(
            row,
            reader,
            parent=made[row.parent] if row.parent else None,
            incremental=bool(row.cursor) and row.parent is None and row.resource not in parents,
            selected=row.resource in selected,
        )
        yield made[row.resource]


def _resource(
    row: Endpoint, reader: Reader, *, parent: DltResource | None, incremental: bool, selected: bool
) -> DltResource:
    """The dlt resource of one row of the catalog."""

    def of_parents(parents: list[Record]) -> Iterator[list[Record]]:
        yield from reader.children(row, parents)

    def in_full() -> Iterator[list[Record]]:
        yield from reader.listing(row, None if row.resource in reader.parents else reader.since)

    function: Callable[..., Any] = in_full if parent is None else of_parents
    if incremental:
        cursor = CursorIncremental(
            _CURSOR,
            initial_value=reader.since,
            end_value=reader.until,
            on_cursor_value_missing="include",
            lag=LAG_SECONDS,
            primary_key=(),  # merging makes repeats harmless; remembering the boundary's rows would grow without bound
        )

        def since_last_time(cursor: Any = cursor) -> Iterator[list[Record]]:
            yield from reader.listing(row, cursor.start_value)

        function = since_last_time
    function.__name__ = row.resource
    function.__doc__ = describe(row)
    hints: dict[str, Any] = {
        "name": row.resource,
        "write_disposition": "merge",
        "primary_key": primary_key(row),
        "selected": selected,
    }
    made: DltResource = (
        dlt.resource(function, **hints) if parent is None else dlt.transformer(function, data_from=parent, **hints)
    )
    made.__doc__ = function.__doc__
    return made


def primary_key(row: Endpoint) -> list[str]:
    """The columns that tell two records of an endpoint's table apart."""
    own = {"fields": "id" if row.key.fields == ("id",) else "source_id", "value": "value"}.get(
        row.key.rule, "source_id"
    )
    return ["parent_source_id", own] if row.parent or row.parent_fields else [own]


def describe(row: Endpoint) -> str:
    """An endpoint in words, as its resource's docstring."""
    key = {
        "fields": " and ".join(row.key.fields),
        "content": "a hash of the record's content, as it has no identity of its own",
        "value": "the text itself",
        "single": "the parent's key" if row.parent else "none, it is a single object",
    }[row.key.rule]
    lines = [
        f"{row.name}: GET {row.path}" + (f" (or {row.alternate})" if row.alternate else ""),
        "",
        f"Key: {key}" + (" within its parent." if row.parent and row.key.rule != "single" else "."),
        f"Cursor: {' or '.join(row.cursor)}, where the instance has it." if row.cursor else "Cursor: none.",
        f"Parent: {row.parent}." if row.parent else "Parent: none, it is a listing.",
    ]
    return "\n".join([*lines, f"Inactive: {row.inactive}."] if row.inactive else lines)


@dataclass
class Reader:
    """Reads endpoints as dicts: what all resources of one source share."""

    client: Client
    page_size: int = MAX_PAGE
    since: datetime | None = None
    until: datetime | None = None
    filters: str | Mapping[str, str] | None = None
    limit: int | None = None
    workers: int = WORKERS
    selected: frozenset[str] = frozenset()
    parents: frozenset[str] = frozenset()
    """Resources whose children are chosen: they are read in full."""
    _found: dict[str, Capabilities] = field(default_factory=dict)
    _given: dict[str, int] = field(default_factory=dict)

    def listing(self, row: Endpoint, since: datetime | None) -> Iterator[list[Record]]:
        """The pages of a listing."""
        below = [child.resource for child in ENDPOINTS.values() if row.resource in _ancestors(child)]
        self._given.update(dict.fromkeys([row.resource, *below], 0))
        for page in self._pages(row, (), since):
            yield from self._limited(row, page)
            if all(self._enough(name) for name in self.selected.intersection([row.resource, *below])):
                return

    def children(self, row: Endpoint, parents: list[Record]) -> Iterator[list[Record]]:
        """The children of one page of parents, several parents at a time."""
        keys = [self._key_of(record) for record in parents]
        at_once = self.workers * (1 if self.limit else 4)
        with ThreadPoolExecutor(self.workers, thread_name_prefix=row.resource) as pool:
            for start in range(0, len(keys), at_once):
                if row.resource in self.selected and self._enough(row.resource):
                    return
                for records in pool.map(lambda key: self._of_parent(row, key), keys[start : start + at_once]):
                    yield from self._limited(row, records)

    def _of_parent(self, row: Endpoint, key: tuple[str, ...]) -> list[Record]:
        try:
            return [record for page in self._pages(row, key, self.since) for record in page]
        except ParentGone as gone:
            _log.warning("%s Its children are left out.", gone)
            return []

    def _limited(self, row: Endpoint, records: list[Record]) -> Iterator[list[Record]]:
        """So many of these as the limit leaves; parents that are not chosen themselves have none."""
        if self.limit is not None and row.resource in self.selected:
            records = records[: max(self.limit - self._given.get(row.resource, 0), 0)]
            self._given[row.resource] = self._given.get(row.resource, 0) + len(records)
        if records:
            yield records

    def _enough(self, resource: str) -> bool:
        """Whether a resource has given as many records as the limit allows."""
        return self.limit is not None and self._given.get(resource, 0) >= self.limit

    def _pages(self, row: Endpoint, parent: tuple[str, ...], since: datetime | None) -> Iterator[list[Record]]:
        """One listing as dicts, with the columns added that a table needs."""
        filters = self.filters if isinstance(self.filters, str) else (self.filters or {}).get(row.resource)
        values = parent[-len(row.parameters) :] if row.parameters else ()
        found = self._found.setdefault(row.resource, Capabilities())
        size = self.page_size
        if self.limit is not None:
            size = min(size, 50 if row.resource in self.parents else max(self.limit, 2))
        listing = Listing(
            self.client,
            row,
            parent,
            capabilities=found,
            since=since,
            page_size=size,
            filters=filters if row.resource in self.selected else None,
        )
        named = "source_id" in primary_key(row)
        for page in listing:
            records = []
            for i, raw in enumerate(page.records):
                content = msgspec.json.decode(raw)
                record = Record(content if isinstance(content, dict) else {"value": content}, row.cursor)
                if page.parents is not None:
                    record["parent_source_id"] = page.parents[i]
                elif values:
                    record["parent_source_id"] = join_key(values)
                if named:
                    record["source_id"] = page.keys[i]
                records.append(record)
            for reason in {item.reason for item in page.rejected}:
                number = sum(item.reason == reason for item in page.rejected)
                _log.warning("%s: %d records are left out, because each %s.", row.resource, number, reason)
            yield self._within(row, records)

    def _within(self, row: Endpoint, records: list[Record]) -> list[Record]:
        """Children and plain listings inside the window asked for; those without a cursor are inside."""
        if row.resource in self.parents or not row.cursor or (self.since is None and self.until is None):
            return records
        kept = []
        for record in records:
            try:
                time = record[_CURSOR]
            except KeyError:
                kept.append(record)
            else:
                if (self.since is None or time >= self.since) and (self.until is None or time < self.until):
                    kept.append(record)
        return kept

    def _key_of(self, record: Record) -> tuple[str, ...]:
        """A parent record's key parts, its own parent's first."""
        own = record.get("source_id", record.get("id", record.get("Id", record.get("ID", ""))))
        return (*split_key(record.get("parent_source_id", "")), str(own))


def _ancestors(row: Endpoint) -> Iterator[str]:
    """The resources above one, nearest first."""
    while row.parent is not None:
        yield row.parent
        row = ENDPOINTS[row.parent]


def source_settings(**given: Any) -> Settings:
    """Settings from arguments, then dlt's places, then the environment and `.env`."""
    places = {"api_base_url": "base_url", "batch_size": "page_size", "api_rate_limit": "rate_limit"}
    kinds: dict[str, type] = {"batch_size": int, "api_rate_limit": float}
    for name, value in given.items():
        if value is None:
            path = f"sources.clinical_conductor.{places.get(name, name)}"
            provider = dlt.secrets if name == "api_key" else dlt.config
            given[name] = provider.get(path, kinds.get(name, str))
    return load_settings(**given)


def _moment(value: Moment | None) -> datetime | None:
    """A time that an argument gives in one of several ways, in UTC."""
    if isinstance(value, str):
        time = parse_time(value)
        if time is None:
            raise ConfigurationError(f"{value!r} is not a time: write it like 2026-01-31 or 2026-01-31T12:00:00Z.")
        return time
    if isinstance(value, date) and not isinstance(value, datetime):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    if value is None or value.tzinfo is not None:
        return value
    return value.replace(tzinfo=UTC)


def endpoints() -> list[dict[str, Any]]:
    """The catalog as a table, one dict per endpoint: `pandas.DataFrame(endpoints())`."""
    return [
        {
            "resource": row.resource,
            "job_id": row.job_id,
            "category": row.category,
            "path": row.path,
            "parent": row.parent,
            "key": " and ".join(row.key.fields) if row.key.rule == "fields" else row.key.rule,
            "cursor": " or ".join(row.cursor) or None,
            "active": row.active,
            "why_not": row.inactive,
        }
        for row in ENDPOINTS.values()
    ]


def sample(resource: str, n: int = 10, **arguments: Any) -> list[dict[str, Any]]:
    """The first `n` records of a resource, as plain dicts; of a child, those of the first parents that have any.

    Args:
        resource: Its name, see `endpoints()`.
        n: How many.
        arguments: Whatever `clinical_conductor` takes besides, such as filters.

    Raises:
        ConfigurationError: there is no such resource, or a setting is missing.
        TrialSyncError: of the client, such as Unauthorised; dlt's own wrapping is taken off.
    """
    name = find_endpoint(resource).resource
    if not isinstance(n, int) or n < 0:
        raise ConfigurationError(f"sample: n is {n!r}; it must be a whole number, 0 or more.")
    source = clinical_conductor(resources=[name], limit=n, **arguments)
    try:
        return [dict(record) for record in islice(source.resources[name], n)]
    except PipeException as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, TrialSyncError):
            cause = cause.__cause__ or cause.__context__
        raise cause or error from None
