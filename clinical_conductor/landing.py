"""dlt's part of staging: CSV files into the landing tables of one instance, and nothing else.

Every process works in a private directory of its own, which is never read back: what dlt knows of earlier loads stands
in the database, and files that hold patients' data are gone with the process, or at the next start.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

from psycopg.conninfo import conninfo_to_dict

from clinical_conductor.errors import WorkspaceTrouble
from clinical_conductor.processes import is_alive


class Landing:
    """dlt's part: lands CSV files in the landing tables of one instance. One per process and instance."""

    def __init__(self, url: str, instance_id: int, work_dir: Path) -> None:
        """Makes a private directory for short-lived files and removes what killed processes left behind.

        Args:
            url: PostgreSQL URL.
            work_dir: Where the private directory is made; never read back by a later process.
        """
        self.dataset = f"trialsync_landing_{instance_id}"
        self._url = url
        self.directory = private_directory(work_dir)
        self._pipelines: dict[str, Any] = {}
        self._lock = Lock()
        self._warm = False

    def land(self, table: str, path: Path, rows: int) -> None:
        """Copies a CSV file into the landing table of `table`.

        Raises:
            LandingFailed: dlt could not; what it said stays untold, because it may quote a record.
        """
        import dlt

        resource = dlt.resource(
            [dlt.mark.with_file_import(str(path), "csv", rows)],
            name=table,
            write_disposition="append",
            columns={
                "seq": {"data_type": "bigint", "nullable": False},
                "parent_source_id": {"data_type": "text", "nullable": False},
                "source_id": {"data_type": "text", "nullable": False},
                "content_hash": {"data_type": "binary", "nullable": False},
                "data": {"data_type": "json", "nullable": False},
            },
        )
        pipeline = self._pipeline(table)
        try:
            if self._warm:
                pipeline.run(resource)
            else:
                # The first run creates dlt's own tables; two at once would race for them.
                with self._lock:
                    pipeline.run(resource)
                    self._warm = True
        except Exception as error:  # noqa: BLE001 (whatever it is, its text must not get out)
            self._forget(table)
            raise LandingFailed(type(error).__name__) from None

    def _pipeline(self, table: str) -> Any:
        """The pipeline of one table: its own name, so that no two of them share state."""
        import dlt
        from dlt.destinations import postgres

        with self._lock:
            if table not in self._pipelines:
                quiet_dlt()
                self._pipelines[table] = dlt.pipeline(
                    f"trialsync_{table}",
                    destination=postgres(credentials=with_password(self._url)),
                    dataset_name=self.dataset,
                    pipelines_dir=str(self.directory / "dlt"),
                )
            return self._pipelines[table]

    def _forget(self, table: str) -> None:
        """Drops a pipeline with its pending package, which would otherwise block the next chunk."""
        with self._lock:
            self._pipelines.pop(table, None)
            shutil.rmtree(self.directory / "dlt" / f"trialsync_{table}", ignore_errors=True)

    def close(self) -> None:
        """Removes the private directory with everything in it."""
        shutil.rmtree(self.directory, ignore_errors=True)


class LandingFailed(Exception):
    """dlt could not land a chunk; holds the name of the exception, never its text."""


def private_directory(work_dir: Path) -> Path:
    """A new directory that only this user can read, for files that hold records.

    Those of processes that no longer live are removed first: they hold patients' data.

    Raises:
        WorkspaceTrouble: it cannot be made.
    """
    root = work_dir / "work"
    try:
        root.mkdir(parents=True, exist_ok=True)
        directory = Path(tempfile.mkdtemp(prefix=f"run-{os.getpid()}-", dir=root))
    except OSError as error:
        raise WorkspaceTrouble(
            f"No work file can be written in {root} ({error.strerror}). Make room there, or point TRIALSYNC_HOME at a "
            "disk that has some, and run again."
        ) from None
    for old in root.glob("run-*"):
        pid = old.name.split("-")[1]
        if pid.isdecimal() and not is_alive(int(pid)):
            shutil.rmtree(old, ignore_errors=True)
    return directory


def quiet_dlt() -> None:
    """Keeps dlt from phoning home, from compressing short-lived files, from keeping them, and from quoting records."""
    for name, value in {
        "RUNTIME__DLTHUB_TELEMETRY": "false",
        "RUNTIME__LOG_LEVEL": "CRITICAL",
        "RUNTIME__HTTP_SHOW_ERROR_BODY": "false",
        "LOAD__DELETE_COMPLETED_JOBS": "true",
        "LOAD__RAISE_ON_FAILED_JOBS": "true",
        "LOAD__RAISE_ON_MAX_RETRIES": "1",
        "NORMALIZE__DATA_WRITER__DISABLE_COMPRESSION": "true",
        "RESTORE_FROM_DESTINATION": "false",
    }.items():
        os.environ[name] = value
    logging.getLogger("dlt").setLevel(logging.CRITICAL)


def with_password(url: str) -> str:
    """The URL with a password in it: dlt asks for one even where the server does not."""
    parts = conninfo_to_dict(url)
    if parts.get("password"):
        return url
    head, _, tail = url.partition("@")
    return f"{head}:{os.environ.get('PGPASSWORD', 'none')}@{tail}" if tail else url


@contextmanager
def one_landing(url: str, instance_id: int, work_dir: Path) -> Iterator[Landing]:
    """A Landing whose files are gone afterwards."""
    landing = Landing(url, instance_id, work_dir)
    try:
        yield landing
    finally:
        landing.close()
