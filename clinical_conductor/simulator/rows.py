"""The rows of one table of the simulated instance.

Nothing is stored but what differs from the beginning: a record is worked out from (seed, table, row, version) whenever
it is asked for, and the rows of a parent are found by arithmetic. A "row" is its place in its table, from 0; rows that
appear later follow the first ones.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Callable, Sequence
from typing import Any, Literal
from uuid import UUID
from zlib import crc32

from clinical_conductor.simulator.shapes import Table
from clinical_conductor.simulator.templates import Compute, mix

Ids = Literal["number", "string", "guid"]

DAY_MS = 86_400_000
_JITTER = (0, 13, -16, 19, -7, 4, -19, 10)  # hundredths of a parent, so that parents differ in how many rows they have
_REFERABLE = 0.7  # only these first rows are referred to from elsewhere


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

    def beginning(self, parent: int | None) -> range:
        """The rows of a parent (of the whole table for None) that were there from the beginning, dead ones included."""
        if parent is None:
            return range(self.size)
        if self.parent is None or parent >= self.parent.size:
            return range(0)
        return range(self.first_of(parent), self.first_of(parent + 1))

    def of(self, parent: int | None) -> Sequence[int]:
        """All rows of a parent (of the whole table for None) that exist now, in order."""
        rows: Sequence[int] = self.beginning(parent)
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
        return [*self.beginning(parent), *added] if added else self.beginning(parent)

    def born_with(self, parent: int) -> Sequence[int]:
        """The rows a parent had when it appeared. References among them stay what they are when others are added."""
        if parent < self.above.size:
            return self.beginning(parent)
        return self.added_to.get(parent, [])[: len(self.beginning(parent % self.above.size))]

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
        return version[1] if version else -1000 - self.hash(row) % (900 * DAY_MS)

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
