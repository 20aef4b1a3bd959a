"""The schema gets into an empty database, once, whoever asks for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from shutil import copytree

import pytest

from clinical_conductor import database as db
from clinical_conductor import migrations
from clinical_conductor.catalog import BY_JOB_ID, ENDPOINTS
from clinical_conductor.errors import MigrationError

FORMAT = """
    select c.column_name, c.data_type, c.is_nullable
    from information_schema.columns as c
    where c.table_schema = 'public' and c.table_name = %s
    order by c.ordinal_position
"""


@pytest.fixture
def empty(empty_database: str) -> Iterator[db.Connection]:
    with db.connect(empty_database) as conn:
        yield conn


@pytest.fixture
def migrated(database: str) -> Iterator[db.Connection]:
    with db.connect(database) as conn:
        yield conn


@pytest.fixture
def own_sql(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of sql/ that a test may change."""
    folder = copytree(migrations.sql_dir(), tmp_path / "sql")
    monkeypatch.setattr(migrations, "sql_dir", lambda: folder)
    return folder


def test_an_empty_database_gets_everything_quickly_and_only_once(empty: db.Connection) -> None:
    due = migrations.pending(empty)
    assert due[:2] == ["0000_schema_migrations", "0001_control"]
    started = time.monotonic()
    assert migrations.migrate(empty) == due
    assert time.monotonic() - started < 30
    assert migrations.pending(empty) == []
    assert migrations.migrate(empty) == []


def test_every_catalog_table_has_the_same_columns_and_the_unique_key(migrated: db.Connection) -> None:
    for table in {row.table for row in ENDPOINTS.values()}:
        assert migrated.execute(FORMAT, (table,)).fetchall() == [
            ("id", "integer", "NO"),
            ("data", "jsonb", "NO"),
            ("source_id", "character varying", "NO"),
            ("etl_job_id", "integer", "YES"),
            ("etl_run_id", "integer", "YES"),
            ("loaded_at", "timestamp without time zone", "YES"),
            ("created_at", "timestamp without time zone", "YES"),
            ("updated_at", "timestamp without time zone", "YES"),
            ("source_instance_id", "integer", "NO"),
            ("parent_source_id", "text", "NO"),
            ("content_hash", "bytea", "YES"),
            ("changed_xid", "xid8", "NO"),
        ]
    assert migrated.execute("select count(*) from dw_old_staging_tables").fetchone() == (0,)


def test_every_table_and_column_of_bronze_has_a_comment(migrated: db.Connection) -> None:
    silent = migrated.execute(
        """
        select c.relname, a.attname
        from pg_class as c
        inner join pg_attribute as a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        where c.relnamespace = 'public'::regnamespace
            and (
                (c.relkind = 'r' and (c.relname like '%\\_staging' or c.relname like 'dw\\_etl\\_%'))
                or c.relname in ('dw_api_credentials', 'dw_schema_migrations', 'dw_old_staging_tables')
            )
            and (obj_description(c.oid, 'pg_class') is null or col_description(c.oid, a.attnum) is null)
        """
    ).fetchall()
    assert silent == []


def test_jobs_are_seeded_from_the_catalog_and_new_ones_get_numbers_after_them(migrated: db.Connection) -> None:
    rows = migrated.execute(
        "select id, resource, target_table, is_active, requires_parameters from dw_etl_jobs"
    ).fetchall()
    assert {row[0]: row[1:] for row in rows} == {
        job: (row.resource, row.table, row.active, bool(row.parameters)) for job, row in BY_JOB_ID.items()
    }
    added = migrated.execute("insert into dw_etl_jobs (name) values ('mine') returning id").fetchone()
    assert added is not None
    assert added[0] > max(BY_JOB_ID)


def test_what_an_operator_changed_survives_the_next_migration(migrated: db.Connection) -> None:
    migrated.execute(
        "update dw_etl_jobs set is_active = false, source_endpoint = '/mine', category = 'odd' where id = 2"
    )
    migrated.execute("update dw_schema_migrations set content_hash = '' where name = 'catalog'")
    migrated.commit()
    assert migrations.migrate(migrated) == ["catalog"]
    row = migrated.execute(
        "select is_active, source_endpoint, category, resource from dw_etl_jobs where id = 2"
    ).fetchone()
    assert row == (False, "/mine", "odd", "studies")


def test_two_installers_at_once_do_it_once(empty_database: str) -> None:
    def install() -> list[str]:
        with db.connect(empty_database) as conn:
            return migrations.migrate(conn)

    with ThreadPoolExecutor(3) as pool:
        done = [future.result() for future in [pool.submit(install) for _ in range(3)]]
    assert sorted(map(len, done))[:2] == [0, 0]
    with db.connect(empty_database) as conn:
        assert migrations.pending(conn) == []


def test_changed_objects_are_applied_again_and_numbered_files_must_not_change(
    migrated: db.Connection, own_sql: Path
) -> None:
    view = own_sql / "bronze" / "zz_view.sql"
    view.write_text("create or replace view zz_view as select 1 as a;")
    assert migrations.pending(migrated) == ["bronze objects"]
    assert migrations.migrate(migrated) == ["bronze objects"]
    assert migrated.execute("select a from zz_view").fetchone() == (1,)

    numbered = own_sql / "migrations" / "0001_control.sql"
    numbered.write_text(numbered.read_text() + "\n-- changed\n")
    with pytest.raises(MigrationError, match="0001_control was changed after"):
        migrations.pending(migrated)
    with pytest.raises(MigrationError, match="new numbered file"):
        migrations.migrate(migrated)


def test_a_failing_file_is_named_leaves_nothing_and_can_be_repaired(migrated: db.Connection, own_sql: Path) -> None:
    broken = own_sql / "migrations" / "9000_broken.sql"
    broken.write_text("create table half (a integer); select a from no_such_table;")
    with pytest.raises(MigrationError, match=r'9000_broken .* relation "no_such_table" does not exist'):
        migrations.migrate(migrated)
    assert migrated.execute("select to_regclass('half')").fetchone() == (None,)
    broken.write_text("create table whole (a integer);")
    assert migrations.migrate(migrated) == ["9000_broken"]
    assert not migrated.autocommit


def test_pending_is_cheap(migrated: db.Connection) -> None:
    started = time.perf_counter()
    for _ in range(10):
        assert migrations.pending(migrated) == []
    assert (time.perf_counter() - started) / 10 < 0.5
