"""ETLOrchestrator: jobs run, scheduled and looked up from Python, as the command line does it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from psycopg import Connection

from clinical_conductor import runs
from clinical_conductor.catalog import Endpoint, find_endpoint
from clinical_conductor.context import JobResult, RunOptions
from clinical_conductor.database import database_url, translated
from clinical_conductor.jobs_config import load_jobs_config
from clinical_conductor.migrations import connect_migrated
from clinical_conductor.orchestrator import run_jobs
from clinical_conductor.schedule import set_schedule
from clinical_conductor.selection import choose, named_endpoints, read_switches, seed_jobs
from clinical_conductor.settings import Settings, load_settings


@dataclass(frozen=True, slots=True)
class ETLRunResult:
    """What came of one job; duration in seconds."""

    job_id: int
    run_id: int | None
    status: str
    records_loaded: int
    duration_seconds: float
    error_message: str | None = None


@dataclass(frozen=True, slots=True)
class JobStatus:
    """A job's row and its newest run; times are UTC."""

    job_id: int
    resource: str
    is_active: bool
    schedule_cron: str | None
    last_run_id: int | None
    last_run_status: str | None
    last_run_at: datetime | None
    last_run_records: int | None
    error_message: str | None


class ETLOrchestrator:
    """Runs jobs of the catalog against the configured database and API."""

    def __init__(self, settings: Settings | None = None, options: RunOptions | None = None) -> None:
        """Settings default to the environment and `.env`; options apply to every run of this object."""
        self.settings = settings or load_settings()
        self.options = options or RunOptions()

    def execute_job(self, job_id: int) -> ETLRunResult:
        """Runs one job, and first its parents where they were never staged.

        Raises:
            ConfigurationError: there is no such job, or it is switched off in dw_etl_jobs.
        """
        return self._execute(named=[find_endpoint(job_id)])[0]

    def execute_all_active_jobs(self) -> list[ETLRunResult]:
        """Runs every job that dw_etl_jobs has as active, in job order."""
        return self._execute()

    def execute_jobs_by_category(self, category: str) -> list[ETLRunResult]:
        """Runs the active jobs of one category.

        Raises:
            ConfigurationError: there is no such category.
        """
        return self._execute(added=named_endpoints(category=category)[1])

    def schedule_job(self, job_id: int, cron_expression: str | None) -> None:
        """Gives a job a schedule of five cron fields, which `serve` or an exported crontab runs; None takes it away.

        Raises:
            ConfigurationError: there is no such job, or the expression is not cron.
        """
        endpoint = find_endpoint(job_id)
        with self._connection() as conn:
            set_schedule(conn, endpoint, cron_expression)

    def get_job_status(self, job_id: int) -> JobStatus:
        """A job's row and its newest run.

        Raises:
            ConfigurationError: there is no such job.
        """
        endpoint = find_endpoint(job_id)
        with self._connection() as conn:
            row = max(runs.latest_runs(conn, endpoint.job_id), key=lambda row: row["run_id"] or 0)
        loaded = [row["records_inserted"], row["records_updated"], row["records_unchanged"]]
        return JobStatus(
            job_id=endpoint.job_id,
            resource=endpoint.resource,
            is_active=row["is_active"] is not False,
            schedule_cron=row["schedule_cron"],
            last_run_id=row["run_id"],
            last_run_status=row["run_status"],
            last_run_at=row["started_at"] and row["started_at"].replace(tzinfo=UTC),
            last_run_records=None if row["run_id"] is None else sum(value or 0 for value in loaded),
            error_message=row["error_message"],
        )

    def _execute(self, named: Sequence[Endpoint] = (), added: Sequence[Endpoint] = ()) -> list[ETLRunResult]:
        with self._connection() as conn:
            chosen = choose(named, added, read_switches(conn))
        return [_as_run_result(job) for job in run_jobs(self.settings, chosen, self.options)]

    @contextmanager
    def _connection(self) -> Iterator[Connection[Any]]:
        config = load_jobs_config(self.settings.jobs_file)
        with connect_migrated(database_url(self.settings)) as conn, translated():
            seed_jobs(conn, config)
            yield conn


def _as_run_result(job: JobResult) -> ETLRunResult:
    loaded = job.inserted + job.updated + job.unchanged
    return ETLRunResult(job.job_id, job.run_id, job.status, loaded, job.duration_seconds, job.error)
