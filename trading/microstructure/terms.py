"""Words that several measures share."""

from enum import StrEnum
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from trading.errors import TradingError
from trading.market.book import BookSnapshot

BookSide = Literal["bid", "ask"]
SIDES: Final[tuple[BookSide, BookSide]] = ("bid", "ask")

TOP_LEVELS: Final = 20
"""Levels a side that book measures look at."""


class Severity(StrEnum):
    """How grave a finding is."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    CRITICAL = "critical"


class EmptyWindow(TradingError):
    """A window of time ends where or before it begins."""


def check_window(lo_ms: int, hi_ms: int) -> None:
    """Refuse a half-open window that holds no moment; raises `EmptyWindow`."""
    if hi_ms <= lo_ms:
        raise EmptyWindow(f"the window [{lo_ms}, {hi_ms}) holds no moment")


def top(book: BookSnapshot, side: BookSide) -> NDArray[np.int64]:
    """Return the best `TOP_LEVELS` levels of one side, shape (n, 2): ticks and lots."""
    return (book.bids if side == "bid" else book.asks)[:TOP_LEVELS]
