"""Which jobs run, in which order, how many at once; and what a run would ask for before it does.

A child waits for its parent, a table's routes run one after the other (the owner first), everything else runs in
parallel. One HTTP session and one rate limiter serve all jobs of a command.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from psycopg import Connection, sql

from clinical_conductor import runs
from clinical_conductor.catalog import ENDPOINTS, Endpoint, dependency_order
from clinical_conductor.client import Client
from clinical_conductor.context import Budget, JobContext, JobResult, RunOptions
from clinical_conductor.database import connect, database_url, embedded, translated
from clinical_conductor.errors import BudgetSpent, ConfigurationError, DependencyFailed, Interrupted, TrialSyncError
from clinical_conductor.instances import Instance, ensure_instance, resolve_key
from clinical_conductor.job import Job
from clinical_conductor.jobs_config import DEFAULT_PRIORITY, JobConfig, load_jobs_config
from clinical_conductor.landing import one_landing
from clinical_conductor.logs import get_logger, log_context
from clinical_conductor.migrations import connect_migrated
from clinical_conductor.planning import JobPlan, blank_plan, plan_job
from clinical_conductor.selection import seed_jobs
from clinical_conductor.settings import Settings

log = get_logger(__name__)
OnProgress = Callable[[str, Mapping[str, Any]], None]


def run_jobs(
    settings: Settings,
    endpoints: Sequence[Endpoint],
    options: RunOptions | None = None,
    *,
    on_progress: OnProgress | None = None,
    stop: threading.Event | None = None,
) -> list[JobResult]:
    """Runs the jobs of some endpoints and returns what came of each, in the order given.

    Parents that a child needs and that were never staged are run first; they are not in the answer.

    Args:
        settings: Where the API and the database are.
        endpoints: Rows of the catalog.
        options: See RunOptions.
        on_progress: Called with a resource and its figures while it runs, from several threads.
        stop: Set it to end all jobs within seconds; what is committed stays.

    Raises:
        DatabaseTrouble, DatabaseRefused, MigrationError: the database cannot be used at all.
        ConfigurationError: the instance, its key or its base URL is missing.
    """
    options = options or RunOptions()
    stop = stop or threading.Event()
    url = database_url(settings)
    config = load_jobs_config(settings.jobs_file)
    with connect_migrated(url) as conn, translated():
        seed_jobs(conn, config)
        instance = ensure_instance(conn, settings, options.instance)
        conn.execute("select dw_landing_schema(%s)", (instance.id,))
        for run_id in runs.close_dead_runs(conn):
            log.warning("dead_run_closed", run_id=run_id)
        rows = _read_rows(conn)
        needed = _with_missing_parents(conn, instance.id, endpoints)
    client = _client(settings, instance, stop)
    batch_id = uuid4()
    jobs: dict[str, Job] = {}
    with one_landing(url, instance.id, settings.work_dir) as landing, log_context(batch_id=str(batch_id)):
        context = JobContext(
            url=url,
            client=client,
            landing=landing,
            instance_id=instance.id,
            batch_id=batch_id,
            options=options,
            budget=Budget(
                options.max_requests,
                options.deadline,
                lambda: sum(job.client.tally.requests for job in list(jobs.values())),
            ),
            page_size=settings.batch_size,
            max_retries=settings.max_retries,
            retry_delay=settings.retry_delay_seconds,
            stop=stop,
            on_progress=on_progress or (lambda _resource, _figures: None),
            timeouts={row.resource: float(limit) for row in needed if (limit := rows[row.job_id].timeout_seconds)},
        )
        for row in needed:
            jobs[row.resource] = Job(context, row.at(rows[row.job_id].path))
        priorities = {row.resource: rows[row.job_id].priority for row in needed}
        results = _Schedule(context, jobs, config, priorities, options.parallel or settings.parallel_jobs).run()
    return [results[row.resource] for row in endpoints]


class _Schedule:
    """Runs jobs in dependency order on a pool of threads."""

    def __init__(
        self,
        context: JobContext,
        jobs: Mapping[str, Job],
        config: Mapping[str, JobConfig],
        priorities: Mapping[str, int],
        parallel: int,
    ) -> None:
        self._context = context
        self._jobs = jobs
        self._parallel = max(1, parallel)
        self._results: dict[str, JobResult] = {}
        order = dependency_order(job.endpoint for job in jobs.values())
        rank = {row.resource: number for number, row in enumerate(order)}
        # Where a budget may not last for all fan-outs, listings come first, then those that waited longest.
        budgeted = context.options.max_requests is not None or context.options.deadline is not None
        last_runs = _last_runs(context) if budgeted else {}
        self._fan_outs = {row.resource: row.parent is not None and row.bulk is None for row in order}
        self._waiting = sorted(
            (row.resource for row in order),
            key=lambda name: (
                priorities[name],
                self._fan_outs[name] and last_runs.get(jobs[name].endpoint.job_id, 0),
                rank[name],
            ),
        )
        self._after: dict[str, set[str]] = {name: set() for name in jobs}
        owners = {row.table: row.resource for row in order if row.owner}
        for row in order:
            before = self._after[row.resource]
            if row.parent is not None:
                # Every selected route into the parent's table, so that the children see all parents.
                parent_table = ENDPOINTS[row.parent].table
                before.update(
                    other.resource
                    for other in order
                    if other.table == parent_table and other.resource != row.resource and not _needs(other, row)
                )
            if not row.owner and row.table in owners:
                before.add(owners[row.table])
            before.update(name for name in (config[row.resource].depends_on if row.resource in config else ()))
        for name, before in self._after.items():
            before &= set(jobs)
            before.discard(name)

    def run(self) -> dict[str, JobResult]:
        """The results by resource, when all jobs have ended."""
        running: dict[Future[JobResult], str] = {}
        with ThreadPoolExecutor(self._parallel, thread_name_prefix="job") as pool:
            while self._waiting or running:
                self._start_what_can(pool, running)
                if not running:
                    # Only a circle of dependencies could leave jobs that nothing will release.
                    for name in list(self._waiting):
                        self._skip(name, ConfigurationError, "it depends on itself through depends_on in jobs.yaml")
                    continue
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    name = running.pop(future)
                    self._results[name] = future.result()
                    self._context.on_progress(name, {"status": self._results[name].status})
        return self._results

    def _start_what_can(self, pool: ThreadPoolExecutor, running: dict[Future[JobResult], str]) -> None:
        busy = {self._jobs[name].endpoint.table for name in running.values()}
        for name in list(self._waiting):
            if self._context.stop.is_set():
                self._skip(name, Interrupted, "the process was asked to stop")
                continue
            before = self._after[name]
            failed = [other for other in sorted(before) if other in self._results and not _usable(self._results[other])]
            if failed:
                status = self._results[failed[0]].status.replace("skipped", "was skipped")
                self._skip(name, DependencyFailed, f"{failed[0]}, which it needs, {status}")
                continue
            if len(running) >= self._parallel or not before <= self._results.keys():
                continue
            if self._jobs[name].endpoint.table in busy:
                continue
            budget = self._context.budget
            if budget.over() or (self._fan_outs[name] and budget.spent()):
                self._skip(name, BudgetSpent, "the budget of this run (--max-requests or --deadline) was spent")
                continue
            self._waiting.remove(name)
            busy.add(self._jobs[name].endpoint.table)
            self._context.on_progress(name, {"status": "running"})
            running[pool.submit(self._jobs[name].run)] = name

    def _skip(self, name: str, kind: type[TrialSyncError], reason: str) -> None:
        """Notes a job that does not run, in the ledger too; the kind says whether a retry is about it."""
        self._waiting.remove(name)
        job, why = self._jobs[name], kind(f"{name} was skipped: {reason}.")
        result = job.result
        result.status = "skipped"
        result.error, result.error_type, result.error_category = str(why), kind.__name__, why.category
        try:
            with connect(self._context.url, autocommit=True) as conn, translated():
                result.run_id = runs.open_run(
                    conn,
                    job.endpoint.job_id,
                    self._context.instance_id,
                    batch_id=self._context.batch_id,
                    retry_of=self._context.options.retry_of,
                )
                runs.close_run(conn, result.run_id, "skipped", error=why, error_message=result.error)
        except TrialSyncError as error:
            log.warning("skip_not_recorded", resource=name, error=str(error))
        self._results[name] = result
        self._context.on_progress(name, {"status": "skipped"})


def _last_runs(context: JobContext) -> dict[int, int]:
    """The last run of every job that asked for something, by job id."""
    with connect(context.url, autocommit=True) as conn, translated():
        rows = conn.execute(
            "select job_id, max(id) from dw_etl_runs where source_instance_id = %s and requests > 0 group by 1",
            (context.instance_id,),
        ).fetchall()
    return {row[0]: row[1] for row in rows}


def _usable(result: JobResult) -> bool:
    """Whether children can go on: success, or only some of the job's own parents failed."""
    return result.status == "success" or result.error_type == "ParentFailed"


def _needs(one: Endpoint, other: Endpoint) -> bool:
    """Whether `one` stands somewhere below `other`."""
    while one.parent is not None:
        one = ENDPOINTS[one.parent]
        if one.table == other.table:
            return True
    return False


def _with_missing_parents(conn: Connection[Any], instance_id: int, endpoints: Sequence[Endpoint]) -> list[Endpoint]:
    """The endpoints, and above them the parents that were never staged completely."""
    chosen = {row.resource: row for row in endpoints}
    tables = {row.table for row in endpoints}
    todo = list(endpoints)
    while todo:
        row = todo.pop()
        if row.parent is None or ENDPOINTS[row.parent].table in tables:
            continue
        parent = ENDPOINTS[row.parent]
        if not _staged_once(conn, parent, instance_id):
            chosen[parent.resource] = parent
            tables.add(parent.table)
            todo.append(parent)
    return list(chosen.values())


def _staged_once(conn: Connection[Any], endpoint: Endpoint, instance_id: int) -> bool:
    """Whether the endpoint's table holds rows and they are not the beginning of a run that never ended well."""
    row = conn.execute(
        sql.SQL(
            """
            select
                exists (select from {table} where source_instance_id = %(instance)s),
                count(*) filter (where r.run_status = 'success'), count(*)
            from dw_etl_runs as r
            inner join dw_etl_jobs as j on r.job_id = j.id
            where j.target_table = %(name)s and r.source_instance_id = %(instance)s and r.run_status <> 'skipped'
            """
        ).format(table=sql.Identifier(endpoint.table)),
        {"instance": instance_id, "name": endpoint.table},
    ).fetchone()
    assert row is not None
    has_rows, successes, all_runs = row
    return bool(has_rows) and (successes > 0 or all_runs == 0)


@dataclass(frozen=True, slots=True)
class _JobRow:
    """What the operator's row of dw_etl_jobs says about running a job."""

    path: str | None
    timeout_seconds: int | None
    priority: int


def _read_rows(conn: Connection[Any]) -> dict[int, _JobRow]:
    """The rows of dw_etl_jobs by job id; config/jobs.yaml has seeded them, and has no say beside them."""
    return {
        job_id: _JobRow(path, timeout, DEFAULT_PRIORITY if priority is None else priority)
        for job_id, path, timeout, priority in conn.execute(
            "select id, source_endpoint, timeout_seconds, priority from dw_etl_jobs"
        ).fetchall()
    }


def _client(settings: Settings, instance: Instance, stop: threading.Event) -> Client:
    """The HTTP client of an instance.

    Raises:
        ConfigurationError: no base URL or key is set for it.
    """
    base_url = instance.base_url
    if not base_url:
        raise ConfigurationError(
            "CC_API_BASE_URL is not set, so there is no API to read from. Set it (and CC_API_KEY), such as "
            "CC_API_BASE_URL=https://ccs.example.com/CCSWEB, or try `trialsync-etl demo` first."
        )
    client = Client(
        settings,
        base_url=base_url,
        api_key=resolve_key(instance.api_key_ref),
        api_key_header=instance.key_header,
    )
    client.stop = stop
    return client


def plan_jobs(settings: Settings, endpoints: Sequence[Endpoint], options: RunOptions | None = None) -> list[JobPlan]:
    """What a run would ask for, job by job. Reads the ledger where there is one; requests and writes nothing.

    Raises:
        DatabaseTrouble, DatabaseRefused: a database is configured and cannot be read.
    """
    options = options or RunOptions()
    url = settings.database
    if url is None:
        url = embedded(settings).running_url()
    if url is None:
        return [blank_plan(row) for row in endpoints]
    with connect(url, autocommit=True) as conn, translated():
        if conn.execute("select to_regclass('dw_etl_parents')").fetchone() == (None,):
            return [blank_plan(row) for row in endpoints]
        row = conn.execute(
            """
            select id from dw_api_credentials
            where instance_name = coalesce(%s, 'default') or (%s::text is null and is_active)
            order by instance_name = coalesce(%s, 'default') desc, instance_name = 'demo', id limit 1
            """,
            (options.instance,) * 3,
        ).fetchone()
        if row is None:
            return [blank_plan(endpoint) for endpoint in endpoints]
        return [
            plan_job(
                conn,
                endpoint,
                row[0],
                page_size=settings.batch_size,
                rate=settings.api_rate_limit,
                full_refresh=options.full_refresh,
                beforehand=True,
            )
            for endpoint in endpoints
        ]
