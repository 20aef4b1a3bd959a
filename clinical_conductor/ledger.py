"""What the ledger says, as plain values: a `Snapshot` of jobs with their runs, and the last night at a glance.

Nothing in here is a record, a key of a patient or a study, or the text of an error that this package did not write.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo

from clinical_conductor.remedies import QUALITY, TRANSFORMATION, Remedy, fewest_commands

HEALTH = ("failed", "stuck", "overdue", "attention", "running", "ok", "skipped", "never", "inactive")
"""What a job can be, worst first."""


@dataclass(frozen=True, slots=True)
class Run:
    """One row of dw_etl_runs."""

    id: int
    job_id: int
    resource: str
    instance: str | None
    status: str
    started_at: datetime
    completed_at: datetime | None
    seconds: float | None
    records_read: int
    inserted: int
    updated: int
    unchanged: int
    deleted: int
    rejected: int
    duplicates: int
    loaded: int
    requests: int
    retries: int
    throttled: int
    limiter_wait_seconds: float
    request_seconds: float
    parents_total: int | None
    parents_fetched: int | None
    parents_failed: int
    parents_owed: int | None
    upstream_count: int | None
    staged_count: int | None
    full_refresh: bool
    error_type: str | None
    error_category: str | None
    error: str | None
    """The message, if this package wrote it; the existing system's messages may quote anything and are left out."""
    warning: str | None
    stages: Mapping[str, float]
    batch: str | None
    retry_of: int | None
    heartbeat_at: datetime | None
    host: str | None
    process_id: int | None

    @property
    def changed(self) -> int:
        """Rows that this run wrote or removed."""
        return self.inserted + self.updated + self.deleted


@dataclass(frozen=True, slots=True)
class Job:
    """One job on one instance, with its latest runs (oldest first)."""

    id: int
    resource: str
    name: str
    category: str
    table: str
    instance_id: int | None
    instance: str | None
    active: bool
    inactive_reason: str | None
    schedule: str | None
    next_run: datetime | None
    missed: int
    """Scheduled runs since the last one that began, or since the job could first have run."""
    health: str
    runs: tuple[Run, ...]
    last_success_at: datetime | None
    quarantined: int
    parents_failed: int
    parents_gone: int
    watermark: datetime | None
    remedy: Remedy | None

    @property
    def last(self) -> Run | None:
        """The latest run."""
        return self.runs[-1] if self.runs else None

    @property
    def owed(self) -> int:
        """Parents whose children are still to be asked for, as the latest run that knows left it."""
        return next((run.parents_owed for run in reversed(self.runs) if run.parents_owed is not None), 0)


@dataclass(frozen=True, slots=True)
class Night:
    """The last 24 hours at a glance: each job by its latest run in them."""

    verdict: str
    """good, attention, failed, running or silent."""
    headline: str
    counts: Mapping[str, int]
    """Jobs per status of their latest run in the window."""
    blocked: int
    """Jobs that were skipped because one that they need failed."""
    began_at: datetime | None
    ended_at: datetime | None
    inserted: int
    updated: int
    deleted: int
    unchanged: int
    rejected: int
    requests: int
    retries: int
    throttled: int
    owed: int


@dataclass(frozen=True, slots=True)
class Day:
    """One day's runs, for the trend."""

    date: str
    succeeded: int
    failed: int
    changed: int


@dataclass(frozen=True, slots=True)
class Transformation:
    """The latest run of one procedure of the warehouse."""

    id: int
    name: str
    status: str
    started_at: datetime | None
    seconds: float | None
    inserted: int
    updated: int
    expired: int
    deleted: int
    rejected: int
    error: str | None
    """SQLSTATE and message, as dw_transformation_runs holds them: never a value of a record."""


@dataclass(frozen=True, slots=True)
class Check:
    """The latest result of one data quality check."""

    name: str
    severity: str
    passed: bool
    failures: int
    checked_at: datetime | None
    description: str = ""
    """What it looks for, and what to do about it."""

    @property
    def health(self) -> str:
        """One word of HEALTH."""
        return "ok" if self.passed else "failed" if self.severity == "error" else "attention"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything the dashboard shows, at one moment."""

    taken_at: datetime
    night: Night
    jobs: tuple[Job, ...]
    days: tuple[Day, ...]
    transformations: tuple[Transformation, ...] = ()
    checks: tuple[Check, ...] = ()
    zone: tzinfo = field(default=UTC)

    @property
    def active(self) -> tuple[Job, ...]:
        """The jobs that are switched on."""
        return tuple(job for job in self.jobs if job.active)

    @property
    def troubles(self) -> tuple[Job, ...]:
        """Active jobs that somebody has to look at, worst first."""
        bad = [job for job in self.active if job.health in HEALTH[:4]]
        return tuple(sorted(bad, key=lambda job: (HEALTH.index(job.health), job.id)))

    @property
    def failed_checks(self) -> tuple[Check, ...]:
        """The data quality checks that found something."""
        return tuple(check for check in self.checks if not check.passed)

    @property
    def quality_errors(self) -> tuple[Check, ...]:
        """The checks of severity error that found something."""
        return tuple(check for check in self.failed_checks if check.severity == "error")

    @property
    def failed_procedures(self) -> tuple[Transformation, ...]:
        """The procedures of the warehouse whose latest run failed."""
        return tuple(step for step in self.transformations if step.status == "failed")

    @property
    def commands(self) -> list[str]:
        """What mends everything that is wrong; [] on a good night."""
        broken = [job.remedy.command for job in self.troubles if job.remedy and job.health in HEALTH[:3]]
        blocked = ["trialsync-etl retry --failed"] if self.night.blocked else []
        procedures = [TRANSFORMATION.command] if self.failed_procedures else []
        quality = [QUALITY.command] if self.quality_errors else []
        return fewest_commands([*broken, *blocked, *procedures, *quality])
