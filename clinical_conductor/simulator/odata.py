"""The part of OData that the API is known to take: $top, $skip, $filter (gt ge lt le eq, and), $orderby, $count."""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from clinical_conductor.simulator.rows import Rows
from clinical_conductor.simulator.shapes import Table
from clinical_conductor.simulator.templates import properties
from clinical_conductor.simulator.world import EPOCH, World

_OPTIONS = frozenset({"$top", "$skip", "$filter", "$orderby", "$count"})
_TERM = re.compile(r"\s*([A-Za-z]\w*(?:/[A-Za-z]\w*)*)\s+(eq|gt|ge|lt|le)\s+('(?:[^']|'')*'|[^\s']+(?:'[^']*')?)\s*")
_DATE = re.compile(r"(\d{4}-\d\d-\d\d)(?:T(\d\d:\d\d(?::\d\d)?)(?:\.(\d{1,7}))?)?(Z|[+-]\d\d:\d\d)?")
_GUID = re.compile(r"(?i)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_REMEMBERED = 16


class BadQuery(ValueError):
    """The query is one that the API answers with 400."""


@dataclass(frozen=True)
class Condition:
    """One comparison of a $filter."""

    name: str
    op: str
    value: int | float | str | bool | datetime | None


@dataclass
class Query:
    """What a request asks for. Faults change it before it is answered."""

    top: int | None = None
    skip: int = 0
    conditions: tuple[Condition, ...] = ()
    order: tuple[tuple[str, bool], ...] = ()
    """(property, descending)."""
    count: bool = False
    text: dict[str, str] = field(default_factory=dict)
    """The options as they came, for the next link."""


def split_query(raw: str, *, plus_is_blank: bool = False) -> dict[str, str]:
    """A query string's values. A "+" is a plus, as the API has it, unless told otherwise.

    >>> split_query("$filter=id%20ge%201&a=b+c")
    {'$filter': 'id ge 1', 'a': 'b+c'}
    """
    values = {}
    for pair in raw.split("&"):
        if pair:
            name, _, value = pair.replace("+", "%20").partition("=") if plus_is_blank else pair.partition("=")
            values[unquote(name)] = unquote(value)
    return values


def parse_query(options: Mapping[str, str], known: Mapping[str, str], *, cap: int, reject_above_cap: bool) -> Query:
    """The query of a request to a listing whose properties are `known`.

    Raises:
        BadQuery: an option, property or value is not one the API takes.
    """
    query = Query(text={k: v for k, v in options.items() if k.startswith("$")})
    for name in query.text:
        if name not in _OPTIONS:
            raise BadQuery(f"The query option {name!r} is not supported")
    if "$top" in options:
        query.top = _natural(options["$top"], "$top")
        if query.top > cap:
            if reject_above_cap:
                raise BadQuery(f"The limit of '{cap}' for Top query has been exceeded")
            query.top = cap
    query.skip = _natural(options.get("$skip", "0"), "$skip")
    if "$count" in options:
        if options["$count"] not in ("true", "false"):
            raise BadQuery("$count takes true or false")
        query.count = options["$count"] == "true"
    if "$filter" in options:
        query.conditions = tuple(_conditions(options["$filter"], known))
    if "$orderby" in options:
        query.order = tuple(_order(options["$orderby"], known))
    return query


@lru_cache(maxsize=512)
def known_properties(table: Table, shape: str, ids: str) -> Mapping[str, str]:
    """Every property that may be filtered or sorted by, with its type: int, text, guid, number, date or bool."""
    found = {}
    for name, kind in properties(shape):
        last = name.rsplit("/", 1)[-1].lower()
        if kind == "key" or (kind[0] == "@" and kind.endswith(".id")):
            found[name] = "int" if ids == "number" or (kind == "key" and table.local) else ids
        elif kind[0] == "@" and "." not in kind:
            found[f"{name}/id"] = "int" if ids == "number" else ids
            found[f"{name}/name"] = "text"
        elif re.match(r"date:|time:", kind.lstrip("?")) or kind[1:] in _DATE_FIELDS:
            found[name] = "date"
        elif kind.lstrip("?").startswith("int:") or kind == "#number":
            found[name] = "int"
        elif kind.lstrip("?").startswith("money:"):
            found[name] = "number"
        elif kind == "flag" or kind == "#event_current":
            found[name] = "bool"
        else:
            found[name] = "guid" if last == "uid" else "text"
    if table.name in ("patient_visits", "subject_statuses"):  # the API spells the subject's preview like this
        found["subject/Id"] = found.pop("subject/id")
        found["subject/Name"] = found.pop("subject/name")
    return found


_DATE_FIELDS = frozenset(
    {"modified", "created", "updated", "enrolled", "treatment", "event_date", "due", "due_min", "due_max", "completed"}
    | {"planned_start", "planned_end", "born"}
)
"""Computed fields that are dates."""


def _natural(text: str, name: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise BadQuery(f"Invalid value for {name}")
    return int(text)


def _order(text: str, known: Mapping[str, str]) -> Iterable[tuple[str, bool]]:
    for part in text.split(","):
        name, _, direction = part.strip(" ").partition(" ")
        if name not in known:
            raise BadQuery(f"Could not find a property named '{name}'")
        if direction.strip(" ") not in ("", "asc", "desc"):
            raise BadQuery("Syntax error in $orderby")
        yield name, direction.strip(" ") == "desc"


def _conditions(text: str, known: Mapping[str, str]) -> Iterable[Condition]:
    at = 0
    while True:
        term = _TERM.match(text, at)
        if term is None:
            raise BadQuery("Syntax error in $filter")
        name, op, literal = term.groups()
        if name not in known:
            raise BadQuery(f"Could not find a property named '{name}'")
        yield Condition(name, op, _literal(literal, known[name]))
        at = term.end()
        if at == len(text):
            return
        if not text.startswith("and ", at):
            raise BadQuery("Syntax error in $filter")
        at += 3


def _literal(text: str, kind: str) -> int | float | str | bool | datetime | None:
    """The value of a literal that is compared with a property of this type."""
    if text == "null":
        return None
    if kind == "int" and re.fullmatch(r"-?\d+", text):
        return int(text)
    if kind == "number" and re.fullmatch(r"-?\d+(\.\d+)?", text):
        return float(text)
    if kind == "bool" and text in ("true", "false"):
        return text == "true"
    if kind == "text" and text.startswith("'"):
        return text[1:-1].replace("''", "'")
    if kind == "guid":
        inner = text.removeprefix("guid").strip("'")
        if _GUID.fullmatch(inner):
            return inner.lower()
    if kind in ("string",) and text.startswith("'"):
        return text[1:-1].replace("''", "'")
    if kind == "date":
        inner = re.sub(r"^(datetime|datetimeoffset)'(.*)'$", r"\2", text)
        if moment := parse_moment(inner):
            return moment
    raise BadQuery("A binary operator with incompatible types was detected in $filter")


def parse_moment(text: str) -> datetime | None:
    """A date or time as OData writes it, in UTC; None for anything else."""
    found = _DATE.fullmatch(text)
    if found is None:
        return None
    day, clock, fraction, zone = found.groups()
    try:
        moment = datetime.fromisoformat(f"{day}T{clock or '00:00'}{(zone or 'Z').replace('Z', '+00:00')}")
    except ValueError:
        return None
    return moment.astimezone(UTC) + timedelta(microseconds=int((fraction or "0").ljust(6, "0")[:6]))


class Selector:
    """Finds the rows of a page. What takes long to find is remembered until the world changes."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._remembered: OrderedDict[Any, Sequence[int]] = OrderedDict()
        self._revision = world.revision

    def select(self, rows: Rows, parent: int | None, query: Query) -> Sequence[int]:
        """All rows that a query is about, in its order; $skip and $top are left to the caller."""
        if self._revision != self._world.revision:
            self._remembered.clear()
            self._revision = self._world.revision
        by_id = _id_name(rows.table)
        bounds = [c for c in query.conditions if c.name == by_id and c.value is not None]
        others = tuple(c for c in query.conditions if c not in bounds)
        order = query.order
        natural = not order or (order[0][0] == by_id)
        sorting = () if natural else order
        found = self._remember(
            (rows.table.name, parent, others, sorting), lambda: self._find(rows, parent, others, sorting)
        )
        if not natural:
            kept: Sequence[int] = (
                [row for row in found if all(_within(rows, row, c) for c in bounds)] if bounds else found
            )
            return kept
        low, high = 0, len(found)
        for c in bounds:
            value = rows.sortable(c.value)  # type: ignore[arg-type]
            if c.op in ("ge", "eq"):
                low = max(low, bisect_left(found, value, key=rows.sort_key))
            if c.op == "gt":
                low = max(low, bisect_right(found, value, key=rows.sort_key))
            if c.op in ("le", "eq"):
                high = min(high, bisect_right(found, value, key=rows.sort_key))
            if c.op == "lt":
                high = min(high, bisect_left(found, value, key=rows.sort_key))
        if (low, high) != (0, len(found)):
            found = found[low:high] if low < high else []
        return found[::-1] if order and order[0][1] else found

    def _remember(self, key: Any, find: Callable[[], Sequence[int]]) -> Sequence[int]:
        if key in self._remembered:
            self._remembered.move_to_end(key)
            return self._remembered[key]
        found = find()
        self._remembered[key] = found
        if len(self._remembered) > _REMEMBERED:
            self._remembered.popitem(last=False)
        return found

    def _find(
        self, rows: Rows, parent: int | None, conditions: tuple[Condition, ...], order: tuple[tuple[str, bool], ...]
    ) -> Sequence[int]:
        found = rows.of(parent)
        if not rows.plain:
            found = sorted(found, key=rows.sort_key)
        for c in conditions:
            if c.name == "modifiedDate" and isinstance(c.value, datetime):
                at = round((c.value - EPOCH) / timedelta(microseconds=1)) / 1000
                if at > 0 and c.op in ("ge", "gt"):  # nothing of the beginning qualifies: look at what changed
                    found = [row for row in found if row in rows.versions]
                compare, by_hand = _OPERATORS[c.op], rows.by_hand
                found = [
                    row
                    for row in found
                    if (_matches(rows, row, c) if row in by_hand else compare(rows.modified(row), at))
                ]
            else:
                found = [row for row in found if _matches(rows, row, c)]
        for name, descending in reversed(order):
            if name == "modifiedDate":
                found = sorted(found, key=rows.modified, reverse=descending)
            else:
                found = sorted(found, key=lambda row: _sortable(_value(rows, row, name)), reverse=descending)
        return found


_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": lambda a, b: a == b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
}


@lru_cache(maxsize=128)
def _id_name(table: Table) -> str | None:
    """The property that rows are ordered by, if the records have it."""
    return next((name for name, kind in properties(table.shape) if kind == "key"), None)


def _within(rows: Rows, row: int, c: Condition) -> bool:
    return _OPERATORS[c.op](rows.sort_key(row), rows.sortable(c.value))  # type: ignore[arg-type]


def _value(rows: Rows, row: int, name: str) -> Any:
    try:
        value: Any = json.loads(rows.record(row))
    except ValueError:
        return None
    for part in name.split("/"):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _matches(rows: Rows, row: int, c: Condition) -> bool:
    value = _value(rows, row, c.name)
    if value is None or c.value is None:
        return c.op == "eq" and value is c.value
    if isinstance(c.value, datetime):
        moment = parse_moment(str(value))
        return moment is not None and _OPERATORS[c.op](moment, c.value)
    try:
        return _OPERATORS[c.op](value, c.value)
    except TypeError:
        return False


def _sortable(value: Any) -> tuple[int, Any]:
    """Nulls first, as the API sorts."""
    return (0, 0) if value is None else (1, value)
