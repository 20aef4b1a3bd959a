"""What the latest runs say: the health of a job, the command that mends it, and the verdict on a night."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from clinical_conductor.ledger import Check, Job, Night, Run, Transformation
from clinical_conductor.remedies import Remedy, remedy_for

NIGHT = timedelta(hours=24)
STUCK_AFTER = timedelta(minutes=15)
"""A running job that has committed nothing and said nothing for so long is stuck, or its process is gone."""


def health_of(active: bool, runs: Sequence[Run], missed: int, now: datetime) -> str:
    """One word of HEALTH for a job."""
    if not active:
        return "inactive"
    last = runs[-1] if runs else None
    if last is not None and last.status == "running":
        return "stuck" if now - (last.heartbeat_at or last.started_at) > STUCK_AFTER else "running"
    if last is not None and last.status == "failed":
        return "failed"
    if missed:
        return "overdue"
    if last is None:
        return "never"
    if last.status == "skipped":
        return "skipped"
    return "attention" if last.warning or last.rejected or last.parents_failed else "ok"


def remedy_of(
    health: str, job_id: int, resource: str, runs: Sequence[Run], instance: str | None = None
) -> Remedy | None:
    """What mends a job that somebody has to look at."""
    last = runs[-1] if runs else None
    run_id = last.id if last else None
    if health == "failed" and last is not None:
        return remedy_for(last.error_type, job_id=job_id, resource=resource, run_id=run_id, instance=instance)
    if health in ("stuck", "overdue"):
        return remedy_for(health, job_id=job_id, resource=resource, run_id=run_id, instance=instance)
    if health == "attention" and last is not None:
        kind = "ParentFailed" if last.parents_failed else "RecordRejected" if last.rejected else "warning"
        return remedy_for(kind, job_id=job_id, resource=resource, run_id=run_id, instance=instance)
    return None


def night_of(
    jobs: Iterable[Job], transformations: Iterable[Transformation], checks: Iterable[Check], now: datetime
) -> Night:
    """The last 24 hours of the active jobs, and what the warehouse made of them."""
    active = [job for job in jobs if job.active]
    window = [
        job.last
        for job in active
        if job.last is not None and (job.last.started_at > now - NIGHT or job.last.status == "running")
    ]
    counts = Counter(run.status for run in window)
    bad = Counter(job.health for job in active)
    blocked = sum(run.status == "skipped" and run.error_type == "DependencyFailed" for run in window)
    broken = bad["failed"] + bad["stuck"] + bad["overdue"] + blocked
    procedures = sum(step.status == "failed" for step in transformations)
    quality = sum(check.severity == "error" and not check.passed for check in checks)
    changed = sum(run.changed for run in window)
    ran = len(window) - counts["skipped"]
    of_all = "All" if ran == len(window) else f"{ran} of"
    everything = "1 job ran" if ran == len(window) == 1 else f"{of_all} {len(window)} jobs ran"
    if broken or procedures or quality:
        verdict = "failed"
        parts = [f"{bad[word]} {word}" for word in ("failed", "stuck", "overdue") if bad[word]]
        parts += [f"{blocked} skipped"] if blocked else []
        headline = f"{', '.join(parts)} of {len(active)} jobs" if broken else everything if window else ""
        more = [f"{procedures} procedure{'s' * (procedures > 1)} failed"] if procedures else []
        more += [f"{quality} data quality error{'s' * (quality > 1)}"] if quality else []
        headline = "; ".join(part for part in (headline, *more) if part)
    elif counts["running"]:
        verdict = "running"
        headline = f"Running: {len(window) - counts['running']} of {len(window)} jobs done"
    elif not window:
        verdict, headline = "silent", "Nothing ran in the last 24 hours"
    elif bad["attention"]:
        verdict = "attention"
        headline = f"{everything}; {bad['attention']} left something behind"
    else:
        verdict = "good"
        headline = f"{everything}; {changed:,} rows changed"
    ended = [run.completed_at for run in window if run.completed_at]
    return Night(
        verdict=verdict,
        headline=headline,
        counts=dict(counts),
        blocked=blocked,
        began_at=min((run.started_at for run in window), default=None),
        ended_at=max(ended, default=None) if not counts["running"] else None,
        inserted=sum(run.inserted for run in window),
        updated=sum(run.updated for run in window),
        deleted=sum(run.deleted for run in window),
        unchanged=sum(run.unchanged for run in window),
        rejected=sum(run.rejected for run in window),
        requests=sum(run.requests for run in window),
        retries=sum(run.retries for run in window),
        throttled=sum(run.throttled for run in window),
        owed=sum(job.owed for job in active),
    )
