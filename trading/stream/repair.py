"""What one symbol lacks, and which page of trades to ask the exchange for next.

Whatever arrives is taken at once, in any order; the ledger knows what is missing. A hole is asked for by id after a
moment in which it may fill by itself. The end is asked for after a break, a silence or a start, since a trade that was
lost there leaves no hole. Nothing here opens a connection, knows a clock or stores anything: the caller says what
happened and when, in seconds of a clock that never steps.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Final

import msgspec

from trading.market.timeframe import MINUTE_MS
from trading.market.trade import AggTrade
from trading.stream.contiguity import IdRange, Ledger

PAGE: Final = 1000
GRACE_S: Final = 0.5
"""Streams reorder a little; a hole that is asked for at once would often be filled before the answer."""

SETTLE_S: Final = 1.0
"""The exchange's REST servers trail its streams: an end is believed when it is still the end this much later."""

FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 60.0

SHORTEST_SILENCE_S: Final = 6.0
LONGEST_SILENCE_S: Final = 300.0
FOREVER_MS: Final = 2**53
RESTART_MS: Final = MINUTE_MS
"""A trade this much later than all that are held, and with an id before theirs: the exchange counts anew."""

RECENT: Final = 1024
"""How many trades are remembered as they came, to find one that comes again and is another."""

SILENCE: Final = 20.0
"""A stream is asked after when it has been silent for this many times its usual pause, and then ever more rarely."""

MOST_PATIENCE: Final = 64
"""Beyond it any silence is as long as the longest; a market may be silent for days."""


class Fetch(msgspec.Struct, frozen=True):
    """One page of aggregate trades to be asked for, oldest first.

    Attributes:
        symbol: Exchange name.
        from_id: First id wanted; None: whatever comes first at `since_ms` or later.
        since_ms: Exchange time, where there is no id.
        limit: Most trades wanted.
        hole: Whether the page ends before an id that is held.
    """

    symbol: str
    from_id: int | None
    since_ms: int
    limit: int = PAGE
    hole: bool = False


class Fill(msgspec.Struct, array_like=True):
    """Ids that came over REST because the stream had not brought them.

    Attributes:
        first_id: First of them.
        last_id: Last of them.
        from_ms: Exchange time of the first.
        until_ms: Of the last.
        hole: Whether later ids were held already; otherwise the stream was away, or silent.
        waited_ms: How long the hole was known before it was filled; 0 where it was none.
    """

    first_id: int
    last_id: int
    from_ms: int
    until_ms: int
    hole: bool
    waited_ms: int


class SymbolStream:
    """The trades of one symbol as they come in.

    Args:
        symbol: Exchange name.
        ranges: What the journal's ledger claims.
        since_ms: Exchange time from which trades are wanted where nothing is claimed.
        until_ms: Exchange time up to which they are wanted; beyond it nothing is proven.
    """

    def __init__(self, symbol: str, ranges: Iterable[IdRange], since_ms: int, until_ms: int = FOREVER_MS) -> None:
        self.symbol = symbol
        self.ledger = Ledger(ranges)
        self.pending: list[AggTrade] = []
        self.fills: list[Fill] = []
        """What came over REST since they were last taken."""
        self._recent: list[AggTrade | None] = [None] * RECENT
        self.holes = self.repaired = 0
        self.relisted = False
        """Whether ids have begun anew; nothing can be proven of what follows, and none of it is taken."""
        self.missed_ms: int | None = None
        """Exchange time of the first trade that REST brought and the stream should have, since it last brought any."""
        self._since_ms, self._until_ms = since_ms, until_ms
        # A process that ended before its first page came holds trades, and nothing is proven of the time before them.
        self._begun = bool(self.ledger.ranges) and self.ledger.ranges[0].proven_from_ms <= since_ms
        self._first_id: int | None = None
        self._none_until_ms = 0
        self._asked: Fetch | None = None
        self._not_before_s, self._pause_s = 0.0, FIRST_PAUSE_S
        self._end_wanted, self._end_at_s = True, 0.0
        self._end: tuple[int, int, float] | None = None
        self._seen_s: dict[int, float] = {}
        """When each open hole was first seen, by its last id, which stays while it is filled."""
        self._doubted: set[tuple[int, int]] = set()
        """Holes that the last page left out; one that the next page leaves out too is absent."""
        self._heard_s: float | None = None
        self._looked_s = 0.0
        self._usual_s, self._patience = 0.0, 1

    # -- what happened -----------------------------------------------------------------------------------------------

    def take(self, trades: Sequence[AggTrade]) -> int:
        """Hold trades that are not held yet and return their number."""
        taken = 0
        for trade in trades:
            self.relisted = self.relisted or self._begins_anew(trade)
            if not self.relisted and not self.ledger.holds(trade.agg_trade_id):
                self.ledger.take(trade)
                self.pending.append(trade)
                self._recent[trade.agg_trade_id % RECENT] = trade
                taken += 1
        return taken

    def revised(self, trade: AggTrade) -> bool:
        """Return whether a trade came with another content before, as far as is remembered."""
        before = self._recent[trade.agg_trade_id % RECENT]
        return before is not None and before.agg_trade_id == trade.agg_trade_id and before != trade

    def _is_another(self, trade: AggTrade) -> bool:
        """Return whether a trade has the id of an earlier one, as far as is remembered."""
        before = self._recent[trade.agg_trade_id % RECENT]
        return before is not None and before.agg_trade_id == trade.agg_trade_id and before.time_ms < trade.time_ms

    def _begins_anew(self, trade: AggTrade) -> bool:
        """Return whether a trade has an early id and a late time, which ids that only rise cannot have."""
        ranges = self.ledger.ranges
        late = bool(ranges) and trade.time_ms > ranges[-1].proven_until_ms + RESTART_MS
        return late and trade.agg_trade_id <= ranges[-1].last_id

    def heard(self, now_s: float) -> None:
        """Note that the stream delivered something."""
        if self._heard_s is not None:
            self._usual_s += (min(now_s - self._heard_s, LONGEST_SILENCE_S) - self._usual_s) / 32
        self._heard_s, self._patience, self.missed_ms = now_s, 1, None

    def silent(self, now_s: float) -> bool:
        """Return whether the stream has been silent for longer than is usual for it."""
        limit = min(self._patience * max(SHORTEST_SILENCE_S, SILENCE * self._usual_s), LONGEST_SILENCE_S)
        return now_s - max(self._heard_s or 0.0, self._looked_s) > limit

    def look(self, now_s: float) -> None:
        """Ask the exchange soon whether there are trades behind the last one held."""
        self._looked_s, self._patience = now_s, min(2 * self._patience, MOST_PATIENCE)
        if not self._end_wanted:
            self._end_wanted, self._end_at_s, self._end = True, now_s, None

    # -- what to ask for ---------------------------------------------------------------------------------------------

    @property
    def settled(self) -> bool:
        """Whether nothing is wanted: no hole that the exchange may fill, and an end that is known."""
        wanted = self._end_wanted or self._asked is not None or self.ledger.open_holes()
        return self.relisted or (self._begun and not wanted)

    @property
    def proven_until_ms(self) -> int:
        """Exchange time up to which no trade is missing but what the exchange does not have; 0 while none is known."""
        ranges = self.ledger.ranges
        if not self._begun:
            return 0 if ranges else self._none_until_ms
        behind = (before for before, after in pairwise(ranges) if not after.absent_before)
        return next(behind, ranges[-1]).proven_until_ms

    @property
    def complete(self) -> bool:
        """Whether every trade up to `until_ms` is held, but for what the exchange does not have."""
        if self.relisted:
            return True
        if not self._begun:
            return self._none_until_ms >= self._until_ms
        return not self.ledger.open_holes() and self.ledger.ranges[-1].proven_until_ms >= self._until_ms

    def next_fetch(self, now_s: float) -> Fetch | None:
        """Return the page to ask for now, if any; `fetched` or `refused` must follow."""
        # What is left of a hole was seen when the hole was, whatever its last id is now.
        ends, lasts = sorted(self._seen_s), [last for _, last in self.ledger.open_holes()]
        self.holes += sum(last > ends[-1] if ends else True for last in lasts)
        self._seen_s = {last: self._seen_by(last, ends, now_s) for last in lasts}
        if self._asked is not None or now_s < self._not_before_s or self.relisted:
            return None
        self._asked = self._wanted(now_s)
        return self._asked

    def _wanted(self, now_s: float) -> Fetch | None:
        if not self._begun:
            return Fetch(self.symbol, None, self._since_ms, PAGE if self._first_id is None else 1)
        due = [hole for hole in self.ledger.open_holes() if now_s - self._seen_s[hole[1]] >= GRACE_S]
        if due:
            # A page costs the same whatever its length, so that one fetches all the holes that it reaches.
            first = due[0][0]
            last = max(end for start, end in due if start < first + PAGE)
            return Fetch(self.symbol, first, 0, min(PAGE, last - first + 1), hole=True)
        if self._end is not None and self.ledger.holds(self._end[0]):
            # The stream went on from there by itself.
            self._end_wanted, self._end = False, None
        next_id = self.ledger.next_id
        if self._end_wanted and now_s >= self._end_at_s and next_id is not None:
            # The last trade held is asked for too: where ids began anew, all answers behind it would be empty.
            return Fetch(self.symbol, next_id - 1, 0)
        return None

    def fetched(self, fetch: Fetch, asked_ms: int, trades: Sequence[AggTrade], now_s: float) -> None:
        """Take a page.

        Args:
            fetch: What was asked for.
            asked_ms: The exchange's clock before it was asked.
            trades: The page, oldest first.
            now_s: When it came.
        """
        self._asked = None
        if trades:
            self._pause_s = FIRST_PAUSE_S
        if fetch.from_id is None:
            self._begin(asked_ms, trades, now_s)
        elif fetch.hole:
            self._fill(fetch.from_id, fetch.from_id + fetch.limit - 1, trades, now_s)
        else:
            self._extend(fetch.from_id, fetch.limit, asked_ms, trades, now_s)

    def refused(self, fetch: Fetch, now_s: float, wait_s: float = 0.0) -> None:
        """Ask again later: after `wait_s` at least, and after growing pauses."""
        self._asked = None
        self._not_before_s = now_s + max(wait_s, self._pause_s)
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)

    def _begin(self, asked_ms: int, trades: Sequence[AggTrade], now_s: float) -> None:
        if not trades:
            self._none_until_ms, self._not_before_s = asked_ms, now_s + SETTLE_S
            return
        self._take_page(trades)
        if trades[0].agg_trade_id == self._first_id:
            self._begun = True
            self.ledger.begin(trades[0].agg_trade_id, self._since_ms)
        # A server that is not up to date leaves trades out: two answers in turn must begin with the same one.
        self._first_id = trades[0].agg_trade_id

    def _fill(self, first: int, last: int, trades: Sequence[AggTrade], now_s: float) -> None:
        self._take_page([t for t in trades if first <= t.agg_trade_id <= last], now_s)
        if not trades:
            # Later ids are held, so the exchange must know some: its REST servers trail.
            self._not_before_s = now_s + SETTLE_S
            return
        reached = min(last, trades[-1].agg_trade_id - 1)
        left_out = {hole for hole in self.ledger.open_holes() if first <= hole[0] and hole[1] <= reached}
        for _, end in left_out & self._doubted:
            self.ledger.mark_absent(end)
        self._doubted = left_out - self._doubted
        if self._doubted:
            self._not_before_s = now_s + SETTLE_S

    def _extend(self, held_id: int, limit: int, asked_ms: int, trades: Sequence[AggTrade], now_s: float) -> None:
        if not trades:
            # The exchange does not know the trade that is held last: it trails, or its ids have begun anew.
            self._end, self._end_at_s = None, now_s + self._pause_s
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            return
        self.relisted = self.relisted or self._is_another(trades[0])
        self._take_page([trade for trade in trades if trade.agg_trade_id > held_id])
        next_id = trades[-1].agg_trade_id + 1
        if len(trades) >= limit:
            self._end, self._end_at_s = None, now_s
        elif next_id == held_id + 1 and self._end and self._end[0] == next_id and now_s - self._end[2] >= SETTLE_S:
            self.ledger.confirm(next_id, min(self._end[1], self._until_ms))
            self._end_wanted, self._end = False, None
        else:
            # In a busy market no page is ever empty: the stream may go on from here, or this is asked again.
            self._end, self._end_at_s = (next_id, asked_ms, now_s), now_s + SETTLE_S

    def _take_page(self, trades: Sequence[AggTrade], filled_s: float | None = None) -> None:
        """Hold trades of REST, which fill holes at a moment or none, and note which the stream had not brought."""
        held, hole, ends = len(self.pending), filled_s is not None, sorted(self._seen_s)
        self.repaired += self.take(trades)
        for trade in self.pending[held:]:
            number, last = trade.agg_trade_id, self.fills[-1] if self.fills else None
            waited_ms = 0 if filled_s is None else round(1000 * (filled_s - self._seen_by(number, ends, filled_s)))
            if last is not None and last.last_id + 1 == number and last.hole == hole:
                last.last_id, last.until_ms, last.waited_ms = number, trade.time_ms, waited_ms
            else:
                self.fills.append(Fill(number, number, trade.time_ms, trade.time_ms, hole, waited_ms))

    def _seen_by(self, number: int, ends: Sequence[int], now_s: float) -> float:
        """Return when the hole of an id was first seen; `ends` are those of all holes that were, in order."""
        place = bisect_left(ends, number)
        return self._seen_s[ends[place]] if place < len(ends) else now_s
