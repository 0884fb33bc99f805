"""Trades whose rows have gone from the database: read from the lake, with what their ids prove.

A day that is made anew from its trades (bars, profile minutes) must find them wherever they are; a day without trades would
seem to be one on which nothing happened.
"""

import polars as pl

from resources.lake import Manifest, day_of, day_start_ms
from resources.timescale.store import MarketStore
from resources.timescale.tables import TRADE
from trading.market.timeframe import DAY_MS


def trades_of(market: MarketStore, symbol: str, lo_ms: int, hi_ms: int) -> pl.DataFrame:
    """Return the trades with time in `[lo_ms, hi_ms)`: the database's, and the lake's of days that have gone from there."""
    held = market.read(TRADE, symbol, lo_ms, hi_ms)
    days = [day_start_ms(manifest.day) for manifest in _gone(market, symbol, lo_ms, hi_ms)]
    if market.lake is None or not days:
        return held
    parts = [market.lake.read("trade", symbol, max(lo_ms, day), min(hi_ms, day + DAY_MS)).collect() for day in days]
    return pl.concat([*parts, held]).sort("agg_trade_id")


def proven_of(market: MarketStore, symbol: str) -> list[tuple[int, int]]:
    """Return the half-open stretches of exchange time (ms) in which every trade is held, here or in the lake."""
    found: list[tuple[int, int]] = []
    retired = [
        (proof.proven_from_ms, proof.proven_until_ms)
        for manifest in _gone(market, symbol, 0, 2**45)
        for proof in manifest.proven
    ]
    for lo_ms, hi_ms in sorted(retired + market.proven(symbol)):
        if found and lo_ms <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], hi_ms))
        else:
            found.append((lo_ms, hi_ms))
    return found


def retired_days(market: MarketStore, symbol: str, lo_ms: int, hi_ms: int) -> dict[str, tuple[int, int]]:
    """Return, by day, how many trades went from the database, and how many milliseconds their ids prove."""
    return {
        manifest.day: (manifest.rows, sum(proof.proven_until_ms - proof.proven_from_ms for proof in manifest.proven))
        for manifest in _gone(market, symbol, lo_ms, hi_ms)
    }


def _gone(market: MarketStore, symbol: str, lo_ms: int, hi_ms: int) -> list[Manifest]:
    """Return the days of a range of which the lake has trades and the database has none."""
    if market.lake is None:
        return []
    there = market.lake.days("trade", symbol)
    wanted = [day for day in there if day_of(lo_ms) <= day <= day_of(hi_ms - 1)] if lo_ms < hi_ms else []
    if not wanted:
        return []
    query = """
        SELECT d::text FROM unnest($3::text[]) AS d WHERE NOT EXISTS (
            SELECT FROM md.trade t JOIN md.symbol s USING (symbol_id) WHERE s.venue = $1 AND s.name = $2
            AND t.time >= d::timestamptz AND t.time < d::timestamptz + interval '24 hours')
        ORDER BY 1
    """
    gone = [row[0] for row in market.fetch(query, market.venue, symbol, wanted)]
    found = [market.lake.manifest("trade", symbol, day) for day in gone]
    return [manifest for manifest in found if manifest is not None and manifest.rows]
