"""An order book kept in step with an exchange: a snapshot over REST and the diffs that follow it without a hole.

The rules are those of the exchange's own page on managing a local book. A spot diff sums the changes `U` … `u` and
follows when no id lies between it and the book; a futures diff names its predecessor in `pu`, because ids there skip.
A book that cannot be proven is dropped and says so. Nothing here fetches a snapshot or knows the time.
"""

from bisect import bisect_left, insort
from collections import Counter, deque
from enum import StrEnum
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from trading.market.book import BookSnapshot
from trading.market.timeframe import MINUTE_MS
from trading.stream.events import DepthDiff, DepthSnapshot

SNAPSHOT_LEVELS: Final = 1000
BUFFER_BYTES: Final = 8 * 2**20
EVENT_BYTES: Final = 600
"""What one waiting diff takes beside its levels: a struct and two array headers, measured."""

ALL_LEVELS: Final = 2**31 - 1
"""As many levels as any book has, and more."""

RESTART_MS: Final = MINUTE_MS
"""A diff this much later than the book with an id before it: the exchange has begun to count anew."""


class Reason(StrEnum):
    """Why a snapshot is needed."""

    FIRST = "first"
    GAP = "gap"
    CROSSED = "crossed"
    STALE = "stale"


class NeedsSnapshot(msgspec.Struct, frozen=True):
    """The book waits for a snapshot fetched from now on; diffs are buffered meanwhile.

    Attributes:
        reason: `first`: none yet; `gap`: a diff is missing; `crossed`: bid met ask, so something was wrong; `stale`:
            the last snapshot was older than the first buffered diff, or its owner says so.
        refused: Snapshots that led to no book since the last one that did; pause longer with each.
    """

    reason: Reason
    refused: int


class BookSync:
    """The book of one symbol.

    Both `diff` and `snapshot` return what is needed next: None while the book is in step.

    Args:
        snapshot_levels: How many levels a side a snapshot is asked for; one with fewer on a side has all of that side.
        buffer_bytes: Bound of what waits for a snapshot; beyond it the oldest diffs are forgotten, so that only a
            newer snapshot will do.

    Attributes:
        counts: How often what happened, by name: `applied`, `buffered`, `late`, `forgotten`, `snapshots`, `unneeded`,
            `restarts`, and the reasons for snapshots.
    """

    def __init__(self, snapshot_levels: int = SNAPSHOT_LEVELS, buffer_bytes: int = BUFFER_BYTES) -> None:
        self.counts: Counter[str] = Counter()
        self._snapshot_levels = snapshot_levels
        self._buffer_bytes, self._waiting_bytes = buffer_bytes, 0
        self._waiting: deque[DepthDiff] = deque()
        self._bids, self._asks = _Side(1), _Side(-1)
        self._last_id = 0
        self._linked = False
        self._time_ms: int | None = None
        self._refused = 0
        self._needs: NeedsSnapshot | None = NeedsSnapshot(Reason.FIRST, 0)

    @property
    def needs(self) -> NeedsSnapshot | None:
        """What is needed next; None while the book is in step."""
        return self._needs

    @property
    def last_update_id(self) -> int:
        """The last change that the book holds; without meaning while something is needed."""
        return self._last_id

    @property
    def certain_levels(self) -> int:
        """Return how many best levels of either side lie within the prices that the snapshot spoke of.

        Of a side that the snapshot had whole all levels are certain, however few: `ALL_LEVELS`. Of any other only levels
        that changed since are known behind them. As the price moves away from where it was at the snapshot this shrinks; a
        caller that reports n levels asks for a new book (`resync`) before it falls below n.
        """
        return 0 if self._needs else min(self._bids.certain(), self._asks.certain())

    def diff(self, event: DepthDiff) -> NeedsSnapshot | None:
        """Take one diff off the wire."""
        if self._needs is not None:
            self._wait(event)
        elif _before(event, self._last_id, self._linked):
            self._pass(event)
        elif not _follows(event, self._last_id, self._linked):
            self._lose(Reason.GAP if self._linked else Reason.STALE, event)
        else:
            self._apply(event)
        return self._needs

    def snapshot(self, depth: DepthSnapshot) -> NeedsSnapshot | None:
        """Take the snapshot that was asked for, and the diffs that waited for it."""
        if self._needs is None:
            self.counts["unneeded"] += 1
            return None
        self.counts["snapshots"] += 1
        self._bids.load(depth.bids, len(depth.bids) < self._snapshot_levels)
        self._asks.load(depth.asks, len(depth.asks) < self._snapshot_levels)
        self._last_id, self._linked, self._time_ms = depth.last_update_id, False, depth.time_ms
        waiting, self._waiting, self._waiting_bytes = self._waiting, deque(), 0
        if self._time_ms is None and waiting:
            self._time_ms = waiting[-1].time_ms
        self._needs = None
        if self._crossed():
            self._lose(Reason.CROSSED)
        for event in waiting:
            self.diff(event)
        return self._needs

    def resync(self, reason: Reason) -> NeedsSnapshot:
        """Drop the book, as after a lost connection; returns what is needed."""
        self._waiting.clear()
        self._waiting_bytes = 0
        return self._lose(reason)

    def top(self, n: int) -> BookSnapshot | None:
        """Return the best `n` levels of each side, or None while the book is not in step or no moment is known."""
        if self._needs is not None or self._time_ms is None:
            return None
        return BookSnapshot(self._time_ms, self._last_id, self._bids.best(n), self._asks.best(n))

    def _apply(self, event: DepthDiff) -> None:
        self._bids.take(event.bids)
        self._asks.take(event.asks)
        if self._crossed():
            self._lose(Reason.CROSSED, event)
            return
        self.counts["applied"] += 1
        self._last_id, self._time_ms = event.last_update_id, event.time_ms
        self._linked, self._refused = True, 0

    def _pass(self, event: DepthDiff) -> None:
        """Leave out a diff whose changes the book has, unless the time shows that it is not an old one."""
        self._time_ms = event.time_ms if self._time_ms is None else self._time_ms
        if event.time_ms > self._time_ms + RESTART_MS:
            self.counts["restarts"] += 1
            self._lose(Reason.GAP, event)
        else:
            self.counts["late"] += 1

    def _lose(self, reason: Reason, event: DepthDiff | None = None) -> NeedsSnapshot:
        self.counts[reason.value] += 1
        # A book that no diff was ever applied to was never more than its snapshot, and that one has failed.
        self._refused += self._needs is None and not self._linked
        self._needs = NeedsSnapshot(reason, self._refused)
        if event is not None:
            self._wait(event)
        return self._needs

    def _wait(self, event: DepthDiff) -> None:
        if self._waiting:
            newest = self._waiting[-1]
            late = event.last_update_id <= newest.last_update_id
            if late and event.time_ms <= newest.time_ms + RESTART_MS:
                self.counts["late"] += 1
                return
            if late or not _follows(event, newest.last_update_id, linked=True):
                # No snapshot leads over a hole, so what is before it is of no use.
                self.counts["forgotten"] += len(self._waiting)
                self._waiting.clear()
                self._waiting_bytes = 0
        self.counts["buffered"] += 1
        self._waiting.append(event)
        self._waiting_bytes += _size(event)
        while self._waiting_bytes > self._buffer_bytes:
            self._waiting_bytes -= _size(self._waiting.popleft())
            self.counts["forgotten"] += 1

    def _crossed(self) -> bool:
        bid, ask = self._bids.best_price(), self._asks.best_price()
        return bid is not None and ask is not None and bid >= ask


class _Side:
    """One side of a book: its quantities by price, and its prices in order with the best last.

    A new best price then moves nothing in the list, and one far from the best moves at most a few kilobytes. Prices of
    asks are kept negated, so that the best is the greatest on both sides.
    """

    def __init__(self, sign: int) -> None:
        self._sign = sign
        self._quantities: dict[int, int] = {}
        self._order: list[int] = []
        self._edge: int | None = None

    def load(self, levels: NDArray[np.int64], whole: bool) -> None:
        pairs: list[list[int]] = levels.tolist()
        self._quantities = {self._sign * price: quantity for price, quantity in pairs if quantity}
        self._order = sorted(self._quantities)
        self._edge = None if whole else self._order[0]

    def take(self, levels: NDArray[np.int64]) -> None:
        """Set each level to its new quantity; removing one that is not there is normal."""
        quantities, order, sign = self._quantities, self._order, self._sign
        pairs: list[list[int]] = levels.tolist()
        for price, quantity in pairs:
            key = sign * price
            if quantity:
                if key not in quantities:
                    insort(order, key)
                quantities[key] = quantity
            elif quantities.pop(key, None) is not None:
                del order[bisect_left(order, key)]

    def best_price(self) -> int | None:
        return self._sign * self._order[-1] if self._order else None

    def best(self, n: int) -> NDArray[np.int64]:
        keys = self._order[: -n - 1 : -1]
        return np.array([(self._sign * key, self._quantities[key]) for key in keys], np.int64).reshape(-1, 2)

    def certain(self) -> int:
        return ALL_LEVELS if self._edge is None else len(self._order) - bisect_left(self._order, self._edge)


def _before(event: DepthDiff, last_id: int, linked: bool) -> bool:
    """Return whether the book holds all changes of a diff.

    The first futures diff may end with the very change that the snapshot ends with; it links the two.
    """
    if event.previous_update_id is not None and not linked:
        return event.last_update_id < last_id
    return event.last_update_id <= last_id


def _follows(event: DepthDiff, last_id: int, linked: bool) -> bool:
    """Return whether no change lies between the book and a diff that ends after it.

    The first futures diff must hold the snapshot's last change (`U` ≤ id ≤ `u`) or begin right behind it: `pu` is the
    end of the diff before, and between `pu` and `U` nothing happened on this market.
    """
    if event.previous_update_id is None:
        return event.first_update_id <= last_id + 1
    return event.previous_update_id == last_id if linked else event.previous_update_id <= last_id


def _size(event: DepthDiff) -> int:
    return EVENT_BYTES + event.bids.nbytes + event.asks.nbytes
