"""The snapshot tells the truth about the ledger, and nothing about patients."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest

from clinical_conductor import errors
from clinical_conductor.catalog import ENDPOINTS
from clinical_conductor.database import connect
from clinical_conductor.errors import DatabaseRefused, TrialSyncError
from clinical_conductor.ledger import Job, Snapshot
from clinical_conductor.monitoring import read_ledger, read_run, read_runs, rejection_reasons, take_snapshot
from clinical_conductor.remedies import REMEDIES, UNKNOWN, remedy_for
from clinical_conductor.settings import Settings
from tests.operations.conftest import NOW, Nights
from tests.operations.seeding import FAILURES, add_instance, add_run, seed_nights

Conn = psycopg.Connection[Any]


def job(snapshot: Snapshot, resource: str) -> Job:
    return next(job for job in snapshot.jobs if job.resource == resource)


def test_jobs_skipped_by_a_failure_count_and_those_that_wait_for_a_budget_do_not(conn: Conn) -> None:
    add_instance(conn)
    add_run(conn, "studies", NOW)
    add_run(conn, "study_arms", NOW, run_status="skipped", error_type="BudgetSpent", error_message="skipped: budget")
    good = take_snapshot(conn, now=NOW)
    assert (good.night.verdict, good.night.headline) == ("good", "1 of 2 jobs ran; 0 rows changed")
    assert good.commands == []
    add_run(conn, "visits", NOW, run_status="failed", error_type="ServerTrouble")
    add_run(conn, "study_visit_arms", NOW, run_status="skipped", error_type="DependencyFailed", error_message="skipped")
    bad = take_snapshot(conn, now=NOW)
    assert bad.night.headline == f"1 failed, 1 skipped of {len(bad.active)} jobs"
    add_run(conn, "visits", NOW + timedelta(minutes=1))
    left = take_snapshot(conn, now=NOW + timedelta(minutes=2))
    assert (left.night.verdict, left.night.headline) == ("failed", f"1 skipped of {len(left.active)} jobs")
    assert left.commands == ["trialsync-etl retry --failed"]


def test_a_warehouse_in_trouble_makes_a_bad_night(conn: Conn) -> None:
    add_instance(conn)
    add_run(conn, "studies", NOW)
    conn.execute(
        """
        insert into dw_transformation_runs (procedure_name, status, started_at) values
            ('load_dw_dim_study', 'failed', now()), ('load_dw_dim_site', 'failed', now());
        insert into dw_quality_results (batch_id, check_name, severity, failures, passed, seconds) values
            (gen_random_uuid(), 'keys', 'error', 3, false, 0.1), (gen_random_uuid(), 'names', 'warning', 3, false, 0.1);
        """
    )
    snapshot = take_snapshot(conn, now=NOW)
    assert snapshot.night.verdict == "failed"
    assert snapshot.night.headline == "1 job ran; 2 procedures failed; 1 data quality error"
    assert snapshot.commands == ["trialsync-etl transform", "trialsync-etl check"]
    add_run(conn, "sites", NOW, run_status="failed", error_type="ServerTrouble")
    retry, *others = take_snapshot(conn, now=NOW).commands
    assert retry.startswith("trialsync-etl retry --run-id ")  # which runs the procedures, too
    assert others == ["trialsync-etl check"]


def test_night_with_trouble(kept: Nights) -> None:
    snapshot = take_snapshot(kept.conn, now=NOW)
    active = [row for row in ENDPOINTS.values() if row.active]
    assert snapshot.night.verdict == "failed"
    assert snapshot.night.headline == f"5 failed of {len(active)} jobs"
    assert snapshot.night.counts == {"success": len(active) - 5, "failed": 5}
    assert snapshot.night.began_at == NOW - timedelta(hours=8)
    assert snapshot.night.owed == 48_215
    assert {j.resource for j in snapshot.troubles if j.health == "failed"} == set(FAILURES)
    assert {j.resource for j in snapshot.troubles if j.health == "attention"} == {
        "patients",
        "study_arms",
        "patient_allergies",
    }
    assert [j.health for j in snapshot.troubles] == ["failed"] * 5 + ["attention"] * 3


def test_sums_are_those_of_the_ledger(kept: Nights) -> None:
    conn, nights = kept.conn, kept.runs
    night = take_snapshot(conn, now=NOW).night
    row = conn.execute(
        "select sum(records_inserted), sum(records_updated), sum(records_deleted), sum(requests), sum(retries) "
        "from dw_etl_runs where id = any(%s)",
        (list(nights.values()),),
    ).fetchone()
    assert (night.inserted, night.updated, night.deleted, night.requests, night.retries) == row


def test_retry_that_succeeds_mends_the_night(conn: Conn, nights: dict[str, int]) -> None:
    for number, resource in enumerate(FAILURES):
        add_run(conn, resource, NOW - timedelta(minutes=50 - number), retry_of_run_id=nights[resource])
    snapshot = take_snapshot(conn, now=NOW)
    assert snapshot.night.verdict == "attention"
    assert job(snapshot, "invoices").health == "ok"


def test_good_night(conn: Conn) -> None:
    seed_nights(conn, NOW, nights=2, trouble=False)
    night = take_snapshot(conn, now=NOW).night
    assert night.verdict == "good"
    assert f"{night.inserted + night.updated + night.deleted:,} rows changed" in night.headline


def test_nothing_ran(conn: Conn) -> None:
    snapshot = take_snapshot(conn, now=NOW)
    assert (snapshot.night.verdict, snapshot.troubles) == ("silent", ())
    assert {j.health for j in snapshot.jobs} == {"never", "inactive"}


def test_running_and_stuck_are_told_apart_by_the_heartbeat(conn: Conn) -> None:
    add_instance(conn)
    add_run(conn, "studies", NOW - timedelta(hours=2), run_status="running", heartbeat_at=NOW - timedelta(minutes=1))
    add_run(conn, "patients", NOW - timedelta(hours=2), run_status="running", heartbeat_at=NOW - timedelta(minutes=16))
    snapshot = take_snapshot(conn, now=NOW)
    assert (job(snapshot, "studies").health, job(snapshot, "patients").health) == ("running", "stuck")
    assert job(snapshot, "patients").remedy is not None
    assert snapshot.night.headline == f"1 stuck of {len(snapshot.active)} jobs"
    conn.execute("update dw_etl_runs set heartbeat_at = %s", (NOW,))
    assert take_snapshot(conn, now=NOW).night.verdict == "running"


@pytest.mark.parametrize(("hours_late", "missed", "health"), [(0.5, 0, "ok"), (1.5, 1, "overdue"), (26, 2, "overdue")])
def test_overdue_after_an_hour_of_grace(conn: Conn, hours_late: float, missed: int, health: str) -> None:
    due = datetime(2026, 6, 10, 2, tzinfo=UTC)
    add_instance(conn)
    conn.execute("update dw_etl_jobs set schedule_cron = '0 4 * * *' where id = 2")
    add_run(conn, "studies", due - timedelta(hours=24))
    snapshot = take_snapshot(conn, now=due + timedelta(hours=hours_late), zone=ZoneInfo("Europe/Zurich"))
    found = job(snapshot, "studies")
    assert (found.missed, found.health) == (missed, health)
    assert found.next_run is not None
    assert found.next_run.isoformat().endswith("T04:00:00+02:00")


def test_an_instance_that_is_not_scheduled_is_never_overdue(conn: Conn) -> None:
    conn.execute("update dw_etl_jobs set schedule_cron = '0 4 * * *' where id = 2")
    for number, name in ((1, "default"), (2, "west"), (3, "demo")):
        add_instance(conn, number, name)
        add_run(conn, "studies", NOW - timedelta(days=3), source_instance_id=number)
    conn.execute("update dw_api_credentials set is_active = false where instance_name = 'west'")
    found = {j.instance: (j.missed > 0, j.health) for j in take_snapshot(conn, now=NOW).jobs if j.resource == "studies"}
    assert found == {"default": (True, "overdue"), "west": (False, "ok"), "demo": (False, "ok")}


def test_schedule_that_is_none_is_shown_and_never_due(conn: Conn) -> None:
    conn.execute("update dw_etl_jobs set schedule_cron = 'each night' where id = 2")
    found = job(take_snapshot(conn, now=NOW), "studies")
    assert (found.schedule, found.next_run, found.missed) == ("each night", None, 0)


def test_text_of_the_existing_system_is_not_passed_on(conn: Conn) -> None:
    add_instance(conn)
    run = add_run(
        conn, "studies", NOW, run_status="failed", error_message="400 {'X-ApiKey': 'abc'} Jane", error_type=None
    )
    found = read_run(conn, run)
    assert found is not None
    assert found.error is None
    assert "Jane" not in str(asdict(take_snapshot(conn, now=NOW)))


def test_rows_of_the_existing_system_are_read(conn: Conn) -> None:
    conn.execute(
        "insert into dw_etl_runs (job_id, run_status, records_loaded, started_at, completed_at, duration_seconds, "
        "records_read, records_inserted, requests) "
        "values (2, 'completed', 80000, '2026-06-10 01:00', '2026-06-10 01:05', 300, null, null, null)"
    )
    found = job(take_snapshot(conn, now=NOW), "studies")
    assert found.last is not None
    assert (found.last.loaded, found.last.seconds, found.last.requests, found.health) == (80_000, 300.0, 0, "ok")


def test_one_line_per_instance_when_there_are_several(conn: Conn) -> None:
    for number, name in ((1, "default"), (2, "west")):
        add_instance(conn, number, name)
        add_run(conn, "studies", NOW, source_instance_id=number, run_status="success" if number == 1 else "failed")
    found = [j for j in take_snapshot(conn, now=NOW).jobs if j.resource == "studies"]
    assert [(j.instance, j.health) for j in found] == [("default", "ok"), ("west", "failed")]


def test_a_command_names_the_instance_where_there_are_several(conn: Conn) -> None:
    conn.execute("update dw_etl_jobs set schedule_cron = '0 4 * * *' where id = 2")
    for number, name in ((1, "default"), (2, "our west")):
        add_instance(conn, number, name)
        add_run(conn, "studies", NOW - timedelta(days=3), source_instance_id=number)
    found = [j.remedy.command for j in take_snapshot(conn, now=NOW).jobs if j.resource == "studies" and j.remedy]
    assert found == [f"trialsync-etl run --job-id 2 --instance {name}" for name in ("default", "'our west'")]


def test_runs_are_paged_and_filtered(kept: Nights) -> None:
    conn, nights = kept.conn, kept.runs
    newest = read_runs(conn, limit=3)
    assert [run.id for run in newest] == sorted((run.id for run in newest), reverse=True)
    assert read_runs(conn, limit=1, before=newest[0].id)[0].id == newest[1].id
    assert {run.resource for run in read_runs(conn, job_id=3)} == {"patients"}
    assert {run.id for run in read_runs(conn, status="failed")} == {nights[name] for name in FAILURES}
    assert read_run(conn, 10**9) is None
    patients = read_run(conn, nights["patients"])
    assert patients is not None
    assert rejection_reasons(conn, patients) == [("holds \\u0000, which PostgreSQL cannot store", 3)]


def test_warehouse_is_shown(conn: Conn) -> None:
    conn.execute(
        "insert into dw_transformation_runs (procedure_name, status, started_at, finished_at, rows_inserted, error) "
        "values ('load_dw_dim_study', 'success', '2026-06-09 03:00+00', '2026-06-09 03:01+00', 5, null), "
        "('load_dw_dim_study', 'failed', '2026-06-10 03:00+00', '2026-06-10 03:01+00', 0, '23505 duplicate key')"
    )
    (step,) = (s for s in take_snapshot(conn, now=NOW).transformations if s.name == "load_dw_dim_study")
    assert (step.name, step.status, step.seconds, step.error) == (
        "load_dw_dim_study",
        "failed",
        60.0,
        "23505 duplicate key",
    )


def test_latest_result_of_every_active_check_is_shown(conn: Conn) -> None:
    conn.execute(
        "insert into dw_quality_checks (name, severity, query, description, is_active) values "
        "('test_keys', 'error', 'select 0', 'Look at the keys.', true), ('test_off', 'error', 'select 0', '', false)"
    )
    conn.execute(
        "insert into dw_quality_results (batch_id, check_name, severity, failures, passed, seconds, checked_at) values "
        "(gen_random_uuid(), 'test_keys', 'error', 0, true, 0.1, now() - interval '1 day'), "
        "(gen_random_uuid(), 'test_keys', 'error', 3, false, 0.1, now()), "
        "(gen_random_uuid(), 'test_off', 'error', 3, false, 0.1, now())"
    )
    (check,) = (check for check in take_snapshot(conn, now=NOW).checks if check.name.startswith("test_"))
    assert (check.name, check.failures, check.health, check.description) == (
        "test_keys",
        3,
        "failed",
        "Look at the keys.",
    )


def test_database_without_a_ledger_is_refused(empty_database: str) -> None:
    with pytest.raises(DatabaseRefused, match="dw_etl_jobs"):
        read_ledger(Settings(database_url=empty_database))


def test_snapshot_needs_no_right_to_write(kept: Nights) -> None:
    with connect(kept.url) as conn:
        conn.read_only = True
        assert take_snapshot(conn, now=NOW).night.verdict == "failed"
    assert read_ledger(Settings(database_url=kept.url), now=NOW).night == kept.snapshot.night


def test_every_error_has_a_remedy() -> None:
    kinds = {
        name
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, TrialSyncError) and not kind.__subclasses__()
    } | {"ParentFailed"}
    assert kinds <= REMEDIES.keys()
    for kind in REMEDIES:
        remedy = remedy_for(kind, job_id=2, resource="studies", run_id=17)
        assert remedy.command.startswith("trialsync-etl ")
        assert "{" not in remedy.command
    assert remedy_for("Unheard", job_id=2, resource="studies", run_id=None).command == "trialsync-etl run --job-id 2"
    assert remedy_for(None, job_id=2, resource="studies", run_id=1).meaning == UNKNOWN.meaning
