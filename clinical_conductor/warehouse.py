"""Silver and gold: calls the procedures of `sql/procedures`.

What is loaded from what, and in which order, is said once: by `dw_register` at the end of each procedure's file, which
fills dw_transformations. Only names on that list are ever called. Each procedure is one transaction; one that fails
stops those that depend on it and nothing else, and leaves its reason in dw_transformation_runs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg import sql

from clinical_conductor.database import Connection, connect, database_url, translated
from clinical_conductor.errors import ConfigurationError, DatabaseRefused, DatabaseTrouble, TrialSyncError
from clinical_conductor.settings import load_settings

logger = logging.getLogger(__name__)

DIMENSIONS, FACTS, VIEWS = ("type0", "type1", "scd2"), ("fact",), ("view",)
MASTERS: Mapping[str, tuple[str, ...]] = {
    "load_all_new_dimensions": DIMENSIONS,
    "load_all_new_facts": FACTS,
    "refresh_materialized_views": VIEWS,
}
"""The master procedures that SQL users CALL; from here they run one by one, so that each can be tried again."""
PARAMETERS: Mapping[str, type] = {"full_refresh": bool}
"""What a procedure can be told."""
COUNTS = ("rows_read", "rows_inserted", "rows_updated", "rows_expired", "rows_deleted", "rows_rejected")

Progress = Callable[["ProcedureResult"], None]


@dataclass(frozen=True, slots=True)
class ProcedureResult:
    """What one call of a procedure did; the same as its row in dw_transformation_runs."""

    procedure: str
    status: str
    """success, failed, or skipped because something it depends on did not succeed."""
    run_id: int | None = None
    rows_read: int = 0
    rows_inserted: int = 0
    rows_updated: int = 0
    rows_expired: int = 0
    rows_deleted: int = 0
    rows_rejected: int = 0
    seconds: float = 0.0
    attempts: int = 1
    full_pass: str | None = None
    """Why everything was compared; None when only the changes were."""
    error: str | None = None
    notices: list[str] = field(default_factory=list)

    @property
    def rows_changed(self) -> int:
        """Rows written in whatever way; 0 for a run that found everything as it should be."""
        return self.rows_inserted + self.rows_updated + self.rows_expired + self.rows_deleted


@dataclass(frozen=True, slots=True)
class _Step:
    """One row of dw_transformations."""

    name: str
    kind: str
    depends_on: tuple[str, ...]


class TransformationEngine:
    """Runs the warehouse's procedures against one database.

    Args:
        url: Where the warehouse is; the configured database by default.
        retries: How often a procedure is tried again after a deadlock or a serialisation failure.
        retry_delay: Seconds before the first of these; doubled each time.
        on_progress: Told the result of each procedure as it ends.
    """

    def __init__(
        self, url: str | None = None, *, retries: int = 3, retry_delay: float = 0.5, on_progress: Progress | None = None
    ) -> None:
        self._url = url or database_url(load_settings())
        self._retries = retries
        self._delay = retry_delay
        self._on_progress = on_progress

    def execute_procedure(self, procedure_name: str, params: Mapping[str, Any] | None = None) -> ProcedureResult:
        """Run one procedure of the list, or a master (the sum of what it ran).

        Raises:
            ConfigurationError: there is no such procedure or parameter, or a value is not one of its type.
            DatabaseRefused: it failed; what it did was undone.
            DatabaseTrouble: it failed for a reason that may pass, after all retries.
        """
        known = read_params(params or {})
        if procedure_name in MASTERS:
            results = self.run(kinds=MASTERS[procedure_name], **known)
            total = ProcedureResult(procedure_name, "success", seconds=sum(r.seconds for r in results))
            failed = [r for r in results if r.status != "success"]
            if failed:
                raise DatabaseRefused(f"{procedure_name}: {'; '.join(f'{r.procedure}: {r.error}' for r in failed)}")
            return replace(total, **{name: sum(getattr(r, name) for r in results) for name in COUNTS})
        with self._session() as (conn, notices):
            step = {s.name: s for s in _steps(conn)}.get(procedure_name)
            if step is None:
                raise _unknown(procedure_name, conn)
            result, error = self._call(conn, notices, step, uuid4(), **known)
        if error is not None:
            raise error
        return result

    def load_all_dimensions(self, *, full_refresh: bool = False) -> list[ProcedureResult]:
        """Every dimension, as `load_all_new_dimensions()` does; failures are in the results.

        Raises:
            DatabaseTrouble, DatabaseRefused: the database could not be used at all.
        """
        return self.run(kinds=DIMENSIONS, full_refresh=full_refresh)

    def load_all_facts(self, *, full_refresh: bool = False) -> list[ProcedureResult]:
        """Every fact, as `load_all_new_facts()` does; failures are in the results.

        Raises:
            DatabaseTrouble, DatabaseRefused: the database could not be used at all.
        """
        return self.run(kinds=FACTS, full_refresh=full_refresh)

    def refresh_materialized_views(self, *, full_refresh: bool = False) -> list[ProcedureResult]:
        """Every materialized view that is out of date; failures are in the results.

        Raises:
            DatabaseTrouble, DatabaseRefused: the database could not be used at all.
        """
        return self.run(kinds=VIEWS, full_refresh=full_refresh)

    def run(
        self, *, names: Sequence[str] = (), kinds: Sequence[str] = (), full_refresh: bool = False
    ) -> list[ProcedureResult]:
        """Run the named procedures and those of the kinds, in their order; with neither, all of them.

        Raises:
            ConfigurationError: a name is not on the list.
            DatabaseTrouble, DatabaseRefused: the database could not be used at all.
        """
        wanted = set(kinds).union(*(MASTERS.get(name, ()) for name in names))
        batch, results = uuid4(), list[ProcedureResult]()
        broken: set[str] = set()
        with self._session() as (conn, notices):
            conn.execute("select dw_close_dead_runs()")
            steps = _steps(conn)
            for name in names:
                if name not in MASTERS and name not in {s.name for s in steps}:
                    raise _unknown(name, conn)
            for step in steps:
                if (names or kinds) and step.name not in names and step.kind not in wanted:
                    continue
                cause = next((name for name in step.depends_on if name in broken), None)
                if cause is None:
                    result, _ = self._call(conn, notices, step, batch, full_refresh=full_refresh)
                else:
                    result = self._skip(conn, step, batch, f"{cause} did not succeed", full_refresh=full_refresh)
                if result.status != "success":
                    broken.add(step.name)
                results.append(result)
                if self._on_progress is not None:
                    self._on_progress(result)
        return results

    @contextmanager
    def _session(self) -> Iterator[tuple[Connection, list[str]]]:
        """A connection in autocommit, and the list that its notices go to."""
        notices: list[str] = []

        def note(said: psycopg.errors.Diagnostic) -> None:
            notices.append(f"{said.severity}: {said.message_primary}")

        with connect(self._url, autocommit=True, name="trialsync transform") as conn:
            conn.add_notice_handler(note)
            with translated():
                yield conn, notices

    def _call(
        self, conn: Connection, notices: list[str], step: _Step, batch: UUID, *, full_refresh: bool = False
    ) -> tuple[ProcedureResult, TrialSyncError | None]:
        """Call one procedure, again after a deadlock; its result, and the error if it failed."""
        began = time.monotonic()
        run_id = _start(conn, step, batch, full_refresh=full_refresh)
        statement = sql.SQL("call {}(full_refresh => %s, run_id => %s)").format(sql.Identifier(step.name))
        notices.clear()
        attempt, error = 1, None
        while True:
            try:
                with translated():
                    conn.execute(statement, (full_refresh, run_id))
            except (DatabaseTrouble, DatabaseRefused) as caught:
                if isinstance(caught, DatabaseRefused) or conn.closed or attempt > self._retries:
                    error = caught
                    break
                time.sleep(self._delay * 2 ** (attempt - 1))
                attempt += 1
            else:
                break
        if error is not None and conn.closed:
            raise error
        conn.execute(
            "update dw_transformation_runs set attempts = %s, notices = %s,"
            " status = coalesce(%s, status), error = %s, finished_at = coalesce(finished_at, clock_timestamp())"
            " where id = %s",
            (attempt, notices, None if error is None else "failed", None if error is None else str(error), run_id),
        )
        result = _result(conn, run_id, time.monotonic() - began)
        if error is not None:
            logger.error("%s failed: %s", step.name, error)
        elif result.rows_changed or result.rows_rejected:
            logger.info("%s: %s rows changed, %s in quarantine.", step.name, result.rows_changed, result.rows_rejected)
        return result, error

    def _skip(self, conn: Connection, step: _Step, batch: UUID, reason: str, *, full_refresh: bool) -> ProcedureResult:
        """Record a procedure that was not called."""
        run_id = _start(conn, step, batch, full_refresh=full_refresh)
        conn.execute(
            "update dw_transformation_runs set status = 'skipped', error = %s, finished_at = clock_timestamp()"
            " where id = %s",
            (reason, run_id),
        )
        logger.warning("%s skipped: %s", step.name, reason)
        return _result(conn, run_id, 0.0)


def transform(
    url: str,
    *,
    procedures: Sequence[str] | None = None,
    dimensions: bool = False,
    facts: bool = False,
    views: bool = False,
    full_refresh: bool = False,
    on_progress: Progress | None = None,
) -> list[ProcedureResult]:
    """Bring the warehouse up to date: what is named, or everything.

    Args:
        url: The database.
        procedures: Procedures by name, masters included.
        dimensions: All dimensions besides.
        facts: All facts besides.
        views: All materialized views besides.
        full_refresh: Compare everything, not only what changed. The history of dimensions is never destroyed.
        on_progress: Told the result of each procedure as it ends.

    Raises:
        ConfigurationError: a procedure is not on the list.
        DatabaseTrouble, DatabaseRefused: the database could not be used at all.
    """
    chosen = ((dimensions, DIMENSIONS), (facts, FACTS), (views, VIEWS))
    kinds = [kind for asked, group in chosen if asked for kind in group]
    engine = TransformationEngine(url, on_progress=on_progress)
    return engine.run(names=procedures or (), kinds=kinds, full_refresh=full_refresh)


def read_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters for a procedure, checked; text such as "true" is read.

    Raises:
        ConfigurationError: a parameter is not known, or its value is not of its type.
    """
    read: dict[str, Any] = {}
    for name, value in params.items():
        if name not in PARAMETERS:
            raise ConfigurationError(f"There is no parameter {name!r}. Known: {', '.join(PARAMETERS)}.")
        words = {"true": True, "on": True, "1": True, "false": False, "off": False, "0": False}
        flag = value if isinstance(value, bool) else words.get(str(value).lower())
        if flag is None:
            raise ConfigurationError(f"{name} must be true or false.")
        read[name] = flag
    return read


def _steps(conn: Connection) -> list[_Step]:
    """The list, in order."""
    rows = conn.execute(
        "select procedure_name, kind, depends_on from dw_transformations order by position, procedure_name"
    ).fetchall()
    return [_Step(name, kind, tuple(depends_on)) for name, kind, depends_on in rows]


def _unknown(name: str, conn: Connection) -> ConfigurationError:
    """The error for a name that is not on the list."""
    known = ", ".join([*MASTERS, *(step.name for step in _steps(conn))])
    return ConfigurationError(f"There is no procedure {name!r}. There are: {known}.")


def _start(conn: Connection, step: _Step, batch: UUID, *, full_refresh: bool) -> int:
    """The row of a call that begins."""
    row = conn.execute(
        "insert into dw_transformation_runs (batch_id, procedure_name, full_refresh) values (%s, %s, %s) returning id",
        (batch, step.name, full_refresh),
    ).fetchone()
    assert row is not None
    return int(row[0])


def _result(conn: Connection, run_id: int, seconds: float) -> ProcedureResult:
    """The row of a call that ended."""
    row = conn.execute(
        "select procedure_name, status, rows_read, rows_inserted, rows_updated, rows_expired, rows_deleted,"
        " rows_rejected, attempts, full_pass, error, notices from dw_transformation_runs where id = %s",
        (run_id,),
    ).fetchone()
    assert row is not None
    name, status, read, inserted, updated, expired, deleted, rejected, attempts, full_pass, error, notices = row
    return ProcedureResult(
        name, status, run_id, read, inserted, updated, expired, deleted, rejected, round(seconds, 3), attempts,
        full_pass, error, notices,
    )  # fmt: skip
