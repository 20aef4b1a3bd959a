"""How a staging table is brought up to date: from its listing, from a bulk listing, or parent by parent.

A listing is read by its cursor where that is proven enough, and in full otherwise. The last commit of a sync also
deletes what is gone, settles counts, watermark and parents, and closes the run as a success.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from clinical_conductor import findings, parents, runs
from clinical_conductor.catalog import ENDPOINTS
from clinical_conductor.chunk import Batch
from clinical_conductor.client import Client
from clinical_conductor.context import JobContext, TimeLimit
from clinical_conductor.database import translated
from clinical_conductor.enquiry import count_upstream
from clinical_conductor.errors import (
    BadRequest,
    EndpointNotFound,
    EndpointNotOffered,
    Interrupted,
    JobTimedOut,
    PagingBroken,
    ParentFailed,
)
from clinical_conductor.logs import get_logger
from clinical_conductor.odata import Capabilities
from clinical_conductor.paging import Listing
from clinical_conductor.reading import FanOut, read_ahead
from clinical_conductor.runs import Counts
from clinical_conductor.staging import Stage, count_staged

WATERMARK_LAG = timedelta(minutes=5)
"""Taken off every watermark: rows that upstream commits late carry an earlier modification time."""
CURSOR_PAGES = 5
"""Listings of no more pages are always read in full: a cursor would save next to nothing, and proves less."""
FULL_READ_EVERY = timedelta(days=7)
"""How long a listing may be read by its cursor alone before it is read in full once more."""

log = get_logger(__name__)
_END: Any = object()


@dataclass(slots=True)
class Account:
    """What a run has to say beside its counts when it is closed. All attempts of a job share one."""

    details: dict[str, int | None] = field(default_factory=dict)
    """Columns of dw_etl_runs, as `runs.close_run` takes them."""
    warnings: list[str] = field(default_factory=list)
    reading: float = 0.0
    """Seconds spent waiting for the API."""
    kept: int = 0
    """Rows that earlier attempts committed: served again, they are no duplicates."""

    @property
    def warning(self) -> str | None:
        """All warnings as one text; what two attempts said is said once."""
        return " ".join(dict.fromkeys(self.warnings)) or None


class Sync:
    """One attempt at making a staging table equal to what its endpoint serves."""

    def __init__(
        self,
        context: JobContext,
        client: Client,
        stage: Stage,
        capabilities: Capabilities,
        *,
        account: Account,
        limit: TimeLimit,
    ) -> None:
        """Reads nothing yet.

        Args:
            client: The job's own, whose tally is the run's traffic.
            stage: Of the open run, whose table is locked.
            capabilities: What is known of the endpoint; what is found out is written there.
            account: What the run says of itself is added there.
            limit: The job's time.
        """
        self.context = context
        self.client = client
        self.stage = stage
        self.endpoint = stage.endpoint
        self.capabilities = capabilities
        self.account = account
        self.limit = limit
        self._cut = False

    def run(self) -> None:
        """Reads the endpoint in the way it allows, stages it and closes the run.

        Raises:
            ParentFailed: some parents failed; all others are staged.
            PagingBroken: the listing breaks off before its end; what was served is staged.
            MassDelete: more is gone than one run may delete; everything else is staged.
            Interrupted: the process was asked to stop.
            JobTimedOut: the job's time is over.
            TrialSyncError: any other trouble of the API or the database.
        """
        if self.endpoint.parent is None:
            self._from_listing()
            return
        parent_table = ENDPOINTS[self.endpoint.parent].table
        with translated():
            total, owed = parents.owed_parents(self.stage.conn, self.endpoint, parent_table, self.context.instance_id)
        self.account.details["parents_total"] = total
        bulk = bool(total) and self.endpoint.bulk is not None and self.capabilities.bulk is not False
        if not (bulk and self._from_bulk_listing(parent_table)):
            self._from_parents(parent_table, owed)

    # One listing.

    def _from_listing(self) -> None:
        """A listing: by its cursor where that is proven enough, in full otherwise."""
        stage = self.stage
        since = self._since()
        by_cursor = Counts()
        listing = self._listing(since=since)
        self._take_all(self._read(listing))
        if since is not None and not self._nothing_missing():
            log.info("reading_in_full", run_id=stage.run_id)
            since = None
            by_cursor = replace(stage.counts)
            listing = self._listing()
            self._take_all(self._read(listing))
        self._note_cursor()

        def conclude() -> None:
            whole = listing.complete and since is None
            if whole and self.endpoint.owner:
                stage.delete_unseen()
            self._reconcile(listing, whole, before=by_cursor)
            self._move_watermark(listing, full=since is None, before=by_cursor)
            self._close_if_fine()

        stage.commit(conclude)
        stage.deletion.check()
        if self._cut:
            raise PagingBroken(
                f"{self.endpoint.resource}: its listing breaks off before its end, so records are missing. What was "
                "served is staged and nothing was deleted. Report this to who runs the instance; "
                "`trialsync-etl doctor` says what the endpoint takes."
            )

    def _since(self) -> datetime | None:
        """The watermark to read from, or None for a full read.

        A cursor cannot show what was deleted, so it is used only where the instance also counts: see
        `_nothing_missing`.
        """
        found = self.capabilities
        if self.context.options.full_refresh or not self.endpoint.cursor or not self.endpoint.owner:
            return None
        if found.cursor_filter is False or not found.count or found.cursor is None:
            return None
        if self._staged() <= CURSOR_PAGES * self.context.page_size:
            return None
        with translated():
            return findings.read_watermark(
                self.stage.conn, self.endpoint.job_id, self.context.instance_id, found.cursor, FULL_READ_EVERY
            )

    def _nothing_missing(self) -> bool:
        """Whether staging holds as many rows as upstream counts, once what changed has been staged."""
        self.stage.commit()
        upstream = count_upstream(self.client, self.endpoint, self.capabilities)
        return upstream is not None and upstream == self._staged()

    def _note_cursor(self) -> None:
        """Says once, and remembers for `status`, that the endpoint cannot be read by its cursor."""
        found = self.capabilities
        if not self.endpoint.cursor or not (self.stage.counts.read or self.stage.pending.read):
            return
        wanted = " or ".join(self.endpoint.cursor)
        if found.cursor is None:
            note = f"Its records have no {wanted}, so it is always read in full."
        elif found.cursor_filter is False:
            note = f"It refuses to filter by {found.cursor}, so it is always read in full."
        else:
            return
        if note not in found.notes:
            found.note(note)
            self.account.warnings.append(note)

    def _move_watermark(self, listing: Listing, *, full: bool, before: Counts) -> None:
        """Moves the watermark to what this listing has proven, in the source's own clock."""
        stage, cursor = self.stage, self.capabilities.cursor
        if not listing.complete or cursor is None or listing.cursor_high is None:
            return
        twice = stage.counts.duplicate > before.read + self.account.kept
        if full and (stage.counts.rejected > before.rejected or twice):
            # Staging cannot hold as many rows as upstream counts, so the cursor could never prove anything.
            findings.drop_watermark(stage.conn, self.endpoint.job_id, self.context.instance_id)
            return
        known = [time_ for time_ in (listing.cursor_high, listing.server_time) if time_ is not None]
        findings.move_watermark(
            stage.conn,
            stage.run_id,
            self.endpoint.job_id,
            self.context.instance_id,
            cursor,
            min(known) - WATERMARK_LAG,
            full=full,
        )

    # Children of parents.

    def _from_bulk_listing(self, parent_table: str) -> bool:
        """Reads all parents' children from one listing; False where the instance does not offer it."""
        stage, found = self.stage, self.capabilities
        with translated():
            parents.remember_parents(stage.conn, self.endpoint, parent_table, self.context.instance_id)
        listing = self._listing(bulk=True)
        batches = self._read(listing)
        try:
            first = next((batch for batch in batches if batch is not None), None)
        except (EndpointNotFound, EndpointNotOffered, BadRequest, ParentFailed) as error:
            log.info("no_bulk_route", run_id=stage.run_id, reason=type(error).__name__)
            found.bulk = False
            return False
        if first is None or not first.keys or any(not record.parent for record in first.rejected):
            # Empty, or records that do not name their parent: only asking parent by parent tells the truth.
            return False
        found.bulk = True
        stage.take(first)
        self._take_all(batches)
        if listing.cut:
            found.bulk = False
            found.note("its bulk route breaks off before its end")
            stage.commit()
            return False

        def conclude() -> None:
            if listing.complete:
                if self.endpoint.owner:
                    stage.delete_unseen()
                parents.forget_orphan_parents(stage.conn, self.endpoint, parent_table, self.context.instance_id)
                parents.record_all_parents(stage.conn, stage.run_id, self.endpoint, self.context.instance_id)
            self._reconcile(listing, listing.complete, before=Counts())
            details = self.account.details
            details.update(parents_fetched=details["parents_total"], parents_owed=0)
            self._close_if_fine()

        stage.commit(conclude)
        stage.deletion.check()
        return True

    def _from_parents(self, parent_table: str, owed: list[parents.OwedParent]) -> None:
        """Asks for the children of every owed parent."""
        stage, details, warnings = self.stage, self.account.details, self.account.warnings
        total = details["parents_total"]
        if not total:
            warnings.append(f"No {self.endpoint.parent} are staged, so there is nothing to ask for.")
        elif not owed:
            # A quiet night, and nothing to look at: no warning.
            log.info("no_parent_owed", run_id=stage.run_id, parents=total)
        fan_out = FanOut(
            self.client,
            self.endpoint,
            owed,
            self.capabilities,
            page_size=self.context.page_size,
            may_ask=lambda: not self.context.stop.is_set() and not self.limit.over() and self.context.budget.claim(),
            answered=self.context.budget.release,
            proven=self.capabilities.path is not None,
        )
        try:
            if owed:
                self._take_all(self._timed(iter(fan_out)))
        finally:
            details.update(
                parents_fetched=fan_out.fetched,
                parents_failed=len(fan_out.failures),
                parents_owed=len(owed)
                - fan_out.fetched
                - sum(outcome.status == "gone" for outcome in fan_out.failures),
            )
        self._check_stop()
        self._check_time()
        if owed and not fan_out.failures and (left := details["parents_owed"]):
            warnings.append(f"{left} of {total} parents are still owed: the budget of this run was spent.")

        def conclude() -> None:
            if self.endpoint.owner:
                stage.delete_orphans(parent_table)
            parents.forget_orphan_parents(stage.conn, self.endpoint, parent_table, self.context.instance_id)
            details["staged_count"] = self._staged()
            if not fan_out.failures:
                self._close_if_fine()

        stage.commit(conclude)
        stage.deletion.check()
        if fan_out.failures:
            raise self._parents_failed(fan_out, len(owed))

    def _parents_failed(self, fan_out: FanOut, asked: int) -> ParentFailed:
        """The job's error when some parents failed: how many and why. Their keys stay in dw_etl_parents."""
        kinds = Counter((outcome.reason or "").split(":")[0] for outcome in fan_out.failures)
        told = "; ".join(f"{number} × {kind}" for kind, number in kinds.items())
        return ParentFailed(
            f"{self.endpoint.resource}: {len(fan_out.failures)} of {asked} parents failed: {told}. "
            f"Everything else is staged. `trialsync-etl retry --run-id {self.stage.run_id}` asks for what is owed; "
            "dw_etl_parents says which and why."
        )

    # Every way.

    def _listing(self, *, since: datetime | None = None, bulk: bool = False) -> Listing:
        return Listing(
            self.client,
            self.endpoint,
            capabilities=self.capabilities,
            since=since,
            page_size=self.context.page_size,
            bulk=bulk,
        )

    def _read(self, listing: Listing) -> Iterator[Batch | None]:
        """The batches of a listing, read ahead."""
        return self._timed(read_ahead(listing))

    def _timed(self, batches: Iterator[Batch | None]) -> Iterator[Batch | None]:
        """The same batches, with the time that was spent waiting for them."""
        while True:
            started = time.monotonic()
            try:
                batch = next(batches, _END)
            finally:
                self.account.reading += time.monotonic() - started
            if batch is _END:
                return
            yield batch

    def _take_all(self, batches: Iterator[Batch | None]) -> None:
        """Stages what arrives until it ends."""
        stage = self.stage
        for batch in batches:
            if batch is None:
                stage.tick()
            else:
                stage.take(batch)
                self.context.on_progress(
                    self.endpoint.resource,
                    {
                        "records": stage.counts.read + stage.pending.read,
                        "parents": self.account.details.get("parents_total"),
                        "requests": self.client.tally.requests,
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

    def _check_time(self) -> None:
        if self.limit.over():
            tally = self.client.tally
            mean = tally.request_seconds / max(1, tally.requests)
            raise JobTimedOut(
                f"{self.endpoint.resource}: its timeout of {self.limit.seconds:.0f} s is over after {tally.requests} "
                f"request{'s' * (tally.requests != 1)} of {mean:.1f} s. What was read is staged; run it again for "
                f"the rest, or give it longer: `trialsync-etl schedule --job-id {self.endpoint.job_id} --timeout N`."
            )

    def _staged(self) -> int:
        with translated():
            return count_staged(self.stage.conn, self.endpoint.table, self.context.instance_id)

    def _reconcile(self, listing: Listing, whole: bool, *, before: Counts) -> None:
        """Holds the count that upstream reported against what was served and what is staged.

        `before` counts what this run had read by the cursor until then: served again by the full listing, it is no
        duplicate.
        """
        counts, details, warnings = self.stage.counts, self.account.details, self.account.warnings
        read, rejected = counts.read - before.read, counts.rejected - before.rejected
        duplicate = max(0, counts.duplicate - before.read - self.account.kept)
        details["staged_count"] = staged = self._staged()
        self._cut = listing.cut
        if not listing.complete:
            warnings.append("The listing could not be proven complete, so nothing was deleted.")
        if not whole or listing.reported_count is None:
            return
        details["upstream_count"] = listing.reported_count
        if listing.reported_count not in (staged + rejected + duplicate, read):
            warnings.append(
                f"Upstream counts {listing.reported_count} records, staging holds {staged} "
                f"({rejected} rejected, {duplicate} served twice)."
            )
        elif duplicate:
            warnings.append(f"{duplicate} records were served twice under one key; the last one counts.")

    def _close_if_fine(self) -> None:
        """Closes the run as a success, in the transaction that commits its last rows."""
        stage = self.stage
        if stage.deletion.refused is not None or self._cut:
            return
        runs.close_run(
            stage.conn,
            stage.run_id,
            "success",
            traffic=stage.traffic(),
            warning=self.account.warning,
            stages={"read": self.account.reading, **stage.seconds},
            details=self.account.details,
        )
