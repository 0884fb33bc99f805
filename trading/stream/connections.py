"""Which connections to keep: one that delivers, and for a while the one that replaces it.

A planned change overlaps: the new connection delivers before the old one is closed. A lost connection is opened again after
a growing pause, and all together stay within what the exchange allows.
"""

from collections import Counter, deque
from collections.abc import Callable
from typing import Final

import msgspec

from trading.stream.backoff import Backoff

LIFETIME_S: Final = 23 * 3600 + 50 * 60
"""The exchange cuts a connection after 24 hours; ours is replaced before."""

CONNECTS: Final = 150
CONNECTS_S: Final = 300.0
"""The exchange allows an address 300 connections in this time; half are left to books and other processes."""

OVERLAP_S: Final = 10.0
"""A replacement that has not delivered anything for this long, while the old one has, is given up."""


class Connect(msgspec.Struct, frozen=True):
    """Open a connection that carries all symbols."""

    connection: int


class Disconnect(msgspec.Struct, frozen=True):
    """Close a connection."""

    connection: int
    reason: str


class _Connection:
    """One connection; `open_s` is None until it is open, `delivered_s` until it has brought a trade.

    `ending` says that it is to be replaced: the exchange announced its end, or it does not deliver.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.open_s: float | None = None
        self.delivered_s: float | None = None
        self.ending = False


class Connections:
    """The connections of one collector.

    Args:
        uniform: Returns a number between its two arguments.
        lifetime_s: After which a connection is replaced.
        tell: Takes each command.
        statistics: Where `reconnects` and `replacements` are counted.
    """

    def __init__(
        self,
        uniform: Callable[[float, float], float],
        lifetime_s: float,
        tell: Callable[[Connect | Disconnect], None],
        statistics: Counter[str],
    ) -> None:
        self._lifetime_s, self._tell, self._statistics = lifetime_s, tell, statistics
        self._all: dict[int, _Connection] = {}
        self._opened = 0
        self._opened_s = deque[float](maxlen=CONNECTS)
        self._backoff = Backoff(uniform)
        self._connect_at_s: float | None = 0.0
        self._replace_at_s = 0.0

    # -- what happened -----------------------------------------------------------------------------------------------

    def connected(self, connection: int, now_s: float) -> bool | None:
        """Note that one is open; return whether none was open before, or None where it is not wanted any more."""
        state = self._all.get(connection)
        if state is None:
            return None
        alone = not any(other.open_s is not None for other in self._all.values())
        state.open_s = now_s
        return alone

    def delivered(self, connection: int, now_s: float) -> None:
        """Note that one has brought a trade."""
        if connection in self._all:
            self._all[connection].delivered_s = now_s

    def shutting_down(self, connection: int, now_s: float) -> None:
        """Note that the exchange announced the end of one."""
        if connection in self._all:
            self._all[connection].ending = True
        self._change_over(now_s)

    def disconnected(self, connection: int, now_s: float) -> None:
        """Note that one ended or could not be opened, whoever ended it."""
        state = self._all.pop(connection, None)
        if state is None:
            return
        lived_s = 0.0 if state.open_s is None else now_s - state.open_s
        again_s = now_s + self._backoff.pause_s(lived_s)
        if self._all:
            self._replace_at_s = again_s
        else:
            self._statistics["reconnects"] += 1
            self._connect_at_s = again_s

    # -- what follows ------------------------------------------------------------------------------------------------

    def tick(self, now_s: float, may_connect: bool) -> None:
        """Open, replace and close what is due; `may_connect` is whether what it brings can be stored."""
        if self._connect_at_s is not None and now_s >= self._connect_at_s and may_connect:
            self._connect(now_s)
        self._change_over(now_s)

    def open_for_s(self, now_s: float) -> float:
        """Return how long the oldest that is open has been so."""
        return max((now_s - c.open_s for c in self._all.values() if c.open_s is not None), default=0.0)

    def replace_stalled(self, now_s: float) -> None:
        """Replace one that does not deliver, as soon as may be; and the one after it not at once."""
        for connection in self._all.values():
            connection.ending = True
        opened = self._opened
        self._replace(now_s)
        if self._opened > opened:
            self._replace_at_s = now_s + self._backoff.pause_s(self.open_for_s(now_s))

    def give_up(self, reason: str) -> bool:
        """Close all, and open one again when it may; return whether there was any."""
        given_up = bool(self._all)
        self._close(list(self._all), reason)
        if given_up:
            self._connect_at_s = 0.0
        return given_up

    def _connect(self, now_s: float) -> None:
        if len(self._opened_s) == CONNECTS and now_s - self._opened_s[0] < CONNECTS_S:
            return
        self._connect_at_s = None
        self._opened += 1
        self._opened_s.append(now_s)
        self._all[self._opened] = _Connection(self._opened)
        self._tell(Connect(self._opened))

    def _replace(self, now_s: float) -> None:
        """Open another connection beside the one there is, unless one is on its way already."""
        idle = self._connect_at_s is None and now_s >= self._replace_at_s
        if len(self._all) == 1 and idle:
            opened = self._opened
            self._connect(now_s)
            self._statistics["replacements"] += self._opened - opened

    def _change_over(self, now_s: float) -> None:
        """Replace an old connection, and close whichever of two is not needed."""
        if len(self._all) == 1:
            (only,) = self._all.values()
            if only.ending or (only.open_s is not None and now_s - only.open_s >= self._lifetime_s):
                self._replace(now_s)
            return
        if len(self._all) < 2:
            return
        old, new = sorted(self._all.values(), key=lambda state: state.number)[-2:]
        if new.delivered_s is not None:
            self._close([number for number in self._all if number < new.number], "replaced")
        elif new.open_s is not None and now_s - new.open_s > OVERLAP_S:
            delivers = old.delivered_s is not None and old.delivered_s > new.open_s
            self._close([new.number] if delivers else [old.number], "silent")
            self._replace_at_s = now_s + self._backoff.pause_s(0.0)

    def _close(self, connections: list[int], reason: str) -> None:
        for connection in connections:
            del self._all[connection]
            self._tell(Disconnect(connection, reason))
