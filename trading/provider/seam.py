"""History and the live stream as one: each trade id once and in order, each bar once and in order, however they come.

The same fact may come from both sides, and one that was repaired comes late. A trade waits until all before it are there;
when a hole stays for longer than there is patience, a gap is told and what lies behind it goes on. A bar that comes again
with other values is told as a revision. What was delivered is a text from which another stream can go on.
"""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from trading.errors import TradingError
from trading.provider.events import FIELDS, LiveEvent

PATIENCE_S: Final = 30.0
"""A hole that REST can fill is filled in seconds; one that it cannot is absent at the source."""

REMEMBERED: Final = 4_096
"""How many bars of a kind are remembered, to tell one that comes twice from one that was made anew."""

_UNORDERED: Final = ("gap", "repair")


class BadPosition(TradingError):
    """A position to go on from cannot be read."""


class Hole(NamedTuple):
    """Trades that are waited for: first and last id, since when (seconds of the caller's clock)."""

    symbol: str
    first_id: int
    last_id: int
    since_s: float


class Seam:
    """The order of one subscriber's events.

    Args:
        kinds: What the subscriber asked for.
        positions: Last id that was delivered, by (symbol, kind).
        patience_s: How long a hole is waited for.
    """

    def __init__(
        self,
        kinds: Iterable[str],
        positions: Mapping[tuple[str, str], int] | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._kinds, self._patience_s = frozenset(kinds), patience_s
        self.positions = dict(positions or {})
        self._waiting: dict[str, dict[int, LiveEvent]] = {}
        self._hole_since_s: dict[str, tuple[int, float]] = {}
        self._told: dict[tuple[str, str], dict[int, tuple[object, ...]]] = {}
        self.skipped = 0
        """Trades that came again, or after their gap had been told."""

    def take(self, events: Iterable[LiveEvent], now_s: float) -> list[LiveEvent]:
        """Take events of either side and return what is to be delivered now, in order."""
        ready = list[LiveEvent]()
        for event in events:
            if event.kind not in self._kinds:
                continue
            if event.kind == "trade":
                self._take_trade(event, ready)
            elif event.kind in _UNORDERED:
                ready.append(event)
            else:
                self._take_bar(event, ready)
        for symbol, waiting in self._waiting.items():
            self._note_hole(symbol, waiting, now_s, ready)
        return ready

    def holes(self) -> list[Hole]:
        """Return the trades that are waited for."""
        return [
            Hole(symbol, first_id, min(self._waiting[symbol]) - 1, since_s)
            for symbol, (first_id, since_s) in self._hole_since_s.items()
        ]

    # -- trades ------------------------------------------------------------------------------------------------------

    def _take_trade(self, event: LiveEvent, ready: list[LiveEvent]) -> None:
        key = (event.symbol, "trade")
        last = self.positions.get(key)
        if last is None or event.id == last + 1:
            ready.append(event)
            self._follow(event.symbol, event.id, ready)
        elif event.id > last:
            self._waiting.setdefault(event.symbol, {})[event.id] = event
        else:
            self.skipped += 1

    def _follow(self, symbol: str, last: int, ready: list[LiveEvent]) -> None:
        """Deliver what waited for an id."""
        waiting = self._waiting.get(symbol, {})
        while (following := waiting.pop(last + 1, None)) is not None:
            ready.append(following)
            last += 1
        self.positions[symbol, "trade"] = last

    def _note_hole(self, symbol: str, waiting: dict[int, LiveEvent], now_s: float, ready: list[LiveEvent]) -> None:
        if not waiting:
            self._hole_since_s.pop(symbol, None)
            return
        first_id = self.positions[symbol, "trade"] + 1
        since_id, since_s = self._hole_since_s.get(symbol, (first_id, now_s))
        # A hole that shrinks is being filled; its rest has not been waited for yet.
        since_s = since_s if since_id == first_id else now_s
        self._hole_since_s[symbol] = (first_id, since_s)
        if now_s - since_s >= self._patience_s:
            last_id = min(waiting) - 1
            ready.append(LiveEvent("gap", symbol, waiting[last_id + 1].time_ms, first_id, (first_id, last_id)))
            self._follow(symbol, last_id, ready)
            self._note_hole(symbol, waiting, now_s, ready)

    # -- bars and books ----------------------------------------------------------------------------------------------

    def _take_bar(self, event: LiveEvent, ready: list[LiveEvent]) -> None:
        key = (event.symbol, event.kind)
        told, facts = self._told.setdefault(key, {}), _facts(event)
        last = self.positions.get(key)
        if last is None or event.id > last:
            ready.append(event)
            self.positions[key] = event.id
        elif event.id in told and told[event.id] != facts and event.kind.startswith("bar:"):
            kind = event.kind.replace("bar:", "revision:")
            ready.append(LiveEvent(kind, event.symbol, event.time_ms, event.id, event.payload))
        else:
            return
        told[event.id] = facts
        if len(told) > REMEMBERED:
            del told[next(iter(told))]


def _facts(event: LiveEvent) -> tuple[object, ...]:
    """Return an event's values but for the moment since which it is known, which is the last where there is one."""
    return event.payload[:-1] if FIELDS[event.kind][-1] == "known_at_ms" else event.payload


def position_text(positions: Mapping[tuple[str, str], int]) -> str:
    """Return where another stream can go on that has delivered so much, by (symbol, kind)."""
    return ",".join(f"{symbol}/{kind}={last}" for (symbol, kind), last in sorted(positions.items()))


def positions_of(text: str) -> dict[tuple[str, str], int]:
    """Return the positions of `position_text`.

    Raises:
        BadPosition: It is none.
    """
    positions: dict[tuple[str, str], int] = {}
    for part in filter(None, text.split(",")):
        name, _, number = part.partition("=")
        symbol, _, kind = name.partition("/")
        if kind not in FIELDS or not symbol or not number.isascii() or not number.isdigit():
            raise BadPosition(f"{part[:80]!r} is no position", "give the text that the former stream ended with")
        positions[symbol, kind] = int(number)
    return positions
