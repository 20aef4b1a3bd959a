"""The dashboard's pages: drawn from a snapshot, self-contained, without scripts and without downloads.

`page(snapshot)` is the front page of `serve` and, with `static=True`, the file of `dashboard --html`, which carries
the detail of every latest run inside. `run_page(run, …)` is one run. Every text is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from html import escape

from clinical_conductor.catalog import CATEGORIES
from clinical_conductor.charts import day_bars, span, sparkline, stage_timeline
from clinical_conductor.ledger import HEALTH, Job, Night, Run, Snapshot
from clinical_conductor.markup import (
    WORDS,
    ago,
    chip,
    code,
    document,
    empty,
    group,
    label,
    mend_with,
    moment_of,
    prose,
    run_link,
    section,
    table,
)
from clinical_conductor.remedies import NO_LEDGER, QUALITY, TRANSFORMATION, Remedy, remedy_for, wants_retry

OLD = timedelta(days=2)
"""A table that was not loaded for so long is marked."""

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
        _troubles(snapshot, static),
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
    return document(
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
        earlier: Runs of the same job, newest first, later ones included.
        reasons: Why records of this run are in quarantine, and how many.
        now: When the page was made.
        zone: For the times.
        version: Shown in the footer.
    """
    rows = [
        (
            f'<a href="/runs/{other.id}">{other.id}</a>',
            chip(other.status),
            moment_of(other.started_at, zone),
            span(other.seconds),
            f"{other.records_read:,}",
            f"{other.changed:,}",
        )
        for other in earlier
    ]
    columns = ("Run", "=Status", "Began", "#Took", "#Read", "#Changed")
    history = section("runs", "Runs of this job", table(columns, rows)) if rows else ""
    mended = next((other for other in earlier if other.id > run.id and other.status == "success"), None)
    body = f'<section class="run-page open">{_run_body(run, zone, reasons, mended)}</section>{history}'
    return document(f"Run {run.id} of {run.resource} · TrialSync", body, now, zone, [("All jobs", "/")], version, False)


def trouble_page(kind: str, now: datetime, zone: tzinfo, *, version: str = "") -> str:
    """What a person sees when the ledger cannot be read; `kind` is the error's class."""
    remedy = NO_LEDGER.get(kind, Remedy("the ledger cannot be read", "trialsync-etl doctor"))
    headline = f"{remedy.meaning[0].upper()}{remedy.meaning[1:]}"
    body = (
        '<section class="panel night failed"><div class="kicker">Nothing is known of the jobs</div>'
        f'<h1>{escape(headline)}</h1><p class="muted">{escape(kind)}. What was committed is safe. Once the database '
        "works again, run the jobs that it kept from running.</p>"
        f'<div class="mending"><div class="command"><span>Look with, then run again</span>{code(remedy.command)}'
        f"{code('trialsync-etl run')}</div></div></section>"
    )
    return document(f"{headline} · TrialSync", body, now, zone, [("Try again", "/")], version, False)


def _night(snapshot: Snapshot) -> str:
    """Last night at a glance."""
    night = snapshot.night
    if night.began_at and night.ended_at:
        took = (
            f"{moment_of(night.began_at, snapshot.zone)} to {moment_of(night.ended_at, snapshot.zone)}, "
            f"{span((night.ended_at - night.began_at).total_seconds())}"
        )
    elif night.began_at:
        took = f"Began {moment_of(night.began_at, snapshot.zone)}"
    else:
        coming = min((job.next_run for job in snapshot.active if job.next_run), default=None)
        took = f"Next run {moment_of(coming, snapshot.zone)}"
    quarantined = sum(job.quarantined for job in snapshot.active)
    tiles = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{value}{f'<small>{escape(more)}</small>' if more else ''}</dd></div>"
        for name, value, more in _tiles(night, len(snapshot.active), quarantined)
    )
    return (
        f'<section class="panel night {night.verdict}" aria-label="Last night"><div class="split"><div>'
        f'<div class="kicker">Last 24 hours</div><h1>{escape(night.headline)}</h1><div class="muted">{took}</div>'
        f"{_mending(snapshot)}</div>"
        f"<figure>{day_bars(snapshot.days)}<figcaption><span>Runs per day, 14 days</span><span>"
        '<span class="key" style="--c:var(--ok)"></span>succeeded '
        '<span class="key" style="--c:var(--bad)"></span>failed</span></figcaption></figure></div>'
        f'<dl class="tiles">{tiles}</dl></section>'
    )


def _mending(snapshot: Snapshot) -> str:
    """On a bad night: what failed, why if all of it failed for one reason, and what to type."""
    if not snapshot.commands:
        return ""
    bad = [job for job in snapshot.troubles if job.health in HEALTH[:3]]
    names = [label(job) for job in bad]
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if names[4:] else "")
    meanings = {job.remedy.meaning for job in bad if job.remedy}
    why = f'<p class="why small muted">{escape(meanings.pop())}</p>' if len(meanings) == 1 else ""
    commands = "".join(code(command) for command in snapshot.commands[:3])
    more = f'<p class="small muted">{len(snapshot.commands) - 3} more below</p>' if snapshot.commands[3:] else ""
    return (
        f'<div class="mending">{f"<p>{escape(shown)}</p>" if shown else ""}{why}'
        f'<div class="command"><span>Mend it with</span>{commands}{more}</div></div>'
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


def _troubles(snapshot: Snapshot, static: bool) -> str:
    """Failures by category, each with the command that mends it."""
    groups: dict[str, list[Job]] = {}
    for job in snapshot.troubles:
        groups.setdefault(_kind(job), []).append(job)
    parts = []
    for kind in sorted(groups, key=lambda kind: (kind == "noted", HEALTH.index(groups[kind][0].health))):
        count = len(groups[kind])
        lines = [_trouble(job, static, snapshot.zone) for job in groups[kind]]
        rows = "".join(lines[:8])
        if lines[8:]:
            rows += f"<details><summary>{len(lines) - 8} more</summary>{''.join(lines[8:])}</details>"
        parts.append(group(escape(_KINDS.get(kind, kind)), rows, f"{count} job{'s' if count > 1 else ''}"))
    parts += _warehouse_troubles(snapshot)
    if not parts:
        return section("needs", "What needs you", empty("Nothing. Every active job is fine."))
    return f'<section id="needs"><h2>What needs you</h2><div class="groups">{"".join(parts)}</div></section>'


def _warehouse_troubles(snapshot: Snapshot) -> Iterable[str]:
    """Procedures that failed, and checks of severity error that found something."""
    for title, names, anchor, remedy in (
        ("Warehouse", [step.name for step in snapshot.failed_procedures], "warehouse", TRANSFORMATION),
        ("Data quality", [check.name for check in snapshot.quality_errors], "quality", QUALITY),
    ):
        if names:
            shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if names[4:] else "")
            what = f'<div class="what"><a href="#{anchor}">{escape(shown)}</a>{chip("failed")}</div>'
            said = f'<p class="muted small">{escape(remedy.meaning)}</p>'
            yield group(
                title, f'<div class="trouble"><div>{what}{said}</div>{mend_with(remedy)}</div>', str(len(names))
            )


def _trouble(job: Job, static: bool, zone: tzinfo) -> str:
    """One job that somebody has to look at."""
    last, failed = job.last, job.health == "failed"
    name = run_link(last, label(job), static) if last else f"<b>{escape(label(job))}</b>"
    beside = ""
    said: list[str] = []
    if last:
        kind = f"{escape(last.error_type)} · " if failed and last.error_type else ""
        beside = f'<span class="muted small">{kind}{moment_of(last.started_at, zone)}</span>'
        text = last.error if failed else last.warning
        said = [f"<p>{prose(text)}</p>"] if text else []
    if job.remedy:
        said.append(f'<p class="muted small">{escape(job.remedy.meaning)}</p>')
    what = f'<div class="what">{name}{chip(job.health)}{beside}</div>'
    command = mend_with(job.remedy) if job.remedy else ""
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
    return section("jobs", "Jobs", table(columns, rows), note=f"{len(snapshot.active)} active")


def _job_row(job: Job, snapshot: Snapshot, static: bool) -> tuple[str, ...]:
    """One line of the table of jobs."""
    last = job.last
    name = run_link(last, label(job), static) if last else escape(label(job))
    return (
        f"{name} <small>{job.id}</small>",
        chip(job.health),
        ago(last.started_at if last else None, snapshot.taken_at),
        span(last.seconds if last else None),
        f"{last.records_read:,}" if last else "–",
        f"{last.changed:,}" if last else "–",
        sparkline(job.runs) or "–",
        moment_of(job.next_run, snapshot.zone) if job.schedule else "by hand",
    )


def _freshness(snapshot: Snapshot) -> str:
    """How old each staging table is, oldest first."""
    never = datetime.min.replace(tzinfo=UTC)
    loaded: dict[str, datetime] = {}
    for job in snapshot.active:
        loaded[job.table] = max(loaded.get(job.table, never), job.last_success_at or never)
    rows = []
    for name, moment in sorted(loaded.items(), key=lambda item: (item[1], item[0])):
        age = snapshot.taken_at - moment
        text = "never loaded" if moment == never else span(age.total_seconds())
        old = f'<span class="chip is-overdue">{text}</span>' if age > OLD else text
        rows.append((escape(name), moment_of(moment if moment > never else None, snapshot.zone), old))
    columns = ("Table", "Last success", "#Age")
    more = f"<details><summary>{len(rows) - 8} more</summary>{table(columns, rows[8:])}</details>" if rows[8:] else ""
    return section("fresh", "Freshness", table(columns, rows[:8]) + more, note="oldest first")


def _owed(jobs: Sequence[Job]) -> str:
    """The parents whose children are still to be asked for."""
    rows = [
        (escape(label(job)), f"{job.owed:,}", f"{job.parents_failed:,}", f"{job.parents_gone:,}")
        for job in sorted(jobs, key=lambda job: -job.owed)
        if job.owed or job.parents_failed or job.parents_gone
    ]
    columns = ("Job", "#Owed", "#Failed", "#Gone upstream")
    return section("owed", "Owed parents", table(columns, rows) if rows else empty("None: every parent was asked."))


def _quarantine(jobs: Sequence[Job]) -> str:
    """Records that could not be staged, per table."""
    rows = [(escape(job.table), f"{job.quarantined:,}") for job in jobs if job.quarantined]
    nothing = empty("Empty: every record served is staged.")
    return section("quarantine", "Quarantine", table(("Table", "#Records"), rows) if rows else nothing)


def _checks(snapshot: Snapshot) -> str:
    """Data quality: what was checked and what was found."""
    if not snapshot.checks:
        return section("quality", "Data quality", empty("No check has run yet: <code>trialsync-etl check</code>"))
    rows = [
        (
            f"{escape(check.name)} <small>{escape(check.severity)}</small>"
            + (f'<small class="what">{escape(check.description)}</small>' if not check.passed else ""),
            chip(check.health),
            f"{check.failures:,}",
        )
        for check in sorted(snapshot.checks, key=lambda check: (HEALTH.index(check.health), check.name))
    ]
    note = f"{len(snapshot.failed_checks)} of {len(snapshot.checks)} found something"
    return section("quality", "Data quality", table(("Check", "=Result", "#Rows"), rows), note=note)


def _transformations(snapshot: Snapshot) -> str:
    """Silver and gold: the latest run of every procedure."""
    if not snapshot.transformations:
        return section("warehouse", "Warehouse", empty("Nothing has run yet: <code>trialsync-etl transform</code>"))
    rows = [
        (
            escape(step.name) + (f"<small>{escape(step.error)}</small>" if step.error else ""),
            chip(step.status),
            span(step.seconds),
            f"{step.inserted + step.updated + step.expired + step.deleted:,}",
        )
        for step in sorted(snapshot.transformations, key=lambda step: (step.status == "success", step.name))
    ]
    return section("warehouse", "Warehouse", table(("Procedure", "=Status", "#Took", "#Changed"), rows))


def _inactive(jobs: Iterable[Job]) -> str:
    """The jobs that are off, and why."""
    rows = [
        (f"{escape(label(job))} <small>{job.id}</small>", escape(job.inactive_reason or "switched off"))
        for job in jobs
        if not job.active
    ]
    if not rows:
        return ""
    inner = f"<details><summary>{len(rows)} jobs are off</summary>{table(('Job', 'Why'), rows)}</details>"
    return f'<section><div class="panel">{inner}</div></section>'


def _run_body(run: Run, zone: tzinfo, reasons: Sequence[tuple[str, int]] = (), mended: Run | None = None) -> str:
    """Everything about one run; `mended` is a later one that succeeded."""
    title = f"<h1>{escape(run.resource)}</h1>"
    where = f'<span class="muted">run {run.id}, job {run.job_id}</span>'
    timeline = f"<h2>Where the time went</h2>{stage_timeline(run.stages, run.seconds)}"
    facts = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in _facts(run, zone))
    found = [(escape(reason), f"{count:,}") for reason, count in reasons]
    aside = section("reasons", "Why records were set aside", table(("Reason", "#Records"), found)) if found else ""
    return (
        f'<div class="title">{title}{where}{chip(run.status)}</div><div class="groups">{_run_trouble(run, mended)}'
        f'<div class="panel stages">{timeline}</div><dl class="panel facts">{facts}</dl></div>{aside}'
    )


def _run_trouble(run: Run, mended: Run | None) -> str:
    """What went wrong in a run, and what it warned about."""
    parts = []
    if run.status in ("failed", "skipped"):
        remedy = remedy_for(run.error_type, job_id=run.job_id, resource=run.resource, run_id=run.id)
        text = run.error or "An older version recorded this. Its text is not shown, for it may quote data."
        said = f'<p>{prose(text)}</p><p class="muted small">{escape(remedy.meaning)}</p>'
        what = f'<div class="what"><b>{escape(run.error_type or WORDS[run.status])}</b></div>'
        command = mend_with(remedy) if wants_retry(run.status, run.error_type) else ""
        if mended is not None:
            command = f'<p>Nothing to mend: <a href="/runs/{mended.id}">run {mended.id}</a> succeeded since.</p>'
        parts.append(f'<div class="panel trouble"><div>{what}{said}</div>{command}</div>')
    if run.warning:
        parts.append(f'<div class="panel trouble"><p>{prose(run.warning)}</p></div>')
    return "".join(parts)


def _facts(run: Run, zone: tzinfo) -> list[tuple[str, str]]:
    """The numbers of a run."""
    facts: list[tuple[str, str]] = [
        ("Began", moment_of(run.started_at, zone)),
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
