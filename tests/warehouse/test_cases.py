"""Given staging, expected warehouse: the cases of `cases/*.yaml`, one file per procedure.

A file names its procedure, the staging table its steps write to, a record that every step starts from, and the columns
that `expect` shows. A step maps keys to what is different in the record (null: the record is gone); a key is
`id`, `parent|id` or `instance:parent|id` with instances 1 to 9. Other tables of a step are named. `at` is when the
change was staged (the day of the step's number in January 2024 otherwise), `full` asks for a full refresh. After each
step the procedures run. A shown column `study@name` is the name in the version of dw_dim_study that the row points at.

After every case the procedures run again, with and without a full refresh: neither may change anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import yaml
from psycopg import sql

from tests.warehouse.staged import stage

FOLDER = Path(__file__).parent / "cases"
RESERVED = {"at", "full", "run"}


@dataclass(frozen=True)
class Given:
    """One file."""

    procedure: str
    staging: str
    record: dict[str, Any]
    parent: str
    show: list[str]
    cases: list[dict[str, Any]]
    before: list[str]
    tracked: dict[str, list[Any]]

    @property
    def target(self) -> str:
        """The table that the procedure fills."""
        return self.procedure.removeprefix("load_")


def read(path: Path) -> Given:
    text = yaml.safe_load(path.read_text("utf-8"))
    return Given(
        path.stem,
        text["staging"],
        text.get("record", {}),
        str(text.get("parent", "")),
        text["show"],
        text["cases"],
        text.get("before", []),
        text.get("tracked", {}),
    )


FILES = [read(path) for path in sorted(FOLDER.glob("*.yaml"))]


def run(conn: psycopg.Connection[Any], given: Given, only: list[str] | None = None, *, full: bool = False) -> int:
    """Call the file's procedures; how many rows they wrote."""
    changed = 0
    for name in only or [*given.before, given.procedure]:
        call = sql.SQL("call {}(full_refresh => {})").format(sql.Identifier(name), full)
        row = conn.execute(call).fetchone()
        assert row is not None
        counts = conn.execute(
            "select rows_inserted + rows_updated + rows_expired + rows_deleted from"
            " dw_transformation_runs where id = %s",
            row,
        ).fetchone()
        assert counts is not None
        changed += counts[0]
    return changed


def apply(conn: psycopg.Connection[Any], given: Given, step: dict[str, Any], instance: int, number: int) -> None:
    """Stage what a step says, then run."""
    at = moment(step.get("at")) or datetime(2024, 1, 1, tzinfo=UTC) + timedelta(days=number)
    for name, what in step.items():
        if name in RESERVED:
            continue
        other = isinstance(name, str) and name.endswith("_staging")
        for key, changes in (what if other else {name: what}).items():
            where, parent, ident = split(str(key), "" if other else given.parent)
            record = None if changes is None else {**({} if other else given.record), **changes}
            stage(conn, name if other else given.staging, instance + where, parent, ident, record, at)
    run(conn, given, step.get("run"), full=step.get("full", False))


def split(key: str, parent: str) -> tuple[int, str, str]:
    instance, colon, rest = key.rpartition(":")
    head, bar, ident = rest.rpartition("|")
    return int(instance) if colon else 1, head if bar else parent, ident


def moment(value: Any) -> datetime | None:
    if value is None:
        return None
    at = datetime.fromisoformat(str(value))
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def shown(conn: psycopg.Connection[Any], given: Given, instance: int) -> list[list[Any]]:
    """The rows of the case's instances, as text."""
    columns = [expression(name) for name in given.show]
    versions = (
        sql.SQL(", t.valid_from")
        if given.target.startswith("dw_dim") and is_versioned(conn, given.target)
        else sql.SQL("")
    )
    query = sql.SQL(
        "select {} from {} as t where t.source_instance_id between %s and %s"
        " order by t.source_instance_id, t.parent_source_id, t.source_id{}"
    ).format(sql.SQL(", ").join(columns), sql.Identifier(given.target), versions)
    return [list(row) for row in conn.execute(query, (instance, instance + 9)).fetchall()]


def expression(name: str) -> sql.Composable:
    dimension, at, column = name.partition("@")
    if at:
        value: sql.Composable = sql.SQL("(select d.{} from {} as d where d.{} = t.{})").format(
            sql.Identifier(column), sql.Identifier(f"dw_dim_{dimension}"), *[sql.Identifier(f"{dimension}_key")] * 2
        )
    elif name == "deleted":
        value = sql.SQL("(t.deleted_at is not null)")
    else:
        value = sql.SQL("t.{}").format(sql.Identifier(name))
    # Midnight as a date: shorter to write in YAML.
    return sql.SQL("regexp_replace(({})::text, '( 00:00:00)?[+]00$', '')").format(value)


def is_versioned(conn: psycopg.Connection[Any], target: str) -> bool:
    return conn.execute(
        "select kind = 'scd2' from dw_transformations where target_table = %s", (target,)
    ).fetchone() == (True,)


def plain(value: Any) -> str | None:
    """A value of the YAML as PostgreSQL would print it."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return str(value).lower()
    return str(value).removesuffix("+00:00").removesuffix(" 00:00:00") if isinstance(value, date) else str(value)


CASES = [pytest.param(given, case, id=f"{given.procedure}-{case['name']}") for given in FILES for case in given.cases]


@pytest.mark.parametrize(("given", "case"), CASES)
def test_given_staging_expect_warehouse(
    shared: psycopg.Connection[Any], instance: int, given: Given, case: dict[str, Any]
) -> None:
    for number, step in enumerate(case["steps"]):
        apply(shared, given, step, instance, number)
    expected = [[plain(value) for value in row] for row in case["expect"]]
    assert shown(shared, given, instance) == expected
    rejected = shared.execute(
        "select distinct column_name from dw_transformation_rejected_rows"
        " where source_instance_id between %s and %s and procedure_name = %s order by 1",
        (instance, instance + 9, given.procedure),
    ).fetchall()
    assert [row[0] for row in rejected] == case.get("rejected", [])
    assert run(shared, given) == 0, "a rerun wrote rows"
    assert run(shared, given, full=True) == 0, "a full refresh wrote rows"
    assert shown(shared, given, instance) == expected


@pytest.mark.parametrize("given", [g for g in FILES if g.tracked], ids=lambda given: given.procedure)
def test_every_tracked_attribute(shared: psycopg.Connection[Any], instance: int, given: Given) -> None:
    """Null → value → another value → null: each is seen, in every column that there is."""
    names = [
        row[0] for row in shared.execute("select name from dw_attributes(%s::regclass)", (given.target,)).fetchall()
    ]
    assert sorted(given.tracked) == sorted(names), "tracked: must name every attribute of the table"
    key = shared.execute("select dw_surrogate_key(%s::regclass)", (given.target,)).fetchone()
    assert key is not None
    versioned = is_versioned(shared, given.target)
    history: dict[str, list[Any]] = {name: [] for name in names}
    path_of = {name: spec[0].split(".") for name, spec in given.tracked.items() if spec}
    for number in range(4):
        for name, path in path_of.items():
            value = (None, given.tracked[name][1], given.tracked[name][2], None)[number]
            at = datetime(2024, 1, 1 + number, tzinfo=UTC)
            record = put({k: v for k, v in given.record.items() if k != path[0]}, path, value)
            stage(shared, given.staging, instance + 1, given.parent, f"of {name}", record, at)
        run(shared, given)
        for name in path_of:
            query = sql.SQL(
                "select t.{}::text from {} as t where t.source_instance_id = %s and t.source_id = %s{}"
            ).format(
                sql.Identifier(name), sql.Identifier(given.target), sql.SQL(" and t.is_current" if versioned else "")
            )
            row = shared.execute(query, (instance + 1, f"of {name}")).fetchone()
            history[name].append(None if row is None else row[0])
    for name, spec in given.tracked.items():
        if spec:
            values = spec[-4:] if len(spec) > 3 else [None, plain(spec[1]), plain(spec[2]), None]
            assert history[name] == values, name
    if versioned:
        query = sql.SQL("select source_id, count(*) from {} where source_instance_id = %s group by 1").format(
            sql.Identifier(given.target)
        )
        counts = dict(shared.execute(query, (instance + 1,)).fetchall())
        assert counts == {f"of {name}": 4 for name in path_of}


def put(record: dict[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    """The record with a value at a path."""
    inner: Any = value
    for name in reversed(path):
        inner = {name: inner}
    return {**record, **inner}


def test_every_procedure_has_five_cases(shared: psycopg.Connection[Any]) -> None:
    rows = shared.execute(
        "select procedure_name from dw_transformations where kind <> 'view' and kind <> 'type0'"
    ).fetchall()
    names = {row[0] for row in rows} - {"load_dw_fact_study_performance"}  # it speaks of today: see test_performance.py
    assert {given.procedure: len(given.cases) >= 5 for given in FILES} == dict.fromkeys(names, True)
