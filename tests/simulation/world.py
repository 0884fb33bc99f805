"""One seed is one day: an exchange, a network, a store and the faults of all three, in virtual time.

The collector under test is the real core; what drives it here is a list of events instead of sockets. Faults stop
before the day's end, so that everything that can be repaired must be.
"""

import bisect
import heapq
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import msgspec

from trading.market.instrument import Instrument
from trading.market.trade import AggTrade
from trading.stream.collector import CollectorCore, Compile, Quarantine
from trading.stream.connections import Connect, Disconnect
from trading.stream.contiguity import IdRange
from trading.stream.repair import FOREVER_MS, Fetch

START_MS = 1_760_054_400_000
DAY_S = 86_400.0
CALM_S = 3_600.0
KEPT_S = 3_600.0
MOST_PENDING = 30
SYMBOLS = ("BTCUSDT", "币安人生USDT")
INSTRUMENTS = {name: Instrument("sim", name, name[:-4], "USDT", 2, 3) for name in SYMBOLS}


class Broken(AssertionError):
    """An invariant does not hold."""


@dataclass
class Journal:
    """What a crash leaves: trades by id, the ledger's ranges, and what was acknowledged."""

    trades: dict[str, dict[int, AggTrade]] = field(default_factory=lambda: {name: {} for name in SYMBOLS})
    ledgers: dict[str, list[IdRange]] = field(default_factory=dict)
    filled: dict[str, set[int]] = field(default_factory=lambda: {name: set() for name in SYMBOLS})
    acknowledged: dict[str, set[int]] = field(default_factory=lambda: {name: set() for name in SYMBOLS})


@dataclass
class Wire:
    """The exchange's side of one connection."""

    open: bool = True
    dead: bool = False
    """Half-open: nothing arrives any more and nobody says so."""
    stalled: set[str] = field(default_factory=set)
    missed: dict[str, float] = field(default_factory=dict)
    """When it first failed to deliver a trade, by symbol."""
    last_s: float = 0.0
    there: list[tuple[bytes, str, int]] = field(default_factory=list)
    """Frames that have come and are handed on as soon as the collector has time: frame, symbol, id."""


class World:
    """A day of one seed; `run` raises `Broken` when an invariant does not hold."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now_s = 0.0
        self.source: dict[str, list[AggTrade]] = {name: [] for name in SYMBOLS}
        self.never: dict[str, set[int]] = {name: set() for name in SYMBOLS}
        self.journal = Journal()
        self.core: CollectorCore | None = None
        self.life = 0
        self.wires: dict[tuple[int, int], Wire] = {}
        self.connects: list[float] = []
        self.refusing_until_s = self.rest_down_until_s = self.store_behind_until_s = -1.0
        self.faulty = True
        self.counts = {"crashes": 0, "fetches": 0, "frames": 0}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0
        odds = self.random.choice([0.0, 0.01, 0.1])
        self.drop, self.twice, self.late, self.garble = (self.random.random() * odds for _ in range(4))
        self.rest_fails = self.random.choice([0.0, 0.05, 0.5])
        self.rest_skips = self.random.choice([0.0, 0.1])
        self.skipped: dict[str, bool] = dict.fromkeys(SYMBOLS, False)
        self.lag_s = self.random.choice([0.0, 0.9])
        self.planned = seed % 5 == 0
        """Nothing fails; connections only end as the exchange announced."""
        if self.planned:
            self.drop = self.twice = self.late = self.garble = self.rest_fails = self.rest_skips = 0.0
            self.faulty = False
        self.delivered: dict[str, set[int]] = {name: set() for name in SYMBOLS}
        self.anew_s: dict[str, float] = dict.fromkeys(SYMBOLS, DAY_S)
        """From when on a symbol's ids are counted anew; the exchange then knows none of the earlier ones."""
        if not self.planned and self.random.random() < 0.2:
            self.anew_s[self.random.choice(SYMBOLS)] = (0.5 + 0.4 * self.random.random()) * DAY_S
        self.verified: dict[tuple[str, int], tuple[int, int]] = {}

    # -- events ------------------------------------------------------------------------------------------------------

    def after(self, pause_s: float, happens: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (self.now_s + pause_s, self._number, happens))

    def run(self) -> None:
        self._plan()
        # Begun later, the collector has a past to fetch while its stream brings what is new.
        self.after(0.0 if self.planned else self.random.choice([0.0, 0.0, 7200.0]), self._boot)
        while self._events:
            self.now_s, _, happens = heapq.heappop(self._events)
            if self.now_s > DAY_S:
                break
            happens()
            self._carry_out()
        self._check_the_end()

    def _plan(self) -> None:
        for symbol in SYMBOLS:
            at, number, busy = self.random.random() * 600, self.random.randrange(1, 1000), True
            anew_s, highest = self.anew_s[symbol], 10**9
            while at < DAY_S - CALM_S / 2 and number < highest:
                if at >= anew_s:
                    anew_s, highest, number = DAY_S, number - 20, self.random.choice([0, 0, 500])
                for _ in range(self.random.randrange(1, 12)):
                    if self.random.random() < 0.002:
                        skipped = self.random.randrange(1, 4)
                        self.never[symbol] |= set(range(number, number + skipped))
                        number += skipped
                    self._plan_trade(symbol, number, at)
                    number += 1
                    at += self.random.choice([0.0, 0.001, 0.02, 0.4, 2.0])
                busy = busy ^ (self.random.random() < 0.05)
                at += self.random.expovariate(1 / 20 if busy else 1 / 1200)
        for _ in range(self.random.randrange(0, 30)):
            at = self.random.random() * (DAY_S - CALM_S)
            if self.planned or self.random.random() < 0.5:
                # Just before a trade, where whatever fails loses something.
                later = [moment for moment, _, _ in self._events if moment >= at]
                # The next one of a thin market may come in the calm, which has no faults.
                at = max(0.0, min([*later, DAY_S - CALM_S]) - 1.5 * self.random.random())
            self._plan_fault(at)
        self._at(DAY_S - CALM_S, self._calm)
        for _ in range(0 if self.planned else 4):
            self._at(DAY_S - CALM_S * (0.5 + self.random.random() / 2), self._cut)

    def _plan_trade(self, symbol: str, number: int, at: float) -> None:
        self._at(at, lambda: self._trade(symbol, number))

    def _plan_fault(self, at: float) -> None:
        faults = [self._crash, self._cut, self._half_open, self._stall, self._refuse, self._rest_down, self._shut_down]
        faults.append(self._store_behind)
        self._at(at, self._shut_down if self.planned else self.random.choice(faults))

    def _at(self, moment_s: float, happens: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._events, (moment_s, self._number, happens))

    # -- exchange ----------------------------------------------------------------------------------------------------

    @property
    def exchange_ms(self) -> int:
        return START_MS + int(self.now_s * 1000)

    def _trade(self, symbol: str, number: int) -> None:
        trade = AggTrade(
            number, 100 + number, 1 + number, 2 * number, 2 * number + 1, self.exchange_ms, number % 2 == 0
        )
        self.source[symbol].append(trade)
        for key, wire in self.wires.items():
            if wire.dead or symbol in wire.stalled:
                self._miss(wire, symbol)
            elif wire.open:
                self._send(key, wire, symbol, trade)

    def _send(self, key: tuple[int, int], wire: Wire, symbol: str, trade: AggTrade) -> None:
        chance = self.random.random
        if self.faulty and chance() < self.drop:
            return
        frame = _frame(symbol, trade)
        if self.faulty and chance() < self.garble:
            frame = frame[: self.random.randrange(len(frame))]
        arrives_s = max(wire.last_s, self.now_s + 0.02 + 0.1 * chance())
        wire.last_s = arrives_s
        if self.faulty and chance() < self.late:
            arrives_s += self.random.choice([0.05, 0.4, 3.0])
        for _ in range(2 if self.faulty and chance() < self.twice else 1):
            self.after(arrives_s - self.now_s, lambda: self._arrive(key, wire, frame, symbol, trade.agg_trade_id))

    def _arrive(self, key: tuple[int, int], wire: Wire, frame: bytes, symbol: str, number: int) -> None:
        if key[0] == self.life and self.core is not None and not wire.dead and wire.open:
            self.counts["frames"] += 1
            wire.there.append((frame, symbol, number))
            if len(wire.there) == 1:
                self.after(self.random.choice([0.0, 0.0, 0.02, 0.5]), lambda: self._hand_on(key, wire))

    def _hand_on(self, key: tuple[int, int], wire: Wire) -> None:
        there, wire.there = wire.there, []
        if there and key[0] == self.life and self.core is not None:
            full = self.core.pending >= MOST_PENDING
            self.core.received(key[1], [frame for frame, _, _ in there], self.now_s)
            if full and not any(isinstance(c, Disconnect) for c in self.core.waiting) and key in self.wires:
                raise Broken(f"{there[0][1:]} is dropped, and its connection is kept")
            for _, symbol, number in there:
                self.delivered[symbol].add(number)

    def _answer(self, life: int, fetch: Fetch, asked_ms: int, refused: bool) -> None:
        if life != self.life or self.core is None:
            return
        if refused:
            self.core.refused(fetch, self.now_s, self.random.choice([0.0, 0.0, 30.0]))
            return
        seen_ms = self.exchange_ms - int(self.lag_s * 1000 * self.random.random())
        source = self._known(fetch.symbol, seen_ms)
        end = bisect.bisect_right(source, seen_ms, key=lambda trade: trade.time_ms)
        if fetch.from_id is not None:
            start = bisect.bisect_left(source, fetch.from_id, key=lambda trade: trade.agg_trade_id)
        else:
            start = bisect.bisect_left(source, fetch.since_ms, key=lambda trade: trade.time_ms)
        page = source[start : max(start, min(end, start + fetch.limit))]
        # A server that is not up to date leaves trades out, but not twice in turn.
        skips = self.faulty and not self.skipped[fetch.symbol] and self.random.random() < self.rest_skips
        self.skipped[fetch.symbol] = skips
        self.core.fetched(fetch, asked_ms, page[self.random.randrange(1, 4) :] if skips else page, self.now_s)

    def _known(self, symbol: str, seen_ms: int) -> list[AggTrade]:
        """Return the trades of which REST can speak: those before ids began anew, or those since."""
        source = self.source[symbol]
        anew_ms = START_MS + int(self.anew_s[symbol] * 1000)
        place = bisect.bisect_left(source, anew_ms, key=lambda trade: trade.time_ms)
        return source[:place] if seen_ms < anew_ms else source[place:]

    def _anew(self, symbol: str) -> bool:
        return self.now_s >= self.anew_s[symbol]

    # -- process -----------------------------------------------------------------------------------------------------

    def _boot(self) -> None:
        if self.core is not None:
            return  # it crashed twice before it was started again
        self.life += 1
        self.core = CollectorCore(
            INSTRUMENTS,
            self.journal.ledgers,
            dict.fromkeys(INSTRUMENTS, (START_MS, FOREVER_MS)),
            self.random.uniform,
            MOST_PENDING,
            scan_from=1,
        )
        self.core.scanner.compile()
        self._tick(self.life)
        self._flush(self.life)

    def _turn(self, life: int) -> None:
        if life == self.life and self.core is not None:
            self.core.tick(self.now_s)

    def _tick(self, life: int) -> None:
        if life == self.life and self.core is not None:
            self.core.tick(self.now_s)
            restless = not all(stream.settled for stream in self.core.streams.values()) or len(self.wires) != 1
            self.after(0.5 if restless else 15.0, lambda: self._tick(life))

    def _flush(self, life: int) -> None:
        if life == self.life and self.core is not None:
            if self.now_s >= self.store_behind_until_s:
                self.store()
            self.after(1.0 if self.core.pending or self.random.random() < 0.5 else 7.0, lambda: self._flush(life))

    def store(self) -> None:
        assert self.core is not None
        pending = self.core.take_pending()
        for symbol, fills in pending.fills.items():
            self.journal.filled[symbol] |= {n for fill in fills for n in range(fill.first_id, fill.last_id + 1)}
        for symbol, trades in pending.trades.items():
            for trade in trades:
                if trade.agg_trade_id in self.journal.trades[symbol]:
                    raise Broken(f"{symbol} {trade.agg_trade_id} is stored twice")
                number = trade.agg_trade_id
                if number not in self.delivered[symbol] and number not in self.journal.filled[symbol]:
                    raise Broken(f"{symbol} {trade.agg_trade_id} came over REST, and nothing says so")
                self.journal.trades[symbol][trade.agg_trade_id] = trade
                self.journal.acknowledged[symbol].add(trade.agg_trade_id)
        self.journal.ledgers = {
            name: [msgspec.structs.replace(r) for r in ranges] for name, ranges in pending.ledgers.items()
        }
        self._check_new_proofs()

    def _carry_out(self) -> None:
        if self.core is None:
            return
        life = self.life
        for command in self.core.commands():
            match command:
                case Connect(number):
                    self._connect(life, number)
                case Disconnect(number, _):
                    self.wires.pop((life, number), None)
                case Fetch():
                    self._fetch(life, command)
                case Quarantine() | Compile():
                    pass

    def _connect(self, life: int, number: int) -> None:
        self.connects.append(self.now_s)
        fails = self.now_s < self.refusing_until_s or (self.faulty and self.random.random() < 0.05)
        opens_s = 0.05 + 0.5 * self.random.random()

        def opened() -> None:
            if life != self.life or self.core is None:
                return
            if fails:
                self.core.disconnected(number, self.now_s)
                return
            self.wires[life, number] = Wire()
            self.core.connected(number, self.now_s)
            if self.now_s > DAY_S - CALM_S + 60:
                end_ms = self.exchange_ms
                for half_seconds in range(20):  # a collector at rest is not ticked as often as a real one
                    self.after(0.5 * half_seconds, lambda: self._turn(life))
                self.after(10.0, lambda: self._check_caught_up(end_ms))

        self.after(opens_s if not fails else self.random.choice([0.1, 10.0]), opened)

    def _fetch(self, life: int, fetch: Fetch) -> None:
        self.counts["fetches"] += 1
        refused = self.now_s < self.rest_down_until_s or (self.faulty and self.random.random() < self.rest_fails)
        asked_ms = self.exchange_ms
        slow = self.faulty and self.random.random() < 0.2
        pause_s = 15.0 if refused and slow else 0.02 + (3.0 if slow else 0.3) * self.random.random()
        self.after(pause_s, lambda: self._answer(life, fetch, asked_ms, refused))

    # -- faults ------------------------------------------------------------------------------------------------------

    def _crash(self) -> None:
        self.counts["crashes"] += 1
        self.life += 1
        self.core = None
        self.wires.clear()
        self.check_proofs()
        self.after(self.random.choice([0.5, 5.0, 600.0]), self._boot)

    def _cut(self) -> None:
        self._end(list(self.wires))

    def _end(self, ending: list[tuple[int, int]]) -> None:
        for key in ending:
            if (wire := self.wires.pop(key, None)) is not None and self.core is not None:
                self._hand_on(key, wire)
                self.core.disconnected(key[1], self.now_s)

    def _half_open(self) -> None:
        for wire in self.wires.values():
            wire.dead = True

    def _stall(self) -> None:
        for wire in self.wires.values():
            wire.stalled.add(self.random.choice(SYMBOLS))

    def _refuse(self) -> None:
        self.refusing_until_s = self.now_s + self.random.choice([3.0, 60.0, 900.0])
        self._cut()

    def _rest_down(self) -> None:
        self.rest_down_until_s = self.now_s + self.random.choice([3.0, 60.0, 900.0])

    def _store_behind(self) -> None:
        self.store_behind_until_s = self.now_s + self.random.choice([3.0, 60.0, 900.0])

    def _shut_down(self) -> None:
        for _, number in self.wires:
            if self.core is not None:
                self.core.shutting_down(number, self.now_s)
        ending = list(self.wires)
        self.after(30.0 if self.planned else self.random.choice([0.1, 2.0, 30.0]), lambda: self._end(ending))

    def _calm(self) -> None:
        self.faulty = False
        self.refusing_until_s = self.rest_down_until_s = self.store_behind_until_s = -1.0

    # -- invariants --------------------------------------------------------------------------------------------------

    def _check_new_proofs(self) -> None:
        """Every moment that is newly proven has all its trades in the journal."""
        for symbol, ranges in self.journal.ledgers.items():
            source, held = self.source[symbol], self.journal.trades[symbol]
            for claim in ranges:
                lo, hi = claim.proven_from_ms, claim.proven_until_ms
                seen_lo, seen_hi = self.verified.get((symbol, claim.first_id), (lo, lo))
                for start, end in ((lo, min(hi, seen_lo)), (max(lo, seen_hi), hi)):
                    first = bisect.bisect_left(source, start, key=lambda trade: trade.time_ms)
                    last = bisect.bisect_left(source, end, key=lambda trade: trade.time_ms)
                    for trade in source[first:last]:
                        if held.get(trade.agg_trade_id) != trade:
                            raise Broken(f"{symbol} {trade.agg_trade_id} lies in a proven moment and is not held")
                self.verified[symbol, claim.first_id] = (min(lo, seen_lo), max(hi, seen_hi))

    def _check_caught_up(self, end_ms: int) -> None:
        """Ten seconds after a connection in calm, nothing from before it is missing."""
        if self.core is None:
            return
        for symbol in SYMBOLS:
            for trade in () if self._anew(symbol) else self.source[symbol]:
                if trade.time_ms < end_ms and not self.core.streams[symbol].ledger.holds(trade.agg_trade_id):
                    raise Broken(f"{symbol} {trade.agg_trade_id} is still missing 10 s after a new connection")

    def check_proofs(self) -> None:
        """Every proven moment of the journal has all its trades, and nothing acknowledged is lost."""
        for symbol, ranges in self.journal.ledgers.items():
            held = self.journal.trades[symbol]
            if not self.journal.acknowledged[symbol] <= held.keys():
                raise Broken(f"{symbol} lost acknowledged trades")
            for trade in self.source[symbol]:
                proven = any(r.proven_from_ms <= trade.time_ms < r.proven_until_ms for r in ranges)
                if proven and held.get(trade.agg_trade_id) != trade:
                    raise Broken(f"{symbol} {trade.agg_trade_id} lies in a proven moment and is not held")
            claimed = sum(r.last_id - r.first_id + 1 for r in ranges)
            if claimed != len(held):
                raise Broken(f"{symbol} claims {claimed} ids and holds {len(held)}")

    def _check_the_end(self) -> None:
        assert self.core is not None
        self.store()
        self.check_proofs()
        for symbol in SYMBOLS:
            if self._anew(symbol):
                continue
            held, source = self.journal.trades[symbol], self.source[symbol]
            lost = [t.agg_trade_id for t in source if t.agg_trade_id not in held]
            if lost:
                raise Broken(f"{symbol} lacks {lost[:5]} of {len(source)} at the end of the day")
            ledger = self.core.streams[symbol].ledger
            named = {number for first, last in ledger.holes() for number in range(first, last + 1)}
            inner = {n for n in self.never[symbol] if source and source[0].agg_trade_id < n < source[-1].agg_trade_id}
            if named != inner:
                raise Broken(f"{symbol} names {sorted(named ^ inner)[:5]} wrongly as missing")
            if ledger.open_holes():
                raise Broken(f"{symbol} still asks for {ledger.open_holes()}")
            if source and ledger.ranges[0].proven_from_ms != START_MS:
                raise Broken(f"{symbol} is not proven from the start")
            if self.planned and (lost := {t.agg_trade_id for t in source[1:]} - self.delivered[symbol]):
                raise Broken(f"{symbol} {min(lost)} was not delivered, although nothing failed")
        if not self.wires:
            raise Broken("nothing is connected, half an hour after the last fault")
        for longest_s, most in ((60.0, 20), (300.0, 40)):
            for place, moment in enumerate(self.connects[:-most]):
                if self.connects[place + most] - moment < longest_s:
                    raise Broken(f"the exchange saw {most} connections in {longest_s} seconds")

    def _miss(self, wire: Wire, symbol: str) -> None:
        """No connection is kept that has not delivered for an hour while REST could tell."""
        if self._anew(symbol):
            return
        missed_s = max(wire.missed.setdefault(symbol, self.now_s), self.rest_down_until_s, self.store_behind_until_s)
        if self.now_s - missed_s > KEPT_S:
            raise Broken(f"a connection has not delivered {symbol} for an hour, and is kept")


def _frame(symbol: str, trade: AggTrade) -> bytes:
    event = {
        "e": "aggTrade",
        "E": trade.time_ms + 1,
        "s": symbol,
        "a": trade.agg_trade_id,
        "p": INSTRUMENTS[symbol].price_text(trade.price),
        "q": INSTRUMENTS[symbol].quantity_text(trade.quantity),
        "f": trade.first_trade_id,
        "l": trade.last_trade_id,
        "T": trade.time_ms,
        "m": trade.buyer_is_maker,
        "M": True,
    }
    return json.dumps(
        {"stream": f"{symbol.lower()}@aggTrade", "data": event}, ensure_ascii=False, separators=(",", ":")
    ).encode()
