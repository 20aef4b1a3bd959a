"""The engine: order, failures, retries, watermarks, two at once. A database per test, because they break things."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from clinical_conductor.database import connect
from clinical_conductor.errors import ConfigurationError, DatabaseRefused
from clinical_conductor.quality import run_checks
from clinical_conductor.warehouse import MASTERS, ProcedureResult, TransformationEngine, transform
from tests.warehouse.staged import stage

SUBJECT = {"study": {"id": 12}, "status": "Screened", "enrollmentDate": "2025-01-01"}


@pytest.fixture
def conn(database: str) -> Iterator[psycopg.Connection[Any]]:
    with connect(database, autocommit=True) as conn:
        yield conn


def by_name(results: list[ProcedureResult]) -> dict[str, ProcedureResult]:
    return {result.procedure: result for result in results}


def count(conn: psycopg.Connection[Any], query: str) -> int:
    row = conn.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


def test_empty_staging_succeeds(database: str) -> None:
    results = transform(database)
    assert {result.status for result in results} == {"success"}
    assert sum(result.rows_changed for result in results) == 0
    assert [check.name for check in run_checks(database) if not check.passed] == []


def test_a_failure_stops_only_what_depends_on_it(database: str, conn: psycopg.Connection[Any]) -> None:
    stage(conn, "dim_studies_staging", 1, "", "12", {"name": "Alpha"})
    stage(conn, "dim_subjects_staging", 1, "12", "1", SUBJECT)
    conn.execute("drop view stg_dim_site")
    results = by_name(transform(database))
    assert results["load_dw_dim_site"].status == "failed"
    assert "stg_dim_site" in (results["load_dw_dim_site"].error or "")
    skipped = {name for name, result in results.items() if result.status == "skipped"}
    assert skipped == {
        "load_dw_fact_subject_status_change", "load_dw_fact_enrollment", "load_dw_fact_study_performance",
        "refresh_mv_study_performance_metrics",
    }  # fmt: skip
    assert results["load_dw_fact_enrollment"].error == "load_dw_dim_site did not succeed"
    assert count(conn, "select count(*) from dw_dim_study where is_current and study_key > 0") == 1
    recorded = dict(
        conn.execute("select procedure_name, status from dw_transformation_runs where batch_id is not null").fetchall()
    )
    assert recorded == {name: result.status for name, result in results.items()}


def test_the_masters_do_the_same_in_sql(conn: psycopg.Connection[Any]) -> None:
    stage(conn, "dim_studies_staging", 1, "", "12", {"name": "Alpha"})
    conn.execute("drop view stg_dim_site")
    with pytest.raises(psycopg.errors.RaiseException, match="not loaded: load_dw_dim_site"):
        conn.execute("call load_all_new_dimensions()")
    assert count(conn, "select count(*) from dw_dim_study where study_key > 0") == 1
    # Called by themselves, the facts know nothing of the dimension that failed: only that it is not there.
    conn.execute("call load_all_new_facts()")
    conn.execute("call refresh_materialized_views(full_refresh => true)")
    assert count(conn, "select count(*) from mv_study_performance_metrics") == 90
    failed = conn.execute("select procedure_name, error from dw_transformation_runs where status = 'failed'").fetchall()
    assert [row[0] for row in failed] == ["load_dw_dim_site"]


def test_the_configured_database_is_the_default(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", database)
    results = TransformationEngine().load_all_facts()
    assert {result.status for result in results} == {"success"} and len(results) > 5


def test_only_listed_names_are_called(database: str) -> None:
    engine = TransformationEngine(database)
    for name in ("dw_drop_temporary", "load_dw_dim_study(); drop table dw_dim_study", ""):
        with pytest.raises(ConfigurationError, match="There is no procedure"):
            engine.execute_procedure(name)
        with pytest.raises(ConfigurationError, match="There is no procedure"):
            transform(database, procedures=[name])


def test_only_known_parameters_are_passed(database: str) -> None:
    engine = TransformationEngine(database)
    with pytest.raises(ConfigurationError, match="no parameter 'batch'"):
        engine.execute_procedure("load_dw_dim_study", {"batch": 1})
    with pytest.raises(ConfigurationError, match="must be true or false"):
        engine.execute_procedure("load_dw_dim_study", {"full_refresh": "maybe"})
    assert engine.execute_procedure("load_dw_dim_study", {"full_refresh": "true"}).full_pass == "asked for"


def test_choosing_what_runs(database: str, conn: psycopg.Connection[Any]) -> None:
    kinds = {kind: {r[0] for r in conn.execute("select procedure_name from dw_transformations where"
                                               " kind = any(%s)", (list(of),))}
             for kind, of in MASTERS.items()}  # fmt: skip
    engine = TransformationEngine(database)
    assert set(by_name(engine.load_all_dimensions())) == kinds["load_all_new_dimensions"]
    assert set(by_name(engine.load_all_facts())) == kinds["load_all_new_facts"]
    assert set(by_name(engine.refresh_materialized_views())) == kinds["refresh_materialized_views"]
    some = transform(database, procedures=["load_dw_dim_study"], views=True)
    assert set(by_name(some)) == {"load_dw_dim_study"} | kinds["refresh_materialized_views"]
    assert engine.execute_procedure("load_all_new_facts").status == "success"


def make_procedure(conn: psycopg.Connection[Any], body: str) -> None:
    """A procedure of the list that does what a test wants."""
    conn.execute(
        f"create sequence tries; create table dw_dim_test (like dw_dim_monitor);"
        f"create procedure load_dw_dim_test(full_refresh boolean default false, inout run_id bigint default null)"
        f" language plpgsql as $$ begin {body} end $$;"
        f"select dw_register('load_dw_dim_test', 'type1', 2)".encode()
    )


def test_deadlocks_are_tried_again(database: str, conn: psycopg.Connection[Any]) -> None:
    make_procedure(
        conn,
        "if nextval('tries') < 3 then raise deadlock_detected; end if; raise notice 'done'; perform"
        " dw_finish_run(run_id);",
    )
    result = TransformationEngine(database, retry_delay=0.01).execute_procedure("load_dw_dim_test")
    assert (result.status, result.attempts, result.notices) == ("success", 3, ["NOTICE: done"])
    assert conn.execute("select notices from dw_transformation_runs where id = %s", (result.run_id,)).fetchone() == (
        ["NOTICE: done"],
    )


def test_they_are_not_tried_for_ever(database: str, conn: psycopg.Connection[Any]) -> None:
    make_procedure(conn, "perform nextval('tries'); raise serialization_failure;")
    [result] = TransformationEngine(database, retries=2, retry_delay=0.01).run(names=["load_dw_dim_test"])
    assert (result.status, result.attempts) == ("failed", 3)
    assert "40001" in (result.error or "")
    assert count(conn, "select last_value from tries") == 3


def test_an_error_never_quotes_a_value(database: str, conn: psycopg.Connection[Any]) -> None:
    make_procedure(conn, "perform 'Ada Lovelace'::date;")
    with pytest.raises(DatabaseRefused) as caught:
        TransformationEngine(database).execute_procedure("load_dw_dim_test")
    with pytest.raises(psycopg.errors.RaiseException):
        conn.execute("call load_all_new_dimensions()")
    recorded = conn.execute(
        "select error from dw_transformation_runs where procedure_name = 'load_dw_dim_test'"
    ).fetchall()
    assert len(recorded) == 2
    assert "Ada" not in f"{caught.value}{recorded}"
    assert all("22007" in row[0] for row in recorded)


def test_a_killed_call_is_closed_by_the_next(database: str, conn: psycopg.Connection[Any]) -> None:
    conn.execute(
        "insert into dw_transformation_runs (procedure_name, backend_pid) values"
        " ('load_dw_dim_study', 999999999), ('load_dw_dim_site', pg_backend_pid())"
    )
    transform(database, procedures=["load_dw_dim_staff"])
    left = conn.execute(
        "select procedure_name, error from dw_transformation_runs where status in ('running', 'failed') order by id"
    ).fetchall()
    assert left == [
        ("load_dw_dim_study", "the session ended before the procedure did; nothing of it remains"),
        ("load_dw_dim_site", None),
    ]


def test_two_at_once_wait_for_each_other(database: str, conn: psycopg.Connection[Any]) -> None:
    for number in range(300):
        stage(conn, "dim_studies_staging", 1, "", str(number), {"name": f"Study {number}"})
    outcome: list[ProcedureResult] = []
    threads = [threading.Thread(target=lambda: outcome.extend(transform(database, dimensions=True))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {result.status for result in outcome} == {"success"}
    assert sum(result.rows_inserted for result in outcome if result.procedure == "load_dw_dim_study") == 300


def test_a_transaction_that_commits_late_is_seen(database: str, conn: psycopg.Connection[Any]) -> None:
    with connect(database) as late:
        stage(late, "dim_studies_staging", 1, "", "1", {"name": "Late"})
        stage(conn, "dim_studies_staging", 1, "", "2", {"name": "Early"})
        transform(database, dimensions=True)
        late.commit()
    [result] = transform(database, procedures=["load_dw_dim_study"])
    assert (result.rows_inserted, result.full_pass) == (1, None)


def test_a_restored_backup_is_compared_as_a_whole(database: str, conn: psycopg.Connection[Any]) -> None:
    stage(conn, "dim_studies_staging", 1, "", "1", {"name": "Alpha"})
    transform(database)
    # As after pg_restore into a younger cluster: watermarks and rows are of a future that has not come.
    conn.execute("update dw_transformation_watermarks set watermark = '900000000000'")
    conn.execute("update dim_studies_staging set changed_xid = '800000000000'")
    stage(conn, "dim_studies_staging", 1, "", "2", {"name": "Beta"})
    results = by_name(transform(database))
    assert results["load_dw_dim_study"].rows_inserted == 1
    assert {r.full_pass for r in results.values() if r.procedure != "load_dw_dim_date"} == {
        "watermark ahead of the database: restored from a backup"
    }
    again = by_name(transform(database))
    assert {r.full_pass for r in again.values()} <= {None, "its source changed"}
    assert again["load_dw_dim_study"].rows_read == 0, "rows of the future are not read again and again"


def test_a_changed_projection_is_compared_as_a_whole(database: str, conn: psycopg.Connection[Any]) -> None:
    stage(conn, "dim_sponsors_staging", 1, "", "1", {"name": "Alpha", "fax": "123"})
    transform(database)
    conn.execute("alter table dw_dim_sponsor add column fax text")
    definition = conn.execute("select pg_get_viewdef('stg_dim_sponsor'::regclass)").fetchone()
    assert definition is not None
    columns = definition[0].replace("FROM dim_sponsors_staging", ", data ->> 'fax' as fax FROM dim_sponsors_staging")
    conn.execute(f"create or replace view stg_dim_sponsor as {columns}".encode())
    result = by_name(transform(database, dimensions=True))["load_dw_dim_sponsor"]
    assert (result.full_pass, result.rows_inserted, result.rows_expired) == (
        "the projection or the table changed",
        1,
        1,
    )


def test_rows_that_vanish_without_a_trace_need_a_full_refresh(database: str, conn: psycopg.Connection[Any]) -> None:
    stage(conn, "dim_subjects_staging", 1, "12", "1", SUBJECT)
    transform(database)
    conn.execute("truncate dim_subjects_staging")
    transform(database)
    assert [c.failures for c in run_checks(database, names=["bronze_silver_counts"])] == [2]
    results = by_name(transform(database, full_refresh=True))
    assert (results["load_dw_dim_subject"].rows_expired, results["load_dw_fact_enrollment"].rows_deleted) == (1, 1)
    assert all(check.passed for check in run_checks(database, names=["bronze_silver_counts"]))


def test_a_bad_row_in_a_first_load(database: str, conn: psycopg.Connection[Any]) -> None:
    for number in range(50):
        stage(
            conn,
            "dim_sites_staging",
            1,
            "",
            str(number),
            {"name": "x", "active": "maybe" if number % 10 == 0 else True},
        )
    result = by_name(transform(database))["load_dw_dim_site"]
    assert (result.status, result.rows_inserted, result.rows_rejected) == ("success", 45, 5)
    reasons = conn.execute("select distinct column_name, reason from dw_transformation_rejected_rows").fetchall()
    assert reasons == [("is_active", "cannot be read as boolean")]
    assert by_name(transform(database))["load_dw_dim_site"].rows_changed == 0


def test_facts_say_which_dimensions_they_wait_for(conn: psycopg.Connection[Any]) -> None:
    """depends_on is written by hand: it has to name every dimension that the table points at."""
    missing = conn.execute(
        "select t.procedure_name, r.dimension from dw_transformations as t"
        " cross join lateral dw_references(t.target_table::regclass) as r"
        " where not ('load_' || r.dimension) = any (t.depends_on)"
    ).fetchall()
    assert [row for row in missing if row[0] not in ("load_dw_fact_study_performance",)] == []


def test_first_loads_leave_their_indexes_as_they_were(database: str, conn: psycopg.Connection[Any]) -> None:
    query = "select indexdef from pg_indexes where tablename ~ '^dw_(dim|fact)_' order by indexdef"
    before = conn.execute(query).fetchall()
    stage(conn, "dim_studies_staging", 1, "", "1", {"name": "Alpha"})
    stage(conn, "dim_subjects_staging", 1, "1", "1", SUBJECT)
    transform(database)
    assert conn.execute(query).fetchall() == before
    assert count(conn, "select count(*) from dw_suspended_indexes") == 0
