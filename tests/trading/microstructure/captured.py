"""Genuine minutes of one market, replayed: trades, raw diffs, and the book that they keep."""

from functools import cache
from typing import NamedTuple

import polars as pl

from tests.captures import frames
from trading.market.book import BookSnapshot
from trading.market.instrument import Instrument
from trading.market.timeframe import SECOND_MS
from trading.market.trade import TRADE_SCHEMA
from trading.stream.book_sync import BookSync
from trading.stream.events import DepthDiff, Trade, decode_depth_snapshot, decode_event


class Capture(NamedTuple):
    """What was recorded of one market.

    `trades` are fills, each a row of its own; `book` is whole and before the first of `diffs`; `snapshots` hold the top
    20 levels at the end of each second.
    """

    instrument: Instrument
    trades: pl.DataFrame
    book: BookSnapshot
    diffs: tuple[DepthDiff, ...]
    snapshots: tuple[BookSnapshot, ...]

    @property
    def window(self) -> tuple[int, int]:
        """The first millisecond in which both a book and trades are known, and the end of the last."""
        return self.book.time_ms, max(self.trades["time_ms"].max(), self.diffs[-1].time_ms) + 1


RECORDED = {
    "raw/binance_spot/btcusdt_20240808.gz": Instrument("binance", "BTCUSDT", "BTC", "USDT", 2, 5),
    "raw/binance_spot/ethusdt_20240808.gz": Instrument("binance", "ETHUSDT", "ETH", "USDT", 2, 4),
    "raw/binance_usdm/btcusdt_20240808.gz": Instrument("binance", "BTCUSDT", "BTC", "USDT", 2, 3, "usdm"),
}


@cache
def capture(name: str) -> Capture:
    """Return one of `RECORDED`, or skip the test where it is absent."""
    instrument = RECORDED[name]
    sync, book = BookSync(), None
    fills: list[Trade] = []
    diffs: list[DepthDiff] = []
    seconds: dict[int, BookSnapshot] = {}
    for _, frame in frames(name):
        if b'"lastUpdateId"' in frame[:30]:
            sync.snapshot(decode_depth_snapshot(frame, instrument))
            continue
        decoded = decode_event(frame, {instrument.name: instrument}, 0)
        event = decoded[1] if isinstance(decoded, tuple) else None
        if isinstance(event, Trade):
            fills.append(event)
        elif isinstance(event, DepthDiff):
            sync.diff(event)
            if book is not None:
                diffs.append(event)
            book = book or sync.top(10_000)
            top = sync.top(20)
            if top is not None:
                seconds[top.time_ms // SECOND_MS] = top
    assert book is not None
    rows = [(f.trade_id, f.price, f.quantity, f.trade_id, f.trade_id, f.time_ms, f.buyer_is_maker) for f in fills]
    trades = pl.DataFrame(rows, schema=TRADE_SCHEMA, orient="row")
    return Capture(instrument, trades, book, tuple(diffs), tuple(seconds.values()))
