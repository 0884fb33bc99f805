"""History and live stream as one: every id once and in order, whatever comes twice, late or never."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trading.market.candle import CANDLE_SCHEMA
from trading.market.trade import TRADE_SCHEMA, AggTrade, trades_frame
from trading.provider.events import (
    LiveEvent,
    UnknownKind,
    frame_of,
    packed,
    require_kinds,
    row_events,
    trade_events,
    unpacked,
)
from trading.provider.seam import PATIENCE_S, BadPosition, Seam, position_text, positions_of


def trade(number: int) -> LiveEvent:
    return LiveEvent("trade", "BTCUSDT", 1_000 * number, number, (number,))


def minute(opened: int, volume: float = 1.0, known_at_ms: int = 9) -> LiveEvent:
    return LiveEvent("bar:1m", "BTCUSDT", opened + 60_000, opened, (opened, volume, known_at_ms))


def ids(events: list[LiveEvent]) -> list[int]:
    return [event.id for event in events]


@given(st.permutations(range(10, 40)), st.lists(st.integers(10, 39)), st.integers(1, 7))
def test_each_trade_is_delivered_once_and_in_order(order: list[int], again: list[int], size: int) -> None:
    seam, delivered = Seam(["trade"], {("BTCUSDT", "trade"): 9}), list[LiveEvent]()
    arriving = [*order, *again]
    for place in range(0, len(arriving), size):
        delivered += seam.take([trade(number) for number in arriving[place : place + size]], 0.0)
    assert ids(delivered) == list(range(10, 40))
    assert seam.skipped == len(again)
    assert seam.holes() == []
    assert seam.positions == {("BTCUSDT", "trade"): 39}


def test_a_hole_is_waited_for_then_told_and_what_comes_later_for_it_is_not_delivered() -> None:
    seam = Seam(["trade"])
    assert ids(seam.take([trade(1), trade(4), trade(5), trade(9)], 0.0)) == [1]
    assert [hole[1:3] for hole in seam.holes()] == [(2, 3)]
    assert seam.take([], PATIENCE_S - 1) == []
    assert ids(seam.take([trade(2)], PATIENCE_S - 1)) == [2], "a hole that shrinks is being filled"
    assert seam.take([], PATIENCE_S + 1) == []
    told = seam.take([], 2 * PATIENCE_S)
    assert [(event.kind, event.id) for event in told] == [("gap", 3), ("trade", 4), ("trade", 5)]
    assert told[0].named() == {
        "kind": "gap",
        "symbol": "BTCUSDT",
        "time_ms": 4_000,
        "id": 3,
        "first_id": 3,
        "last_id": 3,
    }
    assert seam.take([trade(3)], 2 * PATIENCE_S) == []
    assert [hole[1:3] for hole in seam.holes()] == [(6, 8)]


def test_a_bar_that_comes_again_is_told_once_more_only_when_it_says_otherwise() -> None:
    seam = Seam(["bar:1m"])
    assert ids(seam.take([minute(60_000), minute(120_000), minute(60_000), trade(1)], 0.0)) == [60_000, 120_000]
    assert seam.take([minute(120_000, known_at_ms=10)], 0.0) == [], "since when it is known is no other fact"
    (revision,) = seam.take([minute(60_000, 2.0)], 0.0)
    assert (revision.kind, revision.id, revision.payload) == ("revision:1m", 60_000, (60_000, 2.0, 9))
    assert position_text(seam.positions) == "BTCUSDT/bar:1m=120000"


def test_another_stream_goes_on_where_one_ended() -> None:
    first = Seam(["trade", "bar:1m"])
    first.take([trade(7), trade(8), minute(0), minute(60_000)], 0.0)
    second = Seam(["trade", "bar:1m"], positions_of(position_text(first.positions)))
    assert ids(second.take([trade(8), trade(9), minute(60_000), minute(120_000)], 0.0)) == [9, 120_000]


@pytest.mark.parametrize("text", ["BTCUSDT", "BTCUSDT/trade=x", "BTCUSDT/nope=1", "/trade=1", "BTCUSDT/trade=²"])
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(BadPosition, match="is no position"):
        positions_of(text)


def test_a_kind_that_nobody_tells_is_refused_with_those_that_there_are() -> None:
    assert require_kinds(["trade", "bar:1m", "trade"]) == ("trade", "bar:1m")
    with pytest.raises(UnknownKind, match="'bar:2m' is no kind"):
        require_kinds(["bar:2m"])


@given(
    st.lists(
        st.builds(AggTrade, *[st.integers(0, 2**60)] * 6, st.booleans()), unique_by=lambda t: t.agg_trade_id, max_size=5
    )
)
def test_a_trade_is_the_same_event_from_the_stream_and_from_the_database(trades: list[AggTrade]) -> None:
    events = trade_events("BTCUSDT", trades)
    assert row_events("trade", "BTCUSDT", trades_frame(trades)) == events
    assert unpacked(packed(events)) == events
    assert frame_of(events, TRADE_SCHEMA).equals(trades_frame(trades))


def test_a_bar_is_over_at_its_close_and_travels_bit_for_bit() -> None:
    row = (60_000, 0.1, 0.30000000000000004, 5e-324, 0.2, 1e308, None, None, None, None, "kline", True, 1, 1, 61_000)
    frame = pl.DataFrame([row], schema=CANDLE_SCHEMA, orient="row")
    events = row_events("bar:1m", "BTCUSDT", frame)
    assert (events[0].time_ms, events[0].id) == (120_000, 60_000)
    assert frame_of(unpacked(packed(events)), CANDLE_SCHEMA).equals(frame)
