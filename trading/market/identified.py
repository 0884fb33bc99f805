"""A trade whose id is an identity: two trades with one id are one trade, and no id says which trade is missing.

Bybit and Hyperliquid number trades so. That all of a minute are held cannot be proven by such ids, so these trades have
no place in the ledger of ids (`trading.stream.contiguity`), and a candle made from them is never complete. Prices are
ticks and quantities lots of the trade's instrument.
"""

from collections.abc import Sequence

import msgspec
import polars as pl

from trading.market.candle import CANDLE_SCHEMA, candles_from_trades
from trading.market.instrument import Instrument
from trading.market.timeframe import Timeframe
from trading.market.trade import AggTrade, trades_frame


class IdentifiedTrade(msgspec.Struct, frozen=True):
    """One fill.

    Attributes:
        trade_id: The venue's name for it.
        price: Integer ticks.
        quantity: Integer lots.
        time_ms: Exchange time, epoch milliseconds.
        buyer_is_maker: True when the taker sold.
        block: Agreed outside the order book.
    """

    trade_id: str
    price: int
    quantity: int
    time_ms: int
    buyer_is_maker: bool
    block: bool = False


def unproven_candles(trades: Sequence[IdentifiedTrade], instrument: Instrument, timeframe: Timeframe) -> pl.DataFrame:
    """Return one candle for each bucket that holds a trade of the order book; none of them is complete.

    Args:
        trades: Each once, in the order in which the venue gave them; trades of one millisecond keep that order.
        instrument: Gives the size of a tick and a lot.
        timeframe: Length of a candle.

    Returns:
        `CANDLE_SCHEMA`, ordered by open time; `complete` is false, the source `incomplete_trades`, ids are null.
    """
    booked = sorted((trade for trade in trades if not trade.block), key=lambda trade: trade.time_ms)
    numbered = [
        AggTrade(number, t.price, t.quantity, number, number, t.time_ms, t.buyer_is_maker)
        for number, t in enumerate(booked)
    ]
    bars = candles_from_trades(trades_frame(numbered), instrument, timeframe, proven=())
    unnumbered = (pl.lit(None, CANDLE_SCHEMA[name]).alias(name) for name in ("first_agg_trade_id", "last_agg_trade_id"))
    return bars.with_columns(*unnumbered)
