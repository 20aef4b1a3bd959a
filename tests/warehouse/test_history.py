"""Any history, loaded in any batches, by transactions that commit in any order, ends in the same versions."""

from __future__ import annotations

from itertools import count, pairwise
from typing import Any

import psycopg
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg import sql

from clinical_conductor.database import connect
from tests.warehouse.staged import stage

_instances = count(100_000)
WRITERS, KEYS = 3, 6
STUDY = "12"

change = st.tuples(
    st.just("change"),
    st.integers(0, KEYS - 1),
    st.sampled_from([None, "A", "B", "C", ""]),
    st.sampled_from([None, "2024-01-01", "2030-01-01"]),
)
commit = st.tuples(st.just("commit"), st.integers(0, WRITERS - 1))
rollback = st.tuples(st.just("rollback"), st.integers(0, WRITERS - 1))
load = st.tuples(st.just("load"))
histories = st.lists(st.one_of(change, change, change, commit, rollback, load), min_size=5, max_size=40)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(history=histories)
def test_any_history_converges(
    shared: psycopg.Connection[Any], warehouse_url: str, history: list[tuple[Any, ...]]
) -> None:
    instance = next(_instances)
    committed: dict[str, str | None] = {}
    pending: list[dict[str, str | None]] = [{} for _ in range(WRITERS)]
    versions: dict[str, list[str | None]] = {}  # per key: each state that a load saw, changes only
    writers = [connect(warehouse_url) for _ in range(WRITERS)]

    def end(writer: int, *, keep: bool) -> None:
        writers[writer].commit() if keep else writers[writer].rollback()
        if keep:
            committed.update(pending[writer])
        pending[writer] = {}

    def bring_up_to_date() -> None:
        for name in ("load_dw_dim_subject", "load_dw_fact_enrollment"):
            shared.execute(sql.SQL("call {}()").format(sql.Identifier(name)))
        for key, status in committed.items():
            seen = versions.setdefault(key, [])
            if (seen[-1] if seen else None) != status:
                seen.append(status)

    try:
        for action, *what in history:
            if action == "change":
                number, status, modified = what
                writer, key = number % WRITERS, str(number)  # a key has one writer: nobody waits for a lock
                record = (
                    None
                    if status is None
                    else {"status": status, "enrollmentDate": "2025-01-01", "modifiedDate": modified}
                )
                stage(writers[writer], "dim_subjects_staging", instance, STUDY, key, record)
                pending[writer][key] = status
            elif action == "load":
                bring_up_to_date()
            else:
                end(what[0], keep=action == "commit")
        for writer in range(WRITERS):
            end(writer, keep=True)
    finally:
        for conn in writers:
            conn.close()
    bring_up_to_date()

    _assert_versions(shared, instance, versions, committed)
    for name in ("load_dw_dim_subject", "load_dw_fact_enrollment"):
        run_id = shared.execute(sql.SQL("call {}(full_refresh => true)").format(sql.Identifier(name))).fetchone()
        changed = shared.execute(
            "select rows_inserted + rows_updated + rows_expired + rows_deleted"
            " from dw_transformation_runs where id = %s",
            run_id,
        ).fetchone()
        assert changed == (0,), f"a full pass of {name} sees something else than the changes did"


def _assert_versions(
    conn: psycopg.Connection[Any],
    instance: int,
    versions: dict[str, list[str | None]],
    committed: dict[str, str | None],
) -> None:
    """One open row per live key, no overlap, no gap but for a deletion, every state that a load saw, in order."""
    rows = conn.execute(
        "select source_id, status, extract(epoch from valid_from)::float8, extract(epoch from"
        " valid_to)::float8, is_current"
        " from dw_dim_subject"
        " where source_instance_id = %s order by source_id, valid_from",
        (instance,),
    ).fetchall()
    for key in {row[0] for row in rows} | set(committed):
        mine = [row for row in rows if row[0] == key]
        expected = versions.get(key, [])
        assert [row[1] for row in mine] == [status for status in expected if status is not None]
        assert sum(row[4] for row in mine) == (committed.get(key) is not None)
        gaps = 0
        for before, after in pairwise(mine):
            assert before[3] <= after[2], "no overlap"
            gaps += before[3] != after[2]
        assert gaps <= expected[1:-1].count(None), "no gap but where the record was gone"
    unbounded = conn.execute(
        "select count(*) from dw_dim_subject where source_instance_id = %s and valid_from = '-infinity'", (instance,)
    ).fetchone()
    assert unbounded == (len({row[0] for row in rows}),)
