"""The journal's ledger as the database keeps it."""

from resources.rocksdb import TradeJournal
from resources.timescale.store import TradeCoverage


def coverage_of(journal: TradeJournal, symbol: str) -> list[TradeCoverage]:
    """Return the ranges of ids that the journal proves for a symbol."""
    return [
        TradeCoverage(r.first_id, r.last_id, r.proven_from_ms, r.proven_until_ms)
        for r in journal.ledger(symbol)
        if r.last_id >= r.first_id
    ]
