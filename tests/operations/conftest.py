"""A database with some nights in its ledger, and settings that point at it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest

from clinical_conductor.database import connect
from clinical_conductor.ledger import Snapshot
from clinical_conductor.monitoring import take_snapshot
from clinical_conductor.settings import Settings
from tests.fixtures.postgres import PostgresServer
from tests.operations.seeding import seed_nights

NOW = datetime.now(UTC).replace(hour=10, minute=0, second=0, microsecond=0)
"""Eight hours after the last night began."""


@dataclass(frozen=True)
class Nights:
    """A shared database with four nights in it."""

    url: str
    conn: psycopg.Connection[Any]
    runs: dict[str, int]
    snapshot: Snapshot


@pytest.fixture(scope="session")
def blank(postgres_server: PostgresServer, migrated_template: str) -> Iterator[str]:
    """A database in which every test undoes what it did."""
    name = postgres_server.create(migrated_template)
    yield postgres_server.database_url(name)
    postgres_server.drop(name)


@pytest.fixture
def conn(blank: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection whose work is rolled back at the end."""
    with connect(blank) as connection, connection.transaction(force_rollback=True):
        yield connection


@pytest.fixture
def nights(conn: psycopg.Connection[Any]) -> dict[str, int]:
    """Four nights, the last one with trouble; its run ids by resource."""
    return seed_nights(conn, NOW, nights=4)


@pytest.fixture(scope="session")
def kept(postgres_server: PostgresServer, migrated_template: str) -> Iterator[Nights]:
    """The same nights in a database that all tests share, for those that only read."""
    name = postgres_server.create(migrated_template)
    url = postgres_server.database_url(name)
    with connect(url, autocommit=True) as connection:
        yield Nights(url, connection, seed_nights(connection, NOW, nights=4), take_snapshot(connection, now=NOW))
    postgres_server.drop(name)


@pytest.fixture
def settings(database: str, tmp_path: Path) -> Settings:
    return Settings(database_url=database, work_dir=tmp_path, jobs_file=tmp_path / "jobs.yaml")
