"""Pauses between attempts: doubling, with full jitter; to connect to an exchange from one second to sixty."""

from collections.abc import Callable
from typing import Final

FIRST_S: Final = 1.0
LONGEST_S: Final = 60.0
HEALTHY_S: Final = 30.0
"""A connection that lived this long counts as recovered: the next pause is the first one again."""


class Backoff:
    """The pauses of one connection.

    Args:
        uniform: Returns a number between its two arguments; the caller's seeded source of chance.
        first_s: The longest that the first pause may be.
        longest_s: The longest that any may be.
    """

    def __init__(
        self, uniform: Callable[[float, float], float], first_s: float = FIRST_S, longest_s: float = LONGEST_S
    ) -> None:
        self._uniform = uniform
        self._first_s, self._longest_s = first_s, longest_s
        self._attempt = 0

    def pause_s(self, lived_s: float) -> float:
        """Return how long to wait after a connection that lived `lived_s` seconds."""
        if lived_s >= HEALTHY_S:
            self._attempt = 0
        ceiling = min(self._longest_s, self._first_s * 2**self._attempt)
        self._attempt = min(self._attempt + 1, 10)
        # At least a tenth of the ceiling, so that a failing exchange is never hammered.
        return self._uniform(ceiling / 10, ceiling)
