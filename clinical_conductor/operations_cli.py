"""Commands for operations: serve, metrics, dashboard, schedule and alerts. `register(app)` adds them to the CLI.

Everything heavy is imported inside the commands, so that --help stays quick.
"""

from __future__ import annotations

import contextlib
import shlex
import sys
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

from clinical_conductor import __version__
from clinical_conductor.catalog import Endpoint, find_endpoint
from clinical_conductor.errors import ConfigurationError, TrialSyncError
from clinical_conductor.selection import complete_resource
from clinical_conductor.settings import Setting, Settings, load_settings, read_environment

SERVE_SETTINGS: dict[str, Setting] = {
    "token": Setting(
        "TRIALSYNC_TOKEN", "Token that readers of `serve` have to give; needed for any --host but loopback", secret=True
    )
}
"""What serve reads besides Settings, from the environment or .env."""

schedule_app = typer.Typer(help="When jobs run: set it, list it, export it for cron.", invoke_without_command=True)
alerts_app = typer.Typer(help="Who is told when something is wrong.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the command line."""
    app.command()(serve)
    app.command()(metrics)
    app.command()(dashboard)
    app.add_typer(schedule_app, name="schedule")
    app.add_typer(alerts_app, name="alerts")


def serve(
    host: Annotated[
        str, typer.Option("--host", help="Address to listen on; others need TRIALSYNC_TOKEN.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="0 takes a free one.")] = 8080,
    schedule: Annotated[
        bool, typer.Option("--schedule", help="Run the jobs at their times and send alerts, too.")
    ] = False,
) -> None:
    """Dashboard, API and health over HTTP, metrics on METRICS_PORT; until Ctrl-C."""
    settings = _settings()
    _need("fastapi", "uvicorn", "prometheus_client", "apscheduler", "apprise")
    from clinical_conductor.execution import open_database
    from clinical_conductor.server import Access
    from clinical_conductor.server import serve as run_server

    access = Access(host, _token())
    with open_database(settings):
        pass  # makes the schema, and says now rather than later that the database is away
    run_server(settings, access, port=port, schedule=schedule, version=__version__, started=_say_address)


def _say_address(url: str) -> None:
    """Where the dashboard is."""
    _say(f"Dashboard: {url}")


def metrics(
    textfile: Annotated[
        Path | None, typer.Option("--textfile", metavar="PATH", help="Write them there, for the node exporter.")
    ] = None,
) -> None:
    """Metrics as Prometheus reads them, from the ledger."""
    settings = _settings()
    _need("prometheus_client")
    from clinical_conductor.metrics import render_metrics, write_textfile

    text = render_metrics(settings, version=__version__)
    if textfile is None:
        sys.stdout.write(text.decode())
    else:
        write_textfile(textfile, text)


def dashboard(
    html: Annotated[Path, typer.Option("--html", metavar="FILE", help="File to write.")],
) -> None:
    """The dashboard as one file that needs no server."""
    from clinical_conductor.dashboard import page
    from clinical_conductor.monitoring import read_ledger

    text = page(read_ledger(_settings()), static=True, version=__version__)
    try:
        html.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigurationError(f"--html {html} cannot be written: {error.strerror}. Choose another place.") from None
    _say(f"Written: {html}")


@schedule_app.callback()
def schedule(
    ctx: typer.Context,
    job_id: Annotated[int | None, typer.Option("--job-id", "-j", metavar="N", help="The job, by its id.")] = None,
    resource: Annotated[
        str | None,
        typer.Option(
            "--resource", "-r", metavar="NAME", help="The job, by its resource.", autocompletion=complete_resource
        ),
    ] = None,
    cron: Annotated[
        str | None, typer.Option("--cron", metavar="'0 2 * * *'", help="Five cron fields; '' for: only by hand.")
    ] = None,
    timeout: Annotated[
        int | None, typer.Option("--timeout", min=1, metavar="SECONDS", help="How long one run of it may take.")
    ] = None,
    enable: Annotated[bool | None, typer.Option("--enable/--disable", help="Switch the job on or off.")] = None,
) -> None:
    """Set when a job runs, and for how long it may: schedule --job-id 1 --cron "0 2 * * *"."""
    if ctx.invoked_subcommand is not None:
        return
    if (job_id is None) == (resource is None):
        raise ConfigurationError(
            "Say which job: --job-id N or --resource NAME. `trialsync-etl list` shows all of them."
        )
    if cron is None and enable is None and timeout is None:
        raise ConfigurationError("Say what: --cron '0 2 * * *', --timeout SECONDS, --enable or --disable.")
    endpoint: Endpoint = find_endpoint(job_id if job_id is not None else str(resource))
    settings = _settings()
    from clinical_conductor import schedule as schedules
    from clinical_conductor.cron import check_cron
    from clinical_conductor.execution import open_database
    from clinical_conductor.monitoring import zone_of

    if cron:
        check_cron(cron)
    with open_database(settings) as conn:
        if cron is not None:
            schedules.set_schedule(conn, endpoint, cron or None)
        if timeout is not None:
            schedules.set_timeout(conn, endpoint, timeout)
        if enable is not None:
            schedules.set_enabled(conn, endpoint, enable)
        conn.commit()
        job = next(job for job in schedules.read_schedules(conn) if job.job_id == endpoint.job_id)
    moment = job.next_run(datetime.now(UTC), zone_of(settings))
    _say(f"{job.resource}: {f'next run {moment:%Y-%m-%d %H:%M %Z}' if moment else 'runs only when it is asked for'}.")


@schedule_app.command("list")
def schedule_list(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Every scheduled job with its next run."""
    settings = _settings()
    from clinical_conductor import console
    from clinical_conductor import schedule as schedules
    from clinical_conductor.execution import open_database
    from clinical_conductor.monitoring import zone_of

    zone, now = zone_of(settings), datetime.now(UTC)
    with open_database(settings) as conn:
        jobs = schedules.read_schedules(conn)
    rows: list[dict[str, Any]] = []
    for job in jobs:
        moment = job.next_run(now, zone)
        if job.schedule and job.active:
            rows.append({"job_id": job.job_id, "resource": job.resource, "schedule": job.schedule, "next_run": moment})
    rows.sort(key=lambda row: (row["next_run"] is None, row["next_run"] or now, row["job_id"]))
    for row in [] if as_json else rows:
        moment = row["next_run"]
        row["next_run"] = f"{moment:%Y-%m-%d %H:%M %Z}" if moment else "never: not a schedule"
    empty = "No job has a schedule: trialsync-etl schedule --job-id 1 --cron '0 2 * * *'"
    console.show_rows(rows, ("job_id", "resource", "schedule", "next_run"), as_json=as_json, empty=empty)


@schedule_app.command("export")
def schedule_export(
    crontab: Annotated[bool, typer.Option("--crontab", help="As lines for cron; the only format so far.")] = True,  # noqa: ARG001
    command: Annotated[
        str | None, typer.Option("--command", metavar="PATH", help="How cron finds the command line; its full path.")
    ] = None,
) -> None:
    """Print the schedules as lines for cron, for every active instance."""
    settings = _settings()
    from clinical_conductor import schedule as schedules
    from clinical_conductor.execution import open_database
    from clinical_conductor.instances import scheduled_instances
    from clinical_conductor.monitoring import zone_of

    with open_database(settings) as conn:
        jobs = schedules.read_schedules(conn)
        instances = scheduled_instances(conn)
    sys.stdout.write(schedules.crontab(jobs, zone_of(settings), command or _own_path(), instances))


@alerts_app.command("test")
def alerts_test() -> None:
    """Send a test message to every channel that is set."""
    settings = _settings()
    from clinical_conductor.channels import lacks_apprise, send_test

    if lacks_apprise(settings):
        _need("apprise")
    failed = send_test(settings)
    _say(f"Sent: {', '.join(name for name in settings.alert_channels if name not in failed) or 'nothing'}.")
    if failed:
        _say(f"Not sent: {', '.join(failed)}. Check the address, and that this machine may reach it.")
        raise typer.Exit(1)


@alerts_app.command("check")
def alerts_check() -> None:
    """Look once and tell what is new; finds runs that were killed or never began, too. Always ends with 0."""
    settings = _settings()
    from clinical_conductor.alerts import check_alerts
    from clinical_conductor.channels import lacks_apprise
    from clinical_conductor.execution import open_database

    if lacks_apprise(settings):
        _need("apprise")
    with contextlib.suppress(TrialSyncError), open_database(settings):
        pass  # closes what a killed process left open, so that it is told as failed now and not as stuck later
    told = check_alerts(settings)
    _say(f"{told.new} new, {told.over} over, {'sent' if told.sent else 'nothing sent'}.")


def _settings() -> Settings:
    """The settings of this process, with the logs sent where they say and every secret masked in them."""
    from clinical_conductor.logs import configure_logging

    settings = load_settings()
    configure_logging(settings, secrets=(_token(),))
    return settings


def _token() -> str:
    """The token of the environment or .env."""
    return (read_environment().get(SERVE_SETTINGS["token"].env) or "").strip()


def _need(*packages: str) -> None:
    """Refuse a command whose packages are not installed, before anything else happens.

    Raises:
        ConfigurationError: with the command that installs them.
    """
    absent = [name for name in packages if find_spec(name) is None]
    if absent:
        raise ConfigurationError(f"Not installed: {', '.join(absent)}. pip install 'trialsync[serve]' brings them.")


def _own_path() -> str:
    """The command line's full path, for cron, whose PATH is short."""
    path = Path(sys.argv[0])
    return shlex.quote(str(path.resolve())) if path.name == "trialsync-etl" else "trialsync-etl"


def _say(text: str) -> None:
    """One line for the person at the terminal."""
    typer.echo(text, err=True)
