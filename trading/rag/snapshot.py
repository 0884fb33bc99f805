"""The state of one market at one moment, from bars that had closed by then.

A state is taken on the quarter of an hour. Bars are keyed by their open time and known at their close, so the 3m and
the 4h bar of a state are the last ones whose close is not after its moment; nothing that closes later is looked at.
What is unknown is null. Outcomes are no part of a state (`trading.rag.outcomes`).
"""

import hashlib
from typing import Final

import numpy as np
import polars as pl

from trading.market.timeframe import DAY_MS, MINUTE_MS, Timeframe
from trading.rag.contract import contract_at
from trading.rag.grid import Floats, Grid, Ints, grid_of, slope

INTERVAL_MS: Final = 15 * MINUTE_MS
SERIES: Final = 10
STALE_BARS: Final = 2
"""A state may rest on a bar that closed this many bars ago, as a thin market has minutes without a trade."""

GAP_WINDOW_BARS: Final = DAY_MS // Timeframe.M3.ms
AVERAGE_VOLUME_BARS: Final = 20


def snapshots(
    symbol: str,
    candles_3m: pl.DataFrame,
    indicators_3m: pl.DataFrame,
    candles_4h: pl.DataFrame,
    indicators_4h: pl.DataFrame,
    derivatives: pl.DataFrame,
    lo_ms: int,
    hi_ms: int,
) -> tuple[pl.DataFrame, list[tuple[int, str]]]:
    """Return the states with moments in `[lo_ms, hi_ms)`, and the moments that have none with the reason.

    Args:
        symbol: Whose states; part of their digests.
        candles_3m: Closed bars (`open_time`, OHLC, `volume`) from 26 hours before `lo_ms` on.
        indicators_3m: Their indicators; rows that are not warm are absent or have `warm = false`.
        candles_4h: Closed bars from 20 bars before `lo_ms` on.
        indicators_4h: Their indicators.
        derivatives: What is held of the perpetual contract (`trading.rag.contract`); may be empty.
        lo_ms: First moment.
        hi_ms: End of moments.
    """
    short, long = grids(candles_3m, indicators_3m, candles_4h, indicators_4h, lo_ms, hi_ms)
    times = np.arange(-(-lo_ms // INTERVAL_MS) * INTERVAL_MS, hi_ms, INTERVAL_MS, dtype=np.int64)
    places, fresh = last_closed(short, times)
    rejected = [(int(time), "stale") for time in times[~fresh]]
    times, places = times[fresh], places[fresh]
    long_places, long_fresh = last_closed(long, times)
    columns = _state(short, places, long, np.where(long_fresh, long_places, -(2**40)))
    columns |= contract_at(derivatives, times)
    frame = pl.DataFrame({"ts_ms": times, **{name: _nullable(values) for name, values in columns.items()}})
    frame = frame.with_columns(
        gap_bars=pl.Series(gap_bars(short, times), dtype=pl.Int32),
        warm=pl.all_horizontal(pl.col("rsi_14", "ema_20", "macd", "ema_20_4h", "ema_50_4h", "atr_14_4h").is_not_null()),
        complete=pl.all_horizontal(
            (pl.col(name).list.drop_nulls().list.len() * 2 >= SERIES) for name in columns if columns[name].ndim == 2
        ),
    )
    return frame.with_columns(digest=pl.Series(_digests(symbol, times, columns), dtype=pl.String)), rejected


def grids(
    candles_3m: pl.DataFrame,
    indicators_3m: pl.DataFrame,
    candles_4h: pl.DataFrame,
    indicators_4h: pl.DataFrame,
    lo_ms: int,
    hi_ms: int,
) -> tuple[Grid, Grid]:
    """Return the 3m and the 4h bars that states in `[lo_ms, hi_ms)` look back on, with their warm indicators."""
    short = _joined(candles_3m, indicators_3m)
    long = _joined(candles_4h, indicators_4h)
    return (
        grid_of(short, Timeframe.M3, lo_ms - DAY_MS - 2 * 60 * MINUTE_MS, hi_ms),
        grid_of(long, Timeframe.H4, lo_ms - (AVERAGE_VOLUME_BARS + 2) * Timeframe.H4.ms, hi_ms),
    )


def last_closed(grid: Grid, times: Ints) -> tuple[Ints, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """Return the place of the last bar that is there and had closed at each moment, and whether it is fresh enough."""
    places = grid.closing_at(times)
    fresh = np.zeros(len(times), dtype=bool)
    chosen = places.copy()
    for lag in range(STALE_BARS + 1):
        there = ~fresh & np.isfinite(grid.at("close", places - lag))
        chosen[there] = places[there] - lag
        fresh |= there
    return chosen, fresh


def gap_bars(short: Grid, times: Ints) -> Ints:
    """Return how many of the 3m bars of the 24 hours before each moment are missing or without a trade."""
    sound = short.columns["volume"] > 0  # NaN is not
    counted = np.concatenate([[0], np.cumsum(sound)])
    last = np.clip(short.closing_at(times) + 1, 0, short.length)
    first = np.clip(last - GAP_WINDOW_BARS, 0, short.length)
    return GAP_WINDOW_BARS - (counted[last] - counted[first])


def _joined(candles: pl.DataFrame, indicators: pl.DataFrame) -> pl.DataFrame:
    if "warm" in indicators.columns:
        indicators = indicators.filter("warm").drop("warm")
    return candles.join(indicators, on="open_time", how="left")


def _state(short: Grid, places: Ints, long: Grid, long_places: Ints) -> dict[str, Floats]:
    price = short.at("close", places)
    series = {
        "mid_prices": short.windows("close", places, SERIES),
        "ema_20_values": short.windows("ema_20", places, SERIES),
        "macd_values": short.windows("macd", places, SERIES),
        "rsi_7_values": short.windows("rsi_7", places, SERIES),
        "rsi_14_values": short.windows("rsi_14", places, SERIES),
    }
    volumes = long.windows("volume", long_places, AVERAGE_VOLUME_BARS)
    ema_20_4h, ema_50_4h = long.at("ema_20", long_places), long.at("ema_50", long_places)
    hour, four_hours = (short.at("close", places - bars) for bars in (20, 80))
    return {
        "price": price,
        **{name: short.at(name, places) for name in ("rsi_7", "rsi_14", "macd", "ema_20")},
        **series,
        "ema_20_4h": ema_20_4h,
        "ema_50_4h": ema_50_4h,
        "atr_3_4h": long.at("atr_3", long_places),
        "atr_14_4h": long.at("atr_14", long_places),
        "current_volume_4h": long.at("volume", long_places),
        "avg_volume_4h": volumes.sum(axis=1) / AVERAGE_VOLUME_BARS,
        "macd_4h_values": long.windows("macd", long_places, SERIES),
        "rsi_14_4h_values": long.windows("rsi_14", long_places, SERIES),
        "price_change_1h": (price / hour - 1.0) * 100.0,
        "price_change_4h": (price / four_hours - 1.0) * 100.0,
        "ema_ratio_20_50": ema_20_4h / ema_50_4h,
        "rsi_7_slope": slope(series["rsi_7_values"]),
        "macd_slope": slope(series["macd_values"]),
    }


def _nullable(values: Floats) -> pl.Series:
    if values.ndim == 1:
        return pl.Series(values).fill_nan(None)
    flat = pl.Series(values.ravel()).fill_nan(None)
    return flat.reshape(values.shape).arr.to_list() if len(values) else pl.Series([], dtype=pl.List(pl.Float64))


def _digests(symbol: str, times: Ints, columns: dict[str, Floats]) -> list[str]:
    rows = np.column_stack(list(columns.values()))
    rows = np.ascontiguousarray(np.where(np.isnan(rows), np.nan, rows), dtype="<f8")  # one NaN for every unknown
    return [
        hashlib.sha256(f"{symbol}|{time}|".encode() + row.tobytes()).hexdigest()
        for time, row in zip(times.tolist(), rows, strict=True)
    ]
