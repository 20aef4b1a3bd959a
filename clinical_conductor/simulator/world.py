"""What exists in the simulated instance, and how that changes with time.

Nothing is stored but what differs from the beginning: a record is worked out from (seed, table, row, version) whenever
it is asked for, and the rows of a parent are found by arithmetic. A "row" is its place in its table, from 0; rows that
appear later follow the first ones. The clock is the world's own, so that a test means the same on every day.
"""

from __future__ import annotations

import json
import math
import threading
from array import array
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID
from zlib import crc32

from clinical_conductor.simulator.shapes import TABLES, Table
from clinical_conductor.simulator.templates import Compute, compile_shape, mix

if TYPE_CHECKING:
    from clinical_conductor.simulator.relations import Relations

EPOCH = datetime(2026, 6, 1, 6, tzinfo=UTC)
"""When the world begins: every record of the first day was modified before it."""

Ids = Literal["number", "string", "guid"]

_DAY_MS = 86_400_000
_JITTER = (0, 13, -16, 19, -7, 4, -19, 10)  # hundredths of a parent, so that parents differ in how many rows they have
_REFERABLE = 0.7  # only these first rows are referred to from elsewhere ...
_LASTING = 0.8  # ... and only rows beyond these vanish by themselves: no reference ever dangles


class Rows:
    """One table's rows: which exist, whose they are, what their keys are, and what was changed."""

    def __init__(self, table: Table, seed: int, parent: Rows | None, scale: float, ids: Ids) -> None:
        self.table = table
        self.parent = parent
        self.children: list[Rows] = []
        self.salt = mix(seed << 32 | crc32(table.name.encode()))
        self.size = _size(table, parent, scale)
        self.ids: Ids = ids if not table.local else "number"
        self.versions: dict[int, tuple[int, int]] = {}
        """(version, modified in ms since EPOCH) of the rows that changed or appeared."""
        self.dead: set[int] = set()
        self.added: list[tuple[int, int]] = []
        """(parent row, number within the parent) of the rows that appeared."""
        self.added_to: dict[int, list[int]] = {}
        self.raw: dict[int, bytes] = {}
        self.edits: dict[int, dict[str, Any]] = {}
        self.by_hand: set[int] = set()
        """Rows whose bytes, or whose modifiedDate, were given by hand."""
        self.keys: dict[int, int | str] = {}
        """Keys given by hand."""
        self.spoilers: list[Callable[[int, bytes], bytes]] = []
        """Applied to every record on its way out (faults.py)."""
        self.write: Compute = lambda _o, _h, _v: b"{}"
        self._parent_memo = (0, 0, -1)
        self._found: dict[str, int] | None = None
        if parent is not None:
            parent.children.append(self)

    def hash(self, row: int) -> int:
        """The row's own random number."""
        return mix(row + self.salt)

    # -- whose rows they are

    @property
    def above(self) -> Rows:
        """The parent's table.

        Raises:
            LookupError: the table has none.
        """
        if self.parent is None:
            raise LookupError(f"{self.table.name} has no parent")
        return self.parent

    def first_of(self, parent: int) -> int:
        """The first row of a parent that was there from the beginning."""
        parents = self.above.size
        if parent >= parents:
            return self.size
        jitter = 0 if self.size == parents else _JITTER[parent % 8]
        return max(0, (100 * parent + jitter) * self.size // (100 * parents))

    def parent_of(self, row: int) -> int:
        """The parent's row."""
        if row >= self.size:
            return self.added[row - self.size][0]
        low, high, parent = self._parent_memo
        if low <= row < high:
            return parent
        parents = self.above.size
        parent = min(row * parents // self.size, parents - 1)
        while self.first_of(parent) > row:
            parent -= 1
        while self.first_of(parent + 1) <= row:
            parent += 1
        self._parent_memo = (self.first_of(parent), self.first_of(parent + 1), parent)
        return parent

    def number(self, row: int) -> int:
        """The row's number within its parent, from 1."""
        if row >= self.size:
            return self.added[row - self.size][1]
        return row + 1 if self.parent is None else row - self.first_of(self.parent_of(row)) + 1

    def _beginning(self, parent: int | None) -> range:
        if parent is None:
            return range(self.size)
        if self.parent is None or parent >= self.parent.size:
            return range(0)
        return range(self.first_of(parent), self.first_of(parent + 1))

    def of(self, parent: int | None) -> Sequence[int]:
        """All rows of a parent (of the whole table for None) that exist now, in order."""
        rows: Sequence[int] = self._beginning(parent)
        added: Sequence[int] = (
            range(self.size, self.size + len(self.added)) if parent is None else self.added_to.get(parent, ())
        )
        if added:
            rows = [*rows, *added] if parent is not None else range(self.size + len(self.added))
        if self.dead:
            rows = array("q", (row for row in rows if row not in self.dead))
        return rows

    def ever_of(self, parent: int) -> Sequence[int]:
        """All rows a parent ever had."""
        added = self.added_to.get(parent)
        return [*self._beginning(parent), *added] if added else self._beginning(parent)

    def born_with(self, parent: int) -> Sequence[int]:
        """The rows a parent had when it appeared. References among them stay what they are when others are added."""
        if parent < self.above.size:
            return self._beginning(parent)
        return self.added_to.get(parent, [])[: len(self._beginning(parent % self.above.size))]

    def exists(self, row: int) -> bool:
        """Whether the row is there now."""
        return 0 <= row < self.size + len(self.added) and row not in self.dead

    def referable(self) -> int:
        """How many of the first rows other tables may refer to."""
        return max(1, int(self.size * _REFERABLE))

    # -- keys

    def key(self, row: int) -> int | str:
        """The row's id as a Python value."""
        if self.keys and row in self.keys:
            return self.keys[row]
        if self.table.local:
            return self.number(row)
        if self.ids == "number":
            return self.table.first_id + row
        if self.ids == "guid":
            return str(UUID(int=self.hash(row) << 64 | self.hash(row + 1)))
        # Mixed case, unequal lengths and a quote: what an order "by text" is easily got wrong with.
        return ("a", "B", "Z", "o'", "0", "é")[self.hash(row) % 6] + f"{row:x}"

    def key_json(self, row: int) -> bytes:
        """The row's id as it stands in the JSON."""
        if self.ids == "number" and not self.keys and not self.table.local:
            return b"%d" % (self.table.first_id + row)
        return json.dumps(self.key(row), ensure_ascii=False).encode()

    def sort_key(self, row: int) -> Any:
        """What the server orders ids by; GUIDs in its own order, the last group first."""
        return self.sortable(self.key(row))

    def sortable(self, key: int | str) -> Any:
        """The same for a key."""
        if self.ids == "guid" and isinstance(key, str):
            groups = key.lower().split("-")
            return (1, tuple(reversed(groups)))
        return (0, key) if isinstance(key, int) else (1, key)

    @property
    def plain(self) -> bool:
        """Whether the order of rows is the order of their ids."""
        return not self.keys and self.ids == "number"

    def find(self, text: str, parent: int | None = None) -> int | None:
        """The row with this id (within the parent, where ids are local), or None."""
        row: int | None = None
        if self.keys or self.ids != "number":
            if self._found is None:
                self._found = {str(self.key(r)): r for r in range(self.size + len(self.added))}
            row = self._found.get(text)
        elif text.isascii() and text.isdecimal() and len(text) < 19:
            number = int(text)
            if not self.table.local:
                row = number - self.table.first_id
            elif parent is not None:
                rows = self.ever_of(parent)
                row = rows[number - 1] if 1 <= number <= len(rows) else None
            else:
                row = number - 1
        if row is None or not self.exists(row) or (parent is not None and self.parent_of(row) != parent):
            return None
        return row

    def forget_keys(self) -> None:
        """Keys changed: look them up anew."""
        self._found = None

    # -- records

    def modified(self, row: int) -> int:
        """When the row was last modified, in ms since EPOCH."""
        version = self.versions.get(row)
        return version[1] if version else -1000 - self.hash(row) % (900 * _DAY_MS)

    def record(self, row: int) -> bytes:
        """The row's JSON as it is served now."""
        if self.raw and row in self.raw:
            return self.raw[row]
        version = self.versions.get(row)
        record = self.write(row, self.hash(row), version[0] if version else 0)
        if self.edits and row in self.edits:
            fields = {**json.loads(record), **self.edits[row]}
            record = json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")
        for spoil in self.spoilers:
            record = spoil(row, record)
        return record


def _size(table: Table, parent: Rows | None, scale: float) -> int:
    """How many rows the table begins with."""
    above = parent.size if parent else 0
    if table.per:
        return max(min(table.least, above), round(table.per * above))
    if table.big:
        return max(table.least, math.ceil(table.least_per * above), round(table.rows * scale))
    return max(min(table.rows, table.least), round(table.rows * min(scale, 1)))


class World:
    """All tables, and the clock. Whoever reads or changes it holds `lock`."""

    def __init__(self, scale: float = 1.0, seed: int = 1, *, ids: Ids = "number", modified_date: bool = True) -> None:
        from clinical_conductor.simulator.relations import Relations

        self.seed = seed
        self.scale = scale
        self.modified_date = modified_date
        self.lock = threading.RLock()
        self.revision = 0
        """Counts every change; whoever remembers anything about the world compares it."""
        self._now_ms = 0
        self.days = 0
        self.tables: dict[str, Rows] = {}
        for table in TABLES.values():
            parent = self.tables[table.parent] if table.parent else None
            self.tables[table.name] = Rows(table, seed, parent, scale, ids)
        relations = Relations(self)
        for name, rows in self.tables.items():
            shape = self.shape(name)
            rows.write = _compiled_when_needed(rows, shape, f"{seed}{name}", relations)

    def shape(self, name: str) -> str:
        """The table's shape as this instance has it."""
        table = TABLES[name]
        return table.shape + " modifiedDate=#modified" * (table.modified and self.modified_date)

    @property
    def now(self) -> datetime:
        """The world's time."""
        return EPOCH + timedelta(milliseconds=self._now_ms)

    # -- time

    def advance(self, days: int = 1, change: float = 0.01) -> None:
        """Let days pass: `change` of all records are edited, and a quarter of that appears and vanishes.

        An edited child touches its parent in one case of two. Which records those are depends on the seed and the
        number of the day alone.
        """
        with self.lock:
            for _ in range(days):
                self.days += 1
                for rows in self.tables.values():
                    self._advance_table(rows, change)
                self._now_ms += _DAY_MS
                self.revision += 1

    def _advance_table(self, rows: Rows, change: float) -> None:
        stream = mix(rows.salt + self.days * 0x9E3779B97F4A7C15)
        times = mix(stream ^ 0x5851F42D4C957F2D)
        counter = 0

        def draw() -> int:
            nonlocal counter
            counter += 1
            return mix(stream + counter)

        def how_many(share: float, least_of: int) -> int:
            expected = rows.size * share
            certain = int(expected) + (draw() % 1000 < (expected % 1) * 1000)
            return max(certain, 1 if share and rows.size >= least_of else 0)

        def moment(row: int) -> int:
            return self._now_ms + 1 + mix(times + row) % (_DAY_MS - 1000)

        total = rows.size + len(rows.added)
        for _ in range(how_many(change, 20)):
            row = draw() % total
            if row not in rows.dead:
                self._touch(rows, row, moment(row))
                if rows.parent is not None and draw() % 2:
                    above = rows.parent_of(row)
                    if rows.parent.exists(above):
                        self._touch(rows.parent, above, moment(row))
        if rows.table.grows and not rows.table.single:
            lasting = math.ceil(rows.size * _LASTING)
            for _ in range(how_many(change / 4, 20)):
                row = lasting + draw() % (total - lasting) if total > lasting else -1
                if rows.exists(row):
                    self._kill(rows, row)
            for _ in range(how_many(change / 4, 20)):
                above = draw() % rows.parent.size if rows.parent else 0
                if rows.parent is None or rows.parent.exists(above):
                    self._spawn(rows, above, moment(counter))

    def _touch(self, rows: Rows, row: int, at: int) -> None:
        version, before = rows.versions.get(row, (0, -1))
        rows.versions[row] = (version + 1, max(at, before))

    def _kill(self, rows: Rows, row: int) -> None:
        rows.dead.add(row)
        for children in rows.children:
            for child in children.ever_of(row):
                self._kill(children, child)

    def _spawn(self, rows: Rows, above: int, at: int) -> int:
        row = rows.size + len(rows.added)
        siblings = rows.added_to.setdefault(above, [])
        before = len(rows._beginning(above)) if rows.parent else row
        rows.added.append((above, before + len(siblings) + 1 if rows.parent else row + 1))
        siblings.append(row)
        rows.versions[row] = (0, at)
        if rows.table.name == "subject_statuses" and rows.parent:  # a subject's status is that of its last event
            self._touch(rows.parent, above, at)
        for children in rows.children:
            model = row % rows.size
            for _ in children._beginning(model):
                self._spawn(children, row, at)
        return row

    # -- single changes, for tests

    def _tick(self) -> int:
        """A change by hand takes a second."""
        self.revision += 1
        self._now_ms += 1000
        return self._now_ms - 500

    def edit(self, name: str, row: int, fields: dict[str, Any], *, touch: bool = True) -> None:
        """Change a record's fields; `touch` moves its modifiedDate."""
        with self.lock:
            rows = self.tables[name]
            at = self._tick()
            rows.edits.setdefault(row, {}).update(fields)
            if "modifiedDate" in fields:
                rows.by_hand.add(row)
            if touch:
                version = rows.versions.get(row, (0, 0))[0]
                rows.versions[row] = (version, at)

    def insert(self, name: str, parent: int | None, fields: dict[str, Any]) -> int:
        """A new record, with new children where such records have any; its row. Its id may be given in `fields`."""
        with self.lock:
            rows = self.tables[name]
            row = self._spawn(rows, parent or 0, self._tick())
            own = next((fields[k] for k in ("id", "Id") if k in fields), None)
            if own is not None:
                rows.keys[row] = own
            if fields:
                rows.edits[row] = dict(fields)
            for table in self.tables.values():
                table.forget_keys()
            return row

    def delete(self, name: str, row: int) -> None:
        """Remove a record and all that is below it."""
        with self.lock:
            self._tick()
            self._kill(self.tables[name], row)

    def replace_raw(self, name: str, row: int, raw: bytes) -> None:
        """Serve exactly these bytes as the record."""
        with self.lock:
            self.tables[name].versions[row] = (self.tables[name].versions.get(row, (0, 0))[0], self._tick())
            self.tables[name].raw[row] = raw
            self.tables[name].by_hand.add(row)

    def set_key(self, name: str, row: int, key: int | str) -> None:
        """Give a record another id, perhaps one that exists already."""
        with self.lock:
            self._tick()
            self.tables[name].keys[row] = key
            self.tables[name].forget_keys()

    # -- reading

    def each(self, chain: Sequence[str]) -> Iterator[tuple[tuple[str, ...], int]]:
        """Every row of the last table of a chain of parents, with the ids along the chain."""
        last = self.tables[chain[-1]]
        for row in last.of(None):
            keys: list[str] = []
            rows, at = last, row
            for name in reversed(chain):
                while rows.table.name != name:
                    at = rows.parent_of(at)
                    rows = rows.above
                keys.append(str(rows.key(at)))
            yield tuple(reversed(keys)), row


def _compiled_when_needed(rows: Rows, shape: str, seed: str, relations: Relations) -> Compute:
    """The table's writer, which compiles itself when the first record is asked for."""

    def first(row: int, h: int, version: int) -> bytes:
        def resolve(kind: str) -> Compute:
            return relations.resolve(rows.table.name, kind)

        write = compile_shape(shape, seed, resolve) if shape else resolve("#revised")
        rows.write = write
        return write(row, h, version)

    return first
