"""Candles of one symbol and day.

One row is what happened in one closed interval, keyed by its open time. One-minute bars are made from trades where ids
prove them and fetched as klines elsewhere; every longer bar is rolled up from the finest bars that are stored, or is the
exchange's own where it serves no finer ones. A bar that lacks a part is there, and says `complete = false`.
"""

from typing import TYPE_CHECKING

import dagster as dg

from resources.wiring import ExchangeClient, MarketDatabase
from trading.market.timeframe import CANDLE_TIMEFRAMES, ROLLED_UP, Timeframe
from trading_assets.catalogue import daily
from trading_assets.materialized import column_schema, record_days
from trading_assets.partitions import SymbolWindow, symbol_window
from trading_assets.trades import agg_trades

if TYPE_CHECKING:
    import polars as pl

    from resources.stores import Exchange
    from resources.timescale.store import MarketStore, Written
    from trading.market.instrument import Instrument

CANDLE_COLUMNS = {
    "open_time": "timestamptz",
    **dict.fromkeys(("open", "high", "low", "close", "volume", "quote_volume"), "float8"),
    **dict.fromkeys(("trade_count", "first_agg_trade_id", "last_agg_trade_id"), "bigint"),
    "source": "trades | kline | incomplete_trades | rollup",
    "complete": "boolean",
    "n_present": "integer",
    "n_expected": "integer",
}


def _describe(timeframe: Timeframe) -> str:
    made = (
        "made from trades where ids prove them, fetched as klines elsewhere"
        if timeframe is Timeframe.M1
        else "rolled up from the finest bars that are stored"
    )
    return f"One row is one closed {timeframe} bar, keyed by its open time, {made}; known at its close."


@dg.asset(
    **daily("candles", "postgres"),
    deps=[agg_trades],
    metadata=column_schema(CANDLE_COLUMNS),
    description=_describe(Timeframe.M1),
)
def candles_1m(context: dg.AssetExecutionContext, market: MarketDatabase, exchange: ExchangeClient) -> None:
    """Bars of one minute; the description above is the asset's page."""
    from resources.timescale.tables import CANDLE

    window = symbol_window(context)
    bars, written = store_minutes(market.store, exchange.client, window)
    record_days(
        context,
        market.store,
        CANDLE,
        window,
        written,
        timeframe=Timeframe.M1,
        **_absent(bars, Timeframe.M1, market, window),
    )


def rolled_candles(timeframe: Timeframe, finer: list[dg.AssetsDefinition]) -> dg.AssetsDefinition:
    """Return the asset of one timeframe longer than a minute, made from the first of `finer` that is stored."""

    @dg.asset(
        **daily("candles", "postgres"),
        name=f"candles_{timeframe}",
        deps=finer,
        metadata=column_schema(CANDLE_COLUMNS),
        description=_describe(timeframe),
    )
    def candles(context: dg.AssetExecutionContext, market: MarketDatabase, exchange: ExchangeClient) -> None:
        from resources.timescale.tables import CANDLE

        window = symbol_window(context)
        closed = _closed(exchange.client, window, timeframe)
        bars = longer_bars(market.store, exchange.client, closed, timeframe)
        written = market.store.write(CANDLE, closed.symbol, bars, closed.lo_ms, closed.hi_ms, timeframe, exact=True)
        record_days(
            context,
            market.store,
            CANDLE,
            window,
            written,
            timeframe=timeframe,
            incomplete=int((~bars["complete"]).sum()),
        )

    return candles


def store_minutes(market: "MarketStore", exchange: "Exchange", window: SymbolWindow) -> "tuple[pl.DataFrame, Written]":
    """Store the closed one-minute bars of a window; return them and the rows that changed."""
    from resources.timescale.tables import CANDLE
    from trading.market.candle import empty_bars

    closed = _closed(exchange, window, Timeframe.M1)
    bars = minute_bars(market, exchange, closed)
    written = market.write(CANDLE, closed.symbol, bars, closed.lo_ms, closed.hi_ms, Timeframe.M1)
    # A kline that was fetched before ids proved its minute empty; a rebuild from nothing would not have it.
    empty = empty_bars(bars, closed.lo_ms, closed.hi_ms, market.proven(window.symbol), Timeframe.M1)
    return bars, written + market.drop(CANDLE, window.symbol, empty, Timeframe.M1)


def minute_bars(market: "MarketStore", exchange: "Exchange", window: SymbolWindow) -> "pl.DataFrame":
    """Return the closed one-minute bars of a window: from trades where proven, else the exchange's klines."""
    from resources.timescale.tables import TRADE
    from trading.market.candle import candles_from_trades, merge_sources, unproven

    instrument, hi_ms = market.instrument(window.symbol), _closed(exchange, window, Timeframe.M1).hi_ms
    proven = market.proven(window.symbol)
    trades = market.read(TRADE, window.symbol, window.lo_ms, hi_ms)
    from_trades = candles_from_trades(trades, instrument, Timeframe.M1, proven)
    elsewhere = unproven(window.lo_ms, hi_ms, proven, Timeframe.M1)
    return merge_sources(from_trades, _klines(exchange, instrument, Timeframe.M1, elsewhere))


def longer_bars(
    market: "MarketStore", exchange: "Exchange", window: SymbolWindow, timeframe: Timeframe
) -> "pl.DataFrame":
    """Return the closed bars of a window: rolled up from the finest stored bars that make one whole, else native.

    What to take is decided bar by bar, so that a day alone gives the same bars as the same day in a longer window.
    """
    from resources.timescale.tables import CANDLE
    from trading.market.candle import empty_candles, fuller, lacking, roll_up

    instrument, hi_ms = market.instrument(window.symbol), _closed(exchange, window, timeframe).hi_ms
    proven, bars = market.proven(window.symbol), empty_candles()
    wanted = [(window.lo_ms, hi_ms)]
    for finer in parts_of(timeframe):
        if wanted:
            parts = market.read(CANDLE, window.symbol, wanted[0][0], wanted[-1][1], finer)
            bars = fuller(bars, roll_up(parts, finer, timeframe, instrument, proven))
            wanted = lacking(bars, timeframe, window.lo_ms, hi_ms, proven)
    return fuller(bars, _klines(exchange, instrument, timeframe, wanted))


def _klines(
    exchange: "Exchange",
    instrument: "Instrument",
    timeframe: Timeframe,
    ranges: list[tuple[int, int]],
) -> "pl.DataFrame":
    import polars as pl

    from trading.market.candle import empty_candles

    if not ranges or exchange.finest(instrument, ranges[0][0]) is not timeframe:
        return empty_candles()
    return pl.concat([exchange.klines(instrument, timeframe, lo, hi) for lo, hi in ranges])


def _closed(exchange: "Exchange", window: SymbolWindow, timeframe: Timeframe) -> SymbolWindow:
    """Return the part of a window whose bars are closed: an open bar is no fact yet, and of a later one nothing is known."""
    hi_ms = max(window.lo_ms, min(window.hi_ms, timeframe.floor(exchange.now_ms())))
    return SymbolWindow(window.symbol, window.lo_ms, hi_ms)


def _absent(bars: "pl.DataFrame", timeframe: Timeframe, market: MarketDatabase, window: SymbolWindow) -> dict[str, int]:
    """Return how many minutes have no bar: proven empty by ids, or missing at the source."""
    from trading.market.candle import missing_bars, unproven

    if bars.is_empty():
        return {"minutes_empty": 0, "minutes_missing": 0}
    proven = market.store.proven(window.symbol)
    holes = missing_bars(bars, timeframe, int(bars["open_time"][0]), int(bars["open_time"][-1]) + timeframe.ms)
    total = sum(hi - lo for lo, hi in holes) // timeframe.ms
    missing = sum(b - a for lo, hi in holes for a, b in unproven(lo, hi, proven, timeframe)) // timeframe.ms
    return {"minutes_empty": total - missing, "minutes_missing": missing}


def parts_of(timeframe: Timeframe) -> list[Timeframe]:
    """Return the timeframes that a bar can be made from, finest first."""
    return [t for t in CANDLE_TIMEFRAMES if t.ms < timeframe.ms and timeframe.ms % t.ms == 0]


def _all_candles() -> dict[Timeframe, dg.AssetsDefinition]:
    made = {Timeframe.M1: candles_1m}
    for timeframe in ROLLED_UP:
        made[timeframe] = rolled_candles(timeframe, [made[part] for part in parts_of(timeframe)])
    return made


candles_of = _all_candles()
