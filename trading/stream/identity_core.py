"""What to make of what comes of some markets whose trade ids are identities; sockets, lists and the store are its caller's.

There is one connection at a time: where two overlap, a trade that only the older one brings may come after later ones of
the younger, and a death in between would leave it out of a time that is said to lack nothing. A market is interrupted
when the connection is lost, or when a frame that may have held trades of it was refused. What is to be stored is taken
together with what can be said of the time up to then, so that one write keeps both true.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from trading.market.derivatives import AssetContext
from trading.market.identified import IdentifiedTrade
from trading.market.instrument import Instrument
from trading.stream.events import Kline
from trading.stream.identities import Identities, Stretch
from trading.stream.venue import Dialect
from trading.stream.wire import BadFrame

QUARANTINED: Final = 100
"""Bad frames that are kept; more are only counted."""


@dataclass
class Seen:
    """What came of one market since the last write.

    Attributes:
        trades: New ones, in order.
        candles: Candles of a minute by open time.
        context: What was said last of the contract.
        stretches: What can be said of the time between all trades of the market, these included.
    """

    trades: list[IdentifiedTrade] = field(default_factory=list)
    candles: dict[int, Kline] = field(default_factory=dict)
    context: AssetContext | None = None
    stretches: list[Stretch] = field(default_factory=list)


class IdentityCore:
    """The markets of one venue.

    Args:
        dialect: How frames are read.
        instruments: What is collected, by name.
        held: What is known of each market from before.
    """

    def __init__(self, dialect: Dialect, instruments: Mapping[str, Instrument], held: Mapping[str, Identities]) -> None:
        self._dialect, self._instruments, self._held = dialect, instruments, held
        self._seen = {name: Seen() for name in held}
        self._contexts: dict[str, AssetContext] = {}
        self._silent: set[str] = set()
        self._newest_ms, self._newest_s = 0, 0.0
        self._bad: list[tuple[int, str, bytes]] = []
        self.statistics: Counter[str] = Counter()
        self.bad_frames: Counter[str] = Counter()

    def connected(self) -> None:
        """Note that a connection is open and everything was asked for on it."""
        self._silent = set(self._held)

    def disconnected(self) -> None:
        """Note that the connection is gone, or never came to be."""
        for held in self._held.values():
            held.interrupted()

    def received(self, frame: bytes, now_s: float) -> set[str]:
        """Take a frame of the open connection, whole or not at all.

        Args:
            frame: As received.
            now_s: Monotonic seconds.

        Returns:
            The markets that it interrupts, for which a list should be asked for.

        Raises:
            BadFrame: The venue refuses what was asked for.
        """
        now_ms = self._newest_ms and self._newest_ms + int(1000 * (now_s - self._newest_s))
        try:
            events = self._dialect.decode(frame, self._instruments, now_ms) or []
        except BadFrame as error:
            return self._refused(frame, error)
        trades: dict[str, list[IdentifiedTrade]] = {}
        for name, event in events:
            match event:
                case IdentifiedTrade():
                    trades.setdefault(name, []).append(event)
                case Kline():
                    self._seen[name].candles[event.open_time_ms] = event
                case AssetContext():
                    self._take_context(name, event)
        for name, came in trades.items():
            held = self._held[name]
            if name in self._silent:
                # A subscription begins with recent trades (Hyperliquid) or new ones, and leaves out none between them.
                self._silent.discard(name)
                new = held.take_list(came, current=True)
            else:
                new = held.take(came)
            self._keep(name, came, new, now_s)
        return set()

    def binary(self, frame: bytes) -> set[str]:
        """Keep a binary message aside, whatever it holds, as venues send text; return the markets that it interrupts."""
        return self._refused(frame, BadFrame("unexpected_binary", f"{len(frame)} bytes"))

    @property
    def newest_ms(self) -> int:
        """Newest exchange time of a trade; 0: none came yet."""
        return self._newest_ms

    def unheard(self, name: str, listed: Sequence[IdentifiedTrade]) -> int:
        """Return how many trades of a list the stream has left out, or has not brought yet."""
        return len(self._held[name].unheard(listed))

    def take_list(self, name: str, listed: Sequence[IdentifiedTrade], now_s: float) -> bool:
        """Take a list of recent trades that was asked for while a connection was open.

        What the stream has left out by now shows that it cannot be trusted: the market is interrupted.

        Returns:
            Whether a list can do no more for what is missing.
        """
        held = self._held[name]
        if unheard := held.unheard(listed):
            self.statistics["unheard"] += len(unheard)
            held.interrupted()
        self._keep(name, listed, held.take_list(listed, current=False), now_s)
        return bool(listed) and held.bridged_after(min(trade.time_ms for trade in listed))

    def take_seen(self) -> dict[str, Seen]:
        """Return what is to be stored, and forget it."""
        seen, self._seen = self._seen, {name: Seen() for name in self._held}
        for name, held in self._held.items():
            seen[name].stretches = held.stretches()
        return seen

    def take_bad(self) -> list[tuple[int, str, bytes]]:
        """Return the frames to be kept aside, as (time, reason, frame), and forget them."""
        bad, self._bad = self._bad, []
        return bad

    def status(self) -> dict[str, Any]:
        """Return what is missing in each market, by name; `holes` counts stretches."""
        said: dict[str, Any] = {}
        for name, held in self._held.items():
            missing = [s.until_ms - s.from_ms for s in held.stretches() if s.state == "missing"]
            said[name] = {"newest_ms": held.last_ms, "listening": held.listening}
            said[name] |= {"holes": len(missing), "missing_ms": sum(missing)}
        return said

    def _take_context(self, name: str, said: AssetContext) -> None:
        whole = said.after(self._contexts.get(name))
        if not whole.partial:  # a change of what was never said whole says too little
            self._contexts[name] = self._seen[name].context = whole

    def _keep(self, name: str, came: Sequence[IdentifiedTrade], new: Sequence[IdentifiedTrade], now_s: float) -> None:
        self.statistics["duplicates"] += len(came) - len(new)
        self._seen[name].trades += new
        newest_ms = max((trade.time_ms for trade in came), default=0)
        if newest_ms > self._newest_ms:
            self._newest_ms, self._newest_s = newest_ms, now_s

    def _refused(self, frame: bytes, error: BadFrame) -> set[str]:
        self.bad_frames[error.reason] += 1
        if self.bad_frames.total() <= QUARANTINED:
            self._bad.append((self._newest_ms, str(error), frame[:4096]))
        if error.reason == "command_refused":
            raise error
        interrupted = self._dialect.trades_of(frame, self._held)
        for name in interrupted:
            self._held[name].interrupted()
        return interrupted
