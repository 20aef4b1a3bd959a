"""All tables of the simulated instance, and how they change with time.

The clock is the world's own, so that a test means the same on every day.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from clinical_conductor.simulator.relations import Relations
from clinical_conductor.simulator.rows import DAY_MS, Ids, Rows
from clinical_conductor.simulator.shapes import TABLES
from clinical_conductor.simulator.templates import Compute, compile_shape, mix

EPOCH = datetime(2026, 6, 1, 6, tzinfo=UTC)
"""When the world begins: every record of the first day was modified before it."""

_LASTING = 0.8
"""Only rows beyond this share of a table vanish by themselves. Fewer are referred to, so no reference ever dangles."""


class World:
    """All tables, and the clock. Whoever reads or changes it holds `lock`."""

    def __init__(self, scale: float = 1.0, seed: int = 1, *, ids: Ids = "number", modified_date: bool = True) -> None:
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
        relations = Relations(self.tables)
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
                self._now_ms += DAY_MS
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
            return self._now_ms + 1 + mix(times + row) % (DAY_MS - 1000)

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
        before = len(rows.beginning(above)) if rows.parent else row
        rows.added.append((above, before + len(siblings) + 1 if rows.parent else row + 1))
        siblings.append(row)
        rows.versions[row] = (0, at)
        if rows.table.name == "subject_statuses" and rows.parent:  # a subject's status is that of its last event
            self._touch(rows.parent, above, at)
        for children in rows.children:
            model = row % rows.size
            for _ in children.beginning(model):
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
