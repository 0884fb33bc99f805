"""A closed day, made anew from the journal and held against what is stored of it."""

from typing import TYPE_CHECKING

import dagster as dg

from resources.wiring import MarketDatabase, TradeJournalReader
from trading.market.timeframe import DAY_MS
from trading_assets.candles import candles_of
from trading_assets.catalogue import daily
from trading_assets.indicators import indicators_of
from trading_assets.materialized import column_schema, report
from trading_assets.partitions import day_key, partition_key, symbol_window
from trading_assets.seconds import book_seconds, book_snapshots, candles_1s
from trading_assets.trades import agg_trades

if TYPE_CHECKING:
    from resources.rebuild import Compared


@dg.asset(
    **daily("operations", "postgres", "rocksdb"),
    deps=[agg_trades, *candles_of.values(), *indicators_of.values(), candles_1s, book_snapshots, book_seconds],
    metadata=column_schema({"asset": "text", "rows": "bigint", "differing": "bigint", "first": "timestamptz"}),
)
def live_equals_rebuild(context: dg.AssetExecutionContext, market: MarketDatabase, journal: TradeJournalReader) -> None:
    """One row is one table of one symbol and day: how many of its rows a rebuild from the journal makes otherwise, if any.

    Only what the journal proves is compared, and nothing is written: what differs is mended by materializing its asset.
    """
    from resources.rebuild import compared, keep

    window, found = symbol_window(context), list["Compared"]()
    with journal.read() as held:
        for day_ms in range(window.lo_ms, window.hi_ms, DAY_MS):
            of_day = compared(market.store, held, window.symbol, day_ms)
            found += of_day
            metadata = {f"{c.asset}_differing": c.differing for c in of_day if c.differing}
            metadata |= {f"{c.asset}_rows": c.rows for c in of_day} | {
                "dagster/partition_row_count": len(of_day),
                "rows": sum(c.rows for c in of_day),
                "differing": sum(c.differing for c in of_day),
            }
            context.add_asset_metadata(metadata, partition_key=partition_key(window.symbol, day_key(day_ms)))
    keep(market.store, window.symbol, found)
    report("live_equals_rebuild", window.symbol, {})
