"""Numbered SQL files: each applied once, by one of many processes, and never on a schema that is not theirs."""

import asyncio
from collections.abc import Iterator

import asyncpg
import pytest

from resources.timescale import migrations as module
from resources.timescale.migrations import (
    WITHOUT_TRANSACTION,
    Backend,
    Migration,
    SchemaBusy,
    SchemaRefused,
    apply,
    backend_of,
    migrations,
    pending,
)
from tests import databases


@pytest.fixture
def database(postgres: str) -> Iterator[str]:
    """A database of its own on the plain server of all tests."""
    with databases.database(postgres, Backend.PLAIN) as dsn:
        yield dsn


async def applied(database: str, files: list[Migration]) -> list[str]:
    connection = await asyncpg.connect(database)
    try:
        return await apply(connection, files)
    finally:
        await connection.close()


async def names(database: str, files: list[Migration]) -> list[str]:
    connection = await asyncpg.connect(database)
    try:
        assert await backend_of(connection) is Backend.PLAIN
        return [file.name for file in await pending(connection, files)]
    finally:
        await connection.close()


FILES = [
    Migration("0001_a.sql", "common", "CREATE TABLE md.a (n int); INSERT INTO md.a VALUES (1);"),
    Migration(
        "0002_b.sql", "plain", f"{WITHOUT_TRANSACTION}\nCREATE TABLE IF NOT EXISTS md.b (n int);\nVACUUM md.a;\n"
    ),
]


def test_the_files_of_the_project_have_numbers_of_their_own() -> None:
    for backend in Backend:
        numbers = [file.name[:4] for file in migrations(backend)]
        assert numbers == [f"{n:04d}" for n in range(1, len(numbers) + 1)]


def test_planning_changes_nothing_and_applying_twice_does_so_once(database: str) -> None:
    for _ in range(2):
        assert asyncio.run(names(database, FILES)) == ["0001_a.sql", "0002_b.sql"]
    assert asyncio.run(applied(database, FILES)) == ["0001_a.sql", "0002_b.sql"]
    assert asyncio.run(applied(database, FILES)) == asyncio.run(names(database, FILES)) == []


def test_of_many_processes_one_lays_the_schema(database: str) -> None:
    async def all_at_once() -> list[list[str]]:
        return await asyncio.gather(*(applied(database, FILES) for _ in range(8)))

    assert sorted(asyncio.run(all_at_once())) == [[]] * 7 + [["0001_a.sql", "0002_b.sql"]]


def test_who_waits_too_long_for_another_that_changes_the_schema_says_so(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAIT_S", 0.1)

    async def beside(holder: asyncpg.Connection) -> None:
        with pytest.raises(SchemaBusy, match="another process"):
            await applied(database, FILES)
        await holder.execute("SELECT pg_advisory_unlock_all()")
        assert await applied(database, FILES)

    async def held() -> None:
        holder = await asyncpg.connect(database)
        try:
            await holder.execute("SELECT pg_advisory_lock(hashtext('md.schema_migration'))")
            await beside(holder)
        finally:
            await holder.close()

    asyncio.run(held())


def test_a_file_that_fails_leaves_nothing_and_is_applied_when_it_is_right(database: str) -> None:
    bad = Migration("0002_b.sql", "plain", "CREATE TABLE md.c (n int); SELECT 1 / 0;")
    with pytest.raises(asyncpg.DivisionByZeroError):
        asyncio.run(applied(database, [FILES[0], bad]))
    assert asyncio.run(names(database, FILES)) == ["0002_b.sql"]
    good = Migration("0002_b.sql", "plain", "CREATE TABLE md.c (n int);")
    assert asyncio.run(applied(database, [FILES[0], good])) == ["0002_b.sql"]


def test_a_file_without_a_transaction_goes_on_after_a_failure_halfway(database: str) -> None:
    bad = Migration("0002_b.sql", "plain", FILES[1].sql + "SELECT 1 / 0;\n")
    with pytest.raises(asyncpg.DivisionByZeroError):
        asyncio.run(applied(database, [FILES[0], bad]))
    assert asyncio.run(applied(database, FILES)) == ["0002_b.sql"]


def test_a_database_with_a_list_and_no_history_goes_on(database: str) -> None:
    async def former() -> None:
        connection = await asyncpg.connect(database)
        await connection.execute(
            "CREATE SCHEMA md; CREATE TABLE md.a (n int); CREATE TABLE public.market_schema (name text);"
            "INSERT INTO public.market_schema VALUES ('0001_a.sql')"
        )
        await connection.close()

    asyncio.run(former())
    assert asyncio.run(applied(database, FILES)) == ["0002_b.sql"]
    assert asyncio.run(names(database, FILES)) == []


def test_a_changed_file_and_a_newer_schema_are_refused_by_name(database: str) -> None:
    asyncio.run(applied(database, FILES))
    changed = [FILES[0], Migration("0002_b.sql", "plain", FILES[1].sql + "\n")]
    for attempt in (names, applied):
        with pytest.raises(SchemaRefused, match=r"0002_b\.sql says something else"):
            asyncio.run(attempt(database, changed))
        with pytest.raises(SchemaRefused, match=r"newer version.*0002_b\.sql"):
            asyncio.run(attempt(database, FILES[:1]))
    assert asyncio.run(applied(database, FILES)) == []
