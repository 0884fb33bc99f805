"""Anomalies that only raw diffs of the book can show: quote stuffing and icebergs.

A diff names each level that changed since the one before (each 100 ms on spot). A snapshot once a second shows neither
how often a level changed within it nor that it was emptied and refilled: given snapshots, these functions refuse.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
import polars as pl

from trading.errors import TradingError
from trading.market.book import BookSnapshot
from trading.market.instrument import Instrument
from trading.market.timeframe import SECOND_MS
from trading.microstructure.terms import SIDES, BookSide, Severity, check_window
from trading.stream.events import DepthDiff

STUFFING_UPDATES: Final = 500
STUFFING_FILLS: Final = 0.1
REFILL_MEDIANS: Final = 5
SIGNIFICANT_Z: Final = 1.96
LEAST_DEVIATION: Final = 0.2
"""Share of the median that the standard deviation of refills is at least taken to be (seed 003)."""

MAD_TO_DEVIATION: Final = 1.4826
"""A normal distribution's standard deviation, by its median absolute deviation."""


class NeedsRawDiffs(TradingError):
    """Snapshots were given for a measure that only raw diffs can carry."""

    def __init__(self, measure: str) -> None:
        super().__init__(
            f"{measure} cannot be seen in book snapshots: it happens between two of them",
            "pass the raw depth diffs of the window",
        )
        self.measure = measure


class QuoteStuffing(msgspec.Struct, frozen=True, tag="quote_stuffing"):
    """Quotes that change very often while hardly any is traded.

    Attributes:
        lo_ms: First moment of the window.
        hi_ms: End of the window.
        updates_per_s: Levels changed a second. Diffs sum what happens in their 100 ms, so it was at least that.
        fill_pct: Trades by levels changed, in percent.
        severity: Medium up to 750 updates a second, high up to 1,000, critical above.
    """

    lo_ms: int
    hi_ms: int
    updates_per_s: float
    fill_pct: float
    severity: Severity


class Iceberg(msgspec.Struct, frozen=True, tag="iceberg"):
    """One price at which more traded than was ever shown, as the level was refilled.

    Attributes:
        side: Side of the level.
        price: Of the level.
        refill_count: How often its quantity rose again after it had fallen.
        executed_volume: What takers traded at it, base currency.
        largest_shown: The most it showed, base currency.
        z: How many standard deviations its refills lie above the median of the levels that traded.
        confidence: Probability of fewer refills under a normal distribution, 0 … 1.
        severity: Critical above .95, high above .85, medium above .7.
    """

    side: BookSide
    price: float
    refill_count: int
    executed_volume: float
    largest_shown: float
    z: float
    confidence: float
    severity: Severity


class _Level:
    """What diffs say of one level."""

    def __init__(self, lots: int) -> None:
        self.lots = self.largest = lots
        self.refills = 0
        self._fell = False

    def becomes(self, lots: int) -> None:
        if lots > self.lots and self._fell:
            self.refills += 1
        if lots != self.lots:
            self._fell = lots < self.lots
        self.lots, self.largest = lots, max(self.largest, lots)


def updates_per_s(diffs: Sequence[DepthDiff | BookSnapshot], lo_ms: int, hi_ms: int) -> float:
    """Return the levels changed a second in `[lo_ms, hi_ms)`.

    Raises:
        NeedsRawDiffs: Snapshots were given.
        EmptyWindow: `hi_ms` is not after `lo_ms`.
    """
    check_window(lo_ms, hi_ms)
    return _changes(_raw(diffs, "the rate of updates"), lo_ms, hi_ms) * SECOND_MS / (hi_ms - lo_ms)


def quote_stuffing(
    diffs: Sequence[DepthDiff | BookSnapshot], trades: pl.DataFrame, lo_ms: int, hi_ms: int
) -> QuoteStuffing | None:
    """Return quote stuffing in `[lo_ms, hi_ms)`: above 500 updates a second with fewer than 10 % fills, or None.

    Args:
        diffs: Raw diffs.
        trades: Column `time_ms` of `TRADE_SCHEMA`.
        lo_ms: First moment.
        hi_ms: End.

    Raises:
        NeedsRawDiffs: Snapshots were given.
        EmptyWindow: `hi_ms` is not after `lo_ms`.
    """
    check_window(lo_ms, hi_ms)
    changes = _changes(_raw(diffs, "quote stuffing"), lo_ms, hi_ms)
    rate = changes * SECOND_MS / (hi_ms - lo_ms)
    if rate <= STUFFING_UPDATES:
        return None
    filled = trades.filter((pl.col("time_ms") >= lo_ms) & (pl.col("time_ms") < hi_ms)).height / changes
    if filled >= STUFFING_FILLS:
        return None
    severity = Severity.CRITICAL if rate > 1_000 else Severity.HIGH if rate > 750 else Severity.MEDIUM
    return QuoteStuffing(lo_ms, hi_ms, rate, 100 * filled, severity)


def icebergs(
    book: BookSnapshot, diffs: Sequence[DepthDiff | BookSnapshot], trades: pl.DataFrame, instrument: Instrument
) -> tuple[Iceberg, ...]:
    """Return the levels that hide more than they show.

    Of the levels that takers traded at, those whose refills are more than five times the median, lie more than 1.96
    standard deviations above it, and at which more traded than the level ever showed. The deviation is the robust one
    of those refills (1.4826 times their median absolute deviation), at least a fifth of the median; a median below one
    counts as one.

    Args:
        book: The book before the first diff.
        diffs: Raw diffs that follow it, in order.
        trades: Columns `price`, `quantity` and `buyer_is_maker` of `TRADE_SCHEMA`, of the time of the diffs.
        instrument: Gives the size of a tick and a lot.

    Returns:
        Bids, then asks, each by rising price.

    Raises:
        NeedsRawDiffs: Snapshots were given as diffs.
    """
    levels = _levels(book, _raw(diffs, "an iceberg"))
    executed: dict[tuple[BookSide, int], int] = defaultdict(int)
    for tick, lots, buyer_is_maker in trades.select("price", "quantity", "buyer_is_maker").iter_rows():
        executed["bid" if buyer_is_maker else "ask", tick] += lots
    traded = [key for key in executed if key in levels]
    if not traded:
        return ()
    refills = np.array([levels[key].refills for key in traded])
    median = max(float(np.median(refills)), 1.0)
    spread = MAD_TO_DEVIATION * float(np.median(np.abs(refills - np.median(refills))))
    deviation = max(spread, LEAST_DEVIATION * median)
    found: list[Iceberg] = []
    for side, tick in sorted(traded, key=lambda key: (SIDES.index(key[0]), key[1])):
        level, lots = levels[side, tick], executed[side, tick]
        z = (level.refills - median) / deviation
        if level.refills > REFILL_MEDIANS * median and z > SIGNIFICANT_Z and lots > level.largest:
            shown = instrument.quantity(level.largest)
            confidence = (1 + math.erf(z / math.sqrt(2))) / 2
            volume, price = instrument.quantity(lots), instrument.price(tick)
            severity = _severity(confidence)
            found.append(Iceberg(side, price, level.refills, volume, shown, z, confidence, severity))
    return tuple(found)


def _raw(diffs: Sequence[DepthDiff | BookSnapshot], measure: str) -> list[DepthDiff]:
    raw = [diff for diff in diffs if not isinstance(diff, BookSnapshot)]
    if len(raw) < len(diffs):
        raise NeedsRawDiffs(measure)
    return raw


def _changes(diffs: Sequence[DepthDiff], lo_ms: int, hi_ms: int) -> int:
    return sum(len(diff.bids) + len(diff.asks) for diff in diffs if lo_ms <= diff.time_ms < hi_ms)


def _levels(book: BookSnapshot, diffs: Sequence[DepthDiff]) -> dict[tuple[BookSide, int], _Level]:
    levels: dict[tuple[BookSide, int], _Level] = {}
    for changed in (book, *diffs):
        for side in SIDES:
            for tick, lots in (changed.bids if side == "bid" else changed.asks).tolist():
                level = levels.get((side, tick))
                if level is None:
                    levels[side, tick] = _Level(lots)
                else:
                    level.becomes(lots)
    return levels


def _severity(confidence: float) -> Severity:
    bands = ((0.95, Severity.CRITICAL), (0.85, Severity.HIGH), (0.7, Severity.MEDIUM))
    return next((severity for above, severity in bands if confidence > above), Severity.LOW)
