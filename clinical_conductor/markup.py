"""What the dashboard's pages are built of: the frame, panels, tables, chips, commands. Every text is escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime, tzinfo
from functools import cache
from html import escape
from importlib import resources

from clinical_conductor.charts import span
from clinical_conductor.ledger import Job, Run
from clinical_conductor.remedies import Remedy

WORDS = {
    "ok": "OK",
    "failed": "Failed",
    "stuck": "Stuck",
    "overdue": "Overdue",
    "attention": "Attention",
    "running": "Running",
    "skipped": "Skipped",
    "never": "Never ran",
    "inactive": "Off",
    "success": "OK",
    "error": "Failed",
}


@cache
def style() -> str:
    """The page's style sheet."""
    return resources.files("clinical_conductor").joinpath("dashboard.css").read_text(encoding="utf-8")


def document(
    title: str, body: str, now: datetime, zone: tzinfo, nav: Iterable[tuple[str, str]], version: str, static: bool
) -> str:
    """The frame around every page."""
    links = "".join(f'<a href="{href}">{escape(text)}</a>' for text, href in nav)
    home = "#top" if static else "/"
    kind = "Snapshot of" if static else "As of"
    return (
        '<!doctype html><html lang="en" id="top"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex">'
        f'<link rel="icon" href="data:,"><title>{escape(title)}</title><style>{style()}</style></head><body>'
        '<a class="skip" href="#main">Skip to the content</a><div class="page">'
        f'<header class="top"><a class="brand" href="{home}">TrialSync</a><nav aria-label="Sections">{links}</nav>'
        f'<span class="when">{kind} {moment_of(now, zone)}</span></header><main id="main">{body}</main>'
        f"<footer>TrialSync {escape(version)} · read from the run ledger (dw_etl_runs); times are {escape(str(zone))}. "
        "No patient data is shown here.</footer></div></body></html>"
    )


def moment_of(moment: datetime | None, zone: tzinfo) -> str:
    """A moment on the wall of the schedules' zone."""
    if moment is None:
        return "–"
    local = moment.astimezone(zone)
    return f'<time datetime="{moment.isoformat(timespec="seconds")}">{local:%d %b %H:%M}</time>'


def ago(moment: datetime | None, now: datetime) -> str:
    """How long ago, for people."""
    return "never" if moment is None else span(max((now - moment).total_seconds(), 0)) + " ago"


def chip(word: str) -> str:
    """A status, told by word, colour and shape."""
    kind = "ok" if word == "success" else word
    return f'<span class="chip is-{escape(kind)}">{escape(WORDS.get(word, word))}</span>'


def run_link(run: Run, text: str, static: bool) -> str:
    """A link to one run, on the server or further down in the same file."""
    return f'<a href="{"#run-" if static else "/runs/"}{run.id}">{escape(text)}</a>'


def label(job: Job) -> str:
    """A job's name, with its instance where there are several."""
    return job.resource + (f" @ {job.instance}" if job.instance else "")


def section(anchor: str, title: str, inner: str, *, note: str = "") -> str:
    """A titled panel; `note` stands beside the title."""
    beside = f'<span class="note">{note}</span>' if note else ""
    return f'<section id="{anchor}"><h2>{title}{beside}</h2><div class="panel scroll">{inner}</div></section>'


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table that becomes a list of cards on a phone. A column's "#" is a number, "=" a status; cells are HTML."""
    heads = "".join(f'<th{_kind_of(name)} scope="col">{name.lstrip("#=")}</th>' for name in columns)
    lines = "".join(row[0] if len(row) == 1 else f"<tr>{_cells(columns, row)}</tr>" for row in rows)
    return f'<table class="cards"><thead><tr>{heads}</tr></thead><tbody>{lines}</tbody></table>'


def _cells(columns: Sequence[str], row: Sequence[str]) -> str:
    """The cells of one line; the first one names it."""
    first, *rest = row
    cells = [f'<th scope="row">{first}</th>']
    for name, cell in zip(columns[1:], rest, strict=True):
        label = "" if name.startswith("=") else f' data-label="{name.lstrip("#")}"'
        cells.append(f"<td{_kind_of(name)}{label}>{cell}</td>")
    return "".join(cells)


def _kind_of(column: str) -> str:
    """The class of a column's cells."""
    return {"#": ' class="num"', "=": ' class="state"'}.get(column[:1], "")


def group(title: str, inner: str, note: str = "") -> str:
    """A panel with its title inside."""
    return f'<div class="panel group"><h3>{title} <span class="muted small">{note}</span></h3>{inner}</div>'


def empty(text: str) -> str:
    """What stands where there is nothing to show."""
    return f'<p class="empty">{text}</p>'


def prose(text: str) -> str:
    """A message, with what it quotes in `…` as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


def code(command: str) -> str:
    """A command to copy."""
    return f'<code tabindex="0">{escape(command)}</code>'


def mend_with(remedy: Remedy) -> str:
    """What mends a trouble, to copy."""
    return f'<div class="command"><span>Mend it with</span>{code(remedy.command)}</div>'
