"""How `sql/` gets into a database.

`migrate` does three things, each only when it is due: the numbered files of `sql/migrations`, once each; the
replaceable objects (functions, procedures, views), whenever one of their files changed; and the catalog, that is a
staging table and a dw_etl_jobs row per endpoint, whenever `catalog.py` changed. What was done is written into
dw_schema_migrations in the transaction that did it. The first run on an older database upgrades its staging tables in
place, one transaction each, so that a killed upgrade goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from clinical_conductor.catalog import BY_JOB_ID, ENDPOINTS, Endpoint
from clinical_conductor.database import Connection, connect, translate, translated
from clinical_conductor.errors import DatabaseTrouble, MigrationError

logger = logging.getLogger(__name__)

REPLACEABLE = ("bronze", "staging", "silver", "procedures", "gold", "quality")
"""Folders of sql/ whose files may be applied again and again, in this order, the files inside by name."""
BRONZE, CATALOG, OBJECTS = "bronze objects", "catalog", "other objects"
"""What is applied whenever it changes: their rows of dw_schema_migrations, beside a row per numbered file."""
_AGAIN = (BRONZE, CATALOG, OBJECTS)
_LOCK = 7_265_010_001  # of pg_advisory_lock: one installer at a time


def sql_dir() -> Path:
    """The folder of SQL files: inside the installed package, or beside it in a checkout.

    Raises:
        MigrationError: neither is there.
    """
    package = Path(__file__).parent
    for candidate in (package / "sql", package.parent / "sql"):
        if (candidate / "migrations").is_dir():
            return candidate
    raise MigrationError("The folder sql/ is missing: install the package again.")


def pending(conn: Connection) -> list[str]:
    """What `migrate` would do: names of numbered files, `bronze objects`, `catalog`, `other objects`; [] for nothing.

    Raises:
        MigrationError: a numbered file that was applied is not the one that is here.
        DatabaseTrouble, DatabaseRefused: see `translated`.
    """
    idle = conn.info.transaction_status == psycopg.pq.TransactionStatus.IDLE
    with translated():
        due = _due(conn)
        if idle and not conn.autocommit:
            conn.rollback()
    return [name for name, _ in due]


@contextmanager
def connect_migrated(url: str) -> Iterator[Connection]:
    """A connection in autocommit mode to a database whose schema has been brought up to date.

    Raises:
        DatabaseTrouble, DatabaseRefused, ConfigurationError: see `database.connect`.
        MigrationError: see `migrate`.
    """
    with connect(url, autocommit=True) as conn:
        migrate(conn)
        yield conn


def migrate(conn: Connection) -> list[str]:
    """Bring the schema up to date; what was done, in order. Ends the connection's open transaction, if any.

    Raises:
        MigrationError: a file failed (named, with PostgreSQL's reason), or an applied one was changed.
        DatabaseTrouble: the connection was lost; what was committed stays, and the next call goes on.
    """
    if conn.info.transaction_status != psycopg.pq.TransactionStatus.IDLE:
        conn.commit()
    before, conn.autocommit = conn.autocommit, True
    done: list[str] = []
    try:
        with translated():
            if not _due(conn):
                return done
            conn.execute("select pg_advisory_lock(%s)", (_LOCK,))
            try:
                for name, text in _due(conn):  # again: another process may have done it meanwhile
                    try:
                        _apply(conn, name, text)
                    except psycopg.Error as error:
                        raise _failure(f"{name} could not be applied", error) from None
                    done.append(name)
            finally:
                if not conn.closed and not conn.broken:
                    conn.execute("select pg_advisory_unlock(%s)", (_LOCK,))
    finally:
        if not conn.closed and not conn.broken:
            conn.autocommit = before
    return done


def apply_roles(url: str) -> list[str]:
    """Create or update the database roles of `sql/roles`; the names of the files, in order.

    Not part of a migration: it takes a login that may create roles.

    Raises:
        DatabaseRefused: the login may not.
        DatabaseTrouble: the connection was lost.
    """
    files = sorted((sql_dir() / "roles").glob("*.sql"))
    with connect(url, name="trialsync roles") as conn, translated():
        for path in files:
            conn.execute(path.read_bytes())
        conn.commit()
    return [path.stem for path in files]


def _steps() -> list[tuple[str, str]]:
    """Every step of a migration with the text that its hash is taken of, in order."""
    home = sql_dir()
    files = [(path.stem, path.read_text("utf-8")) for path in sorted((home / "migrations").glob("*.sql"))]
    bronze, *others = [
        "\n".join(path.read_text("utf-8") for path in sorted((home / folder).glob("*.sql"))) for folder in REPLACEABLE
    ]
    # The tables come between: bronze functions make them, and the views of the later layers read them.
    rows = [(_job(row), _rule(row)) for row in BY_JOB_ID.values()]
    return [*files, (BRONZE, bronze), (CATALOG, json.dumps(rows)), (OBJECTS, "\n".join(others))]


def _due(conn: Connection) -> list[tuple[str, str]]:
    """The steps that are not applied as they are here."""
    applied = _applied(conn)
    return [(name, text) for name, text in _steps() if applied.get(name) != _hash(text)]


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _applied(conn: Connection) -> dict[str, str]:
    """Name and hash of everything that was applied; a numbered file counts as applied only as it was."""
    row = conn.execute("select to_regclass('public.dw_schema_migrations')").fetchone()
    if row is None or row[0] is None:
        return {}
    rows = conn.execute("select name, content_hash from dw_schema_migrations").fetchall()
    applied: dict[str, str] = dict(rows)
    changed = [n for n, text in _steps() if n not in _AGAIN and n in applied and applied[n] != _hash(text)]
    if changed:
        raise MigrationError(
            f"{', '.join(changed)} was changed after it had been applied to this database. Put the file back as it was,"
            " and write the change into a new numbered file."
        )
    return applied


def _apply(conn: Connection, name: str, text: str) -> None:
    """One step, in its own transaction, with its row in dw_schema_migrations."""
    if name == CATALOG:
        _upgrade_old_tables(conn)
    with conn.transaction():
        # Functions may name what a later file makes: bodies are checked when they run.
        conn.execute("set local search_path = public; set local check_function_bodies = off")
        if conn.execute("select to_regclass('dw_schema_migrations') is null").fetchone() == (True,):
            conn.execute(text)  # the first file makes the very table that its row goes into
        conn.execute(
            "insert into dw_schema_migrations (name, content_hash) values (%s, %s)"
            " on conflict (name) do update set content_hash = excluded.content_hash, applied_at = now()"
            " where dw_schema_migrations.name = any(%s)",
            (name, _hash(text), list(_AGAIN)),
        )
        if name == CATALOG:
            for table, row in _tables().items():
                conn.execute("select dw_ensure_staging_table(%s, %s)", (table, _description(row)))
            conn.execute("select dw_seed_jobs(%s)", (Jsonb([_job(row) for row in BY_JOB_ID.values()]),))
            # An older ledger does not say whose its runs are; they would stand beside the new ones as another instance.
            conn.execute(
                "update dw_etl_runs as r set source_instance_id = coalesce(j.source_instance_id, dw_default_instance())"
                " from dw_etl_jobs as j where r.job_id = j.id and r.source_instance_id is null"
            )
        else:
            conn.execute(text)


def _failure(what: str, error: psycopg.Error) -> MigrationError | DatabaseTrouble:
    """The error of a step that failed: with its place in the file, or as a matter of trying again."""
    reason = translate(error)
    if isinstance(reason, DatabaseTrouble):
        return reason
    more = error.diag.message_hint or (error.diag.context or "").partition("\n")[0]
    return MigrationError(f"{what}. {reason} {more}".rstrip())


def _upgrade_old_tables(conn: Connection) -> None:
    """Upgrade every staging table of the old kind, a transaction each; those that are done are not touched again."""
    tables = _tables()
    for (table,) in conn.execute("select table_name from dw_old_staging_tables order by table_name").fetchall():
        endpoint = tables.get(table)
        rule = None if endpoint is None else Jsonb(_rule(endpoint))
        description = "A staging table that the catalog does not know." if endpoint is None else _description(endpoint)
        try:
            kept, archived = conn.execute(
                "select kept, archived from dw_upgrade_staging_table(%s, %s, %s)", (table, rule, description)
            ).fetchall()[0]
        except psycopg.errors.LockNotAvailable:
            raise MigrationError(
                f"{table} could not be upgraded, because somebody has been using it for a minute. Tables before it are"
                " done; stop its readers and migrate again."
            ) from None
        except psycopg.Error as error:
            raise _failure(f"{table} could not be upgraded", error) from None
        logger.info("Upgraded %s: %s rows kept, %s archived in dw_etl_deleted_records.", table, kept, archived)
        if archived > kept:  # mostly air now: give it back, or every later scan pays for it
            conn.execute(sql.SQL("vacuum (full, analyze) {}").format(sql.Identifier("public", table)))


def _tables() -> dict[str, Endpoint]:
    """The staging tables of the catalog, each with the endpoint that owns it."""
    return {row.table: row for row in ENDPOINTS.values() if row.owner}


def _rule(endpoint: Endpoint) -> dict[str, Any]:
    """How rows that an older loader left in an endpoint's table are keyed."""
    return {"rule": endpoint.key.rule, "fields": endpoint.key.fields, "parents": _parents(endpoint)}


def _parents(endpoint: Endpoint) -> list[list[str]]:
    """Per parameter of the path, the fields in which a record may name that parent; [] for a listing."""
    named = endpoint.parent_fields or (endpoint.bulk.parent_fields if endpoint.bulk else ())
    if named:
        return [[name] for name in named]
    if endpoint.single and endpoint.path.endswith("}"):
        return [list(endpoint.key.fields)]  # /studies/{studyId}: the record is its own parent
    return [[name, f"{name.removesuffix('Id')}.id"] for name in endpoint.parameters]


def _description(endpoint: Endpoint) -> str:
    return f"Records of {endpoint.path} as the API served them, one row each (job {endpoint.job_id})."


def _job(endpoint: Endpoint) -> dict[str, Any]:
    """What dw_etl_jobs holds of an endpoint."""
    return {
        "id": endpoint.job_id,
        "name": endpoint.name,
        "source_endpoint": endpoint.path,
        "target_table": endpoint.table,
        "parameter_source_table": ENDPOINTS[endpoint.parent].table if endpoint.parent else None,
        "resource": endpoint.resource,
        "category": endpoint.category,
        "inactive_reason": endpoint.inactive,
    }
