"""What the jobs of one command share: how it was asked for, what it may still use, and what came of each job."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from clinical_conductor.client import Client
from clinical_conductor.landing import Landing


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a run is to be done, as the command line's options of the same names.

    Args:
        full_refresh: Read everything again and compare it in full.
        parallel: Jobs at once; ETL_PARALLEL_JOBS by default.
        max_requests: So many requests for children at most; what is left stays owed.
        deadline: No request for children starts after this time, which names its offset.
        allow_mass_delete: Delete also where more rows are gone upstream than one run may delete.
        instance: A name in dw_api_credentials; the default instance otherwise.
        retry_of: The run that this one makes good.
    """

    full_refresh: bool = False
    parallel: int | None = None
    max_requests: int | None = None
    deadline: datetime | None = None
    allow_mass_delete: bool = False
    instance: str | None = None
    retry_of: int | None = None


@dataclass(slots=True)
class JobResult:
    """What came of one job; the first fields are the results file's."""

    job_id: int
    resource: str
    run_id: int | None = None
    status: str = "failed"
    records_read: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    rejected: int = 0
    deleted: int = 0
    requests: int = 0
    duration_seconds: float = 0.0
    parents_failed: int = 0
    error: str | None = None
    retries: int = 0
    duplicates: int = 0
    parents_owed: int = 0
    warning: str | None = None
    error_type: str | None = None
    error_category: str | None = None
    planned_requests: int | None = None
    """What was expected at the start, from the ledger; None for a first run."""


class Budget:
    """How many requests and how much time a whole run may still use; shared by its jobs."""

    def __init__(self, max_requests: int | None, deadline: datetime | None, used: Callable[[], int]) -> None:
        """`used` gives the requests that were answered so far, over all jobs."""
        self._most = max_requests
        self._deadline = deadline
        self._used = used
        self._promised = 0
        self._lock = threading.Lock()

    def spent(self) -> bool:
        """Whether nothing more may be asked for."""
        if self._most is not None and self._used() + self._promised >= self._most:
            return True
        return self.over()

    def over(self) -> bool:
        """Whether the time is over."""
        return self._deadline is not None and datetime.now(UTC) >= self._deadline

    def claim(self) -> bool:
        """Promises one request to a thread, until it calls `release`; False when nothing is left."""
        with self._lock:
            if self.spent():
                return False
            self._promised += 1
            return True

    def release(self) -> None:
        """The request that was promised is answered, and counted as used."""
        with self._lock:
            self._promised -= 1


class TimeLimit:
    """How long one job may take, over all its attempts; without seconds, as long as it needs."""

    def __init__(self, seconds: float | None) -> None:
        """The time begins now."""
        self.seconds = seconds
        self._end = None if seconds is None else time.monotonic() + seconds

    def over(self) -> bool:
        """Whether the time is over."""
        return self._end is not None and time.monotonic() >= self._end


@dataclass(slots=True)
class JobContext:
    """What the jobs of one command share."""

    url: str
    client: Client
    landing: Landing
    instance_id: int
    batch_id: UUID
    options: RunOptions
    budget: Budget
    page_size: int
    max_retries: int
    retry_delay: float
    stop: threading.Event
    on_progress: Callable[[str, Mapping[str, Any]], None] = lambda _resource, _figures: None
    timeouts: Mapping[str, float] = field(default_factory=dict)
    """Seconds a job may take, by resource."""
