"""A floor is the least that an answer must be for its caller; an answer below it is a typed refusal."""

import msgspec

from trading.errors import TradingError
from trading.market.timeframe import Timeframe
from trading.provider.frames import InferenceDataFrame


class StaleData(TradingError):
    """The newest bar or book of an answer is older than its caller allows."""


class IncompleteData(TradingError):
    """An answer lacks more bars of its window than its caller allows."""


class InsufficientHistory(TradingError):
    """There are fewer bars before a moment than its caller needs."""


class Floor(msgspec.Struct, frozen=True):
    """The least that an answer must be.

    Attributes:
        late_ms: How long before the moment's last bar edge the newest bar of a timeframe may close; None: any age.
        book_age_ms: How old the newest book may be, which then must be there; None: any age, or none.
        share: Least share of the bars of each timeframe's window that are there, 0 … 1.
        bars: Least number of bars of each timeframe.
    """

    late_ms: int | None = None
    book_age_ms: int | None = None
    share: float = 0.0
    bars: int = 0

    def check(self, answer: InferenceDataFrame) -> None:
        """Raise `InsufficientHistory`, `StaleData` or `IncompleteData`, whichever is first, of an answer below it."""
        for timeframe in answer.ohlcv:
            self._check_bars(answer, timeframe)
        if self.book_age_ms is not None:
            self._check_book(answer, self.book_age_ms)

    def _check_bars(self, answer: InferenceDataFrame, timeframe: Timeframe) -> None:
        bars, what = answer.ohlcv[timeframe], f"{answer.symbol} {timeframe}"
        if len(bars) < self.bars:
            raise InsufficientHistory(
                f"{what}: {len(bars)} bars closed by then, {self.bars} are needed",
                "backfill, or ask for a later moment",
            )
        age_ms = answer.freshness[f"ohlcv.{timeframe}"]
        if self.late_ms is not None:
            due_ms = answer.as_of_ms % timeframe.ms
            if age_ms is None or age_ms - due_ms > self.late_ms:
                last = "there is no bar" if age_ms is None else f"the newest bar closed {age_ms - due_ms} ms too early"
                raise StaleData(
                    f"{what}: {last}, {self.late_ms} ms are allowed", "see 'trading status' for what collects"
                )
        share = answer.completeness[timeframe].share
        if share is not None and share < self.share:
            found = answer.completeness[timeframe]
            raise IncompleteData(
                f"{what}: {found.present} of {found.expected} bars are there, a share of {self.share} is needed",
                f"see 'trading gaps {answer.symbol}' for what is missing and why",
            )

    def _check_book(self, answer: InferenceDataFrame, book_age_ms: int) -> None:
        age_ms = answer.freshness.get("book")
        if age_ms is None or age_ms > book_age_ms:
            what = "no order book is known" if age_ms is None else f"the order book is {age_ms} ms old"
            raise StaleData(
                f"{answer.symbol}: {what}, {book_age_ms} ms are allowed", "see 'trading status' for what collects"
            )
