"""Connections, and the schema they find: which database, how to reach it, and how `sql/` gets into it.

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
import select
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg
from psycopg import sql
from psycopg.types.json import Jsonb

from clinical_conductor.catalog import BY_JOB_ID, ENDPOINTS, Endpoint
from clinical_conductor.errors import ConfigurationError, DatabaseFull, DatabaseRefused, DatabaseTrouble, MigrationError
from clinical_conductor.settings import Settings

if TYPE_CHECKING:
    from clinical_conductor.embedded import EmbeddedServer

logger = logging.getLogger(__name__)

Connection = psycopg.Connection[tuple[Any, ...]]

OLDEST_SERVER = 15
REPLACEABLE = ("bronze", "staging", "silver", "procedures", "gold", "quality")
"""Folders of sql/ whose files may be applied again and again, in this order, the files inside by name."""
BRONZE, CATALOG, OBJECTS = "bronze objects", "catalog", "other objects"
"""What is applied whenever it changes: their rows of dw_schema_migrations, beside a row per numbered file."""
_AGAIN = (BRONZE, CATALOG, OBJECTS)
_LOCK = 7_265_010_001  # of pg_advisory_lock: one installer at a time

# -- which database --------------------------------------------------------------------------------------------------


def embedded(settings: Settings) -> EmbeddedServer:
    """The embedded server of the settings' work directory, started or not."""
    from clinical_conductor.embedded import EmbeddedServer  # not on every platform, and not with every database

    return EmbeddedServer(settings.work_dir / "postgres")


def database_url(settings: Settings) -> str:
    """The URL of the configured database; with none configured, of the embedded one, started and left running.

    Raises:
        ConfigurationError: the embedded server cannot run here; the message says what to set instead.
        DatabaseTrouble: the embedded server did not come up.
    """
    return settings.database or embedded(settings).start()


def stop_embedded(settings: Settings) -> bool:
    """Stop the embedded server of the settings' work directory; whether it was running.

    Raises:
        DatabaseTrouble: it did not stop.
    """
    return embedded(settings).stop()


# -- connections -----------------------------------------------------------------------------------------------------


def connect(url: str, *, autocommit: bool = False, name: str = "trialsync") -> Connection:
    """A direct connection to PostgreSQL 15 or later, in UTC and in schema public.

    Args:
        url: Where to.
        autocommit: Whether every statement is its own transaction.
        name: The connection's name in pg_stat_activity.

    Raises:
        DatabaseTrouble: the server cannot be reached, or is starting or stopping.
        DatabaseRefused: it refuses the login, is too old, is not in UTF8, or is a PgBouncer in transaction mode.
        ConfigurationError: the URL is not one.
    """
    try:
        conn = psycopg.connect(url, autocommit=True, application_name=name, connect_timeout=15, keepalives_idle=60)
    except psycopg.ProgrammingError:
        raise ConfigurationError(
            "DATABASE_URL cannot be read: it should look like postgresql://user@host:5432/name."
        ) from None
    except psycopg.OperationalError as error:
        raise _connect_error(error, url) from None
    try:
        with translated():
            _check_server(conn, url)
            conn.autocommit = autocommit
    except BaseException:
        conn.close()
        raise
    return conn


@contextmanager
def connect_migrated(url: str) -> Iterator[Connection]:
    """A connection in autocommit mode to a database whose schema has been brought up to date.

    Raises:
        DatabaseTrouble, DatabaseRefused, ConfigurationError: see `connect`.
        MigrationError: see `migrate`.
    """
    with connect(url, autocommit=True) as conn:
        if pending(conn):
            migrate(conn)
        yield conn


def _connect_error(error: psycopg.OperationalError, url: str) -> DatabaseTrouble | DatabaseRefused:
    """What a failed connection means. libpq tells it in words only, so a refused login is known by what was asked."""
    try:
        parts = urlsplit(url)
        where = f"PostgreSQL at {parts.hostname or 'the local socket'}:{parts.port or 5432}{parts.path}"
    except ValueError:
        where = "PostgreSQL"
    link = error.pgconn
    if link is not None and link.needs_password:
        return DatabaseRefused(f"{where} wants a password. Set DATABASE_PASSWORD, or put it into DATABASE_URL.")
    said = str(error).partition("FATAL:")[2].strip()
    reason = said.splitlines()[0] if said else "it cannot be reached"
    if "password" in reason or "does not exist" in reason:
        return DatabaseRefused(f"{where} refused the login: {reason}. Check user, password and database.")
    return DatabaseTrouble(f"{where}: {reason}. Check that it runs and that the address is right.")


def _check_server(conn: Connection, url: str) -> None:
    """Set the session up, and refuse a server that cannot do the work."""
    if conn.info.server_version < OLDEST_SERVER * 10000:
        raise DatabaseRefused(
            f"The server is PostgreSQL {conn.info.server_version // 10000}; version {OLDEST_SERVER} or later is needed."
        )
    encoding = conn.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise DatabaseRefused(
            f"The database's encoding is {encoding}, which cannot hold every record. UTF8 is needed: "
            "createdb --encoding UTF8 --template template0 NAME."
        )
    row = conn.execute(
        "select set_config('timezone', 'UTC', false), set_config('search_path', 'public', false), pg_backend_pid()"
    ).fetchone()
    # A direct connection knows its server process by the number the server gave at the start; a pooler made one up.
    if row is not None and row[2] != conn.info.backend_pid and _shares_servers(conn, row[2], url):
        raise DatabaseRefused(
            "DATABASE_URL leads through a PgBouncer in transaction mode, which loses the locks that keep two runs"
            " apart. Use the server's own address, or a pool in session mode."
        )


def _shares_servers(conn: Connection, first: int, url: str) -> bool:
    """Whether a pooler hands one server process to two of our connections, as it does in transaction mode."""
    for _ in range(3):
        with closing(psycopg.connect(url, autocommit=True, connect_timeout=15)) as other:
            # In session mode with a full pool the second connection waits for a server: no answer is a no.
            if _backend(other, seconds=2) == first:
                return True
        if _backend(conn, seconds=15) not in (first, None):
            return True
    return False


def _backend(conn: Connection, *, seconds: float) -> int | None:
    """The number of the server process behind a connection, or None if none answers in time."""
    link, deadline = conn.pgconn, time.monotonic() + seconds
    link.send_query(b"select pg_backend_pid()")
    while link.is_busy():
        link.flush()
        if not select.select([link.socket], [], [], max(0.0, deadline - time.monotonic()))[0]:
            return None
        link.consume_input()
    results = list(iter(link.get_result, None))
    value = results[0].get_value(0, 0) if results else None
    return None if value is None else int(value)


@contextmanager
def translated() -> Iterator[None]:
    """Turn psycopg's errors into ours; no row's content gets through.

    Raises:
        DatabaseTrouble: the connection was lost, or the transaction was a victim; the same again may succeed.
        DatabaseRefused: everything else.
    """
    try:
        yield
    except psycopg.Error as error:
        raise _translate(error) from None


_SPEAKING = ("08", "23", "25", "28", "2B", "3D", "3F", "40", "42", "53", "54", "55", "57", "58", "P0")
"""Classes of errors whose primary message names objects, never values (those are in DETAIL, which is never shown)."""


def _translate(error: psycopg.Error) -> DatabaseTrouble | DatabaseRefused:
    """Our error for one of psycopg's: state, primary message, and the table or constraint it names."""
    state, diag = error.sqlstate, error.diag
    if state is None:
        lost = isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)
        if lost:
            return DatabaseTrouble("The connection to PostgreSQL was lost. The transaction was rolled back; run again.")
        return DatabaseRefused(f"The database driver refused a statement or a value ({type(error).__name__}).")
    message = diag.message_primary or type(error).__name__
    if not state.startswith(_SPEAKING):  # "invalid input syntax for type date: "…"": cut before the value
        message = message.split(":")[0].split('"')[0].strip() or type(error).__name__
    places = (("table", diag.table_name), ("constraint", diag.constraint_name))
    named = [f"{kind} {value}" for kind, value in places if value]
    text = f"PostgreSQL {state}: {message}" + (f" ({', '.join(named)})" if named else "") + "."
    if state.startswith(("08", "57P0")) or state in ("40001", "40P01"):
        return DatabaseTrouble(text)
    if state == "53100":
        return DatabaseFull(f"{text} Free space on the database's disk, then run again.")
    if state.startswith("53"):
        text += " Raise the server's limit, then run again."
    return DatabaseRefused(text)


# -- the schema ------------------------------------------------------------------------------------------------------


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
        applied = _applied(conn)
        if idle and not conn.autocommit:
            conn.rollback()
    return [name for name, text in _steps() if applied.get(name) != _hash(text)]


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
            conn.execute("select pg_advisory_lock(%s)", (_LOCK,))
            try:
                applied = _applied(conn)
                for name, text in _steps():
                    if applied.get(name) == _hash(text):
                        continue
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
    reason = _translate(error)
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
