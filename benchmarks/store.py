"""Candles into the market database: through the pipeline, and as one writes them first.

Each way writes into a real server that is empty before; what is there afterwards must be the same. The naive ways get fewer
rows, since they take so long, and are told by their rates. Where TRADING_TEST_TIMESCALE_DSN names a server with TimescaleDB,
the same is measured there too.
"""

import asyncio
import gc
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import asyncpg
import numpy as np
import polars as pl

from benchmarks import comparison
from benchmarks.comparison import OURS, Comparison, Measure, UnequalResults
from resources.home import Home
from resources.servers import running
from resources.settings import load_settings
from resources.timescale.dead_letters import DeadLetters
from resources.timescale.ingestion import DataIngestionPipeline
from resources.timescale.loop import wait
from resources.timescale.store import MarketStore
from resources.timescale.tables import CANDLE, Table
from resources.timescale.writing import literal
from trading.market.candle import CANDLE_SCHEMA
from trading.market.instrument import Instrument
from trading.market.timeframe import HOUR_MS, Timeframe
from trading.provider.validation import DataValidator

SYMBOL: Final = "BTCUSDT"
FIRST_MS: Final = 1_577_836_800_000
ROWS: Final = 200_000
BATCH: Final = 5_000
SHARES: Final = {OURS: 1, "executemany": 10, "row_by_row": 100}
"""Into how many parts the rows are cut, of which a way gets the first."""
ROUNDS: Final = 3


def candles(count: int, timeframe: Timeframe) -> pl.DataFrame:
    """Return bars of a random walk, all that an exchange tells known."""
    chance = np.random.default_rng(5)
    close = np.round(30_000 * np.exp(np.cumsum(chance.normal(0, 1e-4, count))), 2)
    open_ = np.append(30_000.0, close[:-1])
    ids = np.cumsum(chance.integers(1, 900, count))
    open_time = FIRST_MS + timeframe.ms * np.arange(count)
    columns = {
        "open_time": open_time,
        "open": open_,
        "high": np.maximum(open_, close) + 1,
        "low": np.minimum(open_, close) - 1,
        "close": close,
        "volume": np.round(chance.exponential(20, count), 5),
        "quote_volume": np.round(chance.exponential(6e5, count), 2),
        "trade_count": ids % 1000,
        "first_agg_trade_id": ids,
        "last_agg_trade_id": ids + 100,
        "known_at_ms": open_time + timeframe.ms,
    }
    told = {"source": "trades", "complete": True, "n_present": 1, "n_expected": 1}
    return pl.DataFrame(columns | told, schema_overrides=CANDLE_SCHEMA).select(list(CANDLE_SCHEMA))


# -- servers -------------------------------------------------------------------------------------------------------------


@contextmanager
def databases() -> Iterator[dict[str, str]]:
    """Yield the URL of an empty database by the name of its backend."""
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        home.create("simulated", {})
        with running(home, load_settings(home.path, {}), ("postgres",)) as urls:
            given = os.environ.get("TRADING_TEST_TIMESCALE_DSN", "")
            if not given:
                yield {"plain": urls.postgres}
                return
            with timescale(given) as url:
                yield {"plain": urls.postgres, "timescale": url}


@contextmanager
def timescale(given: str) -> Iterator[str]:
    """Make a database with TimescaleDB on a server, and drop it in the end."""
    name = f"bench_{os.getpid()}"

    def said(url: str, *statements: str) -> None:
        async def say() -> None:
            connection = await asyncpg.connect(url)
            for statement in statements:
                await connection.execute(statement)
            await connection.close()

        wait(say())

    server, _, database = given.rpartition("/")
    url = f"{server}/{name}" + database[database.index("?") :] if "?" in database else f"{server}/{name}"
    said(given, f"CREATE DATABASE {name}")
    try:
        said(url, "CREATE EXTENSION IF NOT EXISTS timescaledb")
        yield url
    finally:
        said(given, f"DROP DATABASE {name} (FORCE)")


# -- ways ----------------------------------------------------------------------------------------------------------------


def through_the_pipeline(store: MarketStore, frame: pl.DataFrame, timeframe: Timeframe, recorded: bool = False) -> int:
    """Write a frame as users' rows are written; return how many rows changed.

    The naive ways keep no record of the days by which a later change shows; to be compared, nor does this one.
    """
    last_ms = int(frame["open_time"][-1]) + timeframe.ms

    async def ingest() -> int:
        with tempfile.TemporaryDirectory() as folder:
            checks = DataValidator((SYMBOL,), lambda: last_ms)
            letters = DeadLetters(Path(folder))
            # The naive ways keep no records of days either.
            async with DataIngestionPipeline(store, letters, lambda: last_ms, checks, recorded=recorded) as pipeline:
                for part in frame.iter_slices(BATCH):
                    receipt = await pipeline.ingest(CANDLE, SYMBOL, part, timeframe)
                await pipeline.acknowledged(receipt)
                told = pipeline.statistics
                return told.inserted + told.updated + told.dead

    return asyncio.run(ingest())


def _upsert(table: Table) -> str:
    columns = [*table.scope, *table.columns]
    key = [*table.scope, *(table.column(name) for name in table.key)]
    moments = {table.column(name) for name in table.schema if table.is_moment(name)}
    values = ", ".join(
        f"to_timestamp(${place}::bigint / 1000.0)" if name in moments else f"${place}"
        for place, name in enumerate(columns, 1)
    )
    updates = ", ".join(f"{name} = excluded.{name}" for name in columns if name not in key)
    return (
        f"INSERT INTO md.{table.name} ({', '.join(columns)}) VALUES ({values}) "
        f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {updates}"
    )


def naively(store: MarketStore, frame: pl.DataFrame, timeframe: Timeframe, singly: bool) -> None:
    """Write rows by INSERT, one a transaction or many by `executemany`; longer bars are made of 1m bars once, at the end."""
    scope = store._scope(CANDLE, SYMBOL, timeframe)
    rows = [(*scope, *row) for row in frame.iter_rows()]
    statement = _upsert(CANDLE)

    async def insert(connection: Any) -> None:
        if singly:
            for row in rows:
                await connection.execute(statement, *row)
        else:
            for start in range(0, len(rows), BATCH):
                await connection.executemany(statement, rows[start : start + BATCH])
        if timeframe is Timeframe.M1:
            lo_ms, hi_ms = int(frame["open_time"][0]), int(frame["open_time"][-1]) + timeframe.ms
            async with connection.transaction():
                await store._storage.roll_up(connection, scope[0], lo_ms, hi_ms)
            await store._storage.catch_up(connection, lo_ms, hi_ms)

    store._run(insert)


# -- measuring -----------------------------------------------------------------------------------------------------------


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    gc.collect()
    start = time.perf_counter()
    answer = call()
    return time.perf_counter() - start, answer


def _ingest(store: MarketStore, timeframe: Timeframe, count: int, suffix: str) -> Iterator[Comparison | Measure]:
    frame = candles(count, timeframe)
    taken: dict[str, list[float]] = {way: [] for way in SHARES}
    again: list[float] = []
    for _ in range(min(ROUNDS, comparison.most_rounds)):
        for way, share in SHARES.items():
            part = frame[: max(1, count // share)]
            _empty(store, part, timeframe)
            call = partial(through_the_pipeline, store, part, timeframe)
            if way != OURS:
                call = partial(naively, store, part, timeframe, way == "row_by_row")
            seconds, _ = _timed(call)
            taken[way].append(seconds * len(frame) / len(part))
            found = store.read(CANDLE, SYMBOL, FIRST_MS, int(part["open_time"][-1]) + 1, timeframe)
            hours = -(-len(part) * timeframe.ms // HOUR_MS)
            if not found.equals(part) or (timeframe is Timeframe.M1 and _hours(store) != hours):
                raise UnequalResults(f"ingest: {way} stored something else")
            if way == OURS:
                seconds, changed = _timed(call)
                again.append(seconds)
    _empty(store, frame, timeframe)
    recording, _ = _timed(partial(through_the_pipeline, store, frame, timeframe, True))
    store.execute("TRUNCATE md.day")
    medians = {way: statistics.median(seconds) for way, seconds in taken.items()}
    note = f"{count:,} candles of {timeframe.value}"
    compared = Comparison(f"ingest{suffix}", count, "rows", medians)
    yield compared
    yield Measure(f"ingest_rows_s{suffix}", round(compared.rate(OURS)), "rows/s", f"{note} through the pipeline")
    kept = f"{note}, with the record of each day kept in step"
    yield Measure(f"ingest_recorded_rows_s{suffix}", round(count / recording), "rows/s", kept)
    yield Measure(f"replay_rows_s{suffix}", round(count / statistics.median(again)), "rows/s", f"{note}, there already")
    yield Measure(f"replay_rows_changed{suffix}", changed, "rows", "by the same rows again")


def _hours(store: MarketStore) -> int:
    """Return how many bars of an hour a query finds."""
    return store.fetch("SELECT count(*) AS n FROM md.ohlcv_1h")[0]["n"]


def _empty(store: MarketStore, part: pl.DataFrame, timeframe: Timeframe) -> None:
    hi_ms = int(part["open_time"][-1]) + 1
    store.execute("TRUNCATE md.candle, md.candle_revision")
    if store.fetch("SELECT to_regclass('md.candle_rollup') IS NOT NULL AS there")[0]["there"]:
        store.execute("TRUNCATE md.candle_rollup, md.rollup_dirty")
    # Partitions are there before a live row comes: those of a benchmark's first round would be its own.
    store.write(CANDLE, SYMBOL, part[:: max(1, len(part) // 500)], FIRST_MS, hi_ms, timeframe)
    store.execute(f"DELETE FROM md.candle WHERE timeframe = {literal(timeframe.value)}")
    # What a former round's minutes were made into goes as well; there may have been more of them.
    store.refresh(FIRST_MS, FIRST_MS + ROWS * Timeframe.M1.ms)
    store.execute("VACUUM md.candle")


def comparisons(count: int = ROWS) -> Iterator[Comparison | Measure]:
    """Yield each comparison and measure as it is done, of so many candles."""
    with databases() as urls:
        for backend, url in urls.items():
            suffix = "" if backend == "plain" else f"_{backend}"
            with MarketStore(url, "sim") as store:
                store.register([Instrument("sim", SYMBOL, "BTC", "USDT", 2, 5)])
                (told,) = store.fetch(
                    "SELECT current_setting('server_version') AS server, "
                    "(SELECT extversion FROM pg_extension WHERE extname = 'timescaledb') AS extension"
                )
                version = f"PostgreSQL {told['server']}" + (f", TimescaleDB {told['extension']}" if suffix else "")
                yield Measure(f"backend{suffix}", backend, "", version)
                yield from _ingest(store, Timeframe.M3, count, suffix)
                yield from _ingest(store, Timeframe.M1, count, f"_1m{suffix}")
