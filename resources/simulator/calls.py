"""The REST calls that spot and futures share: what one market answers, never beyond the exchange's now."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

import polars as pl

from resources.simulator.clock import Clock
from resources.simulator.market import Market
from resources.simulator.wire import rest_fills, rest_klines, rest_trades
from resources.simulator.wire_book import rest_depth
from trading.market.instrument import Instrument
from trading.market.timeframe import MINUTE_MS, Timeframe

MAX_ROWS: Final = 1000
DEFAULT_ROWS: Final = 500
Query = Mapping[str, str]


class Refused(Exception):
    """A call that the exchange answers with an error code."""

    def __init__(self, code: int, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code, self.status = code, status


class Call(NamedTuple):
    """One REST call: what of the request weight it takes, by its query, and its JSON answer."""

    weight: Callable[[Query], int]
    answer: Callable[[Query], str]


def always(weight: int) -> Callable[[Query], int]:
    """Return a weight that no parameter changes."""
    return lambda query: weight


def stepped(steps: Mapping[int, int], default: int) -> Callable[[Query], int]:
    """Return a weight that grows with `limit`: the one of the first step that holds it."""
    last = max(steps.values())
    return lambda query: next((w for step, w in steps.items() if _limit(query, default) <= step), last)


class MarketCalls:
    """What one market answers.

    Args:
        market: What is traded.
        clock: The exchange's clock.
        most_klines: Rows of one answer of klines.
    """

    def __init__(self, market: Market, clock: Clock, most_klines: int = MAX_ROWS) -> None:
        self.market, self.clock, self._most_klines = market, clock, most_klines

    def ping(self, query: Query) -> str:
        """Answer `ping`."""
        return "{}"

    def time(self, query: Query) -> str:
        """Answer `time`."""
        return json.dumps({"serverTime": self.clock.now_ms()})

    def klines(self, query: Query) -> str:
        """Answer `klines`, closed ones only: an open one would show trades that have not happened yet."""
        symbol = self.symbol(query)
        if "interval" not in query:
            raise Refused(-1102, "Mandatory parameter 'interval' was not sent, was empty/null, or malformed.")
        if query["interval"] not in self.market.intervals(symbol):
            raise Refused(-1120, "Invalid interval.")
        timeframe, limit = Timeframe(query["interval"]), number(query, "limit", DEFAULT_ROWS, 1, self._most_klines)
        lo, hi = self.span(query)
        if lo is None:
            lo = timeframe.floor(hi - 1) - (limit - 1) * timeframe.ms
            bars = self._closed(symbol, timeframe, lo, hi)
        else:
            # Bars may be missing, so a page is found by widening, never by counting on one bar a step.
            reach, bars = limit * timeframe.ms, pl.DataFrame()
            end = timeframe.ceil(lo)
            while len(bars) < limit and end < hi:
                end = min(hi, end + reach)
                bars, reach = self._closed(symbol, timeframe, lo, end), reach * 4
        bars = bars.head(limit)
        return rest_klines(bars, self.market.instrument(symbol), timeframe) if len(bars) else "[]"

    def _closed(self, symbol: str, timeframe: Timeframe, lo_ms: int, hi_ms: int) -> pl.DataFrame:
        now = self.clock.now_ms()
        bars = self.market.klines(symbol, timeframe, max(0, lo_ms), min(hi_ms, now + 1))
        bars = bars.filter((pl.col("open_time") >= lo_ms) & (pl.col("open_time") < hi_ms))
        return bars[:-1] if len(bars) and int(bars["open_time"][-1]) + timeframe.ms > now else bars

    def agg_trades(self, query: Query) -> str:
        """Answer `aggTrades`, by id or by time."""
        symbol, limit = self.symbol(query), number(query, "limit", DEFAULT_ROWS, 1, MAX_ROWS)
        from_id = number(query, "fromId", None)
        lo, hi = self.span(query)
        if from_id is not None:
            if lo is not None or "endTime" in query:
                raise Refused(-1128, "Combination of optional parameters invalid.")
            trades = self.market.trades_by_id(symbol, from_id, limit)
        elif lo is not None:
            reach, trades, end = 60 * MINUTE_MS, pl.DataFrame(), lo
            while len(trades) < limit and end < hi:
                end = min(hi, end + reach)
                trades, reach = self.market.trades(symbol, lo, end), reach * 4
            trades = trades.head(limit)
        else:
            trades = _newest(lambda before: self.market.trades(symbol, hi - before, hi), limit)
        if trades.is_empty():
            return "[]"
        trades = trades.filter(pl.col("time_ms") <= self.clock.now_ms())
        return "[" + ",".join(rest_trades(trades, self.market.instrument(symbol))) + "]"

    def trades(self, query: Query) -> str:
        """Answer `trades`: the newest fills."""
        symbol, limit = self.symbol(query), number(query, "limit", DEFAULT_ROWS, 1, MAX_ROWS)
        hi = self.clock.now_ms() + 1
        fills = _newest(lambda before: self.market.fills(symbol, hi - before, hi), limit)
        return "[" + ",".join(rest_fills(fills, self.market.instrument(symbol))) + "]"

    def depth(self, query: Query, default: int, most: int) -> str:
        """Answer `depth`: the best levels now."""
        symbol, limit = self.symbol(query), number(query, "limit", default, 1, most)
        book = self.market.book(symbol)
        return rest_depth(book.depth(self.clock.now_ms(), limit), book.instrument)

    def span(self, query: Query) -> tuple[int | None, int]:
        """Return `startTime`, and what comes after `endTime` or after now."""
        now = self.clock.now_ms()
        return number(query, "startTime", None), min(number(query, "endTime", now), now) + 1

    def symbol(self, query: Query) -> str:
        """Return the symbol asked for."""
        if not query.get("symbol"):
            raise Refused(-1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")
        return self.known(query["symbol"])

    def known(self, name: str) -> str:
        """Return a name if it is traded."""
        if name not in self.market.symbols:
            raise Refused(-1121, "Invalid symbol.")
        return name


def weight_limit(weight_a_minute: int) -> dict[str, Any]:
    """Return the limit that `exchangeInfo` states."""
    return {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "limit": weight_a_minute}


def filters(instrument: Instrument) -> list[dict[str, str]]:
    """Return the filters that `exchangeInfo` states for a market."""
    price, lot = instrument.price_text(1), instrument.quantity_text(1)
    return [
        {"filterType": "PRICE_FILTER", "minPrice": price, "maxPrice": "1000000.00", "tickSize": price},
        {"filterType": "LOT_SIZE", "minQty": lot, "maxQty": "9000.00", "stepSize": lot},
    ]


def number(query: Query, name: str, default: int | None, low: int = 0, high: int = 2**62) -> Any:
    """Return a parameter as a whole number, at most `high`."""
    if name not in query:
        return default
    try:
        value = int(query[name])
    except ValueError:
        raise Refused(-1100, f"Illegal characters found in parameter '{name}'.") from None
    if value < low:
        raise Refused(-1130, f"Data sent for parameter '{name}' is not valid.")
    return min(value, high)


def _newest(rows: Callable[[int], pl.DataFrame], limit: int) -> pl.DataFrame:
    """Return the newest rows, found by looking ever further back."""
    reach, found = 60 * MINUTE_MS, pl.DataFrame()
    while len(found) < limit and reach < 2**42:
        found, reach = rows(reach), reach * 4
    return found.tail(limit)


def _limit(query: Query, default: int) -> int:
    text = query.get("limit", "")
    return int(text) if text.isdecimal() else default
