"""The lake: what has closed, as files that other programs read and that outlive the database's own rows.

An export is a copy that has been proven: each file was read back and found equal to the database before it counts. Retention
believes nothing else.
"""

from collections import Counter

import dagster as dg

from resources.wiring import ExchangeClient, MarketDatabase
from trading.market.timeframe import DAY_MS
from trading_assets.candles import candles_of
from trading_assets.catalogue import MARKET_DATA, daily, daily_fresh
from trading_assets.materialized import column_schema, finish, report
from trading_assets.partitions import day_ms, symbol_window
from trading_assets.trades import agg_trades

RETIRED_COLUMNS = {"table": "trade | candle_1s | book_snapshot | book_1s", "symbol": "text", "day": "UTC day"}
LAKE_COLUMNS = {
    "dataset": "trade | candle | candle_1s | book_snapshot | book_1s",
    "venue": "text",
    "symbol": "text, percent-encoded",
    "date": "UTC day",
    "file": "Parquet: all versions of the day's rows; `_manifest.json` beside it",
}


@dg.asset(
    **daily("operations", "parquet"), deps=[agg_trades, *candles_of.values()], metadata=column_schema(LAKE_COLUMNS)
)
def lake(context: dg.AssetExecutionContext, market: MarketDatabase, exchange: ExchangeClient) -> None:
    """One row is one dataset of one symbol and closed UTC day, as a Parquet file that was read back and proven equal.

    A day that is not over, and one that is in the lake as it is in the database, are left alone.
    """
    from resources.lake import DATASETS
    from resources.lake_export import export_days

    window, now_ms = symbol_window(context), exchange.client.now_ms()
    closed = [day for day in window.days() if day_ms(day) + DAY_MS <= now_ms]
    rows: Counter[str] = Counter()
    files, size = 0, 0
    for dataset in DATASETS:
        exported = export_days(market.store, market.stores.lake, dataset, window.symbol, closed, now_ms)
        rows.update({manifest.day: manifest.rows for manifest in exported.manifests})
        files, size = files + exported.files, size + exported.bytes
    told = {day: {"reason": "the day is not over"} for day in window.days() if day not in closed}
    finish(context, window, rows, {"lake": files}, told, written_bytes=size)


@dg.asset(
    deps=[lake],
    group_name="operations",
    kinds={"python", "postgres"},
    owners=MARKET_DATA,
    freshness_policy=daily_fresh,
    metadata=column_schema(RETIRED_COLUMNS),
)
def retention(market: MarketDatabase, exchange: ExchangeClient) -> dg.MaterializeResult:
    """One row is one day of one symbol that went from PostgreSQL because it is old enough and lies verified in the lake.

    `keep_trades_days` and `keep_seconds_days` say what is old enough; by default nothing ever is.
    """
    from resources.lake_retention import retire
    from resources.timescale.backend import RETAINED
    from resources.timescale.tables import TRADE

    settings, now_ms, told = market.stores.settings, exchange.client.now_ms(), {}
    days = 0
    for table in RETAINED:
        keep_days = settings.keep_trades_days if table is TRADE else settings.keep_seconds_days
        if keep_days:
            retired = retire(market.store, market.stores.lake, table, keep_days, now_ms)
            days += retired.days
            told |= {f"waiting_{table.name}_{symbol}": day for symbol, day in retired.waiting.items()}
    report("retention", "", {"postgres": days})
    return dg.MaterializeResult(metadata={"dagster/row_count": days} | told)
