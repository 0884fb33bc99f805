"""Whether the mark prices of a connection still come: they come every second, so that silence is a fault."""

from collections.abc import Iterable
from typing import Final

PATIENCE_S: Final = 10.0
LONGEST_PATIENCE_S: Final = 300.0


class MarkWatch:
    """The mark prices of some symbols.

    Args:
        symbols: Whose; at least one.
    """

    def __init__(self, symbols: Iterable[str]) -> None:
        self._heard_s = dict.fromkeys(symbols, -float("inf"))
        self._patience_s, self._blamed_s = PATIENCE_S, -float("inf")

    def heard(self, symbol: str, now_s: float) -> None:
        """Note that a mark price came."""
        self._heard_s[symbol] = now_s

    def stalled(self, now_s: float, open_s: float) -> bool:
        """Return whether the connection is to be replaced; while that does not help, ever more rarely.

        Args:
            now_s: Now.
            open_s: Since when the connection is open.
        """
        heard_s = min(self._heard_s.values())
        if now_s - heard_s <= PATIENCE_S:
            self._patience_s = PATIENCE_S
        if now_s - max(heard_s, open_s, self._blamed_s) <= self._patience_s:
            return False
        self._blamed_s, self._patience_s = now_s, min(2 * self._patience_s, LONGEST_PATIENCE_S)
        return True
