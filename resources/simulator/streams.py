"""The streams of one market: what happened in a stretch of time, as events of the streams that somebody wants.

Only wanted streams are computed. Events come in the order of their times; within a millisecond, best prices move
before the trade that they move for and hold less after it, and what sums a period comes before what follows it.
"""

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Final

import numpy as np
import polars as pl

from resources.simulator.market import Event, Market, NotRecorded
from resources.simulator.wire import kline_event, stream_fills, stream_trades
from resources.simulator.wire_book import stream_change, stream_depth, stream_quotes
from resources.simulator.wire_futures import stream_mark_prices
from trading.market.timeframe import Timeframe

PERIODS: Final = {"spot": (1000, 100), "usdm": (250, 500, 100)}
"""How often depth may be sent, in milliseconds; the first is what a stream without a speed means."""

DEPTH: Final = re.compile(r"depth(5|10|20)?(?:@(\d+)ms)?")
AHEAD_MS: Final = 1000
"""What is computed at once of a stretch that is shorter: twenty stretches cost twenty times what this one does."""

MOMENTS: Final = ("aggTrade", "trade", "bookTicker")
"""Kinds of streams whose events happen at a moment; those of all others sum a period."""

MARK_PRICE_MS: Final = {"markPrice": 3000, "markPrice@1s": 1000}


class Streams:
    """The streams of one market."""

    def __init__(self, market: Market) -> None:
        self._market = market
        self._symbols = {symbol.lower(): symbol for symbol in market.symbols}
        self._ahead: dict[str, dict[int, list[Event]]] = {}

    def events(self, wanted: Iterable[str], lo_ms: int, hi_ms: int) -> list[Event]:
        """Return the events of wanted streams in their order.

        What happens at a moment is in it when the moment is in `[lo_ms, hi_ms)`; what sums a period, when it ends in
        `(lo_ms, hi_ms]`.
        """
        events: list[Event] = []
        for stream in sorted(wanted):
            name, _, kind = stream.partition("@")
            if name in self._symbols:
                recorded = self._market.frames(stream, lo_ms, hi_ms)
                if recorded is not None:
                    events += recorded
                    continue
                try:
                    events += self._between(stream, self._symbols[name], kind, lo_ms, hi_ms)
                except NotRecorded:
                    continue  # the real exchange is silent on a stream that it does not have
        return sorted(events, key=lambda event: event[:2])

    def prepare(self, wanted: Iterable[str], now_ms: int) -> None:
        """Compute the next second of one stream that is not ready for it, so that what happens then need not wait."""
        following = now_ms // AHEAD_MS + 1
        for stream in sorted(wanted):
            name, _, kind = stream.partition("@")
            # What was recorded is at hand, and of a stream that was not yet asked for nobody knows whether it is.
            if name in self._symbols and following not in self._ahead.get(stream, {following: []}):
                self._second(stream, self._symbols[name], kind, following)
                return

    def _between(self, stream: str, symbol: str, kind: str, lo_ms: int, hi_ms: int) -> list[Event]:
        """Return the events of a stretch, of a short one out of those computed ahead."""
        first, last = lo_ms // AHEAD_MS, (hi_ms - 1) // AHEAD_MS
        if last > first:
            middle_ms = (first + 1) * AHEAD_MS
            if last > first + 1:
                return self._events(stream, symbol, kind, lo_ms, hi_ms)
            parts = ((lo_ms, middle_ms), (middle_ms, hi_ms))
            return [event for part in parts for event in self._between(stream, symbol, kind, *part)]
        moved, events = 0 if kind in MOMENTS else 1, self._second(stream, symbol, kind, first)
        return [event for event in events if lo_ms + moved <= event.time_ms < hi_ms + moved]

    def _second(self, stream: str, symbol: str, kind: str, second: int) -> list[Event]:
        ahead = self._ahead.get(stream, {})
        if second not in ahead:
            events = self._events(stream, symbol, kind, second * AHEAD_MS, (second + 1) * AHEAD_MS)
            ahead = {before: of_before for before, of_before in ahead.items() if before == second - 1}
            ahead[second] = events
            self._ahead[stream] = ahead
        return ahead[second]

    def _events(self, stream: str, symbol: str, kind: str, lo_ms: int, hi_ms: int) -> list[Event]:
        market, instrument = self._market, self._market.instrument(symbol)
        depth = DEPTH.fullmatch(kind)
        if kind == "aggTrade":
            trades = market.trades(symbol, lo_ms, hi_ms)
            return _placed(stream, trades["time_ms"], 3 * trades["agg_trade_id"] + 1, stream_trades(trades, instrument))
        if kind == "trade":
            fills = market.fills(symbol, lo_ms, hi_ms)
            return _placed(stream, fills["time_ms"], 3 * fills["agg_trade_id"] + 1, stream_fills(fills, instrument))
        if kind == "bookTicker":
            quotes = market.book(symbol).quotes(lo_ms, hi_ms)
            return _placed(stream, quotes["time_ms"], quotes["order"], stream_quotes(quotes, instrument))
        if kind.startswith("kline_") and kind[6:] in market.intervals(symbol):
            return self._closed_bars(stream, symbol, Timeframe(kind[6:]), lo_ms, hi_ms)
        if kind in MARK_PRICE_MS and market.kind == "usdm":
            period = MARK_PRICE_MS[kind]
            times = np.arange(lo_ms // period + 1, hi_ms // period + 1, dtype=np.int64) * period
            texts = stream_mark_prices(times, market.derivatives(symbol), instrument)
            return [Event(at, 0, stream, text) for at, text in zip(times.tolist(), texts, strict=True)]
        if depth:
            periods = PERIODS[market.kind]
            period = int(depth[2]) if depth[2] else periods[0]
            return self._depths(stream, symbol, depth[1], period, lo_ms, hi_ms) if period in periods else []
        return []

    def _depths(
        self, stream: str, symbol: str, levels: str | None, period_ms: int, lo_ms: int, hi_ms: int
    ) -> list[Event]:
        book, instrument = self._market.book(symbol), self._market.instrument(symbol)
        if levels is None:
            changes = book.changes(lo_ms, hi_ms, period_ms)
            return [Event(change.time_ms, 0, stream, stream_change(change, instrument)) for change in changes]
        depths = book.depths(lo_ms - period_ms, hi_ms, period_ms, int(levels))
        return [
            Event(at := depth.time_ms + 1, 0, stream, stream_depth(depth, before, at, instrument))
            for before, depth in pairwise(depths)
        ]

    def _closed_bars(self, stream: str, symbol: str, timeframe: Timeframe, lo_ms: int, hi_ms: int) -> list[Event]:
        bars = self._market.klines(symbol, timeframe, timeframe.floor(lo_ms) - timeframe.ms, timeframe.floor(hi_ms))
        instrument = self._market.instrument(symbol)
        closing = [(bar["open_time"] + timeframe.ms, bar) for bar in bars.iter_rows(named=True)]
        return [
            Event(at, 0, stream, kline_event(bar, instrument, timeframe, True, at))
            for at, bar in closing
            if lo_ms < at <= hi_ms
        ]


def _placed(stream: str, times: pl.Series, orders: pl.Series, texts: list[str]) -> list[Event]:
    return [
        Event(at, order, stream, text) for at, order, text in zip(times.to_list(), orders.to_list(), texts, strict=True)
    ]
