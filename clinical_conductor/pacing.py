"""The pace of requests over all threads, and the tally of what they came to."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Any

import requests
from requests.adapters import HTTPAdapter

from clinical_conductor.errors import Interrupted

POOL_SIZE = 64
"""Connections that are kept open: more than there are threads."""


class Limiter:
    """Paces requests over all threads: one every 1/rate seconds, with next to no credit for idle time.

    Args:
        rate: Requests per second; 0 for no limit.
    """

    # A thread that comes up to this late (scheduling, a busy machine) does not cost the rate anything, and no second
    # sees more than 5 % and one request beyond it.
    TOLERANCE = 0.05

    def __init__(self, rate: float) -> None:
        self._interval = 1.0 / rate if rate > 0 else 0.0
        self._next = 0.0
        self._held_until = 0.0
        self._lock = threading.Lock()
        self.wait_seconds = 0.0

    def acquire(self, stop: threading.Event | None = None) -> float:
        """Wait for this thread's turn; returns the seconds waited.

        Raises:
            Interrupted: `stop` was set meanwhile.
        """
        started = time.monotonic()
        while True:
            with self._lock:
                now = time.monotonic()
                turn = max(self._next, now - self.TOLERANCE, self._held_until)
                self._next = turn + self._interval
            wait(turn - now, stop)
            with self._lock:
                if self._held_until <= turn:
                    waited = time.monotonic() - started
                    self.wait_seconds += waited
                    return waited

    def hold(self, seconds: float) -> None:
        """Let nobody through for so long: the server asked for a pause."""
        with self._lock:
            self._held_until = max(self._held_until, time.monotonic() + seconds)


def wait(seconds: float, stop: threading.Event | None) -> None:
    """Sleep, unless and until the run is stopped."""
    if stop is None:
        time.sleep(max(seconds, 0.0))
    elif stop.wait(seconds) if seconds > 0 else stop.is_set():
        raise Interrupted("The run was asked to stop. Start it again to go on from what is committed.")


@dataclass
class Tally:
    """What a job's requests came to. Threads may share one."""

    BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
    """Upper bounds of the histogram, in seconds; one more bucket takes the rest."""

    requests: int = 0
    retries: int = 0
    throttled: int = 0
    limiter_wait_seconds: float = 0.0
    request_seconds: float = 0.0
    histogram: list[int] = field(default_factory=lambda: [0] * (len(Tally.BUCKETS) + 1))
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    def observe(self, seconds: float, waited: float) -> None:
        """Count one request: how long it took, and how long it waited for its turn before."""
        with self._lock:
            self.requests += 1
            self.request_seconds += seconds
            self.limiter_wait_seconds += waited
            self.histogram[bisect_left(self.BUCKETS, seconds)] += 1

    def retried(self, *, throttled: bool) -> None:
        """Count one failure that is going to be retried."""
        with self._lock:
            self.retries += 1
            self.throttled += throttled


class PacedAdapter(HTTPAdapter):
    """The transport, which lets every single attempt wait for its turn."""

    def __init__(self, limiter: Limiter) -> None:
        super().__init__(pool_connections=4, pool_maxsize=POOL_SIZE, max_retries=0)
        self.limiter = limiter
        self.turn = threading.local()  # per thread: `.stop` to obey, `.waited` to report

    def send(self, request: Any, *args: Any, **kwargs: Any) -> requests.Response:
        """Send when the limiter says so."""
        self.turn.waited = self.limiter.acquire(getattr(self.turn, "stop", None))
        return super().send(request, *args, **kwargs)
