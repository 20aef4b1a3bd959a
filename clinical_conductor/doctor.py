"""`trialsync-etl doctor`: does the API answer, does the database, and what does this instance do its own way?

It reads and writes nothing. `--fix` alone writes: into dw_etl_jobs.source_endpoint, the paths that were found to answer
(and it brings the schema up to date for that). What is printed holds no record, no id of one and no key, so that it can
be pasted into a ticket.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Annotated, Any

import typer
from rich.text import Text

from clinical_conductor import console
from clinical_conductor.catalog import ENDPOINTS
from clinical_conductor.diagnosis import LEVELS, Level, Report, examine, skew, sorted_findings
from clinical_conductor.logs import configure_logging
from clinical_conductor.probing import Probe
from clinical_conductor.selection import complete_resources, named_endpoints
from clinical_conductor.settings import load_settings

COLOURS: dict[Level, str] = {"error": "bold red", "warning": "yellow", "note": "cyan"}
ENDPOINT_COLUMNS = ("job_id", "resource", "answer", "shape", "paging", "cursor")


def show(report: Report) -> None:
    """Print a report as people read it: what it is about, the endpoints, and what to do."""
    out = console.output()

    def line(name: str, text: str) -> None:
        out.print(Text.assemble((f"{name:<10}", "bold"), text), soft_wrap=True)

    line("API", report.base_url or "not configured")
    if report.access is not None and report.access.error is None:
        line("", f"the key is taken in {report.access.key_header}")
    pace = report.pace
    if pace is not None and pace.median is not None and pace.slow is not None:
        line("", f"{pace.requests} requests, median {pace.median:.3f} s, 95 % under {pace.slow:.3f} s")
    if pace is not None and pace.clock_ahead is not None:
        line("", f"its clock is {skew(pace.clock_ahead)} this machine's")
    if report.document is not None:
        line("", f"OpenAPI document at {report.document.path}, {report.document.paths} paths")
    for number, text in enumerate(report.database.lines()):
        line("Database" if number == 0 else "", text)
    if report.probes:
        out.print()
        rows = [_row(probe, off=not report.switches[probe.endpoint.job_id][0]) for probe in report.probes.values()]
        console.show_rows(rows, ENDPOINT_COLUMNS)
    out.print()
    for text in report.fixed:
        out.print(Text.assemble(("fixed", "green"), f"  {text}"), soft_wrap=True)
    for finding in sorted_findings(report.findings):
        out.print(Text.assemble((finding.level, COLOURS[finding.level]), f"  {finding.text}"), soft_wrap=True)
    counts = Counter(finding.level for finding in report.findings)
    active = [probe for probe in report.probes.values() if report.switches[probe.endpoint.job_id][0]]
    answering = sum(probe.status == "ok" for probe in active)
    out.print(
        f"{answering} of {len(active)} active endpoints answer · "
        + ", ".join(f"{counts[level]} {level}s" if counts[level] != 1 else f"1 {level}" for level in LEVELS),
        soft_wrap=True,
    )


def _row(probe: Probe, *, off: bool) -> dict[str, Any]:
    """One endpoint as a line of the table."""
    cursor = probe.found.cursor or ""
    if cursor and probe.cursor_filter not in ("honoured", None):
        cursor += f" {probe.cursor_filter}"
    return {
        "job_id": probe.endpoint.job_id,
        "resource": probe.endpoint.resource,
        "answer": f"{probe.status} off" if off else probe.status,
        "shape": probe.envelope,
        "paging": probe.paging,
        "cursor": cursor,
    }


def doctor_command(
    resources: Annotated[
        list[str] | None,
        typer.Option(
            "--resources", "-r", metavar="A,B", help="Only these, by name.", autocompletion=complete_resources
        ),
    ] = None,
    instance: Annotated[
        str | None, typer.Option("--instance", metavar="NAME", help="Instance, as dw_api_credentials names it.")
    ] = None,
    fix: Annotated[
        bool, typer.Option("--fix", help="Write the paths that answer into dw_etl_jobs; says what it wrote.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check API, database and every endpoint. Exit code 1 for errors; safe to paste into a ticket."""
    named, _ = named_endpoints(resources or ())
    settings = load_settings()
    configure_logging(settings)
    rows = named or list(ENDPOINTS.values())
    with console.RunProgress(row.resource for row in rows) as progress:
        report = examine(settings, rows, instance=instance, fix=fix, on_progress=progress)
    if as_json:
        print(json.dumps(report.as_json(), indent=2))  # noqa: T201
    else:
        show(report)
    if report.severity == "error":
        raise typer.Exit(1)
