"""The command line: `trialsync-etl …`, and `python pipelines/run.py …` with the same code.

Exit code 0: all good. 1: a job or a parent failed, or the API or the database could not be reached. 2: the command or
a setting is wrong. Heavy imports stand inside the commands, so that `--help` and `list` answer at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import datetime, timedelta
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core
import typer.main

from clinical_conductor import __version__, console, operations_cli
from clinical_conductor.catalog import CATEGORIES, ENDPOINTS, find_endpoint
from clinical_conductor.errors import ConfigurationError
from clinical_conductor.selection import complete_category, complete_resources, named_endpoints, waiting_for
from clinical_conductor.settings import Settings, load_settings

STATUS_COLUMNS = {
    "job_id": "job",
    "resource": "resource",
    "run_status": "status",
    "started_at": "started (UTC)",
    "duration_seconds": "s",
    "records_read": "read",
}
HISTORY_COLUMNS = {"run_id": "run", **STATUS_COLUMNS}

HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

app = typer.Typer(
    name="trialsync-etl",
    help="Clinical Conductor into PostgreSQL. Start with: trialsync-etl demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=HELP,
)
db = typer.Typer(
    help="The database: bring its schema up to date, print its URL, stop the embedded one.", no_args_is_help=True
)
app.add_typer(db, name="db")


def _show_version(wanted: bool) -> None:
    """Print the version and end."""
    if wanted:
        print(__version__)  # noqa: T201
        raise typer.Exit


@app.callback()
def _whole(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Clinical Conductor into PostgreSQL. Start with: trialsync-etl demo"""


Resources = Annotated[
    list[str] | None,
    typer.Option("--resources", "-r", metavar="A,B", help="Resources by name.", autocompletion=complete_resources),
]
JobIds = Annotated[list[int] | None, typer.Option("--job-id", "-j", metavar="N", help="A job by its id; repeatable.")]
CategoryOption = Annotated[
    str | None,
    typer.Option(
        "--category",
        metavar="C",
        help=f"All of a category: {', '.join(CATEGORIES)}.",
        autocompletion=complete_category,
    ),
]
All = Annotated[bool, typer.Option("--all", help="Every active job; the default.")]
FullRefresh = Annotated[bool, typer.Option("--full-refresh", help="Read everything again and compare it in full.")]
Parallel = Annotated[
    int | None, typer.Option("--parallel", min=1, metavar="N", help="Jobs at once [ETL_PARALLEL_JOBS].")
]
MaxRequests = Annotated[
    int | None,
    typer.Option("--max-requests", min=1, metavar="N", help="Stop fan-outs when so many requests were made."),
]
Deadline = Annotated[
    str | None,
    typer.Option("--deadline", metavar="HH:MM", help="Stop fan-outs at this local time; the rest stays owed."),
]
MassDelete = Annotated[
    bool, typer.Option("--allow-mass-delete", help="Delete even more rows of a table than the threshold allows.")
]
Instance = Annotated[
    str | None, typer.Option("--instance", metavar="NAME", help="Instance, as dw_api_credentials names it.")
]
Results = Annotated[
    Path | None, typer.Option("--results", metavar="FILE", help="Write what came of each job to FILE, as JSON.")
]
NoTransform = Annotated[bool, typer.Option("--no-transform", help="Load only; leave silver and gold as they are.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
OneJob = Annotated[int | None, typer.Option("--job-id", "-j", metavar="N", help="Only this job.")]
Scale = Annotated[
    float, typer.Option("--scale", min=0.0, help="Size of the instance: 1 = 1,050 studies, 150,000 patients.")
]
Seed = Annotated[int, typer.Option("--seed", help="Another number makes other data.")]


@app.command()
def run(
    resources: Resources = None,
    job_id: JobIds = None,
    category: CategoryOption = None,
    all_jobs: All = False,
    full_refresh: FullRefresh = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Write nothing; say what would be requested.")] = False,
    parallel: Parallel = None,
    no_transform: NoTransform = False,
    results: Results = None,
    instance: Instance = None,
    max_requests: MaxRequests = None,
    deadline: Deadline = None,
    allow_mass_delete: MassDelete = False,
) -> None:
    """Load jobs into PostgreSQL: those named, or all active ones. Makes or upgrades the schema first."""
    settings = _settings()
    named, added = named_endpoints(resources or (), job_id or (), category)
    if all_jobs and (named or added):
        raise ConfigurationError("--all means every active job: leave it out, or leave out the names.")
    until = next_time(deadline) if deadline else None
    from clinical_conductor.context import RunOptions
    from clinical_conductor.execution import run_and_report, show_plan

    options = RunOptions(
        full_refresh=full_refresh,
        parallel=parallel,
        max_requests=max_requests,
        deadline=until,
        allow_mass_delete=allow_mass_delete,
        instance=instance,
    )
    if dry_run:
        show_plan(settings, named, added, options)
        return
    raise typer.Exit(run_and_report(settings, named, added, options, results=results, transform=not no_transform))


@app.command()
def plan(
    resources: Resources = None,
    job_id: JobIds = None,
    category: CategoryOption = None,
    full_refresh: FullRefresh = False,
    instance: Instance = None,
    max_requests: MaxRequests = None,
    deadline: Deadline = None,
    as_json: AsJson = False,
) -> None:
    """Say what a run would request, how long it would take, and what a budget would reach; write nothing."""
    named, added = named_endpoints(resources or (), job_id or (), category)
    until = next_time(deadline) if deadline else None
    from clinical_conductor.context import RunOptions
    from clinical_conductor.execution import show_plan

    options = RunOptions(full_refresh=full_refresh, instance=instance, max_requests=max_requests, deadline=until)
    show_plan(_settings(), named, added, options, as_json=as_json)


@app.command("list")
def list_jobs(category: CategoryOption = None, as_json: AsJson = False) -> None:
    """All jobs of the catalog: what they are called, where they read, and why some are off."""
    rows = [
        {
            "job_id": row.job_id,
            "resource": row.resource,
            "category": row.category,
            "active": row.active,
            "path": row.path,
            "table": row.table,
            "parent": row.parent,
            "inactive": row.inactive,
            "endpoint": row.path if row.active else f"{row.path} (off: {row.inactive})",
        }
        for row in ([*named_endpoints(category=category)[1]] if category else ENDPOINTS.values())
    ]
    console.show_rows(rows, ("job_id", "resource", "category", "endpoint"), as_json=as_json)


@app.command()
def status(job_id: OneJob = None, as_json: AsJson = False) -> None:
    """The latest run of every job, or of one."""
    from clinical_conductor import runs
    from clinical_conductor.execution import open_database

    with open_database(_settings()) as conn:
        rows = runs.latest_runs(conn, _checked_job(job_id))
    shown = [row for row in rows if row["run_id"] or row["is_active"]]
    if not any(row["run_id"] for row in rows):
        console.say("No job has run yet. Start with: trialsync-etl run")
    console.show_runs(
        rows if as_json else shown, _columns(STATUS_COLUMNS, rows), as_json=as_json, empty="This job is switched off."
    )
    if not as_json:
        console.show_mending([row for row in rows if row["is_active"]])


@app.command()
def history(
    job_id: OneJob = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many runs.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Past runs, latest first."""
    from clinical_conductor import runs
    from clinical_conductor.execution import open_database

    with open_database(_settings()) as conn:
        rows = runs.run_history(conn, _checked_job(job_id), limit)
    console.show_runs(rows, _columns(HISTORY_COLUMNS, rows), as_json=as_json, empty="No job has run yet.")


@db.command("migrate")
def db_migrate() -> None:
    """Make the schema, or bring it up to date. `run` does this by itself."""
    from clinical_conductor import database, migrations

    with database.connect(database.database_url(_settings())) as conn:
        applied = migrations.migrate(conn)
    for name in applied:
        print(name)  # noqa: T201
    console.say(f"{len(applied)} applied." if applied else "The schema is up to date.")


@db.command("url")
def db_url() -> None:
    """Print the database's URL, for psql and others. Starts the embedded PostgreSQL if that is the one."""
    from clinical_conductor import database

    print(database.database_url(_settings()))  # noqa: T201


@db.command("stop")
def db_stop() -> None:
    """Stop the embedded PostgreSQL. Its data stays."""
    from clinical_conductor import database

    settings = _settings()
    if settings.database is not None:
        raise ConfigurationError(
            "A database is configured (DATABASE_URL or DATABASE_HOST): there is no embedded one to stop."
        )
    database.stop_embedded(settings)


@app.command()
def retry(
    run_id: Annotated[int | None, typer.Option("--run-id", metavar="N", help="Run this run's job again.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Run every job again whose latest run failed.")] = False,
    instance: Annotated[
        str | None, typer.Option("--instance", metavar="NAME", help="With --failed: only of this instance.")
    ] = None,
    parallel: Parallel = None,
    no_transform: NoTransform = False,
    results: Results = None,
) -> None:
    """Run again what failed, and what was skipped because of it. Only what is owed is asked for again."""
    if (run_id is None) == (not failed):
        raise ConfigurationError("Say which: --run-id N, or --failed for every job whose latest run failed.")
    from clinical_conductor import runs
    from clinical_conductor.context import RunOptions
    from clinical_conductor.execution import open_database, run_and_report
    from clinical_conductor.jobs_config import load_jobs_config
    from clinical_conductor.remedies import wants_retry

    settings = _settings()
    with open_database(settings) as conn:
        rows = [] if run_id is None else runs.run_history(conn, run_id=run_id)
        latest = [row for row in runs.latest_runs(conn) if row["is_active"] is not False]
    if run_id is not None and not rows:
        raise ConfigurationError(f"There is no run {run_id}. `trialsync-etl history` shows the latest ones.")
    if failed:
        rows = [
            row
            for row in latest
            if wants_retry(row["run_status"], row["error_type"]) and instance in (None, row["instance_name"])
        ]
    else:
        lower = waiting_for(find_endpoint(rows[0]["job_id"]), load_jobs_config(settings.jobs_file))
        rows += [
            row
            for row in latest
            if row["run_status"] == "skipped"
            and wants_retry("skipped", row["error_type"])
            and row["resource"] in lower
            and row["instance_name"] == rows[0]["instance_name"]
        ]
    if not rows:
        console.say("No job's latest run failed.")
        return
    instances = {row["instance_name"] for row in rows}
    if len(instances) > 1:
        names = ", ".join(sorted(map(str, instances)))
        raise ConfigurationError(f"Jobs of several instances failed ({names}): name one of them with --instance.")
    named = [find_endpoint(row["job_id"]) for row in rows]
    options = RunOptions(parallel=parallel, instance=instances.pop(), retry_of=run_id)
    raise typer.Exit(run_and_report(settings, named, (), options, results=results, transform=not no_transform))


@app.command()
def simulate(
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="0 takes a free one.")] = 8765,
    scale: Scale = 0.001,
    seed: Seed = 1,
    api_key: Annotated[str, typer.Option("--api-key", help="The key that is accepted.")] = "demo-key",
    key_header: Annotated[str, typer.Option("--key-header", help="The header it is expected in.")] = "X-ApiKey",
    envelope: Annotated[
        str, typer.Option("--envelope", help="spec (each endpoint its own), items, items-lower, value or array.")
    ] = "spec",
    ids: Annotated[str, typer.Option("--ids", help="number, string or guid.")] = "number",
    modified_date: Annotated[
        bool, typer.Option("--modified-date/--no-modified-date", help="Whether records say when they changed.")
    ] = True,
) -> None:
    """Serve a made-up Clinical Conductor on this machine, until Ctrl-C."""
    from clinical_conductor.demo import simulate_until_stopped

    simulate_until_stopped(
        port=port,
        scale=scale,
        seed=seed,
        api_key=api_key,
        key_header=key_header,
        envelope=envelope,
        ids=ids,
        modified_date=modified_date,
    )


@app.command()
def demo(scale: Scale = 0.001, seed: Seed = 1, results: Results = None) -> None:
    """All active jobs, from a simulated instance into the embedded PostgreSQL. Run it twice."""
    from clinical_conductor.demo import run_demo

    raise typer.Exit(run_demo(_settings(), scale=scale, seed=seed, results=results))


ROOMS: dict[str, tuple[str, str]] = {
    "doctor": ("clinical_conductor.doctor", "Check API, database and every endpoint."),
    "transform": ("clinical_conductor.warehouse_cli", "Bring silver and gold up to date with staging."),
    "check": ("clinical_conductor.warehouse_cli", "Check the data of the warehouse."),
    "roles": ("clinical_conductor.warehouse_cli", "Create or update the database roles."),
}
"""Commands that other modules bring along: name → (module, one line of help).

The module has a function `<name>_command` with typer's annotations. It is imported when the command is called, so
that --help stays quick.
"""


def _command_of(name: str, module: str) -> Any:
    """A command of another module, with its options."""
    room = typer.Typer(pretty_exceptions_enable=False, add_completion=False, context_settings=HELP)
    room.command(name)(getattr(import_module(module), f"{name}_command"))
    return typer.main.get_command(room)


def register(name: str, module: str, help_text: str) -> None:
    """Offer a command of another module; its options are read when it is called."""

    class Room(typer.core.TyperCommand):
        def get_params(self, ctx: Any) -> list[Any]:
            """The options, where the shell asks for them; else none, as they are read in `forward`."""
            return _command_of(name, module).get_params(ctx) if ctx.resilient_parsing else super().get_params(ctx)

    @app.command(
        name,
        cls=Room,
        help=help_text,
        add_help_option=False,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )
    def forward(ctx: typer.Context) -> None:
        _command_of(name, module)(args=ctx.args, prog_name=ctx.command_path)


for _name, (_module, _help) in ROOMS.items():
    register(_name, _module, _help)
operations_cli.register(app)


def next_time(text: str, now: datetime | None = None) -> datetime:
    """The next moment a clock on the wall here shows `text` (HH:MM).

    Raises:
        ConfigurationError: it is no time of day.
    """
    now = now or datetime.now().astimezone()
    try:
        clock = datetime.strptime(text, "%H:%M").time()  # noqa: DTZ007 (only the time of day is taken)
    except ValueError:
        raise ConfigurationError(f"--deadline {text}: give a time of day, such as 06:30.") from None
    moment = datetime.combine(now.date(), clock).astimezone()
    return moment if moment > now else datetime.combine(now.date() + timedelta(days=1), clock).astimezone()


def _columns(columns: dict[str, str], rows: Sequence[console.Row]) -> dict[str, str]:
    """The columns, and whose the runs are where they are of several instances."""
    several = len({row["instance_name"] for row in rows if row["instance_name"]}) > 1
    return {**columns, "instance_name": "instance"} if several else columns


def _checked_job(job_id: int | None) -> int | None:
    """The job id, if there is such a job."""
    return None if job_id is None else find_endpoint(job_id).job_id


def _settings() -> Settings:
    """The settings of this process, with the logs sent where they say."""
    from clinical_conductor.logs import configure_logging

    settings = load_settings()
    configure_logging(settings)
    return settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; usage errors and --help raise SystemExit themselves."""
    try:
        app(args=list(sys.argv[1:] if argv is None else argv), prog_name="trialsync-etl")
    except ConfigurationError as error:
        console.report(error)
        return 2
    except Exception as error:  # noqa: BLE001 (the last place to turn a fault into one line without data)
        console.report(error)
        return 1
    return 0
