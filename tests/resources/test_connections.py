"""Connections that end, wait and are lent out: what is tried again, what is not, and that no wait is without end."""

import asyncio
import time
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from resources.timescale import connections
from resources.timescale.connections import DatabaseConnectionManager
from resources.timescale.loop import wait
from resources.timescale.store import MarketStore
from resources.timescale.trouble import (
    DatabaseUnavailable,
    OutcomeUnknown,
    PoolExhausted,
    Trouble,
    is_rows_fault,
    trouble_of,
)
from tests.databases import beside
from tests.faults.proxy import proxy


@pytest.fixture(scope="module")
def dsn(market: MarketStore) -> Iterator[str]:
    with beside(market) as dsn:
        yield dsn


@asynccontextmanager
async def opened(dsn: str, *arguments: Any, **options: Any) -> AsyncIterator[DatabaseConnectionManager]:
    manager = DatabaseConnectionManager(dsn, *arguments, **options)
    await manager.open()
    try:
        yield manager
    finally:
        await manager.close()


def run(test: Coroutine[Any, Any, Any]) -> None:
    wait(asyncio.wait_for(test, 60))


async def terminate(manager: DatabaseConnectionManager, of: Any = None) -> None:
    """End connections as an administrator does: one, or all that are idle."""
    which = f"pid = {of.get_server_pid()}" if of else "state = 'idle'"
    async with manager.connection() as other:
        await other.fetch(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
            f"WHERE datname = current_database() AND pid <> pg_backend_pid() AND {which}"
        )


def test_a_session_is_in_utc_compiles_nothing_and_says_who_it_is(dsn: str) -> None:
    async def test() -> None:
        async with opened(dsn, application="a test", warm_up=[("SELECT $1::int", 7), ("SELECT 1 FROM nowhere",)]) as it:
            query = "SELECT current_setting('TimeZone'), current_setting('jit'), current_setting('application_name')"
            assert tuple(await it.run(lambda c: c.fetchrow(query))) == ("UTC", "off", "a test")
            assert it.statistics.connections == it.statistics.connected == 2

    run(test())


def test_what_a_write_told_its_session_is_undone_and_so_is_a_transaction_that_a_read_left_open(dsn: str) -> None:
    async def test() -> None:
        async with opened(dsn, minimum=1, maximum=1) as manager:
            usual = await manager.run(lambda c: c.fetchval("SHOW work_mem"), read=True)
            await manager.run(lambda c: c.execute("SET work_mem = '1MB'; SELECT pg_advisory_lock(7)"))
            assert await manager.run(lambda c: c.fetchval("SHOW work_mem"), read=True) == usual
            held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
            assert await manager.run(lambda c: c.fetchval(held), read=True) == 0
            await manager.run(lambda c: c.execute("BEGIN"), read=True)
            assert not await manager.run(lambda c: _in_transaction(c), read=True)

    run(test())


async def _in_transaction(connection: Any) -> bool:
    return connection.is_in_transaction()


def test_what_an_ended_connection_did_not_answer_is_asked_again(dsn: str) -> None:
    async def test() -> None:
        async with opened(dsn) as it:
            attempts = 0

            async def interrupted(connection: Any) -> int:
                nonlocal attempts
                attempts += 1
                if attempts == 1:
                    await terminate(it, connection)
                return await connection.fetchval("SELECT 42")

            assert await it.run(interrupted, transaction=True) == 42
            assert attempts == 2
            assert (it.statistics.retries, it.statistics.recoveries) == (1, 1)
            assert it.statistics.troubles.keys() <= {"cut", "shut_down"}

    run(test())


def test_a_pool_whose_connections_were_all_ended_serves_on(dsn: str) -> None:
    async def test() -> None:
        async with opened(dsn, minimum=4) as it:
            await terminate(it)
            assert await asyncio.gather(*(it.run(lambda c: c.fetchval("SELECT 1")) for _ in range(20))) == [1] * 20
            assert 0 < it.statistics.connections <= 10

    run(test())


def test_a_write_that_must_not_be_done_twice_is_not_tried_again_once_it_began(dsn: str) -> None:
    async def test() -> None:
        async with opened(dsn) as it:
            attempts = 0

            async def interrupted(connection: Any) -> None:
                nonlocal attempts
                attempts += 1
                await terminate(it, connection)
                await connection.execute("SELECT 1")

            with pytest.raises(OutcomeUnknown, match="wholly or not at all"):
                await it.run(interrupted, idempotent=False)
            assert attempts == 1

    run(test())


def test_an_answer_that_does_not_come_in_time_is_given_up_and_the_connection_with_it(dsn: str) -> None:
    async def test() -> None:
        async with opened(dsn) as it:
            start = time.monotonic()
            with pytest.raises(DatabaseUnavailable) as refused:
                await it.run(
                    lambda c: c.execute("SELECT pg_sleep(30)"), statement_s=0.3, patience_s=0.5, transaction=True
                )
            assert refused.value.trouble is Trouble.TIMEOUT
            assert time.monotonic() - start < 5
            assert await it.run(lambda c: c.fetchval("SELECT 1")) == 1

    run(test())


def test_an_exhausted_pool_says_so_in_its_time_and_serves_when_one_comes_back(
    dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "ACQUIRE_S", 0.2)

    async def test() -> None:
        async with opened(dsn, minimum=1, maximum=2) as it:
            async with it.connection(), it.connection():
                with pytest.raises(PoolExhausted, match="all 2"):
                    async with it.connection():
                        pass
                waiting = asyncio.create_task(it.run(lambda c: c.fetchval("SELECT 1")))
                await asyncio.sleep(0.5)
            assert await waiting == 1
            assert it.statistics.troubles == {"pool_exhausted": it.statistics.retries}
            assert it.statistics.wait_p99_ms >= 200

    run(test())


def test_a_server_that_takes_no_writes_is_read_and_written_to_once_it_does(dsn: str) -> None:
    async def test() -> None:
        async with opened(dsn, minimum=1, maximum=3) as first:
            await first.run(lambda c: c.execute("CREATE TABLE t (n int)"))
            name = await first.run(lambda c: c.fetchval("SELECT quote_ident(current_database())"))
            await first.run(lambda c: c.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on"))
            async with opened(dsn, minimum=1, maximum=1) as it:
                assert await it.run(lambda c: c.fetchval("SELECT count(*) FROM t"), read=True) == 0
                with pytest.raises(DatabaseUnavailable) as refused:
                    await it.run(lambda c: c.execute("INSERT INTO t VALUES (1)"), patience_s=0)
                assert refused.value.trouble is Trouble.READ_ONLY
                writing = asyncio.create_task(it.run(lambda c: c.execute("INSERT INTO t VALUES (1)")))
                await first.run(lambda c: c.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only"))
                await terminate(first)
                assert await writing == "INSERT 0 1"

    run(test())


def test_of_two_that_wait_for_each_other_the_one_that_was_refused_is_done_after_the_other(dsn: str) -> None:
    async def test() -> None:
        async with opened(dsn) as it:
            met = [asyncio.Event(), asyncio.Event()]

            async def locking(connection: Any, mine: int) -> None:
                await connection.execute("SET LOCAL deadlock_timeout = '50ms'")
                await connection.execute(f"SELECT pg_advisory_xact_lock({mine})")
                met[mine].set()
                await met[1 - mine].wait()
                await connection.execute(f"SELECT pg_advisory_xact_lock({1 - mine})")

            await asyncio.gather(*(it.run(lambda c, n=n: locking(c, n), transaction=True) for n in (0, 1)))
            assert it.statistics.troubles == {"conflict": 1}

    run(test())


def test_what_no_waiting_mends_is_raised_at_once(dsn: str) -> None:
    async def test() -> None:
        async with opened(dsn) as it:
            for statement, rows_fault in (("SELECT 1 / 0", True), ("SELECT * FROM nowhere", False)):
                with pytest.raises(asyncpg.PostgresError) as refused:
                    await it.run(lambda c, s=statement: c.execute(s))
                assert trouble_of(refused.value) is None
                assert is_rows_fault(refused.value) is rows_fault
            assert it.statistics.retries == 0

    run(test())


def test_a_close_does_not_wait_for_what_is_still_asked(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "CLOSE_S", 0.2)

    async def test() -> None:
        async with opened(dsn) as it:
            asking = asyncio.create_task(it.run(lambda c: c.execute("SELECT pg_sleep(30)"), patience_s=0))
            await asyncio.sleep(0.2)
            start = time.monotonic()
            await it.close()
            assert time.monotonic() - start < 3
            with pytest.raises(DatabaseUnavailable):
                await asking

    run(test())


def test_a_read_goes_to_the_replica_and_a_write_never(dsn: str, market: MarketStore) -> None:
    async def test() -> None:
        query = "SELECT current_database()"
        here, there = (urlsplit(url).path[1:] for url in (dsn, market._dsn))
        async with opened(dsn, market._dsn) as it:
            assert it.statistics.lag_s == 0
            assert await it.run(lambda c: c.fetchval(query), read=True) == there
            assert await it.run(lambda c: c.fetchval(query)) == here
        async with opened(dsn, "postgresql://127.0.0.1:1/nowhere") as it:
            assert it.statistics.lag_s is None
            assert await it.run(lambda c: c.fetchval(query), read=True) == here
            assert it.statistics.fallbacks == 1

    run(test())


def test_reads_that_keep_all_connections_to_the_replica_are_not_ended_for_that(
    dsn: str, market: MarketStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("WATCH_S", 0.2), ("ACQUIRE_S", 0.5)):
        monkeypatch.setattr(connections, name, seconds)

    async def test() -> None:
        there = urlsplit(market._dsn).path[1:]
        async with opened(dsn, market._dsn, minimum=1, maximum=1) as it:
            query = "SELECT current_database() FROM pg_sleep(2)"
            assert await it.run(lambda c: c.fetchval(query), read=True) == there
            assert it.replica_serves
            assert (it.statistics.retries, it.statistics.fallbacks) == (0, 0)

    run(test())


@pytest.mark.parametrize("fault", ["cut", "half_open"])
def test_what_a_replica_that_goes_away_was_asked_the_primary_answers(
    dsn: str, market: MarketStore, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    for name, seconds in (("WATCH_S", 0.2), ("ACQUIRE_S", 0.5)):
        monkeypatch.setattr(connections, name, seconds)
    parts = urlsplit(market._dsn)
    socket = Path(parse_qs(parts.query).get("host", [""])[0]) / f".s.PGSQL.{parts.port or 5432}"
    here, there = (urlsplit(url).path[1:] for url in (dsn, market._dsn))

    async def test() -> None:
        with proxy(socket if parts.query else parts.port or 5432) as between:
            through = f"postgresql://{parts.username or 'postgres'}@127.0.0.1:{between.port}/{there}"
            async with opened(dsn, through) as it:
                names: list[str] = []

                async def asked(connection: Any) -> str:
                    names.append(await connection.fetchval("SELECT current_database()"))
                    if len(names) == 1:
                        getattr(between, fault)()
                    return await connection.fetchval("SELECT current_database() FROM pg_sleep(0.1)")

                assert await it.run(asked, read=True) == here
                assert names == [there, here]
                assert it.statistics.fallbacks >= 1 and not it.replica_serves
                between.healthy()
                async with asyncio.timeout(10):
                    while not it.replica_serves:
                        await asyncio.sleep(0.05)
                assert await it.run(lambda c: c.fetchval("SELECT current_database()"), read=True) == there

    run(test())
