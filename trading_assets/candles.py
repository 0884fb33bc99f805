"""Candles of one symbol and day.

One row is what happened in one closed interval, keyed by its open time. One-minute bars are made from trades where ids
prove them and fetched as klines elsewhere; every longer bar is rolled up from the finest bars that are stored, or is the
exchange's own where it serves no finer ones. A bar that lacks a part is there, and says `complete = false`.
"""

from typing import TYPE_CHECKING

import dagster as dg

from resources.wiring import ExchangeClient, MarketDatabase
from trading.market.timeframe import ROLLED_UP, Timeframe, parts_of
from trading_assets.catalogue import daily
from trading_assets.materialized import column_schema, record_days
from trading_assets.partitions import SymbolWindow, symbol_window
from trading_assets.trades import agg_trades

if TYPE_CHECKING:
    import polars as pl

    from resources.stores import Exchange
    from resources.timescale.store import MarketStore
    from resources.timescale.writing import Written
    from trading.market.instrument import Instrument

CANDLE_COLUMNS = {
    "open_time": "timestamptz",
    **dict.fromkeys(("open", "high", "low", "close", "volume", "quote_volume"), "float8"),
    **dict.fromkeys(("trade_count", "first_agg_trade_id", "last_agg_trade_id"), "bigint"),
    "source": "trades | kline | incomplete_trades | rollup",
    "complete": "boolean",
    "n_present": "integer",
    "n_expected": "integer",
    "known_at": "timestamptz",
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
        written = market.store.write(
            CANDLE, closed.symbol, bars, closed.lo_ms, closed.hi_ms, timeframe, True, exchange.client.now_ms()
        )
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
    from resources.retired_trades import proven_of
    from resources.timescale.tables import CANDLE
    from trading.market.candle import empty_bars

    closed = _closed(exchange, window, Timeframe.M1)
    bars = minute_bars(market, exchange, closed)
    now_ms = exchange.now_ms()
    written = market.write(CANDLE, closed.symbol, bars, closed.lo_ms, closed.hi_ms, Timeframe.M1, recorded_at_ms=now_ms)
    # A kline that was fetched before ids proved its minute empty; a rebuild from nothing would not have it.
    empty = empty_bars(bars, closed.lo_ms, closed.hi_ms, proven_of(market, window.symbol), Timeframe.M1)
    return bars, written + market.drop(CANDLE, window.symbol, empty, Timeframe.M1, now_ms)


def minute_bars(market: "MarketStore", exchange: "Exchange", window: SymbolWindow) -> "pl.DataFrame":
    """Return the closed one-minute bars of a window: from trades where proven, else the exchange's klines."""
    from resources.retired_trades import proven_of, trades_of
    from trading.market.candle import candles_from_trades, merge_sources, unproven

    instrument, hi_ms = market.instrument(window.symbol), _closed(exchange, window, Timeframe.M1).hi_ms
    proven = proven_of(market, window.symbol)
    trades = trades_of(market, window.symbol, window.lo_ms, hi_ms)
    from_trades = candles_from_trades(trades, instrument, Timeframe.M1, proven)
    elsewhere = unproven(window.lo_ms, hi_ms, proven, Timeframe.M1)
    return merge_sources(from_trades, _klines(exchange, instrument, Timeframe.M1, elsewhere))


def longer_bars(
    market: "MarketStore", exchange: "Exchange", window: SymbolWindow, timeframe: Timeframe
) -> "pl.DataFrame":
    """Return the closed bars of a window: rolled up from the finest stored bars that make one whole, else native."""
    from resources.retired_trades import proven_of
    from resources.timescale.tables import CANDLE
    from trading.market.candle import fuller
    from trading.market.longer_bars import rolled_bars

    instrument, hi_ms = market.instrument(window.symbol), _closed(exchange, window, timeframe).hi_ms
    bars, wanted = rolled_bars(
        lambda finer, lo_ms, hi_ms: market.read(CANDLE, window.symbol, lo_ms, hi_ms, finer),
        instrument,
        timeframe,
        proven_of(market, window.symbol),
        window.lo_ms,
        hi_ms,
    )
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
    from resources.retired_trades import proven_of
    from trading.market.candle import missing_bars, unproven

    if bars.is_empty():
        return {"minutes_empty": 0, "minutes_missing": 0}
    proven = proven_of(market.store, window.symbol)
    holes = missing_bars(bars, timeframe, int(bars["open_time"][0]), int(bars["open_time"][-1]) + timeframe.ms)
    total = sum(hi - lo for lo, hi in holes) // timeframe.ms
    missing = sum(b - a for lo, hi in holes for a, b in unproven(lo, hi, proven, timeframe)) // timeframe.ms
    return {"minutes_empty": total - missing, "minutes_missing": missing}


def _all_candles() -> dict[Timeframe, dg.AssetsDefinition]:
    made = {Timeframe.M1: candles_1m}
    for timeframe in ROLLED_UP:
        made[timeframe] = rolled_candles(timeframe, [made[part] for part in parts_of(timeframe)])
    return made


candles_of = _all_candles()
