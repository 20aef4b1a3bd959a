"""One job, from its lock to its closed run: a listing, a fan-out, or the bulk listing that replaces one."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Any

from psycopg import Connection, sql

from clinical_conductor import parents, runs
from clinical_conductor.catalog import ENDPOINTS, Endpoint
from clinical_conductor.client import Tally
from clinical_conductor.context import JobContext, JobResult
from clinical_conductor.database import connect, translated
from clinical_conductor.errors import (
    BadRequest,
    DatabaseTrouble,
    EndpointNotFound,
    EndpointNotOffered,
    Interrupted,
    PagingBroken,
    ParentFailed,
    RetriableError,
    RunFenced,
    TrialSyncError,
)
from clinical_conductor.logs import get_logger, log_context
from clinical_conductor.paging import Capabilities, Listing
from clinical_conductor.planning import plan_job
from clinical_conductor.reading import FanOut, read_ahead
from clinical_conductor.runs import Counts, Traffic
from clinical_conductor.staging import Batch, Stage

WATERMARK_LAG = timedelta(minutes=5)
"""Taken off every watermark: rows that upstream commits late carry an earlier modification time."""
CURSOR_PAGES = 5
"""Listings of no more pages are always read in full: a cursor would save next to nothing, and proves less."""
CLOSING_WAITS = (0.5, 1.0, 2.0, 4.0)
"""Seconds between attempts to close a run as failed while the database is away."""
FULL_READ_EVERY = timedelta(days=7)
"""How long a listing may be read by its cursor alone before it is read in full once more."""

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
        self._details: dict[str, int | None] = {}
        self._warnings: list[str] = []
        self._seconds: dict[str, float] = {}
        self._reading = 0.0
        self._cut = False
        timeout = context.timeouts.get(endpoint.resource)
        self._deadline = None if timeout is None else time.monotonic() + timeout
        self._timeout = timeout

    def run(self) -> JobResult:
        """Does the job and closes its run, whatever happens. Never raises for trouble of the job's own."""
        started = time.monotonic()
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
                self._close_failed(error)
                log.error("job_failed", run_id=self.run_id, error=result.error, error_type=result.error_type)
            else:
                written = result.inserted + result.updated
                log.info("job_done", run_id=self.run_id, read=result.records_read, written=written)
        result.run_id = self.run_id
        result.duration_seconds = round(time.monotonic() - started, 3)
        tally = self._traffic()
        result.requests, result.retries = tally.requests, tally.retries
        result.warning = " ".join(self._warnings) or None
        result.parents_owed = self._details.get("parents_owed") or 0
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
                if attempt >= most or self._out_of_time() or self.context.budget.spent():
                    raise
                wait = min(60.0, self.context.retry_delay * 2**attempt)
                log.warning("job_retried", run_id=self.run_id, error=str(error), seconds=wait)
                attempt += 1
                if self.context.stop.wait(wait):
                    raise Interrupted(f"{self.endpoint.resource}: stopped while waiting for a retry.") from None

    def _attempt(self) -> None:
        """One attempt: connect, lock, open the run if it is the first, sync."""
        context, endpoint = self.context, self.endpoint
        with connect(context.url, autocommit=True, name=f"trialsync {endpoint.resource}") as conn:
            with translated():
                runs.lock_table(conn, context.instance_id, endpoint.table, own_run=self.run_id)
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
                    self.run_id = runs.open_run(
                        conn,
                        endpoint.job_id,
                        context.instance_id,
                        batch_id=context.batch_id,
                        full_refresh=context.options.full_refresh,
                        retry_of=context.options.retry_of,
                        planned_requests=planned,
                    )
                details = runs.read_capabilities(conn, endpoint.job_id, context.instance_id)
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
                self._sync(stage, capabilities)
            except BaseException as error:
                self._keep_what_is_read(stage, error)
                raise
            finally:
                stage.drop_chunk()
                self._count(stage)
                self._remember(conn, capabilities)

    def _sync(self, stage: Stage, capabilities: Capabilities) -> None:
        """Reads the endpoint in the way it allows, stages it and closes the run."""
        if self.endpoint.parent is None:
            self._sync_listing(stage, capabilities)
            return
        parent_table = ENDPOINTS[self.endpoint.parent].table
        with translated():
            total, owed = parents.owed_parents(
                stage.conn,
                self.endpoint,
                parent_table,
                self.context.instance_id,
                refresh=self.context.options.full_refresh,
            )
        self._details["parents_total"] = total
        bulk = bool(total) and self.endpoint.bulk is not None and capabilities.bulk is not False
        if not (bulk and self._sync_bulk(stage, capabilities, parent_table)):
            self._sync_children(stage, capabilities, parent_table, owed)

    # -- listings ------------------------------------------------------------------------------------------------

    def _sync_listing(self, stage: Stage, capabilities: Capabilities) -> None:
        """A listing: by its cursor where that is proven enough, in full otherwise."""
        since = self._since(stage.conn, capabilities)
        by_cursor = Counts()
        listing = self._listing(capabilities, since=since)
        self._take_all(stage, self._read(listing))
        if since is not None and not self._nothing_missing(stage, capabilities):
            log.info("reading_in_full", run_id=self.run_id)
            since = None
            by_cursor = replace(stage.counts)
            listing = self._listing(capabilities)
            self._take_all(stage, self._read(listing))
        self._note_cursor(stage, capabilities)

        def conclude() -> None:
            whole = listing.complete and since is None
            if whole and self.endpoint.owner:
                stage.delete_unseen()
            self._reconcile(stage, listing, whole, before=by_cursor)
            self._move_watermark(stage, listing, capabilities, full=since is None, before=by_cursor)
            self._close_if_fine(stage)

        stage.commit(conclude)
        stage.check_refused_deletion()
        if self._cut:
            raise PagingBroken(
                f"{self.endpoint.resource}: its listing breaks off before its end, so records are missing. What was "
                "served is staged and nothing was deleted. Report this to who runs the instance; "
                "`trialsync-etl doctor` says what the endpoint takes."
            )

    def _note_cursor(self, stage: Stage, capabilities: Capabilities) -> None:
        """Says once, and remembers for `status`, that the endpoint cannot be read by its cursor."""
        if not self.endpoint.cursor or not (stage.counts.read or stage.pending.read):
            return
        wanted = " or ".join(self.endpoint.cursor)
        if capabilities.cursor is None:
            note = f"Its records have no {wanted}, so it is always read in full."
        elif capabilities.cursor_filter is False:
            note = f"It refuses to filter by {capabilities.cursor}, so it is always read in full."
        else:
            return
        if note not in capabilities.notes:
            capabilities.note(note)
            self._warnings.append(note)

    def _listing(self, capabilities: Capabilities, *, since: datetime | None = None, bulk: bool = False) -> Listing:
        return Listing(
            self.client,
            self.endpoint,
            capabilities=capabilities,
            since=since,
            page_size=self.context.page_size,
            bulk=bulk,
        )

    def _since(self, conn: Connection[Any], capabilities: Capabilities) -> datetime | None:
        """The watermark to read from, or None for a full read.

        A cursor cannot show what was deleted, so it is used only where the instance also counts: see
        `_nothing_missing`.
        """
        if self.context.options.full_refresh or not self.endpoint.cursor or not self.endpoint.owner:
            return None
        if capabilities.cursor_filter is False or not capabilities.count or capabilities.cursor is None:
            return None
        if self._staged(conn) <= CURSOR_PAGES * self.context.page_size:
            return None
        with translated():
            row = conn.execute(
                """
                select watermark from dw_etl_watermarks
                where job_id = %s and source_instance_id = %s and cursor_field = %s
                    and full_read_at > now() - %s
                """,
                (self.endpoint.job_id, self.context.instance_id, capabilities.cursor, FULL_READ_EVERY),
            ).fetchone()
        return None if row is None else row[0]

    def _nothing_missing(self, stage: Stage, capabilities: Capabilities) -> bool:
        """Whether staging holds as many rows as upstream counts, once what changed has been staged."""
        from clinical_conductor.paging import count_upstream

        stage.commit()
        upstream = count_upstream(self.client, self.endpoint, capabilities)
        return upstream is not None and upstream == self._staged(stage.conn)

    def _staged(self, conn: Connection[Any]) -> int:
        """How many rows of this instance the table holds."""
        with translated():
            row = conn.execute(
                sql.SQL("select count(*) from {} where source_instance_id = %s").format(
                    sql.Identifier(self.endpoint.table)
                ),
                (self.context.instance_id,),
            ).fetchone()
        return int(row[0]) if row is not None else 0

    def _reconcile(self, stage: Stage, listing: Listing, whole: bool, *, before: Counts) -> None:
        """Holds the count that upstream reported against what was served and what is staged.

        `before` counts what this run had read by the cursor until then: served again by the full listing, it is no
        duplicate.
        """
        read, rejected = stage.counts.read - before.read, stage.counts.rejected - before.rejected
        duplicate = max(0, stage.counts.duplicate - before.read)
        self._details["staged_count"] = staged = self._staged(stage.conn)
        self._cut = listing.cut
        if not listing.complete:
            self._warnings.append("The listing could not be proven complete, so nothing was deleted.")
        if not whole or listing.reported_count is None:
            return
        self._details["upstream_count"] = listing.reported_count
        if listing.reported_count not in (staged + rejected + duplicate, read):
            self._warnings.append(
                f"Upstream counts {listing.reported_count} records, staging holds {staged} "
                f"({rejected} rejected, {duplicate} served twice)."
            )
        elif duplicate:
            self._warnings.append(f"{duplicate} records were served twice under one key; the last one counts.")

    def _move_watermark(
        self, stage: Stage, listing: Listing, capabilities: Capabilities, *, full: bool, before: Counts
    ) -> None:
        """Moves the watermark to what this listing has proven, in the source's own clock."""
        if not listing.complete or capabilities.cursor is None or listing.cursor_high is None:
            return
        if full and (stage.counts.rejected > before.rejected or stage.counts.duplicate > before.read):
            # Staging cannot hold as many rows as upstream counts, so the cursor could never prove anything.
            runs.drop_watermark(stage.conn, self.endpoint.job_id, self.context.instance_id)
            return
        known = [time_ for time_ in (listing.cursor_high, listing.server_time) if time_ is not None]
        assert self.run_id is not None
        runs.move_watermark(
            stage.conn,
            self.run_id,
            self.endpoint.job_id,
            self.context.instance_id,
            capabilities.cursor,
            min(known) - WATERMARK_LAG,
            full=full,
        )

    # -- children of parents -------------------------------------------------------------------------------------

    def _sync_bulk(self, stage: Stage, capabilities: Capabilities, parent_table: str) -> bool:
        """Reads all parents' children from one listing; False where the instance does not offer it."""
        with translated():
            parents.remember_parents(stage.conn, self.endpoint, parent_table, self.context.instance_id)
        listing = self._listing(capabilities, bulk=True)
        batches = self._read(listing)
        try:
            first = next((batch for batch in batches if batch is not None), None)
        except (EndpointNotFound, EndpointNotOffered, BadRequest, ParentFailed) as error:
            log.info("no_bulk_route", run_id=self.run_id, reason=type(error).__name__)
            capabilities.bulk = False
            return False
        if first is None or not first.keys or any(not record.parent for record in first.rejected):
            # Empty, or records that do not name their parent: only asking parent by parent tells the truth.
            return False
        capabilities.bulk = True
        stage.take(first)
        self._take_all(stage, batches)
        if listing.cut:
            capabilities.bulk = False
            capabilities.note("its bulk route breaks off before its end")
            stage.commit()
            return False

        def conclude() -> None:
            assert self.run_id is not None
            if listing.complete:
                if self.endpoint.owner:
                    stage.delete_unseen()
                parents.forget_orphan_parents(stage.conn, self.endpoint, parent_table, self.context.instance_id)
                parents.record_all_parents(stage.conn, self.run_id, self.endpoint, self.context.instance_id)
            self._reconcile(stage, listing, listing.complete, before=Counts())
            self._details.update(parents_fetched=self._details["parents_total"], parents_owed=0)
            self._close_if_fine(stage)

        stage.commit(conclude)
        stage.check_refused_deletion()
        return True

    def _sync_children(
        self, stage: Stage, capabilities: Capabilities, parent_table: str, owed: list[parents.OwedParent]
    ) -> None:
        """Asks for the children of every owed parent."""
        total = self._details["parents_total"]
        if not total:
            self._warnings.append(f"No {self.endpoint.parent} are staged, so there is nothing to ask for.")
        elif not owed:
            self._warnings.append(f"All {total} parents were asked before and none has changed.")
        fan_out = FanOut(
            self.client,
            self.endpoint,
            owed,
            capabilities,
            page_size=self.context.page_size,
            may_ask=lambda: not self.context.stop.is_set() and not self._out_of_time() and self.context.budget.claim(),
            answered=self.context.budget.release,
            proven=capabilities.path is not None,
        )
        try:
            if owed:
                self._take_all(stage, iter(fan_out))
        finally:
            self.result.parents_failed = len(fan_out.failures)
            self._details.update(
                parents_fetched=fan_out.fetched,
                parents_failed=len(fan_out.failures),
                parents_owed=len(owed)
                - fan_out.fetched
                - sum(outcome.status == "gone" for outcome in fan_out.failures),
            )
        self._check_stop()
        self._check_time()
        if owed and not fan_out.failures and (left := self._details["parents_owed"]):
            self._warnings.append(f"{left} of {total} parents are still owed: the budget of this run was spent.")

        def conclude() -> None:
            if self.endpoint.owner:
                stage.delete_orphans(parent_table)
            parents.forget_orphan_parents(stage.conn, self.endpoint, parent_table, self.context.instance_id)
            self._details["staged_count"] = self._staged(stage.conn)
            if not fan_out.failures:
                self._close_if_fine(stage)

        stage.commit(conclude)
        stage.check_refused_deletion()
        if fan_out.failures:
            raise self._parents_failed(fan_out, len(owed))

    def _parents_failed(self, fan_out: FanOut, asked: int) -> ParentFailed:
        """The job's error when some parents failed: how many and why. Their keys stay in dw_etl_parents."""
        kinds = Counter((outcome.reason or "").split(":")[0] for outcome in fan_out.failures)
        told = "; ".join(f"{number} × {kind}" for kind, number in kinds.items())
        return ParentFailed(
            f"{self.endpoint.resource}: {len(fan_out.failures)} of {asked} parents failed: {told}. "
            f"Everything else is staged. `trialsync-etl retry --run-id {self.run_id}` asks for what is owed; "
            "dw_etl_parents says which and why."
        )

    # -- shared --------------------------------------------------------------------------------------------------

    def _read(self, listing: Listing) -> Iterator[Batch | None]:
        """The batches of a listing, with the time that was spent waiting for them."""
        batches = read_ahead(listing)
        while True:
            started = time.monotonic()
            batch = next(batches, _END)
            self._reading += time.monotonic() - started
            if batch is _END:
                return
            yield batch

    def _take_all(self, stage: Stage, batches: Iterator[Batch | None]) -> None:
        """Stages what arrives until it ends."""
        for batch in batches:
            if batch is None:
                stage.tick()
            else:
                stage.take(batch)
                self.context.on_progress(
                    self.endpoint.resource,
                    {
                        "records": stage.counts.read + stage.pending.read,
                        "parents": self._details.get("parents_total"),
                        "requests": self._traffic().requests,
                    },
                )
            self._check_stop()
            if self.endpoint.parent is None:
                self._check_time()

    def _check_stop(self) -> None:
        if self.context.stop.is_set():
            raise Interrupted(
                f"{self.endpoint.resource}: the process was asked to stop. What is committed stays; "
                "run the job again for the rest."
            )

    def _out_of_time(self) -> bool:
        return self._deadline is not None and time.monotonic() >= self._deadline

    def _check_time(self) -> None:
        if self._out_of_time():
            raise Interrupted(
                f"{self.endpoint.resource}: its timeout of {self._timeout:.0f} s is over. What was read is staged, the "
                "rest is owed; raise timeout_seconds in config/jobs.yaml if this is normal."
            )

    def _close_if_fine(self, stage: Stage) -> None:
        """Closes the run as a success, in the transaction that commits its last rows."""
        if stage.refused_deletion is not None or self._cut:
            return
        assert self.run_id is not None
        runs.close_run(
            stage.conn,
            self.run_id,
            "success",
            traffic=self._traffic(),
            warning=" ".join(self._warnings) or None,
            stages={"read": self._reading, **stage.seconds},
            details=self._details,
        )

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
                runs.write_capabilities(
                    conn,
                    self.endpoint.job_id,
                    self.context.instance_id,
                    capabilities.path,
                    capabilities.as_json(),
                )
        except TrialSyncError as error:
            log.warning("capabilities_lost", run_id=self.run_id, error=str(error))

    def _close_failed(self, error: BaseException) -> None:
        """Closes the run as failed; where the database stays away, the next command closes it."""
        if self.run_id is None or isinstance(error, RunFenced):
            return
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
                        warning=" ".join(self._warnings) or None,
                        stages={"read": self._reading, **self._seconds},
                        details=self._details,
                    )
                return
            except TrialSyncError as also:
                wait = next(waits, None)
                # A database that restarts is back in seconds; a process that was asked to stop does not wait for it.
                if wait is None or not isinstance(also, DatabaseTrouble) or self.context.stop.wait(wait):
                    log.error("run_left_open", run_id=self.run_id, error=str(also))
                    return

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


_END: Any = object()


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


def with_override(endpoint: Endpoint, source_endpoint: str | None) -> Endpoint:
    """The endpoint with the path that dw_etl_jobs gives it; the catalog's when that is one of its own."""
    if not source_endpoint or source_endpoint == endpoint.path:
        return endpoint
    if source_endpoint == endpoint.alternate:
        return replace(endpoint, path=source_endpoint, alternate=endpoint.path)
    return replace(endpoint, path=source_endpoint, alternate=None)
