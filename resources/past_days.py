"""Trades of past days that no collector saw: from the exchange's archive, or by id over REST, into the database.

What came off the stream is never replaced. A day's file is compared by id with what is stored: absent trades are added,
those that an earlier version of the file had brought are brought up to date, all others stay, and each of these ids is
noted with the version (`md.archive_version`). A file is read and checked whole before the first row is written.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import Final, NamedTuple

import numpy as np
import polars as pl

from resources.archive import Archive, NotPublished
from resources.gap_ledger import note_brought
from resources.journal import TradeJournal
from resources.journal_coverage import take_over_coverage
from resources.stores import Exchange, Stores
from resources.timescale.archive_versions import ArchiveVersion, archive_versions, record_archive_version
from resources.timescale.store import MarketStore
from resources.timescale.tables import TRADE
from resources.timescale.writing import Written
from trading.market.instrument import Instrument
from trading.market.oddities import odd_trades
from trading.market.timeframe import DAY_MS
from trading.market.trade import AggTrade, trades_frame
from trading.stream.contiguity import IdRange, in_spans, spans_of
from trading.stream.reconciliation import merged

FLUSH: Final = 100_000
"""Trades that are fetched before they are written: a backfill that is killed goes on from there."""

FOREVER_MS: Final = 10**13


class ArchivedDay(NamedTuple):
    """What the archive brought to one day: the version that was read, whether it is a new one, and the rows written."""

    version: ArchiveVersion
    is_new: bool
    written: Written


class StoredTrades(NamedTuple):
    """What was stored of a window.

    Attributes:
        collected: How many trades the journal holds.
        archived: What the archive brought, by day.
        written: All rows written.
        odd: Ids of collected trades that are odd, by what is (`trading.market.oddities`).
    """

    collected: int
    archived: list[ArchivedDay]
    written: Written
    odd: dict[str, list[int]]


def store_trades(stores: Stores, journal: TradeJournal, symbol: str, lo_ms: int, hi_ms: int) -> StoredTrades:
    """Store the trades of whole UTC days and note what they prove.

    They are the journal's; days that it does not claim whole are brought up to their files in the archive, where one is
    set and has them.

    Raises:
        BadArchive: A file cannot be taken; the days before it are stored.
    """
    market, archived = stores.market, list[ArchivedDay]()
    collected, claimed = journal.trades(symbol, lo_ms, hi_ms), journal.ledger(symbol)
    written = market.write(TRADE, symbol, collected, lo_ms, hi_ms)
    instrument = market.instrument(symbol)
    for day_ms in unproven_days(claimed, lo_ms, hi_ms) if stores.archive.root else ():
        with suppress(NotPublished):
            archived.append(take_from_archive(market, stores.archive, instrument, day_ms, collected))
    take_over_coverage(journal, market, symbol, lo_ms, hi_ms, partial(stores.exchange.trade, instrument))
    written = sum((day.written for day in archived), written)
    return StoredTrades(len(collected), archived, written, odd_trades(collected))


def unproven_days(claimed: list[IdRange], lo_ms: int, hi_ms: int) -> list[int]:
    """Return the days (ms) of a window that the journal does not claim whole."""
    return [
        day_ms
        for day_ms in range(lo_ms, hi_ms, DAY_MS)
        if not any(c.proven_from_ms <= day_ms and c.proven_until_ms >= day_ms + DAY_MS for c in claimed)
    ]


def take_from_archive(
    market: MarketStore, archive: Archive, instrument: Instrument, day_ms: int, collected: pl.DataFrame
) -> ArchivedDay:
    """Bring one day up to its file.

    Args:
        market: Where to.
        archive: Where from.
        instrument: Whose trades.
        day_ms: First moment of the UTC day.
        collected: Trades (`TRADE_SCHEMA`) that the journal holds; they are stored already.

    Raises:
        NotPublished: The archive has no file of this day.
        BadArchive: It has one that cannot be taken; nothing was written.
    """
    day = datetime.fromtimestamp(day_ms / 1000, UTC).strftime("%Y-%m-%d")
    published, file, sha256 = archive.day(instrument, day)
    symbol, until_ms = instrument.name, day_ms + DAY_MS
    stored = market.read(TRADE, symbol, day_ms, until_ms)
    if len(published):
        first, last = published["agg_trade_id"][0], published["agg_trade_id"][-1]
        # An id of the file may be stored under another day; nothing but its key would tell.
        elsewhere = (
            f"agg_trade_id BETWEEN {first} AND {last} AND "
            f"(time < to_timestamp({day_ms} / 1000.0) OR time >= to_timestamp({until_ms} / 1000.0))"
        )
        stored = pl.concat([stored, market.read(TRADE, symbol, 0, FOREVER_MS, where=elsewhere)])
    earlier = archive_versions(market, symbol, day)
    taken = earlier[-1].taken if earlier else ()
    ours = collected.filter(pl.col("time_ms").is_between(day_ms, until_ms, "left"))["agg_trade_id"].to_numpy()
    merge = merged(published, stored, ours, taken)
    is_new = not earlier or earlier[-1].sha256 != sha256
    version = ArchiveVersion(day, len(earlier) + is_new, file, sha256, len(published), merge.taken, *merge[2:])
    # The version goes first: after a crash in between, its ids are noted and absent, and the next reading adds them.
    if is_new:
        record_archive_version(market, symbol, version)
    elif merge.taken != taken:
        record_archive_version(market, symbol, earlier[-1]._replace(taken=merge.taken))
    written = market.write(TRADE, symbol, merge.trades, day_ms, until_ms) if len(merge.trades) else Written()
    known = pl.concat([published, stored]).unique("agg_trade_id", keep="first").sort("agg_trade_id")
    note_brought(market, symbol, "archive", known.filter(in_spans(known["agg_trade_id"].to_numpy(), merge.taken)))
    return ArchivedDay(version, is_new, written)


def take_from_exchange(
    market: MarketStore,
    exchange: Exchange,
    instrument: Instrument,
    day_ms: int,
    show: Callable[[int, int], None] = lambda *_: None,
) -> Written:
    """Add the trades of one day that are stored nowhere, page by page from its first one on.

    Args:
        market: Where to.
        exchange: Where from.
        instrument: Whose trades.
        day_ms: First moment of the UTC day.
        show: Told how far (ms) the trades have come, and how many were fetched.
    """
    symbol, until_ms = instrument.name, day_ms + DAY_MS
    held = market.read(TRADE, symbol, day_ms, until_ms)["agg_trade_id"].to_numpy()
    spans = spans_of(held)
    page = exchange.trades(instrument, start_ms=day_ms)
    fetched, number, written = list[AggTrade](), 0, Written()
    while page:
        inside = [trade for trade in page if day_ms <= trade.time_ms < until_ms]
        fetched += inside
        number += len(inside)
        show(inside[-1].time_ms if inside else until_ms, number)
        if len(fetched) >= FLUSH:
            written, fetched = written + _added(market, symbol, fetched, held, day_ms), []
        if len(inside) < len(page):
            break
        # A short page is not the end: the exchange says the end by a trade of another day or an empty page.
        following = page[-1].agg_trade_id + 1
        page = exchange.trades(instrument, from_id=next((b + 1 for a, b in spans if a <= following <= b), following))
    return written + _added(market, symbol, fetched, held, day_ms)


def _added(market: MarketStore, symbol: str, fetched: list[AggTrade], held: np.ndarray, day_ms: int) -> Written:
    frame = trades_frame(fetched)
    fresh = frame.filter(~pl.Series(np.isin(frame["agg_trade_id"].to_numpy(), held)))
    written = market.write(TRADE, symbol, fresh, day_ms, day_ms + DAY_MS) if len(fresh) else Written()
    note_brought(market, symbol, "rest", fresh)
    return written
