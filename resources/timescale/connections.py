"""Connections to PostgreSQL: a pool, a watch over it, and one way to do a thing again while the server is away.

Every wait has an end: for a connection, for an answer, for the close. What a frozen server keeps is given up by ending the
connection from this side. What it was asked is then done again if doing it twice is as good as once.
"""

import asyncio
import random
import statistics
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import asyncpg

from resources.timescale.trouble import (
    UNCERTAIN,
    DatabaseUnavailable,
    OutcomeUnknown,
    PoolExhausted,
    ServerInRecovery,
    ServerReadOnly,
    Trouble,
    trouble_of,
)
from trading.stream.backoff import Backoff

T = TypeVar("T")
Connection = Any
"""asyncpg's connection, as a pool lends it."""
Call = Callable[[Connection], Awaitable[T]]

ACQUIRE_S: Final = 5.0
CONNECT_S: Final = 10.0
STATEMENT_S: Final = 120.0
CLOSE_S: Final = 5.0
PATIENCE_S: Final = 30.0
"""How long an operation is tried again."""
FIRST_PAUSE_S: Final = 0.05
LONGEST_PAUSE_S: Final = 2.0
WATCH_S: Final = 5.0
MOST_LAG_S: Final = 5.0
"""A replica that is further behind is not read."""
IDLE_S: Final = 300.0
WAITS: Final = 1_000

SESSION: Final = {
    "timezone": "UTC",
    "jit": "off",
    # A page out of order costs no more where no arm moves: bars come out of their index in order, and nothing sorts them.
    "random_page_cost": "1.1",
    # An orphan's query ends, and with it the locks that the next attempt waits for.
    "client_connection_check_interval": "5s",
    "idle_in_transaction_session_timeout": "60s",
}
LAG: Final = """
SELECT CASE WHEN NOT pg_is_in_recovery() THEN 0
WHEN pg_last_wal_receive_lsn() = pg_last_wal_replay_lsn() AND EXISTS (SELECT FROM pg_stat_wal_receiver) THEN 0
ELSE coalesce(extract(epoch FROM now() - pg_last_xact_replay_timestamp()), 'Infinity') END::float8
"""
"""How far a server is behind its primary, in seconds; one that nothing is sent to any more grows old."""


class RetryableDBOperation:
    """The one way in which an operation is tried again while the server is away.

    Attributes:
        troubles: How often each was met.
        retries: Attempts after the first.
        recoveries: Operations that were done after trouble.

    Args:
        lend: Lends a connection.
        uniform: Returns a number between its two arguments; the pauses' source of chance.
        clock: Monotonic seconds.
        sleep: Waits so many seconds.
    """

    def __init__(
        self,
        lend: Callable[[], AbstractAsyncContextManager[Connection]],
        uniform: Callable[[float, float], float],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.troubles: Counter[Trouble] = Counter()
        self.retries = self.recoveries = 0
        self._lend, self._uniform, self._clock, self._sleep = lend, uniform, clock, sleep

    async def run(
        self,
        call: Call[T],
        *,
        idempotent: bool = True,
        transaction: bool = False,
        patience_s: float = PATIENCE_S,
        statement_s: float | None = STATEMENT_S,
    ) -> T:
        """Return what `call` returns of a connection.

        Args:
            call: Asks the database.
            idempotent: Doing it twice is as good as once; if not, it is not tried again once it may have been done.
            transaction: All of it is done, or nothing.
            patience_s: How long it is tried again; the last attempt may last longer.
            statement_s: How long one attempt may last; None: for ever.

        Raises:
            DatabaseUnavailable: The server was away all the time.
            OutcomeUnknown: It may have been done, and is not idempotent.
            asyncpg.PostgresError: The server refused it for a reason that waiting does not mend.
        """
        deadline, backoff = self._clock() + patience_s, Backoff(self._uniform, FIRST_PAUSE_S, LONGEST_PAUSE_S)
        attempt = _Attempt(call, transaction, statement_s)
        while True:
            try:
                answer = await attempt.make(self._lend)
            except Exception as error:
                trouble = Trouble.TIMEOUT if attempt.timed_out else trouble_of(error)
                if trouble is None:
                    raise
                self.troubles[trouble] += 1
                if attempt.began and trouble in UNCERTAIN and not idempotent:
                    raise OutcomeUnknown(
                        f"the database went away during a write ({trouble}); it was done wholly or not at all",
                        "look what is there before it is done again",
                        trouble,
                    ) from error
                pause_s = backoff.pause_s(0.0)
                if self._clock() + pause_s >= deadline:
                    raise DatabaseUnavailable(
                        f"the market database does not answer ({trouble}): {error}",
                        "check TRADING_POSTGRES_URL or run 'trading doctor'",
                        trouble,
                    ) from error
                self.retries += 1
                await self._sleep(pause_s)
            else:
                self.recoveries += attempt.number > 1
                return answer


class _Attempt:
    """An operation and how far the attempt at it came."""

    def __init__(self, call: Call[Any], transaction: bool, statement_s: float | None) -> None:
        self._call, self._transaction, self._statement_s = call, transaction, statement_s
        self.number = 0
        self.began = self.timed_out = False

    async def make(self, lend: Callable[[], AbstractAsyncContextManager[Connection]]) -> Any:
        self.number += 1
        self.began = self.timed_out = False
        async with lend() as connection:
            self.began = True
            ending = None
            if self._statement_s is not None:
                # A cancelled query waits for the server to say so, and a frozen one says nothing.
                ending = asyncio.get_running_loop().call_later(self._statement_s, self._give_up, connection)
            try:
                async with connection.transaction() if self._transaction else nullcontext():
                    return await self._call(connection)
            finally:
                if ending is not None:
                    ending.cancel()

    def _give_up(self, connection: Connection) -> None:
        self.timed_out = True
        connection.terminate()


class _Session(asyncpg.Connection):
    """A connection that is put back as it was; what only reads has told the session nothing, and is spared a round trip."""

    _only_reads = False

    def only_reads(self, read: bool) -> None:
        self._only_reads = read

    def get_reset_query(self) -> str:
        return "" if self._only_reads else super().get_reset_query()


@dataclass(frozen=True)
class PoolStatistics:
    """What became of the connections so far.

    Attributes:
        connections: Open now.
        idle: Of these, not lent.
        connected: Opened so far.
        acquired: Lent so far.
        wait_p50_ms: Median of the last waits for one.
        wait_p99_ms: Their 99th percentile.
        troubles: Errors of the server by kind, whether or not the operation was done in the end.
        retries: Attempts after the first.
        recoveries: Operations that were done after trouble.
        healthy: Whether the last look found the server well; None before the first.
        lag_s: How far the replica was behind; None without one, or when it does not answer.
        fallbacks: Reads that went to the primary since the replica did not answer or was behind.
    """

    connections: int
    idle: int
    connected: int
    acquired: int
    wait_p50_ms: float
    wait_p99_ms: float
    troubles: dict[str, int]
    retries: int
    recoveries: int
    healthy: bool | None
    lag_s: float | None
    fallbacks: int


class DatabaseConnectionManager:
    """The connections of one process to one database, and to its replica where there is one.

    Args:
        dsn: PostgreSQL URL.
        read_dsn: URL of a replica, which serves reads as long as it is not behind; empty: none.
        minimum: Connections that are opened at once.
        maximum: The most that are open.
        application: Name under which the server lists them.
        warm_up: Queries with their arguments that each new connection runs once, since the first use of a statement costs
            10 to 200 ms; one that fails is left out.
        statement_s: How long one operation may last.
        patience_s: How long it is tried again.
        uniform: Source of chance of the pauses.
    """

    def __init__(
        self,
        dsn: str,
        read_dsn: str = "",
        *,
        minimum: int = 2,
        maximum: int = 10,
        application: str = "trading-assets",
        warm_up: Sequence[tuple[Any, ...]] = (),
        statement_s: float = STATEMENT_S,
        patience_s: float = PATIENCE_S,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._urls = {"primary": dsn} | ({"replica": read_dsn} if read_dsn else {})
        self._minimum, self._maximum, self._application = minimum, maximum, application
        self._warm_up = warm_up
        self._bounds = {"statement_s": statement_s, "patience_s": patience_s}
        self._pools: dict[str, asyncpg.Pool] = {}
        self._watching: asyncio.Task[None] | None = None
        self._waits_s: deque[float] = deque(maxlen=WAITS)
        self._connected = self._acquired = 0
        self._healthy: bool | None = None
        self._lag_s: float | None = None
        self._fallbacks = 0
        self._writes = RetryableDBOperation(lambda: self.connection(), uniform)
        self._reads = RetryableDBOperation(lambda: self.connection(read=True), uniform)

    async def open(self, patience_s: float = CONNECT_S) -> None:
        """Connect; a server that starts is waited for, one that is not there is not.

        Raises:
            DatabaseUnavailable: Nothing answers.
        """
        deadline = time.monotonic() + patience_s
        while "primary" not in self._pools:
            try:
                self._pools["primary"] = await self._pool(self._urls["primary"], self._minimum)
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                trouble = trouble_of(error)
                if trouble not in (Trouble.STARTING, Trouble.TOO_MANY_CONNECTIONS) or time.monotonic() > deadline:
                    raise DatabaseUnavailable(
                        f"the market database does not answer: {error}",
                        "check TRADING_POSTGRES_URL or run 'trading doctor'",
                        trouble,
                    ) from error
                await asyncio.sleep(FIRST_PAUSE_S)
        if "replica" in self._urls:
            self._pools["replica"] = await self._pool(self._urls["replica"], 0)
            await self._look_at_replica()
        self._watching = asyncio.create_task(self._watch())

    async def close(self) -> None:
        """Close all connections; one that is still lent after `CLOSE_S` is ended."""
        if self._watching is not None:
            self._watching.cancel()
            self._watching = None
        pools, self._pools = self._pools, {}
        for pool in pools.values():
            try:
                async with asyncio.timeout(CLOSE_S):
                    await pool.close()
            except TimeoutError:
                pool.terminate()

    async def run(self, call: Call[T], *, read: bool = False, **how: Any) -> T:
        """Return what `call` returns of a connection; see `RetryableDBOperation.run`."""
        return await (self._reads if read else self._writes).run(call, **self._bounds | how)

    @asynccontextmanager
    async def connection(self, read: bool = False) -> AsyncIterator[Connection]:
        """Lend a connection, for writing or only for reading.

        Raises:
            PoolExhausted: All are lent, and none came back in time.
            NotWritable: It is for writing, and the server takes no writes.
        """
        elsewhere = read and self.replica_serves
        self._fallbacks += read and "replica" in self._pools and not elsewhere
        pool = self._pools.get("replica" if elsewhere else "primary")
        if pool is None:
            raise DatabaseUnavailable("the market database is not open", "open it first")
        try:
            async with self._lent(pool) as lent:
                lent.only_reads(read)
                if not read:
                    _require_writable(lent)
                yield lent
        except Exception as error:
            if elsewhere and trouble_of(error) is not None:
                self._lag_s = None  # the next attempt goes to the primary, until the replica is seen to answer
            raise

    @asynccontextmanager
    async def _lent(self, pool: asyncpg.Pool) -> AsyncIterator[Connection]:
        start = time.monotonic()
        try:
            lent = await pool.acquire(timeout=ACQUIRE_S)
        except TimeoutError as error:
            if pool.get_size() >= self._maximum and not pool.get_idle_size():
                raise PoolExhausted(f"all {self._maximum} connections are in use") from error
            raise
        finally:
            self._waits_s.append(time.monotonic() - start)
        self._acquired += 1
        try:
            yield lent
        finally:
            with suppress(Exception):  # what was done is done, however the connection came back
                await pool.release(lent, timeout=CLOSE_S)

    @property
    def statistics(self) -> PoolStatistics:
        """What became of the connections so far."""
        waits = sorted(self._waits_s) or [0.0]
        pools = self._pools.values()
        return PoolStatistics(
            connections=sum(pool.get_size() for pool in pools),
            idle=sum(pool.get_idle_size() for pool in pools),
            connected=self._connected,
            acquired=self._acquired,
            wait_p50_ms=1000 * statistics.median(waits),
            wait_p99_ms=1000 * waits[int(0.99 * (len(waits) - 1))],
            troubles={kind.value: n for kind, n in sorted((self._writes.troubles + self._reads.troubles).items())},
            retries=self._writes.retries + self._reads.retries,
            recoveries=self._writes.recoveries + self._reads.recoveries,
            healthy=self._healthy,
            lag_s=self._lag_s,
            fallbacks=self._fallbacks,
        )

    @property
    def replica_serves(self) -> bool:
        """Whether reads go to the replica now."""
        return "replica" in self._pools and self._lag_s is not None and self._lag_s <= MOST_LAG_S

    async def _pool(self, dsn: str, minimum: int) -> asyncpg.Pool:
        return await asyncpg.create_pool(
            dsn,
            min_size=minimum,
            max_size=self._maximum,
            timeout=CONNECT_S,
            command_timeout=None,  # `_Attempt` ends what lasts too long, COPY too
            max_inactive_connection_lifetime=IDLE_S,
            server_settings=SESSION | {"application_name": self._application},
            init=self._begin,
            connection_class=_Session,
        )

    async def _begin(self, connection: Connection) -> None:
        self._connected += 1
        for query, *arguments in self._warm_up:
            with suppress(asyncpg.PostgresError):
                await connection.fetch(query, *arguments, timeout=CONNECT_S)

    async def _watch(self) -> None:
        """Look at the server now and then; connections that it forgot are not lent any more."""
        while True:
            await asyncio.sleep(WATCH_S)
            try:
                async with asyncio.timeout(2 * ACQUIRE_S), self.connection() as connection:
                    await connection.fetchval("SELECT 1")
                self._healthy = True
            except PoolExhausted:
                continue  # which says nothing of the server
            except Exception as error:
                if trouble_of(error) is not Trouble.READ_ONLY and self._healthy is not False:
                    await self._pools["primary"].expire_connections()
                self._healthy = False
            await self._look_at_replica()

    async def _look_at_replica(self) -> None:
        if "replica" not in self._pools:
            return
        try:
            async with self._lent(self._pools["replica"]) as connection, asyncio.timeout(ACQUIRE_S):
                self._lag_s = await connection.fetchval(LAG)
        except PoolExhausted:
            return  # which says nothing of the replica, and who reads there reads on
        except Exception:
            self._lag_s = None
            # What is still asked of it ends, and is asked of the primary.
            self._pools["replica"].terminate()
            self._pools["replica"] = await self._pool(self._urls["replica"], 0)


def _require_writable(connection: Connection) -> None:
    told = connection.get_settings()
    if getattr(told, "in_hot_standby", "off") == "on":
        raise ServerInRecovery
    if getattr(told, "default_transaction_read_only", "off") == "on":
        raise ServerReadOnly
