"""What happens to some symbols from a moment on: history from the database, then the live stream, in one order.

A reader takes events when it is ready for them and holds nothing back from others. One that falls too far behind the live
stream is told so, with the position from which another stream goes on; history fills what it missed.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any, Final

import polars as pl

from resources.live import LiveStreams
from resources.timescale.store import MarketStore
from resources.timescale.tables import BOOK_1S, BOOK_SNAPSHOT, CANDLE, CANDLE_1S, INDICATOR, TRADE, Table
from trading.errors import TradingError
from trading.market.timeframe import DAY_MS, MINUTE_MS, SECOND_MS, Timeframe
from trading.provider.events import LiveEvent, require_kinds, row_events
from trading.provider.seam import PATIENCE_S, Seam, position_text, positions_of

MOST_LAG_S: Final = 60.0
OVERLAP_MS: Final = 5 * SECOND_MS
"""The database and the streams are written a moment apart: so much is read from both."""

WAIT_MS: Final = 500
LOOK_S: Final = 1.0
"""How often a hole is looked for in the database, where what Redis no longer has may be."""

CALM_S: Final = 60.0
"""What was missed is taken to be in the database by then, where nothing happened since that would show it."""

MANY: Final = 20_000
FEW: Final = 2_000


class SlowReader(TradingError):
    """A reader is too far behind the live stream.

    Attributes:
        resume: Where another stream goes on.
    """

    def __init__(self, message: str, resume: str) -> None:
        super().__init__(message, f"go on with resume={resume!r}")
        self.resume = resume


class Subscription:
    """One reader's events.

    Args:
        market: History.
        streams: The live streams.
        symbols: Exchange names.
        kinds: What of them; see `trading.provider.events.KINDS`.
        since_ms: Exchange time from which events are wanted.
        resume: The position of a former subscription, which says the same better.
        patience_s: How long a hole in the ids is waited for.
        most_lag_s: How far a reader may fall behind.

    Raises:
        UnknownKind: There is no such kind of event.
        BadPosition: `resume` is none.
    """

    def __init__(
        self,
        market: MarketStore,
        streams: LiveStreams,
        symbols: Sequence[str],
        kinds: Iterable[str],
        since_ms: int,
        resume: str = "",
        patience_s: float = PATIENCE_S,
        most_lag_s: float = MOST_LAG_S,
    ) -> None:
        self._market, self._streams, self._symbols = market, streams, tuple(symbols)
        self._kinds, self._since_ms, self._most_lag_s = require_kinds(kinds), since_ms, most_lag_s
        self._seam = Seam(self._kinds, positions_of(resume), patience_s)
        self._looked_s, self._reached_ms, self._heard_ms = 0.0, since_ms, 0
        self._missed: dict[str, int] = {}
        """Up to when something of a symbol was missed, for which history was turned to."""
        self._delivered = dict(self._seam.positions)

    @property
    def position(self) -> str:
        """Where another subscription goes on after the last event that was delivered."""
        return position_text(self._delivered)

    def _deliver(self, event: LiveEvent) -> LiveEvent:
        kind, last = ("trade", event.payload[1]) if event.kind == "gap" else (event.kind, event.id)
        if kind in self._kinds and kind != "repair":
            self._delivered[event.symbol, kind] = last
        return event

    async def events(self) -> AsyncIterator[LiveEvent]:
        """Yield events, each trade id and each bar once and in order, without end.

        Raises:
            SlowReader: The reader is too far behind.
            CacheUnavailable: Redis does not answer.
            UnknownInstrument: A symbol is not in the database.
        """
        while True:
            async for page in self._history():
                for event in self._seam.take(page, time.monotonic()):
                    yield self._deliver(event)
            async for event in self._live():
                yield self._deliver(event)
            until_s = time.monotonic() + CALM_S
            while not await asyncio.to_thread(self._has_missed) and time.monotonic() < until_s:
                await asyncio.sleep(LOOK_S)

    async def _live(self) -> AsyncIterator[LiveEvent]:
        """Yield what is told from where history ends on, until something was missed, which is history."""
        after = {symbol: await self._streams.before(symbol, self._reached_ms - OVERLAP_MS) for symbol in self._symbols}
        while True:
            arrived = await self._streams.read(after, WAIT_MS)
            events = [event for _, _, told in arrived for event in told if event.time_ms >= self._since_ms]
            missed = [
                event
                for event in events
                if event.kind == "missed" and event.time_ms > self._missed.get(event.symbol, 0)
            ]
            if missed:
                self._missed |= {
                    event.symbol: event.time_ms for event in sorted(missed, key=lambda event: event.time_ms)
                }
                return
            self._heard_ms = max([self._heard_ms, *(event.time_ms for event in events)])
            for event in self._seam.take(events, time.monotonic()):
                yield event
            for event in await self._looked_for():
                yield event
            for symbol, entry, _ in arrived:
                after[symbol] = entry
            await self._keep_up({symbol: entry for symbol, entry, _ in arrived})

    async def _keep_up(self, last: dict[str, str]) -> None:
        for symbol, entry in last.items():
            lag_s = await self._streams.lag_ms(symbol, entry) / 1000
            if lag_s > self._most_lag_s:
                raise SlowReader(f"the reader is {lag_s:.0f} s behind the live stream of {symbol}", self.position)

    async def _looked_for(self) -> list[LiveEvent]:
        """Return what the database has of the trades that are waited for."""
        now_s, found = time.monotonic(), list[LiveEvent]()
        if now_s - self._looked_s < LOOK_S:
            return found
        self._looked_s = now_s
        for hole in self._seam.holes():
            if now_s - hole.since_s >= LOOK_S:
                where = f"agg_trade_id BETWEEN {hole.first_id} AND {hole.last_id}"
                frame = await asyncio.to_thread(self._market.read, TRADE, hole.symbol, 0, 2**42, where=where)
                found += row_events("trade", hole.symbol, frame)
        return self._seam.take(found, now_s)

    def _has_missed(self) -> bool:
        """Return whether the database has come to where something was missed."""
        books = [kind for kind in self._kinds if kind.startswith("book")]
        for symbol, missed_ms in self._missed.items():
            reached = list[int]()
            if books:
                span = self._market.span(BOOK_1S, symbol)
                reached.append(0 if span is None else span[1] + SECOND_MS)
            if len(books) < len(self._kinds):
                # What is proven is written behind the trades and bars that prove it.
                reached.append(max((until_ms for _, until_ms in self._market.proven(symbol)), default=0))
            if min(reached) < missed_ms:
                return False
        return True

    # -- history -----------------------------------------------------------------------------------------------------

    async def _history(self) -> AsyncIterator[list[LiveEvent]]:
        """Yield what the database holds, a stretch of time at once."""
        start_ms, length_ms = await asyncio.to_thread(self._start_ms), MINUTE_MS
        while start_ms < (end_ms := await asyncio.to_thread(self._newest_ms)):
            until_ms = min(start_ms + length_ms, end_ms)
            page = await asyncio.to_thread(self._page, start_ms, until_ms)
            yield page
            start_ms = self._reached_ms = until_ms
            if len(page) > MANY:
                length_ms = max(SECOND_MS, length_ms // 2)
            elif len(page) < FEW:
                length_ms = min(DAY_MS, 2 * length_ms)

    def _start_ms(self) -> int:
        """Return from when history is wanted: with positions, from the earliest of them on."""
        starts = [self._since_ms]
        for (symbol, kind), last in self._seam.positions.items():
            if kind == "trade":
                found = self._market.fetch(
                    "SELECT (extract(epoch FROM max(time)) * 1000)::bigint AS at FROM md.trade JOIN md.symbol "
                    "USING (symbol_id) WHERE venue = $1 AND name = $2 AND agg_trade_id BETWEEN $3 - 1000 AND $3",
                    self._market.venue,
                    symbol,
                    last,
                )
                starts.append(found[0]["at"] or self._since_ms)
            else:
                starts.append(last)
        # What was told live before something was missed need not be read, but for what comes a little late.
        return max(min(starts[1:], default=self._since_ms), self._heard_ms - MINUTE_MS)

    def _newest_ms(self) -> int:
        """Return the end of what the database holds of what is wanted."""
        ends = [0]
        for symbol in self._symbols:
            for kind, table, timeframe in self._sources():
                span = self._market.span(table, symbol, timeframe)
                ends.append(0 if span is None else span[1] + _length_ms(kind) + 1)
        return max(ends)

    def _page(self, lo_ms: int, hi_ms: int) -> list[LiveEvent]:
        """Return the events of `[lo_ms, hi_ms)` in order of time."""
        events = list[LiveEvent]()
        for symbol in self._symbols:
            for kind, table, timeframe in self._sources():
                length_ms = _length_ms(kind)
                frame: pl.DataFrame = self._market.read(table, symbol, lo_ms - length_ms, hi_ms - length_ms, timeframe)
                events += row_events(kind, symbol, frame)
        events.sort(key=lambda event: event.time_ms)
        return events

    def _sources(self) -> list[tuple[str, Table, Timeframe | None]]:
        found = list[tuple[str, Table, Timeframe | None]]()
        for kind in self._kinds:
            name, _, timeframe = kind.partition(":")
            if name in ("bar", "indicator") and kind != "bar:1s":
                found.append((kind, CANDLE if name == "bar" else INDICATOR, Timeframe(timeframe)))
            elif kind in _TABLES:
                found.append((kind, _TABLES[kind], None))
        return found


_TABLES: Final[dict[str, Any]] = {"trade": TRADE, "bar:1s": CANDLE_1S, "book": BOOK_SNAPSHOT, "book:1s": BOOK_1S}


def _length_ms(kind: str) -> int:
    name, _, timeframe = kind.partition(":")
    return 0 if name in ("trade", "gap", "repair") or not timeframe else Timeframe(timeframe).ms
