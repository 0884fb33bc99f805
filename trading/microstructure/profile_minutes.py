"""A profile minute is what traded in one minute at each price: lots bought, lots sold and the number of trades.

Minutes are sums of integers, so any of them merge, in any order and grouping, into exactly what the trades themselves
give. One row is one minute; its lists run in step, by rising tick. A minute without a trade has no row.
"""

from collections.abc import Sequence
from typing import Final

import polars as pl

from trading.market.timeframe import MINUTE_MS

PROFILE_MINUTE_SCHEMA: Final[dict[str, pl.DataType]] = {
    "minute": pl.Int64(),
    "tick": pl.List(pl.Int64),
    "buy_lots": pl.List(pl.Int64),
    "sell_lots": pl.List(pl.Int64),
    "trade_count": pl.List(pl.Int64),
}
"""`minute` is the epoch millisecond at which it begins; buy and sell are the taker's side."""

LISTS: Final = ("tick", "buy_lots", "sell_lots", "trade_count")


def profile_minutes(trades: pl.DataFrame) -> pl.DataFrame:
    """Return the profile minutes of trades.

    Args:
        trades: Columns `price`, `quantity`, `time_ms` and `buyer_is_maker` of `TRADE_SCHEMA`, in any order.

    Returns:
        `PROFILE_MINUTE_SCHEMA`, ordered by minute. `trade_count` counts aggregate trades.
    """
    lots = pl.col("quantity")
    return _by_minute(
        trades.lazy().select(
            minute=pl.col("time_ms") // MINUTE_MS * MINUTE_MS,
            tick=pl.col("price"),
            buy_lots=pl.when("buyer_is_maker").then(0).otherwise(lots),
            sell_lots=pl.when("buyer_is_maker").then(lots).otherwise(0),
            trade_count=pl.lit(1, pl.Int64),
        )
    )


def merge_minutes(parts: Sequence[pl.DataFrame]) -> pl.DataFrame:
    """Return profile minutes in which rows of the same minute are summed, ordered by minute."""
    if not parts:
        return pl.DataFrame(schema=PROFILE_MINUTE_SCHEMA)
    return _by_minute(pl.concat(parts).lazy().explode(LISTS))


def _by_minute(rows: pl.LazyFrame) -> pl.DataFrame:
    return (
        rows.group_by("minute", "tick")
        .agg(pl.col("buy_lots", "sell_lots", "trade_count").sum())
        .sort("minute", "tick")
        .group_by("minute", maintain_order=True)
        .agg(*LISTS)
        .collect()
    )
