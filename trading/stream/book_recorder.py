"""The top of one symbol's order book as it stood at the end of each second in which it changed.

A second has ended when a diff of a later one has come and no change lies between the two; so a record is exact, whatever
the receiver's clock says, and late by one diff. A record says whether it follows the one before it without a missing
change: then the book between the two is known too, since nothing happened there.
"""

from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from trading.market.book import BookSnapshot
from trading.market.timeframe import SECOND_MS
from trading.stream.book_sync import BookSync, NeedsSnapshot, Reason
from trading.stream.events import DepthDiff, DepthSnapshot

LEVELS: Final = 20


class BookRecord(msgspec.Struct, frozen=True, eq=False):
    """A book at the end of one second of exchange time.

    Attributes:
        follows: Whether no change is missing between the record before and this one.
        book: The best 20 levels of each side, and the time of the last change of any level.
    """

    follows: bool
    book: BookSnapshot

    @property
    def second_ms(self) -> int:
        """First moment of the second."""
        return self.book.time_ms // SECOND_MS * SECOND_MS


class BookRecorder:
    """The records of one symbol; `diff` and `snapshot` return what the book needs next, None while it is in step.

    Attributes:
        sync: The whole book.
        records: Records that were made since they were last taken.
    """

    def __init__(self) -> None:
        self.sync = BookSync()
        self.records: list[BookRecord] = []
        self._follows = False
        self._applied_ms: int | None = None

    def diff(self, event: DepthDiff) -> NeedsSnapshot | None:
        """Take one diff off the wire."""
        ended, applied = self._ended(event.time_ms), self.sync.counts["applied"]
        needs = self.sync.diff(event)
        if needs is not None:
            # A change is missing, and nobody knows of which second.
            self._forget()
        elif self.sync.counts["applied"] > applied:
            # A diff that the book has already says nothing of when it stood so.
            self._applied_ms = event.time_ms
            if ended is not None:
                self.records.append(BookRecord(self._follows, ended))
                self._follows = True
            if self.sync.certain_levels < LEVELS:
                return self.resync(Reason.STALE)
        return needs

    def snapshot(self, depth: DepthSnapshot) -> NeedsSnapshot | None:
        """Take the snapshot that was asked for."""
        return self.sync.snapshot(depth)

    def resync(self, reason: Reason) -> NeedsSnapshot:
        """Drop the book, as after a lost connection."""
        self._forget()
        return self.sync.resync(reason)

    def _forget(self) -> None:
        self._follows, self._applied_ms = False, None

    def _ended(self, time_ms: int) -> BookSnapshot | None:
        """Return the book as it is if a diff of this time ends its second."""
        if self._applied_ms is None or time_ms // SECOND_MS <= self._applied_ms // SECOND_MS:
            return None
        return self.sync.top(LEVELS)


Content = tuple[bool, int, int, list[int], list[int]]
"""Whether it follows, time, last change, and each side flat: first price, then price steps, each with its quantity."""


def content(record: BookRecord) -> Content:
    """Return a record as small integers, for whoever stores it."""
    book = record.book
    return record.follows, book.time_ms, book.last_update_id, _flat(book.bids), _flat(book.asks)


def record_of(stored: Content) -> BookRecord:
    """Return the record of what `content` gave."""
    follows, time_ms, last_update_id, bids, asks = stored
    return BookRecord(follows, BookSnapshot(time_ms, last_update_id, _levels(bids), _levels(asks)))


def _flat(levels: NDArray[np.int64]) -> list[int]:
    steps = levels.copy()
    steps[1:, 0] = np.diff(levels[:, 0])
    flat: list[int] = steps.ravel().tolist()
    return flat


def _levels(flat: list[int]) -> NDArray[np.int64]:
    levels = np.array(flat, np.int64).reshape(-1, 2)
    levels[:, 0] = np.cumsum(levels[:, 0])
    return levels
