"""A collector's decisions: which connections to keep, what to ask over REST, what is ready to be stored.

It opens no socket and reads no clock. A driver tells it what happened and when, carries out its commands and calls
`tick` every `TICK_S`; the same sequence of events gives the same decisions, so that a whole day of faults can be
replayed from a seed. One connection carries all symbols, and other streams beside their trades, whose events are handed on
as they came. Trades that two connections bring are taken once.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import repeat
from typing import Final

import msgspec

from trading.market.instrument import Instrument
from trading.market.trade import AggTrade
from trading.stream.connections import LIFETIME_S, Connect, Connections, Disconnect
from trading.stream.contiguity import IdRange
from trading.stream.events import Event, Kline, MarkPrice, ServerShutdown, decode_event
from trading.stream.mark_watch import MarkWatch
from trading.stream.repair import Fetch, Fill, SymbolStream
from trading.stream.scanner import Scanner
from trading.stream.wire import BadFrame, decode, far_ahead

STALLED_MS: Final = 3_000
"""Trades this old that REST has and the stream did not bring mean that the stream has stalled."""

PENDING_TRADES: Final = 500_000
"""About 64 MiB. When the store is this far behind, connections are closed and repaired later: nothing is dropped."""

QUARANTINED: Final = 100
DOUBTED: Final = 1_000
"""How many trades that seem to lie ahead of the exchange's clock may wait for it."""

SCAN_FROM: Final = 16
"""Fewer frames are read one by one in less time than it takes to begin with more at once (some 7 us)."""

WORTH_COMPILING: Final = 10_000
"""A stream that has brought so many frames in large batches will bring more; a demo does not come to as many."""

TICK_S: Final = 0.25


class Quarantine(msgspec.Struct, frozen=True):
    """Keep a frame that was not understood, as it came; `time_ms` is the newest exchange time seen before it."""

    time_ms: int
    reason: str
    frame: bytes


class Compile(msgspec.Struct, frozen=True):
    """Let the scanner be compiled, beside everything else; it takes a second or two where that was never done before."""


Command = Connect | Disconnect | Fetch | Quarantine | Compile


class Pending(msgspec.Struct, frozen=True):
    """What is to be stored in one write.

    Attributes:
        trades: New trades by symbol.
        ledgers: Every symbol's ranges, of which `trades` are the last missing part.
        fills: Which of `trades` came over REST, by symbol.
        beside: What other streams of the connection brought, by (symbol, event), in order.
    """

    trades: Mapping[str, Sequence[AggTrade]]
    ledgers: Mapping[str, Sequence[IdRange]]
    fills: Mapping[str, Sequence[Fill]]
    beside: Sequence[tuple[str, Kline | MarkPrice]] = ()


class CollectorCore:
    """The decisions of one collector.

    Args:
        instruments: What is collected, by name.
        ledgers: What the journal claims, by name.
        wanted: Exchange time from which trades are wanted where the journal claims nothing, and up to which, by name.
        uniform: Returns a number between its two arguments; the caller's seeded source of chance.
        most_pending: How many trades may wait to be stored.
        lifetime_s: After which a connection is replaced.
        marks: Whether the connection carries mark prices, so that it is replaced when they stop coming.
        scan_from: How many frames that come together are read at once, as soon as that is compiled.
        clock_ms: The exchange's clock; 0: not known, so that the first event is believed whatever its time.
    """

    def __init__(
        self,
        instruments: Mapping[str, Instrument],
        ledgers: Mapping[str, Iterable[IdRange]],
        wanted: Mapping[str, tuple[int, int]],
        uniform: Callable[[float, float], float],
        most_pending: int = PENDING_TRADES,
        lifetime_s: float = LIFETIME_S,
        marks: bool = False,
        scan_from: int = SCAN_FROM,
        clock_ms: int = 0,
    ) -> None:
        self._instruments, self._most_pending = instruments, most_pending
        self.streams = {name: SymbolStream(name, ledgers.get(name, ()), *wanted[name]) for name in instruments}
        self.scanner, self._scan_from, self._unscanned = Scanner(instruments), scan_from, 0
        self.statistics: Counter[str] = Counter()
        self.bad_frames: Counter[str] = Counter()
        self.waiting: list[Command] = []
        """What `commands` will return."""
        self._connections = Connections(
            uniform, lifetime_s, lambda command: self.waiting.append(command), self.statistics
        )
        self.newest_ms = clock_ms
        """Newest exchange time that is known, of a trade or of the exchange's clock."""
        self._doubted: list[tuple[int, bytes]] = []
        self._pending = 0
        self._beside: list[tuple[str, Kline | MarkPrice]] = []
        self._marks = MarkWatch(instruments) if marks else None

    # -- what happened -----------------------------------------------------------------------------------------------

    def connected(self, connection: int, now_s: float) -> None:
        """Note that a connection is open and its subscriptions are in place."""
        alone = self._connections.connected(connection, now_s)
        if alone is None:
            return
        for stream in self.streams.values():
            stream.missed_ms = None
        if alone:
            # Nobody listened before: what came meanwhile leaves no hole where nothing follows it.
            self._look_at_all(now_s)

    def received(self, connection: int, frames: Sequence[bytes], now_s: float) -> None:
        """Take frames of a connection in the order in which they came, late ones included."""
        for frame, (symbol, trade) in zip(frames, self._scanned(frames), strict=False):
            if self._pending >= self._most_pending:
                self.statistics["overflows"] += self._connections.give_up("the store is behind")
            elif symbol is None or trade is None or far_ahead(trade.time_ms, self.newest_ms):
                self._read(connection, frame, now_s, clock_known=False)
            else:
                self._take(connection, frame, symbol, trade, now_s)

    def shutting_down(self, connection: int, now_s: float) -> None:
        """Note that the exchange announced the end of a connection."""
        self._connections.shutting_down(connection, now_s)

    def binary(self, frame: bytes) -> None:
        """Keep a binary message aside, whatever it holds: the exchange sends text."""
        self._bad(BadFrame("unexpected_binary", f"{len(frame)} bytes"), frame)

    def disconnected(self, connection: int, now_s: float) -> None:
        """Note that a connection ended or could not be opened, whoever ended it."""
        self._connections.disconnected(connection, now_s)

    def fetched(self, fetch: Fetch, asked_ms: int, trades: Sequence[AggTrade], now_s: float) -> None:
        """Take a page of trades; `asked_ms` is the exchange's clock before it was asked."""
        stream = self.streams[fetch.symbol]
        before = len(stream.pending)
        stream.fetched(fetch, asked_ms, trades, now_s)
        new = stream.pending[before:]
        self._pending += len(new)
        self.newest_ms = max(self.newest_ms, asked_ms)
        doubted, self._doubted = self._doubted, []
        for connection, frame in doubted:
            self._read(connection, frame, now_s, clock_known=True)
        if not fetch.hole and fetch.from_id is not None and self._stalled(stream, new, asked_ms, now_s):
            self.statistics["stalls"] += 1
            self._connections.replace_stalled(now_s)

    def refused(self, fetch: Fetch, now_s: float, wait_s: float = 0.0) -> None:
        """Note that a page was refused, or did not come; `wait_s` is how long the exchange wants to be left alone."""
        self.statistics["refused"] += 1
        self.streams[fetch.symbol].refused(fetch, now_s, wait_s)

    def look(self, now_s: float) -> None:
        """Ask soon for the end of every symbol's trades."""
        self._look_at_all(now_s)

    def ask_again(self, now_s: float) -> None:
        """Ask for everything that is missing, ids that the exchange once did not have included."""
        for stream in self.streams.values():
            stream.ledger.doubt_absent()
        self._look_at_all(now_s)

    # -- what follows ------------------------------------------------------------------------------------------------

    def tick(self, now_s: float) -> None:
        """Do what is due."""
        self._connections.tick(now_s, self._pending < self._most_pending)
        if self._marks is not None and self._marks.stalled(now_s, now_s - self._connections.open_for_s(now_s)):
            self.statistics["mark_stalls"] += 1
            self._connections.replace_stalled(now_s)
        for stream in self.streams.values():
            if stream.silent(now_s):
                stream.look(now_s)
            fetch = stream.next_fetch(now_s) if self._pending < self._most_pending else None
            if fetch is not None:
                self.statistics["fetches"] += 1
                self.waiting.append(fetch)

    def commands(self) -> list[Command]:
        """Return what is to be done, in order, once."""
        commands, self.waiting = self.waiting, []
        return commands

    def take_pending(self) -> Pending:
        """Return what is to be stored; the caller stores it before it acknowledges or asks again."""
        trades = {name: stream.pending for name, stream in self.streams.items() if stream.pending}
        fills = {name: stream.fills for name, stream in self.streams.items() if stream.fills}
        for stream in self.streams.values():
            stream.pending, stream.fills = [], []
        self._pending = 0
        beside, self._beside = self._beside, []
        return Pending(trades, {name: stream.ledger.ranges for name, stream in self.streams.items()}, fills, beside)

    @property
    def pending(self) -> int:
        """How many trades wait to be stored."""
        return self._pending

    @property
    def complete(self) -> bool:
        """Whether every symbol has all that is wanted of it, but for what the exchange does not have."""
        return all(stream.complete for stream in self.streams.values())

    # -- trades ------------------------------------------------------------------------------------------------------

    def _look_at_all(self, now_s: float) -> None:
        for stream in self.streams.values():
            stream.look(now_s)

    def _stalled(self, stream: SymbolStream, new: Sequence[AggTrade], asked_ms: int, now_s: float) -> bool:
        """Return whether the exchange has had trades for a while that the stream should have brought and did not."""
        open_ms = asked_ms - self._connections.open_for_s(now_s) * 1000
        missed = next((trade.time_ms for trade in new if trade.time_ms > open_ms), None)
        # One page may be younger than that, where REST is asked so often that it keeps up.
        stream.missed_ms = missed if stream.missed_ms is None else stream.missed_ms
        return missed is not None and stream.missed_ms is not None and asked_ms - stream.missed_ms > STALLED_MS

    def _scanned(self, frames: Sequence[bytes]) -> Iterable[tuple[str | None, AggTrade | None]]:
        """Return (symbol, trade) of each frame, for as long as it is asked; without a symbol, it is to be read alone."""
        if len(frames) < self._scan_from:
            return repeat((None, None))
        if self.scanner.compiled:
            return self.scanner.read(frames)
        before, self._unscanned = self._unscanned, self._unscanned + len(frames)
        if before < WORTH_COMPILING <= self._unscanned:
            self.waiting.append(Compile())
        return repeat((None, None))

    def _read(self, connection: int, frame: bytes, now_s: float, clock_known: bool) -> None:
        try:
            decoded = self._decoded(frame)
        except BadFrame as error:
            if error.reason == "future_time" and not clock_known and len(self._doubted) < DOUBTED:
                # A thin market may be silent for longer than a trade may lie ahead: only the exchange's clock decides,
                # and it comes with the next page.
                self._doubted.append((connection, frame))
                self._look_at_all(now_s)
            else:
                self._bad(error, frame)
            return
        match decoded:
            case None:
                return
            case ServerShutdown():
                self.shutting_down(connection, now_s)
            case symbol, AggTrade() as trade:
                self._take(connection, frame, symbol, trade, now_s)
            case symbol, (Kline() | MarkPrice()) as event:
                self._take_beside(symbol, event, now_s)
            case _, event:
                self._bad(BadFrame("unknown_event", type(event).__name__), frame)

    def _decoded(self, frame: bytes) -> tuple[str, Event] | ServerShutdown | None:
        try:
            return decode(frame, self._instruments, self.newest_ms)
        except BadFrame as error:
            if error.reason != "unknown_event":
                raise
        return decode_event(frame, self._instruments, self.newest_ms)

    def _take_beside(self, symbol: str, event: Kline | MarkPrice, now_s: float) -> None:
        self._beside.append((symbol, event))
        if isinstance(event, MarkPrice):
            self.newest_ms = max(self.newest_ms, event.time_ms)
            if self._marks is not None:
                self._marks.heard(symbol, now_s)

    def _take(self, connection: int, frame: bytes, symbol: str, trade: AggTrade, now_s: float) -> None:
        stream = self.streams[symbol]
        stream.heard(now_s)
        self._connections.delivered(connection, now_s)
        if stream.take((trade,)):
            self._pending += 1
        elif stream.relisted:
            self._bad(BadFrame("relisted", f"{symbol} counts its ids anew from {trade.agg_trade_id}"), frame)
        elif stream.revised(trade):
            self._bad(
                BadFrame("revised", f"{symbol} {trade.agg_trade_id} came otherwise before, and that is kept"), frame
            )
        else:
            self.statistics["duplicates"] += 1
        self.newest_ms = max(self.newest_ms, trade.time_ms)

    def _bad(self, error: BadFrame, frame: bytes) -> None:
        self.bad_frames[error.reason] += 1
        if self.bad_frames.total() <= QUARANTINED:
            self.waiting.append(Quarantine(self.newest_ms, str(error), frame[:4096]))
