"""Bars on a time grid: one place for every bar that could be there, NaN where none is.

Windows are cut by time and never by position, so that a missing bar cannot shift what stands beside it, and each window
is copied before it is summed, so that a sum has the same bits whatever stands around it.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from trading.market.timeframe import Timeframe

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Grid:
    """Columns of bars from `lo_ms` on; the bar at place `i` opens at `lo_ms + i * timeframe.ms`."""

    timeframe: Timeframe
    lo_ms: int
    columns: dict[str, Floats]
    length: int

    def closing_at(self, times_ms: Ints) -> Ints:
        """Return the place of the last bar that had closed at each moment; places outside the grid included."""
        return (times_ms - self.lo_ms) // self.timeframe.ms - 1

    def at(self, name: str, places: Ints) -> Floats:
        """Return one column's values at places, NaN outside the grid."""
        column = self.columns[name]
        inside = (places >= 0) & (places < self.length)
        values = np.full(len(places), np.nan)
        values[inside] = column[places[inside]]
        return values

    def windows(self, name: str, places: Ints, bars: int, ahead: bool = False) -> Floats:
        """Return the `bars` values that end at each place, or `ahead` of it; shape (places, bars)."""
        offsets = np.arange(1, bars + 1) if ahead else np.arange(1 - bars, 1)
        wanted = places[:, None] + offsets[None, :]
        values = np.full(wanted.shape, np.nan)
        inside = (wanted >= 0) & (wanted < self.length)
        values[inside] = self.columns[name][wanted[inside]]
        return values


def grid_of(bars: pl.DataFrame, timeframe: Timeframe, lo_ms: int, hi_ms: int) -> Grid:
    """Return the bars of a frame with `open_time` in `[lo_ms, hi_ms)` on their grid."""
    lo_ms = timeframe.floor(lo_ms)
    length = max(0, (hi_ms - lo_ms) // timeframe.ms)
    inside = bars.filter((pl.col("open_time") >= lo_ms) & (pl.col("open_time") < lo_ms + length * timeframe.ms))
    places = (inside["open_time"].to_numpy() - lo_ms) // timeframe.ms
    columns: dict[str, Floats] = {}
    for name in bars.columns:
        if name == "open_time" or not bars[name].dtype.is_float():
            continue
        column = np.full(length, np.nan)
        column[places] = inside[name].to_numpy()
        columns[name] = column
    return Grid(timeframe, lo_ms, columns, length)


def slope(series: Floats) -> Floats:
    """Return the ordinary least squares slope of each row over its index; NaN where a value is missing."""
    count = series.shape[1]
    index: Floats = np.arange(count, dtype=np.float64) - (count - 1) / 2.0
    return np.ascontiguousarray(series * index).sum(axis=1) / float((index * index).sum())
