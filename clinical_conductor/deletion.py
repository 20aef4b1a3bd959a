"""What is gone upstream: the rows that nothing served any more, deleted and archived within limits.

What a run was served stands in two places: a row that it wrote carries its run id, and `pg_temp.dw_seen` holds the ids
of all others, filled by the query with which `Stage` asks what differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from psycopg import Connection, sql

from clinical_conductor.catalog import Endpoint
from clinical_conductor.errors import MassDelete
from clinical_conductor.parents import whole_tables
from clinical_conductor.records import Rejected
from clinical_conductor.runs import Counts

DELETE_THRESHOLD = 0.2
"""Share of a table that one run may delete without being told so."""


class Deletion:
    """The deletions of one run. They belong into a transaction of `Stage.commit`."""

    def __init__(
        self,
        conn: Connection[Any],
        endpoint: Endpoint,
        *,
        run_id: int,
        instance_id: int,
        rows_before: int,
        allow_mass_delete: bool,
    ) -> None:
        """Makes the session's temporary tables; `rows_before` is how many rows the table held as the run began."""
        self.refused: int | None = None
        """How many rows were not deleted, because they are too many."""
        self._conn = conn
        self._endpoint = endpoint
        self._run_id = run_id
        self._instance_id = instance_id
        self._rows_before = rows_before
        self._allow_mass_delete = allow_mass_delete
        self._spared: list[tuple[str, str]] = []
        conn.execute("drop table if exists pg_temp.dw_seen, pg_temp.dw_enumerated")
        conn.execute("create temporary table dw_seen (id integer primary key)")
        conn.execute("create temporary table dw_enumerated (parent_source_id text primary key)")

    def spare(self, rejected: Sequence[Rejected]) -> None:
        """Remembers the keys of rejected records: their older rows are not gone, only unreadable."""
        self._spared += [(r.parent, r.key) for r in rejected if r.key is not None and len(r.key) <= 255]

    def unlisted(self, so_far: Counts) -> int:
        """Deletes the rows that a complete enumeration of the whole table did not contain; returns how many."""
        return self._delete(so_far, "no longer listed", parents=False)[0]

    def orphans(self, parent_table: str, so_far: Counts) -> int:
        """Deletes the children whose parents are no longer staged; returns how many."""
        self._conn.execute("truncate pg_temp.dw_enumerated")
        with whole_tables(self._conn):
            self._conn.execute(
                sql.SQL(
                    """
                    insert into pg_temp.dw_enumerated
                    select distinct c.parent_source_id
                    from {child} as c
                    where c.source_instance_id = %(instance)s
                        and not exists (
                            select from (
                                select dw_parent_key(p.parent_source_id, p.source_id, %(parts)s) as parent_key
                                from {parent} as p where p.source_instance_id = %(instance)s
                            ) as k
                            where k.parent_key = c.parent_source_id
                        )
                    """
                ).format(child=sql.Identifier(self._endpoint.table), parent=sql.Identifier(parent_table)),
                {"instance": self._instance_id, "parts": len(self._endpoint.parameters)},
            )
        return self._delete(so_far, "its parent is gone", parents=True)[0]

    def children(self, parent_keys: list[str], so_far: Counts) -> tuple[int, set[str]]:
        """Deletes the children that their parents no longer list.

        Args:
            parent_keys: Parents whose children were all read.

        Returns:
            How many were deleted, and the parents that keep theirs, because they are too many.
        """
        self._conn.execute("truncate pg_temp.dw_enumerated")
        self._conn.execute(
            "insert into pg_temp.dw_enumerated select * from unnest(%s::text[]) on conflict do nothing", (parent_keys,)
        )
        deleted, left = self._delete(so_far, "no longer listed by its parent", parents=True)
        if not left:
            return deleted, set()
        rows = self._conn.execute(
            sql.SQL(
                "select distinct s.parent_source_id from {} as s inner join pg_temp.dw_unseen as u using (id)"
            ).format(sql.Identifier(self._endpoint.table))
        ).fetchall()
        return deleted, {row[0] for row in rows}

    def check(self) -> None:
        """Fails the run when a deletion was refused, after everything else is committed.

        Raises:
            MassDelete: more rows are gone upstream than one run may delete.
        """
        if self.refused is not None:
            raise MassDelete(
                f"{self._endpoint.table}: {self.refused} of {self._rows_before} rows are no longer served, more than "
                f"the {DELETE_THRESHOLD:.0%} that one run may delete. Nothing of them was deleted; everything else was "
                "staged. If they are really gone, run again with --allow-mass-delete."
            )

    def _delete(self, so_far: Counts, reason: str, *, parents: bool) -> tuple[int, int]:
        """Deletes unseen rows unless they are too many; returns how many were deleted, and how many are left over.

        Args:
            so_far: What the run has done, this transaction included.
            parents: Only under the parents in `pg_temp.dw_enumerated`.
        """
        self._see_spared()
        most = max(1, int(self._rows_before * DELETE_THRESHOLD)) - so_far.deleted
        if self._endpoint.key.rule == "content":
            # A changed record without identity is a deletion and an insertion: only the difference is a loss.
            most += so_far.inserted
        if self._allow_mass_delete:
            most = 1 << 62
        row = self._conn.execute(
            "select unseen, deleted from dw_delete_unseen(%s, %s, %s, %s, %s, %s, %s)",
            (
                self._run_id,
                self._endpoint.job_id,
                self._instance_id,
                self._endpoint.table,
                parents,
                most,
                reason,
            ),
        ).fetchone()
        assert row is not None
        unseen, deleted = row
        if unseen > deleted:
            self.refused = (self.refused or 0) + unseen
        return deleted, unseen - deleted

    def _see_spared(self) -> None:
        """Counts the staged rows of rejected records as seen."""
        if not self._spared:
            return
        self._conn.execute(
            sql.SQL(
                """
                insert into pg_temp.dw_seen (id)
                select s.id
                from unnest(%s::text[], %s::text[]) as k (parent, key)
                inner join {table} as s
                    on s.source_instance_id = %s and s.parent_source_id = k.parent and s.source_id = k.key
                on conflict do nothing
                """
            ).format(table=sql.Identifier(self._endpoint.table)),
            ([p for p, _ in self._spared], [k for _, k in self._spared], self._instance_id),
        )
        self._spared.clear()
