"""The order book of a recorded market: its recorded snapshots and the recorded diffs after them."""

from typing import Any, NoReturn

from resources.simulator.capture import Capture
from resources.simulator.market import Depth, Levels, NotRecorded
from trading.market.instrument import Instrument
from trading.stream.book_sync import BookSync
from trading.stream.events import DepthDiff, decode_depth_snapshot, decode_event


class RecordedBook:
    """One symbol's book, which only goes forward.

    Args:
        capture: What was recorded.
        instrument: With as many decimals as the exchange writes in a book, so that levels are written as they were.

    Raises:
        BadFrame: A recorded diff or snapshot is damaged.
    """

    def __init__(self, capture: Capture, instrument: Instrument) -> None:
        self.instrument = instrument
        stream = capture.depth_stream(instrument.name)
        diffs = [(e.time_ms, e.order, e.text) for e in capture.frames[stream]] if stream else []
        snapshots: list[Any] = list(capture.snapshots.get(instrument.name, ()))
        self._coming = sorted([*diffs, *snapshots], key=lambda one: one[:2], reverse=True)
        self._sync = BookSync()

    def depth(self, now_ms: int, limit: int) -> Depth:
        """Return the best levels as they were known at a moment."""
        while self._coming and self._coming[-1][0] <= now_ms:
            self._take(self._coming.pop()[2])
        top = self._sync.top(limit)
        if top is None:
            raise NotRecorded(f"no snapshot of {self.instrument.name} was recorded up to {now_ms}", bool(self._coming))
        bids, asks = (_levels(side.tolist()) for side in (top.bids, top.asks))
        return Depth(top.last_update_id, top.time_ms, bids, asks)

    def _take(self, recorded: str | bytes) -> None:
        if isinstance(recorded, bytes):
            self._sync.snapshot(decode_depth_snapshot(recorded, self.instrument))
            return
        decoded = decode_event(recorded, {self.instrument.name: self.instrument}, 0)
        if isinstance(decoded, tuple) and isinstance(decoded[1], DepthDiff):
            self._sync.diff(decoded[1])

    def depths(self, lo_ms: int, hi_ms: int, period_ms: int, limit: int) -> NoReturn:
        """Refuse: streams of a recorded book are those that were recorded."""
        raise NotRecorded("this stream was not recorded")

    def changes(self, lo_ms: int, hi_ms: int, period_ms: int) -> NoReturn:
        """Refuse, likewise."""
        raise NotRecorded("this stream was not recorded")

    def quotes(self, lo_ms: int, hi_ms: int) -> NoReturn:
        """Refuse, likewise."""
        raise NotRecorded("this stream was not recorded")


def _levels(pairs: list[list[int]]) -> Levels:
    return [(price, quantity) for price, quantity in pairs]
