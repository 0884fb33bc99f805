"""Projections that serve live readers: hot values in Redis, rebuilt from the database and proven equal to it."""

import dagster as dg

from resources.wiring import HotCache, MarketDatabase
from trading_assets.candles import candles_1m
from trading_assets.catalogue import MARKET_DATA, daily_fresh
from trading_assets.indicators import indicators_of
from trading_assets.materialized import column_schema, report


@dg.asset(
    deps=[candles_1m, *indicators_of.values()],
    group_name="operations",
    kinds={"python", "redis"},
    owners=MARKET_DATA,
    freshness_policy=daily_fresh,
    metadata=column_schema(
        {"key": "latest:{symbol}", "value": "hash: open_time, close, volume, ema_20, rsi_14 and more"}
    ),
)
def hot_values(market: MarketDatabase, hot: HotCache) -> dg.MaterializeResult:
    """One hash is the newest closed minute of one symbol with its newest indicators, keyed `latest:{symbol}`."""
    from resources.latest import latest_values

    rows = latest_values(market.store)
    changed = hot.store.rebuild(rows)
    report("hot_values", "", {"redis": changed})
    return dg.MaterializeResult(metadata={"dagster/row_count": len(rows), "changed_redis": changed})
