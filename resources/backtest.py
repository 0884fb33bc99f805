"""A backtest reads bars in the order in which it would have seen them, a batch at a time.

By closing time the newest version of each bar comes once: the past as it is known today, or as it was known by a moment. As
it became known, every version comes when it was recorded: the past as a live reader saw it, late bars late and repairs as
repairs. While one batch is worked on, the next ones are read; no more than those are ever in memory.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

import polars as pl

from resources.lake import LakeReader
from resources.timescale.loop import begin, wait
from resources.timescale.queries import MarketQueries
from trading.market.timeframe import Timeframe
from trading.provider.moments import Moment, range_ms

ROWS: Final = 100_000
AHEAD: Final = 2

Begin = Callable[[Timeframe, int, int], Future[pl.DataFrame]]
"""Begins to read the bars of a timeframe that open in a half-open range."""


class BacktestReader:
    """Iterates over batches of bars that close in `(lo, hi]`, by closing time; of equals the shorter first.

    Each batch has the columns `timeframe` and those of `CANDLE_SCHEMA`, or the ones of them that were asked for. It may be
    iterated again.

    Args:
        start: Begins to read.
        timeframes: Which bars.
        lo: Moment before the first bar closes.
        hi: Moment at which the last may close.
        rows: About how many bars a batch has.
    """

    def __init__(self, start: Begin, timeframes: Sequence[Timeframe], lo: Moment, hi: Moment, rows: int = ROWS) -> None:
        self._start = start
        self._timeframes = sorted(timeframes, key=lambda timeframe: timeframe.ms)
        self._lo_ms, self._hi_ms = range_ms(lo, hi)
        per_ms = sum(1 / timeframe.ms for timeframe in timeframes)
        self._step_ms = max(timeframes, key=lambda timeframe: timeframe.ms).ceil(int(rows / per_ms))

    @classmethod
    def of_database(
        cls,
        queries: MarketQueries,
        symbol: str,
        timeframes: Sequence[Timeframe],
        lo: Moment,
        hi: Moment,
        known_by_ms: int | None = None,
        incomplete: bool = False,
        rows: int = ROWS,
        columns: Sequence[str] | None = None,
    ) -> "BacktestReader":
        """Return a reader of what the database knows; see `MarketQueries.query_ohlcv_data`."""

        def start(timeframe: Timeframe, lo_ms: int, hi_ms: int) -> Future[pl.DataFrame]:
            question = queries.query_ohlcv_data(
                symbol, timeframe, lo_ms, hi_ms, known_by_ms=known_by_ms, incomplete=incomplete, columns=columns
            )
            return begin(question)

        return cls(start, timeframes, lo, hi, rows)

    @classmethod
    def of_lake(
        cls,
        lake: LakeReader,
        symbol: str,
        timeframes: Sequence[Timeframe],
        lo: Moment,
        hi: Moment,
        known_by_ms: int | None = None,
        incomplete: bool = False,
        rows: int = ROWS,
    ) -> "BacktestReader":
        """Return a reader of the bars that are in the lake; see `LakeReader.read`."""
        workers = ThreadPoolExecutor(1, "lake")

        def read(timeframe: Timeframe, lo_ms: int, hi_ms: int) -> pl.DataFrame:
            name, stored = ("candle_1s", None) if timeframe is Timeframe.S1 else ("candle", timeframe)
            bars = lake.read(name, symbol, lo_ms, hi_ms, stored, known_by_ms).collect()
            return bars if incomplete else bars.filter("complete")

        return cls(lambda *asked: workers.submit(read, *asked), timeframes, lo, hi, rows)

    def __iter__(self) -> Iterator[pl.DataFrame]:
        """Yield batches; those without a bar are left out."""
        begun: deque[list[Future[pl.DataFrame]]] = deque()
        after_ms = self._lo_ms
        try:
            while begun or after_ms < self._hi_ms:
                while after_ms < self._hi_ms and len(begun) <= AHEAD:
                    until_ms = min(after_ms + self._step_ms, self._hi_ms)
                    begun.append([self._start(t, after_ms - t.ms + 1, until_ms - t.ms + 1) for t in self._timeframes])
                    after_ms = until_ms
                batch = self._merged([future.result() for future in begun.popleft()])
                if not batch.is_empty():
                    yield batch
        finally:
            for futures in begun:
                for future in futures:
                    future.cancel()

    def _merged(self, bars: list[pl.DataFrame]) -> pl.DataFrame:
        named = [
            rows.select(pl.lit(timeframe.value).alias("timeframe"), pl.all())
            for timeframe, rows in zip(self._timeframes, bars, strict=True)
        ]
        if len(named) == 1:
            return named[0]
        closed = [rows["open_time"] + timeframe.ms for timeframe, rows in zip(self._timeframes, bars, strict=True)]
        # The sort is stable, and the shorter come first.
        return pl.concat(named)[pl.concat(closed).arg_sort()]


def as_known(
    queries: MarketQueries, symbol: str, timeframes: Sequence[Timeframe], lo: Moment, hi: Moment
) -> Iterator[pl.DataFrame]:
    """Yield batches of every stored version of the bars that close in `(lo, hi]`, in the order in which they became known.

    A row with `withdrawn` says that this bar is not known to be there any more. Whoever replaces bars by (`timeframe`,
    `open_time`), and takes withdrawn ones away, holds at each moment what `known_by` that moment gives of stored bars.
    """
    lo_ms, hi_ms = range_ms(lo, hi)
    batches: asyncio.Queue[pl.DataFrame | Exception | None] = asyncio.Queue(AHEAD)

    async def read() -> None:
        end = None
        try:
            await queries.stream_versions(symbol, timeframes, lo_ms, hi_ms, batches.put)
        except Exception as error:
            end = error
        await batches.put(end)

    reading = begin(read())
    try:
        while isinstance(batch := wait(batches.get()), pl.DataFrame):
            yield batch
        if batch is not None:
            raise batch
    finally:
        reading.cancel()
