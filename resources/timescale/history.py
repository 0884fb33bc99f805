"""The bars that the indicators of some days rest on."""

import polars as pl

from resources.timescale.store import MarketStore
from resources.timescale.tables import CANDLE
from trading.indicators.recursion import WINDOW_BARS
from trading.market.timeframe import Timeframe


def bars_with_history(market: MarketStore, symbol: str, timeframe: Timeframe, lo_ms: int, hi_ms: int) -> pl.DataFrame:
    """Return the complete bars that open in `[lo_ms, hi_ms)`, and as many before as the first day's indicators rest on."""
    first = market.last_before(CANDLE, symbol, lo_ms, WINDOW_BARS, timeframe, where="complete")
    return market.read(CANDLE, symbol, lo_ms if first is None else first, hi_ms, timeframe, where="complete")
