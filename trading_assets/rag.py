"""Market memory of one symbol and day: states, what came after them, their features, and the index that finds them.

A state is taken every 15 minutes from bars that had closed by then. Its outcomes stay unknown until 24 hours later and
are never part of what is searched. The index in Qdrant is a projection with deterministic ids.
"""

from typing import TYPE_CHECKING

import dagster as dg

from resources.wiring import LmdbProjection, MarketDatabase, StateIndex
from trading.market.timeframe import DAY_MS, HOUR_MS
from trading_assets.catalogue import RESEARCH, daily
from trading_assets.derivatives import derivatives
from trading_assets.indicators import lmdb_candles, lmdb_indicators
from trading_assets.materialized import column_schema, finish, record_days
from trading_assets.partitions import SymbolWindow, symbol_window

if TYPE_CHECKING:
    import polars as pl

    from resources.lmdb import LmdbStore

SHORT_HISTORY_MS = 26 * HOUR_MS
"""3m bars that a state looks back on: a change over 24 hours and the bars around its edges."""

LONG_HISTORY_MS = 21 * 4 * HOUR_MS + DAY_MS
"""4h bars that a state looks back on: twenty for the average volume, one being open, a day for short gaps."""


@dg.asset(
    **daily("rag", "postgres", "lmdb", owners=RESEARCH),
    deps=[lmdb_candles, lmdb_indicators, derivatives],
    metadata=column_schema({"time": "timestamptz", "price": "float8", "…": "33 fields of the state", "digest": "text"}),
)
def market_snapshots(context: dg.AssetExecutionContext, market: MarketDatabase, lmdb: LmdbProjection) -> None:
    """One row is the state of one market at one quarter of an hour: bars, open interest and funding as known by then."""
    from resources.timescale.tables import DERIVATIVE, SNAPSHOT
    from trading.rag.contract import HISTORY_MS
    from trading.rag.snapshot import snapshots

    window = symbol_window(context)
    contract = market.store.read(DERIVATIVE, window.symbol, window.lo_ms - HISTORY_MS, window.hi_ms)
    states, rejected = snapshots(window.symbol, *_bars(lmdb.store, window), contract, window.lo_ms, window.hi_ms)
    written = market.store.write(SNAPSHOT, window.symbol, states, window.lo_ms, window.hi_ms, exact=True)
    record_days(
        context, market.store, SNAPSHOT, window, written, warm=int(states["warm"].sum()), rejected=len(rejected)
    )


@dg.asset(
    **daily("rag", "postgres", owners=RESEARCH),
    deps=[market_snapshots, lmdb_candles],
    metadata=column_schema({"time": "timestamptz", "outcome_24h": "float8, percent", "matures_at_ms": "bigint"}),
)
def snapshot_outcomes(context: dg.AssetExecutionContext, market: MarketDatabase, lmdb: LmdbProjection) -> None:
    """One row is what happened in the 24 hours after one state; it exists once those 24 hours have passed."""
    from resources.timescale.tables import OUTCOME, SNAPSHOT
    from trading.market.timeframe import Timeframe
    from trading.rag.outcomes import outcomes

    window = symbol_window(context)
    # A day's outcomes mature on the next day: what the run before could not know is filled in now.
    lo_ms = window.lo_ms - DAY_MS
    states = market.store.read(SNAPSHOT, window.symbol, lo_ms, window.hi_ms)
    bars = lmdb.store.read("candles_3m", window.symbol, lo_ms, window.hi_ms + DAY_MS)
    known_until = int(bars["open_time"][-1]) + Timeframe.M3.ms if len(bars) else 0
    matured = outcomes(states.select("ts_ms", "price"), bars, known_until)
    written = market.store.write(OUTCOME, window.symbol, matured, lo_ms, window.hi_ms, exact=True)
    reached = SymbolWindow(window.symbol, lo_ms, window.hi_ms)
    market.store.record_days(OUTCOME, "snapshot_outcomes", window.symbol, reached.lo_ms, reached.hi_ms)
    record_days(context, market.store, OUTCOME, window, written, matured=len(matured))


@dg.asset(
    **daily("rag", "postgres", owners=RESEARCH),
    deps=[market_snapshots, lmdb_candles, lmdb_indicators],
    metadata=column_schema({"time": "timestamptz", "…": "20 scale-free numbers, float8 within ±2.6"}),
)
def snapshot_features(context: dg.AssetExecutionContext, market: MarketDatabase, lmdb: LmdbProjection) -> None:
    """One row is the 20 numbers by which one warm state without gaps is compared with others (`feat_v1`)."""
    from resources.timescale.tables import FEATURE, SNAPSHOT
    from trading.rag.features import features

    window = symbol_window(context)
    states = market.store.read(SNAPSHOT, window.symbol, window.lo_ms, window.hi_ms)
    values = features(*_bars(lmdb.store, window), states)
    written = market.store.write(FEATURE, window.symbol, values, window.lo_ms, window.hi_ms, exact=True)
    record_days(context, market.store, FEATURE, window, written)


@dg.asset(
    **daily("rag", "qdrant", owners=RESEARCH),
    deps=[snapshot_features, snapshot_outcomes],
    metadata=column_schema(
        {"id": "UUIDv5 of venue, symbol, time and version", "vector": "20 × float32", "payload": "JSON"}
    ),
)
def qdrant_points(context: dg.AssetExecutionContext, market: MarketDatabase, index: StateIndex) -> None:
    """One point is the features of one state with its outcomes once they are mature, keyed by a UUIDv5."""
    from resources.points import points_of, reconcile

    window = symbol_window(context)
    lo_ms = window.lo_ms - DAY_MS
    points = points_of(market.store, window.symbol, lo_ms, window.hi_ms)
    changed = reconcile(index.store, window.symbol, points, lo_ms, window.hi_ms)
    by_day = points.by_day()
    reached = SymbolWindow(window.symbol, lo_ms, window.hi_ms)
    market.store.note_days("qdrant_points", window.symbol, by_day, reached.days())
    rows = {day: count for day, (count, _) in by_day.items()}
    finish(context, window, rows, {"qdrant": changed}, matured=points.matured)


def _bars(lmdb: "LmdbStore", window: SymbolWindow) -> "tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, pl.DataFrame]":
    """Return 3m candles, 3m indicators, 4h candles and 4h indicators that a window's states look back on."""
    short, long = window.lo_ms - SHORT_HISTORY_MS, window.lo_ms - LONG_HISTORY_MS
    return (
        lmdb.read("candles_3m", window.symbol, short, window.hi_ms),
        lmdb.read("indicators_3m", window.symbol, short, window.hi_ms),
        lmdb.read("candles_4h", window.symbol, long, window.hi_ms),
        lmdb.read("indicators_4h", window.symbol, long, window.hi_ms),
    )
