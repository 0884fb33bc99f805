"""What comes in is checked, can be seen at once, and is written in batches; what was acknowledged is never lost.

A row is acknowledged when it is committed, or lies in a dead letter on the disk. While the server is away rows wait, and
when as many wait as may, so does whoever brings more, or is refused, as he chose. A row that the server refuses is found by
halving its batch and set aside; the others are written.
"""

import asyncio
import random
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import msgspec
import polars as pl

from resources.timescale.dead_letters import DeadLetters
from resources.timescale.delivery import Delivery
from resources.timescale.store import MarketStore
from resources.timescale.tables import BOOK_1S, BOOK_SNAPSHOT, CANDLE, CANDLE_1S, TRADE, Table
from resources.timescale.trouble import DatabaseUnavailable
from resources.timescale.writing import Written
from trading.market.instrument import Instrument, UnknownInstrument
from trading.market.timeframe import SECOND_MS, Timeframe
from trading.market.trade import AggTrade
from trading.provider.book_seconds import BookSeconds, book_snapshots
from trading.provider.book_seconds import record_of as book_record_of
from trading.provider.cache import DataCacheManager
from trading.provider.pipeline import Batch, Buffers, PipelineStopped, Receipt, Series
from trading.provider.validation import DataValidator
from trading.stream.backoff import Backoff
from trading.stream.book_recorder import BookRecord

Row = Mapping[str, Any]

WRITERS: Final = 2
"""More only wait for each other: the server writes one log."""
FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 5.0
DRAIN_S: Final = 30.0
LATENCIES: Final = 1_000


@dataclass(frozen=True)
class IngestionStatistics:
    """What became of the rows so far.

    Attributes:
        taken: Rows that came in and were not refused.
        waiting: Of these, not kept yet.
        most_waiting: The most that ever waited.
        inserted: Rows that the database did not have; those of a write whose answer was lost are not among them.
        updated: Rows that replaced others.
        dead: Rows in dead letters that this pipeline wrote.
        batches: Writes that were done.
        attempts: Writes that were tried.
        troubles: Failed attempts by what the server suffered from; `other` is what nobody foresaw.
        held_up: How often somebody waited for room.
        latency_p50_ms: From when a batch was due until it was kept, the median of the last batches.
        latency_p99_ms: Their 99th percentile.
        last_error: The last failed attempt's, in words.
    """

    taken: int
    waiting: int
    most_waiting: int
    inserted: int
    updated: int
    dead: int
    batches: int
    attempts: int
    troubles: dict[str, int]
    held_up: int
    latency_p50_ms: float
    latency_p99_ms: float
    last_error: str


class DataIngestionPipeline:
    """The way of rows into one market database; belongs to the event loop on which it is started.

    Args:
        store: The database, open; what it does not answer within its `statement_s` is asked again.
        letters: Where rows lie that it does not take.
        clock: The exchange's clock, epoch milliseconds.
        checks: Tells rows that cannot have happened.
        cache: Shows rows at once, before they are stored; None: none does.
        instruments: Sizes of ticks and lots by symbol; of the books of those that are there, seconds are made.
        recorded: The records of the days follow what is written, as if the assets that rebuild them had written it.
        buffers: What waits; its limits are the pipeline's.
        uniform: Source of chance of the pauses.
    """

    def __init__(
        self,
        store: MarketStore,
        letters: DeadLetters,
        clock: Callable[[], int],
        checks: DataValidator,
        cache: DataCacheManager | None = None,
        instruments: Mapping[str, Instrument] | None = None,
        recorded: bool = True,
        buffers: Buffers | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._store, self._letters, self._clock, self._checks, self._cache = store, letters, clock, checks, cache
        self._recorded, self._instruments = recorded, instruments or {}
        self._seconds: dict[str, tuple[BookSeconds, int]] = {}
        self._buffers = buffers or Buffers()
        self._uniform = uniform
        self._threads: ThreadPoolExecutor | None = None
        self._flushing: asyncio.Task[None] | None = None
        self._settling: set[asyncio.Task[None]] = set()
        self._stopping = False
        self._came = asyncio.Event()
        self._progress = asyncio.Event()
        self._written, self._dead, self._batches, self._attempts, self._taken, self._held_up = Written(), 0, 0, 0, 0, 0
        self._troubles: Counter[str] = Counter()
        self._latencies_s: deque[float] = deque(maxlen=LATENCIES)
        self._last_error = ""

    # -- start and stop ----------------------------------------------------------------------------------------------

    async def __aenter__(self) -> "DataIngestionPipeline":
        """Begin to write."""
        self._threads = ThreadPoolExecutor(WRITERS + 1, "ingestion")
        self._flushing = asyncio.create_task(self._flush())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop; see `stop`."""
        await self.stop()

    async def stop(self, drain_s: float = DRAIN_S) -> None:
        """Take no more rows, write those that wait, and set aside what the database did not take in time.

        Raises:
            OSError: Nor could that be; the rows are not acknowledged.
        """
        if self._flushing is None:
            return
        self._stopping = True
        self._came.set()
        try:
            async with asyncio.timeout(drain_s):
                await self._flushing
        except TimeoutError:
            for task in self._settling:
                task.cancel()
            await asyncio.gather(*self._settling, return_exceptions=True)
            for batch in self._buffers.unkept():
                await asyncio.to_thread(self._letters.write, batch, f"not written before the stop: {self._last_error}")
                self._dead += len(batch.frame)
        finally:
            self._flushing = None
            self._advance()
            if self._threads is not None:
                self._threads.shutdown(wait=False)

    # -- what comes in -----------------------------------------------------------------------------------------------

    async def ingest_ohlcv_candle(self, symbol: str, timeframe: Timeframe, candle: Row, wait: bool = True) -> Receipt:
        """Take one closed bar, columns of `CANDLE_SCHEMA`; of `wait`, and what is raised, see `ingest`."""
        self._checks.candle(symbol, timeframe, candle)
        return await self._take(*_bars(symbol, timeframe), candle, wait)

    async def ingest_trade(self, symbol: str, trade: "Row | AggTrade", wait: bool = True) -> Receipt:
        """Take one trade, columns of `TRADE_SCHEMA`; of `wait`, and what is raised, see `ingest`."""
        if isinstance(trade, AggTrade):
            trade = msgspec.structs.asdict(trade)
        self._checks.trade(symbol, trade)
        return await self._take(TRADE, Series("trade", symbol), trade, wait)

    async def ingest_orderbook_snapshot(self, symbol: str, book: "Row | BookRecord", wait: bool = True) -> Receipt:
        """Take one book, columns of `BOOK_SNAPSHOT_SCHEMA`, and the seconds that become known by it.

        A row, unlike a record, does not say whether a change is missing before it: it stands for its own second only.
        What is acknowledged is the book: its seconds can be made of it again. Of `wait`, and what is raised, see `ingest`.
        """
        instrument = self._instruments.get(symbol)
        if isinstance(book, BookRecord):
            if instrument is None:
                raise UnknownInstrument(
                    f"the size of a tick of {symbol} is not known", "give the pipeline its instrument"
                )
            row, record = book_snapshots([book], instrument).row(0, named=True), book
            self._checks.book(symbol, row)
        else:
            row = book
            self._checks.book(symbol, row)
            record = book_record_of(row, instrument) if instrument else None
        receipt = await self._take(BOOK_SNAPSHOT, Series("book_snapshot", symbol), row, wait)
        if instrument is None or record is None:
            return receipt
        seconds, last_ms = self._seconds.get(symbol, (BookSeconds(instrument), 0))
        if record.book.time_ms >= last_ms:  # a late one changes no second that others were made after
            self._seconds[symbol] = seconds, record.book.time_ms
            await self._take(BOOK_1S, Series("book_1s", symbol), seconds.take([record]), wait=True)
        return receipt

    async def ingest(
        self,
        table: Table,
        symbol: str,
        frame: pl.DataFrame,
        timeframe: Timeframe | None = None,
        wait: bool = True,
    ) -> Receipt:
        """Take the rows of a frame that can have happened; the validator counts and keeps the others.

        Args:
            table: One of `TABLES`.
            symbol: Whose rows.
            frame: Columns of the table's schema.
            timeframe: Of bars, one second if it is not said, and of indicators.
            wait: Wait for room; otherwise be refused.

        Returns:
            What `acknowledged` takes.

        Raises:
            RefusedRow: A single row cannot have happened.
            PipelineFull: There is no room, and waiting was not wanted.
            PipelineStopped: Rows are not taken any more.
        """
        series = Series(table.name, symbol, timeframe)
        if table.name in (CANDLE.name, CANDLE_1S.name):
            table, series = _bars(symbol, timeframe or Timeframe.S1)
        frame = self._checks.rows(series, frame)
        return await self._take(table, series, frame.select(list(table.schema)).cast(dict(table.schema)), wait)

    async def acknowledged(self, receipt: Receipt) -> None:
        """Return once a row, and all that came before it in its series, is committed or lies in a dead letter.

        Raises:
            PipelineStopped: It will not be: the pipeline stopped when neither was possible.
        """
        while not self._buffers.is_kept(receipt):
            if self._flushing is None:
                raise PipelineStopped(f"rows of {receipt.series.table} were not kept", "bring them again")
            await self._progress.wait()

    async def _take(self, table: Table, series: Series, rows: "pl.DataFrame | Row", wait: bool) -> Receipt:
        parts = list(rows.iter_slices(self._buffers.flush_rows)) if isinstance(rows, pl.DataFrame) else [rows]
        self._require_running(series)
        if not wait:
            self._buffers.require_room(series, len(rows) if isinstance(rows, pl.DataFrame) else 1)
        recorded_at_ms = self._clock()
        if self._cache is not None:
            self._cache.put(series.table, series.symbol, rows, series.timeframe)
        receipt = Receipt(series, 0)
        for part in parts:
            count = len(part) if isinstance(part, pl.DataFrame) else 1
            self._held_up += not self._buffers.has_room(count)
            while not self._buffers.has_room(count):
                await self._progress.wait()
                if self._stopping:
                    raise PipelineStopped(
                        f"rows of {series.table} are not taken any more", "the pipeline was told to stop"
                    )
            receipt = self._buffers.add(table, series, part, recorded_at_ms, time.monotonic())
            self._taken += count
            if isinstance(part, pl.DataFrame):  # a single row makes nothing due before the next look
                self._came.set()
        return receipt

    def _require_running(self, series: Series) -> None:
        if self._stopping:
            raise PipelineStopped(f"rows of {series.table} are not taken any more", "the pipeline was told to stop")

    # -- what goes out -----------------------------------------------------------------------------------------------

    async def _flush(self) -> None:
        """Settle what is due until there is nothing left and nothing comes any more."""
        while not (self._stopping and self._buffers.rows == 0):
            self._came.clear()
            while len(self._settling) < WRITERS:
                batch = self._buffers.due(time.monotonic(), self._stopping)
                if batch is None:
                    break
                task = asyncio.create_task(self._settle(batch))
                self._settling.add(task)
                task.add_done_callback(self._settled)
            look_s = self._buffers.flush_age_s / 5 if len(self._settling) < WRITERS else None
            with suppress(TimeoutError):
                async with asyncio.timeout(look_s):
                    await self._came.wait()

    def _settled(self, task: asyncio.Task[None]) -> None:
        self._settling.discard(task)
        self._came.set()

    async def _settle(self, batch: Batch) -> None:
        """Write a batch, however long that takes; what the server refuses for good is set aside."""
        start, backoff = time.monotonic(), Backoff(self._uniform, FIRST_PAUSE_S, LONGEST_PAUSE_S)
        delivery, loop = Delivery(batch, self._letters.write), asyncio.get_running_loop()
        try:
            while True:
                try:
                    await loop.run_in_executor(self._threads, delivery.go_on, self._store, self._recorded)
                    break
                except Exception as error:
                    self._note(error)
                    await asyncio.sleep(backoff.pause_s(0.0))
        finally:
            self._written += delivery.written
            self._dead += delivery.aside
            self._batches += delivery.writes
            self._attempts += delivery.attempts
            if delivery.refusals:
                self._troubles["refused_row"] += delivery.refusals
        self._buffers.kept(batch)
        self._latencies_s.append(time.monotonic() - start)
        self._advance()

    def _note(self, error: Exception) -> None:
        trouble = error.trouble if isinstance(error, DatabaseUnavailable) else None
        self._troubles[str(trouble or "other")] += 1
        self._last_error = f"{type(error).__name__}: {error}"

    def _advance(self) -> None:
        """Wake whoever waits for room or for an acknowledgement."""
        self._progress.set()
        self._progress = asyncio.Event()

    # -- what is told ------------------------------------------------------------------------------------------------

    @property
    def statistics(self) -> IngestionStatistics:
        """What became of the rows so far."""
        latencies = sorted(self._latencies_s) or [0.0]
        return IngestionStatistics(
            taken=self._taken,
            waiting=self._buffers.rows,
            most_waiting=self._buffers.most_seen,
            inserted=self._written.inserted,
            updated=self._written.updated,
            dead=self._dead,
            batches=self._batches,
            attempts=self._attempts,
            troubles=dict(self._troubles),
            held_up=self._held_up,
            latency_p50_ms=1000 * latencies[len(latencies) // 2],
            latency_p99_ms=1000 * latencies[int(0.99 * (len(latencies) - 1))],
            last_error=self._last_error,
        )


def _bars(symbol: str, timeframe: Timeframe) -> tuple[Table, Series]:
    """Return the table and the series of bars; those of one second have a table of their own."""
    table = CANDLE_1S if timeframe.ms == SECOND_MS else CANDLE
    return table, Series(table.name, symbol, timeframe)
