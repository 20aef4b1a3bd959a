"""The computed values of a record: its key and names, previews of related rows, and dates and states that must agree.

`@table` in a shape becomes the preview of one row of that table: the row's own ancestor, a row that belongs to the same
ancestor (a subject's arm is one of its study's), or any row that never vanishes. `#name` is a method of this class.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from functools import lru_cache, partial
from typing import TypeAlias

from clinical_conductor.simulator.pools import POOLS
from clinical_conductor.simulator.rows import DAY_MS, Rows
from clinical_conductor.simulator.templates import Compute

Related: TypeAlias = Callable[[int, int], "int | None"]
"""(row, hash) → the related row."""

_REFERENCE = re.compile(r"(\??)@(\w+?)(?:/(\d))?(?:\.(\w+))?")
_FIRST_DAY = date(2020, 1, 1)
_TODAY = (date(2026, 6, 1) - _FIRST_DAY).days
_START_MS = 6 * 3_600_000  # EPOCH's hour

_VIA = {
    ("subject_statuses", "sites"): "subjects",
    ("appointments", "sites"): "subjects",
    ("appointments", "patients"): "subjects",
}
"""References that must be those of an ancestor."""
_SAME_ROW = {
    ("study_personnel", "study_roles"),
    ("sponsor_divisions", "sponsors"),
    ("sponsor_teams", "sponsors"),
    ("sponsor_teams", "sponsor_divisions"),
}


@lru_cache(maxsize=8192)
def _day(number: int) -> bytes:
    """A day as the API writes dates."""
    return b'"%bT00:00:00"' % (_FIRST_DAY + timedelta(days=number)).isoformat().encode()


def _quoted(words: tuple[str, ...]) -> list[bytes]:
    return [f'"{word}"'.encode() for word in words]


_FIRST, _LAST, _RACE, _ETHNICITY = (_quoted(POOLS[name]) for name in ("first", "last", "race", "ethnicity"))


class Relations:
    """Gives the function behind every computed kind of a shape."""

    def __init__(self, tables: Mapping[str, Rows]) -> None:
        """`tables` are all of the world's, by name."""
        self._tables = tables
        self._caches: dict[str, Callable[[int], bytes]] = {}

    def resolve(self, table: str, kind: str) -> Compute:
        """The function of one computed kind of a table.

        Raises:
            ValueError: there is no such kind.
        """
        rows = self._tables[table]
        if kind == "key":
            first = rows.table.first_id
            key_json = rows.key_json
            if rows.ids == "number" and not rows.table.local:
                return lambda row, _h, _v: b"%d" % (first + row) if not rows.keys else key_json(row)
            return lambda row, _h, _v: key_json(row)
        if kind == "uid":
            return lambda _row, h, _v: _uid(h)
        if kind.startswith("#"):
            method = getattr(self, f"_{kind[1:]}", None)
            if method is None:
                raise ValueError(f"there is no {kind}")
            return partial(method, rows)
        found = _REFERENCE.fullmatch(kind)
        if found is None:
            raise ValueError(f"{kind!r} is not a reference")
        optional, target, salt, attribute = found.groups()
        related = self._related(table, target, int(salt or 0))
        shown = self._attribute(self._tables[target], attribute)

        def reference(row: int, h: int, _v: int) -> bytes:
            if optional and (h >> 11) % 5 < 2:
                return b"null"
            other = related(row, h)
            return b"null" if other is None else shown(other)

        return reference

    # -- which row

    def _related(self, table: str, target: str, salt: int) -> Related:
        """How to find the row of `target` that a row of `table` refers to."""
        rows, targets = self._tables[table], self._tables[target]
        special = self._agreed(rows, targets, salt)
        if special is not None:
            return special
        ancestor = rows.parent
        while ancestor is not None:
            if ancestor is targets:
                up = _up(rows, targets)
                return lambda row, _h: up(row)
            if targets.parent is ancestor:
                return self._cousin(rows, targets, ancestor, salt)
            ancestor = ancestor.parent
        shift = 3 + 5 * salt + len(target)
        count = targets.referable()
        return lambda _row, h: (h >> shift) % count

    def _cousin(self, rows: Rows, targets: Rows, ancestor: Rows, salt: int) -> Related:
        """One of the rows that belong to the same ancestor."""
        up = _up(rows, ancestor)
        # A visit's elements are numbered, so that none is named twice.
        by_number = rows.table.name == "visit_element_relationships"

        def cousin(row: int, h: int) -> int | None:
            all_of = targets.born_with(up(row))
            if not all_of:
                return None
            place = rows.hash(rows.parent_of(row)) + rows.number(row) if by_number else (h >> 7) + salt
            return all_of[place % len(all_of)]

        return cousin

    def _agreed(self, rows: Rows, targets: Rows, salt: int) -> Related | None:
        """References that must agree with others, if this is one."""
        table, target = rows.table.name, targets.table.name
        if via := _VIA.get((table, target)):
            above, of_above = self._tables[via], self._related(via, target, salt)
            up = _up(rows, above)

            def through(row: int, _h: int) -> int | None:
                parent = up(row)
                return of_above(parent, above.hash(parent))

            return through
        if (table, target) in _SAME_ROW:
            return lambda row, _h: row if row < targets.size else row % targets.size
        if (table, target) == ("subjects", "patients"):
            return lambda row, _h: row % targets.referable()
        if table == "studies" and target in ("sponsor_divisions", "sponsor_teams"):
            sponsor = self._related("studies", "sponsors", 0)
            return lambda row, h: (sponsor(row, h) or 0) % targets.size
        if (table, target) == ("patient_payments", "subjects"):
            visits = self._tables["patient_visits"]
            visit = self._related(table, "patient_visits", 0)
            return lambda row, h: visits.parent_of(visit(row, h) or 0)
        if (table, target) == ("patient_visits", "visits"):
            study = _up(rows, self._tables["studies"])

            def cyclic(row: int, _h: int) -> int | None:
                planned = targets.born_with(study(row))
                return planned[(rows.number(row) - 1) % len(planned)] if planned else None

            return cyclic
        if (table, target) == ("appointments", "visits"):
            study = _up(rows, self._tables["studies"])
            return lambda row, _h: next(iter(targets.born_with(study(row))), None)
        return None

    # -- how it is shown

    def _attribute(self, rows: Rows, name: str | None) -> Callable[[int], bytes]:
        if name is None:
            return self._preview(rows)
        if name == "id":
            return rows.key_json
        if name == "uid":
            return lambda row: _uid(rows.hash(row))
        method = getattr(self, f"_{name}")
        return lambda row: method(rows, row, rows.hash(row), 0)

    def _preview(self, rows: Rows) -> Callable[[int], bytes]:
        """The row as others show it, remembered for the next one that does."""
        cached = self._caches.get(rows.table.name)
        if cached is not None:
            return cached
        names = {"login": "login", "firstName": "first", "lastName": "last", "displayName": "label"}
        fields = rows.table.preview.split()
        shown = [self._attribute(rows, names.get(f, {"name": "label"}.get(f.lower(), f.lower()))) for f in fields]
        template = b"{" + b",".join(b'"%b":%%b' % f.encode() for f in fields) + b"}"

        def preview(row: int) -> bytes:
            return template % tuple(show(row) for show in shown)

        remembered = lru_cache(maxsize=4096)(preview)

        def current(row: int) -> bytes:
            return remembered(row) if not rows.keys else preview(row)

        self._caches[rows.table.name] = current
        return current

    def _label(self, rows: Rows, row: int, h: int, _v: int) -> bytes:
        if rows.table.label == "person":
            return b'"%b, %b"' % (_LAST[(h >> 6) % len(_LAST)][1:-1], _FIRST[h % len(_FIRST)][1:-1])
        drawn = {name: words[(h >> 5) % len(words)] for name, words in _label_pools(rows.table.label).items()}
        text = rows.table.label.format(id=rows.table.first_id + row, n=rows.number(row), **drawn)
        return b'"%b"' % text.encode()

    def _first(self, _rows: Rows, _row: int, h: int, _v: int) -> bytes:
        return _FIRST[h % len(_FIRST)]

    def _last(self, _rows: Rows, _row: int, h: int, _v: int) -> bytes:
        return _LAST[(h >> 6) % len(_LAST)]

    def _login(self, rows: Rows, row: int, _h: int, _v: int) -> bytes:
        return b'"user%d"' % (rows.table.first_id + row)

    def _gender(self, _rows: Rows, _row: int, h: int, _v: int) -> bytes:
        return b'"F"' if h >> 20 & 1 else b'"M"'

    def _race(self, _rows: Rows, _row: int, h: int, _v: int) -> bytes:
        return _RACE[(h >> 21) % len(_RACE)]

    def _ethnicity(self, _rows: Rows, _row: int, h: int, _v: int) -> bytes:
        return _ETHNICITY[(h >> 25) % len(_ETHNICITY)]

    def _born(self, _rows: Rows, _row: int, h: int, _v: int) -> bytes:
        return _day(-6500 - (h >> 30) % 22_000)

    def _revised(self, rows: Rows, row: int, h: int, version: int) -> bytes:
        name = self._label(rows, row, h, 0)
        return name if not version else b'%b (revision %d)"' % (name[:-1], version)

    def _revised_arm(self, _rows: Rows, row: int, h: int, version: int) -> bytes:
        arms = self._tables["study_arms"]
        arm = self._related("study_visit_arms", "study_arms", 0)(row, h)
        return b"null" if arm is None else self._revised(arms, arm, arms.hash(arm), version)

    # -- times

    def _modified(self, rows: Rows, row: int, _h: int, _v: int) -> bytes:
        days, ms = divmod(rows.modified(row) + _START_MS, DAY_MS)
        seconds, ms = divmod(ms, 1000)
        return b'%bT%02d:%02d:%02d.%03dZ"' % (
            _day(_TODAY + days)[:11],
            seconds // 3600,
            seconds // 60 % 60,
            seconds % 60,
            ms,
        )

    _updated = _modified

    def _created(self, rows: Rows, row: int, h: int, _v: int) -> bytes:
        if row >= rows.size:
            return self._modified(rows, row, h, 0)
        return b'%bT09:%02d:00.000Z"' % (_day(_TODAY - 900 - h % 1200)[:11], h % 60)

    # -- studies and their parts

    def _nct(self, rows: Rows, row: int, _h: int, _v: int) -> bytes:
        return b'"NCT%08d"' % (rows.table.first_id + row)

    def _divisions(self, _rows: Rows, row: int, _h: int, _v: int) -> bytes:
        divisions = self._tables["sponsor_divisions"]
        return b"[%b]" % self._preview(divisions)(row) if row < divisions.size else b"[]"

    def _arms(self, _rows: Rows, row: int, _h: int, _v: int) -> bytes:
        joined = self._tables["study_visit_arms"]
        arm = self._related("study_visit_arms", "study_arms", 0)
        arms = [arm(child, joined.hash(child)) for child in joined.born_with(row)]
        return b"[%b]" % b",".join(self._preview(self._tables["study_arms"])(a) for a in arms if a is not None)

    def _warning(self, rows: Rows, row: int, _h: int, version: int) -> bytes:
        return b'"Warning %d: not in the budget%b"' % (rows.number(row), b" (revised %d)" % version if version else b"")

    def _category(self, _rows: Rows, _row: int, h: int, _v: int) -> bytes:
        categories = self._tables["action_categories"]
        category = h % categories.referable()
        kind = ("Study", "Finance", "Regulatory")[category % 3]
        return b'{"id":%b,"name":%b,"type":"%b"}' % (
            categories.key_json(category),
            self._label(categories, category, categories.hash(category), 0),
            kind.encode(),
        )

    # -- subjects and what happens to them

    def _enrolled_on(self, subject: int) -> int:
        return _TODAY - 20 - self._tables["subjects"].hash(subject) % 1100

    def _event(self, subject: int, place: int, last: int) -> bytes:
        """The name of a subject's n-th status, which also depends on whether it is the last one."""
        h = self._tables["subjects"].hash(subject) >> 9
        if place == last and place in (1, 2) and h % 4 == 0:
            return b'"ScreenFailed"'
        if place == last and place >= 3:
            return (b'"Completed"', b'"Dropped"', b'"FollowUp"')[h % 3]
        return (b'"Prescreened"', b'"Screened"', b'"Randomized"')[place] if place < 3 else b'"FollowUp"'

    def _subject_status(self, _rows: Rows, row: int, _h: int, _v: int) -> bytes:
        last = len(self._tables["subject_statuses"].ever_of(row)) - 1
        return self._event(row, max(last, 0), max(last, 0))

    def _event_status(self, rows: Rows, row: int, _h: int, _v: int) -> bytes:
        subject = rows.parent_of(row)
        return self._event(subject, rows.number(row) - 1, len(rows.ever_of(subject)) - 1)

    def _event_current(self, rows: Rows, row: int, _h: int, _v: int) -> bytes:
        return b"true" if rows.number(row) == len(rows.ever_of(rows.parent_of(row))) else b"false"

    def _event_date(self, rows: Rows, row: int, h: int, _v: int) -> bytes:
        return _day(self._enrolled_on(rows.parent_of(row)) + 14 * rows.number(row) + h % 7)

    def _enrolled(self, _rows: Rows, row: int, _h: int, _v: int) -> bytes:
        return _day(self._enrolled_on(row))

    def _treatment(self, _rows: Rows, row: int, h: int, _v: int) -> bytes:
        return b"null" if h % 3 == 0 else _day(self._enrolled_on(row) + 30)

    def _screening(self, rows: Rows, row: int, _h: int, _v: int) -> bytes:
        return b'"SCR-%04d"' % rows.number(row)

    def _active_studies(self, _rows: Rows, row: int, h: int, _v: int) -> bytes:
        subjects = self._tables["subjects"]
        if row >= subjects.referable() or h % 3 == 0:
            return b"[]"
        return b"[%b]" % self._preview(self._tables["studies"])(subjects.parent_of(row))

    # -- visits of a subject

    def _number(self, rows: Rows, row: int, _h: int, _v: int) -> bytes:
        return b"%d" % rows.number(row)

    def _cycle(self, rows: Rows, row: int, _h: int, _v: int) -> bytes:
        planned = len(self._tables["visits"].born_with(_up(rows, self._tables["studies"])(row))) or 1
        return b'"Cycle %d"' % ((rows.number(row) - 1) // planned + 1)

    def _due_on(self, rows: Rows, row: int) -> int:
        return self._enrolled_on(rows.parent_of(row)) + 14 * rows.number(row)

    def _due(self, rows: Rows, row: int, _h: int, _v: int) -> bytes:
        return _day(self._due_on(rows, row))

    def _due_min(self, rows: Rows, row: int, _h: int, _v: int) -> bytes:
        return _day(self._due_on(rows, row) - 3)

    def _due_max(self, rows: Rows, row: int, _h: int, _v: int) -> bytes:
        return _day(self._due_on(rows, row) + 3)

    def _visit_status(self, rows: Rows, row: int, h: int, version: int) -> bytes:
        past = self._due_on(rows, row) < _TODAY and h % 16
        return (b'"Pending"', b'"Started"', b'"Completed"')[((2 if past else 0) + version) % 3]

    def _completed(self, rows: Rows, row: int, h: int, _v: int) -> bytes:
        visits = self._tables["patient_visits"]
        due = self._due_on(visits, rows.parent_of(row))
        return _day(due) if due < _TODAY and h % 9 else b"null"

    def _appointments(self, rows: Rows, row: int, _h: int, _v: int) -> bytes:
        if rows.number(row) != 1:
            return b"[]"
        appointments = self._tables["appointments"]
        return b"[%b]" % b",".join(
            b'{"id":%b,"status":%b,"scheduledStart":%b,"scheduledEnd":%b}'
            % (
                appointments.key_json(other),
                self._appointment_status(appointments, other, 0, 0),
                self._planned_start(appointments, other, 0, 0),
                self._planned_end(appointments, other, 0, 0),
            )
            for other in appointments.of(rows.parent_of(row))
        )

    def _appointment_on(self, rows: Rows, row: int) -> int:
        return self._enrolled_on(rows.parent_of(row)) + 14 * rows.number(row)

    def _appointment_status(self, rows: Rows, row: int, _h: int, _v: int) -> bytes:
        return b'"Completed"' if self._appointment_on(rows, row) < _TODAY else b'"Pending"'

    def _planned_start(self, rows: Rows, row: int, _h: int, _v: int) -> bytes:
        return b'%bT09:30:00"' % _day(self._appointment_on(rows, row))[:11]

    def _planned_end(self, rows: Rows, row: int, _h: int, _v: int) -> bytes:
        return b'%bT10:15:00"' % _day(self._appointment_on(rows, row))[:11]


def _uid(h: int) -> bytes:
    return b'"%08x-%04x-4%03x-a%03x-%012x"' % (
        h >> 32,
        h >> 16 & 0xFFFF,
        h & 0xFFF,
        h >> 12 & 0xFFF,
        h * 0x9E3779B97F4A7C15 >> 16 & 0xFFFFFFFFFFFF,
    )


def _up(rows: Rows, ancestor: Rows) -> Callable[[int], int]:
    """How to get from a row to its row of a table above."""
    steps: list[Rows] = []
    at: Rows | None = rows
    while at is not None and at is not ancestor:
        steps.append(at)
        at = at.parent
    if len(steps) == 1:
        return steps[0].parent_of

    def up(row: int) -> int:
        for step in steps:
            row = step.parent_of(row)
        return row

    return up


@lru_cache(maxsize=64)
def _label_pools(label: str) -> dict[str, tuple[str, ...]]:
    return {name: POOLS[name] for name in re.findall(r"{(\w+)}", label) if name in POOLS}
