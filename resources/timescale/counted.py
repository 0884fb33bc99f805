"""A counted row is kept as integers in place of its floats: those are new bytes whenever they change, these become small.

Beside its integers a row says in how many decimals it counts, the fewest that hold all of its numbers, so that it is the
same row whoever writes it and is read without asking for its instrument. Every float comes back bit for bit.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import polars as pl

from trading.errors import TradingError
from trading.market.decimals import MOST_DECIMALS

INEXACT: Final = f"more than {MOST_DECIMALS} decimals, or more digits than ticks and lots hold"
WHOLE_STEPS: Final = "prices and quantities are multiples of their instrument's steps"
DECIMALS: Final = dict.fromkeys(("price_decimals", "quantity_decimals"), pl.Int32)


class NotStorable(TradingError):
    """A value has no place in the database's type."""


@dataclass(frozen=True)
class Counted:
    """How the rows of a table are kept as integers.

    Attributes:
        relation: Name inside the schema of what holds them.
        columns: What is there in place of the columns of type `of`.
        of: Type of the frame's columns that are counted.
        packed: Makes these of a frame; raises `NotStorable`.
        unpacked: Makes the frame's columns of these: numbers as arrays with 0 for null, lists as series.
    """

    relation: str
    columns: Mapping[str, type[pl.DataType] | pl.DataType]
    of: type[pl.DataType] | pl.DataType
    packed: Callable[[pl.DataFrame], Mapping[str, pl.Series]]
    unpacked: Callable[[Mapping[str, Any]], Mapping[str, pl.Series]]

    def stored(
        self, schema: Mapping[str, type[pl.DataType] | pl.DataType]
    ) -> dict[str, type[pl.DataType] | pl.DataType]:
        """Return what a row of a frame has in the database."""
        kept: dict[str, type[pl.DataType] | pl.DataType] = {}
        for name, kind in schema.items():
            kept |= self.columns if kind == self.of else {name: kind}
        return kept
