"""One migrated database for all the cases of a module: each case lives in instances of its own."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import psycopg
import pytest

from clinical_conductor.database import connect
from tests.fixtures.postgres import PostgresServer

_instances = count(10, 10)


@pytest.fixture(scope="module")
def warehouse_url(postgres_server: PostgresServer, migrated_template: str) -> Iterator[str]:
    """URL of a migrated database that a module's tests share."""
    with postgres_server.fresh(migrated_template) as url:
        yield url


@pytest.fixture(scope="module")
def shared(warehouse_url: str) -> Iterator[psycopg.Connection[Any]]:
    """A connection to it, in autocommit."""
    with connect(warehouse_url, autocommit=True) as conn:
        yield conn


@pytest.fixture
def instance() -> int:
    """The first of ten instance numbers that no other test uses."""
    return next(_instances)
