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
        beginning: Where the history begins, if that is known as far back as is asked.
    """

    def __init__(self, cache: Cache, question: Question) -> None:
        self._cache, self._question = cache, question
        beginning = cache.beginning(question.symbol)
        self.beginning = beginning if beginning is not None and question.limit <= beginning.bars else None

    def add_bars(self, parts: Parts) -> list[str]:
        """Add the bars that are there, and return the names of the parts of which some may be lacking."""
        question, lacking = self._question, list[str]()
        for timeframe in question.timeframes:
            name = f"ohlcv.{timeframe}"
            bars = self._cache.get_latest_ohlcv(question.symbol, timeframe, question.limit, question.as_of_ms)
            parts.add(name, bars if question.incomplete else whole(bars), "cache")
            opens = parts.frames[name]["open_time"].to_numpy()
            lacks = self._lacks if timeframe.ms > MINUTE_MS else self._lacks_minutes
            if lacks(timeframe, opens, len(bars)):
                lacking.append(name)
        return lacking

    def _lacks_minutes(self, timeframe: Timeframe, opens: NDArray[np.int64], held: int) -> bool:
        """Tell whether the history may have a bar that is not among these, which nobody makes of finer ones."""
        if len(opens) == self._question.limit:
            return not self._covers("candle", int(opens[0]), timeframe)
        first_ms = 0 if self.beginning is None or timeframe is Timeframe.S1 else self.beginning.first_ms
        return held == self._question.limit or not self._covers("candle", first_ms, timeframe)

    def _lacks(self, timeframe: Timeframe, opens: NDArray[np.int64], _held: int) -> bool:
        """Tell whether the history may have one that is not among these, or make one."""
        start_ms, end_ms = self._window(timeframe, timeframe.floor(self._question.as_of_ms))
        last_ms = int(opens[-1]) + timeframe.ms if len(opens) else 0
        if last_ms < end_ms and self._awaits(end_ms):
            start_ms, end_ms = self._window(timeframe, end_ms - timeframe.ms)
        there = len(opens) - int(np.searchsorted(opens, start_ms))
        return there < (end_ms - start_ms) // timeframe.ms or not self._covers("candle", start_ms, timeframe)

    def _window(self, timeframe: Timeframe, end_ms: int) -> tuple[int, int]:
        """Return the range in which bars open that were asked for and end by a moment; before the first of all is none."""
        start_ms = end_ms - self._question.limit * timeframe.ms
        if self.beginning is not None:
            of_first = timeframe.floor if self._question.incomplete else timeframe.ceil
            start_ms = max(start_ms, min(end_ms, of_first(self.beginning.first_ms)))
        return start_ms, end_ms

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
