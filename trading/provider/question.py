"""A question to the provider: of what symbol, as of when, with whose knowledge, and how much of it.

It is asked live where neither a moment nor a knowledge was named; only then may a cache answer.
"""

from dataclasses import dataclass
from typing import Final

import polars as pl

from trading.errors import TradingError
from trading.market.timeframe import MINUTE_MS, SECOND_MS, Timeframe
from trading.provider.book_seconds import LONGEST_WINDOW_MS
from trading.provider.parts import whole_since

BARS: Final = 500
MOST_ROWS: Final = 10**6
LONGEST_CONTEXT_MINUTES: Final = 24 * 60
INDICATED: Final = (Timeframe.M3, Timeframe.H4)
"""Timeframes whose indicators are kept."""


class BadQuestion(TradingError):
    """A question asks for what cannot be."""


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        symbol: Exchange name.
        as_of_ms: The moment, epoch ms.
        known_by_ms: Whose knowledge answers; None: today's.
        timeframes: Of which bars are wanted.
        limit: How many of each.
        incomplete: Whether bars that lack something are wanted.
        live: Whether it is asked now and of what is known now.
        context_minutes: How far the context reaches back; 0: no context.
        until_ms: To where the context reaches, at least the moment.

    Raises:
        BadQuestion: The number of rows or minutes cannot be.
    """

    symbol: str
    as_of_ms: int
    known_by_ms: int | None
    timeframes: tuple[Timeframe, ...]
    limit: int
    incomplete: bool
    live: bool
    context_minutes: int
    until_ms: int

    def __post_init__(self) -> None:
        if not 0 < self.limit <= MOST_ROWS:
            raise BadQuestion(f"{self.limit} rows are not possible", f"ask for 1 to {MOST_ROWS:,}")
        if not 0 <= self.context_minutes <= LONGEST_CONTEXT_MINUTES:
            minutes = f"a context of {self.context_minutes} minutes is not possible"
            raise BadQuestion(minutes, f"ask for 0 to {LONGEST_CONTEXT_MINUTES}")

    @property
    def indicated(self) -> list[Timeframe]:
        """Timeframes of which indicators are wanted."""
        return [timeframe for timeframe in self.timeframes if timeframe in INDICATED]

    @property
    def parts(self) -> list[str]:
        """Names of the parts that the answer has, see `Parts`."""
        context = ["context.1s", "context.1m"] if self.context_minutes else []
        bars, indicators = [f"ohlcv.{t}" for t in self.timeframes], [f"indicators.{t}" for t in self.indicated]
        return [*bars, *indicators, "book", "seconds", *context]

    @property
    def context_ms(self) -> int:
        """Where the context begins."""
        return self.as_of_ms - self.context_minutes * MINUTE_MS

    @property
    def seconds_ms(self) -> int:
        """Where the seconds of the book begin that are needed, also for the imbalances."""
        return min(self.context_ms, self.as_of_ms - LONGEST_WINDOW_MS) - SECOND_MS

    def window(self, timeframe: Timeframe, first_ms: int | None = None) -> tuple[int, int]:
        """Return the half-open range in which the bars that were asked for open, if there is one for each interval.

        With `first_ms`, the open time of the first bar of any timeframe, what lies before it is left out.
        """
        end_ms = timeframe.floor(self.as_of_ms)
        start_ms = end_ms - self.limit * timeframe.ms
        return (start_ms if first_ms is None else min(end_ms, max(start_ms, timeframe.ceil(first_ms)))), end_ms

    def holed(self, timeframe: Timeframe, bars: pl.DataFrame, first_ms: int | None = None) -> bool:
        """Tell whether a bar of the window is not there, or not whole."""
        lo_ms, hi_ms = self.window(timeframe, first_ms)
        return len(whole_since(bars, lo_ms)) < (hi_ms - lo_ms) // timeframe.ms

    def age_ms(self, rows: pl.DataFrame, length_ms: int) -> int | None:
        """Return how long before the moment the last row was over, which lasts so long; None without a row."""
        return None if rows.is_empty() else self.as_of_ms - int(rows.to_series(0)[-1]) - length_ms
