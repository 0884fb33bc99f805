"""The levels of a book are kept as its best prices in ticks, the steps from there to each further price, and lots.

Floats of 20 levels are new bytes each second; steps and lots are small and often what they were a second ago, which is what
a columnstore makes small.
"""

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from resources.timescale.counted import DECIMALS, INEXACT, WHOLE_STEPS, Counted, NotStorable
from trading.market.decimals import POWERS, Integers, fewest_decimals, in_units

_COLUMNS: Final = {
    **DECIMALS,
    **dict.fromkeys(("best_bid", "best_ask"), pl.Int64),
    **dict.fromkeys(("bid_steps", "bid_lots", "ask_steps", "ask_lots"), pl.List(pl.Int64)),
}


def packed(books: pl.DataFrame) -> dict[str, pl.Series]:
    """Return the columns of `LEVELS` that the lists of `BOOK_SNAPSHOT_SCHEMA` are kept in.

    Raises:
        NotStorable: A number is none, has more than 12 decimals, or more digits than a float holds.
    """
    columns: dict[str, pl.Series] = {}
    units: dict[str, tuple[Integers, Integers]] = {}
    for what in ("price", "quantity"):
        sides = [_flat(books[f"{side}_{what}"]) for side in ("bid", "ask")]
        decimals = np.maximum(*(fewest_decimals(values, counts) for values, counts in sides))
        columns[f"{what}_decimals"] = pl.Series(decimals)
        for side, (values, counts) in zip(("bid", "ask"), sides, strict=True):
            counted, exact = in_units(values, np.repeat(decimals, counts))
            if not exact.all():
                raise NotStorable(f"{values[~exact][0]} in a book has {INEXACT}", WHOLE_STEPS)
            units[f"{side}_{what}"] = counted, counts
    for side in ("bid", "ask"):
        ticks, counts = units[f"{side}_price"]
        first = (np.cumsum(counts) - counts)[counts > 0]
        best = pl.Series([None], dtype=pl.Int64).new_from_index(0, len(counts))
        columns[f"best_{side}"] = best.scatter(np.flatnonzero(counts > 0), ticks[first])
        columns[f"{side}_steps"] = lists(np.delete(np.diff(ticks, prepend=0), first), np.maximum(counts - 1, 0))
        columns[f"{side}_lots"] = lists(*units[f"{side}_quantity"])
    return columns


def unpacked(rows: Mapping[str, Any]) -> dict[str, pl.Series]:
    """Return the lists that `packed` was made of."""
    columns: dict[str, pl.Series] = {}
    for side in ("bid", "ask"):
        lots, counts = _flat(rows[f"{side}_lots"])
        steps, _ = _flat(rows[f"{side}_steps"])
        first = np.cumsum(counts) - counts
        there = counts > 0
        moves = np.zeros(len(lots), np.int64)
        moves[first[there]] = rows[f"best_{side}"][there]
        further = np.ones(len(lots), np.bool_)
        further[first[there]] = False
        moves[further] = steps
        # Of one running sum over all books each begins at its own.
        before = np.append(0, np.cumsum(moves))[first]
        ticks = np.cumsum(moves) - np.repeat(before, counts)
        for what, of_levels in (("price", ticks), ("quantity", lots)):
            of_level = np.repeat(rows[f"{what}_decimals"], counts)
            name = f"{side}_{what}"
            columns[name] = lists(of_levels / POWERS[of_level], counts).alias(name)
    return columns


def lists(values: NDArray[Any], counts: Integers) -> pl.Series:
    """Return lists of so many values each, in order."""
    if len(counts) and counts[0] and (counts == counts[0]).all():
        return pl.Series(values.reshape(len(counts), -1)).arr.to_list()
    import pyarrow as pa  # a fifth of a second

    return pl.Series(pl.from_arrow(pa.LargeListArray.from_arrays(np.append(0, np.cumsum(counts)), values)))


def _flat(column: pl.Series) -> tuple[NDArray[Any], Integers]:
    """Return the values of lists in a row, and how many each has."""
    counts = column.list.len().cast(pl.Int64).to_numpy()
    return column.filter(pl.Series(counts > 0, dtype=pl.Boolean)).explode().to_numpy(), counts


LEVELS: Final = Counted("book", _COLUMNS, pl.List(pl.Float64), packed, unpacked)
