"""Schedules live in the database, survive restarts, and never run a job twice at once."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest

from clinical_conductor.catalog import ENDPOINTS
from clinical_conductor.database import connect
from clinical_conductor.errors import ConfigurationError
from clinical_conductor.instances import ensure_instance, scheduled_instances
from clinical_conductor.jobs_config import JobConfig, load_jobs_config
from clinical_conductor.schedule import (
    ScheduledJob,
    Scheduler,
    _trigger,
    by_expression,
    crontab,
    missed,
    read_schedules,
    set_enabled,
    set_schedule,
)
from clinical_conductor.selection import seed_jobs
from clinical_conductor.settings import Settings
from tests.fixtures.processes import wait_for
from tests.operations.seeding import add_instance, add_run

Conn = psycopg.Connection[Any]
SHIPPED = Path(__file__).parents[2] / "config" / "jobs.yaml"
NOON = datetime(2026, 6, 10, 12, tzinfo=UTC)
ACTIVE = [row for row in ENDPOINTS.values() if row.active]


def scheduled(
    resource: str, schedule: str | None = "0 2 * * *", *, active: bool = True, last: datetime | None = None
) -> ScheduledJob:
    return ScheduledJob(ENDPOINTS[resource].job_id, resource, active, schedule, last)


def one(conn: Conn, resource: str) -> ScheduledJob:
    return next(job for job in read_schedules(conn) if job.resource == resource)


def test_file_seeds_each_row_once_and_the_row_wins_afterwards(conn: Conn) -> None:
    config = load_jobs_config(SHIPPED) | {
        "invoices": JobConfig("invoices", enabled=False, schedule="0 5 * * *", timeout_seconds=9)
    }
    set_schedule(conn, ENDPOINTS["sites"], "0 4 * * *")
    assert seed_jobs(conn, config) == len(ACTIVE)
    assert one(conn, "studies").schedule == "0 2 * * *"
    assert one(conn, "sites").schedule == "0 4 * * *"
    assert one(conn, "invoices").active is False
    row = conn.execute("select priority, timeout_seconds, inactive_reason from dw_etl_jobs where id = 168").fetchone()
    assert row == (50, 9, "enabled: false in config/jobs.yaml")
    set_enabled(conn, ENDPOINTS["invoices"], True)
    set_schedule(conn, ENDPOINTS["studies"], None)
    assert seed_jobs(conn, config) == 0
    assert one(conn, "invoices").active is True
    assert one(conn, "studies").schedule is None


def test_schedule_is_stored_and_checked(conn: Conn) -> None:
    set_schedule(conn, ENDPOINTS["studies"], " 30  2 * * sun ")
    job = one(conn, "studies")
    assert job.schedule == "30 2 * * sun"
    assert job.next_run(NOON, ZoneInfo("Europe/Zurich")) == datetime(2026, 6, 14, 0, 30, tzinfo=UTC)
    with pytest.raises(ConfigurationError, match="not a schedule"):
        set_schedule(conn, ENDPOINTS["studies"], "nightly")
    set_enabled(conn, ENDPOINTS["studies"], False)
    assert one(conn, "studies").next_run(NOON, UTC) is None


def test_crontab_runs_what_the_rows_say(conn: Conn) -> None:
    conn.execute("update dw_etl_jobs set schedule_cron = '0 2 * * *' where is_active")
    text = crontab(read_schedules(conn), ZoneInfo("Europe/Zurich"), "/opt/trialsync/bin/trialsync-etl")
    assert text.splitlines()[-2:] == ["CRON_TZ=Europe/Zurich", "0 2 * * * /opt/trialsync/bin/trialsync-etl run --all"]
    set_schedule(conn, ENDPOINTS["rooms"], "0 */6 * * *")
    set_schedule(conn, ENDPOINTS["staff"], "0 */6 * * *")
    conn.execute("update dw_etl_jobs set schedule_cron = 'whenever' where id = 2")
    lines = crontab(read_schedules(conn), UTC).splitlines()
    assert "0 */6 * * * trialsync-etl run --resources staff,rooms" in lines
    nightly = next(line for line in lines if line.startswith("0 2"))
    assert "studies," not in nightly
    assert nightly.startswith("0 2 * * * trialsync-etl run --resources sites,patients,")


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], [None]),
        (["demo"], [None]),  # the first run makes the default instance
        (["demo", "east", "west"], [None, "west"]),
        (["east", "default", "-west"], [None, "east"]),
        (["-default", "west"], ["west"]),
        (["-west", "east"], [None]),
        (["-west"], []),
        (["west", "east", "east", None], [None, "east"]),  # nobody can ask for the one without a name
    ],
)
def test_every_active_instance_is_scheduled_and_the_first_is_the_one_a_run_means(
    conn: Conn, rows: list[str | None], expected: list[str | None]
) -> None:
    conn.execute("truncate dw_api_credentials cascade")
    for row in rows:
        conn.execute(
            "insert into dw_api_credentials (instance_name, base_url, is_active) values (%s, '', %s)",
            (row.removeprefix("-") if row else None, not (row or "").startswith("-")),
        )
    found = scheduled_instances(conn)
    assert list(found) == expected
    if found.get(None) is not None:
        assert ensure_instance(conn, Settings()).id == found[None]


def test_crontab_has_a_line_for_every_instance(conn: Conn) -> None:
    conn.execute("update dw_etl_jobs set schedule_cron = '0 2 * * *' where is_active")
    lines = crontab(read_schedules(conn), UTC, instances=[None, "west", "50% east"]).splitlines()
    assert lines[-3:] == [
        "0 2 * * * trialsync-etl run --all",
        "0 2 * * * trialsync-etl run --all --instance west",
        r"0 2 * * * trialsync-etl run --all --instance '50\% east'",
    ]


def test_groups_leave_out_what_is_off_or_no_schedule() -> None:
    jobs = [
        scheduled("sites"),
        scheduled("rooms", "*/5 * * * *"),
        scheduled("staff", None),
        scheduled("studies", active=False),
    ]
    assert {key: [job.resource for job in group] for key, group in by_expression(jobs).items()} == {
        "0 2 * * *": ["sites"],
        "*/5 * * * *": ["rooms"],
    }


@pytest.mark.parametrize(
    ("now", "last", "expected"),
    [
        ("02:30", "2026-06-09T02:00", True),  # down at two o'clock
        ("02:30", "2026-06-10T02:00", False),  # ran
        ("07:59", "2026-06-09T02:00", True),
        ("08:01", "2026-06-09T02:00", False),  # too long ago
        ("01:59", "2026-06-09T02:00", False),
        ("02:30", None, False),  # a new job has missed nothing
    ],
)
def test_missed_times_are_made_up_for_within_six_hours(now: str, last: str | None, expected: bool) -> None:
    moment = datetime.fromisoformat(f"2026-06-10T{now}").replace(tzinfo=UTC)
    job = scheduled("sites", last=datetime.fromisoformat(last).replace(tzinfo=UTC) if last else None)
    assert bool(missed([job], "0 2 * * *", moment, UTC)) is expected


def test_trigger_skips_no_night_and_doubles_none_around_the_change_of_the_clock() -> None:
    trigger = _trigger("30 2 * * *", ZoneInfo("Europe/Zurich"))
    moments, previous = [], None
    now = datetime(2026, 10, 24, 12, tzinfo=UTC)
    for _ in range(3):
        previous = trigger.get_next_fire_time(previous, now)
        moments.append(previous.astimezone(UTC).strftime("%d %H:%M"))
    assert moments == ["25 00:30", "26 01:30", "27 01:30"]


# -- the loop


@pytest.fixture
def own(settings: Settings) -> Iterator[Conn]:
    with connect(str(settings.database), autocommit=True) as conn:
        add_instance(conn)
        yield conn


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    return tmp_path / "calls"


@pytest.fixture
def command(tmp_path: Path, calls: Path) -> list[str]:
    """Stands in for the command line: notes its arguments, and ends when it may."""
    script = tmp_path / "command.py"
    script.write_text(
        "import json, pathlib, signal, sys, time\n"
        f"calls, hold = pathlib.Path({str(calls)!r}), pathlib.Path({str(tmp_path / 'hold')!r})\n"
        "def note(what):\n"
        "    with calls.open('a') as file: file.write(json.dumps(what) + '\\n')\n"
        "def end(*_):\n"
        "    note('terminated'); sys.exit(1)\n"
        "signal.signal(signal.SIGTERM, end)\n"
        "note(sys.argv[1:])\n"
        "while hold.exists(): time.sleep(0.02)\n",
        encoding="utf-8",
    )
    return [sys.executable, str(script)]


@pytest.fixture
def scheduler(settings: Settings, command: list[str]) -> Iterator[Scheduler]:
    loop = Scheduler(settings, command=command)
    yield loop
    loop.stop(wait_seconds=5)


def said(calls: Path) -> list[Any]:
    return [json.loads(line) for line in calls.read_text().splitlines()] if calls.exists() else []


def last_minute() -> str:
    """A daily schedule whose time was a minute ago."""
    moment = datetime.now(UTC) - timedelta(minutes=1)
    return f"{moment.minute} {moment.hour} * * *"


def test_restart_makes_up_for_what_was_missed_and_only_that(own: Conn, scheduler: Scheduler, calls: Path) -> None:
    for resource in ("sites", "rooms", "staff"):
        set_schedule(own, ENDPOINTS[resource], last_minute())
    add_run(own, "sites", datetime.now(UTC) - timedelta(days=1))
    add_run(own, "rooms", datetime.now(UTC))
    scheduler.start()
    wait_for(lambda: said(calls))
    assert said(calls) == [["run", "--resources", "sites"]]


def test_each_instance_makes_up_for_what_it_missed_itself(own: Conn, scheduler: Scheduler, calls: Path) -> None:
    add_instance(own, 2, "west")
    set_schedule(own, ENDPOINTS["sites"], last_minute())
    set_schedule(own, ENDPOINTS["rooms"], last_minute())
    yesterday = datetime.now(UTC) - timedelta(days=1)
    add_run(own, "sites", datetime.now(UTC))
    add_run(own, "rooms", datetime.now(UTC))
    add_run(own, "sites", datetime.now(UTC), source_instance_id=2)
    add_run(own, "rooms", yesterday, source_instance_id=2)
    scheduler.start()
    wait_for(lambda: said(calls))
    assert said(calls) == [["run", "--resources", "rooms", "--instance", "west"]]


def test_time_that_comes_while_a_missed_one_is_made_up_for_is_left_out(
    own: Conn, scheduler: Scheduler, calls: Path, tmp_path: Path
) -> None:
    when = last_minute()
    (tmp_path / "hold").touch()
    for resource in ("sites", "rooms"):
        set_schedule(own, ENDPOINTS[resource], when)
    add_run(own, "sites", datetime.now(UTC) - timedelta(days=1))
    scheduler.start()
    wait_for(lambda: said(calls))
    scheduler._fire(when)
    wait_for(lambda: len(said(calls)) == 2)
    scheduler._fire(when)
    (tmp_path / "hold").unlink()
    wait_for(lambda: not scheduler._busy)
    assert said(calls) == [["run", "--resources", "sites"], ["run", "--resources", "rooms"]]
    scheduler._fire(when)
    wait_for(lambda: len(said(calls)) == 3)
    assert said(calls)[-1] == ["run", "--resources", "sites,rooms"]


def test_schedules_of_the_database_are_followed_as_they_change(own: Conn, scheduler: Scheduler, calls: Path) -> None:
    set_schedule(own, ENDPOINTS["sites"], "0 2 * * *")
    scheduler.start()
    (moment,) = scheduler.schedules().values()
    assert moment is not None
    assert (moment.hour, moment.minute) == (2, 0)
    set_schedule(own, ENDPOINTS["sites"], last_minute())
    add_run(own, "sites", datetime.now(UTC) - timedelta(days=1))
    scheduler._tick()
    # A schedule that was changed a moment ago has missed nothing.
    assert list(scheduler.schedules()) == [last_minute()]
    assert said(calls) == []


def test_jobs_of_one_time_are_one_command(own: Conn, scheduler: Scheduler, calls: Path) -> None:
    for resource in ("rooms", "sites"):
        set_schedule(own, ENDPOINTS[resource], "0 2 * * *")
    add_instance(own, 2, "west")
    scheduler._fire("0 2 * * *")
    scheduler._fire("0 3 * * *")
    wait_for(lambda: not scheduler._busy)
    assert sorted(said(calls)) == [
        ["run", "--resources", "sites,rooms"],
        ["run", "--resources", "sites,rooms", "--instance", "west"],
    ]


def test_time_that_comes_while_the_last_run_goes_on_is_left_out(
    own: Conn, scheduler: Scheduler, calls: Path, tmp_path: Path
) -> None:
    (tmp_path / "hold").touch()
    set_schedule(own, ENDPOINTS["sites"], "0 2 * * *")
    scheduler.start()
    tonight = scheduler.schedules()["0 2 * * *"]
    job = scheduler._apscheduler.get_job("0 2 * * *")
    for _ in range(2):
        job.modify(next_run_time=datetime.now(UTC))
        wait_for(lambda: scheduler.schedules()["0 2 * * *"] == tonight and said(calls))
    (tmp_path / "hold").unlink()
    wait_for(lambda: not scheduler._busy)
    assert said(calls) == [["run", "--resources", "sites"]]


def test_stop_asks_the_running_command_to_end_and_begins_no_other(
    own: Conn, scheduler: Scheduler, calls: Path, tmp_path: Path
) -> None:
    (tmp_path / "hold").touch()
    set_schedule(own, ENDPOINTS["sites"], "0 2 * * *")
    scheduler.start()
    scheduler._apscheduler.get_job("0 2 * * *").modify(next_run_time=datetime.now(UTC))
    wait_for(lambda: said(calls))
    scheduler.stop(wait_seconds=5)
    assert said(calls)[-1] == "terminated"
    wait_for(lambda: not scheduler._busy)
    scheduler._fire("0 2 * * *")
    assert not scheduler._busy
    assert len(said(calls)) == 2


def test_one_of_two_schedules_and_the_other_takes_over(own: Conn, settings: Settings, command: list[str]) -> None:
    set_schedule(own, ENDPOINTS["sites"], "0 2 * * *")
    first, second = Scheduler(settings, command=command), Scheduler(settings, command=command)
    try:
        first.start()
        second.start()
        assert (first.leading, second.leading) == (True, False)
        assert (len(first.schedules()), len(second.schedules())) == (1, 0)
        first.stop()
        second._tick()
        assert second.leading
        assert len(second.schedules()) == 1
    finally:
        second.stop()


def test_database_that_goes_away_leaves_the_schedules_in_force(
    own: Conn, settings: Settings, command: list[str]
) -> None:
    set_schedule(own, ENDPOINTS["sites"], "0 2 * * *")
    ticks: list[int] = []
    loop = Scheduler(settings, command=command, every_minute=lambda: ticks.append(1))
    try:
        loop.start()
        own.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'trialsync-schedule'"
        )
        loop._tick()
        assert (loop.leading, len(loop.schedules())) == (False, 1)
        loop._tick()
        assert (loop.leading, len(loop.schedules()), len(ticks)) == (True, 1, 3)
    finally:
        loop.stop()
