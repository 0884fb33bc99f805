"""Databases of their own for tests, on the plain server of all tests or on a TimescaleDB that the environment names.

`TRADING_TEST_TIMESCALE_DSN` is the URL of any database of a server on which databases may be created. Without it the tests
that need one are skipped and say so. `TRADING_TEST_BACKEND=timescale` runs every test of the market database there.
"""

import os
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from resources.timescale.backend import Hypertables
from resources.timescale.loop import wait
from resources.timescale.migrations import Backend
from resources.timescale.store import MarketStore

TIMESCALE_DSN = os.environ.get("TRADING_TEST_TIMESCALE_DSN", "")


@contextmanager
def database(server: str, backend: Backend) -> Iterator[str]:
    """Make an empty database on the server of a URL, and drop it at the end."""
    name = f"test_{uuid.uuid4().hex}"
    dsn = urlunsplit(urlsplit(server)._replace(path=f"/{name}"))
    _execute(server, f'CREATE DATABASE "{name}" TEMPLATE template0')
    try:
        if backend is Backend.TIMESCALE:
            _execute(dsn, "CREATE EXTENSION timescaledb")
        yield dsn
    finally:
        _execute(server, f'DROP DATABASE "{name}" WITH (FORCE)')


def beside(market: MarketStore) -> AbstractContextManager[str]:
    """Make an empty database on the server of another, and of its kind; drop it at the end."""
    backend = Backend.TIMESCALE if isinstance(market._storage, Hypertables) else Backend.PLAIN
    return database(market._dsn, backend)


@contextmanager
def timescale() -> Iterator[str]:
    """Make an empty database of TimescaleDB; without a server the test is skipped."""
    if not TIMESCALE_DSN:
        pytest.skip("needs TRADING_TEST_TIMESCALE_DSN, the URL of a TimescaleDB on which databases may be created")
    with database(TIMESCALE_DSN, Backend.TIMESCALE) as dsn:
        yield dsn


def _execute(dsn: str, statement: str) -> None:
    async def once() -> None:
        connection = await asyncpg.connect(dsn)
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    wait(once())
