"""A book minute of an answer is what the book's seconds say of it."""

import polars as pl

from trading.market.timeframe import MINUTE_MS


def book_minutes(seconds: pl.DataFrame) -> pl.DataFrame:
    """Return minutes, each of those of its seconds at whose end the book is known.

    Args:
        seconds: `BOOK_1S` by time, of whole minutes.

    Returns:
        `time_ms` (begin of the minute), the last `best_bid`, `best_ask` and `mid_price`, means of `spread_bps`, volumes and
        imbalances, `snapshots` in all, the number of `seconds`, and when the last of them was known.
    """
    means = ("spread_bps", "bid_volume", "ask_volume", "imbalance_1", "imbalance_5", "imbalance_20")
    return seconds.group_by(time_ms=pl.col("time_ms") // MINUTE_MS * MINUTE_MS, maintain_order=True).agg(
        pl.col("best_bid", "best_ask", "mid_price").last(),
        pl.col(*means).mean(),
        pl.col("snapshots").sum(),
        seconds=pl.len().cast(pl.Int32),
        known_at_ms=pl.col("known_at_ms").max(),
    )
