"""Days go by, and every day bronze, silver and gold tell the same story, which is the simulator's own.

Each day the source changes, the jobs that feed silver run, and the warehouse is brought up to date. Then every table is
counted against the one below it, the history of the dimensions is looked through, and what gold says is worked out once
more in plain Python from what the source holds.

Three days of a tiny instance; TRIALSYNC_PROOF=nightly makes it thirty days at scale 0.05 (-s shows a line per day),
where the largest fan-outs get a budget per day, as they would in life: what they owe, silver cannot have.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import pytest

from clinical_conductor.catalog import ENDPOINTS
from clinical_conductor.quality import run_checks
from clinical_conductor.simulator import Simulator, SimulatorProcess
from clinical_conductor.warehouse import transform
from tests.fixtures.pipeline import Pipeline
from tests.fixtures.simulator import SMALL

NIGHTLY = os.environ.get("TRIALSYNC_PROOF") == "nightly"
DAYS, SCALE = (30, 0.05) if NIGHTLY else (3, SMALL)
BUDGET = 1500
"""Requests per night for the largest fan-outs."""

CODES = ("allergies", "conditions", "medications", "procedures", "immunizations", "devices", "social_history")
EXACT = (
    "sites", "studies", "staff", "sponsors", "patients", "elements", "monitors", "subjects", "visits", "study_arms",
    "subject_statuses", "patient_visits", *(f"system_{name}" for name in CODES),
)  # fmt: skip
"""Read as a whole every day."""
LARGE = ("patient_campaign_touches", "patient_referral_touches", "patient_visit_elements")
"""A request for every patient, or for every visit of a subject."""

MIRRORS = {
    "dw_dim_study": "studies",
    "dw_dim_site": "sites",
    "dw_dim_staff": "staff",
    "dw_dim_sponsor": "sponsors",
    "dw_dim_patient": "patients",
    "dw_dim_subject": "subjects",
    "dw_dim_visit": "visits",
    "dw_dim_study_arm": "study_arms",
    "dw_dim_visit_element": "elements",
    "dw_dim_monitor": "monitors",
    "dw_fact_subject_status_change": "subject_statuses",
    "dw_fact_enrollment": "subjects",
    "dw_fact_visit": "patient_visits",
}
"""Silver tables with exactly one live row per staged record."""
GATHERED = {
    "dw_dim_medical_code": " + ".join(f"(select count(*) from dim_system_{name}_staging)" for name in CODES),
    "dw_dim_patient_engagement": """
        (select count(distinct data -> 'campaignElement' ->> 'id') from dim_patient_campaign_touches_staging)
        + (select count(distinct data ->> 'referralType') from dim_patient_referral_touches_staging)""",
    "dw_fact_patient_engagement": """
        (select count(*) from dim_patient_campaign_touches_staging)
        + (select count(*) from dim_patient_referral_touches_staging)""",
    "dw_fact_visit_element_response": """
        (select count(*) from dim_patient_visit_elements_staging where data ->> 'completedOn' <> '')""",
}
"""The others, and how many rows they should have."""
VERSIONED = tuple(
    f"dw_dim_{name}"
    for name in ("study", "site", "staff", "sponsor", "patient", "subject", "visit", "study_arm", "visit_element")
)
STATUSES = (
    "Prescreened", "Screened", ("RunIn", "RunInFailed"), "Randomized", "FollowUp", "Completed", "Dropped",
    "ScreenFailed", "NonQualified",
)  # fmt: skip
SEEN = {"Screened", "ScreenFailed", "RunIn", "RunInFailed", "Randomized", "FollowUp", "Completed", "Dropped"}

Records = dict[str, list[dict[str, Any]]]


def upstream() -> Simulator | SimulatorProcess:
    """A source of the day's size; a large one needs a process of its own."""
    return SimulatorProcess(SCALE) if NIGHTLY else Simulator(SCALE)


def at(text: str | None) -> datetime | None:
    """A time as the source writes it: without a zone, it is UTC."""
    if not text:
        return None
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def identity(record: dict[str, Any] | None) -> str | None:
    """The id in a preview, however it is spelled."""
    key = None if record is None else record.get("Id", record.get("id"))
    return None if key is None else str(key)


def target_of(study: dict[str, Any]) -> int | None:
    """How many subjects a study wants."""
    if study.get("targetEnrollment") is not None:
        return int(study["targetEnrollment"])
    for field in study.get("customFields") or ():
        if "enrol" in field["name"].lower() and re.search("target|goal", field["name"].lower()):
            found = re.match(r"\s*(\d+)\b", str(field["value"]))
            return int(found[1]) if found else None
    return None


def enrollment_summary(held: Records) -> dict[Any, tuple[Any, ...]]:
    """v_study_enrollment_summary, from the studies and the subjects."""
    subjects = defaultdict(list)
    for subject in held["subjects"]:
        subjects[identity(subject["study"])].append(subject)
    rows = {}
    for study in held["studies"]:
        mine = subjects[str(study["id"])]
        times = sorted(moment for s in mine if (moment := at(s["enrollmentDate"])))
        counted = Counter(s["status"] for s in mine)
        by_status = [sum(counted[one] for one in ((s,) if isinstance(s, str) else s)) for s in STATUSES]
        target = target_of(study)
        percent = Decimal(100 * len(times)) / target if target else None
        rows[str(study["id"])] = (
            study["name"],
            study["status"],
            study["phase"],
            study["sponsor"]["name"],
            study["managingSite"]["name"],
            target,
            len(mine),
            len(times),
            *by_status,
            len(mine) - sum(by_status),
            times[0] if times else None,
            times[-1] if times else None,
            percent.quantize(Decimal("0.01"), ROUND_HALF_UP) if percent is not None else None,
        )
    return rows


def status_summary(held: Records) -> dict[Any, tuple[Any, ...]]:
    """v_subject_status_summary, from the subjects and their status events."""
    names = {str(study["id"]): study["name"] for study in held["studies"]}
    now = Counter((identity(s["study"]), s["status"]) for s in held["subjects"])
    ever = defaultdict(list)
    for event in held["subject_statuses"]:
        ever[identity(event["study"]), event["status"]].append(event)
    rows = {}
    for study, status in {*now, *ever}:
        events = ever[study, status]
        times = sorted(moment for e in events if (moment := at(e["eventDate"])))
        rows[study, status] = (
            names.get(str(study)),
            now[study, status],
            len({identity(e["subject"]) for e in events}),
            len(events),
            times[0] if times else None,
            times[-1] if times else None,
        )
    return rows


def site_performance(held: Records) -> dict[Any, tuple[Any, ...]]:
    """Of v_site_performance what does not depend on the clock, from the sites, the subjects and their visits."""
    subjects, studies, of_site = Counter[Any](), defaultdict(set), dict[Any, Any]()
    enrolled, visits, done = Counter[Any](), Counter[Any](), Counter[Any]()
    for subject in held["subjects"]:
        site = identity(subject["site"])
        of_site[identity(subject["study"]), str(subject["id"])] = site
        subjects[site] += 1
        enrolled[site] += subject["enrollmentDate"] is not None
        studies[site].add(identity(subject["study"]))
    for visit in held["patient_visits"]:
        site = of_site[identity(visit["study"]), identity(visit["subject"])]
        visits[site] += 1
        done[site] += visit["status"] == "Completed"
    return {
        key: (site["name"], len(studies[key]), subjects[key], enrolled[key], visits[key], done[key])
        for site in held["sites"]
        for key in (str(site["id"]),)
    }


def performance_today(held: Records, today: datetime) -> dict[Any, tuple[Any, ...]]:
    """mv_study_performance_metrics on its last day, from the subjects and their status events."""
    rows = {}
    reached: dict[Any, dict[str, set[Any]]] = defaultdict(lambda: defaultdict(set))
    enrolled = Counter[Any]()
    for event in held["subject_statuses"]:
        moment = at(event["eventDate"])
        if moment is not None and moment.date() <= today.date():
            reached[identity(event["study"])][event["status"]].add(identity(event["subject"]))
    for subject in held["subjects"]:
        moment = at(subject["enrollmentDate"])
        enrolled[identity(subject["study"])] += moment is not None and moment.date() <= today.date()
    for study in held["studies"]:
        key = str(study["id"])
        mine = reached[key]
        rows[key] = (
            len(set().union(*mine.values())),
            len(set().union(*(subjects for status, subjects in mine.items() if status in SEEN))),
            len(mine["ScreenFailed"] | mine["RunInFailed"]),
            enrolled[key],
            len(mine["Randomized"]),
            len(mine["Completed"]),
            len(mine["Dropped"]),
        )
    return rows


class Days:
    """A source, the pipeline from it, and what the warehouse's history was the day before."""

    def __init__(self, pipeline: Pipeline, source: Simulator | SimulatorProcess) -> None:
        self.pipeline = pipeline
        self.source = source
        self.closed: dict[str, set[str]] = {table: set() for table in VERSIONED}

    def load(self) -> None:
        """One night: what can be read as a whole is, the rest as far as it goes."""
        whole: dict[str, Any] = {"full_refresh": True, "allow_mass_delete": True}
        large: dict[str, Any] = {"max_requests": BUDGET} if NIGHTLY else whole
        results = {**self.pipeline.run(*EXACT, **whole), **self.pipeline.run(*LARGE, **large)}
        fine = {"success", "skipped"} if NIGHTLY else {"success"}  # skipped: the budget was spent before its turn
        assert {name: r.error for name, r in results.items() if r.status not in fine} == {}
        assert all(results[name].status == "success" for name in EXACT)
        assert [(r.procedure, r.error) for r in transform(self.pipeline.url) if r.status != "success"] == []

    def held(self) -> Records:
        """What the source holds; bronze holds the same."""
        found: Records = {}
        for name in EXACT if NIGHTLY else (*EXACT, *LARGE):
            served = list(self.source.truth(name))
            assert not (difference := self.pipeline.difference(name, served)), (name, difference)
            found[name] = [json.loads(record) for _, record in served]
        return found

    def rows(self, query: str, key: int = 1) -> dict[Any, tuple[Any, ...]]:
        """A query's rows by their first column, or their first two."""
        found = self.pipeline.query(query)
        rows = {row[0] if key == 1 else row[:key]: row[key:] for row in found}
        assert len(rows) == len(found)
        return rows

    def number(self, query: str) -> int:
        """A query's only value."""
        return int(self.pipeline.query(query)[0][0])

    # -- what holds every day

    def counts(self, held: Records) -> None:
        """Bronze, silver and gold have the same rows."""
        for table, resource in MIRRORS.items():
            live = (
                {"dw_dim": "is_current", "dw_fac": "true"}[table[:6]]
                if table != "dw_dim_monitor"
                else "deleted_at is null"
            )
            keys = "source_instance_id, parent_source_id, source_id"
            silver = f"select {keys} from {table} where source_instance_id > 0 and {live}"
            bronze = f"select {keys} from {ENDPOINTS[resource].table}"
            assert self.number(f"select count(*) from ({silver}) as s") == len(held[resource]), table
            assert self.pipeline.query(f"({silver} except {bronze}) union all ({bronze} except {silver})") == [], table
        for table, expected in GATHERED.items():
            live = "source_instance_id > 0" + (" and deleted_at is null" if table.startswith("dw_dim") else "")
            silver_rows = self.number(f"select count(*) from {table} where {live}")
            assert silver_rows == self.number(f"select {expected}"), table
        in_arms = sum(identity(subject["arm"]) is not None for subject in held["subjects"])
        assert self.number("select count(*) from dw_fact_subject_arm where is_current_arm") == in_arms
        studies, sites, subjects = len(held["studies"]), len(held["sites"]), len(held["subjects"])
        gold = {
            "select count(*) from v_study_enrollment_summary": studies,
            "select sum(subjects) from v_study_enrollment_summary": subjects,
            "select sum(subjects_now) from v_subject_status_summary": subjects,
            "select sum(events) from v_subject_status_summary": len(held["subject_statuses"]),
            "select count(*) from v_site_performance": sites,
            "select sum(subjects) from v_site_performance": subjects,
            "select sum(visits) from v_site_performance": len(held["patient_visits"]),
            "select count(*) from v_data_freshness where layer <> 'bronze' and refreshed_at is null": 0,
            "select count(*) from dw_transformation_rejected_rows": 0,
        }
        assert {query: self.number(query) for query in gold} == gold

    def history(self) -> dict[str, int]:
        """Versions of a record follow one another without overlap or gap; those that are closed never change."""
        versions = {}
        for table in VERSIONED:
            keys = "source_instance_id, parent_source_id, source_id"
            wrong = self.pipeline.query(
                f"""
                with v as (
                    select valid_from, valid_to, lag(valid_to) over (partition by {keys} order by valid_from) as before,
                        count(*) filter (where is_current) over (partition by {keys}) as open
                    from {table} where source_instance_id > 0
                )
                select
                    count(*) filter (where open > 1), count(*) filter (where before > valid_from),
                    count(*) filter (where before < valid_from), count(*) filter (where valid_from >= valid_to),
                    count(*) filter (where before is null and valid_from <> '-infinity')
                from v
                """
            )
            assert wrong == [(0, 0, 0, 0, 0)], table
            closed = {
                row[0] for row in self.pipeline.query(f"select md5(t::text) from {table} as t where not is_current")
            }
            assert self.closed[table] <= closed, table
            self.closed[table] = closed
            versions[table] = len(closed)
        return versions

    def gold(self, held: Records) -> None:
        """The views say what plain Python makes of the source's records."""
        assert self.rows(
            """
            select study_id, study_name, study_status, phase, sponsor_name, managing_site_name, target_enrollment,
                subjects, enrolled, prescreened, screened, run_in, randomized, follow_up, completed, dropped,
                screen_failed, non_qualified, other_status, first_enrolled_at, last_enrolled_at, percent_to_target
            from v_study_enrollment_summary
            """
        ) == enrollment_summary(held)
        assert self.rows(
            """
            select study_id, status, study_name, subjects_now, subjects_ever, events, first_event_at, last_event_at
            from v_subject_status_summary
            """,
            key=2,
        ) == status_summary(held)
        assert self.rows(
            "select site_id, site_name, studies, subjects, enrolled, visits, visits_completed from v_site_performance"
        ) == site_performance(held)
        today = self.rows(
            """
            select study_id, subjects, screened, screen_failed, enrolled, randomized, completed, withdrawn
            from mv_study_performance_metrics where performance_date = (now() at time zone 'UTC')::date
            """
        )
        expected = performance_today(held, datetime.now(UTC))
        # A study that vanished keeps the days that it had.
        assert {key: row for key, row in today.items() if key in expected} == expected
        assert today.keys() - expected.keys() <= self.vanished()

    def vanished(self) -> set[str]:
        """The studies of which only history is left."""
        query = "select source_id from dw_dim_study group by source_id having not bool_or(is_current)"
        return {row[0] for row in self.pipeline.query(query)}

    def at_rest(self, *, full_refresh: bool = False) -> None:
        """Nothing is left to do."""
        again = transform(self.pipeline.url, full_refresh=full_refresh)
        assert [(r.procedure, r.error) for r in again if r.status != "success"] == []
        assert [r.procedure for r in again if r.rows_changed or r.rows_rejected] == []


@pytest.fixture
def days(database: str, tmp_path: Path) -> Iterator[Days]:
    """A source and an empty warehouse."""
    with upstream() as source:
        yield Days(Pipeline(database, source, tmp_path), source)


def total(lists: Iterable[list[Any]]) -> int:
    """How many there are in all."""
    return sum(map(len, lists))


def test_every_day_bronze_silver_and_gold_agree_with_the_source(days: Days) -> None:
    began = time.monotonic()
    for day in range(DAYS + 1):
        if day == 1:
            # The simulator's studies have no target; there are two ways to give them one.
            first, second = (str(json.loads(record)["id"]) for _, record in list(days.source.truth("studies"))[:2])
            days.source.edit("studies", "", first, targetEnrollment=7)
            goal = [{"name": "Enrollment goal", "value": "30 subjects"}]
            days.source.edit("studies", "", second, customFields=goal)
        if day:
            days.source.advance(1, 0.01 if NIGHTLY else 0.05)
        days.load()
        held = days.held()
        days.counts(held)
        closed = days.history()
        days.gold(held)
        broken = [c.name for c in run_checks(days.pipeline.url) if not c.passed and c.severity == "error"]
        assert broken == []
        days.at_rest()
        sys.stdout.write(
            f"day {day}: {total(held.values()):,} records, {sum(closed.values()):,} closed versions, "
            f"{time.monotonic() - began:.0f} s\n"
        )
        sys.stdout.flush()
    assert all(closed[table] for table in ("dw_dim_study", "dw_dim_subject", "dw_dim_patient", "dw_dim_visit"))
    days.at_rest(full_refresh=True)
    days.counts(held)
