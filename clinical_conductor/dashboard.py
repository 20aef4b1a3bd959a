"""The dashboard: one page drawn from a snapshot, self-contained, without scripts and without downloads.

`page(snapshot)` is the front page of `serve` and, with `static=True`, the file of `dashboard --html`, which carries
the detail of every latest run inside. `run_page(run, …)` is one run. Every text is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from functools import cache
from html import escape
from importlib import resources

from clinical_conductor.catalog import CATEGORIES
from clinical_conductor.charts import day_bars, span, sparkline, stage_timeline
from clinical_conductor.ledger import HEALTH, Job, Night, Run, Snapshot
from clinical_conductor.remedies import remedy_for

OLD = timedelta(days=2)
"""A table that was not loaded for so long is marked."""

_WORDS = {
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
_KINDS = {
    "api": "API",
    "database": "Database",
    "data": "Data",
    "configuration": "Configuration",
    "system": "System",
    "schedule": "Schedule",
    "noted": "Worth knowing",
}


def page(snapshot: Snapshot, *, static: bool = False, version: str = "") -> str:
    """The front page.

    Args:
        snapshot: What to show.
        static: One file for itself: runs are shown inside, instead of being links to the server.
        version: Shown in the footer.
    """
    zone = snapshot.zone
    runs = [job.last for job in snapshot.active if job.last] if static else []
    body = [
        _night(snapshot),
        _troubles(snapshot.troubles, static, zone),
        _jobs(snapshot, static),
        '<div class="pair">',
        _freshness(snapshot),
        f"<div>{_owed(snapshot.active)}{_quarantine(snapshot.active)}</div>",
        "</div>",
        '<div class="pair">',
        _checks(snapshot),
        _transformations(snapshot),
        "</div>",
        _inactive(snapshot.jobs),
        *(f'<section class="run-page" id="run-{run.id}">{_run_body(run, zone)}</section>' for run in runs),
    ]
    nav = [
        ("What needs you", "#needs"),
        ("Jobs", "#jobs"),
        ("Freshness", "#fresh"),
        ("Owed", "#owed"),
        ("Quality", "#quality"),
    ]
    if not static:
        nav.append(("API", "/openapi.json"))
    return _document(
        f"{snapshot.night.headline} · TrialSync", "".join(body), snapshot.taken_at, zone, nav, version, static
    )


def run_page(
    run: Run,
    earlier: Sequence[Run],
    reasons: Sequence[tuple[str, int]],
    now: datetime,
    zone: tzinfo,
    *,
    version: str = "",
) -> str:
    """One run: what it did, where its time went, and the runs before it.

    Args:
        run: The run.
        earlier: Runs of the same job, newest first.
        reasons: Why records of this run are in quarantine, and how many.
        now: When the page was made.
        zone: For the times.
        version: Shown in the footer.
    """
    rows = [
        (
            f'<a href="/runs/{other.id}">{other.id}</a>',
            _chip(other.status),
            _time(other.started_at, zone),
            span(other.seconds),
            f"{other.records_read:,}",
            f"{other.changed:,}",
        )
        for other in earlier
    ]
    columns = ("Run", "=Status", "Began", "#Took", "#Read", "#Changed")
    history = _section("runs", "Runs of this job", _table(columns, rows)) if rows else ""
    body = f'<section class="run-page open">{_run_body(run, zone, reasons)}</section>{history}'
    return _document(
        f"Run {run.id} of {run.resource} · TrialSync", body, now, zone, [("All jobs", "/")], version, False
    )


@cache
def style() -> str:
    """The page's style sheet."""
    return resources.files("clinical_conductor").joinpath("dashboard.css").read_text(encoding="utf-8")


def _document(
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
        f'<span class="when">{kind} {_time(now, zone)}</span></header><main id="main">{body}</main>'
        f"<footer>TrialSync {escape(version)} · read from the run ledger (dw_etl_runs); times are {escape(str(zone))}. "
        "No patient data is shown here.</footer></div></body></html>"
    )


def _time(moment: datetime | None, zone: tzinfo) -> str:
    """A moment on the wall of the schedules' zone."""
    if moment is None:
        return "–"
    local = moment.astimezone(zone)
    return f'<time datetime="{moment.isoformat(timespec="seconds")}">{local:%d %b %H:%M}</time>'


def _ago(moment: datetime | None, now: datetime) -> str:
    """How long ago, for people."""
    return "never" if moment is None else span(max((now - moment).total_seconds(), 0)) + " ago"


def _chip(word: str) -> str:
    """A status, told by word, colour and shape."""
    kind = "ok" if word == "success" else word
    return f'<span class="chip is-{escape(kind)}">{escape(_WORDS.get(word, word))}</span>'


def _run_link(run: Run, text: str, static: bool) -> str:
    """A link to one run, on the server or further down in the same file."""
    return f'<a href="{"#run-" if static else "/runs/"}{run.id}">{escape(text)}</a>'


def _label(job: Job) -> str:
    """A job's name, with its instance where there are several."""
    return job.resource + (f" @ {job.instance}" if job.instance else "")


def _section(anchor: str, title: str, inner: str, *, note: str = "") -> str:
    """A titled panel; `note` stands beside the title."""
    beside = f'<span class="note">{note}</span>' if note else ""
    return f'<section id="{anchor}"><h2>{title}{beside}</h2><div class="panel scroll">{inner}</div></section>'


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
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


def _group(title: str, inner: str, note: str = "") -> str:
    """A panel with its title inside."""
    return f'<div class="panel group"><h3>{title} <span class="muted small">{note}</span></h3>{inner}</div>'


def _empty(text: str) -> str:
    """What stands where there is nothing to show."""
    return f'<p class="empty">{text}</p>'


def _command(command: str) -> str:
    """A command to copy."""
    return f'<div class="command"><span>Mend it with</span><code tabindex="0">{escape(command)}</code></div>'


def _night(snapshot: Snapshot) -> str:
    """Last night at a glance."""
    night = snapshot.night
    took = (
        f"{_time(night.began_at, snapshot.zone)} to {_time(night.ended_at, snapshot.zone)}, "
        f"{span((night.ended_at - night.began_at).total_seconds())}"
        if night.began_at and night.ended_at
        else f"Began {_time(night.began_at, snapshot.zone)}"
        if night.began_at
        else f"Next run {_time(min((j.next_run for j in snapshot.active if j.next_run), default=None), snapshot.zone)}"
    )
    quarantined = sum(job.quarantined for job in snapshot.active)
    tiles = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{value}{f'<small>{escape(more)}</small>' if more else ''}</dd></div>"
        for name, value, more in _tiles(night, len(snapshot.active), quarantined)
    )
    return (
        f'<section class="panel night {night.verdict}" aria-label="Last night"><div class="split"><div>'
        f'<div class="kicker">Last 24 hours</div><h1>{escape(night.headline)}</h1><div class="muted">{took}</div></div>'
        f"<figure>{day_bars(snapshot.days)}<figcaption><span>Runs per day, 14 days</span><span>"
        '<span class="key" style="--c:var(--ok)"></span>succeeded '
        '<span class="key" style="--c:var(--bad)"></span>failed</span></figcaption></figure></div>'
        f'<dl class="tiles">{tiles}</dl></section>'
    )


def _tiles(night: Night, active: int, quarantined: int) -> list[tuple[str, str, str]]:
    """The numbers under the headline: name, value, and what stands behind it."""
    return [
        ("Jobs succeeded", f"{night.counts.get('success', 0)} of {active}", ""),
        ("Rows new", f"{night.inserted:,}", f"{night.unchanged:,} unchanged"),
        ("Rows updated", f"{night.updated:,}", f"{night.deleted:,} deleted"),
        ("Requests", f"{night.requests:,}", f"{night.retries:,} retried, {night.throttled:,} throttled"),
        ("Parents owed", f"{night.owed:,}", "asked for in coming runs" if night.owed else ""),
        ("Quarantined", f"{quarantined:,}", f"{night.rejected:,} last night" if quarantined else ""),
    ]


def _kind(job: Job) -> str:
    """Which group of failures a job belongs to."""
    last = job.last
    if job.health == "overdue":
        return "schedule"
    if job.health == "attention" and last is not None:
        return "data" if last.rejected else "api" if last.parents_failed else "noted"
    return (last.error_category if last else None) or "system"


def _troubles(jobs: Sequence[Job], static: bool, zone: tzinfo) -> str:
    """Failures by category, each with the command that mends it."""
    if not jobs:
        return _section("needs", "What needs you", _empty("Nothing. Every active job is fine."))
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(_kind(job), []).append(job)
    several = sum(job.health == "failed" for job in jobs) > 1
    hint = "All failed jobs at once: <code>trialsync-etl retry --failed</code>" if several else ""
    parts = []
    for kind in sorted(groups, key=lambda kind: (kind == "noted", HEALTH.index(groups[kind][0].health))):
        count = len(groups[kind])
        lines = [_trouble(job, static, zone) for job in groups[kind]]
        rows = "".join(lines[:8])
        if lines[8:]:
            rows += f"<details><summary>{len(lines) - 8} more</summary>{''.join(lines[8:])}</details>"
        parts.append(_group(escape(_KINDS.get(kind, kind)), rows, f"{count} job{'s' if count > 1 else ''}"))
    title = f'<h2>What needs you<span class="note">{hint}</span></h2>'
    return f'<section id="needs">{title}<div class="groups">{"".join(parts)}</div></section>'


def _trouble(job: Job, static: bool, zone: tzinfo) -> str:
    """One job that somebody has to look at."""
    last, failed = job.last, job.health == "failed"
    name = _run_link(last, _label(job), static) if last else f"<b>{escape(_label(job))}</b>"
    beside = ""
    said: list[str] = []
    if last:
        kind = f"{escape(last.error_type)} · " if failed and last.error_type else ""
        beside = f'<span class="muted small">{kind}{_time(last.started_at, zone)}</span>'
        text = last.error if failed else last.warning
        said = [f"<p>{escape(text)}</p>"] if text else []
    if job.remedy:
        said.append(f'<p class="muted small">{escape(job.remedy.meaning)}</p>')
    what = f'<div class="what">{name}{_chip(job.health)}{beside}</div>'
    command = _command(job.remedy.command) if job.remedy else ""
    return f'<div class="trouble"><div>{what}{"".join(said)}</div>{command}</div>'


def _jobs(snapshot: Snapshot, static: bool) -> str:
    """Every active job: status, duration, rows and trend."""
    columns = ("Job", "=Status", "Last run", "#Took", "#Read", "#Changed", "Trend of duration", "Next run")
    rows: list[tuple[str, ...]] = []
    for category in (*CATEGORIES, ""):
        known = category in CATEGORIES
        jobs = [j for j in snapshot.active if (j.category == category if known else j.category not in CATEGORIES)]
        if not jobs:
            continue
        bad = sum(job.health in HEALTH[:4] for job in jobs)
        title = f"{escape(category.capitalize() or 'Other')} · {len(jobs)}" + (f" · {bad} need you" if bad else "")
        rows.append((f'<tr class="category"><th colspan="{len(columns)}" scope="rowgroup">{title}</th></tr>',))
        rows.extend(_job_row(job, snapshot, static) for job in jobs)
    return _section("jobs", "Jobs", _table(columns, rows), note=f"{len(snapshot.active)} active")


def _job_row(job: Job, snapshot: Snapshot, static: bool) -> tuple[str, ...]:
    """One line of the table of jobs."""
    last = job.last
    name = _run_link(last, _label(job), static) if last else escape(_label(job))
    return (
        f"{name} <small>{job.id}</small>",
        _chip(job.health),
        _ago(last.started_at if last else None, snapshot.taken_at),
        span(last.seconds if last else None),
        f"{last.records_read:,}" if last else "–",
        f"{last.changed:,}" if last else "–",
        sparkline(job.runs) or "–",
        _time(job.next_run, snapshot.zone) if job.schedule else "by hand",
    )


def _freshness(snapshot: Snapshot) -> str:
    """How old each staging table is, oldest first."""
    never = datetime.min.replace(tzinfo=UTC)
    loaded: dict[str, datetime] = {}
    for job in snapshot.active:
        loaded[job.table] = max(loaded.get(job.table, never), job.last_success_at or never)
    rows = []
    for table, moment in sorted(loaded.items(), key=lambda item: (item[1], item[0])):
        age = snapshot.taken_at - moment
        text = "never loaded" if moment == never else span(age.total_seconds())
        old = f'<span class="chip is-overdue">{text}</span>' if age > OLD else text
        rows.append((escape(table), _time(moment if moment > never else None, snapshot.zone), old))
    columns = ("Table", "Last success", "#Age")
    more = f"<details><summary>{len(rows) - 8} more</summary>{_table(columns, rows[8:])}</details>" if rows[8:] else ""
    return _section("fresh", "Freshness", _table(columns, rows[:8]) + more, note="oldest first")


def _owed(jobs: Sequence[Job]) -> str:
    """The parents whose children are still to be asked for."""
    rows = [
        (escape(_label(job)), f"{job.owed:,}", f"{job.parents_failed:,}", f"{job.parents_gone:,}")
        for job in sorted(jobs, key=lambda job: -job.owed)
        if job.owed or job.parents_failed or job.parents_gone
    ]
    columns = ("Job", "#Owed", "#Failed", "#Gone upstream")
    return _section("owed", "Owed parents", _table(columns, rows) if rows else _empty("None: every parent was asked."))


def _quarantine(jobs: Sequence[Job]) -> str:
    """Records that could not be staged, per table."""
    rows = [(escape(job.table), f"{job.quarantined:,}") for job in jobs if job.quarantined]
    empty = _empty("Empty: every record served is staged.")
    return _section("quarantine", "Quarantine", _table(("Table", "#Records"), rows) if rows else empty)


def _checks(snapshot: Snapshot) -> str:
    """Data quality: what was checked and what was found."""
    if not snapshot.checks:
        return _section("quality", "Data quality", _empty("No check has run yet: <code>trialsync-etl check</code>"))
    rows = [
        (
            f"{escape(check.name)} <small>{escape(check.severity)}</small>"
            + (f'<small class="what">{escape(check.description)}</small>' if not check.passed else ""),
            _chip(check.health),
            f"{check.failures:,}",
        )
        for check in sorted(snapshot.checks, key=lambda check: (HEALTH.index(check.health), check.name))
    ]
    note = f"{len(snapshot.failed_checks)} of {len(snapshot.checks)} found something"
    return _section("quality", "Data quality", _table(("Check", "=Result", "#Rows"), rows), note=note)


def _transformations(snapshot: Snapshot) -> str:
    """Silver and gold: the latest run of every procedure."""
    if not snapshot.transformations:
        return _section("warehouse", "Warehouse", _empty("Nothing has run yet: <code>trialsync-etl transform</code>"))
    rows = [
        (
            escape(step.name) + (f"<small>{escape(step.error)}</small>" if step.error else ""),
            _chip(step.status),
            span(step.seconds),
            f"{step.inserted + step.updated + step.expired + step.deleted:,}",
        )
        for step in sorted(snapshot.transformations, key=lambda step: (step.status == "success", step.name))
    ]
    return _section("warehouse", "Warehouse", _table(("Procedure", "=Status", "#Took", "#Changed"), rows))


def _inactive(jobs: Iterable[Job]) -> str:
    """The jobs that are off, and why."""
    rows = [
        (f"{escape(_label(job))} <small>{job.id}</small>", escape(job.inactive_reason or "switched off"))
        for job in jobs
        if not job.active
    ]
    if not rows:
        return ""
    inner = f"<details><summary>{len(rows)} jobs are off</summary>{_table(('Job', 'Why'), rows)}</details>"
    return f'<section><div class="panel">{inner}</div></section>'


def _run_body(run: Run, zone: tzinfo, reasons: Sequence[tuple[str, int]] = ()) -> str:
    """Everything about one run."""
    title = f"<h1>{escape(run.resource)}</h1>"
    where = f'<span class="muted">run {run.id}, job {run.job_id}</span>'
    timeline = f"<h2>Where the time went</h2>{stage_timeline(run.stages, run.seconds)}"
    facts = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in _facts(run, zone))
    found = [(escape(reason), f"{count:,}") for reason, count in reasons]
    aside = _section("reasons", "Why records were set aside", _table(("Reason", "#Records"), found)) if found else ""
    return (
        f'<div class="title">{title}{where}{_chip(run.status)}</div><div class="groups">{_run_trouble(run)}'
        f'<div class="panel stages">{timeline}</div><dl class="panel facts">{facts}</dl></div>{aside}'
    )


def _run_trouble(run: Run) -> str:
    """What went wrong in a run, and what it warned about."""
    parts = []
    if run.status == "failed":
        remedy = remedy_for(run.error_type, job_id=run.job_id, resource=run.resource, run_id=run.id)
        text = run.error or "An older version recorded this failure. Its text is not shown, for it may quote data."
        said = f'<p>{escape(text)}</p><p class="muted small">{escape(remedy.meaning)}</p>'
        what = f'<div class="what"><b>{escape(run.error_type or "Failed")}</b></div>'
        parts.append(f'<div class="panel trouble"><div>{what}{said}</div>{_command(remedy.command)}</div>')
    if run.warning:
        parts.append(f'<div class="panel trouble"><p>{escape(run.warning)}</p></div>')
    return "".join(parts)


def _facts(run: Run, zone: tzinfo) -> list[tuple[str, str]]:
    """The numbers of a run."""
    facts: list[tuple[str, str]] = [
        ("Began", _time(run.started_at, zone)),
        ("Took", span(run.seconds)),
        ("Records read", f"{run.records_read:,}"),
        ("New", f"{run.inserted:,}"),
        ("Updated", f"{run.updated:,}"),
        ("Unchanged", f"{run.unchanged:,}"),
        ("Deleted", f"{run.deleted:,}"),
        ("Quarantined", f"{run.rejected:,}"),
        ("Served twice", f"{run.duplicates:,}"),
        ("Requests", f"{run.requests:,}"),
        ("Retries, throttled", f"{run.retries:,}, {run.throttled:,}"),
        ("Mean answer", span(run.request_seconds / run.requests) if run.requests else "–"),
        ("Waited for the limit", span(run.limiter_wait_seconds)),
    ]
    if run.upstream_count is not None and run.staged_count is not None:
        facts.append(("Upstream, staged", f"{run.upstream_count:,}, {run.staged_count:,}"))
    if run.parents_total is not None:
        facts += [
            ("Parents asked", f"{run.parents_fetched or 0:,} of {run.parents_total:,}"),
            ("Parents failed", f"{run.parents_failed:,}"),
            ("Parents owed", f"{run.parents_owed or 0:,}"),
        ]
    if run.instance:
        facts.append(("Instance", escape(run.instance)))
    if run.host:
        facts.append(("Host, process", f"{escape(run.host)}, {run.process_id}"))
    if run.full_refresh:
        facts.append(("Mode", "full refresh"))
    if run.retry_of:
        facts.append(("Retry of run", str(run.retry_of)))
    return facts
