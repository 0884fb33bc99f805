"""What happened after a state: changes, extremes and the first of two limits that the price touched.

An outcome is a fact about the 24 hours after its state and does not exist before they have passed. Where one of their
bars is missing, what rests on it is null; nothing is filled. Percent throughout.
"""

from typing import Final

import numpy as np
import polars as pl

from trading.market.timeframe import DAY_MS, HOUR_MS, MINUTE_MS, Timeframe
from trading.rag.grid import Floats, grid_of

HORIZONS: Final = {"15m": 15 * MINUTE_MS, "1h": HOUR_MS, "4h": 4 * HOUR_MS, "24h": DAY_MS}
STOP_LOSS_PCT: Final = -2.0
TAKE_PROFIT_PCT: Final = 3.0
CHUNK: Final = 4096


def outcomes(states: pl.DataFrame, candles_3m: pl.DataFrame, known_until_ms: int) -> pl.DataFrame:
    """Return one row for each state whose 24 hours had passed at `known_until_ms`.

    Args:
        states: `ts_ms` and `price`.
        candles_3m: Closed bars with `open_time`, `high`, `low`, `close`, from the first state to a day after the last.
        known_until_ms: Close of the last bar that is known.
    """
    mature = states.filter(pl.col("ts_ms") + DAY_MS <= known_until_ms).select("ts_ms", "price").sort("ts_ms")
    chunks = [_outcomes(mature[first : first + CHUNK], candles_3m) for first in range(0, len(mature), CHUNK)]
    return pl.concat(chunks) if chunks else _outcomes(mature, candles_3m)


def _outcomes(states: pl.DataFrame, candles: pl.DataFrame) -> pl.DataFrame:
    times, price = states["ts_ms"].to_numpy(), states["price"].to_numpy()
    lo_ms = int(times[0]) if len(times) else 0
    hi_ms = int(times[-1]) + DAY_MS if len(times) else 0
    grid = grid_of(candles.select("open_time", "high", "low", "close"), Timeframe.M3, lo_ms - Timeframe.M3.ms, hi_ms)
    places = grid.closing_at(times)
    bars = {name: length // Timeframe.M3.ms for name, length in HORIZONS.items()}
    highs = _percent(grid.windows("high", places, bars["24h"], ahead=True), price)
    lows = _percent(grid.windows("low", places, bars["24h"], ahead=True), price)
    columns: dict[str, Floats] = {}
    for name, ahead in bars.items():
        columns[f"outcome_{name}"] = (grid.at("close", places + ahead) / price - 1.0) * 100.0
    for name in ("1h", "4h", "24h"):
        columns[f"max_runup_{name}"] = np.maximum(highs[:, : bars[name]].max(axis=1, initial=-np.inf), 0.0)
        columns[f"max_drawdown_{name}"] = np.minimum(lows[:, : bars[name]].min(axis=1, initial=np.inf), 0.0)
    complete = np.isfinite(highs).all(axis=1)
    stopped, taken = lows <= STOP_LOSS_PCT, highs >= TAKE_PROFIT_PCT
    frame = pl.DataFrame({"ts_ms": times, **{name: pl.Series(v).fill_nan(None) for name, v in columns.items()}})
    known = pl.Series(np.asarray(complete))
    return frame.with_columns(
        hit_stop_loss=pl.when(known).then(pl.Series(np.asarray(stopped.any(axis=1)))),
        hit_take_profit=pl.when(known).then(pl.Series(np.asarray(taken.any(axis=1)))),
        first_touch=pl.when(known).then(pl.Series(_first_touch(stopped, taken), dtype=pl.String)),
        matures_at_ms=pl.col("ts_ms") + DAY_MS,
        complete=known,
    )


def _percent(values: Floats, price: Floats) -> Floats:
    return (values / price[:, None] - 1.0) * 100.0


def _first_touch(
    stopped: np.ndarray[tuple[int, int], np.dtype[np.bool_]], taken: np.ndarray[tuple[int, int], np.dtype[np.bool_]]
) -> list[str]:
    """Return which limit was touched first: `sl`, `tp`, `none`, or `ambiguous` where one bar touched both."""
    bars = stopped.shape[1]
    stop = np.where(stopped.any(axis=1), stopped.argmax(axis=1), bars)
    take = np.where(taken.any(axis=1), taken.argmax(axis=1), bars)
    names = np.select([(stop == bars) & (take == bars), stop < take, take < stop], ["none", "sl", "tp"], "ambiguous")
    return [str(name) for name in names]
