"""Each role connects and tries what it may, and what it may not."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import errors, sql

from clinical_conductor.database import connect
from clinical_conductor.migrations import apply_roles
from clinical_conductor.quality import run_checks
from clinical_conductor.warehouse import transform
from tests.warehouse.staged import stage

ROLES = ("loader", "transformer", "analyst", "phi_reader", "monitor")
PATIENT = {"firstName": "Ada", "city": "Ulm", "status": "Active", "dateOfBirth": "1980-01-02"}


@pytest.fixture(scope="module")
def logins(warehouse_url: str) -> Iterator[dict[str, str]]:
    """A URL per role, and one patient in the warehouse."""
    assert len(apply_roles(warehouse_url)) == len(ROLES)
    apply_roles(warehouse_url)  # again: it must not mind
    urls = {}
    parts = urlsplit(warehouse_url)
    with connect(warehouse_url, autocommit=True) as conn:
        stage(conn, "dim_patients_staging", 1, "", "1", PATIENT)
        for role in ROLES:
            conn.execute(
                sql.SQL("create role {} login password 'made-for-a-test' in role {}").format(
                    sql.Identifier(f"test_{role}"), sql.Identifier(f"trialsync_{role}")
                )
            )
            login = f"test_{role}:made-for-a-test@{parts.hostname}:{parts.port}"
            urls[role] = parts._replace(netloc=login).geturl()
        transform(warehouse_url)
        yield urls
        for role in ROLES:
            conn.execute(sql.SQL("drop role {}").format(sql.Identifier(f"test_{role}")))
            conn.execute(sql.SQL("drop owned by {0}; drop role {0}").format(sql.Identifier(f"trialsync_{role}")))


ALLOWED = {
    "loader": [
        "update dim_patients_staging set loaded_at = now()",
        "insert into dw_etl_runs (job_id, run_status) values (1, 'running')",
        "select * from dw_api_credentials",
        "select dw_default_instance()",
        "update dw_api_credentials set base_url = 'https://ccs.example.com/CCSWEB' where base_url is null",
    ],
    "transformer": [
        "select count(*) from dim_patients_staging",
        "call load_dw_dim_patient(true)",
        "call refresh_mv_site_visits(true)",
    ],
    "analyst": [
        "select * from v_study_enrollment_summary",
        "select * from mv_study_performance_metrics",
        "select patient_key, status, birth_year, valid_from from dw_dim_patient",
        "select * from dw_dim_subject",
        "select * from dw_fact_visit",
    ],
    "phi_reader": [
        "select first_name, phone from v_patients_current",
        "select * from dw_dim_patient",
        "select * from v_site_performance",
    ],
    "monitor": [
        "select * from dw_etl_runs",
        "select * from dw_transformation_runs",
        "select * from v_data_freshness",
        "select * from dw_audit_log",
    ],
}
REFUSED = {
    "loader": [
        "select * from dw_dim_patient",
        "select * from v_patients_current",
        "delete from dw_transformation_runs",
    ],
    "transformer": [
        "update dim_patients_staging set data = '{}'",
        "select api_key from dw_api_credentials",
        "select * from v_patients_current",
        "insert into dw_transformations select * from dw_transformations",
    ],
    "analyst": [
        "select first_name from dw_dim_patient",
        "select * from dw_dim_patient",
        "select date_of_birth from dw_dim_patient",
        "select * from v_patients_current",
        "select data from dim_patients_staging",
        "select data from dw_etl_deleted_records",
        "delete from dw_fact_visit",
        "select dw_maintain('mv_site_visits')",
        "call load_dw_dim_patient()",
    ],
    "phi_reader": ["select data from dim_patients_staging", "update dw_dim_patient set first_name = 'x'"],
    "monitor": [
        "select data from dim_patients_staging",
        "select * from dw_dim_study",
        "select raw from dw_etl_rejected_records",
        "select api_key from dw_api_credentials",
        "select * from v_study_enrollment_summary",
        "update dw_etl_runs set run_status = 'success'",
    ],
}


@pytest.mark.parametrize(("role", "statement"), [(r, s) for r, all_of in ALLOWED.items() for s in all_of])
def test_a_role_may(logins: dict[str, str], role: str, statement: str) -> None:
    with psycopg.connect(logins[role]) as conn:
        conn.execute(statement.encode())
        conn.rollback()


@pytest.mark.parametrize(("role", "statement"), [(r, s) for r, all_of in REFUSED.items() for s in all_of])
def test_a_role_may_not(logins: dict[str, str], role: str, statement: str) -> None:
    with psycopg.connect(logins[role]) as conn, pytest.raises(errors.InsufficientPrivilege):
        conn.execute(statement.encode())


def test_the_transformer_runs_everything(logins: dict[str, str]) -> None:
    assert {result.status for result in transform(logins["transformer"], full_refresh=True)} == {"success"}
    assert [check.name for check in run_checks(logins["transformer"]) if check.error] == []


def test_every_silver_column_is_granted_or_phi(logins: dict[str, str], warehouse_url: str) -> None:
    """A new column of a patient is out of the analyst's reach until its comment says what it is."""
    with connect(warehouse_url) as conn:
        rows = conn.execute(
            "select c.relname, a.attname from pg_class as c"
            " inner join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped"
            " where c.relkind = 'r' and c.relname ~ '^dw_' and c.relnamespace = 'public'::regnamespace"
            " and col_description(c.oid, a.attnum) is null and c.relname ~"
            " '^dw_(dim|fact|transformation|quality|audit)'"
        ).fetchall()
        assert rows == [], "every column has a comment"
        hidden = conn.execute(
            "select a.attname from pg_attribute as a where a.attrelid = 'dw_dim_patient'::regclass and a.attnum > 0"
            " and not has_column_privilege('trialsync_analyst', a.attrelid, a.attnum, 'select') order by 1"
        ).fetchall()
    names = {"name", "email", "phone", "address", "birth", "death", "zip", "city", "mrn"}
    assert {row[0] for row in hidden} >= {
        "first_name",
        "last_name",
        "email",
        "phone",
        "address1",
        "date_of_birth",
        "mrn",
        "zip",
    }
    assert all(any(part in row[0] for part in names) for row in hidden)


def test_gold_has_no_column_that_identifies_a_patient(logins: dict[str, str], warehouse_url: str) -> None:
    with connect(warehouse_url) as conn:
        columns = conn.execute(
            "select a.attname from pg_class as c inner join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0"
            " where c.relnamespace = 'public'::regnamespace and c.relkind in ('v', 'm') and c.relname ~ '^m?v_'"
            " and c.relname <> 'v_patients_current'"
        ).fetchall()
    assert not {row[0] for row in columns} & {
        "first_name",
        "last_name",
        "display_name",
        "email",
        "phone",
        "patient_id",
        "mrn",
    }


def test_the_audit_log_is_append_only(logins: dict[str, str], warehouse_url: str) -> None:
    with connect(warehouse_url, autocommit=True) as conn:
        conn.execute("grant all on dw_audit_log to trialsync_transformer")  # by mistake
        for statement in (
            "update dw_audit_log set actor = 'nobody'",
            "delete from dw_audit_log",
            "truncate dw_audit_log",
        ):
            with (
                psycopg.connect(logins["transformer"]) as other,
                pytest.raises(errors.InsufficientPrivilege, match="append-only"),
            ):
                other.execute(statement.encode())
        conn.execute("revoke all on dw_audit_log from trialsync_transformer")


def test_the_audit_log_says_who_ran_what(logins: dict[str, str], warehouse_url: str) -> None:
    with connect(warehouse_url, autocommit=True) as conn:
        conn.execute("update dw_etl_jobs set is_active = false where id = 3")
        conn.execute("update dw_etl_jobs set last_run_at = now() where id = 3")  # no change of the job
        found = conn.execute(
            "select action, details from dw_audit_log where object = 'patients' and action = 'change job' order by id"
        ).fetchall()
        assert found == [("change job", {"is_active": [True, False]})]
        migrated = conn.execute(
            "select count(*) from dw_audit_log where action = 'migrate' and object = '0101_dimensions'"
        ).fetchone()
        assert migrated == (1,)
        with psycopg.connect(logins["transformer"]) as other:
            other.execute("call load_dw_dim_study()")
        latest = conn.execute(
            "select actor, object from dw_audit_log where action = 'transform' order by id desc limit 1"
        ).fetchone()
        assert latest == ("test_transformer", "load_dw_dim_study")
