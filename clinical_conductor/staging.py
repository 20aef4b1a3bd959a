"""The thin adapter: which records differ from staging, and their way into it. Knows nothing of HTTP.

    batch of records → PostgreSQL says which are new or differ → those go to a chunk (one CSV file)
    → dlt lands the chunk → one transaction: merge, quarantine, deletions, parents, counts

A record that did not change costs one comparison of hashes: no JSON parse, no write. A chunk is committed when it has
50,000 rows, 64 MB or is 30 seconds old. Everything a chunk brings is committed in one transaction that depends on the
run still being open (`runs.fence`), so a kill at any moment leaves all of a chunk or nothing of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from psycopg import Connection, sql

from clinical_conductor import parents, runs
from clinical_conductor.catalog import Endpoint
from clinical_conductor.chunk import COLUMNS, Batch, Chunk
from clinical_conductor.database import translated
from clinical_conductor.deletion import Deletion
from clinical_conductor.errors import DatabaseTrouble
from clinical_conductor.landing import Landing, LandingFailed
from clinical_conductor.logs import get_logger
from clinical_conductor.parents import ParentOutcome
from clinical_conductor.records import Rejected, content_hash
from clinical_conductor.runs import Counts, Traffic

CHUNK_ROWS = 50_000
CHUNK_BYTES = 64 * 1024 * 1024
CHUNK_SECONDS = 30.0

log = get_logger(__name__)


def count_staged(conn: Connection[Any], table: str, instance_id: int) -> int:
    """How many rows of an instance a staging table holds."""
    row = conn.execute(
        sql.SQL("select count(*) from {} where source_instance_id = %s").format(sql.Identifier(table)), (instance_id,)
    ).fetchone()
    return 0 if row is None else int(row[0])


class Stage:
    """The adapter of one run: takes batches, commits chunks.

    One connection serves it, because what was seen is kept in temporary tables of the session.
    """

    def __init__(
        self,
        conn: Connection[Any],
        landing: Landing,
        endpoint: Endpoint,
        *,
        run_id: int,
        instance_id: int,
        full_refresh: bool = False,
        allow_mass_delete: bool = False,
        traffic: Callable[[], Traffic] = Traffic,
    ) -> None:
        """Prepares the session.

        Args:
            conn: In autocommit mode; the lock of (instance, table) is held on it.
            full_refresh: Compare every record as JSON, whatever its hash says.
            traffic: Gives the HTTP figures of the run so far.
        """
        self.conn = conn
        self.landing = landing
        self.endpoint = endpoint
        self.table = endpoint.table
        self.run_id = run_id
        self.instance_id = instance_id
        self.traffic = traffic
        self.counts = Counts()
        """What was committed."""
        self.seconds = {"ask": 0.0, "land": 0.0, "merge": 0.0}
        self._chunk: Chunk | None = None
        self._uncommitted = Counts()
        with translated():
            # Lookups by index only: a table without statistics yet must not be read whole for every page.
            conn.execute("set enable_hashjoin = off")
            conn.execute("set enable_mergejoin = off")
            conn.execute("set enable_seqscan = off")
            conn.execute("set jit = off")
            row = conn.execute("select dw_landing_table(%s, %s)", (instance_id, self.table)).fetchone()
            assert row is not None
            self._landing_name: str = row[0]
            conn.execute(f"truncate {self._landing_name}".encode())
            self.deletion = Deletion(
                conn,
                endpoint,
                run_id=run_id,
                instance_id=instance_id,
                rows_before=count_staged(conn, self.table, instance_id),
                allow_mass_delete=allow_mass_delete,
            )
        self._ask_query = sql.SQL(
            """
            with asked as (
                select * from unnest(%b::text[], %b::text[], %b::bytea[])
                    with ordinality as a (parent, key, hash, place)
            ),
            found as (
                select a.place, s.id, s.etl_run_id is not distinct from {run} as ours,
                    s.content_hash is not distinct from a.hash and {compare} as same
                from asked as a
                -- One look-up by the unique key for each record asked about, whatever the planner believes the table
                -- to hold: a plan made while it was empty would otherwise read all of it for every page.
                cross join lateral (
                    select t.id, t.etl_run_id, t.content_hash
                    from {table} as t
                    where t.source_instance_id = {instance} and t.parent_source_id = a.parent and t.source_id = a.key
                    offset 0
                ) as s
            ),
            first as (
                insert into pg_temp.dw_seen (id) select id from found where not ours on conflict do nothing returning id
            )
            select
                array_agg(f.place), array_agg(f.id), array_agg(f.same), array_agg(f.ours),
                (select array_agg(n.id) from first as n)
            from found as f
            """
        ).format(
            run=sql.Literal(run_id),
            compare=sql.Literal(not full_refresh),
            table=sql.Identifier(self.table),
            instance=sql.Literal(instance_id),
        )

    @property
    def pending(self) -> Counts:
        """What was taken and is not committed yet."""
        return self._uncommitted

    @property
    def chunk_rows(self) -> int:
        """How many rows wait to be committed."""
        return 0 if self._chunk is None else self._chunk.rows

    def take(self, batch: Batch) -> None:
        """Asks which records of a batch differ, puts those into the chunk, and commits the chunk when it is full.

        Raises:
            DatabaseTrouble, DatabaseRefused: PostgreSQL could not answer or commit.
            RunFenced: the run was closed by another process.
        """
        chunk = self._chunk = self._chunk or Chunk(self.landing.directory, self.table)
        counts = self._uncommitted
        counts.read += len(batch.keys) + len(batch.rejected)
        counts.rejected += len(batch.rejected)
        chunk.rejected += batch.rejected
        chunk.outcomes += batch.outcomes
        newest: dict[tuple[str, str], int] = {}
        for place, identity in enumerate(zip(batch.parents, batch.keys, strict=True)):
            pending = chunk.pending.get(identity)
            if pending is not None:
                counts.duplicate += 1
                if pending != batch.hashes[place]:
                    chunk.repeats = True
                    chunk.write(identity, batch.hashes[place], batch.records[place])
            else:
                if identity in newest:
                    counts.duplicate += 1
                newest[identity] = place
        if newest:
            places = list(newest.values())
            for place in self._differing(batch, places, counts):
                chunk.write((batch.parents[place], batch.keys[place]), batch.hashes[place], batch.records[place])
        if chunk.rows >= CHUNK_ROWS or chunk.size >= CHUNK_BYTES or len(chunk.rejected) >= CHUNK_ROWS:
            self.commit()
        else:
            self.tick()

    def tick(self) -> None:
        """Commits the chunk when it has waited long enough."""
        if self._chunk is not None and time.monotonic() - self._chunk.opened >= CHUNK_SECONDS:
            self.commit()

    def _differing(self, batch: Batch, places: list[int], counts: Counts) -> list[int]:
        """The places of a batch whose records are new to staging or differ from it."""
        started = time.monotonic()
        lists = (
            [batch.parents[p] for p in places],
            [batch.keys[p] for p in places],
            [batch.hashes[p] for p in places],
        )
        with translated():
            row = self.conn.execute(self._ask_query, lists).fetchone()
        assert row is not None
        self.seconds["ask"] += time.monotonic() - started
        if row[0] is None:
            return places
        first = set(row[4] or ())
        same: set[int] = set()
        for place, id_, is_same, ours in zip(*row[:4], strict=True):
            if is_same:
                same.add(place)
            if id_ in first:
                counts.unchanged += is_same
            elif is_same:
                counts.duplicate += 1
            elif not ours:
                # Counted as unchanged when it was served first; the merge counts it as updated.
                counts.unchanged -= 1
                counts.duplicate += 1
        return [place for number, place in enumerate(places, 1) if number not in same]

    def commit(self, conclude: Callable[[], None] | None = None) -> None:
        """Commits the chunk in one transaction; `conclude` is called in it after the merge, to close the run there."""
        chunk = self._chunk or Chunk(self.landing.directory, self.table)
        self._chunk = None
        counts, self._uncommitted = self._uncommitted, Counts()
        try:
            if chunk.rows:
                self._land(chunk, counts)
            started = time.monotonic()
            with translated(), self.conn.transaction():
                runs.fence(self.conn, self.run_id)
                if chunk.rows:
                    self._merge(chunk, counts)
                self._quarantine(chunk.rejected)
                if chunk.outcomes:
                    self._settle_parents(chunk.outcomes, counts)
                runs.add_to_run(self.conn, self.run_id, counts, self.traffic())
                self.counts.add(counts)
                if conclude is not None:
                    # What concludes a run compares whole tables.
                    self.conn.execute("set local enable_hashjoin = on")
                    self.conn.execute("set local enable_seqscan = on")
                    conclude()
            self.seconds["merge"] += time.monotonic() - started
        finally:
            chunk.remove()

    def _land(self, chunk: Chunk, counts: Counts) -> None:
        """Lands the chunk: by dlt, or record by record where PostgreSQL refuses one of them."""
        started = time.monotonic()
        chunk.close()
        try:
            self.landing.land(self.table, chunk.path, chunk.rows)
        except LandingFailed as failed:
            log.warning("chunk_refused", table=self.table, rows=chunk.rows, error=str(failed))
            self._land_carefully(chunk, counts)
        self.seconds["land"] += time.monotonic() - started

    def _land_carefully(self, chunk: Chunk, counts: Counts) -> None:
        """Lands the records that PostgreSQL can hold and quarantines the others (a number beyond numeric, say)."""
        with translated(), self.conn.transaction():
            self.conn.execute(f"truncate {self._landing_name}".encode())
            self.conn.execute(
                """
                create temporary table dw_careful (
                    seq bigint, parent_source_id text, source_id text, content_hash bytea, data text
                ) on commit drop
                """
            )
            with (
                self.conn.cursor().copy("copy dw_careful from stdin (format csv, header)") as copy,
                chunk.path.open("rb") as file,
            ):
                while block := file.read(1 << 20):
                    copy.write(block)
            refused = self.conn.execute(
                """
                with judged as (select seq, dw_json_refusal(data) as state from dw_careful)
                delete from dw_careful as c using judged as j
                where c.seq = j.seq and j.state is not null
                returning c.parent_source_id, c.source_id, c.data, j.state
                """
            ).fetchall()
            self.conn.execute(
                (
                    f"insert into {self._landing_name} ({', '.join(COLUMNS)}) "
                    "select seq, parent_source_id, source_id, content_hash, data::jsonb from dw_careful"
                ).encode()
            )
        chunk.refused = len(refused)
        for parent, key, raw, state in refused:
            counts.rejected += 1
            reason = f"PostgreSQL cannot hold it as jsonb (SQLSTATE {state})"
            chunk.rejected.append(Rejected(key=key, parent=parent, reason=reason, raw=raw))

    def _merge(self, chunk: Chunk, counts: Counts) -> None:
        """Merges the landing table and adds what the statements counted.

        Raises:
            DatabaseTrouble: the landing table does not hold what was landed, so somebody else writes to it.
        """
        row = self.conn.execute(f"select count(*) from {self._landing_name}".encode()).fetchone()
        if row is None or row[0] != chunk.rows - chunk.refused:
            raise DatabaseTrouble(
                f"{self._landing_name} holds {row[0] if row else 0} rows where {chunk.rows - chunk.refused} were "
                "landed. Nothing of them is merged; the job is tried again."
            )
        row = self.conn.execute(
            "select inserted, updated, unchanged, repeated from dw_merge_landing(%s, %s, %s, %s, %s, %s)",
            (
                self.run_id,
                self.endpoint.job_id,
                self.instance_id,
                self.table,
                self._landing_name,
                chunk.repeats,
            ),
        ).fetchone()
        assert row is not None
        counts.inserted += row[0]
        counts.updated += row[1]
        counts.unchanged += row[2]
        counts.duplicate += row[3]

    def _quarantine(self, rejected: list[Rejected]) -> None:
        """Stores what cannot be staged."""
        runs.quarantine(
            self.conn,
            self.run_id,
            self.endpoint.job_id,
            self.instance_id,
            self.table,
            ((r.parent, r.key, r.reason, r.raw, content_hash(r.raw.encode())) for r in rejected),
        )
        self.deletion.spare(rejected)

    def _settle_parents(self, outcomes: list[ParentOutcome], counts: Counts) -> None:
        """Deletes the children that fetched parents no longer list, and writes the parents into their ledger."""
        fetched = [o.key for o in outcomes if o.status == "fetched"]
        kept: set[str] = set()
        if fetched and self.endpoint.owner:
            deleted, kept = self.deletion.children(fetched, self._so_far(counts))
            counts.deleted += deleted
        reason = "MassDelete: more of its children are gone than may be deleted"
        parents.record_parents(
            self.conn,
            self.run_id,
            self.endpoint.job_id,
            self.instance_id,
            [ParentOutcome(o.key, o.hash, "failed", 0, reason) if o.key in kept else o for o in outcomes],
        )

    def delete_unseen(self) -> None:
        """Deletes the rows that a complete enumeration of the whole table did not contain; call inside `commit`."""
        self._add_deleted(self.deletion.unlisted(self.counts))

    def delete_orphans(self, parent_table: str) -> None:
        """Deletes the children whose parents are no longer staged; call inside `commit`."""
        self._add_deleted(self.deletion.orphans(parent_table, self.counts))

    def _add_deleted(self, deleted: int) -> None:
        """Adds what was deleted after the chunk's own counts were added, still in its transaction."""
        counts = Counts(deleted=deleted)
        runs.add_to_run(self.conn, self.run_id, counts, self.traffic())
        self.counts.add(counts)

    def _so_far(self, counts: Counts) -> Counts:
        """What the run has done with a chunk that is still to be added to it."""
        total = replace(self.counts)
        total.add(counts)
        return total

    def drop_chunk(self) -> None:
        """Throws away what is not committed."""
        if self._chunk is not None:
            self._chunk.remove()
            self._chunk = None
        self._uncommitted = Counts()
