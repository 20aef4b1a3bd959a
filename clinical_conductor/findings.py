"""What a run leaves to the next one: how far a listing was read, and what its endpoint was found to take.

The only writer of dw_etl_watermarks and dw_etl_capabilities.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from psycopg import Connection
from psycopg.types.json import Jsonb


def read_watermark(
    conn: Connection[Any], job_id: int, instance_id: int, cursor_field: str, full_read_within: timedelta
) -> datetime | None:
    """The watermark of a cursor field, if the listing was also read in full so recently."""
    row = conn.execute(
        """
        select watermark from dw_etl_watermarks
        where job_id = %s and source_instance_id = %s and cursor_field = %s and full_read_at > now() - %s
        """,
        (job_id, instance_id, cursor_field, full_read_within),
    ).fetchone()
    return None if row is None else row[0]


def move_watermark(
    conn: Connection[Any],
    run_id: int,
    job_id: int,
    instance_id: int,
    cursor_field: str,
    watermark: datetime,
    *,
    full: bool,
) -> None:
    """Moves a watermark forward, never back (but for another cursor field), in the transaction of the last rows.

    Args:
        full: The listing was read whole, not by its cursor.
    """
    conn.execute(
        """
        insert into dw_etl_watermarks as w (
            job_id, source_instance_id, cursor_field, watermark, etl_run_id, full_read_at
        )
        values (%s, %s, %s, %s, %s, case when %s then now() end)
        on conflict (source_instance_id, job_id) do update set
            watermark = case
                when w.cursor_field = excluded.cursor_field then greatest(w.watermark, excluded.watermark)
                else excluded.watermark
            end,
            full_read_at = coalesce(excluded.full_read_at, w.full_read_at),
            cursor_field = excluded.cursor_field, etl_run_id = excluded.etl_run_id, updated_at = now()
        """,
        (job_id, instance_id, cursor_field, watermark, run_id, full),
    )


def drop_watermark(conn: Connection[Any], job_id: int, instance_id: int) -> None:
    """Forgets a watermark: the next run reads the listing in full."""
    conn.execute("delete from dw_etl_watermarks where job_id = %s and source_instance_id = %s", (job_id, instance_id))


def read_capabilities(conn: Connection[Any], job_id: int, instance_id: int) -> Mapping[str, Any] | None:
    """What was found out about an endpoint of an instance, as `Capabilities.as_json` wrote it."""
    row = conn.execute(
        "select details from dw_etl_capabilities where job_id = %s and source_instance_id = %s",
        (job_id, instance_id),
    ).fetchone()
    return None if row is None else row[0]


def write_capabilities(
    conn: Connection[Any], job_id: int, instance_id: int, path: str | None, details: Mapping[str, Any]
) -> None:
    """Remembers what was found out about an endpoint of an instance."""
    conn.execute(
        """
        insert into dw_etl_capabilities as c (job_id, source_instance_id, path, details)
        values (%s, %s, %s, %s)
        on conflict (source_instance_id, job_id) do update set
            path = excluded.path, details = excluded.details, updated_at = now()
        where c.details is distinct from excluded.details or c.path is distinct from excluded.path
        """,
        (job_id, instance_id, path, Jsonb(details)),
    )
