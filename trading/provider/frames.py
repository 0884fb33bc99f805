"""An answer of the provider: what was known of one symbol at one moment, and how well.

It says of each of its parts where it came from, how old and how complete it is. An answer that knows more than its moment
allows cannot be made: a bar or book that was not yet closed at `as_of_ms`, or a version recorded after `known_by_ms`, is
refused. Nothing here reads from anywhere.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, Self

import msgspec
import polars as pl

from trading.errors import TradingError
from trading.market.timeframe import MINUTE_MS, SECOND_MS, Timeframe
from trading.provider.serialised import Serialised

if TYPE_CHECKING:
    import pandas as pd

Aggregation = Literal["raw", "1s", "1m"]
Source = Literal["cache", "database", "lake", "mixed"]

IMBALANCE_WINDOWS: Final = (1, 5, 15, 60)
"""Seconds over which the imbalance of a book is averaged."""

_CLOSES_AFTER: Final[Mapping[Aggregation, int]] = {"raw": 0, "1s": SECOND_MS, "1m": MINUTE_MS}
_PANDAS: Final[Mapping[pl.DataType, str]] = {pl.Int64(): "Int64", pl.Int32(): "Int32", pl.Boolean(): "boolean"}


class KnowsTooMuch(TradingError):
    """An answer holds what was not known at its moment."""


class Completeness(msgspec.Struct, frozen=True):
    """How many of the bars that were asked for are there.

    Attributes:
        expected: Bars of the window, less the ones whose interval is proven to hold no trade.
        present: Those of them that are there, generated ones too.
        generated: Open times (epoch ms) of bars that no store has, made from complete finer ones for this answer.
    """

    expected: int
    present: int
    generated: tuple[int, ...] = ()

    @property
    def share(self) -> float | None:
        """Present by expected, 0 … 1; None where nothing was expected."""
        return self.present / self.expected if self.expected else None


class BookHead(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An `OrderBookDataFrame` without its rows."""

    symbol: str
    as_of_ms: int
    known_by_ms: int | None
    aggregation: Aggregation
    imbalances: dict[int, float | None]


class InferenceHead(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An `InferenceDataFrame` without its frames."""

    symbol: str
    as_of_ms: int
    known_by_ms: int | None
    book: BookHead | None
    imbalances: dict[int, float | None]
    sources: dict[str, Source]
    freshness: dict[str, int | None]
    completeness: dict[Timeframe, Completeness]


@dataclass(frozen=True, eq=False)
class OrderBookDataFrame(Serialised):
    """The order book of one symbol up to one moment.

    Attributes:
        symbol: The exchange's name.
        as_of_ms: The moment, epoch ms; the newest row is the last one known by then.
        known_by_ms: Rows are the versions that were recorded by then, epoch ms; None for what is known today.
        aggregation: What a row is: `raw` one book, `1s` the book at the end of a second, `1m` a minute of such seconds.
        rows: By time, the first column, epoch ms. `raw`: price and quantity of each level, best first, as lists of
            `bid_price`, `bid_quantity`, `ask_price`, `ask_quantity`. Otherwise one number a column.
        imbalances: Mean of the imbalance of the top 20 levels over the last 1, 5, 15 and 60 closed seconds, -1 … 1; None
            where none of them is known.

    Raises:
        KnowsTooMuch: A row ends after `as_of_ms`, or was recorded after `known_by_ms`.
    """

    symbol: str
    as_of_ms: int
    known_by_ms: int | None
    aggregation: Aggregation
    rows: pl.DataFrame
    imbalances: Mapping[int, float | None]

    def __post_init__(self) -> None:
        object.__setattr__(self, "imbalances", MappingProxyType(dict(self.imbalances)))
        _check_known(self.rows, _CLOSES_AFTER[self.aggregation], self.as_of_ms, self.known_by_ms, "book")

    @property
    def time_ms(self) -> int | None:
        """Time of the newest row; None where there is none, as with all that follows."""
        return self._newest(self.rows.columns[0])

    @property
    def best_bid(self) -> float | None:
        """Highest bid of the newest row."""
        return self._best("bid") if self.aggregation == "raw" else self._newest("best_bid")

    @property
    def best_ask(self) -> float | None:
        """Lowest ask of the newest row."""
        return self._best("ask") if self.aggregation == "raw" else self._newest("best_ask")

    @property
    def mid_price(self) -> float | None:
        """Middle between the best bid and ask of the newest row."""
        if self.aggregation != "raw":
            return self._newest("mid_price")
        bid, ask = self.best_bid, self.best_ask
        return None if bid is None or ask is None else (bid + ask) / 2

    @property
    def spread_bps(self) -> float | None:
        """Ask less bid of the newest row in basis points of the bid."""
        if self.aggregation != "raw":
            return self._newest("spread_bps")
        bid, ask = self.best_bid, self.best_ask
        return None if bid is None or ask is None else 10_000 * (ask - bid) / bid

    @property
    def bid_volume(self) -> float | None:
        """Base currency bid for at the top 20 levels of the newest row."""
        return self._volume("bid")

    @property
    def ask_volume(self) -> float | None:
        """Base currency offered at the top 20 levels of the newest row."""
        return self._volume("ask")

    def frames(self) -> dict[str, pl.DataFrame]:
        """Return the rows as the only part, `book`."""
        return {"book": self.rows}

    def to_polars(self) -> pl.DataFrame:
        """Return the rows."""
        return self.rows

    def to_pandas(self) -> "pd.DataFrame":
        """Return the rows by UTC time; unknown floats are NaN, other unknown values `pd.NA`."""
        return _to_pandas(self.rows)

    def _newest(self, column: str) -> Any:
        return None if self.rows.is_empty() else self.rows[column][-1]

    def _best(self, side: str) -> float | None:
        prices = self._newest(f"{side}_price")
        return prices[0] if prices is not None and len(prices) else None

    def _volume(self, side: str) -> float | None:
        if self.aggregation != "raw":
            return self._newest(f"{side}_volume")
        quantities = self._newest(f"{side}_quantity")
        return None if quantities is None else float(quantities.sum())

    def head(self) -> BookHead:
        """Return all but the rows."""
        return BookHead(self.symbol, self.as_of_ms, self.known_by_ms, self.aggregation, dict(self.imbalances))

    @classmethod
    def of(cls, head: Any, frames: Mapping[str, pl.DataFrame]) -> Self:
        """Return the answer of a `BookHead` and the frame `book`."""
        book = msgspec.convert(head, BookHead, str_keys=True)
        return cls(book.symbol, book.as_of_ms, book.known_by_ms, book.aggregation, frames["book"], book.imbalances)


@dataclass(frozen=True, eq=False)
class InferenceDataFrame(Serialised):
    """All that was known of one symbol at one moment.

    Parts are named `ohlcv.<timeframe>`, `indicators.<timeframe>`, `context.<name>`, `book` and `imbalances`.

    Attributes:
        symbol: The exchange's name.
        as_of_ms: The moment, epoch ms.
        known_by_ms: Rows are the versions that were recorded by then, epoch ms; None for what is known today.
        ohlcv: Closed bars of each timeframe, `CANDLE_SCHEMA` by open time.
        indicators: Their indicators by open time.
        book: The newest order book; None where none is known.
        imbalances: Mean of the book's imbalance (top 20 levels) over the last 1, 5, 15 and 60 closed seconds, -1 … 1; None
            where none of them is known.
        context: Around the moment, by name: bars of `1s` and `1m`, and `book_1s`. Only here may rows be later than
            `as_of_ms`, and only where the caller asked for what came after.
        sources: Where each part came from.
        freshness: Age (ms) of the newest row of each part at `as_of_ms`; None where it has none.
        completeness: Of each timeframe of `ohlcv`.

    Raises:
        KnowsTooMuch: A bar or book ends after `as_of_ms`, or a row was recorded after `known_by_ms`.
    """

    symbol: str
    as_of_ms: int
    known_by_ms: int | None
    ohlcv: Mapping[Timeframe, pl.DataFrame]
    indicators: Mapping[Timeframe, pl.DataFrame]
    book: OrderBookDataFrame | None
    imbalances: Mapping[int, float | None]
    context: Mapping[str, pl.DataFrame]
    sources: Mapping[str, Source]
    freshness: Mapping[str, int | None]
    completeness: Mapping[Timeframe, Completeness]

    def __post_init__(self) -> None:
        for field in ("ohlcv", "indicators", "imbalances", "context", "sources", "freshness", "completeness"):
            object.__setattr__(self, field, MappingProxyType(dict(getattr(self, field))))
        for name, frame in self.frames().items():
            group, _, key = name.partition(".")
            closes_after = Timeframe(key).ms if group in ("ohlcv", "indicators") else None
            _check_known(frame, closes_after, self.as_of_ms, self.known_by_ms, name)
        if self.book is not None and (self.book.as_of_ms > self.as_of_ms or self.book.symbol != self.symbol):
            raise KnowsTooMuch(f"the book is of {self.book.symbol} at {self.book.as_of_ms}, not of {self.symbol} then")

    @property
    def source(self) -> Source | None:
        """Where all parts came from, `mixed` when not from one place; None without parts."""
        found = set(self.sources.values())
        return found.pop() if len(found) == 1 else "mixed" if found else None

    def frames(self) -> dict[str, pl.DataFrame]:
        """Return each frame by the name of its part."""
        return dict(self._frames())

    def to_polars(self) -> dict[str, pl.DataFrame]:
        """Return each frame by the name of its part."""
        return self.frames()

    def to_pandas(self) -> "dict[str, pd.DataFrame]":
        """Return each frame by the name of its part, its rows by UTC time; unknown floats are NaN, the rest `pd.NA`."""
        return {name: _to_pandas(frame) for name, frame in self._frames()}

    def _frames(self) -> Iterator[tuple[str, pl.DataFrame]]:
        for group in ("ohlcv", "indicators", "context"):
            for key, frame in getattr(self, group).items():
                yield f"{group}.{key}", frame
        if self.book is not None:
            yield "book", self.book.rows

    def head(self) -> InferenceHead:
        """Return all but the frames."""
        return InferenceHead(
            self.symbol,
            self.as_of_ms,
            self.known_by_ms,
            self.book.head() if self.book is not None else None,
            dict(self.imbalances),
            dict(self.sources),
            dict(self.freshness),
            dict(self.completeness),
        )

    @classmethod
    def of(cls, head: Any, frames: Mapping[str, pl.DataFrame]) -> Self:
        """Return the answer of an `InferenceHead` and frames by part."""
        answer = msgspec.convert(head, InferenceHead, str_keys=True)

        def group(name: str) -> dict[str, pl.DataFrame]:
            return {part.partition(".")[2]: frame for part, frame in frames.items() if part.partition(".")[0] == name}

        return cls(
            symbol=answer.symbol,
            as_of_ms=answer.as_of_ms,
            known_by_ms=answer.known_by_ms,
            ohlcv={Timeframe(key): frame for key, frame in group("ohlcv").items()},
            indicators={Timeframe(key): frame for key, frame in group("indicators").items()},
            book=OrderBookDataFrame.of(answer.book, frames) if answer.book else None,
            imbalances=answer.imbalances,
            context=group("context"),
            sources=answer.sources,
            freshness=answer.freshness,
            completeness=answer.completeness,
        )


def _check_known(
    frame: pl.DataFrame, closes_after: int | None, as_of_ms: int, known_by_ms: int | None, part: str
) -> None:
    """Refuse rows that end after `as_of_ms` (unless they may) or were recorded after `known_by_ms`."""
    if frame.is_empty():
        return
    newest: Any = frame.to_series(0).max()
    if closes_after is not None and newest + closes_after > as_of_ms:
        raise KnowsTooMuch(f"{part} holds a row of {newest}, which had not ended at {as_of_ms}")
    if known_by_ms is None or "known_at_ms" not in frame.columns:
        return
    recorded: Any = frame["known_at_ms"].max()
    if recorded is not None and recorded > known_by_ms:
        raise KnowsTooMuch(f"{part} holds a row that was recorded at {recorded}, after {known_by_ms}")


def _to_pandas(frame: pl.DataFrame) -> "pd.DataFrame":
    import pandas as pd

    time = frame.columns[0]
    rows = frame.to_pandas()
    for column, dtype in frame.schema.items():
        if dtype in _PANDAS and column != time:
            rows[column] = pd.array(frame[column].to_list(), dtype=_PANDAS[dtype])
    rows.index = pd.to_datetime(rows.pop(time), unit="ms", utc=True).rename(time.removesuffix("_ms"))
    return rows
