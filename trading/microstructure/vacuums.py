"""A liquidity vacuum is a range of prices in which much less traded, or rests, than is usual around it.

Two sources that answer two questions: `trades` looks at the bins of a volume profile (where did little trade), `book` at
one order book (where does little rest now), each side by itself and without the spread. Bins are equal ranges of price
and empty ones count: a hole in a book is the plainest vacuum. Usual is the median of the bins that are not empty, lest
a sparse market make emptiness the norm. Thresholds are those of seed 003.
"""

import math
from collections.abc import Sequence
from enum import StrEnum
from itertools import groupby
from typing import Final, Literal

import msgspec
import numpy as np

from trading.market.book import BookSnapshot
from trading.market.instrument import Instrument
from trading.microstructure.profile_bins import BUY, empty_bins
from trading.microstructure.terms import SIDES, BookSide, Severity, top
from trading.microstructure.volume_profile import VolumeProfile

THIN_SHARE: Final = 0.2
"""A bin with less than this share of the median is thin. At 0.2 every vacuum is critical, at 0.8 all bands occur."""

MERGE_GAP: Final = 0.001
"""Neighbours nearer than this share of the price are one."""

STOP_MARGIN: Final = 0.002
STOP_WITHOUT_VACUUM: Final = 0.02


class Impact(StrEnum):
    """How price is expected to move through a vacuum."""

    FAST_MOVEMENT = "fast_movement"
    MODERATE = "moderate"
    NEGLIGIBLE = "negligible"


class LiquidityVacuum(msgspec.Struct, frozen=True):
    """One range of thin bins.

    Attributes:
        source: What it was seen in.
        side: Side of the book; None where the source is trades.
        price_low: Lower edge.
        price_high: Upper edge.
        actual_volume: Mean volume of a thin bin in it, base currency; each bin counts once, gaps that a merge closed
            not at all.
        median_volume: Median volume of the bins that are not empty.
        deficit_pct: How far `actual_volume` lies below the median, in percent of it.
        severity: Critical above 80 %, high above 50 %, medium above 20 %.
        expected_impact: Fast above 80 %, moderate above 50 %.
    """

    source: Literal["trades", "book"]
    side: BookSide | None
    price_low: float
    price_high: float
    actual_volume: float
    median_volume: float
    deficit_pct: float
    severity: Severity
    expected_impact: Impact


class StopAdvice(msgspec.Struct, frozen=True):
    """Where a stop order of a position stands beyond the nearest vacuum.

    Attributes:
        position: What the stop protects.
        stop_price: A whole tick.
        distance_pct: From the entry, in percent of it.
        vacuum: The vacuum it stands beyond; None: there is none, and the distance is the usual one.
    """

    position: Literal["long", "short"]
    stop_price: float
    distance_pct: float
    vacuum: LiquidityVacuum | None


class _Bin(msgspec.Struct, frozen=True):
    low: float
    high: float
    volume: float


class _Run(msgspec.Struct, frozen=True):
    """Thin bins side by side, or several such runs merged; `bins` and `volume` are of the thin bins alone."""

    low: float
    high: float
    bins: int
    volume: float

    def merged(self, other: "_Run") -> "_Run":
        return _Run(self.low, other.high, self.bins + other.bins, self.volume + other.volume)


def vacuums_in_profile(profile: VolumeProfile, thin_share: float = THIN_SHARE) -> tuple[LiquidityVacuum, ...]:
    """Return the vacuums of a volume profile, by rising price.

    Args:
        profile: Its bins are looked at as they are.
        thin_share: Share of the median below which a bin is thin.
    """
    bins = [_Bin(b.price_low, b.price_high, b.volume) for b in profile.bins]
    return tuple(_vacuums(bins, "trades", None, thin_share))


def vacuums_in_book(
    book: BookSnapshot, instrument: Instrument, bin_ticks: int | None = None, thin_share: float = THIN_SHARE
) -> tuple[LiquidityVacuum, ...]:
    """Return the vacuums among the top levels of a book, bids first, each side by rising price.

    Args:
        book: Its top 20 levels a side are looked at, from the best to the worst of them.
        instrument: Gives the size of a tick and a lot.
        bin_ticks: Ticks of a bin; None: `adaptive_bin_ticks` of the side.
        thin_share: Share of the median below which a bin is thin.
    """
    return tuple(
        v for side in SIDES for v in _vacuums(_bins(book, side, instrument, bin_ticks), "book", side, thin_share)
    )


def stop_advice(
    vacuums: Sequence[LiquidityVacuum], position: Literal["long", "short"], entry_price: float, instrument: Instrument
) -> StopAdvice:
    """Return where to stop: 0.2 % beyond the nearest vacuum on the losing side, or 2 % from the entry without one.

    A vacuum around the entry is the nearest.

    Args:
        vacuums: As `vacuums_in_profile` or `vacuums_in_book` returned them.
        position: A long one loses downwards, a short one upwards.
        entry_price: Its price.
        instrument: Gives the size of a tick; the stop is rounded to one, away from the entry.
    """
    ticks = 10**instrument.price_decimals
    if position == "long":
        nearest = max((v for v in vacuums if v.price_low < entry_price), key=lambda v: v.price_low, default=None)
        stop = nearest.price_low * (1 - STOP_MARGIN) if nearest else entry_price * (1 - STOP_WITHOUT_VACUUM)
        # Rounded to a thousandth of a tick first: 990.0000000001 ticks are 990.
        stop_tick = int(np.floor(round(stop * ticks, 3)))
    else:
        nearest = min((v for v in vacuums if v.price_high > entry_price), key=lambda v: v.price_high, default=None)
        stop = nearest.price_high * (1 + STOP_MARGIN) if nearest else entry_price * (1 + STOP_WITHOUT_VACUUM)
        stop_tick = int(np.ceil(round(stop * ticks, 3)))
    price = instrument.price(stop_tick)
    return StopAdvice(position, price, 100 * abs(price - entry_price) / entry_price, nearest)


def _bins(book: BookSnapshot, side: BookSide, instrument: Instrument, bin_ticks: int | None) -> list[_Bin]:
    levels = top(book, side)
    if not len(levels):
        return []
    ticks, lots = levels[:, 0], levels[:, 1]
    bins = empty_bins(int(ticks.min()), int(ticks.max()), bin_ticks)
    np.add.at(bins.rows[:, BUY], (ticks - bins.first_tick) // bins.bin_ticks, lots)
    return [
        _Bin(instrument.price(bins.edge(place)), instrument.price(bins.edge(place + 1)), instrument.quantity(row[BUY]))
        for place, row in enumerate(bins.rows.tolist())
    ]


def _vacuums(
    bins: Sequence[_Bin], source: Literal["trades", "book"], side: BookSide | None, thin_share: float
) -> list[LiquidityVacuum]:
    volumes = [b.volume for b in bins if b.volume > 0]
    if not volumes:
        return []
    median = float(np.median(volumes))
    found: list[LiquidityVacuum] = []
    for run in _merged(_runs(bins, thin_share * median)):
        actual = run.volume / run.bins
        deficit_pct = 100 * (1 - actual / median)
        severity, impact = _severity(deficit_pct), _impact(deficit_pct)
        found.append(LiquidityVacuum(source, side, run.low, run.high, actual, median, deficit_pct, severity, impact))
    return found


def _runs(bins: Sequence[_Bin], thin_below: float) -> list[_Run]:
    runs: list[_Run] = []
    for thin, group in groupby(bins, key=lambda b: _below(b.volume, thin_below)):
        if thin:
            run = list(group)
            runs.append(_Run(run[0].low, run[-1].high, len(run), sum(b.volume for b in run)))
    return runs


def _merged(runs: Sequence[_Run]) -> list[_Run]:
    """Join neighbours; what is weighed are their own bins, not the widened range."""
    merged: list[_Run] = []
    for run in runs:
        if merged and _below(run.low - merged[-1].high, MERGE_GAP * merged[-1].high):
            merged[-1] = merged[-1].merged(run)
        else:
            merged.append(run)
    return merged


def _below(value: float, threshold: float) -> bool:
    """Say whether a value lies below a threshold; one that equals it but for the rounding of floats does not."""
    return value < threshold and not math.isclose(value, threshold, rel_tol=1e-9)


def _severity(deficit_pct: float) -> Severity:
    bands = ((80, Severity.CRITICAL), (50, Severity.HIGH), (20, Severity.MEDIUM))
    return next((severity for above, severity in bands if deficit_pct > above), Severity.LOW)


def _impact(deficit_pct: float) -> Impact:
    bands = ((80, Impact.FAST_MOVEMENT), (50, Impact.MODERATE))
    return next((impact for above, impact in bands if deficit_pct > above), Impact.NEGLIGIBLE)
