"""Whatever is lost, damaged, late or dies: no time is called unproven in which a trade that happened is not kept."""

import json
from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from trading.market.identified import IdentifiedTrade
from trading.market.instrument import Instrument
from trading.stream import bybit, hyperliquid
from trading.stream.bybit import DIALECT
from trading.stream.hyperliquid import perpetual
from trading.stream.identities import Identities, Stretch
from trading.stream.identity_core import QUARANTINED, IdentityCore
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


class BybitWorld(RuleBasedStateMachine):
    """A market of one symbol, connections that bring its trades by and by, a list that trails, a store, deaths."""

    dialect, instrument, frame = bybit.DIALECT, BTC, staticmethod(bybit_frame)

    def __init__(self) -> None:
        super().__init__()
        self.market: list[IdentifiedTrade] = []
        self.lines: dict[int, list[list[IdentifiedTrade]]] = {}
        self.kept: dict[str, IdentifiedTrade] = {}
        self.stretches: list[Stretch] = []
        self.number = 0
        self._begin()

    def _begin(self) -> None:
        held = Identities.held(self.stretches, sorted(self.kept.values(), key=lambda t: t.time_ms))
        self.core = IdentityCore(self.dialect, {"BTC": self.instrument}, {"BTC": held})

    @rule(gap=st.integers(0, 2), size=st.integers(1, 3))
    def happen(self, gap: int, size: int) -> None:
        at = (self.market[-1].time_ms if self.market else START_MS) + gap
        quantity = 10 ** (self.instrument.quantity_decimals - 3)
        price = 10 ** (self.instrument.price_decimals + 1)
        came = [IdentifiedTrade(str(len(self.market) + n), price, quantity, at + n // 2, False) for n in range(size)]
        self.market += came
        for line in self.lines.values():
            line.append(came)

    @precondition(lambda self: len(self.lines) < 2)
    @rule(reach=st.integers(0, 6))
    def connect(self, reach: int) -> None:
        self.number += 1
        self.core.connected(self.number)
        recent = self.market[max(0, len(self.market) - reach) :] if self.dialect.begins_with_list else []
        self.lines[self.number] = [recent] if recent else []

    @precondition(lambda self: self.lines)
    @rule(which=st.integers(0, 1), count=st.integers(1, 3))
    def deliver(self, which: int, count: int) -> None:
        number = list(self.lines)[which % len(self.lines)]
        for came in self.lines[number][:count]:
            assert self.core.received(number, self.frame(came), 0.0) == set()
        del self.lines[number][:count]

    @precondition(lambda self: any(self.lines.values()))
    @rule(which=st.integers(0, 1), cut=st.integers(1, 30))
    def damage(self, which: int, cut: int) -> None:
        number = list(self.lines)[which % len(self.lines)]
        if self.lines[number]:
            assert self.core.received(number, self.frame(self.lines[number].pop(0))[:-cut], 0.0) == {"BTC"}

    @precondition(lambda self: self.lines)
    @rule(which=st.integers(0, 1))
    def lose(self, which: int) -> None:
        number = list(self.lines)[which % len(self.lines)]
        del self.lines[number]
        self.core.disconnected(number)

    @precondition(lambda self: len(self.lines) == 2)
    @rule()
    def replace(self) -> None:
        old, young = self.lines
        if self.core.whole(young):
            self.deliver(0, len(self.lines[old]))
            del self.lines[old]
            self.core.disconnected(old, replaced=True)

    @precondition(lambda self: self.lines)
    @rule(reach=st.integers(0, 8), behind=st.integers(0, 3))
    def ask(self, reach: int, behind: int) -> None:
        until = max(0, len(self.market) - behind)
        self.core.take_list("BTC", self.market[max(0, until - reach) : until], 0.0)

    @rule()
    def store(self) -> None:
        seen = self.core.take_seen()["BTC"]
        assert not {t.trade_id for t in seen.trades} & self.kept.keys()
        assert max(Counter(t.trade_id for t in seen.trades).values(), default=1) == 1
        self.kept |= {t.trade_id: t for t in seen.trades}
        self.stretches = seen.stretches

    @rule()
    def die(self) -> None:
        self.lines.clear()
        self._begin()

    @invariant()
    def nothing_is_claimed_that_is_not_so(self) -> None:
        assert all(self.market[int(name)] == trade for name, trade in self.kept.items())
        partly = {self.stretches[0].from_ms, self.stretches[-1].until_ms - 1} if self.stretches else set[int]()
        for stretch in self.stretches:
            happened = [t for t in self.market if stretch.from_ms <= t.time_ms < stretch.until_ms]
            for trade in happened:
                assert stretch.state == "missing" or trade.trade_id in self.kept or trade.time_ms in partly


class HyperliquidWorld(BybitWorld):
    """The same of a venue whose subscriptions begin with recent trades."""

    dialect, instrument, frame = hyperliquid.DIALECT, perpetual("BTC", 5), staticmethod(hyperliquid_frame)


@pytest.mark.parametrize("world", [BybitWorld, HyperliquidWorld])
def test_no_time_is_called_unproven_in_which_a_trade_lacks(world: Any) -> None:
    case = world.TestCase
    case.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
    case().runTest()


def test_a_market_that_stood_still_for_an_hour_goes_on() -> None:
    core = IdentityCore(DIALECT, {"BTC": BTC}, {"BTC": Identities()})
    core.connected(1)
    trade = IdentifiedTrade("1", 100, 1, START_MS, False)
    core.received(1, bybit_frame([trade]), 10.0)
    late = msgspec.structs.replace(trade, trade_id="2", time_ms=START_MS + 3_600_000)
    assert core.received(1, bybit_frame([late]), 11.0) == {"BTC"}  # an hour ahead of the clock
    assert core.bad_frames == {"future_time": 1}
    assert core.received(1, bybit_frame([late]), 3_610.0) == set()
    assert [t.trade_id for t in core.take_seen()["BTC"].trades] == ["1", "2"]


def test_of_a_flood_of_bad_frames_the_first_are_kept_and_a_refusal_is_raised() -> None:
    core = IdentityCore(DIALECT, {"BTC": BTC}, {"BTC": Identities()})
    core.connected(1)
    for _ in range(QUARANTINED + 50):
        assert core.received(1, b"\xff" * 9000, 0.0) == {"BTC"}
    assert core.bad_frames.total() == QUARANTINED + 50
    kept = core.take_bad()
    assert (len(kept), {len(frame) for _, _, frame in kept}, core.take_bad()) == (QUARANTINED, {4096}, [])
    with pytest.raises(BadFrame, match="Invalid topic"):
        core.received(1, b'{"success":false,"ret_msg":"Invalid topic","op":"subscribe"}', 0.0)
