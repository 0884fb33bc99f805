"""What a collector has just acknowledged, for whoever takes it further; the collector never waits for them.

Batches wait in a queue of bounded size. When it is full it is emptied: whoever takes it further reads that time again from
the journal, piece by piece, and is back in the queue without a seam. `stored`, `books` and `piece` are called in the
collector's thread, `take` in another.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import polars as pl

from resources.journal import TradeJournal
from trading.market.timeframe import MINUTE_MS, SECOND_MS
from trading.market.trade import AggTrade, trades_frame
from trading.stream.book_recorder import BookRecord
from trading.stream.collector import Pending
from trading.stream.contiguity import IdRange
from trading.stream.repair import Fill

SOON_S: Final = 0.02
"""How soon what arrived is stored where somebody waits for it; elsewhere it takes longer, by fewer and larger writes."""

MOST_WAITING: Final = 200_000
"""Trades; some 30 MiB, and minutes of a busy market."""

PIECE_MS: Final = 10 * SECOND_MS
LONGEST_PIECE_MS: Final = 5 * MINUTE_MS
FEW: Final = 500
MANY: Final = 5_000
"""Of so many trades the next piece is longer, or shorter: one is read from the journal in a millisecond or two, so that the
collector can go on between two."""


class Batch(NamedTuple):
    """Trades of one symbol that the journal holds.

    Attributes:
        symbol: Whose.
        trades: As they came, or a frame (`TRADE_SCHEMA`) of the journal.
        ranges: What its ledger claims, of which all trades have been handed on since the last `since_ms`.
        fills: Which came over REST.
        clock_ms: The exchange's clock.
        since_ms: With this batch everything since then is handed on anew; None: it goes on from the one before.
    """

    symbol: str
    trades: Sequence[AggTrade] | pl.DataFrame
    ranges: list[IdRange]
    fills: Sequence[Fill]
    clock_ms: int
    since_ms: int | None = None

    @property
    def frame(self) -> pl.DataFrame:
        """The trades as a frame."""
        return self.trades if isinstance(self.trades, pl.DataFrame) else trades_frame(self.trades)


class BookBatch(NamedTuple):
    """Order books of one symbol that the journal holds, and the exchange's clock."""

    symbol: str
    records: Sequence[BookRecord]
    clock_ms: int


class LiveTap:
    """The queue of one collector.

    Args:
        journal: The collector's.
        symbols: Whose trades.

    Attributes:
        clock_ms: The exchange's clock, as its trades tell it.
        newest_ms: As trades and books tell it: a market may not trade for long.
    """

    def __init__(self, journal: TradeJournal, symbols: Iterable[str]) -> None:
        self._journal = journal
        self._lock = threading.Lock()
        self._queue = deque[Batch | BookBatch]()
        self._waiting = self.clock_ms = self.newest_ms = 0
        self._claims: dict[str, list[IdRange]] = {}
        self._behind: dict[str, tuple[int, bool]] = {}
        """Symbols that are not in the queue: what is to be read next of their journal, and whether it is the first piece."""
        self._symbols = tuple(symbols)
        self._handed_ms: dict[str, int] = {}
        """Time of the last trade that was handed on: up to it time is proven, and what is read again goes on from there."""
        self._piece_ms = dict.fromkeys(self._symbols, PIECE_MS)
        self.wake: Callable[[], None] | None = None
        """Called when something has come. While nobody is to be, nothing is kept: whoever takes begins with the journal."""
        self.overflows = self.books_left = 0
        """How often the queue was emptied, and the books that nobody got: the day's assets bring those."""

    # -- the collector's side ----------------------------------------------------------------------------------------

    def stored(self, pending: Pending, clock_ms: int) -> None:
        """Hand on what was acknowledged."""
        self.clock_ms, self.newest_ms = clock_ms, max(self.newest_ms, clock_ms)
        if self.wake is None:
            return
        for symbol in self._symbols:
            trades, ranges = pending.trades.get(symbol, ()), pending.ledgers[symbol]
            if symbol in self._behind:
                if trades and min(trade.time_ms for trade in trades) < self._behind[symbol][0]:
                    self.read_again(symbol, min(trade.time_ms for trade in trades))
                continue
            if not trades and ranges == self._claims.get(symbol):
                continue
            # The ledger's own ranges go on changing.
            self._claims[symbol] = [msgspec.structs.replace(r) for r in ranges]
            self._put(Batch(symbol, trades, self._claims[symbol], pending.fills.get(symbol, ()), clock_ms), len(trades))

    def books(self, arrived: Mapping[str, Sequence[BookRecord]], clock_ms: int) -> None:
        """Hand on order books; those that find no room are left to the day's assets."""
        self.newest_ms = max(self.newest_ms, clock_ms)
        if self.wake is None:
            self.books_left += sum(map(len, arrived.values()))
            return
        for symbol, records in arrived.items():
            self._put(BookBatch(symbol, tuple(records), clock_ms), len(records))

    async def piece(self, symbol: str) -> Batch | None:
        """Return the next piece of a symbol that is not in the queue; with its last one the symbol is."""
        if symbol not in self._behind:
            return None
        (lo_ms, first), piece_ms = self._behind[symbol], self._piece_ms[symbol]
        ranges = self._journal.ledger(symbol)
        reached = not ranges or lo_ms + piece_ms > ranges[-1].proven_until_ms
        hi_ms = 2**53 if reached else lo_ms + piece_ms
        trades = self._journal.trades(symbol, lo_ms, hi_ms)
        if len(trades):
            self._handed_ms[symbol] = int(trades["time_ms"][-1])
        if len(trades) < FEW:
            self._piece_ms[symbol] = min(2 * piece_ms, LONGEST_PIECE_MS)
        elif len(trades) > MANY:
            self._piece_ms[symbol] = max(piece_ms // 2, PIECE_MS)
        if reached:
            del self._behind[symbol]
            self._claims[symbol] = ranges
        else:
            self._behind[symbol] = (hi_ms, False)
        clock_ms = max(self.clock_ms, ranges[-1].proven_until_ms) if ranges else self.clock_ms
        return Batch(symbol, trades, clipped(ranges, hi_ms), (), clock_ms, lo_ms if first else None)

    def read_again(self, symbol: str, since_ms: int) -> None:
        """Take a symbol out of the queue and hand on everything since a minute anew."""
        with self._lock:
            waiting, self._queue = self._queue, deque()
            for batch in waiting:
                if isinstance(batch, BookBatch) or batch.symbol != symbol:
                    self._queue.append(batch)
            self._waiting = sum(_size(batch) for batch in self._queue)
        # What waits may be of earlier than what is asked for, as when it came over REST; so may what is being read again.
        unread = [self._behind[symbol][0]] if symbol in self._behind else []
        self._begin_again(symbol, min([since_ms, *unread, *_times(waiting, symbol)]))
        self._wake()

    def _wake(self) -> None:
        if self.wake is not None:
            self.wake()

    def _begin_again(self, symbol: str, since_ms: int) -> None:
        since_ms = min(since_ms, self._handed_ms.get(symbol, since_ms))
        self._behind[symbol] = (since_ms // MINUTE_MS * MINUTE_MS, True)

    def _put(self, batch: Batch | BookBatch, size: int) -> None:
        with self._lock:
            full = self._waiting + size > MOST_WAITING
            dropped = [*self._queue, batch] if full else []
            if full:
                self._queue.clear()
                self._waiting = 0
            else:
                self._queue.append(batch)
                self._waiting += size
        if full:
            self.overflows += 1
            self.books_left += sum(len(b.records) for b in dropped if isinstance(b, BookBatch))
            for symbol in {b.symbol for b in dropped if isinstance(b, Batch)}:
                self._begin_again(symbol, min([self.clock_ms, *_times(dropped, symbol)]))
        self._wake()

    # -- the other side ----------------------------------------------------------------------------------------------

    def take(self) -> list[Batch | BookBatch]:
        """Return what waits, in order."""
        with self._lock:
            taken, self._waiting = list(self._queue), 0
            self._queue.clear()
        for batch in taken:
            if isinstance(batch, Batch) and not isinstance(batch.trades, pl.DataFrame) and batch.trades:
                self._handed_ms[batch.symbol] = batch.trades[-1].time_ms
        return taken

    def behind(self) -> list[str]:
        """Return the symbols of which pieces are to be asked for."""
        return list(self._behind)

    def status(self) -> dict[str, Any]:
        """Return how much waits, how often it was too much, and whose journal is being read again."""
        return {"waiting": self._waiting, "overflows": self.overflows, "catching_up": self.behind()}


def joined(batches: Iterable[Batch | BookBatch]) -> list[Batch | BookBatch]:
    """Return batches with those of one symbol that follow each other as one; pieces of the journal stay alone."""
    found, places = list[Batch | BookBatch](), dict[str, int]()
    for batch in batches:
        if isinstance(batch, Batch) and not isinstance(batch.trades, pl.DataFrame):
            place = places.setdefault(batch.symbol, len(found))
            if place < len(found):
                before: Any = found[place]
                found[place] = batch._replace(
                    trades=[*before.trades, *batch.trades], fills=[*before.fills, *batch.fills]
                )
                continue
        elif isinstance(batch, Batch):
            places.pop(batch.symbol, None)
        found.append(batch)
    return found


def clipped(ranges: Iterable[IdRange], until_ms: int) -> list[IdRange]:
    """Return claims as far as they speak of the time before a moment; their ids stay, and must be cut by their trades."""
    return [
        msgspec.structs.replace(r, proven_until_ms=min(r.proven_until_ms, until_ms))
        for r in ranges
        if r.proven_from_ms < until_ms
    ]


def _size(batch: Batch | BookBatch) -> int:
    return len(batch.trades) if isinstance(batch, Batch) else len(batch.records)


def _times(batches: Iterable[Batch | BookBatch], symbol: str) -> list[int]:
    """Return the times of the trades of a symbol that wait in batches; no frame of the journal does."""
    return [
        trade.time_ms
        for batch in batches
        if isinstance(batch, Batch) and batch.symbol == symbol and not isinstance(batch.trades, pl.DataFrame)
        for trade in batch.trades
    ]
