"""What is held of one market whose trade ids are identities, and what can be said of the time between the trades.

Such ids tell a repeated trade from a new one and nothing more. So a stretch of time is `missing`, where nobody listened
and no list of the venue bridges it, or `unproven`, where nothing is known to be missing. There is no third state: what
is held here is never complete by its ids.
"""

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from trading.market.identified import IdentifiedTrade

REMEMBERED: Final = 50_000
"""Ids kept to know a trade again; a venue's list of recent trades holds at most 1,000."""

State = Literal["unproven", "missing"]


class Stretch(msgspec.Struct, frozen=True):
    """What can be said of the exchange time `[from_ms, until_ms)`."""

    from_ms: int
    until_ms: int
    state: State


class Identities:
    """The trades of one market as they come.

    Args:
        remembered: How many of the newest ids are kept.
    """

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        self._ids: dict[str, None] = {}
        self._first_ms = self._last_ms = 0
        self._interrupted = False
        self._holes: list[tuple[int, int]] = []

    def interrupted(self) -> None:
        """Note that trades may pass unseen: no connection is open, a stream is silent or a frame was refused."""
        self._interrupted = True

    def take(self, trades: Sequence[IdentifiedTrade], listed: bool = False) -> list[IdentifiedTrade]:
        """Return the trades that are new, in the order given.

        Args:
            trades: Of one frame or answer.
            listed: They are a list of the venue's with nothing left out between its oldest and its newest trade: the
                recent trades that a subscription begins with, or that a REST call returns once the stream is open.
        """
        if not trades:
            return []
        new = list({trade.trade_id: trade for trade in trades if trade.trade_id not in self._ids}.values())
        oldest, newest = min(t.time_ms for t in trades), max(t.time_ms for t in trades)
        if not self._ids:
            self._first_ms, self._last_ms = oldest, newest
        if self._interrupted and newest > self._last_ms:
            # Of the milliseconds at the edges some trades may be held and others not.
            resumed = newest if listed else min(t.time_ms for t in trades if t.time_ms > self._last_ms) + 1
            self._holes.append((self._last_ms, max(resumed, oldest + 1)))
        if listed:
            self._bridge(trades, oldest, newest)
        if newest > self._last_ms or (listed and oldest < newest == self._last_ms):
            self._interrupted = False
        self._first_ms, self._last_ms = min(self._first_ms, oldest), max(self._last_ms, newest)
        self._remember(new)
        return new

    def stretches(self) -> list[Stretch]:
        """Return what can be said of the time from the first trade to the last one, in order and without a gap.

        Of the very first and the very last millisecond some trades may not be held.
        """
        found: list[Stretch] = []
        at = self._first_ms
        for lo, hi in sorted(self._holes):
            if at < lo:
                found.append(Stretch(at, lo, "unproven"))
            if max(at, lo) < hi:  # two holes may share a millisecond
                found.append(Stretch(max(at, lo), hi, "missing"))
            at = max(at, hi)
        if self._ids and at <= self._last_ms:
            found.append(Stretch(at, self._last_ms + 1, "unproven"))
        return found

    def _bridge(self, trades: Sequence[IdentifiedTrade], oldest: int, newest: int) -> None:
        """Take out of the holes what a list covers; of its first millisecond it may hold a part."""
        met = any(trade.time_ms == newest and trade.trade_id in self._ids for trade in trades)
        lo, hi = oldest + 1, max(oldest + 1, newest + met)
        parts = [part for a, b in self._holes for part in ((a, min(b, lo)), (max(a, hi), b))]
        self._holes = [(a, b) for a, b in dict.fromkeys(parts) if a < b]

    def _remember(self, new: Sequence[IdentifiedTrade]) -> None:
        self._ids |= dict.fromkeys(trade.trade_id for trade in new)
        for trade_id in list(self._ids)[: max(0, len(self._ids) - self._remembered)]:
            del self._ids[trade_id]
