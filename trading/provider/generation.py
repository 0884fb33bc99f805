"""A generated bar is one that no store has and that complete finer bars make; it is made for one answer and not kept."""

import numpy as np
import polars as pl

from trading.market.candle import roll_up
from trading.market.timeframe import Timeframe, parts_of
from trading.provider.ports import History


async def generated_bars(
    history: History, symbol: str, timeframe: Timeframe, lo_ms: int, hi_ms: int, known_by_ms: int | None
) -> pl.DataFrame:
    """Return the bars that open in `[lo_ms, hi_ms)`, are not stored, and are whole when made of finer ones.

    Of several timeframes whose bars make one the finest is taken.

    Args:
        history: What is stored.
        symbol: Exchange name.
        timeframe: Of the bars to make.
        lo_ms: First open time.
        hi_ms: End of open times; the bars before it are closed.
        known_by_ms: Of the versions known by then; None: those known today.

    Returns:
        `CANDLE_SCHEMA` by open time; all are complete and their source is `rollup`.
    """
    known = await history.query_ohlcv_data(symbol, timeframe, lo_ms, hi_ms, known_by_ms=known_by_ms, incomplete=True)
    absent = np.setdiff1d(np.arange(lo_ms, hi_ms, timeframe.ms), known["open_time"].to_numpy())
    partly = known.filter(~pl.col("complete") & (pl.col("source") == "rollup"))
    if not partly.is_empty():
        unstored = await history.query_generated(symbol, {timeframe: partly}, known_by_ms=known_by_ms)
        absent = np.union1d(absent, np.array(unstored.get(timeframe, ()), np.int64))
    made = known.clear()
    for finer in parts_of(timeframe):
        if not len(absent):
            break
        first_ms, end_ms = int(absent[0]), int(absent[-1]) + timeframe.ms
        parts = await history.query_ohlcv_data(symbol, finer, first_ms, end_ms, known_by_ms=known_by_ms)
        bars = roll_up(parts, finer, timeframe, await history.instrument(symbol))
        bars = bars.filter(pl.col("complete") & pl.col("open_time").is_in(absent))
        absent = np.setdiff1d(absent, bars["open_time"].to_numpy())
        made = pl.concat([made, bars])
    return made.sort("open_time")
