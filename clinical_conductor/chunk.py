"""Records on their way to staging: a batch as it was read, and the chunk of those that differ, as a CSV file."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from clinical_conductor.errors import WorkspaceTrouble
from clinical_conductor.parents import ParentOutcome
from clinical_conductor.records import Rejected

COLUMNS = ("seq", "parent_source_id", "source_id", "content_hash", "data")
"""Of the file, and of the landing tables."""


@dataclass(slots=True)
class Batch:
    """Records on their way from a source to staging: parallel lists, and what came of the parents they belong to.

    A parent's outcome travels in the same batch as its last records, so both are committed together.
    """

    keys: list[str] = field(default_factory=list)
    parents: list[str] = field(default_factory=list)
    hashes: list[bytes] = field(default_factory=list)
    records: list[bytes] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    outcomes: list[ParentOutcome] = field(default_factory=list)
    size: int = 0

    def extend(self, other: Batch) -> None:
        """Appends another batch to this one."""
        self.keys += other.keys
        self.parents += other.parents
        self.hashes += other.hashes
        self.records += other.records
        self.rejected += other.rejected
        self.outcomes += other.outcomes
        self.size += other.size


class Chunk:
    """Rows that differ, in a CSV file that only this user can read; and what else is committed with them.

    Attributes:
        pending: The hash of each identity's last row in the file.
        repeats: Whether an identity stands in the file more than once.
        refused: How many of its rows PostgreSQL would not hold.
        opened: When the first batch went into it, of the monotonic clock.
        size: Bytes of the file.
    """

    def __init__(self, directory: Path, table: str) -> None:
        """`directory` is where the file is made, with the first row."""
        self.path = directory / f"{table}-{time.monotonic_ns()}.csv"
        self.rows = 0
        self.refused = 0
        self.size = 0
        self.opened = time.monotonic()
        self.pending: dict[tuple[str, str], bytes] = {}
        self.repeats = False
        self.rejected: list[Rejected] = []
        self.outcomes: list[ParentOutcome] = []
        self._file: IO[bytes] | None = None

    def write(self, identity: tuple[str, str], hash_: bytes, record: bytes) -> None:
        """Appends one row; its place in the file is its rank among rows of one key."""
        if self._file is None:
            with _room(self.path):
                descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                self._file = os.fdopen(descriptor, "wb", buffering=1 << 20)
                self._file.write((",".join(COLUMNS) + "\n").encode())
        self.pending[identity] = hash_
        parent, key = identity
        if '"' in parent or '"' in key:
            parent, key = parent.replace('"', '""'), key.replace('"', '""')
        head = f'{self.rows},"{parent}","{key}",\\x{hash_.hex()},"'.encode()
        line = b'%b%b"\n' % (head, bytes(record).replace(b'"', b'""'))
        with _room(self.path):
            self._file.write(line)
        self.rows += 1
        self.size += len(line)

    def close(self) -> None:
        """Ends writing."""
        if self._file is not None:
            with _room(self.path):
                self._file.close()

    def remove(self) -> None:
        """Removes the file: it holds patients' data."""
        with suppress(WorkspaceTrouble):
            self.close()
        self.path.unlink(missing_ok=True)


@contextmanager
def _room(path: Path) -> Iterator[None]:
    """Says what to do when a work file cannot be written."""
    try:
        yield
    except OSError as error:
        raise WorkspaceTrouble(
            f"No work file can be written in {path.parent} ({error.strerror}). Make room there, or point "
            "TRIALSYNC_HOME at a disk that has some, and run again."
        ) from None
