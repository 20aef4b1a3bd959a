"""Which database, how to reach it, and what its errors mean."""

from __future__ import annotations

import select
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg

from clinical_conductor.errors import ConfigurationError, DatabaseFull, DatabaseRefused, DatabaseTrouble
from clinical_conductor.settings import Settings

if TYPE_CHECKING:
    from clinical_conductor.embedded import EmbeddedServer

Connection = psycopg.Connection[tuple[Any, ...]]

OLDEST_SERVER = 15


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
        raise translate(error) from None


_SPEAKING = ("08", "23", "25", "28", "2B", "3D", "3F", "40", "42", "53", "54", "55", "57", "58", "P0")
"""Classes of errors whose primary message names objects, never values (those are in DETAIL, which is never shown)."""


def translate(error: psycopg.Error) -> DatabaseTrouble | DatabaseRefused:
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
