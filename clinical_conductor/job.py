"""One job, from its lock to its closed run: its attempts, what is kept of a failed one, and what it reports."""

from __future__ import annotations

import time
from itertools import accumulate
from typing import Any

from psycopg import Connection

from clinical_conductor import findings, parents, runs
from clinical_conductor.catalog import Endpoint
from clinical_conductor.context import JobContext, JobResult, TimeLimit
from clinical_conductor.database import connect, translated
from clinical_conductor.errors import DatabaseTrouble, Interrupted, RetriableError, RunFenced, TrialSyncError
from clinical_conductor.logs import get_logger, log_context
from clinical_conductor.odata import Capabilities
from clinical_conductor.pacing import Tally
from clinical_conductor.planning import plan_job
from clinical_conductor.runs import Traffic
from clinical_conductor.staging import Stage
from clinical_conductor.syncing import Account, Sync

CLOSING_WAITS = (0.5, 1.0, 2.0, 4.0)
"""Seconds between attempts to close a run as failed while the database is away."""

log = get_logger(__name__)


class Job:
    """One execution of one endpoint's job."""

    def __init__(self, context: JobContext, endpoint: Endpoint) -> None:
        """`endpoint` is the catalog's row, with the path that dw_etl_jobs may have given it."""
        self.context = context
        self.endpoint = endpoint
        self.client = context.client.scoped()
        self.run_id: int | None = None
        self.result = JobResult(endpoint.job_id, endpoint.resource)
        self._account = Account()
        self._limit = TimeLimit(None)
        self._seconds: dict[str, float] = {}

    def run(self) -> JobResult:
        """Does the job and closes its run, whatever happens. Never raises for trouble of the job's own."""
        started = time.monotonic()
        self._limit = TimeLimit(self.context.timeouts.get(self.endpoint.resource))
        result = self.result
        with log_context(resource=self.endpoint.resource, job_id=self.endpoint.job_id):
            try:
                self._attempts()
                result.status = "success"
            except Exception as error:  # noqa: BLE001 (a job's trouble must not end the other jobs)
                result.status = "failed"
                result.error = describe(error, self.endpoint)
                result.error_type = type(error).__name__
                result.error_category = error.category if isinstance(error, TrialSyncError) else "system"
                if self._close_failed(error):
                    # Committed as a success; nothing but the server's answer to that was lost.
                    result.status, result.error, result.error_type, result.error_category = "success", None, None, None
            if result.status == "success":
                written = result.inserted + result.updated
                log.info("job_done", run_id=self.run_id, read=result.records_read, written=written)
            else:
                log.error("job_failed", run_id=self.run_id, error=result.error, error_type=result.error_type)
        result.run_id = self.run_id
        result.duration_seconds = round(time.monotonic() - started, 3)
        tally = self._traffic()
        result.requests, result.retries = tally.requests, tally.retries
        result.warning = self._account.warning
        result.parents_failed = self._account.details.get("parents_failed") or 0
        result.parents_owed = self._account.details.get("parents_owed") or 0
        return result

    def _attempts(self) -> None:
        """The job, again after transient trouble: of the database up to max_retries times, of the API once."""
        attempt = 0
        while True:
            try:
                self._attempt()
                return
            except RetriableError as error:
                most = (
                    self.context.max_retries if isinstance(error, DatabaseTrouble) else min(1, self.context.max_retries)
                )
                if attempt >= most or self._limit.over() or self.context.budget.spent():
                    raise
                wait = min(60.0, self.context.retry_delay * 2**attempt)
                log.warning("job_retried", run_id=self.run_id, error=str(error), seconds=wait)
                attempt += 1
                if self.context.stop.wait(wait):
                    raise Interrupted(f"{self.endpoint.resource}: stopped while waiting for a retry.") from None

    def _attempt(self) -> None:
        """One attempt: connect, lock, open the run if it is the first, sync."""
        context, endpoint, again = self.context, self.endpoint, self.run_id is not None
        with connect(context.url, autocommit=True, name=f"trialsync {endpoint.resource}") as conn:
            with translated():
                runs.lock_table(conn, context.instance_id, endpoint.table, own_run=self.run_id)
                if again and self._ended_well(conn):
                    return
                self._account.kept = self.result.inserted + self.result.updated
                self._account.warnings.clear()
                if self.run_id is None:
                    planned = plan_job(
                        conn,
                        endpoint,
                        context.instance_id,
                        page_size=context.page_size,
                        rate=0.0,
                        full_refresh=context.options.full_refresh,
                    ).requests
                    self.result.planned_requests = planned
                    self.run_id = self._open(conn, planned)
                details = findings.read_capabilities(conn, endpoint.job_id, context.instance_id)
            capabilities = Capabilities.from_json(details or {})
            if capabilities.path not in (None, *endpoint.paths):
                # Remembered for a path that the catalog or the operator has changed since.
                capabilities = Capabilities()
            stage = Stage(
                conn,
                context.landing,
                endpoint,
                run_id=self.run_id,
                instance_id=context.instance_id,
                full_refresh=context.options.full_refresh,
                allow_mass_delete=context.options.allow_mass_delete,
                traffic=self._traffic,
            )
            try:
                Sync(context, self.client, stage, capabilities, account=self._account, limit=self._limit).run()
            except BaseException as error:
                self._keep_what_is_read(stage, error)
                raise
            finally:
                stage.drop_chunk()
                self._count(stage)
                self._remember(conn, capabilities)
            if again:
                with translated():
                    self._ended_well(conn)

    def _open(self, conn: Connection[Any], planned_requests: int | None) -> int:
        """Opens the run; a full refresh is owed from here on, however often it is interrupted."""
        context, job_id = self.context, self.endpoint.job_id
        with conn.transaction():
            run_id = runs.open_run(
                conn,
                job_id,
                context.instance_id,
                batch_id=context.batch_id,
                full_refresh=context.options.full_refresh,
                retry_of=context.options.retry_of,
                planned_requests=planned_requests,
            )
            if context.options.full_refresh:
                findings.drop_watermark(conn, job_id, context.instance_id)
                parents.owe_all_parents(conn, job_id, context.instance_id)
        return run_id

    def _keep_what_is_read(self, stage: Stage, error: BaseException) -> None:
        """Commits the chunk in hand after trouble that is not the database's, if that is quick."""
        if isinstance(error, DatabaseTrouble | RunFenced) or not isinstance(error, TrialSyncError):
            return
        if stage.chunk_rows > 10_000 and self.context.stop.is_set():
            return
        try:
            stage.commit()
        except TrialSyncError as also:
            log.warning("chunk_dropped", run_id=self.run_id, error=str(also))

    def _count(self, stage: Stage) -> None:
        """Adds what an attempt committed to the result."""
        result, counts = self.result, stage.counts
        result.records_read += counts.read
        result.inserted += counts.inserted
        result.updated += counts.updated
        result.unchanged += counts.unchanged
        result.rejected += counts.rejected
        result.deleted += counts.deleted
        result.duplicates += counts.duplicate
        for name, seconds in stage.seconds.items():
            self._seconds[name] = self._seconds.get(name, 0.0) + seconds

    def _remember(self, conn: Connection[Any], capabilities: Capabilities) -> None:
        """Keeps what was found out about the endpoint, if the database is still there."""
        try:
            with translated():
                findings.write_capabilities(
                    conn,
                    self.endpoint.job_id,
                    self.context.instance_id,
                    capabilities.path,
                    capabilities.as_json(),
                )
        except TrialSyncError as error:
            log.warning("capabilities_lost", run_id=self.run_id, error=str(error))

    def _ended_well(self, conn: Connection[Any]) -> bool:
        """Whether the ledger has the run as a success already; takes the counts from there.

        A connection may be lost between a commit and the server's answer to it: only the ledger knows then.
        """
        assert self.run_id is not None
        status, counts = runs.read_outcome(conn, self.run_id)
        result = self.result
        result.records_read, result.inserted, result.updated = counts.read, counts.inserted, counts.updated
        result.unchanged, result.rejected = counts.unchanged, counts.rejected
        result.deleted, result.duplicates = counts.deleted, counts.duplicate
        return status == "success"

    def _close_failed(self, error: BaseException) -> bool:
        """Closes the run as failed, unless the ledger has it as a success: then True.

        Where the database stays away, the next command closes it.
        """
        if self.run_id is None or isinstance(error, RunFenced):
            return False
        waits = iter(CLOSING_WAITS)
        while True:
            try:
                with connect(self.context.url, autocommit=True) as conn, translated():
                    runs.close_run(
                        conn,
                        self.run_id,
                        "failed",
                        traffic=self._traffic(),
                        error=error,
                        error_message=self.result.error,
                        warning=self._account.warning,
                        stages={"read": self._account.reading, **self._seconds},
                        details=self._account.details,
                    )
                    return self._ended_well(conn)
            except TrialSyncError as also:
                wait = next(waits, None)
                # A database that restarts is back in seconds; a process that was asked to stop does not wait for it.
                if wait is None or not isinstance(also, DatabaseTrouble) or self.context.stop.wait(wait):
                    log.error("run_left_open", run_id=self.run_id, error=str(also))
                    return False

    def _traffic(self) -> Traffic:
        """The job's HTTP figures so far."""
        tally = self.client.tally
        return Traffic(
            requests=tally.requests,
            retries=tally.retries,
            throttled=tally.throttled,
            limiter_wait_seconds=round(tally.limiter_wait_seconds, 3),
            request_seconds=round(tally.request_seconds, 3),
            histogram=_cumulative(tally),
        )


def _cumulative(tally: Tally) -> dict[str, int]:
    """Requests per upper bound of latency in seconds, each bound with all below it, as Prometheus counts."""
    bounds = [*(f"{bound:g}" for bound in tally.BUCKETS), "+Inf"]
    return dict(zip(bounds, accumulate(tally.histogram), strict=True))


def describe(error: BaseException, endpoint: Endpoint) -> str:
    """An error as the ledger may hold it: our own message, or only the kind and place of anything else."""
    if isinstance(error, TrialSyncError):
        return str(error)
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "" if trace is None else f" at {trace.tb_frame.f_code.co_filename.rsplit('/', 1)[-1]}:{trace.tb_lineno}"
    return (
        f"{endpoint.resource}: unexpected {type(error).__name__}{place}. Its text is withheld, since it may "
        "quote data; run with LOG_LEVEL=DEBUG on a machine that may see it."
    )
