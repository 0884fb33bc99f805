"""The 20 numbers by which one state is compared with another (`feat_v1`).

All are free of the price's scale, so that coins and years are comparable. Each is shifted and scaled by a fixed
constant, near the median and spread of liquid markets, and clipped: nothing is fitted, so no later data can change an
earlier vector. Values are rounded to float32, which is what the index stores.
"""

from typing import Final

import numpy as np
import polars as pl

from trading.rag.grid import Floats, slope
from trading.rag.snapshot import AVERAGE_VOLUME_BARS, SERIES, grids, last_closed

FEATURE_VERSION: Final = "feat_v1"
CLIP: Final = 2.6

SCALES: Final[dict[str, tuple[float, float]]] = {
    "rsi_7": (50.0, 18.0),
    "rsi_14": (50.0, 12.0),
    "macd": (0.0, 0.001),
    "ema_20_gap": (0.0, 0.003),
    "rsi_7_slope": (0.0, 3.0),
    "macd_slope": (0.0, 0.0001),
    "change_1h": (0.0, 0.006),
    "change_4h": (0.0, 0.012),
    "change_24h": (0.0, 0.03),
    "volatility_4h": (0.001, 0.0006),
    "volatility_24h": (0.001, 0.0006),
    "atr_14": (0.0015, 0.0009),
    "volume_ratio_1h_24h": (1.0, 0.7),
    "ema_20_50_4h": (0.0, 0.015),
    "macd_4h": (0.0, 0.01),
    "rsi_14_4h": (50.0, 12.0),
    "macd_slope_4h": (0.0, 0.001),
    "atr_3_14_4h": (1.0, 0.25),
    "atr_14_4h": (0.015, 0.008),
    "volume_ratio_4h": (1.0, 0.6),
}
"""Centre and scale of each feature, in the feature's own unit (RSI points, else fractions)."""

FEATURES: Final = tuple(SCALES)
DAY_BARS: Final = 480
CHUNK: Final = 4096


def features(
    candles_3m: pl.DataFrame,
    indicators_3m: pl.DataFrame,
    candles_4h: pl.DataFrame,
    indicators_4h: pl.DataFrame,
    states: pl.DataFrame,
) -> pl.DataFrame:
    """Return `ts_ms` and the 20 features of the states that are warm, complete and without gaps.

    Args:
        candles_3m: As for `trading.rag.snapshot.snapshots`, of the same bars.
        indicators_3m: Their indicators.
        candles_4h: As there.
        indicators_4h: Their indicators.
        states: What `snapshots` returned.
    """
    usable = states.filter(pl.col("warm") & pl.col("complete") & (pl.col("gap_bars") == 0)).sort("ts_ms")
    frames = (candles_3m, indicators_3m, candles_4h, indicators_4h)
    chunks = [_features(frames, usable["ts_ms"].to_numpy()[at : at + CHUNK]) for at in range(0, len(usable), CHUNK)]
    return (
        pl.concat(chunks) if chunks else pl.DataFrame(schema={"ts_ms": pl.Int64, **dict.fromkeys(FEATURES, pl.Float64)})
    )


def _features(
    frames: tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame, pl.DataFrame],
    times: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> pl.DataFrame:
    short, long = grids(*frames, int(times[0]), int(times[-1]) + 1)
    at, _ = last_closed(short, times)
    long_at, _ = last_closed(long, times)
    price = short.at("close", at)
    closes = short.windows("close", at, DAY_BARS + 1)
    squares = np.square(closes[:, 1:] / closes[:, :-1] - 1.0)
    volumes = short.windows("volume", at, DAY_BARS)
    hour = np.ascontiguousarray(volumes[:, -20:]).sum(axis=1)
    atr_3, atr_14 = long.at("atr_3", long_at), long.at("atr_14", long_at)
    average = long.windows("volume", long_at, AVERAGE_VOLUME_BARS).sum(axis=1) / AVERAGE_VOLUME_BARS
    raw: dict[str, Floats] = {
        "rsi_7": short.at("rsi_7", at),
        "rsi_14": short.at("rsi_14", at),
        "macd": short.at("macd", at) / price,
        "ema_20_gap": price / short.at("ema_20", at) - 1.0,
        "rsi_7_slope": slope(short.windows("rsi_7", at, SERIES)),
        "macd_slope": slope(short.windows("macd", at, SERIES)) / price,
        "change_1h": price / short.at("close", at - 20) - 1.0,
        "change_4h": price / short.at("close", at - 80) - 1.0,
        "change_24h": price / short.at("close", at - DAY_BARS) - 1.0,
        "volatility_4h": np.sqrt(np.ascontiguousarray(squares[:, -80:]).sum(axis=1) / 80.0),
        "volatility_24h": np.sqrt(squares.sum(axis=1) / DAY_BARS),
        "atr_14": short.at("atr_14", at) / price,
        "volume_ratio_1h_24h": hour * 24.0 / volumes.sum(axis=1),
        "ema_20_50_4h": long.at("ema_20", long_at) / long.at("ema_50", long_at) - 1.0,
        "macd_4h": long.at("macd", long_at) / price,
        "rsi_14_4h": long.at("rsi_14", long_at),
        "macd_slope_4h": slope(long.windows("macd", long_at, SERIES)) / price,
        "atr_3_14_4h": atr_3 / atr_14,
        "atr_14_4h": atr_14 / price,
        "volume_ratio_4h": long.at("volume", long_at) / average,
    }
    scaled = {
        name: np.clip((raw[name] - centre) / scale, -CLIP, CLIP).astype(np.float32).astype(np.float64)
        for name, (centre, scale) in SCALES.items()
    }
    finite = np.logical_and.reduce([np.isfinite(values) for values in scaled.values()])
    return pl.DataFrame({"ts_ms": times, **scaled}).filter(pl.Series(finite))
