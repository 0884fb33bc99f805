"""An order book at one moment: what may be bought and sold at which price, the best price of each side first."""

import msgspec
import numpy as np
from numpy.typing import NDArray


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
