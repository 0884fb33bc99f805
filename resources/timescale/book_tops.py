"""The top of a book is kept as its best bid, the spread and the lots of its levels, and all of a second follows from these.

A mean or a share of floats has new digits each second; the columnstore takes 64 % off such columns, and 86 % off these.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from resources.timescale.counted import DECIMALS, INEXACT, WHOLE_STEPS, Counted, NotStorable
from trading.market.decimals import Integers
from trading.provider.book_tops import DEPTHS, FOLLOWING, Tops, agree, columns_of, tops_of

_LOTS: Final = [f"{side}_lots_{depth}" for side in ("bid", "ask") for depth in DEPTHS]
_COLUMNS: Final = {**DECIMALS, **dict.fromkeys(("best_bid", "spread", *_LOTS), pl.Int64)}


def packed(seconds: pl.DataFrame) -> dict[str, pl.Series]:
    """Return the columns of `TOPS` that the floats of `BOOK_1S_SCHEMA` are kept in.

    Raises:
        NotStorable: A price or volume is none, has more than 12 decimals, or more digits than a float holds, or a column is
            not what follows from best prices and volumes.
    """
    tops = tops_of(seconds)
    _require(seconds, tops)
    bid, ask = tops.best_bid, tops.best_ask
    known = {"best_bid": _known(bid, bid != 0), "spread": _known(ask - bid, ask != 0)}
    decimals = (values.astype(np.int32) for values in (tops.price_decimals, tops.quantity_decimals))
    others = zip((*DECIMALS, *_LOTS), (*decimals, *tops.lots), strict=True)
    return known | {name: pl.Series(values) for name, values in others}


def unpacked(rows: Mapping[str, Integers]) -> dict[str, pl.Series]:
    """Return the floats that `packed` was made of."""
    prices, quantities = (rows[name].astype(np.int64) for name in DECIMALS)
    bid, spread = rows["best_bid"], rows["spread"]
    ask = np.where(spread != 0, bid + spread, 0)
    lots = tuple(rows[name] for name in _LOTS)
    return columns_of(Tops(prices, quantities, bid, ask, lots, np.ones(len(bid), np.bool_)))


def _require(seconds: pl.DataFrame, tops: Tops) -> None:
    told = "the book second {} has a price or volume of " + INEXACT, WHOLE_STEPS
    wrong = ~tops.exact
    if not wrong.any():
        told = "the book second {} says what does not follow from its best prices and volumes", _COMPLETED
        wrong = ~agree(seconds, tops)
    if wrong.any():
        raise NotStorable(told[0].format(seconds["time_ms"][int(np.flatnonzero(wrong)[0])]), told[1])


def _known(values: Integers, known: NDArray[np.bool_]) -> pl.Series:
    column = pl.Series(values)
    return column if known.all() else column.scatter(np.flatnonzero(~known), None)


_COMPLETED: Final = f"`trading.provider.book_tops.completed` works out {', '.join(FOLLOWING)}"
TOPS: Final = Counted("book_second", _COLUMNS, pl.Float64, packed, unpacked)
