"""Trades with identities are kept once, and no minute of them is ever called complete."""

from itertools import pairwise

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from trading.market.candle import CANDLE_SCHEMA, roll_up
from trading.market.identified import IdentifiedTrade, unproven_candles
from trading.market.instrument import Instrument
from trading.market.timeframe import Timeframe
from trading.stream.identities import Identities, Stretch

BTC = Instrument("bybit", "BTCUSDT", "BTC", "USDT", 1, 3, "linear")
START = 1_700_000_000_000


def trade(number: int, time_ms: int, price: int = 100, quantity: int = 1, block: bool = False) -> IdentifiedTrade:
    return IdentifiedTrade(f"id-{number * 7919 % 1000}-{number}", price, quantity, time_ms, False, block)


def test_a_candle_of_such_trades_is_never_complete_and_names_no_ids() -> None:
    minute = START // 60_000 * 60_000
    trades = [trade(n, minute + n * 250, 100 + n % 7, n + 1) for n in range(600)]
    bars = unproven_candles(trades, BTC, Timeframe.M1)
    assert bars.schema == CANDLE_SCHEMA
    assert bars["complete"].to_list() == [False, False, False]
    assert set(bars["source"]) == {"incomplete_trades"}
    assert bars.select(pl.col("first_agg_trade_id", "last_agg_trade_id").is_null().all()).row(0) == (True, True)
    assert bars["trade_count"].to_list() == [240, 240, 120]
    assert bars["volume"].to_list() == [28.92, 86.52, 64.86]
    assert (bars["high"][0], bars["low"][0], bars["open"][0], bars["close"][0]) == (10.6, 10.0, 10.0, 10.1)
    # Not even a claim that the whole stretch is proven makes a longer bar of them complete.
    longer = roll_up(bars, Timeframe.M1, Timeframe.M3, BTC, [(0, 2**60)])
    assert longer["complete"].to_list() == [False] * len(longer)


def test_a_block_trade_moves_no_candle() -> None:
    bars = unproven_candles([trade(1, START), trade(2, START, 900, 50, block=True)], BTC, Timeframe.M1)
    assert bars.select("high", "volume", "trade_count").row(0) == (10.0, 0.001, 1)
    assert unproven_candles([], BTC, Timeframe.M1).schema == CANDLE_SCHEMA


def test_a_repeated_trade_is_taken_once() -> None:
    held = Identities()
    assert held.take([trade(1, START), trade(2, START), trade(1, START)]) == [trade(1, START), trade(2, START)]
    assert held.take([trade(2, START), trade(3, START + 1)]) == [trade(3, START + 1)]
    assert held.take([]) == []


def test_what_passed_while_nobody_listened_is_missing() -> None:
    held = Identities()
    held.take([trade(1, START), trade(2, START + 10)])
    held.interrupted()
    held.take([trade(9, START + 500)])
    held.take([trade(10, START + 600)])
    assert held.stretches() == [
        Stretch(START, START + 10, "unproven"),
        Stretch(START + 10, START + 501, "missing"),
        Stretch(START + 501, START + 601, "unproven"),
    ]


def test_a_list_that_meets_what_is_held_leaves_nothing_missing_and_proves_nothing() -> None:
    held = Identities()
    held.take([trade(1, START), trade(2, START + 10)])
    held.interrupted()
    held.take([trade(9, START + 500)])
    held.take_list(
        [trade(n, START + at) for n, at in ((1, 0), (2, 10), (3, 90), (4, 90), (9, 500), (10, 501))], current=False
    )
    assert held.stretches() == [Stretch(START, START + 502, "unproven")]


def test_a_list_without_news_ends_an_interruption() -> None:
    held = Identities()
    held.take([trade(0, START - 9), trade(1, START)])
    held.interrupted()
    held.take_list([trade(1, START), trade(0, START - 9)], current=True)
    held.take([trade(2, START + 9000)])
    assert [stretch.state for stretch in held.stretches()] == ["unproven"]


def test_what_lies_between_an_old_list_and_the_first_trade_heard_is_missing() -> None:
    held = Identities()
    held.take([trade(9, START + 500)])
    held.take_list([trade(1, START), trade(2, START + 10)], current=False)
    assert [(s.from_ms - START, s.until_ms - START, s.state) for s in held.stretches()] == [
        (0, 10, "unproven"),
        (10, 501, "missing"),
    ]


def test_only_the_newest_ids_are_remembered() -> None:
    held = Identities(remembered=2)
    for number in range(3):
        held.take([trade(number, START + number)])
    assert held.take([trade(2, START + 2)]) == []
    assert held.take([trade(0, START)]) == [trade(0, START)]


def test_what_happened_since_it_was_kept_is_missing_until_a_list_bridges_it() -> None:
    before = Identities()
    kept = before.take([trade(1, START), trade(2, START + 10)])
    for bridged in (False, True):
        held = Identities.held(before.stretches(), kept)
        # Of the last millisecond a part may not have been kept.
        assert held.stretches() == [Stretch(START, START + 10, "unproven"), Stretch(START + 10, START + 11, "missing")]
        assert not held.listening
        assert held.take([trade(2, START + 10), trade(9, START + 500)]) == [trade(9, START + 500)]
        assert held.listening and not held.bridged_after(START)
        if bridged:
            held.take_list([trade(n, START + at) for n, at in ((1, 0), (2, 10), (9, 500), (10, 501))], current=False)
        missing = [(s.from_ms, s.until_ms) for s in held.stretches() if s.state == "missing"]
        assert missing == ([] if bridged else [(START + 10, START + 501)])
        assert held.bridged_after(START) == bridged and held.bridged_after(START + 500)
    assert Identities.held([], []).stretches() == []


def test_a_list_shows_what_the_stream_left_out_and_nobody_blames_it_for_a_break() -> None:
    held = Identities()
    held.take([trade(2, START + 10), trade(4, START + 30)])
    held.interrupted()
    page = [trade(n, START + 10 * (n - 1)) for n in range(1, 8)]
    assert held.unheard(page) == []
    held.take([trade(6, START + 50)])
    left_out = [page[2], page[6]]  # between two trades heard, and behind the last; before the first nobody listened
    assert held.unheard(page) == left_out
    held.take_list(page, current=False)
    assert held.unheard(page) == []


STEPS = st.lists(
    st.tuples(
        st.integers(0, 2),  # milliseconds since the trade before
        st.sampled_from((True, True, False)),  # is somebody listening?
        st.booleans(),  # does this trade come in one frame with the one before?
        st.integers(0, 8),  # length of the list asked for on return
        st.integers(0, 2),  # trades by which the list is behind
        st.booleans(),  # does the list come before the stream's first trade?
        st.sampled_from((False, False, True)),  # does the listener die after this trade, all of which is kept?
    ),
    min_size=1,
    max_size=25,
)


@settings(max_examples=300)
@given(STEPS)
def test_what_is_not_called_missing_holds_every_trade(
    steps: list[tuple[int, bool, bool, int, int, bool, bool]],
) -> None:
    """A market of trades, some in one millisecond; a listener that comes and goes and may ask for a list on return."""
    market: list[IdentifiedTrade] = []
    for number, (gap, *_) in enumerate(steps):
        market.append(trade(number, (market[-1].time_ms if market else START) + gap))
    held, taken, away = Identities(), set[str](), True
    frame: list[IdentifiedTrade] = []
    for number, (_, listening, joined, reach, behind, first, dies) in enumerate(steps):
        if frame and not (joined and listening):
            taken |= {t.trade_id for t in held.take(frame)}
            frame = []
        if not listening:
            held.interrupted()
            away = True
            continue
        page = market[max(0, number + (not first) - behind - reach) : max(0, number + (not first) - behind)]
        if away and first:
            taken |= {t.trade_id for t in held.take_list(page[::-1], current=not behind)}
        frame.append(market[number])
        if away and not first:
            taken |= {t.trade_id for t in held.take(frame)} | {t.trade_id for t in held.take_list(page, current=False)}
            frame = []
        away = False
        if dies:
            taken |= {t.trade_id for t in held.take(frame)}
            frame, away = [], True
            held = Identities.held(held.stretches(), [t for t in market if t.trade_id in taken])
    taken |= {t.trade_id for t in held.take(frame)}
    stretches = held.stretches()
    assert all(before.until_ms == after.from_ms for before, after in pairwise(stretches))
    partly = {stretches[0].from_ms, stretches[-1].until_ms - 1} if stretches else set()
    for stretch in stretches:
        assert stretch.from_ms < stretch.until_ms
        happened = [t for t in market if stretch.from_ms <= t.time_ms < stretch.until_ms and t.time_ms not in partly]
        assert stretch.state == "missing" or {t.trade_id for t in happened} <= taken


@given(st.integers(2, 40), st.integers(2, 38), st.integers(1, 38))
def test_a_list_that_reaches_back_far_enough_leaves_no_hole(count: int, first: int, missed: int) -> None:
    market = [trade(number, START + number // 2) for number in range(count + missed + 40)]
    held = Identities()
    held.take(market[: first + 1])
    held.interrupted()
    page = market[max(0, first - 2) :]
    held.take_list(page, current=True)
    assert {stretch.state for stretch in held.stretches()} == {"unproven"}
