"""The stored side of an answer: what the history says of a moment, and which bars it had to make."""

from collections.abc import Collection, Sequence

import numpy as np
import polars as pl

from trading.market.timeframe import Timeframe
from trading.provider.generation import generated_bars
from trading.provider.parts import Parts, whole_since
from trading.provider.ports import Absence, History
from trading.provider.question import Question


class StoredSide:
    """What a history says to one question.

    Args:
        history: What is stored.
        question: What is asked.
    """

    def __init__(self, history: History, question: Question) -> None:
        self._history, self._question = history, question

    async def parts(self, names: Collection[str]) -> Parts:
        """Return the parts of these names."""
        history, question, parts = self._history, self._question, Parts()
        symbol, known_by_ms = question.symbol, question.known_by_ms
        at, around = (
            {"as_of_ms": moment, "known_by_ms": known_by_ms} for moment in (question.as_of_ms, question.until_ms)
        )
        barred, indicated = ([t for t in Timeframe if f"{group}.{t}" in names] for group in ("ohlcv", "indicators"))
        if barred:
            for timeframe, rows in (await self.bars(barred)).items():
                parts.add(f"ohlcv.{timeframe}", rows, "database")
        if indicated:
            found = await history.query_indicators(
                symbol, indicated, question.as_of_ms, question.limit, known_by_ms=known_by_ms
            )
            for timeframe, rows in found.items():
                parts.add(f"indicators.{timeframe}", rows, "database")
        if "book" in names:
            rows = await history.query_orderbook_snapshots(symbol, limit=1, **at)
            parts.add("book", rows, history.source_of("book_snapshot"))
        if "seconds" in names:
            rows = await history.query_orderbook_aggregated(symbol, "1s", question.seconds_ms, **around)
            parts.add("seconds", rows, history.source_of("book_1s"))
        for timeframe in (Timeframe.S1, Timeframe.M1):
            if f"context.{timeframe}" in names:
                lo_ms, incomplete = timeframe.ceil(question.context_ms), question.incomplete
                rows = await history.query_ohlcv_data(symbol, timeframe, lo_ms, incomplete=incomplete, **around)
                source = history.source_of("candle_1s") if timeframe is Timeframe.S1 else "database"
                parts.add(f"context.{timeframe}", rows, source)
        return parts

    async def bars(self, timeframes: Sequence[Timeframe]) -> dict[Timeframe, pl.DataFrame]:
        """Return the bars of each timeframe, with those that have to be made."""
        history, question = self._history, self._question
        symbol, known_by_ms = question.symbol, question.known_by_ms
        found = await history.query_multi_timeframe_ohlcv(
            symbol,
            timeframes,
            question.as_of_ms,
            question.limit,
            known_by_ms=known_by_ms,
            incomplete=question.incomplete,
        )
        holed = [timeframe for timeframe, rows in found.items() if question.holed(timeframe, rows)]
        first_ms = await history.query_first(symbol) if holed else None
        for timeframe in holed if first_ms is not None else ():
            if question.holed(timeframe, found[timeframe], first_ms):
                lo_ms, hi_ms = question.window(timeframe, first_ms)
                made = await generated_bars(history, symbol, timeframe, lo_ms, hi_ms, known_by_ms)
                both = pl.concat([made, found[timeframe]]).unique("open_time", keep="first", maintain_order=True)
                found[timeframe] = both.sort("open_time").tail(question.limit)
        return found

    async def generated(self, parts: Parts) -> dict[Timeframe, tuple[int, ...]]:
        """Return the open times of the bars that were made for this answer."""
        made: dict[Timeframe, pl.DataFrame] = {}
        for timeframe in self._question.timeframes:
            bars = parts.bars(timeframe)
            if parts.sources[f"ohlcv.{timeframe}"] != "cache" and (rolled_up := bars["source"] == "rollup").any():
                made[timeframe] = bars if rolled_up.all() else bars.filter(rolled_up)
        if not made:
            return {}
        return await self._history.query_generated(self._question.symbol, made, known_by_ms=self._question.known_by_ms)

    async def empty(self, parts: Parts, absence: Absence | None) -> dict[Timeframe, tuple[int, ...]]:
        """Return the open times at which a bar of the window is absent because it is proven to hold no trade.

        Of those that are known to be nowhere nobody is asked.
        """
        question = self._question
        known, absent = dict[Timeframe, list[int]](), dict[Timeframe, list[int]]()
        # What is proven today is not what was proven then.
        short = any(len(parts.bars(timeframe)) < question.limit for timeframe in question.timeframes)
        if not short or question.known_by_ms is not None:
            return {}
        for timeframe in question.timeframes:
            (lo_ms, hi_ms), bars = question.window(timeframe), parts.bars(timeframe)
            opens = np.setdiff1d(np.arange(lo_ms, hi_ms, timeframe.ms), whole_since(bars, lo_ms), assume_unique=True)
            if absence is not None and len(opens):
                proven = np.isin(opens, absence.empty.get(timeframe, ()))
                known[timeframe], opens = opens[proven].tolist(), opens[~proven & (opens >= absence.first_ms)]
            absent[timeframe] = opens.tolist()
        found = await self._history.query_empty(question.symbol, absent)
        return {t: tuple(sorted((*known.get(t, ()), *found.get(t, ())))) for t in absent}
