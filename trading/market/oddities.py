"""Trades that are odd and yet kept as they came, and in what way.

The exchange's word stands: nothing here changes or drops a trade. What is impossible never comes so far; see
`trading.stream.wire`.
"""

from typing import Final

import numpy as np
import polars as pl

FAR: Final = 0.5
"""A price this part away from the one before, up or down, is named."""


def odd_trades(trades: pl.DataFrame) -> dict[str, list[int]]:
    """Return the ids of odd trades by what is odd about them.

    Args:
        trades: `TRADE_SCHEMA`, ordered by aggregate trade id.

    Returns:
        `empty`: trades without a quantity, of which no candle is made. `far`: those whose price is half as much again as
        the price before, or half of it. `out_of_order`: both trades of each step back in time.
    """
    ids, price, lots, times = (trades[name].to_numpy() for name in ("agg_trade_id", "price", "quantity", "time_ms"))
    far = np.flatnonzero(np.abs(price[1:] - price[:-1]) >= FAR * price[:-1]) + 1
    back = np.flatnonzero(times[1:] < times[:-1])
    found = {"empty": ids[lots == 0], "far": ids[far], "out_of_order": ids[np.union1d(back, back + 1)]}
    return {name: odd.tolist() for name, odd in found.items() if len(odd)}
