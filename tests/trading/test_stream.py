"""The ledger proves what it claims, and frames that are no trades are refused by reason."""

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trading.market.instrument import Instrument
from trading.market.trade import AggTrade
from trading.stream.backoff import HEALTHY_S, LONGEST_S, Backoff
from trading.stream.contiguity import Arrival, Ledger, missing_ids
from trading.stream.supervision import Launch, Situation, Terminate, Wait, Wish, supervise
from trading.stream.wire import BadFrame, decode

BTC = {"BTCUSDT": Instrument("sim", "BTCUSDT", "BTC", "USDT", 2, 5)}
T0 = 1_700_000_000_000


def trade(number: int) -> AggTrade:
    return AggTrade(number, 100, 1, number, number, T0 + number * 10, False)


@given(st.permutations(range(40)), st.sets(st.integers(0, 39)))
@settings(max_examples=200)
def test_ranges_are_exactly_the_ids_taken_in_any_order(order: list[int], dropped: set[int]) -> None:
    ledger, kept = Ledger(), [n for n in order if n not in dropped]
    for number in kept + kept[:7]:
        ledger.take(trade(number))
    claimed = [n for r in ledger.ranges for n in range(r.first_id, r.last_id + 1)]
    assert claimed == sorted(kept)
    inside = {n for n in dropped if kept and min(kept) < n < max(kept)}
    assert {n for first, last in ledger.holes() for n in range(first, last + 1)} == inside


@given(st.permutations(range(1, 30)))
def test_what_is_proven_grows_together_when_holes_are_filled(order: list[int]) -> None:
    ledger = Ledger()
    ledger.open(0, T0)
    for number in [0, *order]:
        ledger.take(trade(number))
    (held,) = ledger.ranges
    assert (held.first_id, held.last_id, held.proven_from_ms) == (0, 29, T0)
    assert held.proven_until_ms == trade(29).time_ms


@given(st.integers(0, 19), st.integers(0, 19))
def test_a_lost_stretch_is_a_hole_until_it_is_held_again(a: int, b: int) -> None:
    first, last = min(a, b), max(a, b)
    ledger = Ledger()
    ledger.open(0, T0)
    for number in range(20):
        ledger.take(trade(number))
    ledger.confirm(T0 + 5_000)
    before = [(r.first_id, r.last_id, r.proven_from_ms, r.proven_until_ms) for r in ledger.ranges]
    ledger.forget(first, last)
    assert not any(ledger.holds(n) for n in range(first, last + 1))
    for number in range(first, last + 1):
        ledger.take(trade(number))
    ledger.confirm(T0 + 5_000)
    assert [(r.first_id, r.last_id, r.proven_from_ms, r.proven_until_ms) for r in ledger.ranges] == before


def test_a_jump_is_a_hole_and_a_repeat_is_known() -> None:
    ledger = Ledger()
    ledger.take(trade(5))
    assert ledger.arrival(trade(5)) is Arrival.KNOWN
    assert ledger.arrival(trade(6)) is Arrival.NEW
    assert ledger.arrival(trade(9)) is Arrival.AFTER_HOLE


@given(st.sets(st.integers(0, 30)))
def test_ids_that_are_claimed_and_not_held_are_named(held: set[int]) -> None:
    ledger = Ledger()
    for number in range(31):
        ledger.take(trade(number))
    named = {n for first, last in missing_ids(ledger.ranges, sorted(held)) for n in range(first, last + 1)}
    assert named == set(range(31)) - held


def frame(**changed: Any) -> str:
    event = {"e": "aggTrade", "E": T0, "s": "BTCUSDT", "a": 7, "p": "60000.10", "q": "0.00100", "f": 3, "l": 4, "T": T0}
    event |= {"m": True, "M": True} | changed
    return json.dumps({"stream": "btcusdt@aggTrade", "data": {k: v for k, v in event.items() if v is not ...}})


def test_a_trade_is_read_exactly() -> None:
    assert decode(frame(), BTC, 0) == ("BTCUSDT", AggTrade(7, 6_000_010, 100, 3, 4, T0, True))


def test_new_fields_of_the_exchange_pass() -> None:
    assert decode(frame(nq="1", st=2), BTC, 0) is not None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not_json"),
        ("[]", "not_json"),
        ("null", "not_json"),
        (frame()[:40], "not_json"),
        ("[" * 100_000, "not_json"),
        ("{}", "no_event"),
        (frame(a=...), "bad_ids"),
        (frame(a=-1), "bad_ids"),
        (frame(a=1.5), "not_json"),
        (frame(a="7"), "not_json"),
        (frame(a=2**63), "bad_ids"),
        (frame(f=5), "bad_ids"),
        (frame(m=...), "bad_ids"),
        (frame(p="NaN"), "bad_number"),
        (frame(p="Infinity"), "bad_number"),
        (frame(p="1e999"), "bad_number"),
        (frame(p=""), "bad_number"),
        (frame(p="abc"), "bad_number"),
        (frame(p="0"), "bad_number"),
        (frame(p="-1"), "bad_number"),
        (frame(p="1.001"), "bad_number"),
        (frame(p="1" * 30), "bad_number"),
        (frame(T=0), "bad_time"),
        (frame(T=T0 * 1000), "bad_time"),
        (frame(T=T0 // 1000), "bad_time"),
        (frame(T=T0 + 86_400_000), "future_time"),
        (frame(e="trade"), "unknown_event"),
        (frame(s="btcusdt"), "unknown_symbol"),
        (frame(s="../../etc"), "unknown_symbol"),
    ],
)
def test_a_frame_that_is_no_trade_is_refused_by_reason(text: str, reason: str) -> None:
    with pytest.raises(BadFrame) as refused:
        decode(text, BTC, T0)
    assert refused.value.reason == reason


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(BadFrame):
        decode(b'{"stream":"\xff\xfe"}', BTC, T0)


def test_the_answer_to_a_command_is_no_trade() -> None:
    assert decode('{"result":null,"id":1}', BTC, 0) is None


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_decoder(content: bytes) -> None:
    try:
        decode(content, BTC, T0)
    except BadFrame:
        return


def test_pauses_grow_to_a_minute_and_begin_anew_after_a_healthy_connection() -> None:
    backoff = Backoff(random.Random(1).uniform)
    pauses = [backoff.pause_s(0) for _ in range(200)]
    assert max(pauses) <= LONGEST_S
    assert max(pauses[10:]) > LONGEST_S / 2
    assert backoff.pause_s(HEALTHY_S) <= 1.0


@pytest.mark.parametrize(
    ("situation", "expected"),
    [
        (Situation(Wish.RUNNING, False, False, 0, None, 0, 600), Launch),
        (Situation(Wish.RUNNING, False, False, 0, 1, 1, 0.1), Launch),
        (Situation(Wish.RUNNING, False, False, 0, 1, 5, 0.1), Wait),
        (Situation(Wish.RUNNING, False, False, 0, 1, 5, 30), Launch),
        (Situation(Wish.STOPPED, False, False, 0, 1, 0, 600), Wait),
        (Situation(Wish.RUNNING, True, False, 0, None, 0, 600), Wait),
        (Situation(Wish.RUNNING, True, True, 100, 1, 0, 600), Wait),
        (Situation(Wish.RUNNING, True, True, 100, 99, 0, 600), Terminate),
        (Situation(Wish.RUNNING, True, True, 5, 99, 0, 600), Wait),
        (Situation(Wish.RUNNING, True, True, 100, None, 0, 600), Terminate),
    ],
)
def test_the_supervisor_does_what_the_situation_asks(situation: Situation, expected: type) -> None:
    assert isinstance(supervise(situation), expected)
