"""A book is kept as integers: its best prices in ticks, the steps from there to each further price, and lots.

Floats of 20 levels are new bytes each second; steps and lots are small and often what they were a second ago, which is what
a columnstore makes small. A row says in how many decimals it counts, the fewest that hold all of its numbers, so that it is
the same row whoever writes it and is read without asking for its instrument. Every float comes back bit for bit.
"""

from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from resources.timescale.tables import LEVELS, NotStorable
from trading.market.book import BOOK_SNAPSHOT_SCHEMA

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

MOST_DECIMALS: Final = 12
LARGEST: Final = 2.0**53
"""Floats tell all integers below it apart."""

_POWERS: Final = 10.0 ** np.arange(MOST_DECIMALS + 1)


def packed(books: pl.DataFrame) -> pl.DataFrame:
    """Return rows that have the columns of `BOOK_SNAPSHOT_SCHEMA` with those of `LEVELS` in place of its lists.

    Raises:
        NotStorable: A number is none, has more than 12 decimals, or more digits than a float holds.
    """
    columns: dict[str, pl.Series] = {}
    units: dict[str, tuple[Integers, Integers]] = {}
    for what in ("price", "quantity"):
        sides = [_flat(books[f"{side}_{what}"]) for side in ("bid", "ask")]
        decimals = np.maximum(*(_decimals(values, counts) for values, counts in sides))
        columns[f"{what}_decimals"] = pl.Series(decimals)
        for side, (values, counts) in zip(("bid", "ask"), sides, strict=True):
            units[f"{side}_{what}"] = _units(values, np.repeat(decimals, counts)), counts
    for side in ("bid", "ask"):
        ticks, counts = units[f"{side}_price"]
        first = (np.cumsum(counts) - counts)[counts > 0]
        best = pl.Series([None], dtype=pl.Int64).new_from_index(0, len(counts))
        columns[f"best_{side}"] = best.scatter(np.flatnonzero(counts > 0), ticks[first])
        columns[f"{side}_steps"] = lists(np.delete(np.diff(ticks, prepend=0), first), np.maximum(counts - 1, 0))
        columns[f"{side}_lots"] = lists(*units[f"{side}_quantity"])
    return books.drop(_LISTS).with_columns(**columns)


def unpacked(rows: pl.DataFrame) -> pl.DataFrame:
    """Return what `packed` was made of."""
    columns: dict[str, pl.Series] = {}
    for side in ("bid", "ask"):
        lots, counts = _flat(rows[f"{side}_lots"])
        steps, _ = _flat(rows[f"{side}_steps"])
        first = np.cumsum(counts) - counts
        there = counts > 0
        moves = np.zeros(len(lots), np.int64)
        moves[first[there]] = rows[f"best_{side}"].drop_nulls().to_numpy()
        further = np.ones(len(lots), np.bool_)
        further[first[there]] = False
        moves[further] = steps
        # Of one running sum over all books each begins at its own.
        before = np.append(0, np.cumsum(moves))[first]
        ticks = np.cumsum(moves) - np.repeat(before, counts)
        for what, of_levels in (("price", ticks), ("quantity", lots)):
            decimals = rows[f"{what}_decimals"].to_numpy()
            columns[f"{side}_{what}"] = lists(of_levels / _POWERS[np.repeat(decimals, counts)], counts)
    return rows.drop(LEVELS).with_columns(**columns)


def lists(values: NDArray[Any], counts: Integers) -> pl.Series:
    """Return lists of so many values each, in order."""
    if len(counts) and counts[0] and (counts == counts[0]).all():
        return pl.Series(values.reshape(len(counts), -1)).arr.to_list()
    import pyarrow as pa  # a fifth of a second

    return pl.Series(pl.from_arrow(pa.LargeListArray.from_arrays(np.append(0, np.cumsum(counts)), values)))


_LISTS: Final = [name for name, kind in BOOK_SNAPSHOT_SCHEMA.items() if isinstance(kind, pl.List)]


def _flat(column: pl.Series) -> tuple[NDArray[Any], Integers]:
    """Return the values of lists in a row, and how many each has."""
    counts = column.list.len().cast(pl.Int64).to_numpy()
    return column.filter(pl.Series(counts > 0, dtype=pl.Boolean)).explode().to_numpy(), counts


def _decimals(values: Floats, counts: Integers) -> Integers:
    """Return for each list the fewest decimals in which all of its numbers can be written."""
    found, of_row = np.zeros(len(counts), np.int64), np.repeat(np.arange(len(counts)), counts)
    left = np.arange(len(values))
    with np.errstate(over="ignore"):
        for decimals, power in enumerate(_POWERS):
            left = left[np.rint(values[left] * power) / power != values[left]]
            if not len(left):
                break
            found[of_row[left]] = decimals + 1
    if len(left):
        raise NotStorable(f"{values[left[0]]} is no price or quantity of up to {MOST_DECIMALS} decimals", _HINT)
    return found


def _units(values: Floats, decimals: Integers) -> Integers:
    with np.errstate(over="ignore"):
        scaled = np.rint(values * _POWERS[decimals])
    wrong = ~((np.abs(scaled) < LARGEST) & (scaled / _POWERS[decimals] == values))
    if wrong.any():
        raise NotStorable(f"{values[wrong][0]} has more digits than ticks and lots hold", _HINT)
    return scaled.astype(np.int64)


_HINT: Final = "a book's numbers are multiples of its instrument's steps"
