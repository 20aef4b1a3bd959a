"""Staging as the loader would leave it: records in, records changed, records gone, each in its own transaction."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg import sql

Record = dict[str, Any] | None
"""What upstream says; None when the record is gone."""


def stage(
    conn: psycopg.Connection[Any],
    table: str,
    instance: int,
    parent: str,
    key: str,
    record: Record,
    at: datetime | None = None,
) -> None:
    """Write one record as the merge does, or delete and archive it; only a record that differs is written."""
    at = at or datetime.now(UTC)
    name = sql.Identifier(table)
    where = {"table": table, "instance": instance, "parent": parent, "key": key, "at": at}
    if record is None:
        conn.execute(
            sql.SQL(
                "with gone as (delete from {} where source_instance_id = %(instance)s and parent_source_id = %(parent)s"
                " and source_id = %(key)s returning data)"
                " insert into dw_etl_deleted_records"
                " (source_instance_id, target_table, parent_source_id, source_id, data, reason, deleted_at)"
                " select %(instance)s, %(table)s, %(parent)s, %(key)s, data, 'gone upstream', %(at)s from gone"
            ).format(name),
            where,
        )
        return
    conn.execute(
        sql.SQL(
            "insert into {} as s (source_instance_id, parent_source_id, source_id, data, loaded_at, updated_at)"
            " values (%(instance)s, %(parent)s, %(key)s, %(data)s, %(stamp)s, %(stamp)s)"
            " on conflict (source_instance_id, parent_source_id, source_id) do update"
            " set data = excluded.data, loaded_at = excluded.loaded_at, updated_at = excluded.updated_at,"
            " changed_xid = pg_current_xact_id() where s.data <> excluded.data"
        ).format(name),
        {**where, "data": json.dumps(record, default=str), "stamp": at.replace(tzinfo=None)},
    )
