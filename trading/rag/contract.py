"""Open interest and funding of a market's perpetual contract as they were known at the moments of states.

The exchange publishes both some time after the moment they are about, so a value counts from `PUBLISHED_MS` after its
own time. Only the list that the exchange keeps is read, on its grid of five minutes, and of each value the version that
was known first: what a run happened to sample in between, or a later correction, would give a rebuild other states.
Unknown is NaN, never 0.
"""

from typing import Final

import numpy as np
import polars as pl

from trading.market.timeframe import DAY_MS, HOUR_MS, MINUTE_MS, Timeframe
from trading.rag.grid import Floats, Ints, grid_of

PUBLISHED_MS: Final = Timeframe.M5.ms
DAY_VALUES: Final = DAY_MS // Timeframe.M5.ms
FEWEST: Final = DAY_VALUES // 2
"""Values that a mean over a day needs."""

STALE_VALUES: Final = 6
"""Open interest that is older than half an hour is unknown."""

STALE_FUNDING_MS: Final = 8 * HOUR_MS + 30 * MINUTE_MS
"""A settled funding is the last one for eight hours at most."""

HISTORY_MS: Final = DAY_MS + HOUR_MS
"""How far before a state its values may lie."""


def contract_at(derivatives: pl.DataFrame, times_ms: Ints) -> dict[str, Floats]:
    """Return `open_interest_latest` and `open_interest_avg_24h` (base coin) and `funding_rate` (a fraction) by moment.

    Args:
        derivatives: `DERIVATIVE_SCHEMA` from `HISTORY_MS` before the first moment on, in any order.
        times_ms: Moments in order.
    """
    first_known = derivatives.sort("time_ms", "known_at_ms").unique(
        ["kind", "time_ms"], keep="first", maintain_order=True
    )
    interest = first_known.filter((pl.col("kind") == "open_interest") & (pl.col("time_ms") % Timeframe.M5.ms == 0))
    fundings = first_known.filter((pl.col("kind") == "funding") & pl.col("funding_rate").is_not_null())
    return {**_open_interest(interest, times_ms), "funding_rate": _funding(fundings, times_ms)}


def _open_interest(interest: pl.DataFrame, times_ms: Ints) -> dict[str, Floats]:
    if not len(times_ms):
        return dict.fromkeys(("open_interest_latest", "open_interest_avg_24h"), np.empty(0))
    # A bar of five minutes is known at its close: so is a value five minutes after its time.
    bars = interest.select(open_time="time_ms", held="open_interest")
    grid = grid_of(bars, Timeframe.M5, int(times_ms[0]) - HISTORY_MS, int(times_ms[-1]) + 1)
    places = grid.closing_at(times_ms)
    latest = np.full(len(times_ms), np.nan)
    for age in reversed(range(STALE_VALUES)):
        value = grid.at("held", places - age)
        latest = np.where(np.isnan(value), latest, value)
    day = grid.windows("held", places, DAY_VALUES)
    count = np.isfinite(day).sum(axis=1)
    total = np.where(np.isfinite(day), day, 0.0).sum(axis=1)
    mean = np.full(len(times_ms), np.nan)
    np.divide(total, count, out=mean, where=count >= FEWEST)
    return {"open_interest_latest": latest, "open_interest_avg_24h": mean}


def _funding(fundings: pl.DataFrame, times_ms: Ints) -> Floats:
    settled, rates = fundings["time_ms"].to_numpy(), fundings["funding_rate"].to_numpy()
    place = np.searchsorted(settled, times_ms - PUBLISHED_MS, side="right") - 1
    found = np.full(len(times_ms), np.nan)
    known = place >= 0
    fresh = known.copy()
    fresh[known] = times_ms[known] - settled[place[known]] <= STALE_FUNDING_MS
    found[fresh] = rates[place[fresh]]
    return found
