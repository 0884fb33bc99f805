"""Aggregate trades of one symbol and day, as the journal holds them and as the database serves them.

One row is one aggregate trade, keyed by its consecutive id. The collector writes the journal; `agg_trades` reconciles
the database with it and takes over which ids, and so which moments, are proven.
"""

from typing import TYPE_CHECKING

import dagster as dg

from resources.wiring import ExchangeClient, MarketDatabase, TradeJournalReader
from trading_assets.catalogue import MARKET_DATA, daily, daily_fresh
from trading_assets.materialized import column_schema, record_days, report
from trading_assets.partitions import partition_key, symbol_window, symbols

if TYPE_CHECKING:
    from resources.past_days import ArchivedDay

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


def batches(name: str, group: str, beside: str = "") -> dg.AssetSpec:
    """Return the asset that a collector writes and reports: one kind of market, in a journal of its own."""
    return dg.AssetSpec(
        name,
        deps=[instruments],
        group_name=group,
        kinds={"rocksdb", "websocket", "msgpack"},
        owners=MARKET_DATA,
        partitions_def=None,
        freshness_policy=daily_fresh,
        description=(
            "One row is the aggregate trades of one symbol in one second of exchange time, keyed "
            "`trades:{symbol}:{timestamp_ms}`, written by the collector together with the ledger of ids it proves. "
            f"{beside}Each closed quarter of an hour is reported as a materialization."
        ),
        metadata=column_schema({"key": "trades:{symbol}:{timestamp_ms}", "trades": "MessagePack"}),
    )


trade_batches = batches("trade_batches", "trades")
contract_batches = batches(
    "contract_batches",
    "derivatives",
    "They are those of the symbol's perpetual contract; beside them the journal holds its books and the mark price of every "
    "second. ",
)


@dg.asset(**daily("trades", "postgres"), deps=[trade_batches], metadata=column_schema(TRADE_COLUMNS))
def agg_trades(context: dg.AssetExecutionContext, market: MarketDatabase, journal: TradeJournalReader) -> None:
    """One row is one aggregate trade, keyed by its consecutive id; late by the journal's checkpoint, a minute at most.

    Days that the journal does not prove are completed from the exchange's archive, where one is set; what came off the
    stream is never replaced by it.
    """
    from resources.gap_ledger import project
    from resources.past_days import store_trades
    from resources.retention import note_verified, verified_until_ms
    from resources.timescale.tables import TRADE
    from trading.stream.contiguity import count_of

    window = symbol_window(context)
    with journal.read() as batches:
        for warning in batches.warnings:
            context.log.warning(warning)
        stored = store_trades(market.stores, batches, window.symbol, window.lo_ms, window.hi_ms)
        project(batches, market.store, window.symbol)
        done_ms = verified_until_ms(batches.ledger(window.symbol), market.store.trade_coverage(window.symbol))
        note_verified(market.stores.home.rocksdb_dir, window.symbol, done_ms)
    for day in stored.archived:
        if day.is_new:
            context.log_event(_data_version(context, window.symbol, day))
    metadata = {"trades": stored.collected, "archive_days": len(stored.archived)}
    for name, ids in stored.odd.items():
        metadata[f"odd_{name}"] = len(ids)
        context.log.warning("%s: %d odd trades are kept: %s, from id %d on", window.symbol, len(ids), name, ids[0])
    metadata["unlike_archive"] = sum(count_of(day.version.kept) for day in stored.archived)
    record_days(context, market.store, TRADE, window, stored.written, **metadata)


def _data_version(context: dg.AssetExecutionContext, symbol: str, day: "ArchivedDay") -> dg.AssetObservation:
    """Say that a file of the archive was read for the first time, or issued anew."""
    from trading.stream.contiguity import count_of

    version = day.version
    changes = {name: count_of(getattr(version, name)) for name in ("added", "changed", "kept", "withdrawn")}
    return dg.AssetObservation(
        asset_key=context.asset_key,
        partition=partition_key(symbol, version.day),
        description=f"{version.file}.zip, version {version.version}",
        metadata={"archive_version": version.version, "sha256": version.sha256, "rows": version.rows, **changes},
    )
