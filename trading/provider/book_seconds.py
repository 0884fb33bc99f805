"""A book second is an order book as it stood at the end of one second: its best prices, its depth and its balance.

A book stands until the next one that follows it without a missing change, so that a second without a change is known too,
and says so; any other second is unknown and has no row. A day knows nothing of the day before, so that it is the same made
alone or among others. A crossed book is none.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from trading.market.book import BOOK_SNAPSHOT_SCHEMA, BookSnapshot
from trading.market.instrument import Instrument
from trading.market.timeframe import SECOND_MS
from trading.microstructure.book_minutes import seconds_held
from trading.microstructure.terms import TOP_LEVELS
from trading.provider.book_tops import BEST, DEPTHS, FOLLOWING, VOLUMES, columns_of, counted
from trading.provider.frames import IMBALANCE_WINDOWS
from trading.stream.book_recorder import BookRecord

BOOK_1S_SCHEMA: Final[dict[str, type[pl.DataType] | pl.DataType]] = {
    "time_ms": pl.Int64,
    **dict.fromkeys((*BEST, *VOLUMES, *FOLLOWING), pl.Float64),
    "snapshots": pl.Int32,
    "known_at_ms": pl.Int64,
}
"""`time_ms` is the begin of the second. Volumes (base currency) and imbalances (bids less asks by their sum, -1 … 1) are of
the top 1, 5 and 20 levels; `bid_volume` and `ask_volume` are those of 20. All but best prices and volumes follows from them.
`snapshots` counts the books of that second, 0 where one stands from before."""

LONGEST_WINDOW_MS: Final = max(IMBALANCE_WINDOWS) * SECOND_MS


class BookSeconds:
    """The seconds of one symbol's books, as the books come; a whole day at once gives the same rows.

    Args:
        instrument: Gives the size of a tick and a lot.
    """

    def __init__(self, instrument: Instrument) -> None:
        self._instrument = instrument
        self._last: BookRecord | None = None
        self._books_of_last = 0

    def take(self, records: Sequence[BookRecord]) -> pl.DataFrame:
        """Return the seconds that became known by these books.

        Args:
            records: In order of time, none earlier than those taken before.

        Returns:
            `BOOK_1S_SCHEMA` by time, `known_at_ms` null. A second that had a row already has a new one if there came another
            book of it.
        """
        if not records:
            return pl.DataFrame(schema=BOOK_1S_SCHEMA)
        known = [self._last, *records] if self._last else list(records)
        seconds = np.array([record.second_ms for record in known], np.int64)
        books = self._books_of(seconds)
        held = seconds_held(known, seconds)
        places = np.repeat(np.arange(len(known)), held)
        since = np.arange(len(places)) - np.repeat(np.cumsum(held) - held, held)
        rows = pl.DataFrame(_tops(known, self._instrument))[places].with_columns(
            time_ms=pl.Series(seconds[places] + since * SECOND_MS),
            snapshots=pl.Series(np.where(since == 0, books[places], 0)),
            known_at_ms=pl.lit(None, pl.Int64),
        )
        # What the last book said of its own second was told when it came.
        told = (places == 0) & (since == 0) if self._last else np.zeros(len(places), np.bool_)
        self._last, self._books_of_last = known[-1], int(books[-1])
        rows = rows.filter(pl.col("whole") & ~pl.Series(told))
        return rows.select(pl.col(name).cast(kind) for name, kind in BOOK_1S_SCHEMA.items())

    def _books_of(self, seconds: NDArray[np.int64]) -> NDArray[np.int64]:
        """Count for each book those of its second up to it."""
        places = np.arange(len(seconds))
        begins = np.maximum.accumulate(np.where(np.append(True, np.diff(seconds) != 0), places, 0))
        before = np.where(begins == 0, self._books_of_last - 1 if self._last else 0, 0)
        return places - begins + 1 + before


def book_seconds(records: Sequence[BookRecord], instrument: Instrument) -> pl.DataFrame:
    """Return the seconds of books in order of time, each once; see `BookSeconds.take`."""
    return BookSeconds(instrument).take(records)


def book_snapshots(records: Sequence[BookRecord], instrument: Instrument) -> pl.DataFrame:
    """Return books as rows, `BOOK_SNAPSHOT_SCHEMA`, `known_at_ms` null."""
    price, quantity = float(10**instrument.price_decimals), float(10**instrument.quantity_decimals)
    books = [record.book for record in records]
    sides = {
        f"{side}_{what}": [(levels[:TOP_LEVELS, column] / unit).tolist() for levels in of_books]
        for side, of_books in (("bid", [book.bids for book in books]), ("ask", [book.asks for book in books]))
        for column, (what, unit) in enumerate((("price", price), ("quantity", quantity)))
    }
    times = {"time_ms": [book.time_ms for book in books], "last_update_id": [book.last_update_id for book in books]}
    known: dict[str, list[Any]] = {"known_at_ms": [None] * len(books)}
    return pl.DataFrame(times | sides | known, schema=BOOK_SNAPSHOT_SCHEMA)


def uncrossed(snapshots: pl.DataFrame) -> pl.DataFrame:
    """Return the rows of `BOOK_SNAPSHOT_SCHEMA` that are books: the best bid is below the best ask."""
    crossed = pl.col("bid_price").list.first() >= pl.col("ask_price").list.first()
    return snapshots.filter(~crossed.fill_null(False))


def record_of(row: Mapping[str, Any], instrument: Instrument, follows: bool = False) -> BookRecord:
    """Return a row of `BOOK_SNAPSHOT_SCHEMA` as the record it was made of; without more, a book stands for its second."""
    units = 10**instrument.price_decimals, 10**instrument.quantity_decimals
    bids, asks = (
        np.rint(np.column_stack((row[f"{side}_price"], row[f"{side}_quantity"])) * units)
        .astype(np.int64)
        .reshape(-1, 2)
        for side in ("bid", "ask")
    )
    return BookRecord(follows, BookSnapshot(row["time_ms"], row["last_update_id"], bids, asks))


def imbalances_at(seconds: pl.DataFrame, as_of_ms: int) -> dict[int, float | None]:
    """Return the mean imbalance of the top 20 levels over the last 1, 5, 15 and 60 closed seconds, None where none is known.

    Args:
        seconds: `BOOK_1S_SCHEMA` by time; later ones are not looked at.
        as_of_ms: The moment, epoch ms.
    """
    return mean_imbalances(seconds["time_ms"].to_numpy(), seconds["imbalance_20"].to_numpy(), as_of_ms)


def mean_imbalances(
    times: NDArray[np.int64], imbalances: NDArray[np.float64], as_of_ms: int
) -> dict[int, float | None]:
    """Return the same of columns; an unknown imbalance is NaN."""
    end_ms = as_of_ms // SECOND_MS * SECOND_MS
    first, end = np.searchsorted(times, (end_ms - LONGEST_WINDOW_MS, end_ms))
    recent, values = times[first:end], imbalances[first:end].tolist()
    means: dict[int, float | None] = {}
    for window in IMBALANCE_WINDOWS:
        start = int(np.searchsorted(recent, end_ms - window * SECOND_MS))
        known = [value for value in values[start:] if not math.isnan(value)]
        # Rounded once, so that the sum is the same in any order.
        means[window] = math.fsum(known) / len(known) if known else None
    return means


def _tops(records: Sequence[BookRecord], instrument: Instrument) -> dict[str, pl.Series]:
    """Return the columns of each book, and whether it is whole: not crossed."""
    bid, bid_lots = _side([record.book.bids for record in records])
    ask, ask_lots = _side([record.book.asks for record in records])
    tick, lot = float(10**instrument.price_decimals), float(10**instrument.quantity_decimals)
    floats = np.array([bid / tick, ask / tick, *(bid_lots.T / lot), *(ask_lots.T / lot)])
    whole = pl.Series((bid == 0) | (ask == 0) | (bid < ask))
    return {"whole": whole, **columns_of(counted(floats), floats)}


def _side(sides: Sequence[NDArray[np.int64]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the best price (ticks) of one side of each book, 0 where it has none, and the lots of its top `DEPTHS`."""
    tops = [levels[:TOP_LEVELS] for levels in sides]
    counts = np.array([len(levels) for levels in tops])
    there = np.arange(TOP_LEVELS) < counts[:, None]
    prices, lots = np.zeros(there.shape, np.int64), np.zeros(there.shape, np.int64)
    prices[there], lots[there] = np.concatenate(tops).T
    return prices[:, 0], np.cumsum(lots, axis=1)[:, [depth - 1 for depth in DEPTHS]]
