"""The warehouse's commands: `trialsync-etl transform`, `check` and `roles`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from clinical_conductor import console, database, migrations, quality, warehouse
from clinical_conductor.errors import ConfigurationError
from clinical_conductor.logs import configure_logging
from clinical_conductor.settings import load_settings

TRANSFORM_COLUMNS = (
    "procedure",
    "status",
    "rows_inserted",
    "rows_updated",
    "rows_expired",
    "rows_deleted",
    "rows_rejected",
    "seconds",
)
CHECK_COLUMNS = ("check", "severity", "result", "failures")

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def transform_command(
    procedure: Annotated[
        list[str] | None, typer.Option("--procedure", "-p", metavar="NAME", help="A procedure by name; repeatable.")
    ] = None,
    dimensions: Annotated[bool, typer.Option("--dimensions", help="All dimensions.")] = False,
    facts: Annotated[bool, typer.Option("--facts", help="All facts.")] = False,
    views: Annotated[bool, typer.Option("--views", help="All materialized views.")] = False,
    full_refresh: Annotated[
        bool, typer.Option("--full-refresh", help="Compare everything, not only what changed; history stays.")
    ] = False,
    params: Annotated[
        list[str] | None,
        typer.Option("--params", metavar="K=V", help="A parameter of the procedures: full_refresh=true."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Bring silver and gold up to date with staging: what is named, or everything. `run` does this by itself."""
    given = dict(_pair(text) for text in params or ())
    known = warehouse.read_params(given)
    url = _database_url()
    results = warehouse.transform(
        url,
        procedures=procedure,
        dimensions=dimensions,
        facts=facts,
        views=views,
        full_refresh=full_refresh or bool(known.get("full_refresh")),
    )
    console.show_rows([asdict(row) for row in results], TRANSFORM_COLUMNS, as_json=as_json)
    for row in results:
        if row.error:
            console.say(f"{row.procedure}: {row.error}")
    if any(row.status != "success" for row in results):
        raise typer.Exit(1)


def check_command(
    name: Annotated[
        list[str] | None, typer.Option("--name", "-n", metavar="NAME", help="A check by name; repeatable.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check the data of the warehouse. Exit code 1 when a check of severity error fails; warnings are reported."""
    results = quality.run_checks(_database_url(), names=name)
    rows = [
        {**asdict(row), "check": row.name, "result": "passed" if row.passed else "failed"}
        for row in sorted(results, key=lambda row: (row.passed, row.severity, row.name))
    ]
    console.show_rows(rows, CHECK_COLUMNS, as_json=as_json)
    for row in results:
        if not row.passed:
            console.say(f"{row.name}: {row.error or row.description}")
    if any(not row.passed and row.severity == "error" for row in results):
        raise typer.Exit(1)


def roles_command() -> None:
    """Create or update the database roles: loader, transformer, analyst, PHI reader and monitor."""
    for name in migrations.apply_roles(_database_url()):
        print(f"trialsync_{name.partition('_')[2]}")  # noqa: T201


def _pair(text: str) -> tuple[str, str]:
    """The name and the value of a K=V."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigurationError(f"--params {text}: give it as name=value, such as full_refresh=true.")
    return name, value


def _database_url() -> str:
    """The database of the settings, with its schema up to date."""
    settings = load_settings()
    configure_logging(settings)
    url = database.database_url(settings)
    with database.connect(url) as conn:
        migrations.migrate(conn)
    return url
