"""The database's part of the doctor: is it there, is it up to date, is there room, and what does it say of the jobs?"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from clinical_conductor import database, migrations
from clinical_conductor.catalog import Endpoint
from clinical_conductor.database import Connection, translated
from clinical_conductor.errors import DatabaseRefused, TrialSyncError
from clinical_conductor.instances import Instance, ensure_instance
from clinical_conductor.selection import Switches, catalog_switches, with_rows
from clinical_conductor.settings import Settings

LITTLE_ROOM = 2 * 1024**3
"""Free bytes below which a load may not fit."""


@dataclass
class Checkup:
    """What was found out about the database."""

    where: str | None = None
    """host:port/name; None while there is none."""
    embedded: bool = False
    server_version: str | None = None
    size_bytes: int | None = None
    largest_tables: dict[str, int] = field(default_factory=dict)
    disk_free_bytes: int | None = None
    """Of the disk of TRIALSYNC_HOME: the embedded database and the work files are there."""
    migrations_pending: list[str] = field(default_factory=list)
    migrations_applied: list[str] = field(default_factory=list)
    login: str | None = None
    may_create: bool | None = None
    """Whether the login may make schemas, as a run's landing area needs."""
    roles: dict[str, bool] = field(default_factory=dict)
    """The roles of sql/roles, and which of them the login has."""
    pooler: bool | None = None
    """Whether a pooler (in session mode) stands between."""

    def as_json(self) -> dict[str, Any]:
        """These findings as JSON types."""
        return asdict(self)

    def lines(self) -> Iterator[str]:
        """These findings for people."""
        if self.where is None:
            yield "none yet" if self.embedded else "not reached"
        else:
            yield f"PostgreSQL {self.server_version} at {self.where}" + (", the embedded one" if self.embedded else "")
            yield f"{_size(self.size_bytes)} as {self.login}" + (", through a pooler" if self.pooler else "")
            yield f"migrations: {len(self.migrations_pending) or 'none'} pending"
            made = [name.removeprefix("trialsync_") for name in self.roles]
            yield f"roles: {', '.join(made) or 'none'}"
        if self.disk_free_bytes is not None:
            yield f"{_size(self.disk_free_bytes)} free where TRIALSYNC_HOME is"


@dataclass
class DatabaseSide:
    """An open connection, if there is one, and what it told."""

    found: Checkup = field(default_factory=Checkup)
    findings: list[tuple[Literal["error", "warning", "note"], str]] = field(default_factory=list)
    instance: Instance | None = None
    switches: Switches = field(default_factory=catalog_switches)
    paths: Mapping[int, str] = field(default_factory=dict)
    """dw_etl_jobs.source_endpoint by job."""
    conn: Connection | None = None

    def override(self, row: Endpoint, path: str) -> bool:
        """Write a job's path into dw_etl_jobs; whether there was a row to write it into."""
        if self.conn is None or row.job_id not in self.paths:
            return False
        with translated():
            done = self.conn.execute(
                "update dw_etl_jobs set source_endpoint = %s, updated_at = now() where id = %s", (path, row.job_id)
            )
            self.conn.commit()
        return done.rowcount == 1


@contextmanager
def look_at_database(settings: Settings, instance: str | None, *, fix: bool = False) -> Iterator[DatabaseSide]:
    """Connect and look around; whatever is wrong is one of the findings.

    Args:
        settings: Where the database is.
        instance: The instance whose row is wanted.
        fix: Whether to bring the schema up to date, so that overrides can be written.
    """
    side = DatabaseSide()
    with ExitStack() as stack:
        try:
            _disk(side, settings)
            url = _url(side, settings, fix=fix)
            if url is not None:
                side.conn = stack.enter_context(database.connect(url, name="trialsync doctor"))
                _look(side, side.conn, settings, instance, fix=fix)
        except TrialSyncError as error:
            side.findings.append(("error", str(error)))
        if instance is not None and side.instance is None and side.conn is None:
            side.findings.append(("error", f"Instance {instance!r} cannot be looked up without its database."))
        yield side


def _url(side: DatabaseSide, settings: Settings, *, fix: bool) -> str | None:
    """The database's URL; None for an embedded one that nobody has started yet."""
    if settings.database is not None:
        return settings.database
    side.found.embedded = True
    server = database.embedded(settings)
    if fix or server.data.is_dir():
        return server.start()
    side.findings.append(
        ("note", "No database is configured: the first run makes an embedded one. DATABASE_URL names another.")
    )
    return None


def _disk(side: DatabaseSide, settings: Settings) -> None:
    """How much room there is where the work files go."""
    place = next(
        path for path in (settings.work_dir.absolute(), *settings.work_dir.absolute().parents) if path.exists()
    )
    free = shutil.disk_usage(place).free
    side.found.disk_free_bytes = free
    if free < LITTLE_ROOM:
        side.findings.append(
            ("warning", f"Only {_size(free)} are free on the disk of TRIALSYNC_HOME: a load may run out of room.")
        )


def _look(side: DatabaseSide, conn: Connection, settings: Settings, instance: str | None, *, fix: bool) -> None:
    """Everything that is asked of a server that answers."""
    found = side.found
    found.where = f"{conn.info.host}:{conn.info.port}/{conn.info.dbname}"
    with translated():
        row = conn.execute(
            """
            select current_setting('server_version'), pg_database_size(current_database()), current_user,
                has_database_privilege(current_database(), 'create'), has_schema_privilege('public', 'create'),
                pg_backend_pid()
            """
        ).fetchone()
        assert row is not None
        found.server_version, found.size_bytes, found.login, may_create, may_migrate, pid = row
        found.may_create, found.pooler = bool(may_create), pid != conn.info.backend_pid
        found.roles = dict(
            conn.execute(
                r"""
                select r.rolname, pg_has_role(current_user, r.oid, 'member')
                from pg_roles as r where r.rolname like 'trialsync\_%' order by r.rolname
                """
            ).fetchall()
        )
        found.largest_tables = dict(
            conn.execute(
                """
                select c.relname, pg_total_relation_size(c.oid) as size
                from pg_class as c
                where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'm')
                order by size desc, c.relname limit 5
                """
            ).fetchall()
        )
        conn.rollback()
    if not may_create:
        grant = f"grant create on database {conn.info.dbname} to {found.login};"
        text = f"The login {found.login} may not create schemas, and a run lands its rows in one of its own: {grant}"
        side.findings.append(("error", text))
    if found.pooler:
        side.findings.append(("note", "A pooler in session mode stands between; its pool must hold every job at once."))
    if not found.roles:
        side.findings.append(("note", "The roles of sql/roles are not made yet: trialsync-etl roles"))
    found.migrations_pending = migrations.pending(conn)
    if found.migrations_pending and fix:
        found.migrations_applied, found.migrations_pending = migrations.migrate(conn), []
    if found.migrations_pending:
        number = len(found.migrations_pending)
        text = f"{number} steps of the schema are pending: trialsync-etl db migrate (run does it by itself)."
        side.findings.append(("warning", text))
        if not may_migrate:
            side.findings.append(("error", f"The login {found.login} may not create tables, so it cannot migrate."))
    _jobs(side, conn, settings, instance)


def _jobs(side: DatabaseSide, conn: Connection, settings: Settings, instance: str | None) -> None:
    """The instance's row and the jobs' rows, where the schema has them."""
    with translated():
        known = conn.execute(
            # An older system has a dw_etl_jobs of its own, with other columns and other paths.
            "select to_regclass('dw_etl_parents') is not null, to_regproc('dw_default_instance') is not null"
        ).fetchone()
        conn.rollback()
    has_jobs, has_instances = known or (False, False)
    if has_jobs:
        with translated():
            rows = conn.execute("select id, source_endpoint, is_active, inactive_reason from dw_etl_jobs").fetchall()
            conn.rollback()
        side.paths = {row[0]: row[1] for row in rows if row[1]}
        side.switches = with_rows((row[0], row[2], row[3]) for row in rows)
    if has_instances:
        with translated(), conn.transaction(force_rollback=True):  # looks, and leaves no row behind
            side.instance = ensure_instance(conn, settings, instance)
    elif instance is not None:
        raise DatabaseRefused(f"Instance {instance!r} cannot be looked up before: trialsync-etl db migrate")


def _size(count: int | None) -> str:
    """Bytes as people write them."""
    size = float(count or 0)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1024:
            return f"{size:,.0f} {unit}"
        size /= 1024
    return f"{size:,.1f} TB"
