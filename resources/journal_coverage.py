"""What the database's trades prove: by the journal's ledger, and by ids that follow each other wherever they came from."""

from collections.abc import Callable

import polars as pl

from resources.journal import TradeJournal
from resources.timescale.store import MarketStore
from resources.timescale.tables import TRADE
from trading.market.timeframe import DAY_MS
from trading.market.trade import AggTrade
from trading.stream.contiguity import IdRange, claims_of, proven_ranges, united

Lookup = Callable[[int], AggTrade | None]
"""Returns the trade of an id, where somebody knows it."""


def take_over_coverage(
    journal: TradeJournal,
    market: MarketStore,
    symbol: str,
    lo_ms: int,
    hi_ms: int,
    lookup: Lookup = lambda _: None,
) -> None:
    """Note for each day of a window what the stored trades prove.

    It is never more than is there: moments inside a range that the ledger claims or that was proven before, or between
    trades whose ids follow each other. The trades before and after a day say what its edges prove; `lookup` is asked for
    one that is stored nowhere, where neither a ledger nor what was proven before says it.
    """
    claimed, before = journal.ledger(symbol), market.trade_coverage(symbol)
    for day_ms in range(lo_ms, hi_ms, DAY_MS):
        until_ms = day_ms + DAY_MS
        stored = market.read(TRADE, symbol, day_ms, until_ms).select("agg_trade_id", "time_ms").sort("agg_trade_id")
        inside = [c for c in (*claimed, *before) if c.proven_from_ms < until_ms and c.proven_until_ms > day_ms]
        if not inside and stored.is_empty():
            beside = _stored_beside(market, symbol, day_ms, until_ms)
        else:
            beside = {*_stored_beside(market, symbol, day_ms, until_ms), *journal.beside(symbol, day_ms, until_ms)}
            at_edges = (
                [c for c in before if c.proven_from_ms <= day_ms],
                [c for c in before if c.proven_until_ms >= until_ms],
            )
            beside |= _looked_up(stored, beside, [claimed + edge for edge in at_edges], lookup)
        beside = {(number, time_ms) for number, time_ms in beside if not day_ms <= time_ms < until_ms}
        held = pl.concat([stored, pl.DataFrame(sorted(beside), schema=stored.schema, orient="row")])
        held = held.unique("agg_trade_id").sort("agg_trade_id")
        ids, times_ms = held["agg_trade_id"].to_numpy(), held["time_ms"].to_numpy()
        claims = united([*inside, *claims_of(ids, times_ms)])
        market.set_trade_coverage(symbol, day_ms, proven_ranges(claims, ids, times_ms, day_ms, until_ms))


def _stored_beside(market: MarketStore, symbol: str, lo_ms: int, hi_ms: int) -> set[tuple[int, int]]:
    """Return id and time of the last stored trade before `[lo_ms, hi_ms)` and of the first after it."""
    query = """
        WITH mine AS NOT MATERIALIZED (
            SELECT agg_trade_id, time FROM md.trade JOIN md.symbol USING (symbol_id) WHERE venue = $1 AND name = $2
        ) SELECT agg_trade_id, (extract(epoch FROM time) * 1000)::bigint AS time_ms FROM (
            (SELECT * FROM mine WHERE time < to_timestamp($3 / 1000.0) ORDER BY time DESC, agg_trade_id DESC LIMIT 1)
            UNION ALL (SELECT * FROM mine WHERE time >= to_timestamp($4 / 1000.0) ORDER BY time, agg_trade_id LIMIT 1)
        ) t
    """
    rows = market.fetch(query, market.venue, symbol, float(lo_ms), float(hi_ms))
    return {(row["agg_trade_id"], row["time_ms"]) for row in rows}


def _looked_up(
    stored: pl.DataFrame, beside: set[tuple[int, int]], claimed: list[list[IdRange]], lookup: Lookup
) -> set[tuple[int, int]]:
    """Return id and time of the trades beside the stored ones, where they are not known and not needed for a claim."""
    if stored.is_empty():
        return set()
    known, ids = {number for number, _ in beside}, stored["agg_trade_id"]
    wanted = [
        number + step
        for number, step, claims in ((ids[0], -1, claimed[0]), (ids[-1], 1, claimed[1]))
        if number + step not in known and not any(c.first_id <= number <= c.last_id for c in claims)
    ]
    found = [trade for number in wanted if (trade := lookup(number)) is not None]
    return {(trade.agg_trade_id, trade.time_ms) for trade in found}
