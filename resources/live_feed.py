"""From the journal's acknowledgement to whoever asks: trades and bars into Redis at once, then into the database.

It runs on a thread of the collector's process and takes from a `LiveTap`, so that the collector waits for nothing here. It
may lag, or be off, without loss: what it has not written is read again from the journal, some way back, and what
lies before that is brought by the assets of the day. Redis being away costs nothing but what would have been told; the
database being away leaves Redis as it is.
"""

import asyncio
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, suppress
from itertools import pairwise
from typing import Any, Final

import polars as pl

from resources.live import KEPT_MS, LiveStreams, Teller
from resources.live_tap import Batch, BookBatch, LiveTap, joined
from resources.live_writer import AWAY, MOST_ROWS, LiveWriter
from resources.timescale.dead_letters import DeadLetters
from resources.timescale.history import bars_with_history
from resources.timescale.store import MarketStore
from resources.timescale.tables import CANDLE
from trading.market.candle import empty_candles
from trading.market.instrument import Instrument
from trading.market.timeframe import HOUR_MS, SECOND_MS, Timeframe
from trading.provider.book_seconds import BookSeconds, book_snapshots, uncrossed
from trading.provider.events import LiveEvent, row_events, trade_events
from trading.stream.contiguity import IdRange
from trading.stream.live_bars import Closed, LiveBars, warm_up

LOOK_S: Final = 0.25
REACH_MS: Final = HOUR_MS
MOST_BATCHES: Final = 1_000
FEW_BATCHES: Final = 4
DRAIN_S: Final = 8.0

_log = logging.getLogger(__name__)


class LiveFeed:
    """The live path of one collector.

    Args:
        tap: What the collector acknowledges.
        instruments: What is collected, by name.
        market: Opens the market database.
        streams_url: Redis.
        claims: Returns what the journal claims of a symbol; called once for each, before the feed starts.
        letters: Where rows go that the database refuses, with those beside that cannot have happened.
        reach_ms: How far back the journal is read again.
    """

    def __init__(
        self,
        tap: LiveTap,
        instruments: Mapping[str, Instrument],
        market: Callable[[], AbstractContextManager[MarketStore]],
        streams_url: str,
        claims: Callable[[str], list[IdRange]],
        letters: DeadLetters,
        reach_ms: int = REACH_MS,
    ) -> None:
        self._tap, self._instruments = tap, dict(instruments)
        self._claims = {name: held for name in instruments if (held := claims(name))}
        self._url, self._reach_ms = streams_url, reach_ms
        self.statistics: Counter[str] = Counter()
        self._writer = LiveWriter(
            tap, self._instruments, market, self._claims, letters, self._read_again, reach_ms, self.statistics
        )
        self._collector_loop = asyncio.get_running_loop()
        self._loop = asyncio.new_event_loop()
        self._awake, self._stopping = asyncio.Event(), False
        self._batches = asyncio.Queue[Batch | BookBatch | None]()
        self._unmade = self._asked_again = 0
        self._second: dict[str, int] = {}
        self._bars: dict[str, LiveBars] = {}
        self._awaited = set[str]()
        """Symbols of which no bar is made until the journal has been read again."""
        self._seconds = {name: BookSeconds(instrument) for name, instrument in instruments.items()}
        self._holes: dict[str, set[int]] = {name: set() for name in instruments}
        self._thread = threading.Thread(target=self._run, name="live", daemon=True)

    # -- the collector's side ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin; returns at once."""
        self._tap.wake = self._wake
        for symbol, claims in self._claims.items():
            # Trades of the same minute came before, without which its bars would be others.
            self._tap.read_again(symbol, claims[-1].proven_until_ms)
        self._thread.start()

    async def stop(self, patience_s: float = 10.0) -> None:
        """Write what is there and end; what takes longer is left to the next start."""
        self._stopping = True
        self._wake()
        # The collector's loop goes on meanwhile: a piece of the journal may have been asked of it.
        await asyncio.to_thread(self._thread.join, patience_s)

    def status(self) -> dict[str, Any]:
        """Return statistics, what waits, since when symbols' rows are not in the database, and books left to the assets."""
        books_left = self.statistics["books_left"] + self._tap.books_left
        return {**self.statistics, **self._tap.status(), **self._writer.status(), "books_left": books_left}

    def _wake(self) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._awake.set)

    # -- life --------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._live())
        except Exception:
            _log.exception("the live feed ended; the journal goes on, and the assets of the day bring what it holds")
        finally:
            self._loop.close()

    async def _live(self) -> None:
        teller = Teller(LiveStreams(self._url), self.statistics)
        storing = asyncio.create_task(self._writer.run())
        making = asyncio.create_task(self._keep_making(teller))
        try:
            while not self._stopping and not (making.done() or storing.done()):
                self._awake.clear()
                if not await self._take(teller):
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._awake.wait(), LOOK_S)
            if not making.done():
                await self._drain(teller)
        finally:
            if not making.done():
                await self._batches.put(None)
            self._made_by(await asyncio.gather(making, return_exceptions=True))
            self._writer.ended.set()
            self._made_by(await asyncio.gather(storing, return_exceptions=True))
            await teller.close()
            await asyncio.to_thread(self._writer.close)

    def _made_by(self, outcomes: list[Any]) -> None:
        """Tell of a task that did not end by itself; the other one goes on to its end."""
        for error in outcomes:
            if isinstance(error, BaseException):
                self.statistics["failed"] += 1
                _log.error("the live feed ends; the assets of the day bring what it does not", exc_info=error)

    async def _drain(self, teller: Teller) -> None:
        """Take the rest, as far as there is time for it; the next start goes on from there."""
        until_s = time.monotonic() + DRAIN_S
        while time.monotonic() < until_s:
            took = await self._take(teller)
            if not (took or self._unmade or self._asked_again or self._tap.behind() or self._writer.lacks):
                break
            await asyncio.sleep(0 if took else 0.02)

    # -- from the tap to Redis ---------------------------------------------------------------------------------------

    async def _take(self, teller: Teller) -> bool:
        """Tell what waits, and hand it on to what is made of it, which takes longer; return whether anything did."""
        if self._unmade > MOST_BATCHES:
            return False  # the tap keeps them, in bounded memory
        pieces = [piece for symbol in self._tap.behind() if (piece := await self._piece(symbol)) is not None]
        taken = [*pieces, *self._tap.take()]
        events: dict[str, list[LiveEvent]] = {}
        for batch in taken:
            if isinstance(batch, Batch):
                events.setdefault(batch.symbol, []).extend(self._told(batch))
        await teller.tell(events)
        self._unmade += len(taken)
        for batch in taken:
            await self._batches.put(batch)
        return bool(taken)

    async def _keep_making(self, teller: Teller) -> None:
        """Make what is made of batches, in order; those that have come together cost hardly more than one."""
        ended = False
        for instrument in list(self._instruments.values())[:1]:
            await asyncio.to_thread(warm_up, instrument)
        while not ended:
            waiting = await self._worth_making()
            ended = None in waiting
            batches = [batch for batch in waiting if batch is not None]
            for batch in joined(batches):
                if isinstance(batch, BookBatch):
                    await self._take_books(teller, batch)
                else:
                    await self._take_trades(teller, batch)
            self._unmade -= len(batches)

    async def _worth_making(self) -> list[Batch | BookBatch | None]:
        """Wait for batches of which something can be made, as no bar closes before a second is over; not for long."""
        waiting, worth, until_s = list[Batch | BookBatch | None](), False, 0.0
        while not (worth and self._batches.empty()):
            left_s = until_s - time.monotonic() if waiting else None
            try:
                batch = await asyncio.wait_for(self._batches.get(), left_s)
            except TimeoutError:
                break
            until_s = until_s or time.monotonic() + LOOK_S
            waiting.append(batch)
            worth = self._begins_a_second(batch) or worth
        return waiting

    def _begins_a_second(self, batch: Batch | BookBatch | None) -> bool:
        """Return whether more came than trades of a second that had begun."""
        if not isinstance(batch, Batch) or isinstance(batch.trades, pl.DataFrame) or not batch.trades or batch.fills:
            return True
        second, before = batch.clock_ms // SECOND_MS, self._second.get(batch.symbol)
        self._second[batch.symbol] = second
        return second != before or any(trade.time_ms // SECOND_MS != second for trade in batch.trades)

    async def _piece(self, symbol: str) -> Batch | None:
        """Return the next piece of a symbol's journal, unless the database is not ready for it."""
        if self._writer.rows > MOST_ROWS // 2 or self._batches.qsize() > FEW_BATCHES:
            return None
        reading = asyncio.run_coroutine_threadsafe(self._tap.piece(symbol), self._collector_loop)
        return await asyncio.wrap_future(reading)

    async def _take_trades(self, teller: Teller, batch: Batch) -> None:
        symbol, trades = batch.symbol, batch.frame
        if batch.since_ms is not None:
            self._writer.begin(symbol, batch.since_ms)
        closed = await asyncio.to_thread(self._make, batch, trades)
        await teller.tell({symbol: _young(_closed_events(symbol, closed), batch.clock_ms)})
        bars = self._bars[symbol]
        self._writer.take(batch, trades, closed, bars)
        first = not bars.prepared and self._writer.market() is not None
        if first or any(rows.indicators is not None for rows in closed):
            await asyncio.to_thread(bars.prepare)

    async def _take_books(self, teller: Teller, batch: BookBatch) -> None:
        symbol, known = batch.symbol, pl.lit(batch.clock_ms, pl.Int64).alias("known_at_ms")
        books = book_snapshots(batch.records, self._instruments[symbol]).with_columns(known)
        seconds = self._seconds[symbol].take(batch.records).with_columns(known)
        events = [*row_events("book", symbol, uncrossed(books)), *row_events("book:1s", symbol, seconds)]
        await teller.tell({symbol: _young(events, batch.clock_ms)})
        if not self._writer.take_books(symbol, books, seconds, batch.clock_ms):
            self.statistics["books_left"] += len(batch.records)

    def _told(self, batch: Batch) -> list[LiveEvent]:
        """Return a batch's trades, and the holes that opened and were filled with it."""
        if isinstance(batch.trades, pl.DataFrame):
            events = row_events("trade", batch.symbol, batch.trades)
        else:
            events = trade_events(batch.symbol, batch.trades)
        for fill in batch.fills:
            if fill.hole:
                values = (fill.first_id, fill.last_id, fill.waited_ms)
                events.append(LiveEvent("repair", batch.symbol, batch.clock_ms, fill.first_id, values))
        holes = {after.first_id - 1: before for before, after in pairwise(batch.ranges)}
        for last_id in holes.keys() - self._holes[batch.symbol]:
            first_id = holes[last_id].last_id + 1
            events.append(LiveEvent("gap", batch.symbol, batch.clock_ms, first_id, (first_id, last_id)))
        self._holes[batch.symbol] = set(holes)
        return _young(events, batch.clock_ms)

    # -- what is made of trades --------------------------------------------------------------------------------------

    def _make(self, batch: Batch, trades: pl.DataFrame) -> list[Closed]:
        """Return the bars that a batch closes."""
        symbol, bars = batch.symbol, self._bars.get(batch.symbol)
        proven = [(r.proven_from_ms, r.proven_until_ms) for r in batch.ranges]
        if bars is None:
            begin_ms = min([batch.clock_ms, *trades["time_ms"].to_list(), *(since_ms for since_ms, _ in proven)])
            since_ms = begin_ms if batch.since_ms is None else batch.since_ms
            stored = _Stored(self._writer, symbol, lambda: self._bars[symbol].start_ms)
            bars = self._bars[symbol] = LiveBars(self._instruments[symbol], since_ms, stored)
        elif batch.since_ms is not None:
            self._awaited.discard(symbol)
            if bars.given_until_ms < batch.since_ms:  # trades of before had not closed their bars
                self._read_again(symbol, bars.given_until_ms)
            bars = self._bars[symbol] = bars.again_since(batch.since_ms)
        elif symbol in self._awaited:
            return []
        elif (needed_ms := bars.needed_since(trades, proven, self._tap.clock_ms - self._reach_ms)) is not None:
            self._awaited.add(symbol)
            self._read_again(symbol, needed_ms)
            return []
        return bars.take(trades, proven, batch.clock_ms)

    def _read_again(self, symbol: str, since_ms: int) -> None:
        """Have the collector's journal read anew, as far as it reaches; what is older is the assets' affair."""
        self.statistics["read_again"] += 1
        since_ms = max(since_ms, self._tap.clock_ms - self._reach_ms)
        self._asked_again += 1

        def read_again() -> None:
            self._tap.read_again(symbol, since_ms)
            self._asked_again -= 1

        self._collector_loop.call_soon_threadsafe(read_again)


class _Stored:
    """The bars of one symbol in the database; while it is away there are none, and those made since a moment are lost."""

    def __init__(self, writer: LiveWriter, symbol: str, since_ms: Callable[[], int]) -> None:
        self._writer, self._symbol, self._since_ms = writer, symbol, since_ms

    def bars(self, timeframe: Timeframe, lo_ms: int, hi_ms: int) -> pl.DataFrame:
        return self._asked(lambda market: market.read(CANDLE, self._symbol, lo_ms, hi_ms, timeframe))

    def with_history(self, timeframe: Timeframe, lo_ms: int, hi_ms: int) -> pl.DataFrame:
        return self._asked(lambda market: bars_with_history(market, self._symbol, timeframe, lo_ms, hi_ms))

    def _asked(self, read: Callable[[MarketStore], pl.DataFrame]) -> pl.DataFrame:
        market = self._writer.market()
        try:
            if market is not None:
                return read(market)
        except AWAY as error:
            _log.warning("%s: no stored bars: %s", self._symbol, error)
        # What is made without them is told, and made anew with them.
        self._writer.lose(self._symbol, self._since_ms())
        return empty_candles()


def _closed_events(symbol: str, closed: Iterable[Closed]) -> list[LiveEvent]:
    events = list[LiveEvent]()
    for rows in closed:
        events += row_events(f"bar:{rows.timeframe}", symbol, rows.bars)
        if rows.indicators is not None:
            events += row_events(f"indicator:{rows.timeframe}", symbol, rows.indicators)
    return events


def _young(events: list[LiveEvent], clock_ms: int) -> list[LiveEvent]:
    """Return the events that a reader of the live stream may still want; older ones are in the database."""
    return [event for event in events if event.time_ms > clock_ms - KEPT_MS]
