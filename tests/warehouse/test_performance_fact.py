"""dw_fact_study_performance and gold: what a straight count of the events says."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from clinical_conductor.database import connect
from clinical_conductor.quality import run_checks
from clinical_conductor.warehouse import transform
from tests.warehouse.staged import stage

TODAY = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0)
ENDINGS = {"1": "Completed", "2": "Dropped", "3": "ScreenFailed", "4": "Randomized", "5": "Prescreened"}


def ago(days: int) -> str:
    return (TODAY - timedelta(days=days)).isoformat()


@pytest.fixture
def conn(database: str) -> Iterator[psycopg.Connection[Any]]:
    """Five subjects of one study: four screened, one not; three enrolled."""
    with connect(database, autocommit=True) as conn:
        stage(conn, "dim_studies_staging", 1, "", "12", {"name": "Alpha", "targetEnrollment": 10})
        stage(conn, "dim_studies_staging", 1, "", "13", {"name": "Empty"})
        stage(conn, "dim_sites_staging", 1, "", "3", {"name": "North", "active": True})
        for key, status in ENDINGS.items():
            enrolled = ago(20 + int(key)) if status in ("Completed", "Dropped", "Randomized") else None
            subject = {"study": {"id": 12}, "site": {"id": 3}, "status": status, "enrollmentDate": enrolled}
            stage(conn, "dim_subjects_staging", 1, "12", key, subject)
            steps = [("Prescreened", 200)]
            if status != "Prescreened":
                steps += [("Screened", 100)]
            if enrolled:
                steps += [("Randomized", 20)]
            if status in ("Completed", "Dropped", "ScreenFailed"):
                steps += [(status, 5)]
            for number, (name, days) in enumerate(steps):
                event = {
                    "study": {"id": 12},
                    "subject": {"Id": int(key)},
                    "site": {"id": 3},
                    "status": name,
                    "eventDate": ago(days),
                }
                stage(conn, "dim_subject_statuses_staging", 1, "", f"{key}-{number}", event)
        transform(database)
        yield conn


COLUMNS = "subjects, screened, screen_failed, enrolled, randomized, completed, withdrawn, enrolled_last_30_days"


def on(conn: psycopg.Connection[Any], days: int, columns: str = COLUMNS) -> tuple[Any, ...]:
    row = conn.execute(
        f"select {columns} from dw_fact_study_performance where study_id = '12' and source_id = %s".encode(),
        ((TODAY - timedelta(days=days)).date().isoformat(),),
    ).fetchone()
    assert row is not None
    return tuple(row)


def test_counts_up_to_the_end_of_each_day(conn: psycopg.Connection[Any]) -> None:
    assert on(conn, 89) == (5, 4, 0, 0, 0, 0, 0, 0)
    assert on(conn, 24) == (5, 4, 0, 1, 0, 0, 0, 1)
    assert on(conn, 20) == (5, 4, 0, 3, 3, 0, 0, 3)
    assert on(conn, 5) == (5, 4, 1, 3, 3, 1, 1, 3)
    assert on(conn, 0) == (5, 4, 1, 3, 3, 1, 1, 3)


def test_rates_velocity_and_target(conn: psycopg.Connection[Any]) -> None:
    rates = on(
        conn,
        0,
        "screen_failure_rate, randomization_rate, completion_rate, withdrawal_rate,"
        " velocity_per_month, percent_to_target",
    )
    assert [float(rate) for rate in rates] == [0.25, 0.75, 0.3333, 0.3333, 3.04, 30.0]
    empty = conn.execute(
        "select subjects, screen_failure_rate, percent_to_target from dw_fact_study_performance where study_id = '13'"
    ).fetchone()
    assert empty == (0, None, None)


def test_a_late_event_corrects_the_days_after_it(conn: psycopg.Connection[Any], database: str) -> None:
    event = {"study": {"id": 12}, "subject": {"Id": 4}, "status": "Completed", "eventDate": ago(3)}
    stage(conn, "dim_subject_statuses_staging", 1, "", "4-9", event)
    transform(database)
    assert [on(conn, days, "completed")[0] for days in (4, 3, 0)] == [1, 2, 2]
    assert sum(result.rows_changed for result in transform(database)) == 0


def test_older_days_stay_as_they_were(conn: psycopg.Connection[Any], database: str) -> None:
    conn.execute(
        "update dw_fact_study_performance set source_id = '2001-01-01' where study_id = '12' and source_id = %s",
        (TODAY.date().isoformat(),),
    )
    transform(database, full_refresh=True)
    assert conn.execute("select count(*) from dw_fact_study_performance where study_id = '12'").fetchone() == (91,)


def test_gold_tells_the_same(conn: psycopg.Connection[Any], database: str) -> None:
    summary = conn.execute(
        "select subjects, enrolled, prescreened, randomized, completed, dropped, screen_failed,"
        " other_status, percent_to_target::float"
        " from v_study_enrollment_summary where study_id = '12'"
    ).fetchone()
    assert summary == (5, 3, 1, 1, 1, 1, 1, 0, 30.0)
    statuses = conn.execute(
        "select status, subjects_now, subjects_ever from v_subject_status_summary where study_id = '12' order by 1"
    ).fetchall()
    assert statuses == [
        ("Completed", 1, 1),
        ("Dropped", 1, 1),
        ("Prescreened", 1, 5),
        ("Randomized", 1, 3),
        ("ScreenFailed", 1, 1),
        ("Screened", 0, 4),
    ]  # fmt: skip
    site = conn.execute(
        "select studies, subjects, enrolled, completed, dropped, withdrawal_rate::float from v_site_performance"
    ).fetchone()
    assert site == (1, 5, 3, 1, 1, 0.3333)
    days = conn.execute(
        "select count(*), max(enrolled) from mv_study_performance_metrics where study_id = '12'"
    ).fetchone()
    assert days == (90, 3)
    layers = dict(
        conn.execute(
            "select layer, count(*) from v_data_freshness where refreshed_at is not null group by 1"
        ).fetchall()
    )
    assert layers == {"silver": 20, "gold": 2}
    assert [check.name for check in run_checks(database) if check.severity == "error" and not check.passed] == []
