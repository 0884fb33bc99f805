"""Indicators at the close of a bar: EMA 20/50/200, MACD 12/26/9, RSI 7/14 and ATR 3/14.

One step of one recursion serves a whole window and one more candle, so the two agree to the last bit. Averages are
seeded by the simple mean of their first bars and smoothed as J. Welles Wilder (1978) does for RSI and ATR; MACD seeds
its fast average on the last 12 of the first 26 bars and appears with its signal, both as TA-Lib does. A value is null
until the bars that it needs are there. Candles are not chosen here: the caller passes closed, complete bars.
"""

from typing import Final

import numpy as np
import polars as pl
from numba import njit
from numpy.typing import NDArray

from trading.compiled import read_only
from trading.indicators.columns import VALUES
from trading.market.timeframe import DAY_MS, Timeframe

WINDOW_BARS: Final = 2_400
"""Bars before a day that its indicators rest on: an EMA 200 forgets its seed below 1e-9 after about 2,070."""

WARM_BARS: Final = 150
"""Bars after which EMA 50, MACD, RSI and ATR differ from those of any longer history by less than 0.03 percent."""

STATE: Final = 16
"""Slots: bars, last close, EMA 20/50/200, fast, slow, signal, gains and losses over 7 and 14, ATR 3/14, MACD bars."""


@njit(cache=True)
def _average(value: float, before: float, bar: int, length: int, weight: float) -> float:
    """Sum up to bar `length`, divide there, and smooth by `weight` afterwards; `bar` counts from one."""
    if bar < length:
        return before + value
    if bar == length:
        return (before + value) / length
    return before + (value - before) * weight


@njit(cache=True)
def _wilder(value: float, before: float, bar: int, length: int) -> float:
    if bar < length:
        return before + value
    if bar == length:
        return (before + value) / length
    return (before * (length - 1) + value) / length


@njit(cache=True)
def _strength(gain: float, loss: float) -> float:
    total = gain + loss
    return 100.0 * gain / total if total > 0.0 else 0.0


@njit(cache=True)
def step(state: NDArray[np.float64], high: float, low: float, close: float, row: NDArray[np.float64]) -> None:
    """Take one more bar into `state` (16 slots, zeros at first) and write its ten values to `row`, NaN where null."""
    bar = int(state[0]) + 1
    row[:] = np.nan
    state[2] = _average(close, state[2], bar, 20, 2.0 / 21.0)
    state[3] = _average(close, state[3], bar, 50, 2.0 / 51.0)
    state[4] = _average(close, state[4], bar, 200, 2.0 / 201.0)
    if bar > 14:
        state[5] = _average(close, state[5], bar - 14, 12, 2.0 / 13.0)
    state[6] = _average(close, state[6], bar, 26, 2.0 / 27.0)
    if bar >= 26:
        state[7] = _average(state[5] - state[6], state[7], bar - 25, 9, 2.0 / 10.0)
    if bar > 1:
        change = close - state[1]
        gain, loss = max(change, 0.0), max(-change, 0.0)
        true_range = max(high - low, max(abs(high - state[1]), abs(low - state[1])))
        state[8] = _wilder(gain, state[8], bar - 1, 7)
        state[9] = _wilder(loss, state[9], bar - 1, 7)
        state[10] = _wilder(gain, state[10], bar - 1, 14)
        state[11] = _wilder(loss, state[11], bar - 1, 14)
        state[12] = _wilder(true_range, state[12], bar - 1, 3)
        state[13] = _wilder(true_range, state[13], bar - 1, 14)
    state[0] = bar
    state[1] = close
    if bar >= 20:
        row[0] = state[2]
    if bar >= 50:
        row[1] = state[3]
    if bar >= 200:
        row[2] = state[4]
    if bar >= 34:
        row[3] = state[5] - state[6]
        row[4] = state[7]
        row[5] = row[3] - row[4]
    if bar >= 8:
        row[6] = _strength(state[8], state[9])
    if bar >= 15:
        row[7] = _strength(state[10], state[11])
        row[9] = state[13]
    if bar >= 4:
        row[8] = state[12]


@njit(cache=True)
def _run(
    high: NDArray[np.float64],
    low: NDArray[np.float64],
    close: NDArray[np.float64],
    starts: NDArray[np.int64],
    firsts: NDArray[np.int64],
    lasts: NDArray[np.int64],
    values: NDArray[np.float64],
    bars: NDArray[np.int64],
) -> None:
    """Run each stretch from a fresh state at `starts` and keep the rows of `firsts` up to `lasts`."""
    spare = np.empty(values.shape[1])
    for stretch in range(len(starts)):
        state = np.zeros(STATE)
        for index in range(starts[stretch], lasts[stretch]):
            if index < firsts[stretch]:
                step(state, high[index], low[index], close[index], spare)
            else:
                step(state, high[index], low[index], close[index], values[index])
                bars[index] = int(state[0])


def indicators(candles: pl.DataFrame) -> pl.DataFrame:
    """Return the indicators of one window, seeded at its start.

    Args:
        candles: Closed, complete bars in order; columns `open_time`, `high`, `low`, `close`.

    Returns:
        `open_time`, the ten values in price units (RSI 0 … 100), `warm`, and `known_at_ms`: when the last bar that a value
        rests on was known, null where that was not said.
    """
    edges = np.array([0], dtype=np.int64)
    return _frame(candles, edges, edges, np.array([len(candles)], dtype=np.int64))


def indicators_of_days(candles: pl.DataFrame, timeframe: Timeframe, lo_ms: int, hi_ms: int) -> pl.DataFrame:
    """Return the indicators of the bars in `[lo_ms, hi_ms)`, UTC day by UTC day.

    Each day rests on the last `WINDOW_BARS` bars before it, or as many as there are, and on its own; so a day computed
    alone has the same bits as in any range.

    Args:
        candles: Closed, complete bars in order, with at least `WINDOW_BARS` before the first day where they exist.
        timeframe: Their length; days divide into it.
        lo_ms: First open time.
        hi_ms: End of open times.
    """
    open_times = candles["open_time"].to_numpy()
    # A day that is asked for in part still rests on the whole day's anchor.
    days = np.arange(Timeframe.D1.floor(lo_ms), hi_ms, max(DAY_MS, timeframe.ms), dtype=np.int64)
    firsts = np.searchsorted(open_times, days)
    lasts = np.searchsorted(open_times, np.minimum(days + DAY_MS, hi_ms))
    starts = np.maximum(firsts - WINDOW_BARS, 0)
    frame = _frame(candles, starts, firsts, lasts)
    return frame.filter((pl.col("open_time") >= lo_ms) & (pl.col("open_time") < hi_ms))


def _frame(
    candles: pl.DataFrame, starts: NDArray[np.int64], firsts: NDArray[np.int64], lasts: NDArray[np.int64]
) -> pl.DataFrame:
    high, low, close = (read_only(candles[name].to_numpy(), np.float64) for name in ("high", "low", "close"))
    values = np.full((len(candles), len(VALUES)), np.nan)
    bars = np.zeros(len(candles), dtype=np.int64)
    _run(high, low, close, starts, firsts, lasts, values, bars)
    columns = [pl.Series(name, values[:, column]).fill_nan(None) for column, name in enumerate(VALUES)]
    frame = pl.DataFrame([candles["open_time"], *columns, pl.Series("warm", bars >= WARM_BARS)])
    if "known_at_ms" not in candles.columns or candles["known_at_ms"].null_count():
        return frame.with_columns(known_at_ms=pl.lit(None, pl.Int64))
    known = candles["known_at_ms"].to_numpy().copy()
    for start, first, last in zip(
        starts, firsts, lasts, strict=True
    ):  # each day's own window, whatever else is asked for
        known[first:last] = np.maximum.accumulate(candles["known_at_ms"].to_numpy()[start:last])[first - start :]
    return frame.with_columns(pl.Series("known_at_ms", known))
