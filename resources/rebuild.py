"""A day made anew from the journal, beside what is stored of it.

What streamed and what is rebuilt come of the same functions, so that they are the same rows; since when each is known is no
part of that. Only what the journal proves is compared: other days and hours came from elsewhere. Nothing is written.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

import polars as pl

from resources.journal import TradeJournal
from resources.retired_trades import proven_of
from resources.timescale import monitor
from resources.timescale.delivery import asset_of
from resources.timescale.history import bars_with_history
from resources.timescale.loop import wait
from resources.timescale.store import MarketStore
from resources.timescale.tables import BOOK_1S, BOOK_SNAPSHOT, CANDLE, CANDLE_1S, INDICATOR, TRADE, Table
from trading.indicators.recursion import indicators_of_days
from trading.market.candle import candles_from_trades, whole_buckets
from trading.market.longer_bars import rolled_bars
from trading.market.timeframe import DAY_MS, MINUTE_MS, ROLLED_UP, Timeframe
from trading.provider.book_seconds import book_seconds, book_snapshots, uncrossed
from trading.stream.live_bars import WITH_INDICATORS

MONITOR: Final = "live_equals_rebuild"

Ranges = Sequence[tuple[int, int]]


class Compared(NamedTuple):
    """What became of one asset's rows of one day.

    Attributes:
        asset: Who writes them when the day is rebuilt.
        rows: How many there are, here or there.
        differing: How many of these are not the same, or only in one place.
        first_ms: Time of the first of them; 0: there is none.
    """

    asset: str
    rows: int
    differing: int
    first_ms: int


def compared(market: MarketStore, journal: TradeJournal, symbol: str, day_ms: int) -> list[Compared]:
    """Return by asset how the stored rows of a symbol's UTC day and its rebuilt ones differ.

    Of a day that is open only what is a minute old is compared, as it takes a moment to be stored.
    """
    return [
        _compared(market, symbol, table, timeframe, made, ranges)
        for table, timeframe, made, ranges in _rebuilt(market, journal, symbol, day_ms)
    ]


def _rebuilt(
    market: MarketStore, journal: TradeJournal, symbol: str, day_ms: int
) -> Iterator[tuple[Table, Timeframe | None, pl.DataFrame, Ranges]]:
    """Yield the rows of each table, and the half-open ranges (ms) in which they are all there are."""
    instrument, claims = market.instrument(symbol), journal.ledger(symbol)
    newest_ms = claims[-1].proven_until_ms if claims else day_ms
    end_ms = day_ms + DAY_MS
    if newest_ms < end_ms:
        end_ms = max(day_ms, Timeframe.M1.floor(newest_ms - MINUTE_MS))
    kept = [(max(day_ms, journal.kept_since_ms(symbol)), end_ms)]
    proven = [
        (max(lo_ms, c.proven_from_ms), min(hi_ms, c.proven_until_ms))
        for lo_ms, hi_ms in kept
        for c in claims
        if c.proven_from_ms < hi_ms and c.proven_until_ms > lo_ms
    ]
    trades = journal.trades(symbol, day_ms, end_ms)
    yield TRADE, None, trades, proven
    yield CANDLE_1S, None, candles_from_trades(trades, instrument, Timeframe.S1, proven), proven

    minutes = candles_from_trades(trades, instrument, Timeframe.M1, proven)
    stored = market.read(CANDLE, symbol, day_ms, end_ms, Timeframe.M1)
    bars = {Timeframe.M1: _either(minutes, stored, Timeframe.M1, proven)}
    yield CANDLE, Timeframe.M1, minutes, proven

    def parts(finer: Timeframe, lo_ms: int, hi_ms: int) -> pl.DataFrame:
        return bars[finer].filter(pl.col("open_time").is_between(lo_ms, hi_ms, "left"))

    held = proven_of(market, symbol)
    for timeframe in ROLLED_UP:
        bars[timeframe], _ = rolled_bars(parts, instrument, timeframe, held, day_ms, timeframe.floor(end_ms))
        yield CANDLE, timeframe, bars[timeframe], proven
    for timeframe in WITH_INDICATORS:
        stored = bars_with_history(market, symbol, timeframe, day_ms, end_ms)
        complete = _either(bars[timeframe], stored, timeframe, proven).filter("complete")
        yield INDICATOR, timeframe, indicators_of_days(complete, timeframe, day_ms, end_ms), proven

    records = journal.books(symbol, day_ms, end_ms)
    yield BOOK_SNAPSHOT, None, uncrossed(book_snapshots(records, instrument)), kept
    yield BOOK_1S, None, book_seconds(records, instrument), kept


def _either(made: pl.DataFrame, stored: pl.DataFrame, timeframe: Timeframe, ranges: Ranges) -> pl.DataFrame:
    """Return what was made inside of ranges, and what is stored elsewhere."""
    inside = _inside(made, "open_time", timeframe.ms, ranges)
    elsewhere = _inside(stored, "open_time", timeframe.ms, ranges)["open_time"]
    return pl.concat([inside, stored.filter(~pl.col("open_time").is_in(elsewhere.to_list()))]).sort("open_time")


def _inside(frame: pl.DataFrame, time: str, length_ms: int, ranges: Ranges) -> pl.DataFrame:
    """Return the rows that lie whole in one of some ranges."""
    return frame.filter(whole_buckets(frame[time].to_numpy(), max(1, length_ms), ranges))


def _compared(
    market: MarketStore, symbol: str, table: Table, timeframe: Timeframe | None, made: pl.DataFrame, ranges: Ranges
) -> Compared:
    asset, length_ms = asset_of(table, timeframe), timeframe.ms if timeframe else table.length_ms
    if not ranges:
        return Compared(asset, 0, 0, 0)
    stored = market.read(table, symbol, ranges[0][0], ranges[-1][1], timeframe)
    facts = [name for name in table.schema if name != "known_at_ms"]
    ours, theirs = (_inside(frame, table.time, length_ms, ranges).select(facts) for frame in (stored, made))
    if ours.equals(theirs):
        return Compared(asset, len(ours), 0, 0)
    one, other = (_by_key(frame, table) for frame in (ours, theirs))
    keys = one.keys() | other.keys()
    differing = [key for key in keys if one.get(key) != other.get(key)]
    at = table.key.index(table.time)
    return Compared(asset, len(keys), len(differing), min((key[at] for key in differing), default=0))


def _by_key(frame: pl.DataFrame, table: Table) -> dict[tuple[Any, ...], tuple[Any, ...]]:
    return dict(zip(frame.select(table.key).rows(), frame.rows(), strict=True))


def keep(market: MarketStore, symbol: str, found: Sequence[Compared]) -> None:
    """Keep for the check, by asset, the time of the first row that differs."""
    samples: dict[str, float] = {}
    for one in found:
        name = f"{symbol} {one.asset}"
        samples[name] = min(filter(None, (samples.get(name, 0), one.first_ms)), default=0)
    wait(market.connections.run(lambda c: monitor.keep(c, MONITOR, samples), transaction=True))


def differing(market: MarketStore, symbols: Sequence[str]) -> list[str]:
    """Return what was last found to differ, each with the first of its rows."""
    samples = wait(market.connections.run(lambda c: monitor.latest(c, MONITOR)))
    found = [(*name.split(" "), datetime.fromtimestamp(ms / 1000, UTC)) for name, ms in samples.items() if ms]
    return [
        f"{symbol} {asset} {at.isoformat()}: not what a rebuild makes; materialize {asset} for this day"
        for symbol, asset, at in found
        if symbol in symbols
    ]
