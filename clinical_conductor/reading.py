"""Reading ahead: pages and fan-outs in the background, handed over as batches in a queue that cannot grow.

While one batch is compared and staged, the next answers are already on their way. Memory stays flat: the queue holds
at most `QUEUE_BYTES` of records (and always at least one batch).
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from clinical_conductor.catalog import Endpoint, fill_path, split_key
from clinical_conductor.chunk import Batch
from clinical_conductor.client import Client
from clinical_conductor.errors import (
    EndpointNotFound,
    EndpointNotOffered,
    Interrupted,
    ParentGone,
    RetriableError,
    TrialSyncError,
    Unauthorised,
)
from clinical_conductor.odata import Capabilities
from clinical_conductor.paging import Listing
from clinical_conductor.parents import OwedParent, ParentOutcome
from clinical_conductor.records import Page, content_hash

QUEUE_BYTES = 32 * 1024 * 1024
FAN_OUT_THREADS = 16
"""Enough for 10 requests a second at 1.6 s of latency each."""
BATCH_PARENTS = 50
BATCH_RECORDS = 2_000
FAILURES_IN_A_ROW = 20
"""So many parents failing one after another are no longer the parents' own trouble: the job stops."""
JOIN_SECONDS = 3.0
"""How long readers that are no longer wanted are waited for: one may hang in a read until ETL_TIMEOUT_SECONDS."""


class _Queue:
    """A queue bounded by bytes, that either side can end."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._items: deque[Batch | None] = deque()
        self._change = threading.Condition()
        self._error: BaseException | None = None
        self._ended = False
        self._abandoned = False

    def put(self, batch: Batch) -> bool:
        """Adds a batch, waiting for room; False when the consumer has left."""
        with self._change:
            while self._items and self._held + batch.size > self._limit and not self._abandoned:
                self._change.wait()
            if self._abandoned:
                return False
            self._items.append(batch)
            self._held += batch.size
            self._change.notify_all()
            return True

    def end(self, error: BaseException | None = None) -> None:
        """The producer is done; `error` is raised at the consumer after what is still queued."""
        with self._change:
            self._ended = True
            self._error = self._error or error
            self._change.notify_all()

    def abandon(self) -> None:
        """The consumer is done: producers stop waiting."""
        with self._change:
            self._abandoned = True
            self._items.clear()
            self._change.notify_all()

    @property
    def waiting(self) -> bool:
        """Whether something is queued already, so that the next batch may as well grow."""
        return bool(self._items)

    @property
    def abandoned(self) -> bool:
        """Whether the consumer has left."""
        return self._abandoned

    def drain(self, patience: float = 1.0) -> Iterator[Batch | None]:
        """What arrives, until the producer ends; None whenever `patience` seconds brought nothing."""
        while True:
            with self._change:
                if not self._items and not self._ended:
                    self._change.wait(patience)
                if self._items:
                    batch = self._items.popleft()
                    self._held -= batch.size if batch is not None else 0
                    self._change.notify_all()
                elif self._ended:
                    if self._error is not None:
                        raise self._error
                    return
                else:
                    batch = None
            yield batch


def batch_of(page: Page, parent_key: str) -> Batch:
    """A page as a batch: each record with its parent's key and the hash of its verbatim text."""
    records = [bytes(record) for record in page.records]
    return Batch(
        keys=page.keys,
        parents=page.parents if page.parents is not None else [parent_key] * len(records),
        hashes=[content_hash(record) for record in records],
        records=records,
        rejected=page.rejected,
        size=sum(map(len, records)),
    )


def read_ahead(listing: Listing, *, patience: float = 1.0) -> Iterator[Batch | None]:
    """The batches of a listing, read by a thread of its own.

    Yields:
        Batches in order; None when nothing came for `patience` seconds.

    Raises:
        TrialSyncError: what ended the listing, after the batches before it.
    """

    def produce(queue: _Queue) -> None:
        for page in listing:
            if not queue.put(batch_of(page, "")):
                return

    with _producing(produce, threads=1) as queue:
        yield from queue.drain(patience)


@contextmanager
def _producing(produce: Callable[[_Queue], None], threads: int) -> Iterator[_Queue]:
    """A queue filled by `threads` threads; all that do not hang have ended when the block is left."""
    queue = _Queue(QUEUE_BYTES)
    running = [threads]
    lock = threading.Lock()

    def work() -> None:
        error: BaseException | None = None
        try:
            produce(queue)
        except BaseException as raised:  # noqa: BLE001 (raised again at the consumer)
            error = raised
        with lock:
            running[0] -= 1
            last = running[0] == 0
        if last or error is not None:
            queue.end(error)

    workers = [threading.Thread(target=work, name=f"reader-{n}", daemon=True) for n in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield queue
    finally:
        queue.abandon()
        patience = time.monotonic() + JOIN_SECONDS
        for worker in workers:
            worker.join(max(0.0, patience - time.monotonic()))


@dataclass(slots=True)
class FanOut:
    """Asks for the children of many parents at once.

    Iterate once; afterwards `fetched` and `failures` say what came of them. What `may_ask` refused is not asked
    for: those parents stay owed.
    """

    client: Client
    endpoint: Endpoint
    parents: Sequence[OwedParent]
    capabilities: Capabilities
    page_size: int = 1000
    may_ask: Callable[[], bool] = lambda: True
    """Asked before every parent; `answered` is called afterwards for every time that it said yes."""
    answered: Callable[[], None] = lambda: None
    proven: bool = False
    """Whether the endpoint answered on this instance before. Then a few 404s speak of their parents only, but
    FAILURES_IN_A_ROW of them before the first answer still speak of the endpoint."""
    fetched: int = 0
    failures: list[ParentOutcome] = field(default_factory=list)
    _row: int = 0
    _unproven: list[Batch] = field(default_factory=list)

    def __iter__(self) -> Iterator[Batch | None]:
        """Batches of whole parents, each with the parents' outcomes; None when nothing came for a second.

        Raises:
            EndpointNotFound: every parent was a 404 and the endpoint never answered on this instance.
            TrialSyncError: trouble that is not one parent's own (a refused key, the API down).
        """
        todo = iter(self.parents)
        lock = threading.Lock()
        stop = threading.Event()

        def produce(queue: _Queue) -> None:
            gathered = Batch()
            while not stop.is_set() and not queue.abandoned:
                if not self.may_ask():
                    break
                try:
                    with lock:
                        parent = next(todo, None)
                    if parent is None:
                        break
                    one, error = self._fetch(parent)
                    with lock:
                        ready = self._judge(parent, one, error)
                except BaseException:
                    stop.set()
                    if gathered.outcomes:
                        queue.put(gathered)
                    raise
                finally:
                    self.answered()
                for batch in ready:
                    gathered.extend(batch)
                if gathered.outcomes and (
                    len(gathered.outcomes) >= BATCH_PARENTS or len(gathered.keys) >= BATCH_RECORDS or not queue.waiting
                ):
                    if not queue.put(gathered):
                        return
                    gathered = Batch()
            if gathered.outcomes:
                queue.put(gathered)

        threads = max(1, min(FAN_OUT_THREADS, len(self.parents)))
        with _producing(produce, threads) as queue:
            yield from queue.drain(1.0)
        if self._unproven and self.proven:
            gone = Batch()
            for one in self._unproven:
                gone.extend(one)
            yield gone
        elif self._unproven:
            raise EndpointNotFound(
                f"{self.endpoint.resource}: all {len(self._unproven)} parents asked for answered 404 on "
                f"{' and '.join(self.endpoint.paths)}, so the endpoint itself seems to be missing. "
                "`trialsync-etl doctor` tells which path this instance answers."
            )

    def _fetch(self, parent: OwedParent) -> tuple[Batch, TrialSyncError | None]:
        """All children of one parent, or the parent's failure."""
        batch = Batch()
        listing = Listing(
            self.client,
            self.endpoint,
            split_key(parent.key),
            capabilities=self.capabilities,
            page_size=self.page_size,
        )
        try:
            for page in listing:
                batch.extend(batch_of(page, parent.key))
        except (Interrupted, EndpointNotOffered, EndpointNotFound):
            raise
        except TrialSyncError as error:
            if isinstance(error, Unauthorised) and not self.proven:
                raise self._of_the_job(error, parent) from None
            status = "gone" if isinstance(error, ParentGone) else "failed"
            outcome = ParentOutcome(parent.key, parent.hash, status, 0, f"{type(error).__name__}: {error}"[:500])
            return Batch(outcomes=[outcome]), error
        if not listing.complete:
            reason = "PagingBroken: the parent's children could not be enumerated completely; asked again next time"
            batch.outcomes.append(ParentOutcome(parent.key, parent.hash, "failed", len(batch.keys), reason))
        else:
            batch.outcomes.append(ParentOutcome(parent.key, parent.hash, "fetched", len(batch.keys)))
        return batch, None

    def _judge(self, parent: OwedParent, one: Batch, error: TrialSyncError | None) -> list[Batch]:
        """Counts a parent's outcome; holds 404s back while the endpoint has not answered once in this run."""
        outcome = one.outcomes[0]
        if outcome.status == "fetched":
            self.fetched += 1
            self.proven = True
            self._row = 0
            ready = [*self._unproven, one]
            self._unproven = []
            return ready
        self.failures.append(outcome)
        self._row += 1
        if isinstance(error, ParentGone):
            if not self.fetched and parent.why != "gone":
                self._unproven.append(one)
                if len(self._unproven) >= FAILURES_IN_A_ROW:
                    raise EndpointNotFound(
                        f"{self.endpoint.resource}: the first {len(self._unproven)} parents all answered 404 on "
                        f"{' and '.join(self.endpoint.paths)}, so the endpoint itself seems to be missing. "
                        "`trialsync-etl doctor` tells which path this instance answers."
                    )
                return []
            self._row = 0
        elif error is not None and (
            self._row >= FAILURES_IN_A_ROW
            or (isinstance(error, RetriableError) and not self.fetched and self._row >= FAILURES_IN_A_ROW // 2)
        ):
            raise self._of_the_job(error, parent)
        return [one]

    def _of_the_job(self, error: TrialSyncError, parent: OwedParent) -> TrialSyncError:
        """A parent's error as the whole job's: with the endpoint's path, not the parent's, which may name a person."""
        text, values = str(error), split_key(parent.key)
        for path in self.endpoint.paths:
            text = text.replace(fill_path(path, values[-path.count("{") :]), path)
        return type(error)(text)
