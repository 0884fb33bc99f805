"""Trades and order books of a window, out of the journal and the database, each with what is proven of it."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from trading.errors import TradingError
from trading.market.book import BookSnapshot
from trading.market.instrument import Instrument
from trading.market.timeframe import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS
from trading.market.trade import TRADE_SCHEMA
from trading.microstructure.l1 import spread_bps
from trading.microstructure.report import Basis, Known, Missing
from trading.microstructure.survey import Observed

if TYPE_CHECKING:
    import polars as pl

    from resources.journal import TradeJournal
    from resources.stores import Stores
    from trading.stream.book_recorder import BookRecord

FOREVER_MS: Final = 10**13 // HOUR_MS * HOUR_MS
TRADES: Final = "aggregate trades"
BOOKS: Final = "order books at the end of each second"


class NothingCollected(TradingError):
    """Neither a trade nor a book of a symbol is there."""


def observe(stores: "Stores", symbol: str, as_of_ms: int | None, window_ms: int, recent_ms: int) -> Observed:
    """Return what is known of a market as of a moment.

    Args:
        stores: Open stores of a home.
        symbol: Exchange name.
        as_of_ms: Exchange time after which nothing is looked at; None: the newest event that is there.
        window_ms: How far back trades are read.
        recent_ms: How far back books, and the trades beside them, are read.

    Raises:
        UnknownInstrument: The database does not know the symbol.
        NothingCollected: There is nothing of it.
    """
    instrument = stores.market.instrument(symbol)
    if not Path(stores.home.rocksdb_dir).exists():
        return observed(stores, None, instrument, as_of_ms, window_ms, recent_ms)
    from resources.journal import TradeJournal

    with TradeJournal.read(stores.home.rocksdb_dir) as journal:
        return observed(stores, journal, instrument, as_of_ms, window_ms, recent_ms)


def observed(
    stores: "Stores",
    journal: "TradeJournal | None",
    instrument: Instrument,
    as_of_ms: int | None,
    window_ms: int,
    recent_ms: int,
) -> Observed:
    """Return what `observe` does, out of a journal that is open already, or without one."""
    hi_ms = as_of_ms or newest_ms(stores, journal, instrument.name)
    trades = _trades(stores, journal, instrument.name, hi_ms - window_ms, hi_ms)
    books = _books(journal, instrument.name, hi_ms - recent_ms, hi_ms)
    # Beside no book a usual spread says nothing, and it takes a look at each minute of a day.
    usual_bps = _usual_spread_bps(journal, instrument.name, hi_ms - recent_ms) if isinstance(books, Known) else None
    return Observed(
        instrument=instrument,
        as_of_ms=hi_ms,
        trades=trades,
        recent_trades=_trades(stores, journal, instrument.name, hi_ms - recent_ms, hi_ms),
        books=books,
        depth=Missing("raw depth diffs are not kept", "record them and pass them to trading.microstructure"),
        usual_spread_bps=usual_bps,
        warnings=[] if journal is None else journal.warnings,
    )


def newest_ms(stores: "Stores", journal: "TradeJournal | None", symbol: str) -> int:
    """Return a moment just behind the newest trade or book that is there."""
    from resources.timescale.tables import TRADE

    known: list[int] = []
    if journal is not None:
        known += [time_ms + 1 for _, time_ms in journal.beside(symbol, FOREVER_MS, FOREVER_MS)]
        book = journal.book_before(symbol, FOREVER_MS)
        known += [] if book is None else [book.second_ms + SECOND_MS]
    span = None if known else stores.market.span(TRADE, symbol)
    known += [] if span is None else [span[1] + 1]
    if not known:
        raise NothingCollected(f"nothing of {symbol} was collected yet", "'trading up' or 'trading demo' collects")
    return max(known)


def _trades(
    stores: "Stores", journal: "TradeJournal | None", symbol: str, lo_ms: int, hi_ms: int
) -> "Known[pl.DataFrame]":
    """Return trades out of the journal where it keeps them, else out of the database."""
    import polars as pl

    from resources.timescale.tables import TRADE

    edge_ms = hi_ms if journal is None else min(max(lo_ms, journal.kept_since_ms(symbol)), hi_ms)
    parts: list[pl.DataFrame] = []
    proven: list[tuple[int, int]] = []
    if lo_ms < edge_ms:
        parts.append(stores.market.read(TRADE, symbol, lo_ms, edge_ms))
        proven += [(max(lo, lo_ms), min(hi, edge_ms)) for lo, hi in stores.market.proven(symbol)]
    if journal is not None and edge_ms < hi_ms:
        parts.append(journal.trades(symbol, edge_ms, hi_ms))
        proven += [(max(r.proven_from_ms, edge_ms), min(r.proven_until_ms, hi_ms)) for r in journal.ledger(symbol)]
    trades = pl.concat(parts) if parts else pl.DataFrame(schema=TRADE_SCHEMA)
    newest_ms = None if trades.is_empty() else int(trades["time_ms"].to_numpy().max())
    return Known(trades, (Basis(TRADES, lo_ms, hi_ms, newest_ms, share(proven, lo_ms, hi_ms)),))


def _books(
    journal: "TradeJournal | None", symbol: str, lo_ms: int, hi_ms: int
) -> Known[Sequence[BookSnapshot]] | Missing:
    """Return the books of whole seconds inside the window."""
    records = [] if journal is None else journal.books(symbol, lo_ms, hi_ms - SECOND_MS + 1)
    if not records:
        reason = f"no order book of {symbol} is kept of the {(hi_ms - lo_ms) // SECOND_MS} s before"
        return Missing(reason, "see whether the collector runs and has the book in step: 'trading status'")
    known = share(list(_known(records)), lo_ms, hi_ms)
    return Known([record.book for record in records], (Basis(BOOKS, lo_ms, hi_ms, records[-1].book.time_ms, known),))


def _known(records: "Sequence[BookRecord]") -> Iterable[tuple[int, int]]:
    """Yield the stretches in which the book is known: a record's own second, and all before one that follows."""
    for place, record in enumerate(records):
        since_ms = records[place - 1].second_ms if place and record.follows else record.second_ms
        yield since_ms, record.second_ms + SECOND_MS


def _usual_spread_bps(journal: "TradeJournal | None", symbol: str, before_ms: int) -> float | None:
    """Return the mean spread of the 24 hours before, from one book a minute; None where fewer than an hour's are kept."""
    spreads: list[float] = []
    for at_ms in range(before_ms - DAY_MS, before_ms, MINUTE_MS) if journal is not None else ():
        record = journal.book_before(symbol, at_ms) if journal is not None else None
        if record is not None and record.second_ms >= at_ms - MINUTE_MS:
            spread = spread_bps(record.book)
            spreads += [] if spread is None else [spread]
    return sum(spreads) / len(spreads) if len(spreads) >= HOUR_MS // MINUTE_MS else None


def share(stretches: list[tuple[int, int]], lo_ms: int, hi_ms: int) -> float:
    """Return how much of a window stretches cover, 0 … 1; they may overlap and reach beyond it."""
    covered, at_ms = 0, lo_ms
    for lo, hi in sorted(stretches):
        covered += max(0, min(hi, hi_ms) - max(lo, at_ms))
        at_ms = max(at_ms, hi)
    return covered / (hi_ms - lo_ms)
