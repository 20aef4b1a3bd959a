"""What a run would ask for, before it asks: requests, minutes, rows and parents owed, from the ledger alone.

A job that starts makes its own plan once its parents are up to date, and stores it in dw_etl_runs.planned_requests
beside what it then needed. A plan made beforehand cannot know which parents will have changed; it reckons with as many
as changed in the parents' last run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Any

from psycopg import Connection

from clinical_conductor import findings
from clinical_conductor.catalog import ENDPOINTS, Endpoint
from clinical_conductor.parents import owed_parents
from clinical_conductor.staging import count_staged


@dataclass(frozen=True, slots=True)
class JobPlan:
    """What one job would do. Counts are estimates from the ledger; None where nothing is known yet."""

    job_id: int
    resource: str
    path: str
    requests: int | None
    minutes: float | None
    rows: int | None
    parents: int | None
    parents_owed: int | None
    note: str | None


def blank_plan(endpoint: Endpoint) -> JobPlan:
    """The plan of a job of which the ledger knows nothing."""
    note = "first run" if endpoint.parent is None else f"first run: a request or more per row of {endpoint.parent}"
    return JobPlan(endpoint.job_id, endpoint.resource, endpoint.path, None, None, None, None, None, note)


def plan_job(
    conn: Connection[Any],
    endpoint: Endpoint,
    instance_id: int,
    *,
    page_size: int,
    rate: float,
    full_refresh: bool = False,
    beforehand: bool = False,
) -> JobPlan:
    """One job's plan.

    Args:
        rate: Requests per second that are allowed; 0 for no limit.
        beforehand: The parents are not up to date yet: reckon with as many changes as in their last run.
    """
    capabilities = findings.read_capabilities(conn, endpoint.job_id, instance_id) or {}
    path = capabilities.get("path") or endpoint.path
    last = _last_success(conn, endpoint.job_id, instance_id)
    rows = count_staged(conn, endpoint.table, instance_id)
    parents: int | None = None
    owed: int | None = None
    note: str | None = None
    if endpoint.parent is None or (endpoint.bulk is not None and capabilities.get("bulk")):
        if last is None:
            return blank_plan(endpoint)
        # One page more where nothing but an empty page says that the listing has ended.
        more = 0 if capabilities.get("count") or not path.endswith("/odata") else 1
        # Pages after the first repeat one record, to prove that nothing lies between them.
        requests = max(1, ceil((rows - 1) / max(1, page_size - 1))) + more
        if endpoint.single or (not path.endswith("/odata") and endpoint.parent is None):
            requests = 1
    else:
        parents, list_ = owed_parents(
            conn, endpoint, ENDPOINTS[endpoint.parent].table, instance_id, refresh=full_refresh
        )
        owed = len(list_)
        if beforehand and not full_refresh:
            owed = min(parents, owed + _expected_changes(conn, ENDPOINTS[endpoint.parent], instance_id))
        per_parent, rows_per_parent = _per_parent(conn, endpoint.job_id, instance_id)
        requests = ceil(owed * per_parent)
        rows = round(owed * rows_per_parent)
        if last is None:
            note = "first run: one request per parent is assumed"
    minutes = round(requests / rate / 60, 2) if rate else None
    return JobPlan(endpoint.job_id, endpoint.resource, path, requests, minutes, rows, parents, owed, note)


def describe_plans(
    plans: Sequence[JobPlan], *, rate: float, max_requests: int | None = None, seconds: float | None = None
) -> list[str]:
    """The sum of some plans in words: requests, minutes, and what a budget would reach.

    Args:
        max_requests: The budget of the run.
        seconds: The time until its deadline.
    """
    total = sum(plan.requests or 0 for plan in plans)
    unknown = [plan.resource for plan in plans if plan.requests is None]
    jobs = "1 job" if len(plans) == 1 else f"{len(plans)} jobs"
    lines = [f"{jobs}, about {total:,} requests" + (f", {total / rate / 60:,.1f} minutes." if rate else ".")]
    if unknown:
        lines.append(f"Nothing is known yet of {len(unknown)} of them, such as {unknown[0]}: they never ran.")
    parents = sum(plan.parents or 0 for plan in plans)
    budget = max_requests
    if seconds is not None and rate:
        reach = int(max(0.0, seconds) * rate)
        budget = reach if budget is None else min(budget, reach)
    if budget is not None:
        listings = sum(plan.requests or 0 for plan in plans if plan.parents is None)
        owed = sum(plan.requests or 0 for plan in plans if plan.parents is not None)
        reached = max(0, min(owed, budget - listings))
        lines.append(
            f"The budget of {budget:,} requests reaches the listings ({listings:,}) and {reached:,} of {owed:,} "
            "requests for children; the rest stays owed."
        )
        if parents and budget > listings:
            nights = ceil(parents / (budget - listings))
            lines.append(
                f"With it every one of {parents:,} parents is asked again within {nights} nights: a shorter staleness "
                "limit cannot be held."
            )
    elif parents and rate:
        lines.append(
            f"Asking for the children of all {parents:,} parents takes {parents / rate / 3600:,.1f} hours at {rate:g} "
            "requests a second; --max-requests or --deadline spread it over nights."
        )
    return lines


def _last_success(conn: Connection[Any], job_id: int, instance_id: int) -> int | None:
    row = conn.execute(
        """
        select max(id) from dw_etl_runs
        where job_id = %s and source_instance_id = %s and run_status = 'success'
        """,
        (job_id, instance_id),
    ).fetchone()
    return None if row is None else row[0]


def _expected_changes(conn: Connection[Any], parent: Endpoint, instance_id: int) -> int:
    """How many parents changed or came in their last run; their first run does not count."""
    row = conn.execute(
        """
        select records_inserted + records_updated from dw_etl_runs as r
        where job_id = %(job)s and source_instance_id = %(instance)s and run_status = 'success'
            and exists (
                select from dw_etl_runs as e
                where e.job_id = %(job)s and e.source_instance_id = %(instance)s and e.run_status = 'success'
                    and e.id < r.id
            )
        order by id desc limit 1
        """,
        {"job": parent.job_id, "instance": instance_id},
    ).fetchone()
    return 0 if row is None else int(row[0])


def _per_parent(conn: Connection[Any], job_id: int, instance_id: int) -> tuple[float, float]:
    """Requests and rows per parent, over the last runs that fetched some; (1, 1) when there is none."""
    row = conn.execute(
        """
        select sum(requests), sum(records_read), sum(parents_fetched) from (
            select requests, records_read, parents_fetched from dw_etl_runs
            where job_id = %s and source_instance_id = %s and parents_fetched > 0 and run_status <> 'running'
            order by id desc limit 5
        ) as recent
        """,
        (job_id, instance_id),
    ).fetchone()
    if row is None or not row[2]:
        return 1.0, 1.0
    return max(1.0, float(row[0] / row[2])), float(row[1] / row[2])
