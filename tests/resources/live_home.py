"""Databases and a Redis of their own for the live path, and the rebuild that it is held against."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import polars as pl

from resources.home import Home
from resources.journal import TradeJournal
from resources.journal_coverage import take_over_coverage
from resources.servers import running
from resources.settings import load_settings
from resources.stores import Exchange
from resources.timescale.delivery import asset_of
from resources.timescale.history import bars_with_history
from resources.timescale.store import MarketStore
from resources.timescale.tables import BOOK_1S, BOOK_SNAPSHOT, CANDLE, CANDLE_1S, INDICATOR, TRADE, Table
from trading.indicators.recursion import indicators_of_days
from trading.market.candle import candles_from_trades
from trading.market.instrument import Instrument
from trading.market.timeframe import CANDLE_TIMEFRAMES, DAY_MS, ROLLED_UP, Timeframe
from trading.provider.book_seconds import book_seconds, book_snapshots, uncrossed
from trading.stream.live_bars import WITH_INDICATORS
from trading_assets.candles import longer_bars, store_minutes
from trading_assets.partitions import SymbolWindow


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until something is so that another thread brings about."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert condition()


@contextmanager
def redis(folder: Path) -> Iterator[str]:
    home = Home(folder)
    home.create("simulated", {})
    with running(home, load_settings(folder, {}), ("redis",)) as urls:
        yield urls.redis


def rebuild(
    market: MarketStore, journal: TradeJournal, exchange: Exchange, instrument: Instrument, lo_ms: int, hi_ms: int
) -> int:
    """Bring days from the journal into a database as their assets do; return how many rows that changed."""
    window, symbol = SymbolWindow(instrument.name, lo_ms, hi_ms), instrument.name
    market.register([instrument])
    written = market.write(TRADE, symbol, journal.trades(symbol, lo_ms, hi_ms), lo_ms, hi_ms)
    take_over_coverage(journal, market, symbol, lo_ms, hi_ms, partial(exchange.trade, instrument))
    written += store_minutes(market, exchange, window)[1]
    now_ms = exchange.now_ms()
    trades, until_ms = market.read(TRADE, symbol, lo_ms, min(hi_ms, now_ms)), min(hi_ms, Timeframe.S1.floor(now_ms))
    seconds = candles_from_trades(trades, instrument, Timeframe.S1, market.proven(symbol))
    seconds = seconds.filter(pl.col("open_time") < until_ms)
    written += market.write(CANDLE_1S, symbol, seconds, lo_ms, until_ms, None, True, now_ms)
    for timeframe in ROLLED_UP:
        closed = SymbolWindow(symbol, lo_ms, min(hi_ms, timeframe.floor(now_ms)))
        bars = longer_bars(market, exchange, closed, timeframe)
        written += market.write(CANDLE, symbol, bars, closed.lo_ms, closed.hi_ms, timeframe, True, now_ms)
    for timeframe in WITH_INDICATORS:
        candles = bars_with_history(market, symbol, timeframe, lo_ms, hi_ms)
        values = indicators_of_days(candles, timeframe, lo_ms, hi_ms)
        written += market.write(INDICATOR, symbol, values, lo_ms, hi_ms, timeframe, True, now_ms)
    for day_ms in range(lo_ms // DAY_MS * DAY_MS, hi_ms, DAY_MS):
        records = journal.books(symbol, day_ms, day_ms + DAY_MS)
        for table, rows in (
            (BOOK_SNAPSHOT, uncrossed(book_snapshots(records, instrument))),
            (BOOK_1S, book_seconds(records, instrument)),
        ):
            written += market.write(table, symbol, rows, day_ms, day_ms + DAY_MS, None, True, now_ms)
    for table, timeframe in KEPT:
        market.record_days(table, asset_of(table, timeframe), symbol, lo_ms, hi_ms, timeframe)
    return written.changed


KEPT: list[tuple[Table, Timeframe | None]] = [
    *((table, None) for table in (TRADE, CANDLE_1S, BOOK_SNAPSHOT, BOOK_1S)),
    *((CANDLE, timeframe) for timeframe in CANDLE_TIMEFRAMES),
    *((INDICATOR, timeframe) for timeframe in WITH_INDICATORS),
]
RELATIONS = (
    *("trade", "trade_coverage", "candle", "candle_1s", "indicator", "book_snapshot", "book_1s", "day", "book_1m"),
    *(f"ohlcv_{timeframe}" for timeframe in (Timeframe.S1, *CANDLE_TIMEFRAMES)),
)
"""The tables that the live path writes, and the views on them."""


def differing(one: MarketStore, other: MarketStore) -> dict[str, tuple[int, list[str]]]:
    """Return of each relation how many rows two databases have, and the rows that only one of them has.

    Since when a fact is known is no part of it: who saw it come knows it since then, who rebuilds it since the rebuild.
    """
    fact = "(to_jsonb(t) - 'known_at')::text"
    found: dict[str, tuple[int, list[str]]] = {}
    for relation in RELATIONS:
        query = f"SELECT md5({fact}) AS fact FROM md.{relation} AS t"
        ours, theirs = ([row["fact"] for row in market.fetch(query)] for market in (one, other))
        only = sorted(((Counter(ours) - Counter(theirs)) + (Counter(theirs) - Counter(ours))).keys())[:20]
        rows = [
            f"{name} {row['fact'][:400]}"
            for name, market in (("one", one), ("other", other))
            for row in market.fetch(f"SELECT {fact} AS fact FROM md.{relation} AS t WHERE md5({fact}) = ANY($1)", only)
        ]
        found[relation] = len(ours), rows
    return found
