"""Whatever is lost, damaged, late or dies: no time is called unproven in which a trade that happened is not kept."""

import json
import random
from collections.abc import Callable

import msgspec
import pytest

from trading.market.identified import IdentifiedTrade
from trading.market.instrument import Instrument
from trading.stream import bybit, hyperliquid
from trading.stream.hyperliquid import perpetual
from trading.stream.identities import Identities, Stretch
from trading.stream.identity_core import QUARANTINED, IdentityCore
from trading.stream.venue import Dialect
from trading.stream.wire import BadFrame

START_MS = 1_700_000_000_000
BTC = Instrument("bybit", "BTC", "BTC", "USDT", 1, 3, "linear")


def bybit_frame(trades: list[IdentifiedTrade]) -> bytes:
    rows = [{"T": t.time_ms, "s": "BTC", "S": "Buy", "v": "0.001", "p": "10.0", "i": t.trade_id} for t in trades]
    return json.dumps({"topic": "publicTrade.BTC", "type": "snapshot", "ts": START_MS, "data": rows}).encode()


def hyperliquid_frame(trades: list[IdentifiedTrade]) -> bytes:
    rows = [{"coin": "BTC", "side": "B", "px": "10.0", "sz": "0.001", "time": t.time_ms} for t in trades]
    rows = [row | {"tid": int(t.trade_id)} for row, t in zip(rows, trades, strict=True)]
    return json.dumps({"channel": "trades", "data": rows}).encode()


class World:
    """A market of one symbol, a connection that brings its trades by and by, lists that trail, a store, deaths."""

    def __init__(self, dialect: Dialect, seed: int) -> None:
        self.dialect, self.chance = dialect, random.Random(seed)
        self.begins_with_list = dialect is hyperliquid.DIALECT
        self.instrument, self.frame = FORMS[self.begins_with_list]
        self.market: list[IdentifiedTrade] = []
        self.line: list[list[IdentifiedTrade]] | None = None
        self.kept: dict[str, IdentifiedTrade] = {}
        self.stretches: list[Stretch] = []
        self.begin()

    def begin(self) -> None:
        held = Identities.held(self.stretches, sorted(self.kept.values(), key=lambda t: t.time_ms))
        self.core = IdentityCore(self.dialect, {"BTC": self.instrument}, {"BTC": held})

    def happen(self) -> None:
        at = (self.market[-1].time_ms if self.market else START_MS) + self.chance.choice((0, 1, 1, 2))
        price, quantity = 10 ** (self.instrument.price_decimals + 1), 10 ** (self.instrument.quantity_decimals - 3)
        size = self.chance.choice((1, 1, 3))
        came = [IdentifiedTrade(str(len(self.market) + n), price, quantity, at + n // 2, False) for n in range(size)]
        self.market += came
        if self.line is not None:
            self.line.append(came)

    def connect(self) -> None:
        if self.line is None:
            self.core.connected()
            recent = self.market[-self.chance.randrange(1, 9) :] if self.begins_with_list else []
            self.line = [recent] if recent else []

    def deliver(self) -> None:
        for _ in range(self.chance.randrange(1, 4)):
            if self.line:
                assert self.core.received(self.frame(self.line.pop(0)), 0.0) == set()

    def damage(self) -> None:
        if self.line:
            damaged = self.frame(self.line.pop(0))[: -self.chance.randrange(1, 30)]
            assert self.core.received(damaged, 0.0) == {"BTC"}

    def lose(self) -> None:
        if self.line is not None:
            self.line = None
            self.core.disconnected()

    def ask(self) -> None:
        if self.line is not None:
            until = max(0, len(self.market) - self.chance.randrange(4))
            self.core.take_list("BTC", self.market[max(0, until - self.chance.randrange(9)) : until], 0.0)

    def store(self) -> None:
        seen = self.core.take_seen()["BTC"]
        assert not {t.trade_id for t in seen.trades} & self.kept.keys()
        assert len({t.trade_id for t in seen.trades}) == len(seen.trades)
        self.kept |= {t.trade_id: t for t in seen.trades}
        self.stretches = seen.stretches
        assert all(self.market[int(name)] == trade for name, trade in self.kept.items())
        partly = {self.stretches[0].from_ms, self.stretches[-1].until_ms - 1} if self.stretches else set[int]()
        for stretch in self.stretches:
            happened = [t for t in self.market if stretch.from_ms <= t.time_ms < stretch.until_ms]
            for trade in happened:
                assert stretch.state == "missing" or trade.trade_id in self.kept or trade.time_ms in partly

    def die(self) -> None:
        self.line = None
        self.begin()


FORMS: dict[bool, tuple[Instrument, Callable[[list[IdentifiedTrade]], bytes]]] = {
    False: (BTC, bybit_frame),
    True: (perpetual("BTC", 5), hyperliquid_frame),
}
WEIGHTS = {
    World.happen: 9,
    World.deliver: 9,
    World.store: 3,
    World.ask: 2,
    World.connect: 2,
    World.lose: 1,
    World.damage: 1,
    World.die: 0.3,
}


@pytest.mark.parametrize("dialect", [bybit.DIALECT, hyperliquid.DIALECT])
def test_no_time_is_called_unproven_in_which_a_trade_lacks(dialect: Dialect) -> None:
    unproven_ms = missing_ms = 0
    for seed in range(150):
        world = World(dialect, seed)
        for does in world.chance.choices(list(WEIGHTS), list(WEIGHTS.values()), k=150):
            does(world)
        world.store()
        unproven_ms += sum(s.until_ms - s.from_ms for s in world.stretches if s.state == "unproven")
        missing_ms += sum(s.until_ms - s.from_ms for s in world.stretches if s.state == "missing")
    print(f"150 seeds: {unproven_ms} ms unproven, {missing_ms} ms missing")
    assert min(unproven_ms, missing_ms) > 1000


def test_a_list_that_shows_what_the_stream_left_out_does_not_make_up_for_what_it_does_not_reach() -> None:
    core = IdentityCore(bybit.DIALECT, {"BTC": BTC}, {"BTC": Identities()})
    core.connected()
    trades = [IdentifiedTrade(str(n), 100, 1, START_MS + 10 * n, False) for n in range(10)]
    core.received(bybit_frame(trades[:3]), 0.0)
    assert core.unheard("BTC", trades[6:9]) == 3
    core.take_list("BTC", trades[6:9], 0.0)  # 3, 4 and 5 came neither way
    core.received(bybit_frame(trades[9:]), 0.0)
    missing = [
        (s.from_ms - START_MS, s.until_ms - START_MS) for s in core.take_seen()["BTC"].stretches if s.state == "missing"
    ]
    assert missing == [(20, 61), (80, 91)]
    assert core.statistics["unheard"] == 3


def test_a_market_that_stood_still_for_an_hour_goes_on() -> None:
    core = IdentityCore(bybit.DIALECT, {"BTC": BTC}, {"BTC": Identities()})
    core.connected()
    trade = IdentifiedTrade("1", 100, 1, START_MS, False)
    core.received(bybit_frame([trade]), 10.0)
    late = msgspec.structs.replace(trade, trade_id="2", time_ms=START_MS + 3_600_000)
    assert core.received(bybit_frame([late]), 11.0) == {"BTC"}  # an hour ahead of the clock
    assert core.bad_frames == {"future_time": 1}
    assert core.received(bybit_frame([late]), 3_610.0) == set()
    assert [t.trade_id for t in core.take_seen()["BTC"].trades] == ["1", "2"]


def test_of_a_flood_of_bad_frames_the_first_are_kept_and_a_refusal_is_raised() -> None:
    core = IdentityCore(bybit.DIALECT, {"BTC": BTC}, {"BTC": Identities()})
    core.connected()
    for _ in range(QUARANTINED + 50):
        assert core.received(b"\xff" * 9000, 0.0) == {"BTC"}
    assert core.bad_frames.total() == QUARANTINED + 50
    kept = core.take_bad()
    assert (len(kept), {len(frame) for _, _, frame in kept}, core.take_bad()) == (QUARANTINED, {4096}, [])
    with pytest.raises(BadFrame, match="Invalid topic"):
        core.received(b'{"success":false,"ret_msg":"Invalid topic","op":"subscribe"}', 0.0)
