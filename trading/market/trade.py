"""An aggregate trade: fills of one taker order at one price, numbered consecutively by the exchange.

The aggregate trade id is the proof of completeness: on one market ids have no holes at the source, so a hole in what
is kept is a missing trade. Prices are ticks and quantities lots of the trade's instrument.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
import polars as pl


# Looking for cycles among a second's trades took longer than reading them; there can be none.
class AggTrade(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One aggregate trade.

    Attributes:
        agg_trade_id: Consecutive id on its market.
        price: Integer ticks.
        quantity: Integer lots.
        first_trade_id: First fill it sums.
        last_trade_id: Last fill it sums.
        time_ms: Exchange time, epoch milliseconds.
        buyer_is_maker: True when the taker sold.
    """

    agg_trade_id: int
    price: int
    quantity: int
    first_trade_id: int
    last_trade_id: int
    time_ms: int
    buyer_is_maker: bool


TRADE_SCHEMA: Final[dict[str, type[pl.DataType]]] = {
    "agg_trade_id": pl.Int64,
    "price": pl.Int64,
    "quantity": pl.Int64,
    "first_trade_id": pl.Int64,
    "last_trade_id": pl.Int64,
    "time_ms": pl.Int64,
    "buyer_is_maker": pl.Boolean,
}


def trades_frame(trades: Sequence[AggTrade]) -> pl.DataFrame:
    """Return trades as a frame of `TRADE_SCHEMA`, in the order given."""
    return pl.DataFrame([msgspec.structs.astuple(t) for t in trades], schema=TRADE_SCHEMA, orient="row")
