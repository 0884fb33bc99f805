"""The top of a book is its best prices and how much lies in its first 1, 5 and 20 levels; spread and balance follow from it.

What follows is worked out from integers and rounded at the end, so that it is the same floats wherever it is worked out: of
a book as it comes, of a row that is read, and of a row that somebody brings.
"""

from typing import Final, NamedTuple

import numpy as np
import polars as pl
from numba import njit
from numpy.typing import NDArray

from trading.compiled import read_only
from trading.market.decimals import POWERS, Floats, Integers, fewest_decimals, in_units
from trading.microstructure.terms import TOP_LEVELS

DEPTHS: Final = (1, 5, TOP_LEVELS)
BEST: Final = ("best_bid", "best_ask")
VOLUMES: Final = ("bid_volume_1", "bid_volume_5", "bid_volume", "ask_volume_1", "ask_volume_5", "ask_volume")
"""Of the top `DEPTHS` of each side; without a number, of all that a book keeps."""
FOLLOWING: Final = ("mid_price", "spread_bps", *(f"imbalance_{depth}" for depth in DEPTHS))


class Tops(NamedTuple):
    """Tops of books as integers, of each kind one a book.

    Attributes:
        price_decimals: Decimals of the prices, the fewest that hold them.
        quantity_decimals: Likewise of the volumes.
        best_bid: Ticks; 0 where nobody bids.
        best_ask: Ticks; 0 where nobody asks.
        lots: `VOLUMES` in lots.
        exact: Whether they say what the floats say that they were made of.
    """

    price_decimals: Integers
    quantity_decimals: Integers
    best_bid: Integers
    best_ask: Integers
    lots: tuple[Integers, ...]
    exact: NDArray[np.bool_]


def tops_of(rows: pl.DataFrame) -> Tops:
    """Return the tops that the columns `BEST` and `VOLUMES` say; a best price is null where a side is empty."""
    floats = np.array([rows[name].to_numpy() for name in (*BEST, *VOLUMES)])
    best = floats[: len(BEST)]
    best[best == 0] = np.nan  # no sign of an empty side but a mistake
    for prices, name in zip(best, BEST, strict=True):
        if rows[name].null_count():
            prices[rows[name].is_null().to_numpy()] = 0.0
    return counted(floats)


def counted(floats: Floats) -> Tops:
    """Return the tops that `BEST` and `VOLUMES` say, shape (8, books); a price of an empty side is 0."""
    price_decimals, best, exact_best = _counted(floats[: len(BEST)])
    quantity_decimals, lots, exact_lots = _counted(floats[len(BEST) :])
    return Tops(price_decimals, quantity_decimals, best[0], best[1], tuple(lots), exact_best & exact_lots)


def columns_of(tops: Tops, floats: Floats | None = None) -> dict[str, pl.Series]:
    """Return the columns `BEST`, `VOLUMES` and `FOLLOWING`.

    Args:
        tops: Of the books.
        floats: What they were `counted` of, where that is at hand.
    """
    values = rounded(tops)
    if floats is not None:
        values[: len(floats)] = floats
        values[: len(BEST)][floats[: len(BEST)] == 0] = np.nan
    columns = zip((*BEST, *VOLUMES, *FOLLOWING), values, strict=True)
    return {name: pl.Series(name, column, nan_to_null=name not in VOLUMES) for name, column in columns}


def completed(rows: pl.DataFrame) -> pl.DataFrame:
    """Return rows of any columns with `FOLLOWING` as they follow from `BEST` and `VOLUMES`."""
    columns = zip(FOLLOWING, rounded(tops_of(rows))[-len(FOLLOWING) :], strict=True)
    return rows.with_columns(pl.Series(name, values, nan_to_null=True) for name, values in columns)


def agree(rows: pl.DataFrame, tops: Tops) -> NDArray[np.bool_]:
    """Return whether each of `FOLLOWING` is what follows from the tops of the same rows, bit for bit."""
    wanted = rounded(tops)[-len(FOLLOWING) :]
    columns = [rows[name] for name in FOLLOWING]
    given = np.array([column.to_numpy() for column in columns])
    unknown = np.isnan(given)
    if unknown.any():  # a NaN is no null
        unknown = np.array([column.is_null().to_numpy() for column in columns])
    same = np.where(np.isnan(wanted), unknown, given.view(np.int64) == wanted.view(np.int64))
    return same.sum(axis=0) == len(FOLLOWING)


def rounded(tops: Tops) -> Floats:
    """Return `BEST`, `VOLUMES` and `FOLLOWING`, shape (13, books); NaN where a side is empty."""
    return _rounded(
        read_only(tops.price_decimals),
        read_only(tops.quantity_decimals),
        read_only(tops.best_bid),
        read_only(tops.best_ask),
        tuple(map(read_only, tops.lots)),
        read_only(tops.exact),
    )


@njit(cache=True)
def _rounded(
    price_decimals: Integers,
    quantity_decimals: Integers,
    best_bid: Integers,
    best_ask: Integers,
    lots: tuple[Integers, ...],
    exact: NDArray[np.bool_],
) -> Floats:
    # `BEST` from 0 on, `VOLUMES` from 2, `FOLLOWING` from 8.
    floats = np.empty((len(BEST) + len(VOLUMES) + len(FOLLOWING), len(exact)))
    for book in range(len(exact)):
        tick, bid, ask = POWERS[price_decimals[book]], best_bid[book], best_ask[book]
        floats[0, book] = bid / tick if bid != 0 else np.nan
        floats[1, book] = ask / tick if ask != 0 else np.nan
        both = exact[book] and bid > 0 and ask > 0
        floats[8, book] = (bid + ask) / tick / 2 if both else np.nan
        floats[9, book] = 10_000.0 * (ask - bid) / bid if both else np.nan
        lot = POWERS[quantity_decimals[book]]
        for depth in range(len(DEPTHS)):
            bids, asks = lots[depth][book], lots[len(DEPTHS) + depth][book]
            floats[2 + depth, book], floats[5 + depth, book] = bids / lot, asks / lot
            floats[10 + depth, book] = (bids - asks) / (bids + asks) if both and bids + asks != 0 else np.nan
    return floats


def _counted(floats: Floats) -> tuple[Integers, Integers, NDArray[np.bool_]]:
    width, books = floats.shape
    by_book = floats.T.ravel()
    decimals = fewest_decimals(by_book, np.repeat(width, books))
    units, exact = in_units(by_book, np.repeat(decimals, width))
    return (
        decimals,
        np.ascontiguousarray(units.reshape(books, width).T),
        exact.reshape(books, width).sum(axis=1) == width,
    )
