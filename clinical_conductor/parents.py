"""The parent ledger of fan-outs: whom to ask for children, and what came of asking. Writes dw_etl_parents.

A parent is owed when it is new, when its row's hash differs from the one read before it was last asked, when asking
failed, or when it was last asked too long ago. A parent without children is recorded too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from psycopg import Connection, sql

from clinical_conductor.catalog import Endpoint

STALE_AFTER = timedelta(days=30)
"""A parent that was not asked for so long is owed again: a child may change without its parent."""


@dataclass(frozen=True, slots=True)
class OwedParent:
    """A parent whose children are to be asked for: its key, and its row's hash as read before asking."""

    key: str
    hash: bytes | None
    why: str
    """new, changed, failed, stale, refresh, or gone: a 404 long ago, looked at again."""


@dataclass(frozen=True, slots=True)
class ParentOutcome:
    """What came of asking for one parent's children."""

    key: str
    hash: bytes | None
    status: str
    """fetched, failed or gone, as dw_etl_parents.status."""
    records: int = 0
    reason: str | None = None


@contextmanager
def whole_tables(conn: Connection[Any]) -> Iterator[None]:
    """Statements in this block compare whole tables: hashed, in a transaction, whatever the planner believes.

    It may believe a ledger empty that was filled since its statistics were made, and would then read all of it anew for
    every parent: a minute for 20,000 parents, hours for 150,000.
    """
    with conn.transaction():
        conn.execute(
            """
            select set_config('enable_nestloop', 'off', true), set_config('enable_hashjoin', 'on', true),
                set_config('enable_seqscan', 'on', true), set_config('jit', 'off', true)
            """
        )
        yield
        # Not for the rest of the transaction around this one: a few rows are found by their keys.
        conn.execute("set local enable_nestloop = on")


def record_parents(
    conn: Connection[Any], run_id: int, job_id: int, instance_id: int, outcomes: Sequence[ParentOutcome]
) -> None:
    """Writes what came of some parents into the parent ledger, in the transaction that commits their children."""
    if not outcomes:
        return
    conn.execute(
        """
        insert into dw_etl_parents as p (
            job_id, source_instance_id, parent_key, parent_hash, status, records, reason, failures, etl_run_id,
            fetched_at
        )
        select
            %s, %s, o.parent_key, o.parent_hash, o.status, o.records, o.reason, (o.status <> 'fetched')::integer, %s,
            now()
        from unnest(%s::text[], %s::bytea[], %s::text[], %s::integer[], %s::text[])
            as o (parent_key, parent_hash, status, records, reason)
        on conflict (source_instance_id, job_id, parent_key) do update set
            parent_hash = excluded.parent_hash, status = excluded.status, reason = excluded.reason,
            records = case when excluded.status = 'fetched' then excluded.records else p.records end,
            failures = case when excluded.status = 'fetched' then 0 else p.failures + 1 end,
            etl_run_id = excluded.etl_run_id, fetched_at = excluded.fetched_at
        """,
        (
            job_id,
            instance_id,
            run_id,
            [o.key for o in outcomes],
            [o.hash for o in outcomes],
            [o.status for o in outcomes],
            [o.records for o in outcomes],
            [o.reason for o in outcomes],
        ),
    )


def _parents_sql(endpoint: Endpoint, parent_table: str) -> sql.Composed:
    """The parents that are staged now, one row per key: parent_key, parent_hash."""
    return sql.SQL(
        """
        select dw_parent_key(s.parent_source_id, s.source_id, {parts}) as parent_key,
            (array_agg(s.content_hash order by s.id))[1] as parent_hash
        from {table} as s
        where s.source_instance_id = %(instance)s and s.source_id is not null
        group by 1
        """
    ).format(parts=sql.Literal(len(endpoint.parameters)), table=sql.Identifier(parent_table))


def owed_parents(
    conn: Connection[Any],
    endpoint: Endpoint,
    parent_table: str,
    instance_id: int,
    *,
    stale_after: timedelta = STALE_AFTER,
    refresh: bool = False,
) -> tuple[int, list[OwedParent]]:
    """The parents whose children are to be asked for, most urgent first, and how many parents there are in all.

    New parents come first, then the ones asked longest ago, where a change counts as much as half the staleness limit:
    more changes than the budget holds must not starve the stale ones. One that failed keeps its place by the time it
    was last asked, so that a parent which always fails cannot starve the others.
    """
    query = sql.SQL(
        """
        with parents as ({parents}),
        judged as (
            select
                p.parent_key, p.parent_hash, l.fetched_at,
                case
                    when l.parent_key is null then 'new'
                    when l.parent_hash is distinct from p.parent_hash then 'changed'
                    when l.status = 'gone' and (%(refresh)s or l.fetched_at < now() - %(stale)s) then 'gone'
                    when %(refresh)s then 'refresh'
                    when l.status = 'failed' then 'failed'
                    -- Each parent has an age of its own between half the limit and the limit: what was read in one
                    -- night is not all owed again in one night.
                    when l.fetched_at < now()
                        - %(stale)s::interval * (0.5 + (hashtextextended(p.parent_key, %(job)s) & 1023) / 2048.0)
                        then 'stale'
                end as why
            from parents as p
            left join dw_etl_parents as l
                on l.parent_key = p.parent_key
                and l.source_instance_id = %(instance)s
                and l.job_id = %(job)s
        )
        -- One row says how many there are, also where none is owed.
        select j.parent_key, j.parent_hash, j.why, n.total
        from (select count(*) as total from parents) as n
        left join judged as j on j.why is not null
        order by
            j.fetched_at - case when j.why = 'changed' then %(stale)s::interval / 2 else interval '0' end nulls first,
            j.parent_key
        """
    ).format(parents=_parents_sql(endpoint, parent_table))
    total = 0
    owed: list[OwedParent] = []
    with whole_tables(conn), conn.cursor() as cursor:
        cursor.execute(
            query,
            {"instance": instance_id, "job": endpoint.job_id, "stale": stale_after, "refresh": refresh},
        )
        for key, hash_, why, count in cursor:
            total = count
            if why is None:
                break
            owed.append(OwedParent(key, hash_, why))
    return total, owed


def owe_all_parents(conn: Connection[Any], job_id: int, instance_id: int) -> None:
    """Makes every parent that was ever asked count as changed, until it is asked again; when that was stays known."""
    conn.execute(
        "update dw_etl_parents set parent_hash = ''::bytea where source_instance_id = %s and job_id = %s",
        (instance_id, job_id),
    )


def record_all_parents(conn: Connection[Any], run_id: int, endpoint: Endpoint, instance_id: int) -> None:
    """A complete bulk listing answered for every parent: notes all of them, as they were when the listing began.

    `pg_temp.dw_parents_before` holds (parent_key, parent_hash), filled by `remember_parents`.
    """
    conn.execute(
        """
        insert into dw_etl_parents as l (
            job_id, source_instance_id, parent_key, parent_hash, status, etl_run_id, fetched_at
        )
        select %(job)s, %(instance)s, p.parent_key, p.parent_hash, 'fetched', %(run)s, now()
        from pg_temp.dw_parents_before as p
        on conflict (source_instance_id, job_id, parent_key) do update set
            parent_hash = excluded.parent_hash, status = 'fetched', reason = null, failures = 0,
            etl_run_id = excluded.etl_run_id, fetched_at = excluded.fetched_at
        """,
        {"instance": instance_id, "job": endpoint.job_id, "run": run_id},
    )


def remember_parents(conn: Connection[Any], endpoint: Endpoint, parent_table: str, instance_id: int) -> None:
    """Notes the parents and their hashes before a bulk listing begins, see `record_all_parents`."""
    conn.execute("drop table if exists pg_temp.dw_parents_before")
    conn.execute(
        sql.SQL("create temporary table dw_parents_before as ") + _parents_sql(endpoint, parent_table),
        {"instance": instance_id},
    )


def forget_orphan_parents(conn: Connection[Any], endpoint: Endpoint, parent_table: str, instance_id: int) -> None:
    """Drops the ledger rows of parents that are no longer staged."""
    with whole_tables(conn):
        conn.execute(
            sql.SQL(
                """
                delete from dw_etl_parents as l
                where l.source_instance_id = %(instance)s and l.job_id = %(job)s
                    and not exists (select from ({parents}) as p where p.parent_key = l.parent_key)
                """
            ).format(parents=_parents_sql(endpoint, parent_table)),
            {"instance": instance_id, "job": endpoint.job_id},
        )
