"""The adapter on a real PostgreSQL: what differs is written, the rest is left alone, every record is counted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from clinical_conductor import runs
from clinical_conductor.catalog import find_endpoint
from clinical_conductor.chunk import Batch
from clinical_conductor.database import connect
from clinical_conductor.errors import MassDelete, RunFenced, WorkspaceTrouble
from clinical_conductor.landing import Landing, LandingFailed, one_landing
from clinical_conductor.parents import ParentOutcome
from clinical_conductor.records import Rejected, content_hash
from clinical_conductor.runs import Counts
from clinical_conductor.staging import Stage

Record = Mapping[str, Any]
INSTANCE = 1


def batch(*records: Record | bytes, parent: str = "") -> Batch:
    """A batch of JSON records keyed by their id; bytes are taken verbatim, keyed by what they hold."""
    made = Batch()
    for record in records:
        raw = record if isinstance(record, bytes) else json.dumps(record).encode()
        made.keys.append(str(json.loads(raw, parse_float=str)["id"]))
        made.parents.append(parent)
        made.hashes.append(content_hash(raw))
        made.records.append(raw)
    made.size = sum(map(len, made.records))
    return made


def study(number: int, **fields: Any) -> dict[str, Any]:
    """A made-up study."""
    return {"id": number, "name": f'Study "{number}",\nof two lines', **fields}


@pytest.fixture
def conn(database: str) -> Iterator[psycopg.Connection[Any]]:
    with connect(database, autocommit=True) as opened:
        opened.execute(
            "insert into dw_api_credentials (id, instance_name) values (1, 'default') on conflict do nothing"
        )
        yield opened


@pytest.fixture
def landing(database: str, tmp_path: Path) -> Iterator[Landing]:
    with one_landing(database, INSTANCE, tmp_path) as made:
        yield made


Sync = Callable[..., Counts]


@pytest.fixture
def sync(database: str, conn: psycopg.Connection[Any], landing: Landing) -> Sync:
    """Stages batches as one run of a listing that is complete."""

    def run(*batches: Batch, resource: str = "studies", complete: bool = True, **options: Any) -> Counts:
        endpoint = find_endpoint(resource)
        run_id = runs.open_run(conn, endpoint.job_id, INSTANCE, batch_id=uuid4())
        with connect(database, autocommit=True) as session:
            stage = Stage(session, landing, endpoint, run_id=run_id, instance_id=INSTANCE, **options)
            for one in batches:
                stage.take(one)

            def conclude() -> None:
                if complete:
                    stage.delete_unseen()
                runs.close_run(session, run_id, "success")

            stage.commit(conclude)
            stage.deletion.check()
        return stage.counts

    return run


def staged(conn: psycopg.Connection[Any], table: str = "dim_studies_staging") -> dict[tuple[str, str], Any]:
    """What is staged: (parent, key) → JSON as text."""
    rows = conn.execute(f"select parent_source_id, source_id, data::text from {table}").fetchall()
    return {(row[0], row[1]): row[2] for row in rows}


def test_first_load_inserts_and_the_same_again_writes_nothing(conn: psycopg.Connection[Any], sync: Sync) -> None:
    records = [study(n) for n in range(5)]
    assert sync(batch(*records)) == Counts(read=5, inserted=5)
    before = conn.execute(
        "select id, xmin::text, loaded_at, updated_at from dim_studies_staging order by id"
    ).fetchall()
    assert sync(batch(*records)) == Counts(read=5, unchanged=5)
    after = conn.execute("select id, xmin::text, loaded_at, updated_at from dim_studies_staging order by id").fetchall()
    assert after == before


def test_one_change_is_one_update(conn: psycopg.Connection[Any], sync: Sync) -> None:
    sync(batch(*(study(n) for n in range(5))))
    ids = dict(conn.execute("select source_id, id from dim_studies_staging").fetchall())
    assert sync(batch(*(study(n, status="Open") if n == 3 else study(n) for n in range(5)))) == Counts(
        read=5, updated=1, unchanged=4
    )
    assert dict(conn.execute("select source_id, id from dim_studies_staging").fetchall()) == ids
    assert json.loads(staged(conn)["", "3"])["status"] == "Open"


def test_the_same_json_written_differently_is_no_update(conn: psycopg.Connection[Any], sync: Sync) -> None:
    sync(batch(b'{"id": 1, "a": 2}'))
    written = conn.execute("select updated_at, changed_xid::text, etl_run_id from dim_studies_staging").fetchall()
    assert sync(batch(b'{"a":2,"id":1}')) == Counts(read=1, unchanged=1)
    assert (
        conn.execute("select updated_at, changed_xid::text, etl_run_id from dim_studies_staging").fetchall() == written
    )
    assert sync(batch(b'{"a":2,"id":1}')) == Counts(read=1, unchanged=1)


def test_values_keep_their_digits(conn: psycopg.Connection[Any], sync: Sync) -> None:
    sync(batch(b'{"id": 12345678901234567890123, "budget": 15000.00, "name": "Z\\u00fcrich \\\\u0000 \xe6\x97\xa5"}'))
    assert staged(conn)["", "12345678901234567890123"] == (
        '{"id": 12345678901234567890123, "name": "Zürich \\\\u0000 日", "budget": 15000.00}'
    )


def test_last_one_wins_within_a_batch_a_chunk_and_a_run(conn: psycopg.Connection[Any], sync: Sync) -> None:
    counts = sync(batch(study(1, v=1), study(1, v=2)), batch(study(1, v=3)))
    assert (counts.read, counts.inserted, counts.duplicate) == (3, 1, 2)
    assert json.loads(staged(conn)["", "1"])["v"] == 3
    # Back to what is staged: the chunk holds v=4, and the last one served equals the row.
    counts = sync(batch(study(1, v=4)), batch(study(1, v=3)))
    assert (counts.read, counts.updated, counts.unchanged, counts.duplicate) == (2, 0, 1, 1)


def test_duplicates_over_chunks_are_counted_once(
    conn: psycopg.Connection[Any], sync: Sync, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clinical_conductor.staging.CHUNK_ROWS", 1)
    counts = sync(batch(study(1, v=1)), batch(study(1, v=1)), batch(study(1, v=2)), batch(study(2)))
    assert counts == Counts(read=4, inserted=2, duplicate=2)
    assert json.loads(staged(conn)["", "1"])["v"] == 2


def test_what_a_complete_enumeration_lacks_is_archived_and_deleted(conn: psycopg.Connection[Any], sync: Sync) -> None:
    sync(batch(*(study(n) for n in range(10))))
    assert sync(batch(*(study(n) for n in range(9)))) == Counts(read=9, unchanged=9, deleted=1)
    archived = conn.execute(
        "select target_table, source_id, data ->> 'id', reason from dw_etl_deleted_records"
    ).fetchall()
    assert archived == [("dim_studies_staging", "9", "9", "no longer listed")]


def test_an_incomplete_enumeration_deletes_nothing(conn: psycopg.Connection[Any], sync: Sync) -> None:
    sync(batch(*(study(n) for n in range(10))))
    assert sync(batch(study(1)), complete=False) == Counts(read=1, unchanged=1)
    assert len(staged(conn)) == 10


def test_a_mass_delete_stops_and_asks(conn: psycopg.Connection[Any], sync: Sync) -> None:
    sync(batch(*(study(n) for n in range(10))))
    with pytest.raises(MassDelete, match=r"7 of 10 rows .* --allow-mass-delete"):
        sync(batch(*(study(n) for n in range(3))))
    assert len(staged(conn)) == 10
    assert sync(batch(*(study(n) for n in range(3))), allow_mass_delete=True).deleted == 7
    assert len(staged(conn)) == 3


def test_a_full_refresh_compares_json_and_keeps_the_truth(conn: psycopg.Connection[Any], sync: Sync) -> None:
    sync(batch(study(1), study(2)))
    conn.execute("update dim_studies_staging set data = data || '{\"name\": \"tampered\"}' where source_id = '2'")
    assert sync(batch(study(1), study(2))) == Counts(read=2, unchanged=2)
    assert sync(batch(study(1), study(2)), full_refresh=True) == Counts(read=2, updated=1, unchanged=1)


def test_what_postgresql_cannot_hold_is_quarantined_and_the_rest_loads(
    conn: psycopg.Connection[Any], sync: Sync
) -> None:
    bad = b'{"id": 2, "n": 1e400000}'
    counts = sync(batch(study(1), bad, study(3)))
    assert counts == Counts(read=3, inserted=2, rejected=1)
    assert set(staged(conn)) == {("", "1"), ("", "3")}
    rows = conn.execute("select source_id, reason, raw, times_seen from dw_etl_rejected_records").fetchall()
    assert rows == [("2", "PostgreSQL cannot hold it as jsonb (SQLSTATE 22003)", bad.decode(), 1)]
    sync(batch(study(1), bad, study(3)))
    assert conn.execute("select times_seen from dw_etl_rejected_records").fetchall() == [(2,)]


def test_a_rejected_record_keeps_its_older_row(conn: psycopg.Connection[Any], sync: Sync) -> None:
    sync(batch(*(study(n) for n in range(3))))
    one = batch(study(0), study(1))
    one.rejected.append(Rejected(key="2", parent="", reason="holds \\u0000", raw='{"id": 2, "x": "\\u0000"}'))
    assert sync(one) == Counts(read=3, unchanged=2, rejected=1)
    assert ("", "2") in staged(conn)


def test_children_their_parent_no_longer_lists_are_deleted(
    database: str, conn: psycopg.Connection[Any], landing: Landing
) -> None:
    endpoint = find_endpoint("study_arms")
    table = endpoint.table

    def run(*batches: Batch) -> Counts:
        run_id = runs.open_run(conn, endpoint.job_id, INSTANCE, batch_id=uuid4())
        with connect(database, autocommit=True) as session:
            stage = Stage(session, landing, endpoint, run_id=run_id, instance_id=INSTANCE)
            for one in batches:
                stage.take(one)
            stage.commit(lambda: runs.close_run(session, run_id, "success"))
        return stage.counts

    def of(parent: str, *records: Record, status: str = "fetched") -> Batch:
        one = batch(*records, parent=parent)
        one.outcomes.append(ParentOutcome(parent, b"h" * 16, status, len(records)))
        return one

    arms = [{"id": n} for n in range(8)]
    assert run(of("10", *arms), of("11", *arms)).inserted == 16
    assert run(of("10", *arms[:7])) == Counts(read=7, unchanged=7, deleted=1)
    assert ("11", "7") in staged(conn, table) and ("10", "7") not in staged(conn, table)
    # A parent that failed tells nothing about its children.
    assert run(of("11", status="failed")).deleted == 0
    ledger = conn.execute("select parent_key, status, records, failures from dw_etl_parents order by 1").fetchall()
    assert ledger == [("10", "fetched", 7, 0), ("11", "failed", 8, 1)]


def test_a_closed_run_commits_nothing_more(database: str, conn: psycopg.Connection[Any], landing: Landing) -> None:
    run_id = runs.open_run(conn, 2, INSTANCE, batch_id=uuid4())
    with connect(database, autocommit=True) as session:
        stage = Stage(session, landing, find_endpoint("studies"), run_id=run_id, instance_id=INSTANCE)
        stage.take(batch(study(1)))
        runs.close_run(conn, run_id, "failed", error_message="closed by a test")
        with pytest.raises(RunFenced):
            stage.commit()
    assert staged(conn) == {}


def test_the_ledger_adds_up(conn: psycopg.Connection[Any], sync: Sync) -> None:
    sync(batch(study(1), study(1), study(2)), batch(study(3)))
    row = conn.execute(
        """
        select run_status, records_loaded, records_read, records_inserted, records_updated, records_unchanged,
            records_rejected, records_duplicate
        from dw_etl_runs
        """
    ).fetchone()
    assert row == ("success", 3, 4, 3, 0, 0, 0, 1)


def test_no_file_with_records_is_left(landing: Landing, sync: Sync) -> None:
    sync(batch(study(1)))
    assert [path for path in landing.directory.rglob("*") if path.is_file() and b"Study" in path.read_bytes()] == []
    assert landing.directory.stat().st_mode & 0o777 == 0o700
    landing.close()
    assert not landing.directory.exists()


def test_files_of_killed_processes_are_removed_by_the_next_start(database: str, tmp_path: Path) -> None:
    old = tmp_path / "work" / "run-999999999-old"
    old.mkdir(parents=True)
    (old / "chunk.csv").write_text("left behind")
    with one_landing(database, INSTANCE, tmp_path):
        assert not old.exists()


def test_a_disk_without_room_says_so(landing: Landing, sync: Sync) -> None:
    landing.directory = Path("/dev/full")  # nothing can be written below it
    with pytest.raises(WorkspaceTrouble, match="TRIALSYNC_HOME"):
        sync(batch(study(1)))


def test_trouble_of_dlt_says_nothing_of_the_data(
    landing: Landing, tmp_path: Path, conn: psycopg.Connection[Any]
) -> None:
    conn.execute("select dw_landing_table(1, 'dim_studies_staging')")
    path = tmp_path / "bad.csv"
    path.write_text('seq,parent_source_id,source_id,content_hash,data\n1,"","1",\\x00,"{broken secret"\n')
    with pytest.raises(LandingFailed) as failed:
        landing.land("dim_studies_staging", path, 1)
    assert "secret" not in str(failed.value) and failed.value.__cause__ is None
    path.write_text('seq,parent_source_id,source_id,content_hash,data\n1,"","1",\\x00,"{}"\n')
    landing.land("dim_studies_staging", path, 1)
    assert conn.execute("select count(*) from trialsync_landing_1.dim_studies_staging").fetchone() == (1,)
