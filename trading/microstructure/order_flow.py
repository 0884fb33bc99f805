"""Order flow is what takers bought and sold: rates, their difference, and which side presses.

The taker's side is the exchange's own word (`buyer_is_maker`: the taker sold), so that cumulative delta is exact; it is
not inferred from changes of the book. Without a trade there is no direction.
"""

from enum import StrEnum
from typing import Final

import msgspec
import polars as pl

from trading.market.instrument import Instrument, exact_quotient
from trading.market.timeframe import DAY_MS, SECOND_MS, Timeframe
from trading.microstructure.profile_minutes import LISTS
from trading.microstructure.terms import check_window

MINUTE_FLOW_SCHEMA: Final[dict[str, type[pl.DataType]]] = {
    "minute": pl.Int64,
    "trade_count": pl.Int64,
    **dict.fromkeys(("buy_volume", "sell_volume", "delta", "cumulative_delta"), pl.Float64),
}
"""`minute` is the epoch millisecond at which it begins; volumes are in base currency."""


class FlowDirection(StrEnum):
    """Which side presses, by the quotient of lots bought and lots sold."""

    STRONG_BUY = "strong_buy"
    MODERATE_BUY = "moderate_buy"
    NEUTRAL = "neutral"
    MODERATE_SELL = "moderate_sell"
    STRONG_SELL = "strong_sell"


class OrderFlow(msgspec.Struct, frozen=True):
    """The flow of one window; volumes in base currency, rates in base currency a second.

    Attributes:
        symbol: The exchange's name.
        lo_ms: First moment of the window.
        hi_ms: End of the window.
        trade_count: Aggregate trades.
        buy_volume: What takers bought.
        sell_volume: What takers sold.
        buy_rate: Bought a second, over the whole window.
        sell_rate: Sold a second.
        net_rate: Their difference.
        cumulative_delta: Bought less sold, summed over the trades.
        buy_sell_ratio: Bought by sold; None where nothing was sold.
        direction: None where nothing traded.
    """

    symbol: str
    lo_ms: int
    hi_ms: int
    trade_count: int
    buy_volume: float
    sell_volume: float
    buy_rate: float
    sell_rate: float
    net_rate: float
    cumulative_delta: float
    buy_sell_ratio: float | None
    direction: FlowDirection | None


def flow_direction(buy_lots: int, sell_lots: int) -> FlowDirection | None:
    """Return the direction: above 2 strong buy, from 1.2 moderate buy, from 0.8 neutral, from 0.5 moderate sell.

    None where both are zero. Thresholds of seed 003, compared in integers.
    """
    if buy_lots == sell_lots == 0:
        return None
    if buy_lots > 2 * sell_lots:
        return FlowDirection.STRONG_BUY
    if 5 * buy_lots >= 6 * sell_lots:
        return FlowDirection.MODERATE_BUY
    if 5 * buy_lots >= 4 * sell_lots:
        return FlowDirection.NEUTRAL
    if 2 * buy_lots >= sell_lots:
        return FlowDirection.MODERATE_SELL
    return FlowDirection.STRONG_SELL


def order_flow(trades: pl.DataFrame, instrument: Instrument, lo_ms: int, hi_ms: int) -> OrderFlow:
    """Return the flow of the trades in `[lo_ms, hi_ms)`.

    Args:
        trades: Columns `quantity`, `time_ms` and `buyer_is_maker` of `TRADE_SCHEMA`, in any order.
        instrument: Gives the size of a lot.
        lo_ms: First moment.
        hi_ms: End.

    Raises:
        EmptyWindow: `hi_ms` is not after `lo_ms`.
    """
    check_window(lo_ms, hi_ms)
    inside = trades.filter((pl.col("time_ms") >= lo_ms) & (pl.col("time_ms") < hi_ms))
    sell_lots = int(inside.filter("buyer_is_maker")["quantity"].sum())
    buy_lots = int(inside["quantity"].sum()) - sell_lots
    bought, sold = instrument.quantity(buy_lots), instrument.quantity(sell_lots)
    delta = instrument.quantity(buy_lots - sell_lots)
    seconds = (hi_ms - lo_ms) / SECOND_MS
    return OrderFlow(
        instrument.name,
        lo_ms,
        hi_ms,
        trade_count=len(inside),
        buy_volume=bought,
        sell_volume=sold,
        buy_rate=bought / seconds,
        sell_rate=sold / seconds,
        net_rate=delta / seconds,
        cumulative_delta=delta,
        buy_sell_ratio=buy_lots / sell_lots if sell_lots else None,
        direction=flow_direction(buy_lots, sell_lots),
    )


def cumulative_delta(trades: pl.DataFrame, instrument: Instrument, timeframe: Timeframe) -> pl.DataFrame:
    """Return the delta of each bucket that holds a trade, and the sum from the first trade on.

    Args:
        trades: As for `order_flow`.
        instrument: Gives the size of a lot.
        timeframe: Length of a bucket.

    Returns:
        `open_time`, `delta` and `cumulative_delta` in base currency, ordered by open time.
    """
    lots = (
        trades.lazy()
        .group_by(open_time=pl.col("time_ms") // timeframe.ms * timeframe.ms)
        .agg(delta=pl.when("buyer_is_maker").then(-pl.col("quantity")).otherwise(pl.col("quantity")).sum())
        .sort("open_time")
        .with_columns(cumulative_delta=pl.col("delta").cum_sum())
        .collect()
    )
    decimals = instrument.quantity_decimals
    return lots.with_columns(exact_quotient(lots[name], decimals) for name in ("delta", "cumulative_delta"))


def flow_of_minutes(minutes: pl.DataFrame, instrument: Instrument) -> pl.DataFrame:
    """Return the flow of each profile minute.

    Args:
        minutes: `PROFILE_MINUTE_SCHEMA`, ordered by minute.
        instrument: Gives the size of a lot.

    Returns:
        `MINUTE_FLOW_SCHEMA`, ordered by minute. `cumulative_delta` starts anew at each UTC day, with the first of its
        minutes that is there.
    """
    sums = (
        minutes.lazy()
        .explode(LISTS)
        .group_by("minute")
        .agg(pl.col("trade_count", "buy_lots", "sell_lots").sum())
        .sort("minute")
        .with_columns(delta=pl.col("buy_lots") - pl.col("sell_lots"))
        .with_columns(cumulative_delta=pl.col("delta").cum_sum().over(pl.col("minute") // DAY_MS))
        .rename({"buy_lots": "buy_volume", "sell_lots": "sell_volume"})
        .collect()
    )
    decimals = instrument.quantity_decimals
    volumes = (
        exact_quotient(sums[name], decimals) for name in ("buy_volume", "sell_volume", "delta", "cumulative_delta")
    )
    return sums.with_columns(*volumes).select(list(MINUTE_FLOW_SCHEMA))
