"""The cached side of an answer: what the newest in memory says of now, and what it may lack.

The cache lacks a row where nobody said that it has all of them from there on. A bar above one minute that nobody stored is
made of finer ones, which is not for the cache to know; so where one is absent, the history is asked.
"""

import numpy as np
from numpy.typing import NDArray

from trading.market.timeframe import MINUTE_MS, Timeframe
from trading.provider.book_seconds import imbalances_at
from trading.provider.frames import OrderBookDataFrame
from trading.provider.parts import Parts, since, whole
from trading.provider.ports import Cache
from trading.provider.question import Question


class CachedSide:
    """What a cache has of one question that is asked live.

    Args:
        cache: The newest of each symbol.
        question: What is asked.

    Attributes:
        absence: Which bars are nowhere, if that is known as far back as is asked.
    """

    def __init__(self, cache: Cache, question: Question) -> None:
        self._cache, self._question = cache, question
        absence = cache.absence(question.symbol)
        self.absence = absence if absence is not None and question.limit <= absence.bars else None

    def add_bars(self, parts: Parts) -> list[str]:
        """Add the bars that are there, and return the names of the parts of which some may be lacking."""
        question, lacking = self._question, list[str]()
        for timeframe in question.timeframes:
            name = f"ohlcv.{timeframe}"
            bars = self._cache.get_latest_ohlcv(question.symbol, timeframe, question.limit, question.as_of_ms)
            parts.add(name, bars if question.incomplete else whole(bars), "cache")
            opens = parts.frames[name]["open_time"].to_numpy()
            if self._lacks(timeframe, opens, len(bars)):
                lacking.append(name)
        return lacking

    def _lacks(self, timeframe: Timeframe, opens: NDArray[np.int64], held: int) -> bool:
        """Tell whether the history may have a bar that is not among these, which are what is wanted of those held."""
        question = self._question
        if len(opens) == question.limit:
            first_ms = int(opens[0])
        elif self.absence is None or timeframe is Timeframe.S1 or held == question.limit:
            return True
        else:
            first_ms = (timeframe.floor if question.incomplete else timeframe.ceil)(self.absence.first_ms)
        if not self._covers("candle", first_ms, timeframe):
            return True
        return timeframe.ms > MINUTE_MS and self._holed(timeframe, opens, first_ms)

    def _holed(self, timeframe: Timeframe, opens: NDArray[np.int64], first_ms: int) -> bool:
        """Tell whether there may be a bar from a moment on that is not among these: one can be made of finer ones."""
        end_ms = timeframe.floor(self._question.as_of_ms)
        last_ms = int(opens[-1]) + timeframe.ms if len(opens) else 0
        if last_ms < end_ms and self._awaits(end_ms):
            end_ms -= timeframe.ms
        absent = (end_ms - first_ms) // timeframe.ms - len(opens)
        if absent <= 0 or self.absence is None:
            return absent > 0
        empty = np.setdiff1d(self.absence.empty.get(timeframe, ()), opens, assume_unique=True)
        return absent > int(np.count_nonzero((empty >= first_ms) & (empty < end_ms)))

    def add_rest(self, parts: Parts) -> list[str]:
        """Add all but the bars, and return the names of the parts of which some may be lacking."""
        question, lacking = self._question, list[str]()
        symbol, as_of_ms = question.symbol, question.as_of_ms
        for timeframe in question.indicated:
            name = f"indicators.{timeframe}"
            rows = self._cache.get_latest_indicators(symbol, timeframe, question.limit, as_of_ms)
            parts.add(name, rows, "cache")
            first_ms = int(rows["open_time"][0]) if len(rows) == question.limit else 0
            if not self._covers("indicator", first_ms, timeframe):
                lacking.append(name)
        book = self._cache.get_latest_orderbook(symbol, as_of_ms)
        parts.add("book", book, "cache")
        if not self._covers("book_snapshot", 0 if book.is_empty() else int(book["time_ms"][0])):
            lacking.append("book")
        seconds = self._cache.get_book_seconds(symbol, question.seconds_ms, as_of_ms)
        if seconds is not None and self._covers("book_1s", question.seconds_ms):
            parts.add("seconds", seconds, "cache")
        else:
            lacking.append("seconds")
        for timeframe in (Timeframe.S1, Timeframe.M1) if question.context_minutes else ():
            name, lo_ms = f"context.{timeframe}", timeframe.ceil(question.context_ms)
            bars = self._cache.get_latest_ohlcv(symbol, timeframe, (as_of_ms - lo_ms) // timeframe.ms, as_of_ms)
            bars = since(bars, lo_ms)
            parts.add(name, bars if question.incomplete else whole(bars), "cache")
            if not self._covers("candle", lo_ms, timeframe):
                lacking.append(name)
        return lacking

    def book(self) -> OrderBookDataFrame | None:
        """Return the newest book, or None where another one may be stored."""
        question = self._question
        symbol, as_of_ms = question.symbol, question.as_of_ms
        rows = self._cache.get_latest_orderbook(symbol, as_of_ms)
        seconds = self._cache.get_book_seconds(symbol, question.seconds_ms, as_of_ms)
        if rows.is_empty() or seconds is None:
            return None
        newest_ms = int(rows["time_ms"][0])
        if not self._covers("book_snapshot", newest_ms) or not self._covers("book_1s", question.seconds_ms):
            return None
        imbalances = imbalances_at(seconds, as_of_ms)
        return OrderBookDataFrame(symbol, as_of_ms, question.known_by_ms, "raw", rows, imbalances)

    def _awaits(self, end_ms: int) -> bool:
        """Tell whether bars that ended at a moment are still to come, as their last minute is: nobody can make them yet."""
        question = self._question
        if question.incomplete or not self._covers("candle", end_ms - MINUTE_MS, Timeframe.M1):
            return False
        last = self._cache.get_latest_ohlcv(question.symbol, Timeframe.M1, 1, question.as_of_ms)["open_time"]
        return len(last) > 0 and last[0] < end_ms - MINUTE_MS

    def _covers(self, table: str, from_ms: int, timeframe: Timeframe | None = None) -> bool:
        """Tell whether the cache has all rows from a moment on; if not, one that it lacks may be stored."""
        covered_ms = self._cache.covered_from(table, self._question.symbol, timeframe)
        return covered_ms is not None and covered_ms <= from_ms
