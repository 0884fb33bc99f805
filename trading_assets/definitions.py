"""The composition root: everything that Dagster sees of this project, put together once.

`build_defs` takes other resources, so that a test builds the real code location on stores of its own. Nobody imports
this module but Dagster, the runner of chains and tests.
"""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from resources.wiring import (
    ExchangeClient,
    HotCache,
    LmdbProjection,
    MarketDatabase,
    StateIndex,
    TradeJournalReader,
)
from sensors.collector import collect_spot, collect_usdm, collector_supervisor
from sensors.old_runs import forget_repeated, forget_runs
from sensors.ranges import split_failed_ranges
from trading_assets.automation import (
    chain,
    close_days,
    compare_days,
    compare_yesterday,
    drop_old,
    keep_hot,
    look_after,
    refresh_today,
    retire_days,
    upkeep,
    watch_database,
)
from trading_assets.candles import candles_of
from trading_assets.checks import checks
from trading_assets.derivatives import derivatives
from trading_assets.indicators import indicators_of, lmdb_candles, lmdb_indicators
from trading_assets.lake import lake, retention
from trading_assets.microstructure import (
    liquidity_vacuums,
    market_reports,
    order_books,
    order_flow,
    profile_minutes,
    volume_profiles,
)
from trading_assets.monitors import query_latencies, rows_refused, table_sizes
from trading_assets.operations import hot_values
from trading_assets.rag import market_snapshots, qdrant_points, snapshot_features, snapshot_outcomes
from trading_assets.rebuild import live_equals_rebuild
from trading_assets.reconciliation import trade_reconciliation
from trading_assets.seconds import book_seconds, book_snapshots, candles_1s
from trading_assets.trades import agg_trades, contract_batches, instruments, trade_batches

RESOURCES: dict[str, type[dg.ConfigurableResource]] = {
    "market": MarketDatabase,
    "journal": TradeJournalReader,
    "lmdb": LmdbProjection,
    "index": StateIndex,
    "hot": HotCache,
    "exchange": ExchangeClient,
}


def build_defs(resource_overrides: Mapping[str, Any] | None = None) -> dg.Definitions:
    """Return the code location, with some resources replaced where a test asks for it."""
    return dg.Definitions(
        assets=[
            instruments,
            trade_batches,
            agg_trades,
            trade_reconciliation,
            *candles_of.values(),
            *indicators_of.values(),
            lmdb_candles,
            lmdb_indicators,
            market_snapshots,
            snapshot_outcomes,
            snapshot_features,
            qdrant_points,
            contract_batches,
            derivatives,
            profile_minutes,
            volume_profiles,
            liquidity_vacuums,
            order_flow,
            order_books,
            market_reports,
            candles_1s,
            book_snapshots,
            book_seconds,
            lake,
            retention,
            hot_values,
            query_latencies,
            table_sizes,
            rows_refused,
            live_equals_rebuild,
        ],
        asset_checks=checks,
        jobs=[chain, upkeep, retire_days, watch_database, compare_days, forget_runs, collect_spot, collect_usdm],
        schedules=[close_days, compare_yesterday, refresh_today, keep_hot, drop_old, look_after, forget_repeated],
        sensors=[collector_supervisor, split_failed_ranges],
        resources={name: kind() for name, kind in RESOURCES.items()} | dict(resource_overrides or {}),
        executor=dg.in_process_executor,
    )


defs = build_defs()
