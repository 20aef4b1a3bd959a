"""config/jobs.yaml is read strictly, and a cron expression means what crontab(5) says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from clinical_conductor.catalog import ENDPOINTS
from clinical_conductor.cron import CronClock, check_cron, fire_times, missed_fires, next_fire
from clinical_conductor.errors import ConfigurationError
from clinical_conductor.jobs_config import JobConfig, load_jobs_config, load_timezone

ZURICH = ZoneInfo("Europe/Zurich")
SHIPPED = Path(__file__).parents[2] / "config" / "jobs.yaml"


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "jobs.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_shipped_file_names_every_active_resource_and_no_other() -> None:
    jobs = load_jobs_config(SHIPPED)
    assert set(jobs) == {row.resource for row in ENDPOINTS.values() if row.active}
    assert all(job.enabled and job.schedule == "0 2 * * *" for job in jobs.values())
    parents = {row.parent for row in ENDPOINTS.values() if row.parent and row.active}
    assert max(jobs[name].priority for name in parents) < min(
        jobs[row.resource].priority
        for row in ENDPOINTS.values()
        if row.active and row.parent and row.resource not in parents
    )


def test_defaults_hold_where_a_job_says_nothing(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        """
timezone: Europe/Zurich
defaults: {schedule: "0 2 * * *", priority: 7, timeout_seconds: 60}
jobs:
  studies: {priority: 1}
  168: {enabled: false, schedule: null, timeout_seconds: null}
  patient_payments: {depends_on: [invoices]}
  sites:
""",
    )
    assert load_jobs_config(path) == {
        "studies": JobConfig("studies", schedule="0 2 * * *", priority=1, timeout_seconds=60),
        "invoices": JobConfig("invoices", enabled=False, priority=7),
        "patient_payments": JobConfig("patient_payments", True, "0 2 * * *", 7, 60, ("invoices",)),
        "sites": JobConfig("sites", schedule="0 2 * * *", priority=7, timeout_seconds=60),
    }
    assert load_timezone(path) == ZURICH


@pytest.mark.parametrize("text", ["", "# nothing", "jobs:"])
def test_nothing_said_is_no_error(tmp_path: Path, text: str) -> None:
    assert load_jobs_config(write(tmp_path, text)) == {}
    assert load_jobs_config(tmp_path / "absent.yaml") == {}
    assert load_timezone(tmp_path / "absent.yaml") == ZoneInfo("UTC")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("jobs: {studis: {}}", "Did you mean 'studies'"),
        ("jobs: {studies: {shedule: x}}", "did you mean 'schedule'"),
        ("job: {}", "did you mean 'jobs'"),
        ("jobs: {studies: {zzz: 1}}", "there are enabled"),
        ("jobs: [studies]", "must map a resource"),
        ("jobs: {studies: 3}", "studies must hold"),
        ("[1]", "must hold timezone"),
        ("jobs: {studies: {enabled: 1}}", "enabled must be true or false"),
        ("jobs: {studies: {priority: high}}", "priority must be a whole number"),
        ("jobs: {studies: {priority: true}}", "priority must be a whole number"),
        ("jobs: {studies: {priority: 99999999999}}", "priority must be a whole number"),
        ("jobs: {studies: {timeout_seconds: 0}}", "timeout_seconds must be a whole number, 1 or more"),
        ("jobs: {studies: {schedule: '61 2 * * *'}}", "is not a schedule"),
        ("jobs: {studies: {schedule: '0 2 * * * *'}}", "is not a schedule"),
        ("jobs: {studies: {schedule: '0 2 31 2 *'}}", "never happens"),
        ("jobs: {studies: {depends_on: patients}}", "must be a list"),
        ("jobs: {studies: {depends_on: [patiens]}}", "no resource 'patiens'"),
        ("jobs: {studies: {depends_on: [study_arms]}}", "in a circle: "),
        ("jobs: {sites: {depends_on: [rooms]}, rooms: {depends_on: [sites]}}", "in a circle: "),
        ("jobs: {a: [}", "is not valid YAML, line 1"),
        ("jobs:\n  studies: {priority: 1}\n  studies: {priority: 2}", "line 3: studies is there twice"),
        ("jobs: {studies: {priority: 1, priority: 2}}", "line 1: priority is there twice"),
        ("jobs: {studies: {priority: 1}, 2: {priority: 2}}", "jobs: 2: studies is there already"),
        ("timezone: UTC\ntimezone: Europe/Zurich", "line 2: timezone is there twice"),
        ("timezone: Mars/Olympus", "'Mars/Olympus' is not known"),
    ],
)
def test_mistakes_are_named_with_the_file(tmp_path: Path, text: str, says: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigurationError, match=r"jobs\.yaml") as caught:
        load_jobs_config(path)
    assert says in str(caught.value)


def test_unknown_zone_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="Mars/Olympus"):
        load_timezone(write(tmp_path, "timezone: Mars/Olympus"))


def test_cron_means_what_crontab_says() -> None:
    start = datetime(2026, 6, 5, 12, tzinfo=UTC)  # a Friday
    assert next_fire("0 2 * * 0", start).strftime("%a %d") == "Sun 07"
    assert next_fire("0 2 * * 7", start).strftime("%a %d") == "Sun 07"
    assert next_fire("0 2 * * 1-5", start).strftime("%a %d") == "Mon 08"
    # Both days restricted: either is enough.
    found = fire_times("0 2 10 * 1", start)
    assert [next(found).strftime("%a %d") for _ in range(3)] == ["Mon 08", "Wed 10", "Mon 15"]
    assert check_cron(" */15  0-6 * * * ") == "*/15 0-6 * * *"


def test_spring_gap_runs_right_after_it() -> None:
    found = fire_times("30 2 * * *", datetime(2026, 3, 27, 12, tzinfo=UTC), ZURICH)
    assert [next(found).isoformat() for _ in range(3)] == [
        "2026-03-28T02:30:00+01:00",
        "2026-03-29T03:30:00+02:00",
        "2026-03-30T02:30:00+02:00",
    ]


def test_autumn_hour_that_comes_twice_runs_once() -> None:
    found = fire_times("30 2 * * *", datetime(2026, 10, 24, 12, tzinfo=UTC), ZURICH)
    assert [next(found).isoformat() for _ in range(3)] == [
        "2026-10-25T02:30:00+02:00",
        "2026-10-26T02:30:00+01:00",
        "2026-10-27T02:30:00+01:00",
    ]
    # Asked between the two 02:30 of that night, the next one is tomorrow's.
    between = datetime(2026, 10, 25, 0, 45, tzinfo=UTC)
    assert next_fire("30 2 * * *", between, ZURICH).isoformat() == "2026-10-26T02:30:00+01:00"
    assert next_fire("30 2 * * *", between + timedelta(hours=1), ZURICH).isoformat() == "2026-10-26T02:30:00+01:00"


def test_missed_fires_are_counted_between_two_moments() -> None:
    since = datetime(2026, 6, 1, 2, 0, tzinfo=UTC)
    assert missed_fires("0 2 * * *", since, since + timedelta(hours=23)) == 0
    assert missed_fires("0 2 * * *", since, since + timedelta(hours=24)) == 1
    assert missed_fires("0 2 * * *", since, since + timedelta(days=3)) == 3
    assert missed_fires("* * * * *", since, since + timedelta(days=3)) == 100


@pytest.mark.parametrize("expression", ["0 2 * * *", "30 * * * *", "* * * * *", "0 2 * * sat", "0 0 29 2 *"])
@pytest.mark.parametrize("hours", [0, 1, 5, 23, 26, 49, 51, 400])
def test_a_clock_that_jobs_share_counts_as_each_would(expression: str, hours: int) -> None:
    zone, now = ZURICH, datetime(2026, 3, 29, 9, 30, tzinfo=UTC)  # the night before lost an hour
    clock, since = CronClock(zone, now, timedelta(hours=1)), now - timedelta(hours=hours)
    for _ in range(2):
        assert clock.missed(expression, since) == missed_fires(expression, since, now - timedelta(hours=1), zone)
        assert clock.next(expression) == next_fire(expression, now, zone)
