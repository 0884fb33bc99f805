"""The simulated exchange's clock: its own, at any speed."""

import math
import time


class Clock:
    """Exchange time.

    Args:
        start_ms: Exchange time at the start.
        end_ms: Where it stops.
        speed: Exchange seconds a second; infinite: as fast as the client reads.
    """

    def __init__(self, start_ms: int, end_ms: int, speed: float) -> None:
        self.start_ms, self.end_ms, self.speed = start_ms, end_ms, speed
        self._started = time.monotonic()
        self._delivered_ms = start_ms

    @property
    def paced(self) -> bool:
        """Whether time passes beside the wall clock and not with what is delivered."""
        return not math.isinf(self.speed)

    def now_ms(self) -> int:
        """Return exchange time, epoch milliseconds."""
        if not self.paced:
            return self._delivered_ms
        return min(self.end_ms, self.start_ms + int((time.monotonic() - self._started) * 1000 * self.speed))

    def delivered(self, until_ms: int) -> None:
        """Let time pass, where it passes with what is delivered."""
        self._delivered_ms = until_ms
