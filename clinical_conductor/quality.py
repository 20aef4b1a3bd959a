"""Data quality: runs the checks of `sql/quality` and stores what they found in dw_quality_results."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import uuid4

from clinical_conductor.database import Connection, connect, translated
from clinical_conductor.errors import ConfigurationError, DatabaseRefused, DatabaseTrouble


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What one data quality check found."""

    name: str
    severity: str
    passed: bool
    failures: int | None
    """How many things are wrong; None when the check itself could not run."""
    error: str | None
    seconds: float
    description: str


def run_checks(url: str, *, names: Sequence[str] | None = None) -> list[CheckResult]:
    """Run the data quality checks, each read-only and on its own, and store what they found.

    Args:
        url: The database.
        names: Only these; all active ones otherwise.

    Raises:
        ConfigurationError: a name is not that of a check.
        DatabaseTrouble, DatabaseRefused: the database could not be used at all.
    """
    batch, results = uuid4(), list[CheckResult]()
    with connect(url, autocommit=True, name="trialsync check") as conn, translated():
        rows = conn.execute(
            "select name, severity, query, description from dw_quality_checks"
            " where case when %(names)s::text[] is null then is_active else name = any(%(names)s) end"
            " order by severity, name",
            {"names": None if names is None else list(names)},
        ).fetchall()
        missing = sorted(set(names or ()) - {row[0] for row in rows})
        if missing:
            raise ConfigurationError(f"There is no check {missing[0]!r}: see the table dw_quality_checks.")
        conn.execute("select dw_measure_tables(%s)", (batch,))
        for name, severity, query, description in rows:
            result = _check(conn, name, severity, query, description)
            conn.execute(
                "insert into dw_quality_results (batch_id, check_name, severity, failures, passed, error, seconds)"
                " values (%s, %s, %s, %s, %s, %s, %s)",
                (batch, name, severity, result.failures, result.passed, result.error, result.seconds),
            )
            results.append(result)
    return results


def _check(conn: Connection, name: str, severity: str, query: str, description: str) -> CheckResult:
    """One check, in a transaction that can write nothing."""
    began, failures, error = time.monotonic(), None, None
    try:
        with translated(), conn.transaction():
            conn.execute("set transaction read only")
            conn.execute("set local statement_timeout = '5min'")
            row = conn.execute(query.encode()).fetchone()
            failures = int(row[0]) if row else 0
    except (DatabaseTrouble, DatabaseRefused) as caught:
        if conn.closed:
            raise
        error = str(caught)
    except (TypeError, ValueError):
        error = "The query does not return one number. Correct it in dw_quality_checks."
    return CheckResult(name, severity, failures == 0, failures, error, round(time.monotonic() - began, 6), description)
