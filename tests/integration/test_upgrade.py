"""An older database is upgraded in place: its readers keep working, and nothing that it knew is lost.

The database below is the existing deployment's, dirt included: no unique keys, a history of blind inserts, runs keyed
by run_id, columns nobody uses any more, jobs with wrong paths, tables the catalog has never heard of.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from clinical_conductor import database as db
from clinical_conductor import migrations, runs
from clinical_conductor.catalog import find_endpoint
from clinical_conductor.context import RunOptions
from clinical_conductor.errors import MigrationError
from clinical_conductor.execution import show_plan
from clinical_conductor.settings import Settings
from tests.fixtures.postgres import PostgresServer

OLD_TABLE = """
    create table {name} (
        id serial primary key,
        data jsonb not null,
        source_id varchar(255),
        etl_job_id integer,
        etl_run_id integer,
        loaded_at timestamp default now(),
        created_at timestamp default now(),
        updated_at timestamp default now()
    );
"""
OLD_CONTROL = """
    create table dw_api_credentials (
        id serial primary key, instance_name varchar(255) not null, base_url varchar(500) not null,
        api_key varchar(255) not null, is_active boolean default true
    );
    insert into dw_api_credentials (instance_name, base_url, api_key, is_active) values
    ('retired', 'https://old.example.com/CCSWEB', 'not-a-real-key', false),
    ('west', 'https://ccs.example.com/CCSWEB', 'not-a-real-key', true),
    ('east', 'https://east.example.com/CCSWEB', 'env:CC_KEY_EAST', true);

    create table dw_etl_jobs (
        id integer not null, name varchar(255) not null, source_endpoint varchar(500) not null,
        target_table varchar(255) not null, is_active boolean default true, requires_parameters boolean default false,
        parameter_name varchar(255), parameter_source_table varchar(255), parameter_source_column varchar(255),
        source_instance_id integer, schedule_cron varchar(100), incremental_load boolean not null,
        timestamp_field_name varchar(100), last_run_at timestamp, last_run_status varchar(50),
        last_run_records integer, created_at timestamp default now(), updated_at timestamp default now()
    );
    insert into dw_etl_jobs (
        id, name, source_endpoint, target_table, is_active, requires_parameters, parameter_source_column,
        source_instance_id, schedule_cron, incremental_load
    ) values
    (2, 'Studies', '/api/v1/studies/odata', 'dim_studies_staging', true, false, null, 3, '0 2 * * *', true),
    (4, 'Users', '/api/v1/users/odata', 'dim_users_staging', true, false, null, null, null, false),
    (10, 'Subjects', '/api/v1/studies/{studyId}/subjects/odata', 'dim_subjects_staging', true, true, 'id', null, null,
    true),
    (14, 'Screenings', '/my/own/screenings', 'dim_screenings_staging', true, false, null, null, null, false),
    (23, 'Queries', '/api/v1/studies/{studyId}/queries/odata', 'dim_queries_staging', true, true, 'id', null, null,
    false),
    (165, 'Study Detail', '/api/v1/studies/{studyId}', 'dim_study_detail_staging', true, false, null, null, null,
    false);

    create table dw_etl_runs (
        run_id serial primary key, job_id integer, run_status varchar(20) not null
        check (run_status in ('running', 'completed', 'failed')),
        records_loaded integer, error_message varchar(500), run_context jsonb,
        started_at timestamp default now(), completed_at timestamp, duration_seconds integer
    );
    insert into dw_etl_runs (job_id, run_status, records_loaded)
    select 2, 'completed', n from generate_series(1, 3) as n;
    create view old_runs as select run_id, job_id, run_status, error_message from dw_etl_runs;
"""
OLD_ROWS = """
    -- Ten studies, each inserted thirty times, the last time with another name; job 2 belongs to instance 3.
    insert into dim_studies_staging (data, source_id, etl_job_id, etl_run_id, loaded_at, updated_at)
    select
        jsonb_build_object('id', s, 'name', 'v' || n), case when n % 2 = 0 then s::text end, 2, n,
        '2025-01-01'::timestamp + n * interval '1 day', '2025-01-01'::timestamp + n * interval '1 day'
    from generate_series(1, 30) as n, generate_series(1, 10) as s
    order by n, s;
    alter table dim_rooms_staging alter column data drop not null;
    insert into dim_rooms_staging (source_id) values ('12');
    insert into dim_studies_staging (data, etl_job_id) values ('{"name": "no id"}', 2), ('{"id": null}', 2);
    create view v_studies as select source_id, data ->> 'name' as name, loaded_at from dim_studies_staging;

    -- Subjects name their study; two of them only differ by it; one does not say.
    insert into dim_subjects_staging (data, etl_job_id) values
    ('{"id": 7, "study": {"id": 1}}', 10), ('{"id": 7, "study": {"id": 2}}', 10), ('{"Id": 8, "Study": {"Id": 2}}', 10),
    ('{"id": 9}', 10);
    -- A patient's medications do not say whose they are.
    insert into dim_patient_medications_staging (data, source_id) values ('{"id": 1}', '1'), ('{"id": 1}', '1');
    insert into dim_patient_visits_staging (data) values
    ('{"id": 100, "study": {"id": 1}, "subject": {"Id": "A/1"}}'), ('{"id": 101, "subject": {"Id": 7}}');
    insert into dim_subject_statuses_staging (data) values ('{"status": "Screened"}');
    insert into dim_system_lookup_lists_staging (data) values ('"Races"'), ('"Races"'), ('"Genders"');
    insert into dim_instance_details_staging (data) values ('{"version": "1"}'), ('{"version": "2"}');
    insert into dim_study_detail_staging (data) values ('{"id": 5}'), ('{"id": 5}'), ('{"id": 6}');
    insert into dim_visit_element_relationships_staging (data) values
    ('{"visit": {"id": 3}, "element": {"id": 4}, "visitId": 3, "study": {"id": 1}}');
    insert into dim_study_personnel_staging (data) values ('{"Role": {"Id": 3}, "studyId": 1}');
    -- Not the catalog's.
    insert into dim_odd_staging (data, source_id, remark) values
    ('{"id": 1}', null, 'x'), ('{"id": 1}', null, 'x'), ('{"a": 1}', 'mine', 'x'), ('{"a": 2}', null, 'x'),
    ('{"a": 2}', null, 'x');
    -- Filled by an attempt at several instances; its ids were lost and numbered again.
    insert into dim_sites_staging (id, data, source_instance_id) values
    (1, '{"id": 1, "name": "older"}', 2), (1, '{"id": 1, "name": "newer"}', 2), (null, '{"id": 1}', 3);
    insert into dim_rooms_staging (data) values ('{"id": 12345678901234567890123, "name": "big"}'), ('{"id": true}');
"""
TABLES = (
    "dim_studies_staging", "dim_subjects_staging", "dim_patient_medications_staging", "dim_patient_visits_staging",
    "dim_subject_statuses_staging", "dim_system_lookup_lists_staging", "dim_instance_details_staging",
    "dim_study_detail_staging", "dim_visit_element_relationships_staging", "dim_study_personnel_staging",
    "dim_rooms_staging", "dim_odd_staging",
)  # fmt: skip


def make_old(conn: db.Connection) -> None:
    conn.execute(OLD_CONTROL)
    for table in TABLES:
        conn.execute(OLD_TABLE.format(name=table))
    conn.execute("alter table dim_odd_staging add column remark text not null")
    conn.execute(
        "create table dim_sites_staging (id integer, data jsonb not null, source_id varchar(255),"
        " source_instance_id integer, parent_source_id text, loaded_at timestamp)"
    )
    conn.execute("create table not_ours_staging (data text)")
    conn.execute(OLD_ROWS)
    conn.commit()


@pytest.fixture(scope="module")
def upgraded_template(postgres_server: PostgresServer) -> Iterator[str]:
    """Name of the old database after its upgrade, for cloning."""
    name = postgres_server.create()
    with db.connect(postgres_server.database_url(name)) as conn:
        make_old(conn)
        migrations.migrate(conn)
    yield name
    postgres_server.drop(name)


@pytest.fixture
def upgraded(postgres_server: PostgresServer, upgraded_template: str) -> Iterator[db.Connection]:
    """A connection to the old database after its upgrade."""
    with postgres_server.fresh(upgraded_template) as url, db.connect(url) as conn:
        yield conn


def staged(conn: db.Connection, table: str) -> list[tuple[Any, ...]]:
    return conn.execute(
        f"select source_instance_id, parent_source_id, source_id from {table} order by 1, 2, 3"
    ).fetchall()


def archived(conn: db.Connection, table: str) -> list[tuple[Any, ...]]:
    return conn.execute(
        "select reason, count(*) from dw_etl_deleted_records where target_table = %s group by reason order by reason",
        (table,),
    ).fetchall()


UNKNOWN_PARENT = "parent unknown at upgrade: loaded again with its parent"
SUPERSEDED = "superseded duplicate at upgrade"


def test_the_newest_row_of_every_key_stays_and_the_rest_is_archived(upgraded: db.Connection) -> None:
    rows = upgraded.execute(
        "select id, data, loaded_at::text, updated_at::date::text from dim_studies_staging"
    ).fetchall()
    last = ("2025-01-31 00:00:00", "2025-01-31")
    assert sorted(rows, key=lambda row: row[0]) == [(290 + s, {"id": s, "name": "v30"}, *last) for s in range(1, 11)]
    # Job 2's rows are instance 3's.
    assert staged(upgraded, "dim_studies_staging") == [(3, "", str(s)) for s in sorted(map(str, range(1, 11)))]
    assert archived(upgraded, "dim_studies_staging") == [("no usable key at upgrade", 2), (SUPERSEDED, 290)]
    row = upgraded.execute(
        "select count(*), count(distinct data), min(loaded_at) from dw_etl_deleted_records where source_id = '4'"
        " and target_table = 'dim_studies_staging'"
    ).fetchone()
    assert row is not None
    assert row[:2] == (29, 29)
    assert str(row[2]) == "2025-01-02 00:00:00"


@pytest.mark.parametrize(
    ("table", "keys", "gone"),
    [
        ("dim_subjects_staging", [(2, "1", "7"), (2, "2", "7"), (2, "2", "8")], [(UNKNOWN_PARENT, 1)]),
        ("dim_patient_medications_staging", [], [(UNKNOWN_PARENT, 2)]),
        ("dim_patient_visits_staging", [(2, "1/A%2F1", "100")], [(UNKNOWN_PARENT, 1)]),
        ("dim_subject_statuses_staging", [], [("keyed by its content since the upgrade: loaded again", 1)]),
        ("dim_system_lookup_lists_staging", [(2, "", "Genders"), (2, "", "Races")], [(SUPERSEDED, 1)]),
        ("dim_instance_details_staging", [(2, "", "instance")], [(SUPERSEDED, 1)]),
        ("dim_study_detail_staging", [(2, "5", "5"), (2, "6", "6")], [(SUPERSEDED, 1)]),
        ("dim_visit_element_relationships_staging", [(2, "1/3", "3/4")], []),
        ("dim_study_personnel_staging", [(2, "1", "3")], []),
        (
            "dim_rooms_staging",
            [(2, "", "12345678901234567890123")],
            [("no data at upgrade", 1), ("no usable key at upgrade", 1)],
        ),
        ("dim_sites_staging", [(2, "", "1"), (3, "", "1")], [(SUPERSEDED, 1)]),
    ],
)
def test_every_key_rule(upgraded: db.Connection, table: str, keys: list[Any], gone: list[Any]) -> None:
    """Rows without an instance are the oldest active instance's: number 2."""
    assert staged(upgraded, table) == keys
    assert archived(upgraded, table) == gone


def test_a_table_the_catalog_does_not_know_loses_no_content(upgraded: db.Connection) -> None:
    keys = [row[2] for row in staged(upgraded, "dim_odd_staging")]
    assert len(keys) == 3
    assert keys[:1] == ["1"]
    assert any(key.startswith("md5:") for key in keys)
    assert "mine" in keys
    assert archived(upgraded, "dim_odd_staging") == [(SUPERSEDED, 2)]
    assert upgraded.execute("select to_regclass('not_ours_staging_key')").fetchone() == (None,)


def test_upgraded_tables_take_rows_as_new_ones_do(upgraded: db.Connection) -> None:
    """What the merge writes fits, ids are unique, and a row that is there twice is refused."""
    for table in (*TABLES, "dim_sites_staging"):
        insert = (
            f"insert into {table} (data, source_id, parent_source_id, source_instance_id, content_hash, etl_job_id,"
            " etl_run_id, loaded_at, created_at, updated_at) values"
            " ('{}', 'new', '', 2, 'x', 1, 1, now(), now(), now())"
        )
        upgraded.execute(insert)
        with pytest.raises(psycopg.errors.UniqueViolation), upgraded.transaction():
            upgraded.execute(insert)
        row = upgraded.execute(
            f"select count(*) = count(distinct id), bool_and(changed_xid is not null) from {table}"
        ).fetchone()
        assert row == (True, True)
        assert upgraded.execute(f"select count(*) from {table} where content_hash is not null").fetchone() == (1,)
        indexes = {
            row[0] for row in upgraded.execute("select indexname from pg_indexes where tablename = %s", (table,))
        }
        assert indexes >= {f"{table}_key", f"{table}_changed"}


def test_old_readers_keep_working(upgraded: db.Connection) -> None:
    rows = upgraded.execute("select source_id, name from v_studies order by source_id::integer").fetchall()
    assert rows == [(str(s), "v30") for s in range(1, 11)]
    assert upgraded.execute("select run_id from old_runs order by 1").fetchall() == [(1,), (2,), (3,)]


def test_old_runs_belong_to_an_instance_and_their_messages_stay_unsaid(
    postgres_server: PostgresServer,
) -> None:
    with postgres_server.fresh() as url, db.connect(url) as conn:
        make_old(conn)
        conn.execute("insert into dw_etl_runs (job_id, run_status, error_message) values (10, 'failed', 'Jane Doe')")
        conn.commit()
        migrations.migrate(conn)
        runs_of = "select distinct job_id, source_instance_id from dw_etl_runs order by 1"
        assert conn.execute(runs_of).fetchall() == [(2, 3), (10, 2)]
        rows = [*runs.latest_runs(conn, 10), *runs.run_history(conn, 10)]
        assert [(row["run_status"], row["error_message"]) for row in rows] == [("failed", None)] * 2


def test_a_plan_reads_an_old_database(postgres_server: PostgresServer, capsys: pytest.CaptureFixture[str]) -> None:
    with postgres_server.fresh() as url, db.connect(url) as conn:
        make_old(conn)
        show_plan(Settings(database_url=url), [find_endpoint("studies")], [], RunOptions())
    assert "studies" in capsys.readouterr().out


def test_runs_keyed_by_run_id_answer_to_id_as_well(upgraded: db.Connection) -> None:
    row = upgraded.execute(
        "insert into dw_etl_runs (job_id, run_status, records_read) values (2, 'skipped', 5) returning id, run_id"
    ).fetchone()
    assert row == (4, 4)
    upgraded.execute("update dw_etl_runs set run_status = 'success' where id = 4")
    assert upgraded.execute("select run_status from dw_etl_runs where run_id = 4").fetchone() == ("success",)


def test_known_wrong_jobs_are_corrected_once_and_operators_keep_the_last_word(upgraded: db.Connection) -> None:
    jobs = {
        row[0]: row[1:]
        for row in upgraded.execute(
            "select id, is_active, source_endpoint, requires_parameters, resource from dw_etl_jobs"
        )
    }
    assert len(jobs) == 90
    assert jobs[4] == (False, "/api/v1/users/odata", False, "users")
    assert jobs[14] == (True, "/my/own/screenings", False, "screenings")  # pointed elsewhere by somebody
    assert jobs[23] == (True, "/api/v1/studies/{studyId}/monitor-queries/odata", True, "queries")
    assert jobs[165] == (True, "/api/v1/studies/{studyId}", True, "study_detail")
    kept = upgraded.execute(
        "select schedule_cron, incremental_load, parameter_source_column from dw_etl_jobs where id = 2"
    )
    assert kept.fetchone() == ("0 2 * * *", True, None)
    source = upgraded.execute("select parameter_source_table, parameter_source_column from dw_etl_jobs where id = 10")
    assert source.fetchone() == ("dim_studies_staging", "data->>'id'")
    added = upgraded.execute("insert into dw_etl_jobs (name) values ('mine') returning id").fetchone()
    assert added is not None
    assert added[0] > 176

    upgraded.execute("update dw_etl_jobs set is_active = true, source_endpoint = '/api/v1/users/odata' where id = 4")
    upgraded.execute("update dw_schema_migrations set content_hash = '' where name in ('catalog', 'bronze objects')")
    upgraded.commit()
    assert "catalog" in migrations.migrate(upgraded)
    assert upgraded.execute("select is_active from dw_etl_jobs where id = 4").fetchone() == (True,)


def test_a_second_upgrade_changes_nothing(upgraded: db.Connection) -> None:
    question = "select count(*), max(changed_xid::text::bigint), max(xmin::text::bigint) from dim_studies_staging"
    before = upgraded.execute(question).fetchone()
    gone = upgraded.execute("select count(*) from dw_etl_deleted_records").fetchone()
    upgraded.execute("update dw_schema_migrations set content_hash = '' where name = 'catalog'")
    upgraded.commit()
    assert "catalog" in migrations.migrate(upgraded)
    assert upgraded.execute(question).fetchone() == before
    assert upgraded.execute("select count(*) from dw_etl_deleted_records").fetchone() == gone


def test_a_killed_upgrade_goes_on_where_it_was(empty_database: str) -> None:
    """The upgrade is stopped by a lock in its middle, killed there, and run again."""
    with db.connect(empty_database) as conn, db.connect(empty_database) as reader:
        make_old(conn)
        reader.execute("lock table dim_subjects_staging in access share mode")
        script = (
            "from clinical_conductor import database, migrations;"
            f"migrations.migrate(database.connect({empty_database!r}))"
        )
        process = subprocess.Popen([sys.executable, "-c", script], cwd=migrations.sql_dir().parent)
        try:
            deadline = time.monotonic() + 30
            while conn.execute("select to_regclass('dim_studies_staging_key')").fetchone() == (None,):
                conn.commit()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            conn.commit()
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        reader.rollback()
        assert "catalog" in migrations.pending(conn)
        assert archived(conn, "dim_studies_staging") == [("no usable key at upgrade", 2), (SUPERSEDED, 290)]
        conn.commit()
        assert "catalog" in migrations.migrate(conn)
        assert archived(conn, "dim_studies_staging") == [("no usable key at upgrade", 2), (SUPERSEDED, 290)]
        assert staged(conn, "dim_subjects_staging") == [(2, "1", "7"), (2, "2", "7"), (2, "2", "8")]
        assert migrations.pending(conn) == []


def test_a_long_history_is_upgraded_in_seconds_and_gives_its_space_back(empty_database: str) -> None:
    with db.connect(empty_database) as conn:
        conn.execute(OLD_TABLE.format(name="dim_studies_staging"))
        conn.execute(
            "insert into dim_studies_staging (data, source_id)"
            " select jsonb_build_object('id', s, 'n', n, 'text', repeat(md5(s::text), 10)), s::text"
            " from generate_series(1, 150) as n, generate_series(1, 150) as s"
        )
        conn.commit()
        started = time.monotonic()
        migrations.migrate(conn)
        assert time.monotonic() - started < 60
        assert staged(conn, "dim_studies_staging") == [(1, "", key) for key in sorted(map(str, range(1, 151)))]
        size = conn.execute("select pg_relation_size('dim_studies_staging')").fetchone()
        assert size is not None
        assert size[0] < 500_000


def test_what_cannot_be_upgraded_is_named(empty_database: str) -> None:
    with db.connect(empty_database) as conn:
        conn.execute("create table dim_rooms_staging (id integer, data json)")
        with pytest.raises(MigrationError, match=r"there is a dim_rooms_staging, but .* Rename it and migrate again"):
            migrations.migrate(conn)
        conn.execute("drop table dim_rooms_staging")
        conn.execute(OLD_TABLE.format(name="dim_rooms_staging"))
        conn.execute("create table dw_other_runs (id integer)")
        migrations.migrate(conn)
        assert migrations.pending(conn) == []


def test_a_control_table_without_usable_keys_is_refused_before_anything_is_done(empty_database: str) -> None:
    with db.connect(empty_database) as conn:
        conn.execute(
            "create table dw_etl_jobs (id integer, name text); insert into dw_etl_jobs values (1, 'a'), (1, 'b')"
        )
        with pytest.raises(MigrationError, match=r"dw_etl_jobs\.id holds 1 repeated or empty keys\. Make them unique"):
            migrations.migrate(conn)
        assert conn.execute("select to_regclass('dw_etl_runs')").fetchone() == (None,)
