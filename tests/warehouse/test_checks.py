"""The data quality checks: each is broken on purpose, once."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from clinical_conductor.errors import ConfigurationError
from clinical_conductor.quality import run_checks
from clinical_conductor.warehouse import transform
from tests.warehouse.staged import stage

EVENT = {
    "study": {"id": 12},
    "subject": {"Id": 1},
    "status": "Screened",
    "eventDate": "2025-01-01",
    "isCurrentStatus": True,
}


@pytest.fixture(scope="module")
def conn(shared: psycopg.Connection[Any], warehouse_url: str) -> psycopg.Connection[Any]:
    """One of everything, and every check passes."""
    stage(shared, "dim_studies_staging", 1, "", "12", {"name": "Alpha"})
    stage(shared, "dim_subjects_staging", 1, "12", "1", {"study": {"id": 12}, "enrollmentDate": "2025-01-02"})
    stage(shared, "dim_subject_statuses_staging", 1, "", "h1", EVENT)
    stage(shared, "dim_visits_staging", 1, "12", "9", {"name": "Week 1", "budget": 1})
    visit = {"study": {"id": 12}, "subject": {"Id": 1}, "visitId": 9, "targetDueDate": "2025-02-01"}
    stage(shared, "dim_patient_visits_staging", 1, "12/1", "70", visit)
    stage(shared, "dim_patient_visit_elements_staging", 1, "70", "700", {"completedOn": "2025-02-01"})
    transform(warehouse_url)
    assert [check.name for check in run_checks(warehouse_url) if not check.passed] == []
    return shared


BREAKS = {
    "duplicate_business_keys": "drop index dw_fact_visit_key; insert into dw_fact_visit"
    " (source_instance_id, source_id, parent_source_id, event_date_key,"
    " target_date_key, visited_date_key, study_key, subject_key, visit_key) select"
    " source_instance_id, source_id, parent_source_id, -1, -1, -1, -1, -1, -1 from dw_fact_visit",
    "overlapping_versions": "insert into dw_dim_study (source_instance_id, source_id, valid_from,"
    " valid_to) values (1, '12', '2020-01-01', '2021-01-01')",
    "missing_unknown_member": "delete from dw_dim_site where site_key = -1",
    "orphans": "update dw_fact_visit set study_key = 999",
    "late_dimensions": "update dw_fact_visit set visit_key = -1",
    "wrong_version": "insert into dw_dim_study (study_key, source_instance_id, source_id, valid_from, valid_to)"
    " values (999, 1, 'x', '1990-01-01', '1991-01-01'); update dw_fact_visit set study_key = 999",
    "dates_outside_date_dimension": "update dw_fact_visit set event_time = '0001-01-01', event_date_key = -1",
    "impossible_visits": "update dw_fact_visit set sequence = -1",
    "impossible_elements": "update dw_fact_visit_element_response set duration_minutes = -5",
    "impossible_enrollments": "update dw_fact_enrollment set event_time = now() + interval '1 year'",
    "impossible_performance": "update dw_fact_study_performance set screened = 100",
    "negative_amounts": "update dw_dim_visit set budget = 'NaN' where visit_key > 0",
    "bronze_silver_counts": "delete from dw_fact_visit",
    "silver_gold_counts": "create or replace view v_study_enrollment_summary as {doubled}",
    "rejected_rows": "insert into dw_transformation_rejected_rows values ('p', 't', 1, '', '1', 'c', 'r', 1)",
    "stale_tables": "update dw_transformation_runs set finished_at = now() - interval '3 days' where"
    " procedure_name = 'load_dw_dim_study'",
    "row_count_change": "insert into dw_dim_study (source_instance_id, source_id, valid_from) select"
    " 1, 'n' || g, '-infinity' from generate_series(1, 50) as g",
    "null_rate_spike": "update dw_dim_visit set name = null where visit_key > 0",
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_check_finds_what_it_is_for(conn: psycopg.Connection[Any], name: str) -> None:
    found = conn.execute(
        "select query, pg_get_viewdef('v_study_enrollment_summary'::regclass) from dw_quality_checks where name = %s",
        (name,),
    )
    row = found.fetchone()
    assert row is not None
    query, view = row
    doubled = view.replace(
        "COALESCE(e.subjects, (0)::bigint) AS subjects", "COALESCE(e.subjects, (0)::bigint) + 1 AS subjects"
    )
    with conn.transaction(force_rollback=True):
        for _ in range(3):
            conn.execute("select dw_measure_tables(gen_random_uuid())")
        assert conn.execute(query).fetchone() == (0,)
        conn.execute(BREAKS[name].replace("{doubled}", doubled).encode())
        conn.execute("select dw_measure_tables(gen_random_uuid())")
        failures = conn.execute(query).fetchone()
    assert failures is not None
    assert failures[0] > 0


def test_what_a_check_found_is_stored(conn: psycopg.Connection[Any], warehouse_url: str) -> None:
    conn.execute("insert into dw_transformation_rejected_rows values ('p', 't', 1, '', '1', 'c', 'r', 1)")
    [result] = run_checks(warehouse_url, names=["rejected_rows"])
    conn.execute("delete from dw_transformation_rejected_rows where procedure_name = 'p'")
    assert (result.passed, result.failures, result.error) == (False, 1, None)
    query = (
        "select severity, failures, passed from dw_quality_results where check_name = 'rejected_rows'"
        " order by id desc limit 1"
    )
    assert conn.execute(query).fetchone() == ("warning", 1, False)


def test_every_check_is_tested(conn: psycopg.Connection[Any]) -> None:
    assert {row[0] for row in conn.execute("select name from dw_quality_checks")} == set(BREAKS)


def test_a_check_can_write_nothing_and_its_failure_is_a_result(
    conn: psycopg.Connection[Any], warehouse_url: str
) -> None:
    add = "select dw_check(%s, 'error', 'made for a test', %s)"
    conn.execute(add, ("writes", "delete from dw_dim_study returning 0"))
    conn.execute(add, ("says_nothing", "select 'many'"))
    conn.execute(add, ("is_broken", "select count(*) from nowhere"))
    results = {check.name: check for check in run_checks(warehouse_url)}
    assert "read-only" in (results["writes"].error or "")
    assert "one number" in (results["says_nothing"].error or "")
    assert "42P01" in (results["is_broken"].error or "")
    assert not any(results[name].passed for name in ("writes", "says_nothing", "is_broken"))
    conn.execute("delete from dw_quality_checks where description = 'made for a test'")


def test_an_operator_switches_a_check_off(conn: psycopg.Connection[Any], warehouse_url: str) -> None:
    conn.execute("update dw_quality_checks set is_active = false where name = 'orphans'")
    assert "orphans" not in {check.name for check in run_checks(warehouse_url)}
    with pytest.raises(ConfigurationError, match="There is no check 'orphan'"):
        run_checks(warehouse_url, names=["orphan"])
