"""The market database fails in each way it can while rows come in: none is lost, none is twice, and then all is as before.

A server of its own is written to at a steady rate, corrections among the rows. What is there in the end, former versions
too, must be exactly what was sent; figures are printed (`pytest -rP`).
"""

import asyncio
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import numpy as np
import polars as pl
import psutil
import pytest

from resources.home import Home
from resources.servers import postgres, process, running
from resources.settings import load_settings
from resources.timescale import connections
from resources.timescale.connections import DatabaseConnectionManager
from resources.timescale.dead_letters import DeadLetters
from resources.timescale.ingestion import DataIngestionPipeline
from resources.timescale.loop import wait
from resources.timescale.store import MarketStore
from resources.timescale.tables import CANDLE_1S, TRADE
from resources.timescale.trouble import DatabaseUnavailable
from tests.faults.processes import SOAK
from tests.faults.proxy import Proxy, proxy
from trading.market.candle import CANDLE_SCHEMA
from trading.market.instrument import Instrument
from trading.market.timeframe import SECOND_MS
from trading.market.trade import TRADE_SCHEMA
from trading.provider.pipeline import Buffers
from trading.provider.validation import DataValidator

T0 = 1_760_054_400_000
NOW = T0 + 10**10
SYMBOLS = ("BTCUSDT", "ETHUSDT")
PERIOD_S = 0.1
TRADES, BARS = 200, 50
"""Rows of each symbol that come in each period: 5,000 a second of both."""
CORRECTED = 5
MOST_ROWS = 30_000
FAULT_S = 4.0 if SOAK else 0.5
COMMITS = 200 if SOAK else 20
SETTLE_S = 300 if SOAK else 60
pytestmark = pytest.mark.timeout(5 * SETTLE_S)
LENGTH = SECOND_MS


class Server:
    """The PostgreSQL of a home, and what happens to it."""

    def __init__(self, home: Home, dsn: str) -> None:
        self.home, self.dsn = home, dsn

    @property
    def processes(self) -> list[psutil.Process]:
        """All its processes, the first one first."""
        first = process.alive("postgres", self.home.run_dir)
        assert first is not None
        return [first, *first.children(recursive=True)]

    def signal(self, number: int) -> None:
        """Send a signal to all of them."""
        for one in self.processes:
            with suppress(psutil.NoSuchProcess):
                one.send_signal(number)

    def kill(self) -> None:
        """End all of them as the loss of the machine does."""
        gone = self.processes
        self.signal(signal.SIGKILL)
        psutil.wait_procs(gone[1:], timeout=10)
        assert process.alive("postgres", self.home.run_dir) is None

    def stop(self) -> None:
        process.end("postgres", self.home.run_dir, signal.SIGINT)

    def start(self) -> None:
        postgres.ensure(self.home)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    path = tmp_path_factory.mktemp("failing")
    home = Home(path)
    home.create("simulated", {})
    with running(home, load_settings(path, {}), ("postgres",)) as urls:
        serving = Server(home, urls.postgres)
        prepare(urls.postgres)
        with MarketStore(urls.postgres, "sim") as store:
            store.execute("ALTER SYSTEM SET max_connections = 20")
        serving.stop()
        serving.start()
        yield serving


def prepare(dsn: str) -> None:
    """Lay the schema, with symbols whose rows are known since they came."""
    with MarketStore(dsn, "sim") as store:
        store.register([Instrument("sim", name, name[:3], "USDT", 2, 5) for name in SYMBOLS])
        store.execute(
            "INSERT INTO md.trade_range SELECT symbol_id, 1, 2, 'complete', 'websocket', to_timestamp(0), "
            "to_timestamp(1) FROM md.symbol"
        )


class Feed:
    """Rows that come in at a steady rate, some of them corrections of earlier ones, and what must be there of them."""

    def __init__(self, pipeline: DataIngestionPipeline, began: int) -> None:
        self.period = self.began = began
        self.rows = self.late = 0
        self.waited_s: list[float] = []
        self._pipeline = pipeline
        self._stopped = False
        self._receipts: list[Any] = []

    async def run(self) -> None:
        """Bring rows until `stop`."""
        start = time.monotonic()
        periods = 0
        while not self._stopped:
            for symbol in SYMBOLS:
                before = time.monotonic()
                await self._pipeline.ingest(TRADE, symbol, trades(self.period))
                receipt = await self._pipeline.ingest(CANDLE_1S, symbol, bars(self.period))
                self.waited_s.append(time.monotonic() - before)
                self.rows += TRADES + BARS
            self._receipts = [*self._receipts[-9:], receipt]
            self.period += 1
            periods += 1
            await asyncio.sleep(start + periods * PERIOD_S - time.monotonic())

    async def acknowledged_within_s(self) -> float:
        """Return how long what came last takes to be acknowledged."""
        before = time.monotonic()
        await self._pipeline.acknowledged(self._receipts[-1])
        return time.monotonic() - before

    def stop(self) -> None:
        self._stopped = True


def trades(period: int) -> pl.DataFrame:
    ids = np.arange(TRADES) + period * TRADES
    columns = {
        "agg_trade_id": ids,
        "price": 5_000_000 + ids % 1000,
        "quantity": 1 + ids % 7,
        "first_trade_id": ids,
        "last_trade_id": ids,
        "time_ms": T0 + ids * 5,
        "buyer_is_maker": ids % 3 == 0,
    }
    return pl.DataFrame(columns, schema=TRADE_SCHEMA)


def bars(period: int) -> pl.DataFrame:
    """Return the bars of a period: new ones, and the first few of the period before, corrected."""
    new = _bars(np.arange(BARS) + period * BARS)
    if not period:
        return new
    corrected = _bars(np.arange(CORRECTED) + (period - 1) * BARS).with_columns(volume=pl.col("volume") + 1000.0)
    return pl.concat([corrected, new])


def _bars(numbers: np.ndarray) -> pl.DataFrame:
    columns = {
        "open_time": T0 + numbers * LENGTH,
        **dict.fromkeys(("open", "high", "low", "close"), 100.0 + numbers % 13),
        "volume": 1.0 + numbers % 17,
        "source": "trades",
        "complete": True,
        "n_present": 1,
        "n_expected": 1,
    }
    missing = {name: None for name in CANDLE_SCHEMA if name not in columns}
    return pl.DataFrame(columns | missing, schema_overrides=CANDLE_SCHEMA).select(list(CANDLE_SCHEMA))


def require_exact(store: MarketStore, first: int, end: int) -> None:
    """Compare what is there of some periods, former versions too, with what was sent."""
    for symbol in SYMBOLS:
        lo, hi = T0 + 5 * TRADES * first, T0 + 5 * TRADES * end
        found = store.read(TRADE, symbol, lo, hi)
        assert found.equals(pl.concat([trades(period) for period in range(first, end)]))
        sent = pl.concat([bars(period) for period in range(first, end)])
        lo, hi = T0 + LENGTH * BARS * (first - 1), T0 + LENGTH * BARS * end
        found = store.read(CANDLE_1S, symbol, lo, hi)
        last = sent.unique("open_time", keep="last").sort("open_time")
        found = found.filter(pl.col("open_time").is_in(last["open_time"].implode()))
        assert found.drop("known_at_ms").equals(last.drop("known_at_ms"))
        corrected = CORRECTED * (end - first - 1)
        (row,) = store.fetch(
            "SELECT count(*) AS n, count(DISTINCT open_time) AS bars, max(volume) AS volume FROM md.candle_1s_revision "
            "JOIN md.symbol USING (symbol_id) WHERE name = $1 AND open_time >= to_timestamp($2 / 1000.0) "
            "AND open_time < to_timestamp($3 / 1000.0)",
            symbol,
            float(lo),
            float(hi - LENGTH * BARS),
        )
        assert (row["n"], row["bars"]) == (corrected, corrected)
        assert row["volume"] < 1000


PERIODS = iter(range(1, 10**9, 20_000))
"""Each test has moments of its own."""


@asynccontextmanager
async def fed(
    server: Server, tmp_path: Path, dsn: str | None = None
) -> AsyncIterator[tuple[MarketStore, DataIngestionPipeline, Feed]]:
    """Bring rows at the rate of a busy market while the block runs, and compare what is there after it."""
    letters = DeadLetters(tmp_path / "dead")
    store = MarketStore(dsn or server.dsn, "sim", statement_s=20.0 if SOAK else 5.0, patience_s=2.0)
    await asyncio.to_thread(store.__enter__)
    try:
        before = psutil.Process().memory_info().rss
        async with DataIngestionPipeline(
            store, letters, lambda: NOW, DataValidator(SYMBOLS, lambda: NOW), buffers=Buffers(MOST_ROWS)
        ) as pipeline:
            feed = Feed(pipeline, next(PERIODS))
            running_feed = asyncio.create_task(feed.run())
            await asyncio.sleep(FAULT_S)
            yield store, pipeline, feed
            settled_s = await settle(pipeline)
            await asyncio.sleep(FAULT_S)
            usual_s = await feed.acknowledged_within_s()
            feed.stop()
            await running_feed
        told = pipeline.statistics
        grown = (psutil.Process().memory_info().rss - before) / 2**20
        print(
            f"{feed.rows:,} rows, at most {told.most_waiting:,} waited, held up {told.held_up} times, "
            f"caught up {settled_s:.1f} s after the fault, then acknowledged within {1000 * usual_s:.0f} ms; "
            f"memory grew by {grown:.0f} MiB; troubles {told.troubles} ({told.last_error}); {store.connections.statistics}"
        )
        assert told.dead == 0 and not list(letters.letters())
        assert told.most_waiting <= MOST_ROWS
        assert grown < 300
        require_exact(store, feed.began, feed.period)
        for table, asset in ((TRADE, "agg_trades"), (CANDLE_1S, "candles_1s")):
            assert not store.damaged_days(table, asset, SYMBOLS), "the days' records are in step"
    finally:
        await asyncio.to_thread(store.__exit__)


async def settle(pipeline: DataIngestionPipeline) -> float:
    """Return how long it takes until what waited during a fault is written."""
    start = time.monotonic()
    while pipeline.statistics.waiting > 2 * len(SYMBOLS) * (TRADES + BARS) / PERIOD_S * 0.3:
        assert time.monotonic() - start < SETTLE_S, pipeline.statistics
        await asyncio.sleep(0.02)
    return time.monotonic() - start


def survives(server: Server, tmp_path: Path, fault: Callable[[MarketStore], Awaitable[None]], **how: Any) -> None:
    async def test() -> None:
        async with fed(server, tmp_path, **how) as (store, _, _):
            await fault(store)

    asyncio.run(asyncio.wait_for(test(), 4 * SETTLE_S))


def test_nothing_is_lost_when_the_server_is_killed(server: Server, tmp_path: Path) -> None:
    async def killed(_: MarketStore) -> None:
        for _ in range(5 if SOAK else 1):
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(FAULT_S / 2)
            await asyncio.to_thread(server.start)
            await asyncio.sleep(FAULT_S / 2)

    survives(server, tmp_path, killed)


def test_nothing_is_lost_when_the_server_is_restarted(server: Server, tmp_path: Path) -> None:
    async def restarted(_: MarketStore) -> None:
        await asyncio.to_thread(server.stop)
        await asyncio.sleep(FAULT_S / 2)
        await asyncio.to_thread(server.start)

    survives(server, tmp_path, restarted)


def test_nothing_is_lost_while_the_server_stands_still(server: Server, tmp_path: Path) -> None:
    async def frozen(_: MarketStore) -> None:
        server.signal(signal.SIGSTOP)
        await asyncio.sleep(2 * FAULT_S)
        server.signal(signal.SIGCONT)

    survives(server, tmp_path, frozen)


def test_nothing_is_lost_while_others_have_all_connections(server: Server, tmp_path: Path) -> None:
    async def crowded(store: MarketStore) -> None:
        async with AsyncExitStack() as stack:
            one = await asyncpg.connect(server.dsn)
            stack.push_async_callback(one.close)
            end = time.monotonic() + 2 * FAULT_S
            while time.monotonic() < end or not store.connections.statistics.troubles.get("too_many_connections"):
                try:
                    another = await asyncpg.connect(server.dsn)
                    stack.push_async_callback(another.close)
                except asyncpg.TooManyConnectionsError:
                    await one.fetch(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'trading-assets'"
                    )
                await asyncio.sleep(0.005)

    survives(server, tmp_path, crowded)


def test_a_commit_whose_answer_never_comes_is_neither_lost_nor_done_twice(server: Server, tmp_path: Path) -> None:
    socket = server.home.socket_dir / f".s.PGSQL.{postgres.PORT}"

    def through(between: Proxy) -> None:
        async def cut(store: MarketStore) -> None:
            between.swallow(b"COMMIT;", every=2)
            start = time.monotonic()
            while between.swallowed < COMMITS:
                assert time.monotonic() - start < 60 + COMMITS
                await asyncio.sleep(0.05)
            between.healthy()
            assert store.connections.statistics.troubles.get("cut", 0) >= COMMITS
            print(f"{between.swallowed} answers to COMMIT were lost")

        survives(server, tmp_path, cut, dsn=f"postgresql://postgres@127.0.0.1:{between.port}/market")

    with proxy(socket) as between:
        through(between)


@contextmanager
def standby(server: Server, folder: Path) -> Iterator[str]:
    """Run a replica of the server, and yield its URL."""
    home = Home(folder)
    home.create("simulated", {})
    copying = [postgres.binaries() / "pg_basebackup", "-h", server.home.socket_dir, "-p", str(postgres.PORT)]
    subprocess.run([*copying, "-U", "postgres", "-D", home.postgres_dir, "-R", "-c", "fast", "--no-sync"], check=True)
    owner = server.home.postgres_dir.stat()
    for path in (home.postgres_dir, *home.postgres_dir.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid)
    with running(home, load_settings(folder, {}), ("postgres",)) as urls:
        yield urls.postgres


def test_a_replica_is_read_while_it_keeps_up_and_written_to_once_it_is_promoted(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("WATCH_S", "MOST_LAG_S"):
        monkeypatch.setattr(connections, name, 0.1)
    where = "SELECT pg_is_in_recovery()"

    def reads_from_replica() -> bool:
        return store._run(lambda c: c.fetchval(where), read=True)

    def until(wanted: bool) -> None:
        start = time.monotonic()
        while reads_from_replica() is not wanted:
            assert time.monotonic() - start < 20, store.connections.statistics
            time.sleep(0.05)

    with standby(server, tmp_path) as replica, MarketStore(server.dsn, "sim", replica) as store:
        until(True)
        assert list(store.instruments()) == list(SYMBOLS)
        assert not store._run(lambda c: c.fetchval(where))

        async def say(statement: str) -> None:
            connection = await asyncpg.connect(replica)
            await connection.execute(statement)
            await connection.close()

        asyncio.run(say("SELECT pg_wal_replay_pause()"))
        store.execute("CREATE TABLE md.later (n int)")
        until(False)
        asyncio.run(say("SELECT pg_wal_replay_resume()"))
        until(True)
        writing = DatabaseConnectionManager(replica)
        wait(writing.open())
        with pytest.raises(DatabaseUnavailable, match="read_only"):
            wait(writing.run(lambda c: c.execute("INSERT INTO md.later VALUES (1)"), patience_s=0))
        asyncio.run(say("SELECT pg_promote()"))
        assert wait(writing.run(lambda c: c.execute("INSERT INTO md.later VALUES (1)"))) == "INSERT 0 1"
        wait(writing.close())
        store.execute("DROP TABLE md.later")


@contextmanager
def small_disk(mib: int) -> Iterator[Path]:
    """Mount a disk of a few MiB in memory, which only root may."""
    folder = Path("/tmp") / f"small-disk-{os.getpid()}"
    folder.mkdir(mode=0o755)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mib}m,mode=755", "tmpfs", str(folder)]
    try:
        if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
            pytest.skip("only root may mount a small disk, and not everywhere")
        try:
            yield folder
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)
    finally:
        folder.rmdir()


def fill(disk: Path) -> Path:
    """Leave no room on a disk; return the file that takes it."""
    ballast = disk / "ballast"
    with ballast.open("ab", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(2**16))
    return ballast


def test_nothing_is_lost_while_the_disk_is_full(server: Server, tmp_path: Path) -> None:
    with small_disk(512 if SOAK else 96) as disk, MarketStore(server.dsn, "sim") as store:
        space = disk / "space"
        space.mkdir()
        owner = server.home.postgres_dir.stat()
        os.chown(space, owner.st_uid, owner.st_gid)
        store.execute(f"CREATE TABLESPACE small LOCATION '{space}'")
        store.execute("CREATE DATABASE small")
        store.execute("ALTER DATABASE small SET default_tablespace = small")
        dsn = server.dsn.replace("/market?", "/small?")
        prepare(dsn)

        async def full(store: MarketStore) -> None:
            ballast = fill(disk)
            start = time.monotonic()
            while not store.connections.statistics.troubles.get("full") and time.monotonic() - start < 20:
                await asyncio.sleep(0.05)
            await asyncio.sleep(FAULT_S)
            assert store.connections.statistics.troubles.get("full"), store.connections.statistics
            ballast.unlink()

        survives(server, tmp_path, full, dsn=dsn)
        store.execute("DROP DATABASE small (FORCE)")
        store.execute("DROP TABLESPACE small")


@contextmanager
def log_on(server: Server, disk: Path) -> Iterator[None]:
    """Have the server keep its log, of which it holds little and reuses nothing, on a disk of its own."""
    ours, there = server.home.postgres_dir / "pg_wal", disk / "pg_wal"

    def move(source: Path, target: Path) -> None:
        server.stop()
        subprocess.run(["cp", "-a", source, target], check=True)

    with MarketStore(server.dsn, "sim") as store:
        store.execute("ALTER SYSTEM SET wal_recycle = off")
        store.execute("ALTER SYSTEM SET max_wal_size = '64MB'")
    move(ours, there)
    shutil.rmtree(ours)
    ours.symlink_to(there)
    server.start()
    try:
        yield
    finally:
        (disk / "ballast").unlink(missing_ok=True)
        server.start()
        ours_again = ours.with_name("pg_wal.again")
        move(there, ours_again)
        ours.unlink()
        ours_again.rename(ours)
        server.start()
        with MarketStore(server.dsn, "sim") as store:
            store.execute("ALTER SYSTEM RESET ALL")
            store.execute("SELECT pg_reload_conf()")


@pytest.mark.skipif(not SOAK, reason="falls, fails to recover and starts anew: seven seconds, for the soak")
def test_nothing_is_lost_when_the_server_falls_because_the_disk_of_its_log_is_full(
    server: Server, tmp_path: Path
) -> None:
    with small_disk(512 if SOAK else 192) as disk, log_on(server, disk):

        async def full(store: MarketStore) -> None:
            other = await asyncpg.connect(server.dsn)
            with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                while True:
                    fill(disk)
                    await other.execute("SELECT pg_switch_wal()")
                    await asyncio.sleep(0.05)
            start = time.monotonic()
            while process.alive("postgres", server.home.run_dir) is not None:  # nor can it recover
                assert time.monotonic() - start < 30
                await asyncio.sleep(0.05)
            told = (server.home.logs_dir / "postgres.log").read_text()
            assert "PANIC" in told and "No space left on device" in told
            (disk / "ballast").unlink()
            await asyncio.to_thread(server.start)

        survives(server, tmp_path, full)
