"""A timeframe is the length of a candle; its edges are multiples of that length counted from the Unix epoch.

Nothing here knows a calendar or a time zone: a bucket is integer arithmetic on exchange time, so daylight saving, leap
seconds and the year 2038 cannot move an edge.
"""

from enum import StrEnum
from typing import Final

SECOND_MS: Final = 1_000
MINUTE_MS: Final = 60 * SECOND_MS
HOUR_MS: Final = 60 * MINUTE_MS
DAY_MS: Final = 24 * HOUR_MS


class Timeframe(StrEnum):
    """A candle length by its exchange name, `1s` … `1d`."""

    S1 = "1s"
    M1 = "1m"
    M3 = "3m"
    M5 = "5m"
    M15 = "15m"
    H1 = "1h"
    H4 = "4h"
    D1 = "1d"

    @property
    def ms(self) -> int:
        """Length in milliseconds."""
        return _LENGTH_MS[self]

    def floor(self, time_ms: int) -> int:
        """Return the open time (ms) of the bucket that holds `time_ms`."""
        return time_ms - time_ms % self.ms

    def ceil(self, time_ms: int) -> int:
        """Return the first bucket edge (ms) at or after `time_ms`."""
        return -(-time_ms // self.ms) * self.ms


_LENGTH_MS: Final = {
    Timeframe.S1: SECOND_MS,
    Timeframe.M1: MINUTE_MS,
    Timeframe.M3: 3 * MINUTE_MS,
    Timeframe.M5: 5 * MINUTE_MS,
    Timeframe.M15: 15 * MINUTE_MS,
    Timeframe.H1: HOUR_MS,
    Timeframe.H4: 4 * HOUR_MS,
    Timeframe.D1: DAY_MS,
}

ROLLED_UP: Final = (Timeframe.M3, Timeframe.M5, Timeframe.M15, Timeframe.H1, Timeframe.H4, Timeframe.D1)
CANDLE_TIMEFRAMES: Final = (Timeframe.M1, *ROLLED_UP)


def parts_of(timeframe: Timeframe) -> list[Timeframe]:
    """Return the timeframes from a minute up that a bar can be made from, finest first."""
    return [t for t in CANDLE_TIMEFRAMES if t.ms < timeframe.ms and timeframe.ms % t.ms == 0]
