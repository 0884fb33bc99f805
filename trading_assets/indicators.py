"""Indicators of one symbol and day, and the LMDB projection of candles and indicators.

One row of `indicators_*` is the indicators of one closed, complete bar, keyed by the bar's open time: a pure function of
the last 2,400 such bars before its day and of the day's own, so that any day can be rebuilt alone, bit for bit.
"""

from typing import TYPE_CHECKING

import dagster as dg

from resources.wiring import ExchangeClient, LmdbProjection, MarketDatabase
from trading.market.timeframe import Timeframe
from trading_assets.candles import candles_of
from trading_assets.catalogue import daily
from trading_assets.materialized import column_schema, finish, record_days
from trading_assets.partitions import SymbolWindow, symbol_window

if TYPE_CHECKING:
    import polars as pl


INDICATOR_COLUMNS = {
    "open_time": "timestamptz",
    **dict.fromkeys(
        ("ema_20", "ema_50", "ema_200", "macd", "macd_signal", "macd_hist", "rsi_7", "rsi_14", "atr_3", "atr_14"),
        "float8, null until its bars are there",
    ),
    "warm": "boolean",
    "known_at": "timestamptz",
}
PROJECTED = (Timeframe.M3, Timeframe.H4)


def indicator_asset(timeframe: Timeframe) -> dg.AssetsDefinition:
    """Return the asset of the indicators on one timeframe."""

    @dg.asset(
        **daily("indicators", "postgres", "numba"),
        name=f"indicators_{timeframe}",
        deps=[candles_of[timeframe]],
        metadata=column_schema(INDICATOR_COLUMNS),
        description=(
            f"One row is EMA 20/50/200, MACD 12/26/9, RSI 7/14 and ATR 3/14 at the close of one complete {timeframe} bar, "
            "keyed by the bar's open time; seeded by simple averages, smoothed as Wilder does."
        ),
    )
    def indicators(context: dg.AssetExecutionContext, market: MarketDatabase, exchange: ExchangeClient) -> None:
        from resources.timescale.history import bars_with_history
        from resources.timescale.tables import INDICATOR
        from trading.indicators.recursion import indicators_of_days

        window = symbol_window(context)
        candles = bars_with_history(market.store, window.symbol, timeframe, window.lo_ms, window.hi_ms)
        values = indicators_of_days(candles, timeframe, window.lo_ms, window.hi_ms)
        written = market.store.write(
            INDICATOR, window.symbol, values, window.lo_ms, window.hi_ms, timeframe, True, exchange.client.now_ms()
        )
        record_days(
            context, market.store, INDICATOR, window, written, timeframe=timeframe, warm=int(values["warm"].sum())
        )

    return indicators


indicators_of = {timeframe: indicator_asset(timeframe) for timeframe in PROJECTED}


@dg.asset(
    **daily("indicators", "lmdb"),
    deps=[candles_of[timeframe] for timeframe in PROJECTED],
    pool="lmdb",
    metadata=column_schema({"key": "{symbol}:{open_time_ms}", "value": "JSON: open, high, low, close, volume"}),
)
def lmdb_candles(context: dg.AssetExecutionContext, market: MarketDatabase, lmdb: LmdbProjection) -> None:
    """One entry is one complete 3m or 4h bar as JSON, keyed `{symbol}:{open_time_ms}`: a projection of the database."""
    from resources.timescale.tables import CANDLE

    window = symbol_window(context)
    frames = {
        f"candles_{timeframe}": market.store.read(
            CANDLE, window.symbol, window.lo_ms, window.hi_ms, timeframe, where="complete"
        )
        for timeframe in PROJECTED
    }
    _project(context, market, lmdb, window, frames)


@dg.asset(
    **daily("indicators", "lmdb"),
    deps=[indicators_of[timeframe] for timeframe in PROJECTED],
    pool="lmdb",
    metadata=column_schema(
        {"key": "{symbol}:{open_time_ms}", "value": "JSON: ema_20, ema_50, macd, rsi_14, atr_14 and more"}
    ),
)
def lmdb_indicators(context: dg.AssetExecutionContext, market: MarketDatabase, lmdb: LmdbProjection) -> None:
    """One entry is the indicators of one 3m or 4h bar as JSON, keyed `{symbol}:{open_time_ms}`; only warm ones."""
    from resources.timescale.tables import INDICATOR

    window = symbol_window(context)
    frames = {
        f"indicators_{timeframe}": market.store.read(
            INDICATOR, window.symbol, window.lo_ms, window.hi_ms, timeframe, where="warm"
        )
        for timeframe in PROJECTED
    }
    _project(context, market, lmdb, window, frames)


def _project(
    context: dg.AssetExecutionContext,
    market: MarketDatabase,
    lmdb: LmdbProjection,
    window: SymbolWindow,
    frames: "dict[str, pl.DataFrame]",
) -> None:
    """Make the window of each LMDB database equal to its frame, unless an external producer owns it; record its days."""
    from resources.day_digest import days_of_frame

    changed, rows = 0, {}
    for database, frame in frames.items():
        if lmdb.store.ours:
            changed += lmdb.store.write(database, window.symbol, frame, window.lo_ms, window.hi_ms).changed
        there = days_of_frame(lmdb.store.read(database, window.symbol, window.lo_ms, window.hi_ms), "open_time")
        market.store.note_days(f"lmdb_{database}", window.symbol, there, window.days())
        for day, (count, _) in there.items():
            rows[day] = rows.get(day, 0) + count
    finish(context, window, rows, {"lmdb": changed}, producer="ours" if lmdb.store.ours else "external")
