"""Websocket, REST and archive compared by id, one verdict a symbol and day.

Trades of one id must be equal wherever they come from. What came off the stream is compared with pages of REST (the first,
the last, some drawn by a seed, and whatever is missing between) and with the day's file in the archive, where there is one.
"""

import dagster as dg

from resources.wiring import MarketDatabase, TradeJournalReader
from trading_assets.catalogue import daily
from trading_assets.materialized import column_schema, record_days
from trading_assets.partitions import symbol_window
from trading_assets.trades import agg_trades

RECONCILIATION_COLUMNS = {
    "time": "timestamptz, first moment of the day",
    "verdict": "equal | differs | not_comparable",
    "reason": "text",
    **dict.fromkeys(("websocket_rows", "rest_rows", "archive_rows", "differing_rows"), "bigint"),
    "first_differing": "bigint, aggregate trade id",
}


@dg.asset(**daily("trades", "postgres"), deps=[agg_trades], metadata=column_schema(RECONCILIATION_COLUMNS))
def trade_reconciliation(
    context: dg.AssetExecutionContext, market: MarketDatabase, journal: TradeJournalReader
) -> None:
    """One row is the verdict on one day: whether websocket, REST and archive say the same of each trade, and why not."""
    from resources.reconciliation import reconcile_days
    from resources.timescale.tables import RECONCILIATION

    window = symbol_window(context)
    with journal.read() as batches:
        days = reconcile_days(market.stores, batches, window.symbol, window.lo_ms, window.hi_ms)
    written = market.store.write(RECONCILIATION, window.symbol, days, window.lo_ms, window.hi_ms)
    verdicts = {verdict: int((days["verdict"] == verdict).sum()) for verdict in ("equal", "differs", "not_comparable")}
    told = {
        day: {"verdict": row["verdict"], "reason": row["reason"]}
        for day, row in zip(window.days(), days.iter_rows(named=True), strict=True)
    }
    record_days(context, market.store, RECONCILIATION, window, written, told=told, **verdicts)
