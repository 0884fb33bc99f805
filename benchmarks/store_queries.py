"""Questions to the market database: how long an answer takes, warm, and beside how one would ask first.

Measured on a seeded market of 500 symbols, of which one has a year and a half of minutes and their longer bars, a day of
profile minutes and ten minutes of books; on the plain server, and on TimescaleDB where TRADING_TEST_TIMESCALE_DSN names one.
Moments are chosen at random by a seed. The first answers, which also pay for planning and cold pages, are told apart.
"""

import asyncio
import gc
import random
import statistics
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

import numpy as np
import polars as pl

from benchmarks import comparison
from benchmarks.comparison import Comparison, Measure, compare
from benchmarks.store import FIRST_MS, SYMBOL, candles, databases
from resources.backtest import BacktestReader
from resources.timescale.loop import begin, wait
from resources.timescale.queries import MarketQueries
from resources.timescale.store import MarketStore
from resources.timescale.tables import BOOK_1S, BOOK_SNAPSHOT, CANDLE, CANDLE_1S, INDICATOR, PROFILE_MINUTE
from trading.market.book import BookSnapshot
from trading.market.candle import roll_up
from trading.market.instrument import Instrument
from trading.market.timeframe import CANDLE_TIMEFRAMES, DAY_MS, MINUTE_MS, SECOND_MS, Timeframe
from trading.provider.book_seconds import book_seconds, book_snapshots
from trading.provider.cache import DataCacheManager
from trading.provider.provider import UnifiedDataProvider
from trading.stream.book_recorder import BookRecord

DAYS: Final = 560
SYMBOLS: Final = 500
LIMIT: Final = 500
ASKED: Final = 200
READERS: Final = 100
WRITTEN_S: Final = 5_000
PRICES: Final = ("open_time", "open", "high", "low", "close", "volume")
TICKS_A_MINUTE: Final = 60
SEEN: Final = 30
"""Days of minutes that are asked for one after the other."""


def market(days: int) -> dict[Timeframe, pl.DataFrame]:
    """Return minutes of so many days and the longer bars that they make."""
    minutes = candles(days * DAY_MS // MINUTE_MS, Timeframe.M1)
    btc = Instrument("sim", SYMBOL, "BTC", "USDT", 2, 5)
    return {Timeframe.M1: minutes} | {
        timeframe: roll_up(minutes, Timeframe.M1, timeframe, btc) for timeframe in CANDLE_TIMEFRAMES[1:]
    }


def profile_minutes(end_ms: int) -> pl.DataFrame:
    """Return a day of profile minutes of a market that trades at `TICKS_A_MINUTE` prices a minute."""
    chance = np.random.default_rng(3)
    starts = end_ms - DAY_MS + MINUTE_MS * np.arange(DAY_MS // MINUTE_MS)
    middle = 3_000_000 + np.cumsum(chance.integers(-300, 301, len(starts)))
    ticks = [np.unique(m + chance.integers(-400, 401, TICKS_A_MINUTE)).tolist() for m in middle]
    lots = [chance.integers(1, 10**6, len(t)).tolist() for t in ticks]
    columns = {
        "minute": starts,
        "tick": ticks,
        "buy_lots": lots,
        "sell_lots": lots,
        "trade_count": [[2] * len(t) for t in ticks],
    }
    return pl.DataFrame(columns, schema=dict(PROFILE_MINUTE.schema))


def books(end_ms: int, minutes: int = 10) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return one book a second with its seconds, up to a moment."""
    chance, levels = np.random.default_rng(4), np.arange(20)
    records = []
    for time_ms in range(end_ms - minutes * MINUTE_MS, end_ms, SECOND_MS):
        lots = 1 + (1e5 * chance.exponential(1, (2, 20))).astype(np.int64)
        sides = np.column_stack((3_000_000 - levels, lots[0])), np.column_stack((3_000_001 + levels, lots[1]))
        records.append(BookRecord(False, BookSnapshot(time_ms, time_ms, *sides)))
    instrument, known = Instrument("sim", SYMBOL, SYMBOL[:-4], "USDT", 2, 5), pl.col("time_ms") + SECOND_MS
    snapshots, seconds = book_snapshots(records, instrument), book_seconds(records, instrument)
    return snapshots.with_columns(known_at_ms=known), seconds.with_columns(known_at_ms=known)


def fill(store: MarketStore, bars: dict[Timeframe, pl.DataFrame], symbols: int) -> int:
    """Write the market; return the moment at which it ends."""
    names = [SYMBOL, *(f"S{number:03}USDT" for number in range(1, symbols))]  # the second is written to meanwhile
    store.register(Instrument("sim", name, name[:-4], "USDT", 2, 5) for name in names)
    end_ms = FIRST_MS + len(bars[Timeframe.M1]) * MINUTE_MS
    for timeframe, frame in bars.items():
        store.write(CANDLE, SYMBOL, frame, FIRST_MS, end_ms, timeframe)
    hour = bars[Timeframe.M1].tail(60)
    for name in names[1:]:
        store.write(CANDLE, name, hour, end_ms - 60 * MINUTE_MS, end_ms, Timeframe.M1)
    store.write(PROFILE_MINUTE, SYMBOL, profile_minutes(end_ms), end_ms - DAY_MS, end_ms)
    for table, frame in zip((BOOK_SNAPSHOT, BOOK_1S), books(end_ms), strict=True):
        store.write(table, SYMBOL, frame, end_ms - DAY_MS, end_ms)
    for timeframe in (Timeframe.M3, Timeframe.H4):
        store.write(INDICATOR, SYMBOL, indicators(bars[timeframe]), FIRST_MS, end_ms, timeframe)
    store.refresh(FIRST_MS, end_ms)  # as the server's own jobs have done of a history that is not of this minute
    store.execute("VACUUM ANALYZE md.candle")
    return end_ms


def indicators(bars: pl.DataFrame) -> pl.DataFrame:
    """Return values of the right shape for the last bars."""
    rows = bars.tail(1_000)
    values = {name: rows["close"] for name in INDICATOR.schema if name not in ("open_time", "warm", "known_at_ms")}
    known = {"open_time": rows["open_time"], "warm": [True] * len(rows), "known_at_ms": rows["known_at_ms"]}
    return pl.DataFrame(known | values).select(pl.col(name).cast(kind) for name, kind in INDICATOR.schema.items())


def timed(ask: Callable[[], Awaitable[Any]], times: int) -> list[float]:
    """Return the milliseconds of each of several questions on the databases' loop."""

    async def asked() -> list[float]:
        taken = []
        for _ in range(times):
            start = time.perf_counter()
            await ask()
            taken.append(1000 * (time.perf_counter() - start))
        return taken

    gc.collect()
    return wait(asked())


def p50(taken: list[float]) -> float:
    """Return the median."""
    return round(statistics.median(taken), 3)


def p99(taken: list[float]) -> float:
    """Return the 99th percentile."""
    return round(sorted(taken)[int(0.99 * (len(taken) - 1))], 3)


def questions(store: MarketStore, end_ms: int, suffix: str) -> Iterator[Comparison | Measure]:
    """Yield how long each shape of question takes."""
    queries, choose = store.queries(), random.Random(9)
    times = min(ASKED, 10 * comparison.most_rounds)

    recent_ms = min(40 * DAY_MS, (end_ms - FIRST_MS) // 2)

    def day() -> int:
        return choose.randrange(FIRST_MS, end_ms - DAY_MS + 1) // DAY_MS * DAY_MS

    async def one_day() -> Any:
        lo_ms = day()
        return await queries.query_ohlcv_data(SYMBOL, Timeframe.M1, lo_ms, lo_ms + DAY_MS)

    async def multi(known_by: bool = False) -> Any:
        as_of = choose.randrange(end_ms - recent_ms, end_ms)
        return await queries.query_multi_timeframe_ohlcv(
            SYMBOL, CANDLE_TIMEFRAMES, as_of, LIMIT, known_by_ms=end_ms if known_by else None
        )

    async def profile() -> Any:
        return await queries.query_volume_profile(SYMBOL, end_ms)

    async def latest() -> Any:
        return await queries.query_latest_ohlcv(Timeframe.M1, end_ms)

    async def inference() -> Any:
        return await provider.get_inference_data(SYMBOL, choose.randrange(end_ms - recent_ms, end_ms))

    provider = UnifiedDataProvider(queries, lambda: end_ms)
    shapes: dict[str, tuple[Callable[[], Awaitable[Any]], str, str]] = {
        "one_day_1m": (one_day, "p50", "1,440 bars to a frame"),
        "multi_timeframe": (multi, "p99", f"7 x {LIMIT} bars to frames"),
        "multi_timeframe_known_by": (lambda: multi(True), "p99", f"7 x {LIMIT} bars of former knowledge"),
        "profile_24h": (profile, "", f"1,440 minutes of about {TICKS_A_MINUTE} prices"),
        f"latest_{SYMBOLS}": (latest, "", "last bar of each symbol"),
        "inference_historical": (inference, "p99", "bars, indicators, book and context of a moment"),
    }
    for name, (ask, told, note) in shapes.items():
        first = timed(ask, 1)[0]
        timed(ask, min(20, times))
        taken = timed(ask, times)
        label = f"{name}_{told}_ms" if told else f"{name}_ms"
        value = p99(taken) if told == "p99" else p50(taken)
        yield Measure(
            f"{label}{suffix}", value, "ms", f"{note}; p50 {p50(taken)}, p99 {p99(taken)}, first {first:.1f} ms"
        )


def as_dictionaries(store: MarketStore, lo_ms: int) -> list[dict[str, Any]]:
    """Return a day as one would fetch it first, before it is made a frame."""
    query = (
        "SELECT c.* FROM md.candle c JOIN md.symbol s USING (symbol_id) WHERE s.name = $1 AND timeframe = '1m' "
        "AND open_time >= to_timestamp($2) AND open_time < to_timestamp($3) ORDER BY open_time"
    )
    return [dict(row) for row in store.fetch(query, SYMBOL, lo_ms / 1000, (lo_ms + DAY_MS) / 1000)]


def one_day(store: MarketStore, end_ms: int, suffix: str) -> Comparison:
    """Compare days of minutes as frames with such made of dictionaries, and with the dictionaries alone.

    A round is `SEEN` days, one after the other: a single question, asked after a pause, is mostly the processors' waking.
    """
    queries = store.queries()
    days = [end_ms - number * DAY_MS for number in range(1, 1 + min(SEEN, (end_ms - FIRST_MS) // DAY_MS))]
    ways = {
        "ours": lambda: [wait(queries.query_ohlcv_data(SYMBOL, Timeframe.M1, lo_ms, lo_ms + DAY_MS)) for lo_ms in days],
        "dicts": lambda: [pl.DataFrame(as_dictionaries(store, lo_ms)) for lo_ms in days],
        "bare_dicts": lambda: [as_dictionaries(store, lo_ms) for lo_ms in days],
    }

    def equal(ours: list[pl.DataFrame], other: list[Any]) -> bool:
        found = [pl.DataFrame(day) for day in other]
        return [day["close"].to_list() for day in ours] == [day["close"].to_list() for day in found]

    return compare(f"one_day{suffix}", len(days) * DAY_MS // MINUTE_MS, "bars", ways, equal, rounds=11)


def cached(bars: dict[Timeframe, pl.DataFrame], end_ms: int) -> DataCacheManager:
    """Return a cache that has everything of the market's end."""
    cache = DataCacheManager(lambda: end_ms)
    for timeframe, frame in bars.items():
        cache.put("candle", SYMBOL, frame.tail(1_000), timeframe)
    for timeframe in (Timeframe.M3, Timeframe.H4):
        cache.put("indicator", SYMBOL, indicators(bars[timeframe]), timeframe)
    snapshots, seconds = books(end_ms)
    cache.put("book_snapshot", SYMBOL, snapshots)
    cache.put("book_1s", SYMBOL, seconds)
    of_seconds = candles(600, Timeframe.S1).with_columns(open_time=end_ms - 600_000 + SECOND_MS * pl.int_range(600))
    cache.put("candle_1s", SYMBOL, of_seconds)
    for table in ("book_snapshot", "book_1s", "candle_1s"):
        cache.covers(table, SYMBOL, end_ms - 600_000)
    for timeframe in bars:
        cache.covers("candle", SYMBOL, FIRST_MS, timeframe)
        cache.covers("indicator", SYMBOL, FIRST_MS, timeframe)
    return cache


def live(store: MarketStore, cache: DataCacheManager, end_ms: int, suffix: str) -> Measure:
    """Measure `get_inference_data` of now."""
    provider = UnifiedDataProvider(store.queries(), lambda: end_ms, cache=cache)

    async def ask() -> Any:
        return await provider.get_inference_data(SYMBOL)

    answer = wait(ask())
    taken = timed(ask, min(1_000, 10 * comparison.most_rounds))
    note = f"7 x {LIMIT} bars, indicators, book and context from the {answer.source}; p50 {p50(taken)} ms"
    return Measure(f"inference_live_p99_ms{suffix}", p99(taken), "ms", note)


def readers(store: MarketStore, cache: DataCacheManager, end_ms: int, suffix: str) -> Iterator[Measure]:
    """Measure `READERS` readers, each of whom asks once a second, while `WRITTEN_S` rows a second are written."""
    queries, seconds = store.queries(), min(15, comparison.most_rounds)
    provider = UnifiedDataProvider(queries, lambda: end_ms, cache=cache)
    questions: dict[str, Callable[[], Awaitable[Any]]] = {
        "inference_live": lambda: provider.get_inference_data(SYMBOL),
        "one_day_1m": lambda: queries.query_ohlcv_data(SYMBOL, Timeframe.M1, end_ms - DAY_MS, end_ms),
        "multi_timeframe": lambda: queries.query_multi_timeframe_ohlcv(SYMBOL, CANDLE_TIMEFRAMES, end_ms, LIMIT),
        f"latest_{SYMBOLS}": lambda: queries.query_latest_ohlcv(Timeframe.M1, end_ms),
    }
    taken: dict[str, list[float]] = {name: [] for name in questions}

    async def reader(number: int) -> None:
        name = list(questions)[number % 10 if number % 10 < len(questions) else 0]
        await asyncio.sleep(number / READERS)
        for _ in range(seconds):
            start = time.perf_counter()
            await questions[name]()
            taken[name].append(1000 * (time.perf_counter() - start))
            await asyncio.sleep(max(0.0, 1 - (time.perf_counter() - start)))

    async def all_readers() -> None:
        await asyncio.gather(*(reader(number) for number in range(READERS)))

    reading, written, start = begin(all_readers()), 0, time.perf_counter()
    batch = candles(WRITTEN_S // 4, Timeframe.S1)
    while not reading.done():
        first_ms = end_ms + written * SECOND_MS
        rows = batch.with_columns(open_time=first_ms + SECOND_MS * pl.int_range(len(batch)), known_at_ms=None)
        store.write(CANDLE_1S, "S001USDT", rows, first_ms, first_ms + len(batch) * SECOND_MS)
        written += len(batch)
        time.sleep(max(0.0, written / WRITTEN_S - (time.perf_counter() - start)))
    reading.result()
    rate = written / (time.perf_counter() - start)
    told = {"one_day_1m": "_p50", f"latest_{SYMBOLS}": ""}
    for name, latencies in taken.items():
        label = f"{name}{told.get(name, '_p99')}_ms_beside{suffix}"
        answers = f"{len(latencies)} answers to {READERS} readers beside {rate:,.0f} rows/s written"
        note = f"{answers}; p50 {p50(latencies)}, p99 {p99(latencies)} ms"
        yield Measure(label, p50(latencies) if name in told else p99(latencies), "ms", note)


def backtest(queries: MarketQueries, end_ms: int, suffix: str) -> Iterator[Measure]:
    """Measure a pass over all minutes, and what memory half of it and all of it take."""

    def reader(until_ms: int, columns: tuple[str, ...] | None) -> BacktestReader:
        return BacktestReader.of_database(queries, SYMBOL, [Timeframe.M1], FIRST_MS, until_ms, columns=columns)

    for name, columns in (("backtest_candles_s", PRICES), ("backtest_whole_candles_s", None)):
        peaks = []
        for until_ms in ((FIRST_MS + end_ms) // 2, end_ms):
            tracemalloc.start()
            sum(len(batch) for batch in reader(until_ms, columns))
            peaks.append(tracemalloc.get_traced_memory()[1] / 2**20)
            tracemalloc.stop()
        taken = []
        for _ in range(min(3, comparison.most_rounds)):
            start = time.perf_counter()
            rows = sum(len(batch) for batch in reader(end_ms, columns))
            taken.append(time.perf_counter() - start)
        note = f"{rows:,} bars; peak {peaks[1]:.0f} MiB, of half of them {peaks[0]:.0f}"
        yield Measure(f"{name}{suffix}", round(rows / min(taken)), "bars/s", note)


def comparisons(days: int = DAYS, symbols: int = SYMBOLS) -> Iterator[Comparison | Measure]:
    """Yield each measure as it is done, on a market of so many days and symbols."""
    bars = market(days)
    with databases() as urls:
        for backend, url in urls.items():
            suffix = "" if backend == "plain" else f"_{backend}"
            with MarketStore(url, "sim") as store:
                end_ms = fill(store, bars, symbols)
                yield from questions(store, end_ms, suffix)
                yield one_day(store, end_ms, suffix)
                cache = cached(bars, end_ms)
                yield live(store, cache, end_ms, suffix)
                yield from readers(store, cache, end_ms, suffix)
                yield from backtest(store.queries(), end_ms, suffix)
