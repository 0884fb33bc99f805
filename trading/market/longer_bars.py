"""A longer bar is rolled up from the finest bars that are stored and make it whole.

What to take is decided bar by bar, so that a day alone gives the same bars as the same day in a longer window, and a bar
that is made at its close is the one that a later rebuild makes. Nothing here reads a store.
"""

from collections.abc import Callable, Sequence

import polars as pl

from trading.market.candle import empty_candles, fuller, lacking, roll_up
from trading.market.instrument import Instrument
from trading.market.timeframe import Timeframe, parts_of

Parts = Callable[[Timeframe, int, int], pl.DataFrame]
"""Returns the stored bars (`CANDLE_SCHEMA`) of a timeframe that open in a half-open range (ms), ordered by open time."""


def rolled_bars(
    parts: Parts,
    instrument: Instrument,
    timeframe: Timeframe,
    proven: Sequence[tuple[int, int]],
    lo_ms: int,
    hi_ms: int,
) -> tuple[pl.DataFrame, list[tuple[int, int]]]:
    """Return the bars that open in `[lo_ms, hi_ms)`, and the ranges in which finer bars make none that is whole.

    Args:
        parts: The stored bars.
        instrument: Whose they are.
        timeframe: Longer than a minute.
        proven: Half-open ranges of exchange time (ms) in which every trade is held.
        lo_ms: First open time.
        hi_ms: End of open times; the bars before it are closed.
    """
    bars, wanted = empty_candles(), [(lo_ms, hi_ms)] if lo_ms < hi_ms else []
    for finer in parts_of(timeframe):
        if wanted:
            found = parts(finer, wanted[0][0], wanted[-1][1])
            bars = fuller(bars, roll_up(found, finer, timeframe, instrument, proven))
            wanted = lacking(bars, timeframe, lo_ms, hi_ms, proven)
    return bars, wanted
