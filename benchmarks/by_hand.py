"""The rival: what a careful engineer writes in an afternoon. No ledger, no hashes; everything is sent every time.

requests, JSON decoded for the key, COPY into a temporary table, INSERT .. ON CONFLICT DO UPDATE, a commit per 50,000
rows. Children are asked for by as many threads as TrialSync has, each with a session of its own.
"""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import requests

from clinical_conductor.catalog import Endpoint, fill_path
from clinical_conductor.database import database_url
from clinical_conductor.reading import FAN_OUT_THREADS
from clinical_conductor.settings import Settings

BATCH = 50_000


class Upsert:
    """Rows on their way into one table, whose keys come first and whose record comes last."""

    def __init__(self, conn: psycopg.Connection[Any], table: str, *keys: str) -> None:
        self.conn = conn
        self.table = table
        self.keys = keys
        self.pending: list[tuple[str, ...]] = []
        columns = ", ".join(f"{key} varchar(255) not null" for key in keys)
        conn.execute(
            f"create table if not exists {table} (id serial, data jsonb not null, {columns}, "
            "loaded_at timestamp default now(), updated_at timestamp default now(), "
            f"unique ({', '.join(keys)}))".encode()
        )
        conn.commit()

    def add(self, rows: list[tuple[str, ...]]) -> None:
        """Take rows, and write them when they are enough."""
        self.pending += rows
        if len(self.pending) >= BATCH:
            self.flush()

    def flush(self) -> None:
        """Write and commit."""
        keys = ", ".join(self.keys)
        columns = "".join(f"{key} text, " for key in self.keys)
        self.conn.execute(f"create temporary table incoming ({columns}data jsonb) on commit drop".encode())
        with self.conn.cursor().copy("copy incoming from stdin") as copy:
            for row in self.pending:
                copy.write_row(row)
        self.conn.execute(
            f"insert into {self.table} ({keys}, data) select {keys}, data from incoming "
            f"on conflict ({keys}) do update set data = excluded.data, loaded_at = now(), updated_at = now()".encode()
        )
        self.conn.commit()
        self.pending.clear()


def new_session(settings: Settings) -> requests.Session:
    """A session with the key."""
    session = requests.Session()
    session.headers["X-ApiKey"] = settings.api_key
    return session


def load_listing(settings: Settings, endpoint: Endpoint) -> dict[str, Any]:
    """Read a listing page by page: seconds, rows and requests."""
    session = new_session(settings)
    with psycopg.connect(database_url(settings)) as conn:
        upsert = Upsert(conn, "by_hand", "source_id")
        began, rows, requested = time.monotonic(), 0, 0
        while True:
            url = f"{settings.api_base_url}{endpoint.path}?$top=1000&$skip={rows}&$orderby=id"
            answer = session.get(url, timeout=60)
            answer.raise_for_status()
            page = answer.json()
            requested += 1
            if not page:
                break
            upsert.add([(str(record["id"]), json.dumps(record)) for record in page])
            rows += len(page)
        upsert.flush()
        return {"seconds": time.monotonic() - began, "rows": rows, "requests": requested}


def load_children(settings: Settings, endpoint: Endpoint, parent_table: str) -> dict[str, Any]:
    """Ask every parent for its children, since nothing tells which have new ones: seconds, rows and requests."""
    mine = threading.local()

    def ask(parent: str) -> tuple[str, list[dict[str, Any]]]:
        if not hasattr(mine, "session"):
            mine.session = new_session(settings)
        answer = mine.session.get(settings.api_base_url + fill_path(endpoint.path, (parent,)), timeout=60)
        answer.raise_for_status()
        return parent, answer.json()

    with psycopg.connect(database_url(settings)) as conn:
        upsert = Upsert(conn, "by_hand_children", "parent_id", "source_id")
        began, rows = time.monotonic(), 0
        parents = [row[0] for row in conn.execute(f"select source_id from {parent_table} order by id".encode())]
        with ThreadPoolExecutor(FAN_OUT_THREADS) as pool:
            for parent, children in pool.map(ask, parents):
                upsert.add([(parent, str(child["id"]), json.dumps(child)) for child in children])
                rows += len(children)
        upsert.flush()
        return {"seconds": time.monotonic() - began, "rows": rows, "requests": len(parents)}
