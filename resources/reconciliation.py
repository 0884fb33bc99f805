"""Websocket, REST and archive side by side: for each day of a symbol, what each of them says and the verdict."""

from datetime import UTC, datetime
from typing import Final

import numpy as np
import polars as pl

from resources.archive import Archive, ArchiveUnreachable, NotPublished
from resources.binance import PAGE, ExchangeRefused
from resources.journal import TradeJournal
from resources.stores import Exchange, ExchangeNotSet, Stores
from resources.timescale.tables import RECONCILIATION
from trading.market.archive import BadArchive
from trading.market.instrument import Instrument
from trading.market.timeframe import DAY_MS
from trading.market.trade import trades_frame
from trading.stream.contiguity import IdRange, spans_of
from trading.stream.reconciliation import Source, reconciled, sample_starts

HAVING_NO_SAY: Final = (NotPublished, ArchiveUnreachable, BadArchive)


def reconcile_days(stores: Stores, journal: TradeJournal, symbol: str, lo_ms: int, hi_ms: int) -> pl.DataFrame:
    """Return the verdict of each UTC day of a window, as `md.trade_reconciliation` keeps it.

    A source that is not set, does not answer or has no trade of a day has no say, and the reason says why; it fails nothing.
    """
    instrument, claimed = stores.market.instrument(symbol), journal.ledger(symbol)
    collected = journal.trades(symbol, lo_ms, hi_ms)
    rows = list[dict[str, object]]()
    for day_ms in range(lo_ms, hi_ms, DAY_MS):
        day = datetime.fromtimestamp(day_ms / 1000, UTC).strftime("%Y-%m-%d")
        inside = collected.filter(pl.col("time_ms").is_between(day_ms, day_ms + DAY_MS, "left"))
        websocket, archive = _collected(inside, claimed), _archived(stores.archive, instrument, day)
        rest = _sampled(stores.exchange, instrument, websocket if websocket.spans else archive, f"{symbol}|{day}")
        sources = (websocket, rest, archive)
        counts = {f"{source.name}_rows": len(source.trades) for source in sources}
        rows.append({"day_ms": day_ms, **reconciled(sources)._asdict(), **counts})
    return pl.DataFrame(rows, schema=RECONCILIATION.schema)


def _collected(trades: pl.DataFrame, claimed: list[IdRange]) -> Source:
    """Return the journal's trades of a day with the ids that its ledger claims of it."""
    if trades.is_empty():
        return Source.without("websocket", "the journal holds no trade of this day")
    first, last = trades["agg_trade_id"][0], trades["agg_trade_id"][-1]
    spans = [(max(first, c.first_id), min(last, c.last_id)) for c in claimed]
    return Source("websocket", trades, tuple(span for span in spans if span[0] <= span[1]))


def _archived(archive: Archive, instrument: Instrument, day: str) -> Source:
    try:
        trades = archive.day(instrument, day).trades
    except HAVING_NO_SAY as error:
        return Source.without("archive", error.message)
    if trades.is_empty():
        return Source.without("archive", "its file holds no trade of this day")
    return Source("archive", trades, ((trades["agg_trade_id"][0], trades["agg_trade_id"][-1]),))


def _sampled(exchange: Exchange, instrument: Instrument, held: Source, seed: str) -> Source:
    """Return pages of REST around what another source holds."""
    if held.trades.is_empty():
        return Source.without("rest", "no other source has an id to ask for")
    starts = sample_starts(spans_of(held.trades["agg_trade_id"].to_numpy()), PAGE, seed)
    try:
        pages = {start: trades_frame(exchange.trades(instrument, from_id=start)) for start in starts}
    except (ExchangeNotSet, ExchangeRefused) as error:
        return Source.without("rest", error.message)
    trades = pl.concat(pages.values()).unique("agg_trade_id").sort("agg_trade_id")
    if trades.is_empty():
        return Source.without("rest", "the exchange serves none of these ids any more")
    # A page says of each id from the one that was asked for up to its last whether there is such a trade.
    ids = [np.arange(start, page["agg_trade_id"][-1] + 1) for start, page in pages.items() if len(page)]
    return Source("rest", trades, spans_of(np.concatenate(ids)))
