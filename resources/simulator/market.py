"""What the simulated exchange trades: one market of one kind, synthetic or recorded."""

from typing import NamedTuple, Protocol

import numpy as np
import polars as pl
from numpy.typing import NDArray

from trading.market.instrument import Instrument
from trading.market.timeframe import Timeframe

Levels = list[tuple[int, int]]
"""Ticks and lots, the best price first."""


class NotRecorded(Exception):
    """The market has nothing of what is asked for, at least not at this moment.

    Args:
        message: What is absent.
        later: Whether it may be there at a later moment.
    """

    def __init__(self, message: str, later: bool = False) -> None:
        super().__init__(message)
        self.later = later


class Depth(NamedTuple):
    """The best levels of a book, and the number and time of the last change in it."""

    update_id: int
    time_ms: int
    bids: Levels
    asks: Levels


class DepthChange(NamedTuple):
    """The levels that changed up to a moment; a quantity of 0 removes one."""

    time_ms: int
    first_id: int
    last_id: int
    bids: Levels
    asks: Levels


class Event(NamedTuple):
    """One event of one stream; `order` is its place within its millisecond, `text` its JSON."""

    time_ms: int
    order: int
    stream: str
    text: str


class Book(Protocol):
    """One order book over time.

    Attributes:
        instrument: Says how its levels are written.
    """

    instrument: Instrument

    def depth(self, now_ms: int, limit: int) -> Depth: ...  # noqa: D102
    def depths(self, lo_ms: int, hi_ms: int, period_ms: int, limit: int) -> list[Depth]: ...  # noqa: D102
    def changes(self, lo_ms: int, hi_ms: int, period_ms: int) -> list[DepthChange]: ...  # noqa: D102
    def quotes(self, lo_ms: int, hi_ms: int) -> pl.DataFrame: ...  # noqa: D102


class Derivatives(Protocol):
    """What a perpetual contract has beside trades; all by moment. Prices and rates are in units of 1e-8."""

    def mark_prices(self, times_ms: NDArray[np.int64]) -> NDArray[np.int64]: ...  # noqa: D102
    def index_prices(self, times_ms: NDArray[np.int64]) -> NDArray[np.int64]: ...  # noqa: D102
    def funding_rates(self, times_ms: NDArray[np.int64]) -> NDArray[np.int64]: ...  # noqa: D102
    def fundings(self, lo_ms: int, hi_ms: int) -> pl.DataFrame: ...  # noqa: D102
    def open_interest(self, times_ms: NDArray[np.int64]) -> NDArray[np.int64]: ...  # noqa: D102


class Market(Protocol):
    """All symbols of one kind."""

    symbols: tuple[str, ...]
    kind: str

    def instrument(self, symbol: str) -> Instrument: ...  # noqa: D102
    def intervals(self, symbol: str) -> tuple[Timeframe, ...]: ...  # noqa: D102
    def trades(self, symbol: str, lo_ms: int, hi_ms: int) -> pl.DataFrame: ...  # noqa: D102
    def trades_by_id(self, symbol: str, from_id: int, limit: int) -> pl.DataFrame: ...  # noqa: D102
    def klines(self, symbol: str, timeframe: Timeframe, lo_ms: int, hi_ms: int) -> pl.DataFrame: ...  # noqa: D102
    def fills(self, symbol: str, lo_ms: int, hi_ms: int) -> pl.DataFrame: ...  # noqa: D102
    def frames(self, stream: str, lo_ms: int, hi_ms: int) -> list[Event] | None: ...  # noqa: D102
    def book(self, symbol: str) -> Book: ...  # noqa: D102
    def derivatives(self, symbol: str) -> Derivatives: ...  # noqa: D102
