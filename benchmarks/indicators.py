"""EMA 20/50/200, MACD, RSI 7/14 and ATR 3/14 over a year of 3-minute bars, and at one more bar."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import polars as pl

from benchmarks.comparison import OURS, Comparison, compare
from trading.indicators.recursion import STATE, VALUES, WINDOW_BARS, indicators, step
from trading.market.timeframe import MINUTE_MS

AGREES = 1e-9


def bars(count: int) -> pl.DataFrame:
    """Return `count` bars of a random walk."""
    random = np.random.default_rng(11)
    close = 68_000 * np.exp(np.cumsum(random.normal(0, 1e-3, count)))
    reach = close * np.abs(random.normal(0, 1e-3, (2, count)))
    return pl.DataFrame(
        {
            "open_time": 1_760_054_400_000 + np.arange(count) * 3 * MINUTE_MS,
            "high": close + reach[0],
            "low": close - reach[1],
            "close": close,
        }
    )


def in_pandas(candles: pd.DataFrame) -> dict[str, np.ndarray]:
    """Compute the same with `ewm` and shifted columns; each average is seeded by its simple mean."""
    close, before = candles["close"], candles["close"].shift()

    def smooth(values: pd.Series, length: int, alpha: float) -> pd.Series:
        """Put the mean of the first `length` known values in the place of the last of them and smooth from there."""
        first = int(values.notna().argmax())
        seeded = values.copy()
        seeded.iloc[: first + length - 1] = np.nan
        seeded.iloc[first + length - 1] = values.iloc[first : first + length].mean()
        return seeded.ewm(alpha=alpha, adjust=False).mean()

    def ema(values: pd.Series, length: int) -> pd.Series:
        return smooth(values, length, 2 / (length + 1))

    def rsi(length: int) -> pd.Series:
        change = close.diff()
        gain = smooth(change.clip(lower=0).where(change.notna()), length, 1 / length)
        loss = smooth((-change).clip(lower=0).where(change.notna()), length, 1 / length)
        return 100 * gain / (gain + loss)

    reaches = [candles["high"] - candles["low"], (candles["high"] - before).abs(), (candles["low"] - before).abs()]
    true_range = pd.concat(reaches, axis=1).max(axis=1).where(before.notna())
    line = ema(close.where(close.index >= 14), 12) - ema(close, 26)
    signal = ema(line, 9)
    line = line.where(signal.notna())
    frame = {f"ema_{length}": ema(close, length) for length in (20, 50, 200)}
    frame |= {"macd": line, "macd_signal": signal, "macd_hist": line - signal}
    frame |= {f"rsi_{length}": rsi(length) for length in (7, 14)}
    frame |= {f"atr_{length}": smooth(true_range, length, 1 / length) for length in (3, 14)}
    return {name: values.to_numpy() for name, values in frame.items()}


def in_talib(high: np.ndarray, low: np.ndarray, close: np.ndarray) -> dict[str, np.ndarray]:
    """Compute the same with TA-Lib's compiled functions."""
    import talib

    line, signal, histogram = talib.MACD(close, 12, 26, 9)
    values = {f"ema_{length}": talib.EMA(close, length) for length in (20, 50, 200)}
    values |= {"macd": line, "macd_signal": signal, "macd_hist": histogram}
    values |= {f"rsi_{length}": talib.RSI(close, length) for length in (7, 14)}
    values |= {f"atr_{length}": talib.ATR(high, low, close, length) for length in (3, 14)}
    return values


def _same(ours: pl.DataFrame, other: Any) -> bool:
    """Say whether two agree to 1e-9 of the price: MACD is a difference of prices, so its own size is no scale."""
    atol = AGREES * float(ours["ema_20"].tail(1).item())
    return all(
        np.allclose(ours[name].to_numpy(), np.asarray(other[name]), rtol=AGREES, atol=atol, equal_nan=True)
        for name in VALUES
    )


def comparisons(count: int = 175_200) -> Iterator[Comparison]:
    """Yield each comparison as it is done."""
    candles = bars(count)
    columns = [candles[name].to_numpy() for name in ("high", "low", "close")]
    frame = candles.to_pandas()
    yield compare(
        "indicators",
        count,
        "bars",
        {OURS: lambda: indicators(candles), "pandas": lambda: in_pandas(frame), "talib": lambda: in_talib(*columns)},
        _same,
    )
    yield _one_more_bar(candles.head(WINDOW_BARS + 1))


def _one_more_bar(candles: pl.DataFrame) -> Comparison:
    """Compare a step from kept state with computing the whole window again."""
    high, low, close = (candles[name].to_numpy() for name in ("high", "low", "close"))
    kept, row = np.zeros(STATE), np.empty(len(VALUES))
    for index in range(WINDOW_BARS):
        step(kept, high[index], low[index], close[index], row)

    def one_step() -> np.ndarray:
        state = kept.copy()
        step(state, high[-1], low[-1], close[-1], row)
        return row.copy()

    def whole_window() -> np.ndarray:
        return indicators(candles).select(VALUES).tail(1).to_numpy()[0]

    return compare("one_more_bar", 1, "bars", {OURS: one_step, "recompute": whole_window}, np.array_equal)
