"""The names that the requirements give to orchestration and loading, as thin fronts of the rooms that do the work.

ETLOrchestrator runs jobs by id or category; DataLoader puts records of your own into a staging table with the same
merge, counts and quarantine as a run.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import uuid4

import msgspec
from psycopg import Connection

from clinical_conductor import runs
from clinical_conductor.catalog import CATEGORIES, ENDPOINTS, Endpoint, find_endpoint
from clinical_conductor.context import JobResult, RunOptions
from clinical_conductor.database import connect, database_url, migrate, pending, translated
from clinical_conductor.errors import ConfigurationError
from clinical_conductor.instances import ensure_instance
from clinical_conductor.landing import one_landing
from clinical_conductor.orchestrator import run_jobs
from clinical_conductor.records import content_hash
from clinical_conductor.settings import Settings, load_settings
from clinical_conductor.staging import Batch, Stage


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
            ConfigurationError: there is no such job.
        """
        return self._execute([find_endpoint(job_id)])[0]

    def execute_all_active_jobs(self) -> list[ETLRunResult]:
        """Runs every job that dw_etl_jobs has as active."""
        return self._execute(self._active())

    def execute_jobs_by_category(self, category: str) -> list[ETLRunResult]:
        """Runs the active jobs of one category.

        Raises:
            ConfigurationError: there is no such category.
        """
        if category not in CATEGORIES:
            raise ConfigurationError(f"There is no category {category!r}: use one of {', '.join(CATEGORIES)}.")
        return self._execute([row for row in self._active() if row.category == category])

    def schedule_job(self, job_id: int, cron_expression: str) -> None:
        """Gives a job a schedule of five cron fields; `serve`, or an exported crontab, runs it.

        Raises:
            ConfigurationError: there is no such job, or the expression is not cron.
        """
        from clinical_conductor.jobs_config import check_cron

        endpoint = find_endpoint(job_id)
        expression = check_cron(cron_expression)
        with self._connection() as conn:
            conn.execute(
                "update dw_etl_jobs set schedule_cron = %s, updated_at = now() where id = %s",
                (expression, endpoint.job_id),
            )

    def get_job_status(self, job_id: int) -> JobStatus:
        """A job's row and its newest run.

        Raises:
            ConfigurationError: there is no such job.
        """
        endpoint = find_endpoint(job_id)
        with self._connection() as conn:
            row = runs.latest_runs(conn, endpoint.job_id)[0]
        loaded = [row["records_inserted"], row["records_updated"], row["records_unchanged"]]
        return JobStatus(
            job_id=endpoint.job_id,
            resource=endpoint.resource,
            is_active=row["is_active"] is not False,
            schedule_cron=row["schedule_cron"],
            last_run_id=row["run_id"],
            last_run_status=row["run_status"],
            last_run_at=row["started_at"],
            last_run_records=None if row["run_id"] is None else sum(value or 0 for value in loaded),
            error_message=row["error_message"],
        )

    def _execute(self, endpoints: Sequence[Endpoint]) -> list[ETLRunResult]:
        return [_as_run_result(job) for job in run_jobs(self.settings, endpoints, self.options)]

    def _active(self) -> list[Endpoint]:
        with self._connection() as conn:
            rows = conn.execute("select id from dw_etl_jobs where is_active is not false").fetchall()
        on = {row[0] for row in rows}
        return [row for row in ENDPOINTS.values() if row.job_id in on]

    @contextmanager
    def _connection(self) -> Iterator[Connection[Any]]:
        with _migrated(self.settings) as conn, translated():
            yield conn


class DataLoader:
    """Puts records into staging tables: the same comparison, merge and quarantine as a run."""

    def __init__(self, settings: Settings | None = None) -> None:
        """Settings default to the environment and `.env`."""
        self.settings = settings or load_settings()

    def load_to_staging(
        self, table_name: str, records: Iterable[Mapping[str, Any]], job_id: int, run_id: int
    ) -> runs.Counts:
        """Merges records into the staging table of a job, on behalf of an open run.

        Raises:
            ConfigurationError: the job does not fill that table.
            RunFenced: the run is not open.
        """
        endpoint = find_endpoint(job_id)
        if endpoint.table != table_name:
            raise ConfigurationError(f"Job {job_id} fills {endpoint.table}, not {table_name}.")
        with _migrated(self.settings) as conn:
            instance = ensure_instance(conn, self.settings, None)
            with translated():
                runs.lock_table(conn, instance.id, table_name)
            return self._stage(conn, endpoint, instance.id, run_id, records, _key_of(endpoint))

    def upsert_records(
        self, table_name: str, records: Iterable[Mapping[str, Any]], key_field: str = "id"
    ) -> runs.Counts:
        """Merges records into a staging table under a run of its own, keyed by one field.

        Raises:
            ConfigurationError: no job fills that table.
        """
        return self._in_own_run(table_name, records, key_field, replace=False)

    def bulk_insert(self, table_name: str, records: Iterable[Mapping[str, Any]], batch_size: int = 1000) -> runs.Counts:
        """Merges many records, `batch_size` at a time, keyed as the catalog says. A key that is there is updated."""
        return self._in_own_run(table_name, records, None, replace=False, batch_size=batch_size)

    def truncate_and_reload(self, table_name: str, records: Iterable[Mapping[str, Any]]) -> runs.Counts:
        """Makes a table equal to the records: merges them and deletes (archives) all others of this instance.

        Nothing is truncated first: readers see the old rows until the new ones are committed.
        """
        return self._in_own_run(table_name, records, None, replace=True)

    def _in_own_run(
        self,
        table_name: str,
        records: Iterable[Mapping[str, Any]],
        key_field: str | None,
        *,
        replace: bool,
        batch_size: int = 1000,
    ) -> runs.Counts:
        endpoint = next((row for row in ENDPOINTS.values() if row.table == table_name and row.owner), None)
        if endpoint is None:
            raise ConfigurationError(f"No job fills {table_name}. `trialsync-etl list` shows the tables.")
        with _migrated(self.settings) as conn:
            instance = ensure_instance(conn, self.settings, None)
            with translated():
                runs.lock_table(conn, instance.id, table_name)
                run_id = runs.open_run(conn, endpoint.job_id, instance.id, batch_id=uuid4())
            try:
                key = key_field or _key_of(endpoint)
                counts = self._stage(
                    conn, endpoint, instance.id, run_id, records, key, replace=replace, batch_size=batch_size
                )
            except Exception as error:
                with translated():
                    message = f"{table_name}: records could not be loaded ({type(error).__name__})."
                    runs.close_run(conn, run_id, "failed", error=error, error_message=message)
                raise
            with translated():
                runs.close_run(conn, run_id, "success")
            return counts

    def _stage(
        self,
        conn: Connection[Any],
        endpoint: Endpoint,
        instance_id: int,
        run_id: int,
        records: Iterable[Mapping[str, Any]],
        key_field: str,
        *,
        replace: bool = False,
        batch_size: int = 1000,
    ) -> runs.Counts:
        url = database_url(self.settings)
        with one_landing(url, instance_id, self.settings.work_dir) as landing:
            stage = Stage(
                conn,
                landing,
                endpoint,
                run_id=run_id,
                instance_id=instance_id,
                allow_mass_delete=replace,
            )
            batch = Batch()
            try:
                for record in records:
                    raw = msgspec.json.encode(record)
                    key = record.get(key_field)
                    if key is None or isinstance(key, dict | list):
                        raise ConfigurationError(f"{endpoint.table}: a record has no {key_field!r} to be keyed by.")
                    batch.keys.append(str(key))
                    batch.parents.append(str(record.get("parent_source_id", "")))
                    batch.hashes.append(content_hash(raw))
                    batch.records.append(raw)
                    if len(batch.keys) >= batch_size:
                        stage.take(batch)
                        batch = Batch()
                stage.take(batch)
                stage.commit(stage.delete_unseen if replace else None)
            finally:
                stage.drop_chunk()
            return stage.counts


@contextmanager
def _migrated(settings: Settings) -> Iterator[Connection[Any]]:
    """A connection in autocommit mode to the configured database, brought up to date."""
    with connect(database_url(settings), autocommit=True) as conn:
        if pending(conn):
            migrate(conn)
        yield conn


def _key_of(endpoint: Endpoint) -> str:
    """The one field that keys an endpoint's records.

    Raises:
        ConfigurationError: its key rule is not one plain field.
    """
    if endpoint.key.rule != "fields" or len(endpoint.key.fields) != 1:
        raise ConfigurationError(f"{endpoint.table} is not keyed by one field: use upsert_records with key_field.")
    return endpoint.key.fields[0]


def _as_run_result(job: JobResult) -> ETLRunResult:
    loaded = job.inserted + job.updated + job.unchanged
    return ETLRunResult(job.job_id, job.run_id, job.status, loaded, job.duration_seconds, job.error)


__all__ = ["DataLoader", "ETLOrchestrator", "ETLRunResult", "JobStatus"]
