"""An order book at one moment: what may be bought and sold at which price, the best price of each side first."""

from typing import Final

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

BOOK_SNAPSHOT_SCHEMA: Final[dict[str, type[pl.DataType] | pl.DataType]] = {
    "time_ms": pl.Int64,
    "last_update_id": pl.Int64,
    **dict.fromkeys(("bid_price", "bid_quantity", "ask_price", "ask_quantity"), pl.List(pl.Float64)),
    "known_at_ms": pl.Int64,
}
"""Books as rows: time of the newest change, then each side best first, price and quantity (base currency) in step."""


class BookSnapshot(msgspec.Struct, frozen=True, eq=False):
    """The best levels of one book.

    Attributes:
        time_ms: Exchange time of the newest change in it, epoch milliseconds.
        last_update_id: The exchange's number of that change.
        bids: Price in ticks and quantity in lots, shape (n, 2), highest price first.
        asks: Likewise, lowest price first.
    """

    time_ms: int
    last_update_id: int
    bids: NDArray[np.int64]
    asks: NDArray[np.int64]
