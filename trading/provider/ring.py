"""A ring keeps the newest rows of one series, in the order of their keys, for one writer and any number of readers.

What is published never changes: a row is written behind the last one that readers may see, and then they may see it; where a
row comes late or is corrected, or the buffer is full, a new buffer takes the old one's place. So a reader takes one
reference and needs neither a lock nor a second look, and rows handed out stay as they were.
"""

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from trading.provider.rows import Layout, Rows

FEWEST: Final = 64
FRAMES: Final = 4


class Published(NamedTuple):
    """What readers see: `rows[first:end]`, which cannot be written, and by when the last of them have ended (ms)."""

    rows: Rows
    first: int
    end: int
    ended_ms: int


class Ring:
    """The newest rows of one series.

    Attributes:
        published: What readers see.
        evicted: Rows that fell out of the window.
        evicted_ms: The latest time of one of them; -1: there was none.
        corrected: Rows that took the place of one with their key.
        late: Rows that came before the last one, but inside the window.
        outranked: Rows that gave way to a better or a later one with their key.

    Args:
        layout: Of the rows.
        key: The column that rows are ordered by, each once.
        time: The column with the row's begin, ms.
        length_ms: How long after that a row has ended.
        most_rows: How many are kept at most.
        rank: Text column and what each of its texts is worth; a row never replaces one that is worth more.
    """

    def __init__(
        self,
        layout: Layout,
        key: str,
        time: str,
        length_ms: int,
        most_rows: int,
        rank: tuple[str, Mapping[str, int]] | None = None,
    ) -> None:
        self.evicted = self.corrected = self.late = self.outranked = 0
        self.evicted_ms = -1
        self._layout, self._key, self._time, self._length_ms = layout, key, time, length_ms
        self._most_rows, self._rank = most_rows, rank
        self._buffer: Rows = np.empty(2 * FEWEST, layout.dtype)
        self._keys: NDArray[np.int64] = self._buffer[key]
        self.published = Published(_read_only(self._buffer), 0, 0, 0)
        self._framed: tuple[Published, dict[tuple[int, int] | None, pl.DataFrame]] = self.published, {}

    @property
    def nbytes(self) -> int:
        """Bytes of the buffer."""
        return self._buffer.nbytes

    def __len__(self) -> int:
        return self.published.end - self.published.first

    def append(self, row: tuple[Any, ...], key: int, time_ms: int) -> None:
        """Take one row of the layout, its key and time."""
        rows, first, end, ended_ms = self.published
        if end > first and key <= self._keys[end - 1]:
            self.extend(np.array([row], self._layout.dtype))
            return
        if end == len(self._buffer):
            rows, first, end = self._move(self._buffer[first:end])
        self._buffer[end] = row
        self._publish(rows, first, end + 1, max(ended_ms, time_ms + self._length_ms))

    def extend(self, new: Rows) -> None:
        """Take rows in any order; of two with one key the later is kept, unless it is worth less."""
        if not len(new):
            return
        rows, first, end, ended_ms = self.published
        keys = new[self._key]
        ended_ms = max(ended_ms, int(new[self._time].max()) + self._length_ms)
        if np.any(keys[1:] <= keys[:-1]) or (end > first and keys[0] <= self._keys[end - 1]):
            merged = self._merged(self._buffer[first:end], new)
            if merged is not None:
                self._publish(*self._move(merged), ended_ms)
            return
        if end + len(new) > len(self._buffer):
            rows, first, end = self._move(self._buffer[first:end], len(new))
        self._buffer[end : end + len(new)] = new
        self._publish(rows, first, end + len(new), ended_ms)

    def evict_before(self, time_ms: int) -> None:
        """Let go of rows whose time is earlier, up to the first that is not."""
        rows, first, end, ended_ms = self.published
        times, start = rows[self._time], first
        while first < end and times[first] < time_ms:
            first += 1
        if first > start:
            self._evict(rows[start:first])
            self.published = Published(rows, first, end, ended_ms)

    def view(self, limit: int, as_of_ms: int) -> Rows:
        """Return the last rows that have ended by a moment, oldest first; nobody writes them any more, nor may you."""
        rows, first, end, ended_ms = self.published
        if as_of_ms >= ended_ms:
            return rows[max(first, end - limit) : end]
        return _last(self._ended(rows[first:end], as_of_ms), limit)

    def frame(self, limit: int, as_of_ms: int) -> pl.DataFrame:
        """Return them as a frame; one that was made of the same rows is given again."""
        published = self.published
        held, frames = self._framed
        if held is not published:
            frames = {}
            self._framed = published, frames
        rows, first, end, ended_ms = published
        ended = rows[first:end] if as_of_ms >= ended_ms else self._ended(rows[first:end], as_of_ms)
        asked = len(ended), limit
        if asked not in frames or ended.base is None:
            frame = self._layout.unpack(_last(ended, limit))
            if len(frames) >= FRAMES or ended.base is None:
                return frame
            frames[asked] = frame
        return frames[asked]

    def _ended(self, rows: Rows, as_of_ms: int) -> Rows:
        """Return the rows that have ended: a view, unless a clock stepped back between them."""
        ended = rows[self._time] + self._length_ms <= as_of_ms
        count = int(np.count_nonzero(ended))
        return rows[:count] if ended[:count].all() else rows[ended]

    def _move(self, live: Rows, more: int = 1) -> tuple[Rows, int, int]:
        """Put the rows at the head of a new buffer with room for as many again."""
        kept = live[-self._most_rows :]
        self._buffer = np.empty(2 * max(FEWEST, len(kept), more), self._layout.dtype)
        self._buffer[: len(kept)] = kept
        self._keys = self._buffer[self._key]
        self._evict(live[: len(live) - len(kept)])
        return _read_only(self._buffer), 0, len(kept)

    def _publish(self, rows: Rows, first: int, end: int, ended_ms: int) -> None:
        over = end - first - self._most_rows
        if over > 0:
            self._evict(rows[first : first + over])
            first += over
        self.published = Published(rows, first, end, ended_ms)

    def _evict(self, rows: Rows) -> None:
        """Note that rows go, before readers see that they went."""
        if len(rows):
            self.evicted += len(rows)
            self.evicted_ms = max(self.evicted_ms, int(rows[self._time].max()))

    def _merged(self, old: Rows, new: Rows) -> Rows | None:
        """Return old and new rows in the order of their keys, each once, or None where no row changes."""
        both = np.concatenate((old, new))
        keys = both[self._key]
        order = np.lexsort((np.arange(len(both)), self._worth(both), keys))
        last = np.append(keys[order][1:] != keys[order][:-1], True)
        chosen = order[last]
        taken = chosen[chosen >= len(old)]
        held = np.isin(keys[taken], old[self._key])
        places = np.searchsorted(old[self._key], keys[taken[held]])
        unlike = np.any(_facts(old[places]) != _facts(both[taken[held]]), axis=1)
        # What says the same again has been known since it was first said.
        chosen[np.isin(chosen, taken[held][~unlike])] = places[~unlike]
        self.corrected += int(np.count_nonzero(unlike))
        self.outranked += len(new) - len(taken)
        if len(old):
            self.late += int(np.count_nonzero(~held & (keys[taken] < old[self._key][-1])))
        return both[chosen] if unlike.any() or not held.all() else None

    def _worth(self, rows: Rows) -> NDArray[np.int64]:
        if self._rank is None:
            return np.zeros(len(rows), np.int64)
        column, worth = self._rank
        of_text = np.array([worth.get(text, 0) for text in self._layout.texts] + [0], np.int64)
        return of_text[rows[column]]  # an unknown text is -1, the last


def _last(rows: Rows, limit: int) -> Rows:
    return rows[max(0, len(rows) - limit) :]


def _facts(rows: Rows) -> NDArray[np.uint8]:
    """Return what rows say, whenever that was known, as bytes, by which an unknown float is equal to another."""
    facts = np.array(rows)
    if "known_at_ms" in (facts.dtype.names or ()):
        facts["known_at_ms"] = 0
    return facts.view(np.uint8).reshape(len(facts), facts.dtype.itemsize)


def _read_only(rows: Rows) -> Rows:
    view = rows.view()
    view.flags.writeable = False
    return view
