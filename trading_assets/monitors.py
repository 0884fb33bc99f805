"""How the market database is doing, as assets: what it takes to ask it, and how large it is and will be.

What is measured and what is too much is said in `resources.timescale.monitor`; samples stay in `md.monitor`.
"""

from typing import Any

import dagster as dg

from resources.wiring import MarketDatabase
from trading_assets.candles import candles_of
from trading_assets.catalogue import MARKET_DATA, daily_fresh
from trading_assets.materialized import column_schema, report
from trading_assets.monitor_plots import growth_plot, latency_plot
from trading_assets.plots import embedded
from trading_assets.trades import agg_trades

SAMPLE_COLUMNS = {"monitor": "text", "name": "text", "time": "timestamptz", "value": "float8"}
MONITOR: dict[str, Any] = {
    "group_name": "operations",
    "kinds": {"python", "postgres"},
    "owners": MARKET_DATA,
    "freshness_policy": daily_fresh,
    "metadata": column_schema(SAMPLE_COLUMNS),
}


@dg.asset(**MONITOR, deps=list(candles_of.values()))
def query_latencies(market: MarketDatabase) -> dg.MaterializeResult:
    """One row is how long one question took: on a new connection, and warm its median and 99th percentile, in ms."""
    from resources.timescale.loop import wait
    from resources.timescale.monitor import SHAPES, keep, latencies
    from resources.timescale.tables import CANDLE
    from trading.market.timeframe import Timeframe

    store, stores = market.store, market.stores
    symbol = next(iter(store.instruments()), "")
    span = store.span(CANDLE, symbol, Timeframe.M1) if symbol else None
    if span is None:
        return dg.MaterializeResult(metadata={"dagster/row_count": 0, "reason": "there are no bars to ask for"})
    found = wait(latencies(stores.urls.postgres, stores.venue, symbol, span[1] + Timeframe.M1.ms))
    samples = {name: value for latency in found for name, value in latency.samples().items()}
    wait(store.connections.run(lambda c: keep(c, "query_latencies", samples), transaction=True))
    report("query_latencies", "", {})
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(found),
            "latencies": embedded(latency_plot(found, {shape.name: shape.most_ms for shape in SHAPES}), "latencies"),
            **{name: round(value, 2) for name, value in samples.items() if name.endswith("_ms")},
            "read_from_end_to_end": ", ".join(sorted({name for latency in found for name in latency.scanned}))
            or "none",
        }
    )


@dg.asset(**MONITOR, deps=list(candles_of.values()))
def table_sizes(market: MarketDatabase) -> dg.MaterializeResult:
    """One row is how many rows and bytes one table has, what its columnstore saves, or for how long the disk lasts."""
    import shutil

    from resources.disk_reserve import reserve_bytes
    from resources.timescale.loop import wait
    from resources.timescale.monitor import days_of_room, history, keep, sizes

    stores, connections = market.stores, market.store.connections
    found = wait(connections.run(sizes))
    total = sum(size.total_bytes for size in found)
    grown = wait(connections.run(lambda c: history(c, "table_sizes", "total_bytes")))
    # Of a server elsewhere nobody here can see the disk.
    disk = None if stores.settings.postgres_url else shutil.disk_usage(stores.home.path)
    room = None if disk is None else days_of_room(grown, disk.free - reserve_bytes(disk.total))
    samples: dict[str, float] = {"total_bytes": total} | {f"{size.table}.bytes": size.total_bytes for size in found}
    samples |= {f"{size.table}.rows": size.rows for size in found}
    samples |= {f"{size.table}.saved": size.saved for size in found if size.saved is not None}
    samples |= {} if room is None else {"days_of_room": room}
    wait(connections.run(lambda c: keep(c, "table_sizes", samples), transaction=True))
    grown = wait(connections.run(lambda c: history(c, "table_sizes", "total_bytes")))
    report("table_sizes", "", {})
    return dg.MaterializeResult(
        metadata={
            "dagster/row_count": len(found),
            "total_bytes": total,
            "days_of_room": "unknown" if room is None else round(room, 1),
            "growth": embedded(growth_plot(found, grown), "sizes"),
            **{f"{size.table}_saved": round(size.saved, 3) for size in found if size.saved is not None},
        }
    )


@dg.asset(**MONITOR, deps=[agg_trades])
def rows_refused(market: MarketDatabase) -> dg.MaterializeResult:
    """One row is how much of one kind did not get in: dead letters of a table, frames of a market; and how many rows did."""
    from resources.refusals import refused
    from resources.timescale.loop import wait
    from resources.timescale.monitor import keep, rows_a_second, rows_written

    connections, samples = market.store.connections, refused(market.stores.home)
    rate = wait(connections.run(rows_a_second))
    samples |= {"rows_written": wait(connections.run(rows_written))} | ({} if rate is None else {"rows_a_second": rate})
    wait(connections.run(lambda c: keep(c, "rows_refused", samples), transaction=True))
    report("rows_refused", "", {})
    return dg.MaterializeResult(metadata={"dagster/row_count": len(samples), **samples})
