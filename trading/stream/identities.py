"""What is held of one market whose trade ids are identities, and what can be said of the time between the trades.

Such ids tell a repeated trade from a new one and nothing more. So a stretch of time is `missing`, where nobody listened
and no list of the venue bridges it, or `unproven`, where nothing is known to be missing. There is no third state: what
is held here is never complete by its ids.
"""

from collections.abc import Sequence
from itertools import islice
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


def lacking(stretches: Sequence[Stretch], lo_ms: int, hi_ms: int) -> list[Stretch]:
    """Return what can be said once trades of the exchange time `[lo_ms, hi_ms)` were lost."""
    found: list[Stretch] = []
    for one in stretches:
        lo, hi = max(one.from_ms, lo_ms), min(one.until_ms, hi_ms)
        if one.state == "missing" or lo >= hi:
            found.append(one)
            continue
        parts: list[Stretch] = [
            Stretch(one.from_ms, lo, "unproven"),
            Stretch(lo, hi, "missing"),
            Stretch(hi, one.until_ms, "unproven"),
        ]
        found += [part for part in parts if part.from_ms < part.until_ms]
    return found


class Identities:
    """The trades of one market as they come.

    Args:
        remembered: How many of the newest ids are kept.
    """

    def __init__(self, remembered: int = REMEMBERED) -> None:
        self._remembered = remembered
        self._ids: dict[str, None] = {}
        self._first_ms = self._last_ms = 0
        self._heard_ms, self._deaf = 0, True
        self._holes: list[tuple[int, int]] = []
        self._bridges: list[tuple[int, int]] = []

    @classmethod
    def held(
        cls, stretches: Sequence[Stretch], newest: Sequence[IdentifiedTrade], remembered: int = REMEMBERED
    ) -> "Identities":
        """Return what goes on from what was kept: what happened since is missing until a list bridges it.

        Args:
            stretches: As `stretches` said when they were kept, of the trades that were kept with them.
            newest: The newest of those trades, in order.
            remembered: How many of the newest ids are kept.
        """
        made = cls(remembered)
        if stretches:
            made._first_ms, made._last_ms = stretches[0].from_ms, stretches[-1].until_ms - 1
            made._heard_ms = made._last_ms
            made._holes = [(s.from_ms, s.until_ms) for s in stretches if s.state == "missing"]
            made._ids = dict.fromkeys(trade.trade_id for trade in newest[-remembered:])
        return made

    @property
    def last_ms(self) -> int:
        """Exchange time of the newest trade; 0: there is none."""
        return self._last_ms

    @property
    def listening(self) -> bool:
        """Whether trades came since the last interruption."""
        return not self._deaf

    def bridged_after(self, moment_ms: int) -> bool:
        """Tell whether nothing after a moment is missing, so that a list which begins there can add nothing."""
        return self.listening and all(until_ms <= moment_ms + 1 for _, until_ms in self._holes)

    def unheard(self, trades: Sequence[IdentifiedTrade]) -> list[IdentifiedTrade]:
        """Return the trades of a list that the stream has left out: new ones, of a time in which somebody listened."""
        if not self.listening:
            return []
        heard = [s for s in self.stretches() if s.state == "unproven"]
        # Of the milliseconds at the edges some trades may not be held.
        return [
            t
            for t in trades
            if t.trade_id not in self._ids
            and (t.time_ms >= self._heard_ms or any(s.from_ms < t.time_ms < s.until_ms for s in heard))
        ]

    def interrupted(self) -> None:
        """Note that trades may pass unseen: no connection is open, a stream is silent or a frame was refused."""
        self._deaf = True

    def take(self, trades: Sequence[IdentifiedTrade]) -> list[IdentifiedTrade]:
        """Return the trades of a stream's frame that are new, in the order given."""
        later = [trade.time_ms for trade in trades if trade.time_ms > self._heard_ms]
        if later:
            if not self._last_ms:
                self._first_ms = min(later)
            elif self._deaf:
                # Of the milliseconds at the edges of a hole some trades may be held and others not.
                self._resumed((self._heard_ms, min(later) + 1))
            self._deaf, self._heard_ms = False, max(later)
        return self._new(trades)

    def take_list(self, trades: Sequence[IdentifiedTrade], current: bool) -> list[IdentifiedTrade]:
        """Return the new trades of a list that leaves out nothing between its oldest and its newest trade.

        Args:
            trades: In any order.
            current: It is what a subscription begins with, so that the stream goes on where it ends. The answer to a
                call is not current: REST servers trail the stream. It must be asked for once the stream is open.
        """
        if not trades:
            return []
        oldest, newest = min(t.time_ms for t in trades), max(t.time_ms for t in trades)
        # Of its first and its last millisecond it may hold a part.
        bridge = (oldest + 1, max(oldest + 1, newest))
        if not self._last_ms:
            self._first_ms, self._heard_ms, self._deaf = oldest, newest, not current
        elif oldest < self._first_ms:
            self._holes.append((oldest + 1, self._first_ms + 1))
            self._first_ms = oldest
        self._holes = _without(self._holes, bridge)
        # It may be ahead of the stream: what lies between what was heard and what it begins with is still to come.
        self._bridges = [(lo, hi) for lo, hi in (*self._bridges, bridge) if hi > self._heard_ms]
        if self._deaf and current and newest >= self._heard_ms:
            self._resumed((self._heard_ms, max(newest, oldest + 1)))
            self._deaf, self._heard_ms = False, newest
        return self._new(trades)

    def stretches(self) -> list[Stretch]:
        """Return what can be said of the time from the first trade to the last one, in order and without a gap.

        Of the very first and the very last millisecond some trades may not be held.
        """
        if not self._last_ms:
            return []
        to_come = _without([(self._heard_ms, self._last_ms + self._deaf)], *self._bridges)
        found: list[Stretch] = []
        at = self._first_ms
        for lo, hi in sorted(self._holes + to_come):
            if at < lo:
                found.append(Stretch(at, lo, "unproven"))
            if max(at, lo) < hi:  # two holes may share a millisecond
                found.append(Stretch(max(at, lo), hi, "missing"))
            at = max(at, hi)
        if at <= self._last_ms:
            found.append(Stretch(at, self._last_ms + 1, "unproven"))
        return found

    def _resumed(self, hole: tuple[int, int]) -> None:
        self._holes += _without([hole], *self._bridges)

    def _new(self, trades: Sequence[IdentifiedTrade]) -> list[IdentifiedTrade]:
        """Remember trades and return those that were not known."""
        new = list({trade.trade_id: trade for trade in trades if trade.trade_id not in self._ids}.values())
        self._last_ms = max([self._last_ms, *(trade.time_ms for trade in new)])
        self._ids |= dict.fromkeys(trade.trade_id for trade in new)
        for trade_id in list(islice(self._ids, max(0, len(self._ids) - self._remembered))):
            del self._ids[trade_id]
        return new


def _without(ranges: list[tuple[int, int]], *cuts: tuple[int, int]) -> list[tuple[int, int]]:
    """Return half-open ranges less the cuts."""
    for lo, hi in cuts:
        ranges = [part for a, b in ranges for part in ((a, min(b, lo)), (max(a, hi), b)) if part[0] < part[1]]
    return [(a, b) for a, b in ranges if a < b]
