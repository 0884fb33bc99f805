"""The newest facts in this process: what is told live goes into a cache, from which the present is answered.

A thread follows the streams. When Redis is away the cache keeps what it has, and its answers grow old and say so. What is
stored is loaded in the beginning and again each minute, so that the cache has everything from some moment on, and also what
another process corrected without telling it.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import numpy as np
import polars as pl

from resources.live import LiveStreams, entry_ms
from resources.redis import CacheUnavailable
from resources.timescale.loop import elsewhere
from resources.timescale.queries import MarketQueries
from trading.errors import TradingError
from trading.market.timeframe import CANDLE_TIMEFRAMES, MINUTE_MS, Timeframe
from trading.provider.cache import BARS, GRACE_MS, TABLES, WINDOW_MS, DataCacheManager
from trading.provider.events import LiveEvent, frame_of
from trading.provider.ports import Absence
from trading.provider.question import INDICATED

WAIT_MS: Final = 500
PAUSE_S: Final = 1.0
LOAD_S: Final = 60.0
FORGET_S: Final = MINUTE_MS / 1000
"""After so long without Redis what the cache holds and what comes next may not join."""

_KINDS: Final = {"trade": "trade", "book": "book_snapshot", "book:1s": "book_1s"}

_log = logging.getLogger(__name__)


class LiveFollower:
    """Fills a cache from the live streams.

    Args:
        url: Redis URL.
        symbols: Whose events.
        queries: What is stored; None: only what is told is in the cache, and nobody knows what it lacks.
        monotonic: Seconds that pass, whatever is told.

    Attributes:
        cache: What was told of the last minutes.
        clock_ms: The newest exchange time that was told; 0: nothing was.
        heard: Called with a symbol and its events when they can be read from the cache.
    """

    def __init__(
        self,
        url: str,
        symbols: Iterable[str],
        queries: MarketQueries | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._url, self._after = url, dict.fromkeys(symbols, "0")
        self._queries, self._load_at_s = queries, dict.fromkeys(self._after, 0.0)
        self._loading: dict[str, asyncio.Task[None]] = {}
        self.clock_ms = self._present_ms = 0
        self._monotonic, self._began_s, self._heard_s = monotonic, 0.0, 0.0
        self._telling_time = threading.Lock()
        self.heard: Callable[[str, Sequence[LiveEvent]], None] = lambda *_: None
        self.cache = DataCacheManager(lambda: self.clock_ms)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._follow()), name="follower", daemon=True)

    def present_ms(self) -> int:
        """Return the newest exchange time that was told and what has passed since, never less than before; 0: nothing was.

        It goes on when nothing is told any more, so that what the cache has grows old.
        """
        with self._telling_time:
            passed_ms = int(1000 * (self._monotonic() - self._heard_s)) if self.clock_ms else 0
            self._present_ms = max(self._present_ms, self.clock_ms + passed_ms)
            return self._present_ms

    def start(self) -> None:
        """Begin with what the streams still hold."""
        self._began_s = time.time()
        self._thread.start()

    def stop(self) -> None:
        """End; the cache stays as it is."""
        self._stopping.set()
        self._thread.join(2 * WAIT_MS / 1000 + PAUSE_S)

    async def _follow(self) -> None:
        streams, answered_s = LiveStreams(self._url), time.monotonic()
        while not self._stopping.is_set():
            try:
                arrived = await streams.read(self._after, WAIT_MS)
            except CacheUnavailable as error:
                _log.warning("the live streams are away: %s", error.message)
                await asyncio.sleep(PAUSE_S)
                continue
            if time.monotonic() - answered_s > FORGET_S:
                for symbol in self._after:
                    self._forget(symbol, load_at_s=0.0)
            answered_s = time.monotonic()
            for symbol, entry, events in arrived:
                self._after[symbol] = entry
                self._take(symbol, entry, events)
                self._begin_to_load(symbol)
        for loading in self._loading.values():
            loading.cancel()
        await streams.close()

    def _begin_to_load(self, symbol: str) -> None:
        """Load a symbol once in a while, beside what goes on being told."""
        loading, now_s = self._loading.get(symbol), time.monotonic()
        if self._queries is not None and now_s >= self._load_at_s[symbol] and (loading is None or loading.done()):
            self._load_at_s[symbol] = now_s + LOAD_S
            self._loading[symbol] = asyncio.create_task(self._load(symbol, self._queries))

    def _forget(self, symbol: str, load_at_s: float) -> None:
        """Leave the answers to the history, until it is loaded again."""
        if symbol in self._loading:
            self._loading[symbol].cancel()
        self._load_at_s[symbol] = load_at_s
        self.cache.forget(symbol)

    async def _load(self, symbol: str, queries: MarketQueries) -> None:
        """Take what is stored of a symbol, and say from when on the cache has everything."""
        now_ms = self.clock_ms
        try:
            stored, absence = await elsewhere(queries.together(lambda q: _stored(q, symbol, now_ms)))
        except TradingError as error:
            _log.warning("what is stored of %s is not loaded: %s", symbol, error.message)
            return
        for (table, timeframe), (rows, from_ms) in stored.items():
            time_column = TABLES["candle" if table == "candle_1s" else table].time
            held = self.cache.frame(table, symbol, timeframe).select(time_column, told_ms="known_at_ms")
            # What was told since is newer than what is stored.
            newer = rows.join(held, time_column, "left", maintain_order="left").filter(
                pl.col("told_ms").is_null() | (pl.col("told_ms") < pl.col("known_at_ms"))
            )
            if len(newer):
                self.cache.put(table, symbol, newer.drop("told_ms"), timeframe)
            self.cache.covers(table, symbol, from_ms, timeframe)
        if absence is not None:
            self.cache.lacks(symbol, absence)

    def _take(self, symbol: str, entry: str, events: Sequence[LiveEvent]) -> None:
        by_kind: dict[str, list[LiveEvent]] = {}
        for event in events:
            by_kind.setdefault(event.kind, []).append(event)
        if "missed" in by_kind and entry_ms(entry) / 1000 > self._began_s - LOAD_S:
            # The database gets it in a second, or when it is back.
            self._forget(symbol, load_at_s=time.monotonic() + LOAD_S)
        for kind, told in by_kind.items():
            name, _, of = kind.partition(":")
            timeframe = Timeframe(of) if name in ("bar", "indicator") else None
            table = {"bar": "candle", "indicator": "indicator"}.get(name) or _KINDS.get(kind)
            if table is not None:
                self.cache.put(table, symbol, frame_of(told, TABLES[table].schema), timeframe)
        # Only now are they seen: a question asks up to the clock.
        if (newest_ms := max(event.time_ms for event in events)) > self.clock_ms:
            # What had been told before this one began was no news then.
            waited_s = max(0.0, self._began_s - entry_ms(entry) / 1000)
            with self._telling_time:
                self.clock_ms, self._heard_s = newest_ms, self._monotonic() - waited_s
        self.heard(symbol, events)


Stored = dict[tuple[str, Timeframe | None], tuple[pl.DataFrame, int]]
"""Rows of each table, and the moment from which on they are all there are."""


async def _stored(queries: MarketQueries, symbol: str, now_ms: int) -> tuple[Stored, Absence | None]:
    """Return what the cache holds of a symbol as the database has it, and which bars are nowhere, if any is somewhere."""
    window_ms, at = now_ms - WINDOW_MS - GRACE_MS, {"as_of_ms": now_ms}
    bars = await queries.query_multi_timeframe_ohlcv(symbol, CANDLE_TIMEFRAMES, now_ms, BARS, incomplete=True)
    # Those that are not stored but made change with their minutes, which nobody tells.
    made = await queries.query_generated(symbol, {timeframe: rows for timeframe, rows in bars.items() if len(rows)})
    found: Stored = {}
    for timeframe, rows in bars.items():
        from_ms = int(rows["open_time"][0]) if len(rows) == BARS else 0
        found["candle", timeframe] = rows.filter(~pl.col("open_time").is_in(made.get(timeframe, ()))), from_ms
    for timeframe, rows in (await queries.query_indicators(symbol, INDICATED, now_ms, BARS)).items():
        found["indicator", timeframe] = rows, int(rows["open_time"][0]) if len(rows) == BARS else 0
    seconds = await queries.query_ohlcv_data(symbol, Timeframe.S1, window_ms, incomplete=True, **at)
    found["candle_1s", None] = seconds, window_ms
    found["book_1s", None] = await queries.query_orderbook_aggregated(symbol, "1s", window_ms, **at), window_ms
    books = await queries.query_orderbook_snapshots(symbol, window_ms, **at)
    no_books = books.is_empty() and (await queries.query_orderbook_snapshots(symbol, limit=1, **at)).is_empty()
    found["book_snapshot", None] = books, 0 if no_books else window_ms
    first_ms = await queries.query_first(symbol)
    if first_ms is None:
        return found, None
    absent = {
        t: np.setdiff1d(np.arange(t.floor(now_ms) - BARS * t.ms, t.floor(now_ms), t.ms), rows["open_time"]).tolist()
        for t, rows in bars.items()
    }
    return found, Absence(first_ms, await queries.query_empty(symbol, absent), BARS)
