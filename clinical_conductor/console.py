"""What a person sees: tables, the progress bar, one clear line for an error, and the results file.

Standard output carries results only; progress, hints and errors go to standard error, so that a pipe stays clean.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import traceback
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from clinical_conductor.errors import ConfigurationError, TrialSyncError
from clinical_conductor.remedies import fewest_commands, remedy_for, wants_retry

STATUS_COLOURS = {"success": "green", "failed": "bold red", "running": "cyan", "skipped": "yellow"}
FINISHED = frozenset({"success", "failed", "skipped"})

Row = Mapping[str, Any]


def output() -> Console:
    """The console on standard output, as wide as the terminal (80 columns where there is none)."""
    return Console(highlight=False)


def say(text: str) -> None:
    """A hint or a note for the person at the terminal, on standard error."""
    Console(stderr=True, highlight=False).print(escape(text), soft_wrap=True)


def check_results_path(path: Path | None) -> None:
    """Refuse a results file that could not be written, before anything has run.

    Raises:
        ConfigurationError: its directory does not exist or cannot be written to, or it is a directory itself.
    """
    if path is None:
        return
    if path.is_dir() or not os.access(path.absolute().parent, os.W_OK):
        raise ConfigurationError(
            f"--results {path}: this file cannot be written. Give a file in an existing directory."
        )


def write_results(path: Path | None, jobs: Sequence[Row]) -> None:
    """Write the results file in one step: a reader sees the whole of it or the one before."""
    if path is None:
        return
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps({"jobs": [dict(job) for job in jobs]}, indent=2, default=str) + "\n", encoding="utf-8")
    draft.replace(path)


class RunProgress:
    """A bar over the jobs of a run, on a terminal only; nothing under CI or in a pipe. Called from many threads."""

    def __init__(self, jobs: Iterable[str]) -> None:
        names = list(jobs)
        self._records = dict.fromkeys(names, 0)
        self._running: set[str] = set()
        self._finished: set[str] = set()
        self._lock = threading.Lock()
        console = Console(stderr=True)
        shown = console.is_terminal and not console.is_dumb_terminal and not os.environ.get("CI")
        self._bar = Progress(
            BarColumn(bar_width=12),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.description}"),
            console=console,
            transient=True,
            disable=not shown,
        )
        self._task: TaskID = self._bar.add_task("starting", total=len(names))

    def __enter__(self) -> RunProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def __call__(self, resource: str, figures: Row) -> None:
        """Take in what a job reports: its records so far, and its status once it has ended."""
        with self._lock:
            self._records[resource] = int(figures.get("records", self._records.get(resource, 0)))
            if figures.get("status") in FINISHED:
                self._running.discard(resource)
                self._finished.add(resource)
            else:
                self._running.add(resource)
            first, *others = sorted(self._running) or ["finishing"]
            text = f"{sum(self._records.values()):,} records · {first}{f' +{len(others)}' if others else ''}"
            # A parent that had to run first counts too, though nobody asked for it.
            self._bar.update(self._task, completed=len(self._finished), total=len(self._records), description=text)


def show_rows(
    rows: Sequence[Row],
    columns: Sequence[str] | Mapping[str, str],
    *,
    as_json: bool = False,
    empty: str = "Nothing.",
) -> None:
    """Print rows as a table, or as JSON with everything they hold.

    Args:
        rows: What to print.
        columns: Which of their fields; a mapping says what to call them. Only the last column may be folded.
        as_json: Whether a machine reads it.
        empty: What to say instead of an empty table.
    """
    if as_json:
        print(json.dumps([dict(row) for row in rows], indent=2, default=_plain))  # noqa: T201
        return
    if not rows:
        output().print(empty)
        return
    titles = columns if isinstance(columns, Mapping) else {name: name.replace("_", " ") for name in columns}
    table = _table()
    for name, title in titles.items():
        numeric = all(isinstance(row.get(name), int | float | None) for row in rows)
        table.add_column(
            title,
            justify="right" if numeric else "left",
            overflow="fold",
            no_wrap=numeric or name != list(titles)[-1],
        )
    for row in rows:
        table.add_row(*(_cell(name, row.get(name)) for name in titles))
    console = output()
    # Long paths are folded for people only: in a pipe a row stays one line, so that grep finds it whole.
    (console if console.is_terminal else Console(width=250, highlight=False)).print(table)


def show_runs(rows: Sequence[Row], columns: Mapping[str, str], *, as_json: bool, empty: str) -> None:
    """Print rows of the ledger, and below them what went wrong."""
    show_rows(rows, columns, as_json=as_json, empty=empty)
    for row in [] if as_json else rows:
        if row["error_message"]:
            label = Text(str(row["run_status"]), STATUS_COLOURS.get(row["run_status"], ""))
            where = f"  {row['resource']} ({row['job_id']}), run {row['run_id']}: {row['error_message']}"
            output().print(label + where, soft_wrap=True)
    remembered: dict[str, list[str]] = {}
    for row in [] if as_json else rows:
        for text in row.get("notes") or ():
            remembered.setdefault(text, []).append(f"{row['resource']} ({row['job_id']})")
    for text, names in remembered.items():
        who = ", ".join(names) if len(names) <= 3 else f"{len(names)} jobs"
        output().print(f"note  {who}: {text}", markup=False, soft_wrap=True)


def show_summary(jobs: Sequence[Row], seconds: float) -> None:
    """The table at the end of a run: a line per job with its status in words, then what to look at, then totals."""
    console = output()
    table = _table()
    wide = console.width >= 100
    counts = ["records_read", "inserted", "updated", *(["unchanged"] if wide else []), "deleted"]
    table.add_column("job", justify="right", no_wrap=True)
    table.add_column("resource", no_wrap=True, overflow="ellipsis")
    table.add_column("status", no_wrap=True, min_width=7)
    for name in counts:
        table.add_column(name.removeprefix("records_"), justify="right", no_wrap=True)
    table.add_column("s", justify="right", no_wrap=True)
    for job in jobs:
        table.add_row(
            str(job["job_id"]),
            job["resource"],
            _cell("status", job["status"]),
            *(_cell(name, job[name]) for name in counts),
            f"{job['duration_seconds']:.1f}",
        )
    console.print(table)
    for note in _notes(jobs):
        console.print(note, soft_wrap=True)
    show_mending(jobs)
    console.print(_totals(jobs, seconds), soft_wrap=True)


def show_mending(jobs: Iterable[Row]) -> None:
    """What to type about the jobs that failed: as few commands as will do."""
    commands = [
        remedy_for(job["error_type"], job_id=job["job_id"], resource=job["resource"], run_id=job["run_id"]).command
        for job in jobs
        if wants_retry(job.get("status") or job.get("run_status"), job["error_type"])
    ]
    show_commands(fewest_commands(commands))


def show_commands(commands: Iterable[str]) -> None:
    """Commands that mend something."""
    for command in commands:
        output().print(Text.assemble(("mend", "bold cyan"), f"    {command}"), soft_wrap=True)


def _notes(jobs: Sequence[Row]) -> Iterable[Text]:
    """What to look at, each thing once with the jobs it struck: a database that is away is one line, not 74."""
    struck: dict[tuple[str, str], list[str]] = {}

    def note(job: Row, label: str, text: str) -> None:
        struck.setdefault((label, text), []).append(f"{job['resource']} ({job['job_id']})")

    for job in jobs:
        if job["error"]:
            note(job, job["status"], job["error"])
        elif job["parents_failed"]:
            note(job, "failed", f"{job['parents_failed']:,} parents failed; they are asked again by the next run.")
        if job["rejected"]:
            note(job, "note", f"{job['rejected']:,} records quarantined, see dw_etl_rejected_records.")
        if job.get("warning"):
            note(job, "note", job["warning"])
    for (label, text), names in sorted(struck.items(), key=lambda item: item[0][0] == "note"):
        who = ", ".join(names) if len(names) <= 3 else f"{len(names)} jobs"
        yield Text.assemble((label, STATUS_COLOURS.get(label, "")), f"  {who}: {text}")


def _totals(jobs: Sequence[Row], seconds: float) -> Text:
    """One line over all jobs."""
    ended = {status: sum(job["status"] == status for job in jobs) for status in ("success", "failed", "skipped")}
    states = ", ".join(f"{n} {status}" for status, n in ended.items() if n)
    names = ("records_read", "inserted", "updated", "deleted", "requests")
    read, inserted, updated, deleted, requests = (sum(job[name] for job in jobs) for name in names)
    noun = "job" if len(jobs) == 1 else "jobs"
    planned = [job for job in jobs if job.get("planned_requests") is not None]
    told = ""
    if planned and len(planned) == len(jobs):
        told = f" ({sum(job['planned_requests'] for job in planned):,} planned)"
    return Text(
        f"{len(jobs)} {noun}: {states} · {read:,} read, {inserted:,} inserted, {updated:,} updated, "
        f"{deleted:,} deleted · {requests:,} requests{told} in {seconds:.1f} s"
    )


def describe(error: BaseException) -> str:
    """One line about an error, without anything a record or a header could have brought into it.

    Only this package's own errors speak for themselves; of any other one nothing but its type is told, because its
    message may hold data.
    """
    if isinstance(error, TrialSyncError):
        return " ".join(str(error).split())
    return (
        f"{type(error).__name__} inside TrialSync. This is a fault of the program: set LOG_LEVEL=DEBUG for its place."
    )


def debugging() -> bool:
    """Whether LOG_LEVEL=DEBUG is in the environment; read here because the settings themselves may be the fault."""
    return os.environ.get("LOG_LEVEL", "").strip().upper() == "DEBUG"


def report(error: BaseException) -> None:
    """Print an error as one line on standard error; under LOG_LEVEL=DEBUG after the place it came from."""
    show_place(error)
    Console(stderr=True, highlight=False).print(Text.assemble(("Error: ", "bold red"), describe(error)), soft_wrap=True)


def show_place(error: BaseException) -> None:
    """Under LOG_LEVEL=DEBUG, print the lines of code an error went through: no message, no value, so no data."""
    if debugging():
        sys.stderr.writelines(traceback.format_tb(error.__traceback__))


def _table() -> Table:
    """A table without lines, so that 80 columns go far."""
    return Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")


def _cell(name: str, value: Any) -> Text:
    """One value as people write it."""
    if value is None:
        return Text("")
    if name.endswith("status"):
        return Text(str(value), STATUS_COLOURS.get(str(value), ""))
    if isinstance(value, datetime):
        return Text(f"{value:%Y-%m-%d %H:%M}")
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    if isinstance(value, float):
        return Text(f"{value:,.1f}")
    if isinstance(value, int) and not name.endswith("id"):
        return Text(f"{value:,}")
    return Text(str(value))


def _plain(value: Any) -> str:
    """A value JSON has no form for; times are told in UTC, as which the ledger keeps them without a zone."""
    if not isinstance(value, datetime):
        return str(value)
    aware = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    return aware.isoformat().replace("+00:00", "Z")
