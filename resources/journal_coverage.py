"""What the database's trades prove, by the journal's ledger."""

from resources.journal import TradeJournal
from resources.timescale.store import MarketStore
from resources.timescale.tables import TRADE
from trading.market.timeframe import DAY_MS
from trading.stream.contiguity import proven_ranges


def take_over_coverage(journal: TradeJournal, market: MarketStore, symbol: str, lo_ms: int, hi_ms: int) -> None:
    """Note for each day of a window what the stored trades prove: never more than the ledger claims, nor than is there."""
    claimed = journal.ledger(symbol)
    for day_ms in range(lo_ms, hi_ms, DAY_MS):
        until_ms = day_ms + DAY_MS
        inside = [c for c in claimed if c.proven_from_ms < until_ms and c.proven_until_ms > day_ms]
        if inside:
            held = market.read(TRADE, symbol, day_ms, until_ms).select("agg_trade_id", "time_ms").rows()
            held = sorted({*held, *journal.beside(symbol, day_ms, until_ms)})
            ids, times_ms = [number for number, _ in held], [time_ms for _, time_ms in held]
            proven = proven_ranges(inside, ids, times_ms, day_ms, until_ms)
        else:
            proven = []
        market.set_trade_coverage(symbol, day_ms, proven)
