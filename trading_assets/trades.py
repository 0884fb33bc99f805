"""Aggregate trades of one symbol and day, as the journal holds them and as the database serves them.

One row is one aggregate trade, keyed by its consecutive id. The collector writes the journal; `agg_trades` reconciles
the database with it and takes over which ids, and so which moments, are proven.
"""

import dagster as dg

from resources.wiring import ExchangeClient, MarketDatabase, TradeJournalReader
from trading.market.timeframe import DAY_MS
from trading_assets.catalogue import MARKET_DATA, daily, daily_fresh
from trading_assets.materialized import column_schema, record_days, report
from trading_assets.partitions import symbol_window, symbols

TRADE_COLUMNS = {
    "agg_trade_id": "bigint",
    "price": "bigint, ticks",
    "quantity": "bigint, lots",
    "first_trade_id": "bigint",
    "last_trade_id": "bigint",
    "time": "timestamptz",
    "buyer_is_maker": "boolean",
}


@dg.asset(
    group_name="sources",
    kinds={"python", "postgres", "binance"},
    owners=MARKET_DATA,
    freshness_policy=daily_fresh,
    metadata=column_schema({"venue": "text", "name": "text", "base": "text", "quote": "text", "price_decimals": "int"}),
)
def instruments(
    context: dg.AssetExecutionContext, market: MarketDatabase, exchange: ExchangeClient
) -> dg.MaterializeResult:
    """One row is one market of the exchange with the steps of its prices and quantities, keyed by venue and name."""
    names = tuple(market.stores.settings.symbols)
    known = exchange.client.instruments(names)
    market.store.register(known.values())
    context.instance.add_dynamic_partitions(symbols.name or "", list(known))
    report("instruments", "", {"postgres": 0})
    return dg.MaterializeResult(metadata={"dagster/row_count": len(known), "symbols": ", ".join(known)})


trade_batches = dg.AssetSpec(
    "trade_batches",
    deps=[instruments],
    group_name="trades",
    kinds={"rocksdb", "websocket", "msgpack"},
    owners=MARKET_DATA,
    partitions_def=None,
    freshness_policy=daily_fresh,
    description=(
        "One row is the aggregate trades of one symbol in one second of exchange time, keyed "
        "`trades:{symbol}:{timestamp_ms}`, written by the collector together with the ledger of ids it proves. "
        "Each closed quarter of an hour is reported as a materialization."
    ),
    metadata=column_schema({"key": "trades:{symbol}:{timestamp_ms}", "trades": "MessagePack"}),
)


@dg.asset(**daily("trades", "postgres"), deps=[trade_batches], metadata=column_schema(TRADE_COLUMNS))
def agg_trades(context: dg.AssetExecutionContext, market: MarketDatabase, journal: TradeJournalReader) -> None:
    """One row is one aggregate trade, keyed by its consecutive id; late by the journal's checkpoint, a minute at most."""
    from resources.gap_ledger import project
    from resources.journal_coverage import take_over_coverage
    from resources.retention import note_verified, verified_until_ms
    from resources.timescale.tables import TRADE

    window = symbol_window(context)
    with journal.read() as batches:
        # What the journal keeps no longer is read from it no longer: the database has it, and goes on having it.
        kept_ms = -(-batches.kept_since_ms(window.symbol) // DAY_MS) * DAY_MS
        lo_ms = min(max(window.lo_ms, kept_ms), window.hi_ms)
        trades = batches.trades(window.symbol, lo_ms, window.hi_ms)
        written = market.store.write(TRADE, window.symbol, trades, lo_ms, window.hi_ms)
        take_over_coverage(batches, market.store, window.symbol, lo_ms, window.hi_ms)
        project(batches, market.store, window.symbol)
        done_ms = verified_until_ms(batches.ledger(window.symbol), market.store.trade_coverage(window.symbol))
        note_verified(market.stores.home.rocksdb_dir, window.symbol, done_ms)
    record_days(context, market.store, TRADE, window, written, trades=len(trades))
