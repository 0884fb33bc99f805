"""A volume profile of a million trades, and the one of a day from profile minutes."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl
from numba import njit

from benchmarks.candles import INSTRUMENT, START_MS, trades
from benchmarks.comparison import OURS, Comparison, compare
from trading.market.timeframe import DAY_MS, MINUTE_MS
from trading.microstructure.profile_minutes import profile_minutes
from trading.microstructure.volume_profile import VolumeProfile, volume_profile, volume_profile_of_minutes

BIN_TICKS = 250
"""Fixed, so that each way does the same; finding the range is part of it."""


def in_python(
    rows: list[tuple[int, int, int, bool]], lo_ms: int, hi_ms: int, size: int
) -> tuple[int, int, int, list[list[int]]]:
    """Count row by row, as one writes it first; returns lower edge, area and bins."""
    held: dict[int, list[int]] = {}
    for time_ms, price, quantity, buyer_is_maker in rows:
        if not lo_ms <= time_ms < hi_ms:
            continue
        index = price // size
        row = held.get(index)
        if row is None:
            row = held[index] = [0, 0, 0]
        row[1 if buyer_is_maker else 0] += quantity
        row[2] += 1
    first = min(held)
    bins = [held.get(index, [0, 0, 0]) for index in range(first, max(held) + 1)]
    return _with_area(first, bins)


def in_numpy(columns: list[np.ndarray], lo_ms: int, hi_ms: int, size: int) -> Any:
    """Count with `bincount`, whose sums are floats: exact below 2^53."""
    inside = (columns[0] >= lo_ms) & (columns[0] < hi_ms)
    price, quantity, buyer_is_maker = (column[inside] for column in columns[1:])
    index = price // size
    first = int(index.min())
    index -= first
    count = np.bincount(index)
    sold = np.bincount(index, quantity * buyer_is_maker, len(count))
    bought = np.bincount(index, quantity, len(count)) - sold
    return _with_area(first, np.column_stack([bought, sold, count]).astype(np.int64).tolist())


@njit(cache=True)
def _count(price: np.ndarray, quantity: np.ndarray, buyer_is_maker: np.ndarray, size: int) -> tuple[int, np.ndarray]:
    low = high = price[0]
    for value in price:
        low, high = min(low, value), max(high, value)
    first = low // size
    bins = np.zeros((high // size - first + 1, 3), np.int64)
    for place in range(price.size):
        index = np.uint32(price[place] - first * size) // np.uint32(size)
        bins[index, 1 if buyer_is_maker[place] else 0] += quantity[place]
        bins[index, 2] += 1
    return first, bins


def at_the_limit(price: np.ndarray, quantity: np.ndarray, buyer_is_maker: np.ndarray, size: int) -> Any:
    """Count in two compiled passes over arrays that are there, with narrow divisions and nothing around them."""
    first, bins = _count(price, quantity, buyer_is_maker, size)
    return _with_area(int(first), bins.tolist())


def _with_area(first: int, bins: list[list[int]]) -> tuple[int, int, int, list[list[int]]]:
    """Grow the value area from the fullest bin."""
    lots = [row[0] + row[1] for row in bins]
    low = high = lots.index(max(lots))
    held, wanted = lots[low], 0.7 * sum(lots)
    while held < wanted:
        above = lots[high + 1] if high + 1 < len(lots) else -1
        below = lots[low - 1] if low else -1
        if above >= below:
            high, held = high + 1, held + above
        else:
            low, held = low - 1, held + below
    return first, low, high, bins


def _same(ours: VolumeProfile, other: Any) -> bool:
    if isinstance(other, VolumeProfile):
        return ours == other
    first, low, high, bins = other

    def price(index: int) -> float:
        return INSTRUMENT.price((first + index) * BIN_TICKS)

    area = (price(low), price(high + 1))
    return (ours.value_area_low, ours.value_area_high) == area and [
        (b.price_low, b.buy_volume, b.sell_volume, b.trade_count) for b in ours.bins
    ] == [
        (price(i), INSTRUMENT.quantity(bought), INSTRUMENT.quantity(sold), count)
        for i, (bought, sold, count) in enumerate(bins)
    ]


def comparisons(count: int = 1_000_000) -> Iterator[Comparison]:
    """Yield each comparison as it is done."""
    frame, end_ms = trades(count), START_MS + DAY_MS
    named = ("time_ms", "price", "quantity", "buyer_is_maker")
    rows = frame.select(named).rows()
    columns = [frame[name].to_numpy() for name in named]
    yield compare(
        "profile",
        count,
        "trades",
        {
            OURS: lambda: volume_profile(frame, INSTRUMENT, START_MS, end_ms, BIN_TICKS),
            "python": lambda: in_python(rows, START_MS, end_ms, BIN_TICKS),
            "numpy": lambda: in_numpy(columns, START_MS, end_ms, BIN_TICKS),
            "limit": lambda: at_the_limit(*columns[1:], BIN_TICKS),
        },
        _same,
    )
    yield _a_window_of_minutes(count)


def _a_window_of_minutes(count: int) -> Comparison:
    """Compare 24 hours out of two days of minutes, across midnight, with a recomputation from the trades."""
    day = trades(count)
    two_days = pl.concat([day, day.with_columns(pl.col("time_ms") + DAY_MS)]).rechunk()
    minutes = profile_minutes(two_days).rechunk()
    lo_ms = START_MS + DAY_MS // 2 // MINUTE_MS * MINUTE_MS
    return compare(
        "profile_24h",
        1,
        "windows",
        {
            OURS: lambda: volume_profile_of_minutes(minutes, INSTRUMENT, lo_ms, lo_ms + DAY_MS),
            "recompute": lambda: volume_profile(two_days, INSTRUMENT, lo_ms, lo_ms + DAY_MS),
        },
        _same,
    )
