"""What happens around a run of jobs: the schema before it, signals during it, results and exit code after it."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import psycopg

from clinical_conductor import console, database, migrations, runs, warehouse
from clinical_conductor.catalog import Endpoint
from clinical_conductor.context import JobResult, RunOptions
from clinical_conductor.errors import ConfigurationError, TrialSyncError
from clinical_conductor.jobs_config import load_jobs_config
from clinical_conductor.logs import configure_logging
from clinical_conductor.orchestrator import plan_jobs, run_jobs
from clinical_conductor.planning import describe_plans
from clinical_conductor.remedies import TRANSFORMATION
from clinical_conductor.selection import Switches, catalog_switches, choose, read_switches, seed_jobs
from clinical_conductor.settings import Settings


def run_and_report(
    settings: Settings,
    named: Sequence[Endpoint],
    added: Sequence[Endpoint],
    options: RunOptions,
    *,
    results: Path | None = None,
    transform: bool = True,
) -> int:
    """Migrate, run, write the results file, print the summary, let silver and gold follow, and tell who has to know.

    Args:
        settings: Where the API and the database are.
        named: Jobs asked for one by one.
        added: Jobs a category adds; with neither, all active ones run.
        options: How to run them.
        results: Results file; written whatever becomes of the jobs.
        transform: Whether silver and gold follow.

    Returns:
        The exit code.

    Raises:
        ConfigurationError: the choice of jobs, the results file or a setting is wrong; nothing has run.
    """
    console.check_results_path(results)
    _need_base_url(settings, options.instance)
    began = time.monotonic()
    chosen: list[Endpoint] = []
    ready = False
    unstarted: Exception | None = None
    try:
        with open_database(settings) as conn, database.translated():
            switches = read_switches(conn)
        chosen = choose(named, added, switches)
        with stop_on_signals() as stop, console.RunProgress(row.resource for row in chosen) as progress:
            # Again, now that the progress bar owns standard error: the lines of the log go above the bar.
            configure_logging(settings)
            jobs = [asdict(job) for job in run_jobs(settings, chosen, options, on_progress=progress, stop=stop)]
            ready = transform and not stop.is_set()
    except ConfigurationError:
        raise
    except Exception as error:  # noqa: BLE001 (whatever it is, the results file has to say that the jobs failed)
        console.show_place(error)
        unstarted = error
        chosen = chosen or choose(named, added, catalog_switches())
        jobs = [asdict(_not_started(row, error)) for row in chosen]
    try:
        console.write_results(results, jobs)
        console.show_summary(jobs, time.monotonic() - began)
        transformed = not ready or _transform(settings)
    finally:
        _tell(settings, unstarted)
    return 0 if transformed and all_good(jobs, options) else 1


def _tell(settings: Settings, unstarted: Exception | None) -> None:
    """Tell what is wrong, and what is over, by the channels that are set; where none is, nothing is loaded for it."""
    if bool(settings.alert_email) != bool(settings.alert_smtp_url):
        console.say("ALERT_EMAIL and ALERT_SMTP_URL belong together; one of them is not set, so no e-mail is sent.")
    if not settings.alert_channels:
        return
    from clinical_conductor.alerts import check_alerts
    from clinical_conductor.channels import lacks_apprise

    lacking = lacks_apprise(settings)
    if lacking:
        console.say("Nobody is told by e-mail or Slack: apprise is not installed. pip install 'trialsync[serve]'")
    told = check_alerts(settings, unstarted=unstarted)
    if told.sent:
        heard = " and ".join(name for name in settings.alert_channels if name not in ("ping", *told.failed))
        console.say(f"Told by {heard}: {told.new} new, {told.over} over.")
    if told.failed and not lacking:
        console.say(f"Not told by {', '.join(told.failed)}. Try it with: trialsync-etl alerts test")


def _transform(settings: Settings) -> bool:
    """Bring silver and gold up to date, and say so in a line; whether all of it succeeded."""
    began = time.monotonic()
    procedures = warehouse.transform(database.database_url(settings))
    changed = sum(row.rows_changed for row in procedures)
    bad = [row for row in procedures if row.status != "success"]
    for row in bad:
        console.output().print(f"{row.status}  {row.procedure}: {row.error}", markup=False, soft_wrap=True)
    console.show_commands([TRANSFORMATION.command] if bad else [])
    console.output().print(
        f"Silver and gold: {len(procedures) - len(bad)} of {len(procedures)} procedures success · "
        f"{changed:,} rows changed in {time.monotonic() - began:.1f} s",
        soft_wrap=True,
    )
    return not bad


def _not_started(endpoint: Endpoint, error: Exception) -> JobResult:
    """The result of a job that a database out of reach, or a fault, kept from starting."""
    category = error.category if isinstance(error, TrialSyncError) else "system"
    return JobResult(
        endpoint.job_id,
        endpoint.resource,
        error=console.describe(error),
        error_type=type(error).__name__,
        error_category=category,
    )


def show_plan(
    settings: Settings,
    named: Sequence[Endpoint],
    added: Sequence[Endpoint],
    options: RunOptions,
    *,
    as_json: bool = False,
) -> None:
    """Print what a run would request. Reads the ledger if there is one; writes nothing, starts nothing.

    Raises:
        ConfigurationError: the choice of jobs is wrong.
    """
    chosen = choose(named, added, _switches_without_writing(settings))
    made = plan_jobs(settings, chosen, options)
    plans = [asdict(plan) for plan in made]
    if not as_json:
        console.say("Dry run: nothing is requested, nothing is written. This is what a run would ask for.")
    for plan in plans:
        plan["path"] = plan["path"] if not plan.get("note") else f"{plan['path']} · {plan['note']}"
    console.show_rows(
        plans, ("job_id", "resource", "requests", "rows", "parents", "parents_owed", "path"), as_json=as_json
    )
    if not as_json:
        seconds = None if options.deadline is None else (options.deadline - datetime.now(UTC)).total_seconds()
        for line in describe_plans(
            made, rate=settings.api_rate_limit, max_requests=options.max_requests, seconds=seconds
        ):
            console.output().print(line, markup=False, soft_wrap=True)


def all_good(jobs: Sequence[dict[str, Any]], options: RunOptions) -> bool:
    """Whether every job succeeded with all its parents; one skipped for the caller's own budget is no failure."""
    budget = options.deadline is not None or options.max_requests is not None
    fine = {"success", "skipped"} if budget else {"success"}
    return all(job["status"] in fine and not job["parents_failed"] for job in jobs)


@contextmanager
def open_database(settings: Settings) -> Iterator[psycopg.Connection[Any]]:
    """A connection to the database: schema up to date, jobs seeded from config/jobs.yaml, killed runs closed.

    Raises:
        ConfigurationError: config/jobs.yaml cannot be read.
    """
    config = load_jobs_config(settings.jobs_file)
    with database.connect(database.database_url(settings)) as conn:
        migrations.migrate(conn)
        seed_jobs(conn, config)
        with database.translated():
            runs.close_dead_runs(conn)
        conn.commit()
        yield conn


def _switches_without_writing(settings: Settings) -> Switches:
    """The switches of a database that runs and has been migrated, otherwise the catalog's."""
    url = settings.database or database.embedded(settings).running_url()
    if url is None:
        return catalog_switches()
    with database.connect(url) as conn, database.translated():
        # An older system's dw_etl_jobs has other columns: only the parent ledger tells that the database is ours.
        known = conn.execute("select to_regclass('dw_etl_parents')").fetchone() != (None,)
        return read_switches(conn) if known else catalog_switches()


def _need_base_url(settings: Settings, instance: str | None) -> None:
    """Refuse a run that cannot know which API to ask, before a database is started for it.

    Raises:
        ConfigurationError: there is no base URL, and no database yet whose dw_api_credentials could name one.
    """
    if not settings.api_base_url and instance is None and settings.database is None and not settings.work_dir.exists():
        raise ConfigurationError(
            "CC_API_BASE_URL is not set. Put it into the environment or .env, such as https://ccs.example.com/CCSWEB, "
            "with CC_API_KEY; or try `trialsync-etl demo`, which needs neither."
        )


@contextmanager
def stop_on_signals() -> Iterator[threading.Event]:
    """An event that the first SIGTERM or Ctrl-C sets, so that jobs end cleanly; the second one ends the process."""
    stop = threading.Event()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if stop.is_set():
            os._exit(128 + number)
        stop.set()
        console.say("Stopping: what is committed stays. Once more to stop at once.")

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
