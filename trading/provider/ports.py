"""What a provider is built on: the newest of each symbol in memory, and what is stored."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeVar

import polars as pl

from trading.market.instrument import Instrument
from trading.market.timeframe import Timeframe
from trading.provider.frames import Aggregation, Source

T = TypeVar("T")


class Absence(NamedTuple):
    """Which bars of a symbol are nowhere, so that a young or a quiet one's need not be looked for.

    Attributes:
        first_ms: When the first bar of any timeframe opens.
        empty: Open times at which there is no bar, as none can be made of no trade, by timeframe.
        bars: How many intervals of each timeframe, back from now, were looked at for these.
    """

    first_ms: int
    empty: Mapping[Timeframe, Sequence[int]]
    bars: int


class Cache(Protocol):
    """The newest of each symbol, in memory; see `History` for what the frames hold."""

    def absence(self, symbol: str) -> Absence | None:
        """Return which bars of a symbol are nowhere, or None where nobody says so."""
        ...

    def covered_from(self, table: str, symbol: str, timeframe: Timeframe | None = None) -> int | None:
        """Return the moment (ms) from which on the cache has all rows of a table, or None where nobody says so."""
        ...

    def get_latest_ohlcv(
        self, symbol: str, timeframe: Timeframe, limit: int, as_of_ms: int | None = None
    ) -> pl.DataFrame:
        """Return the last bars that close by a moment."""
        ...

    def get_latest_indicators(
        self, symbol: str, timeframe: Timeframe, limit: int, as_of_ms: int | None = None
    ) -> pl.DataFrame:
        """Return the last indicators whose bars close by a moment."""
        ...

    def get_latest_orderbook(self, symbol: str, as_of_ms: int | None = None) -> pl.DataFrame:
        """Return the last book, one row or none."""
        ...

    def get_book_seconds(self, symbol: str, lo_ms: int, as_of_ms: int) -> pl.DataFrame | None:
        """Return the book's seconds from `lo_ms` on that end by a moment; None where the cache reaches back less far."""
        ...


class History(Protocol):
    """What is stored, as it was known; see `resources.timescale.queries.MarketQueries`."""

    async def together(self, ask: "Callable[[History], Awaitable[T]]") -> T:
        """Return what `ask` returns of the same history, all of whose answers are of one moment of the store.

        It may be asked again from the first on.
        """
        ...

    def source_of(self, table: str) -> Source:
        """Return where the rows of a table's last answer came from."""
        ...

    async def instrument(self, symbol: str) -> Instrument:
        """Return an instrument by its exchange name."""
        ...

    async def query_ohlcv_data(
        self,
        symbol: str,
        timeframe: Timeframe,
        lo_ms: int | None = None,
        hi_ms: int | None = None,
        *,
        limit: int | None = None,
        as_of_ms: int | None = None,
        known_by_ms: int | None = None,
        incomplete: bool = False,
    ) -> pl.DataFrame:
        """Return bars of a range."""
        ...

    async def query_multi_timeframe_ohlcv(
        self,
        symbol: str,
        timeframes: Sequence[Timeframe],
        as_of_ms: int,
        limit: int,
        *,
        known_by_ms: int | None = None,
        incomplete: bool = False,
    ) -> dict[Timeframe, pl.DataFrame]:
        """Return the last bars of each timeframe."""
        ...

    async def query_indicators(
        self,
        symbol: str,
        timeframes: Sequence[Timeframe],
        as_of_ms: int,
        limit: int,
        *,
        known_by_ms: int | None = None,
    ) -> dict[Timeframe, pl.DataFrame]:
        """Return the last indicators of each timeframe."""
        ...

    async def query_generated(
        self, symbol: str, bars: Mapping[Timeframe, pl.DataFrame], *, known_by_ms: int | None = None
    ) -> dict[Timeframe, tuple[int, ...]]:
        """Return the open times of those of the bars that no store has, by timeframe where there are any."""
        ...

    async def query_first(self, symbol: str) -> int | None:
        """Return the open time (ms) of the first bar of which there is or was a version, or None."""
        ...

    async def query_empty(
        self, symbol: str, absent: Mapping[Timeframe, Sequence[int]]
    ) -> dict[Timeframe, tuple[int, ...]]:
        """Return which bars, given by the open times at which there is none, are proven to hold no trade, by timeframe."""
        ...

    async def query_orderbook_snapshots(
        self,
        symbol: str,
        lo_ms: int | None = None,
        hi_ms: int | None = None,
        *,
        limit: int | None = None,
        as_of_ms: int | None = None,
        known_by_ms: int | None = None,
    ) -> pl.DataFrame:
        """Return books of a range."""
        ...

    async def query_orderbook_aggregated(
        self,
        symbol: str,
        aggregation: Aggregation,
        lo_ms: int | None = None,
        hi_ms: int | None = None,
        *,
        limit: int | None = None,
        as_of_ms: int | None = None,
        known_by_ms: int | None = None,
    ) -> pl.DataFrame:
        """Return seconds or minutes of the book."""
        ...
