"""Rows on their way to the database: in order, in bounded memory, and let go only when they are kept.

Rows of one table, symbol and timeframe are a series. Of a series one batch is under way at a time, so that a correction
never overtakes what it corrects; and a batch holds one version of each fact, so that both are kept. A batch goes when it is
large or old enough. Nothing here writes: `resources.timescale.ingestion` does, and says how it went.
"""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any, Final, NamedTuple, Protocol

import polars as pl

from trading.errors import TradingError
from trading.market.timeframe import Timeframe

MOST_ROWS: Final = 100_000
FLUSH_ROWS: Final = 5_000
FLUSH_AGE_S: Final = 0.25
RECORDED: Final = "recorded_at_ms"


class PipelineFull(TradingError):
    """The database does not keep up, and as many rows as may wait do."""


class PipelineStopped(TradingError):
    """No more rows are taken."""


class Facts(Protocol):
    """What is needed of a table: its name, its columns, and those of its key inside one series."""

    @property
    def name(self) -> str:
        """Name of the table."""
        ...

    @property
    def key(self) -> tuple[str, ...]:
        """Columns that identify a fact."""
        ...

    @property
    def schema(self) -> Mapping[str, Any]:
        """Type of each column."""
        ...


class Series(NamedTuple):
    """Where rows belong."""

    table: str
    symbol: str
    timeframe: Timeframe | None = None


class Receipt(NamedTuple):
    """A row that was taken: the last of those that came with it."""

    series: Series
    number: int
    """Rows of the series so far; 0: there was none."""


@dataclass(frozen=True)
class Batch:
    """Rows that are written together.

    Attributes:
        series: Where they belong.
        frame: The table's schema; no two rows have one key.
        recorded_at_ms: The exchange's clock when the last of them came.
    """

    series: Series
    frame: pl.DataFrame
    recorded_at_ms: int

    def halves(self) -> "tuple[Batch, Batch]":
        """Return the two halves of at least two rows, in order."""
        middle = len(self.frame) // 2
        return replace(self, frame=self.frame[:middle]), replace(self, frame=self.frame[middle:])


@dataclass
class _Piece:
    """Rows that came together, or singly and soon after each other: tuples then. `RECORDED` is their last column."""

    rows: "pl.DataFrame | list[tuple[Any, ...]]"
    came_s: float


@dataclass
class _Queue:
    """The rows of one series that are not kept yet."""

    facts: Facts
    pieces: deque[_Piece] = field(default_factory=lambda: deque[_Piece]())
    waiting: int = 0
    taken: int = 0
    kept: int = 0
    under_way: Batch | None = None


class Buffers:
    """The rows of all series that are not kept yet.

    Attributes:
        rows: How many there are.
        most_seen: The most there ever were.

    Args:
        most_rows: The most there may be.
        flush_rows: A series with as many has a batch due; no batch has more.
        flush_age_s: A series whose oldest row is as old has one due.
    """

    def __init__(
        self, most_rows: int = MOST_ROWS, flush_rows: int = FLUSH_ROWS, flush_age_s: float = FLUSH_AGE_S
    ) -> None:
        self.rows = self.most_seen = 0
        self.most_rows, self.flush_rows, self.flush_age_s = most_rows, flush_rows, flush_age_s
        self._queues: dict[Series, _Queue] = {}

    def has_room(self, rows: int) -> bool:
        """Return whether so many rows more may wait."""
        return self.rows + rows <= self.most_rows

    def require_room(self, series: Series, rows: int) -> None:
        """Raise `PipelineFull` unless so many rows more may wait."""
        if not self.has_room(rows):
            raise PipelineFull(
                f"{self.rows:,} rows wait for the database, and {rows:,} of {series.table} were not taken",
                "wait for room, or look why the database does not keep up: 'trading doctor'",
            )

    def add(
        self,
        facts: Facts,
        series: Series,
        rows: "pl.DataFrame | Mapping[str, Any]",
        recorded_at_ms: int,
        now_s: float,
    ) -> Receipt:
        """Take rows in, a frame of the table's schema or a single one.

        Raises:
            PipelineFull: There is no room for them.
        """
        count = len(rows) if isinstance(rows, pl.DataFrame) else 1
        self.require_room(series, count)
        queue = self._queues.get(series)
        if queue is None:
            queue = self._queues[series] = _Queue(facts)
        if isinstance(rows, pl.DataFrame):
            if count:
                queue.pieces.append(_Piece(rows.with_columns(pl.lit(recorded_at_ms, pl.Int64).alias(RECORDED)), now_s))
        else:
            row = (*(rows.get(name) for name in facts.schema), recorded_at_ms)
            last = queue.pieces[-1] if queue.pieces else None
            if last is not None and isinstance(last.rows, list) and len(last.rows) < self.flush_rows:
                last.rows.append(row)
            else:
                queue.pieces.append(_Piece([row], now_s))
        queue.waiting += count
        queue.taken += count
        self.rows += count
        self.most_seen = max(self.most_seen, self.rows)
        return Receipt(series, queue.taken)

    def due(self, now_s: float, all_of_them: bool = False) -> Batch | None:
        """Return the batch that has been due for longest, which is under way from now on, or None.

        Args:
            now_s: Monotonic clock.
            all_of_them: Every row is due, however young.
        """
        ready = [
            (queue.pieces[0].came_s, series)
            for series, queue in self._idle()
            if all_of_them or queue.waiting >= self.flush_rows or now_s - queue.pieces[0].came_s >= self.flush_age_s
        ]
        if not ready:
            return None
        _, series = min(ready, key=lambda found: found[0])
        queue = self._queues[series]
        queue.under_way = self._cut(series, queue)
        queue.waiting -= len(queue.under_way.frame)
        return queue.under_way

    def kept(self, batch: Batch) -> None:
        """Let go of a batch whose rows are all in the database, or set aside for good."""
        queue = self._queues[batch.series]
        queue.under_way = None
        queue.kept += len(batch.frame)
        self.rows -= len(batch.frame)

    def is_kept(self, receipt: Receipt) -> bool:
        """Return whether a row, and all that came before it in its series, is kept."""
        return receipt.number == 0 or self._queues[receipt.series].kept >= receipt.number

    def unkept(self) -> Iterator[Batch]:
        """Yield all that is not kept, in the order in which it must be: what is under way, then what waits."""
        for series, queue in self._queues.items():
            if queue.under_way is not None:
                yield queue.under_way
                self.kept(queue.under_way)
            while queue.pieces:
                batch = queue.under_way = self._cut(series, queue)
                queue.waiting -= len(batch.frame)
                yield batch
                self.kept(batch)

    def _idle(self) -> Iterator[tuple[Series, _Queue]]:
        for series, queue in self._queues.items():
            if queue.pieces and queue.under_way is None:
                yield series, queue

    def _cut(self, series: Series, queue: _Queue) -> Batch:
        """Take the next batch off a queue: at most `flush_rows`, and none of them twice."""
        frames: list[pl.DataFrame] = []
        room, schema = self.flush_rows, {**queue.facts.schema, RECORDED: pl.Int64}
        while queue.pieces and room:
            piece = queue.pieces[0]
            frame = piece.rows
            if not isinstance(frame, pl.DataFrame):
                frame = pl.DataFrame(frame, schema=schema, orient="row")
            frames.append(frame[:room])
            if len(frame) > room:
                piece.rows = frame[room:]
            else:
                queue.pieces.popleft()
            room -= len(frames[-1])
        rows = pl.concat(frames) if len(frames) > 1 else frames[0]
        distinct = rows.select(pl.struct(queue.facts.key).is_first_distinct()).to_series()
        if not distinct.all():
            first_again = distinct.arg_min() or 0
            queue.pieces.appendleft(_Piece(rows[first_again:], -inf))
            rows = rows[:first_again]
        return Batch(series, rows.drop(RECORDED), max(rows[RECORDED].to_list()))
