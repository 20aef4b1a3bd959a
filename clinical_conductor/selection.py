"""Which jobs a command is about: what was asked for, checked against the catalog and against dw_etl_jobs.

The catalog says what exists; the rows of dw_etl_jobs are the operator's, and theirs is the last word on what is
switched on. A job that was named and is switched off is refused with its reason, never left out in silence.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clinical_conductor.catalog import BY_JOB_ID, CATEGORIES, ENDPOINTS, Endpoint, find_endpoint
from clinical_conductor.errors import ConfigurationError
from clinical_conductor.jobs_config import JobConfig

if TYPE_CHECKING:
    from psycopg import Connection

Switches = Mapping[int, tuple[bool, str | None]]
"""Per job id: whether it is switched on, and why not if it is off."""


def catalog_switches() -> Switches:
    """What the catalog says, for when no database has been asked."""
    return {row.job_id: (row.active, row.inactive) for row in ENDPOINTS.values()}


def with_rows(rows: Iterable[tuple[int, bool | None, str | None]]) -> Switches:
    """The catalog's switches, overruled by rows of dw_etl_jobs (id, is_active, inactive_reason)."""
    switches = dict(catalog_switches())
    for job_id, is_active, reason in rows:
        if job_id in switches:
            on = is_active is not False
            switches[job_id] = (on, None if on else reason or "switched off in dw_etl_jobs")
    return switches


def read_switches(conn: Connection[Any]) -> Switches:
    """Which jobs the rows of dw_etl_jobs switch on and off."""
    return with_rows(conn.execute("select id, is_active, inactive_reason from dw_etl_jobs").fetchall())


def seed_jobs(conn: Connection[Any], config: Mapping[str, JobConfig]) -> int:
    """Write config/jobs.yaml into the rows that have never been seeded; later edits of a row win. How many it were.

    Raises:
        DatabaseTrouble: the connection was lost.
        DatabaseRefused: the rows may not be written.
    """
    from clinical_conductor.database import translated  # brings psycopg, which --help can do without

    with translated(), conn.transaction():
        done = conn.execute(
            """
            update dw_etl_jobs as j set
                schedule_cron = coalesce(j.schedule_cron, c.schedule),
                priority = c.priority,
                timeout_seconds = coalesce(j.timeout_seconds, c.timeout_seconds),
                is_active = j.is_active and c.enabled,
                inactive_reason = case when j.is_active and not c.enabled then 'enabled: false in config/jobs.yaml'
                    else j.inactive_reason end,
                updated_at = now()
            from unnest(%s::text[], %s::text[], %s::integer[], %s::integer[], %s::boolean[])
                as c (resource, schedule, priority, timeout_seconds, enabled)
            where j.resource = c.resource and j.priority is null
            """,
            (
                [job.resource for job in config.values()],
                [job.schedule for job in config.values()],
                [job.priority for job in config.values()],
                [job.timeout_seconds for job in config.values()],
                [job.enabled for job in config.values()],
            ),
        )
    return done.rowcount


def complete_resource(incomplete: str) -> list[str]:
    """Names of active resources for the shell's completion."""
    return [row.resource for row in ENDPOINTS.values() if row.active and row.resource.startswith(incomplete)]


def complete_resources(incomplete: str) -> list[str]:
    """The same of a list; what stands before the last comma is kept."""
    head, comma, tail = incomplete.rpartition(",")
    return [head + comma + name for name in complete_resource(tail)]


def complete_category(incomplete: str) -> list[str]:
    """Categories for the shell's completion."""
    return [name for name in CATEGORIES if name.startswith(incomplete)]


def named_endpoints(
    resources: Sequence[str] = (), job_ids: Sequence[int] = (), category: str | None = None
) -> tuple[list[Endpoint], list[Endpoint]]:
    """The endpoints that were asked for by name or id, and those that a category adds; no doubles, catalog order.

    Raises:
        ConfigurationError: a name, id or category does not exist; the message suggests the nearest one.
    """
    names = [name.strip() for text in resources for name in text.split(",") if name.strip()]
    if resources and not names:
        raise ConfigurationError(
            "--resources names nothing: give one or more names, such as --resources sites,studies."
        )
    wanted = {find_endpoint(name).job_id for name in [*names, *map(str, job_ids)]}
    if category is not None and category not in CATEGORIES:
        raise ConfigurationError(f"There is no category {category!r}: use one of {', '.join(CATEGORIES)}.")
    named = [row for job_id, row in BY_JOB_ID.items() if job_id in wanted]
    added = [row for row in ENDPOINTS.values() if row.category == category and row.job_id not in wanted]
    return named, added


def waiting_for(endpoint: Endpoint, config: Mapping[str, JobConfig]) -> set[str]:
    """The resources that wait for an endpoint in a run of all: those below it, and what `depends_on` adds."""
    tables, found = {endpoint.table}, {endpoint.resource}
    while True:
        further = {
            name
            for name, row in ENDPOINTS.items()
            if name not in found
            and (
                (row.parent is not None and ENDPOINTS[row.parent].table in tables)
                or (name in config and not found.isdisjoint(config[name].depends_on))
            )
        }
        if not further:
            return found - {endpoint.resource}
        found |= further
        tables |= {ENDPOINTS[name].table for name in further}


def choose(named: Sequence[Endpoint], added: Sequence[Endpoint], switches: Switches) -> list[Endpoint]:
    """The jobs to run: everything named, and what is switched on of the rest; with neither, all that is switched on.

    Raises:
        ConfigurationError: a job that was named is switched off, or nothing is left to run.
    """
    for row in named:
        on, reason = switches[row.job_id]
        if not on:
            raise ConfigurationError(
                f"Job {row.job_id} ({row.resource}) is switched off: {reason}. To switch it on: "
                f"trialsync-etl schedule --job-id {row.job_id} --enable"
            )
    rest = added or ([] if named else list(ENDPOINTS.values()))
    chosen = [*named, *(row for row in rest if switches[row.job_id][0])]
    if not chosen:
        raise ConfigurationError("Every job of this choice is switched off. `trialsync-etl list` shows why.")
    return sorted(chosen, key=lambda row: row.job_id)
