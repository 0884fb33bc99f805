"""Bars as sums of trades: one row a minute with a trade, and longer bars of those."""

import polars as pl

from trading.market.timeframe import MINUTE_MS, Timeframe


def minute_sums(trades: pl.DataFrame) -> pl.DataFrame:
    """Return one row for each minute with a trade: prices in ticks, volumes in lots, notional in ticks times lots."""
    return (
        trades.group_by(open_time=pl.col("time_ms") // MINUTE_MS * MINUTE_MS, maintain_order=True)
        .agg(
            open=pl.col("price").first(),
            high=pl.col("price").max(),
            low=pl.col("price").min(),
            close=pl.col("price").last(),
            volume=pl.col("quantity").sum(),
            notional=(pl.col("price") * pl.col("quantity")).sum(),
            trade_count=(pl.col("last_trade_id") - pl.col("first_trade_id") + 1).sum(),
            taker_volume=pl.col("quantity").filter(~pl.col("buyer_is_maker")).sum(),
        )
        .sort("open_time")
    )


def longer(minutes: pl.DataFrame, timeframe: Timeframe) -> pl.DataFrame:
    """Return bars of a longer timeframe summed from minute rows."""
    if timeframe is Timeframe.M1:
        return minutes
    return (
        minutes.group_by(open_time=pl.col("open_time") // timeframe.ms * timeframe.ms, maintain_order=True)
        .agg(
            open=pl.col("open").first(),
            high=pl.col("high").max(),
            low=pl.col("low").min(),
            close=pl.col("close").last(),
            **{name: pl.col(name).sum() for name in ("volume", "notional", "trade_count", "taker_volume")},
        )
        .sort("open_time")
    )
