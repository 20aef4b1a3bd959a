"""Small drawings for the dashboard: inline SVG from plain numbers, coloured by the page's own variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from clinical_conductor.ledger import Day, Run

STAGES = ("read", "ask", "land", "merge")
_STAGE_TEXT = {
    "read": "Read from the API",
    "ask": "Ask what differs",
    "land": "Land the changes",
    "merge": "Merge and commit",
}


def span(seconds: float | None) -> str:
    """A duration for people.

    >>> span(0.42), span(59), span(754), span(9000), span(200000), span(None)
    ('0.4 s', '59 s', '12 min 34 s', '2 h 30 min', '2 d 7 h', '–')
    """
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s" if whole % 60 else f"{whole // 60} min"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min" if whole % 3600 // 60 else f"{whole // 3600} h"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def sparkline(runs: Sequence[Run], *, width: int = 96, height: int = 24) -> str:
    """One bar per run, as high as it took long; a failed one is marked in colour and reaches the top."""
    if not runs:
        return ""
    longest = max((run.seconds or 0.0 for run in runs), default=0.0) or 1.0
    step = width / max(len(runs), 8)
    bars = []
    for place, run in enumerate(runs):
        failed = run.status == "failed"
        tall = float(height) if failed else max(2.0, (run.seconds or 0.0) / longest * (height - 2))
        tone = "var(--bad)" if failed else "var(--run)" if run.status == "running" else "var(--spark)"
        bars.append(_bar(place * step, height - tall, step - 1.6, tall, tone))
    failed_runs = sum(run.status == "failed" for run in runs)
    label = f"Last {len(runs)} runs: longest {span(longest)}, {failed_runs} failed"
    return _svg(width, height, label, "".join(bars), fixed=True)


def day_bars(days: Sequence[Day], *, width: int = 360, height: int = 84) -> str:
    """Succeeded and failed runs per day, stacked."""
    most = max((day.succeeded + day.failed for day in days), default=0) or 1
    step = width / max(len(days), 1)
    parts = []
    for place, day in enumerate(days):
        bad = max(4.0, day.failed / most * (height - 2)) if day.failed else 0.0
        good = min(day.succeeded / most * (height - 2), height - bad)
        left, wide = place * step + 2, step - 4
        bars = _bar(left, height - good, wide, good, "var(--ok)") + _bar(
            left, height - good - bad, wide, bad, "var(--bad)"
        )
        if not day.succeeded and not day.failed:
            bars = _bar(left, height - 2, wide, 2, "var(--spark)")
        title = f"{day.date}: {day.succeeded} succeeded, {day.failed} failed, {day.changed:,} rows changed"
        parts.append(f"<g><title>{title}</title>{bars}</g>")
    good_runs, bad_runs = sum(day.succeeded for day in days), sum(day.failed for day in days)
    label = f"Runs per day for {len(days)} days: {good_runs} succeeded, {bad_runs} failed"
    return _svg(width, height, label, "".join(parts))


def _bar(left: float, top: float, width: float, height: float, tone: str) -> str:
    """One rectangle."""
    return f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" rx="1.5" fill="{tone}"/>'


def stage_timeline(stages: Mapping[str, float], total: float | None, *, width: int = 720) -> str:
    """Where a run's time went: one bar from left to right, and the same in words."""
    named = [(name, stages[name]) for name in STAGES if stages.get(name)]
    named += [(name, value) for name, value in stages.items() if name not in STAGES and value]
    spent = sum(value for _, value in named)
    if not spent:
        return '<p class="muted">This run noted no stages.</p>'
    # Stages of one run overlap (a page is read while the one before is written), so their sum may exceed the run.
    parts, left = [], 0.0
    for name, value in named:
        wide = value / spent * width
        parts.append(
            f'<rect x="{left:.1f}" y="0" width="{max(wide - 1.5, 1):.1f}" height="26" rx="3" fill="{_tone(name)}">'
            f"<title>{escape(_STAGE_TEXT.get(name, name))}: {span(value)}</title></rect>"
        )
        left += wide
    words = "".join(
        f'<li><span class="key" style="--c:{_tone(name)}"></span>{escape(_STAGE_TEXT.get(name, name))} '
        f'<b>{span(value)}</b> <span class="muted">{value / spent:.0%}</span></li>'
        for name, value in named
    )
    label = ", ".join(f"{_STAGE_TEXT.get(name, name)} {span(value)}" for name, value in named)
    note = (
        f'<p class="muted small">The run took {span(total)}; stages overlap.</p>'
        if total and spent > total * 1.05
        else ""
    )
    return f"{_svg(width, 26, label, ''.join(parts))}<ul>{words}</ul>{note}"


def _tone(stage: str) -> str:
    """The colour of a stage."""
    return f"var(--stage-{stage})" if stage in STAGES else "var(--spark)"


def _svg(width: int, height: int, label: str, inner: str, *, fixed: bool = False) -> str:
    """A picture with a name for those who do not see it."""
    size = (
        f'width="{width}" height="{height}"' if fixed else f'width="100%" preserveAspectRatio="none" height="{height}"'
    )
    return f'<svg role="img" aria-label="{escape(label)}" viewBox="0 0 {width} {height}" {size}>{inner}</svg>'
