"""What is held of one day of one kind of derivatives data, and what is known of the rest.

A day is `available` when it has as many values as the venue gives in a day and no stretch of it is longer without one
than the venue leaves between two, `degraded` when it lacks some, `pending` while it is not over. A day without any value
is `empty` when the venue serves it and says that there is none, and `missing` when the venue does not serve it any more,
or never did.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Final, Literal

import msgspec

from trading.market.timeframe import DAY_MS, HOUR_MS, MINUTE_MS

State = Literal["available", "degraded", "pending", "missing", "empty"]

LONGEST_MS: Final = {
    "open_interest": 6 * MINUTE_MS,
    "funding": 8 * HOUR_MS + MINUTE_MS,
    "mark": 20 * MINUTE_MS,
}
"""Time between two values by kind, with some lateness: kept every five minutes, settled every eight hours at most, and
asked for every quarter of an hour."""

FEWEST: Final = {"open_interest": 288, "funding": 3, "mark": 72}
"""Values of a whole day by kind."""


class DayCoverage(msgspec.Struct, frozen=True):
    """One kind on one UTC day.

    Attributes:
        kind: `open_interest`, `funding` or `mark`.
        day_ms: First moment of the day.
        state: See the module.
        values: Values of the day that are held.
        longest_gap_ms: Longest stretch of the day, edges included, without a value; None where there is none.
    """

    kind: str
    day_ms: int
    state: State
    values: int
    longest_gap_ms: int | None


def day_coverage(kind: str, day_ms: int, times_ms: Sequence[int], now_ms: int, served: bool) -> DayCoverage:
    """Return what is held of a day.

    Args:
        kind: A key of `LONGEST_MS`.
        day_ms: First moment of the UTC day.
        times_ms: Moments of the values that are held, in any order; those of other days do not count.
        now_ms: The venue's clock.
        served: Whether the venue was asked about this day and still serves it.
    """
    inside = sorted(time for time in times_ms if day_ms <= time < day_ms + DAY_MS)
    over = now_ms >= day_ms + DAY_MS
    until = day_ms + DAY_MS if over else max(now_ms, day_ms)
    gap = max((b - a for a, b in pairwise([day_ms, *inside, max(until, inside[-1])])), default=0) if inside else None
    state: State
    if not over:
        state = "pending"
    elif gap is None:
        state = "empty" if served else "missing"
    else:
        state = "available" if gap <= LONGEST_MS[kind] and len(inside) >= FEWEST[kind] else "degraded"
    return DayCoverage(kind, day_ms, state, len(inside), gap)
