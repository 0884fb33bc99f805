"""Volume profiles: the same from trades and from any cut of them into minutes."""

import gzip
import json
from collections import Counter

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.recorded import recorded
from tests.trading.microstructure.made import BTC, END, T0, trade_rows, trades
from trading.market.instrument import Instrument
from trading.market.timeframe import HOUR_MS, MINUTE_MS
from trading.market.trade import TRADE_SCHEMA
from trading.microstructure.profile_bins import (
    MAX_BINS,
    BadBinSize,
    adaptive_bin_ticks,
    point_of_control,
    value_area,
)
from trading.microstructure.profile_minutes import PROFILE_MINUTE_SCHEMA, merge_minutes, profile_minutes
from trading.microstructure.terms import EmptyWindow
from trading.microstructure.volume_profile import (
    InsufficientTrades,
    OffMinute,
    VolumeProfile,
    estimated_wait_s,
    volume_profile,
    volume_profile_of_minutes,
)


@st.composite
def enough_trades(draw: st.DrawFn) -> pl.DataFrame:
    """A few drawn trades, each so often that there are a thousand."""
    rows = draw(trade_rows(min_size=1, max_size=30))
    return trades(*(rows * (-(-1_000 // len(rows)))))


@given(enough_trades(), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_the_order_of_trades_does_not_matter(made: pl.DataFrame, random) -> None:
    order = list(range(len(made)))
    random.shuffle(order)
    assert volume_profile(made[order], BTC, T0, END) == volume_profile(made, BTC, T0, END)


@given(enough_trades(), st.lists(st.integers(0, 4), min_size=1, max_size=10))
@settings(max_examples=50, deadline=None)
def test_any_cut_of_the_trades_merges_into_the_profile_of_all(made: pl.DataFrame, cut: list[int]) -> None:
    part = [cut[i % len(cut)] for i in range(len(made))]
    parts = [profile_minutes(made.filter(pl.Series(part) == number)) for number in range(5)]
    merged = merge_minutes([merge_minutes(parts[:2]), merge_minutes(parts[2:])])
    assert merged.equals(profile_minutes(made))
    assert volume_profile_of_minutes(merged, BTC, T0, END) == volume_profile(made, BTC, T0, END)


@given(enough_trades(), st.integers(0, 9), st.integers(1, 10))
@settings(max_examples=50, deadline=None)
def test_a_window_of_minutes_equals_a_recomputation_from_its_trades(
    made: pl.DataFrame, first: int, length: int
) -> None:
    lo_ms, hi_ms = T0 + first * MINUTE_MS, T0 + (first + length) * MINUTE_MS
    of_minutes = outcome(lambda: volume_profile_of_minutes(profile_minutes(made), BTC, lo_ms, hi_ms))
    assert of_minutes == outcome(lambda: volume_profile(made, BTC, lo_ms, hi_ms))


def outcome(profile) -> VolumeProfile | int:
    """Return a profile, or how many trades there were instead."""
    try:
        return profile()
    except InsufficientTrades as refusal:
        return refusal.trade_count


@given(enough_trades())
@settings(max_examples=50, deadline=None)
def test_a_profile_is_what_a_plain_count_says(made: pl.DataFrame) -> None:
    profile = volume_profile(made, BTC, T0, END)
    size = max(10, -(-(made["price"].max() - made["price"].min()) // 100))
    volume, count = Counter(), Counter()
    for price, lots, sold in made.select("price", "quantity", "buyer_is_maker").iter_rows():
        volume[price // size, sold] += lots
        count[price // size] += 1
    bins = range(min(count), max(count) + 1)
    assert [(b.price_low, b.price_high) for b in profile.bins] == [
        (BTC.price(i * size), BTC.price((i + 1) * size)) for i in bins
    ]
    assert [b.trade_count for b in profile.bins] == [count[i] for i in bins]
    assert [b.buy_volume for b in profile.bins] == [BTC.quantity(volume[i, False]) for i in bins]
    assert [b.sell_volume for b in profile.bins] == [BTC.quantity(volume[i, True]) for i in bins]
    assert profile.total_volume == BTC.quantity(made["quantity"].sum())
    assert sum(b.volume_pct for b in profile.bins) == pytest.approx(100)
    assert len(profile.bins) <= MAX_BINS


@given(enough_trades())
@settings(max_examples=50, deadline=None)
def test_a_value_area_holds_the_point_of_control_and_seventy_percent(made: pl.DataFrame) -> None:
    profile = volume_profile(made, BTC, T0, END)
    inside = [b for b in profile.bins if profile.value_area_low <= b.price_low < profile.value_area_high]
    assert profile.value_area_low < profile.point_of_control < profile.value_area_high
    assert sum(b.volume for b in inside) >= 0.7 * profile.total_volume * (1 - 1e-12)
    assert profile.value_area_pct == pytest.approx(100 * sum(b.volume for b in inside) / profile.total_volume)
    assert profile.value_area_pct >= 70


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40), st.integers(0, 39))
def test_a_value_area_is_no_wider_than_it_needs(lots: list[int], start: int) -> None:
    first, last, held = value_area(lots, start % len(lots), 70)
    assert first <= start % len(lots) <= last
    assert held == sum(lots[first : last + 1])
    assert held * 100 >= sum(lots) * 70
    if last > first:  # the bin that was added last is one of the two ends
        assert any((held - end) * 100 < sum(lots) * 70 for end in (lots[first], lots[last]))


def test_of_equal_bins_the_point_of_control_is_nearest_to_the_middle_then_the_lower() -> None:
    assert point_of_control([5, 1, 5, 1, 1]) == 2
    assert point_of_control([5, 1, 1, 1, 5]) == 0
    assert point_of_control([1, 5, 1, 5, 9, 1, 9]) == 4


def test_of_equal_neighbours_the_value_area_takes_the_upper() -> None:
    assert value_area([2, 5, 2], 1, 70) == (1, 2, 7)
    assert value_area([3, 5, 2], 1, 70) == (0, 1, 8)


def test_a_value_area_of_exactly_seventy_percent_is_enough() -> None:
    assert value_area([15, 70, 15], 1, 70) == (1, 1, 70)
    assert value_area([16, 69, 15], 1, 70) == (0, 1, 85)


def test_a_value_area_crosses_empty_bins_and_does_not_jump_them() -> None:
    assert value_area([0, 10, 0, 0, 9], 1, 70) == (1, 4, 19)


def test_a_profile_by_hand() -> None:
    rows = [(0, 10_000, 3, False)] * 500 + [(59_999, 10_039, 1, True)] * 300 + [(60_000, 10_020, 1, False)] * 200
    profile = volume_profile(trades(*rows), BTC, T0, T0 + HOUR_MS, bin_ticks=10)
    assert [b.volume for b in profile.bins] == [0.015, 0.0, 0.002, 0.003]
    assert [b.volume_pct for b in profile.bins] == [75.0, 0.0, 10.0, 15.0]
    assert [b.trade_count for b in profile.bins] == [500, 0, 200, 300]
    assert (profile.price_low, profile.price_high, profile.bin_size) == (100.0, 100.39, 0.1)
    assert profile.point_of_control == 100.05
    assert (profile.value_area_low, profile.value_area_high, profile.value_area_pct) == (100.0, 100.1, 75.0)
    assert (profile.data_from_ms, profile.data_until_ms) == (T0, T0 + 2 * MINUTE_MS)
    assert profile.trade_count == 1_000


def test_a_bin_is_a_hundredth_of_the_range_and_at_least_ten_ticks() -> None:
    assert adaptive_bin_ticks(10_000, 20_000) == 100  # 100.00 … 200.00 in cents: 1.00
    assert adaptive_bin_ticks(10_000, 20_001) == 101
    assert adaptive_bin_ticks(10_000, 10_050) == 10


@given(st.integers(0, 10**9), st.integers(0, 10**9))
def test_adaptive_bins_are_never_too_many(low: int, width: int) -> None:
    size = adaptive_bin_ticks(low, low + width)
    assert (low + width) // size - low // size + 1 <= 102


@pytest.mark.parametrize("bin_ticks", [0, -5, 1])
def test_a_bin_without_a_tick_or_one_of_too_many_is_refused(bin_ticks: int) -> None:
    made = trades(*[(0, 10_000, 1, False)] * 999, (0, 10_300, 1, False))
    with pytest.raises(BadBinSize):
        volume_profile(made, BTC, T0, END, bin_ticks)


@given(st.integers(1, 10**6), st.integers(200, 10**6))
def test_a_refused_bin_size_names_one_that_is_accepted(low: int, width: int) -> None:
    made = trades(*[(0, low, 1, False)] * 999, (0, low + width, 1, False))
    with pytest.raises(BadBinSize) as refusal:
        volume_profile(made, BTC, T0, END, 1)
    enough = int(refusal.value.hint.split()[1])
    assert len(volume_profile(made, BTC, T0, END, enough).bins) <= MAX_BINS


def test_trades_outside_the_window_do_not_count() -> None:
    made = trades((-1, 1, 7, False), *[(0, 10_000, 1, False)] * 1_000, (600_000, 99_999, 7, False))
    profile = volume_profile(made, BTC, T0, END)
    assert (profile.trade_count, profile.total_volume) == (1_000, 0.01)
    assert volume_profile_of_minutes(profile_minutes(made), BTC, T0, END) == profile


def test_too_few_trades_say_how_many_and_how_long_to_wait() -> None:
    made = trades(*[(i * 1_000, 10_000, 1, False) for i in range(600)])
    with pytest.raises(InsufficientTrades) as refusal:
        volume_profile(made, BTC, T0 - HOUR_MS, END)
    assert (refusal.value.trade_count, refusal.value.required, refusal.value.wait_s) == (600, 1_000, 400)
    assert "wait about 400 s" in str(refusal.value)
    with pytest.raises(InsufficientTrades) as refusal:
        volume_profile_of_minutes(profile_minutes(made), BTC, T0 - HOUR_MS, END)
    assert (refusal.value.trade_count, refusal.value.wait_s) == (600, 400)


def test_without_a_trade_no_wait_is_known() -> None:
    for profile in (
        lambda: volume_profile(trades(), BTC, T0, END),
        lambda: volume_profile_of_minutes(profile_minutes(trades()), BTC, T0, END),
    ):
        with pytest.raises(InsufficientTrades) as refusal:
            profile()
        assert (refusal.value.trade_count, refusal.value.wait_s) == (0, None)


def test_no_wait_is_named_where_the_window_never_holds_enough() -> None:
    assert estimated_wait_s(600, T0, T0, END) is None
    assert estimated_wait_s(600, T0 + 5 * MINUTE_MS, T0, END) == 200


def test_a_window_that_holds_no_moment_is_refused() -> None:
    with pytest.raises(EmptyWindow):
        volume_profile(trades(), BTC, T0, T0)
    with pytest.raises(EmptyWindow):
        volume_profile_of_minutes(profile_minutes(trades()), BTC, END, T0)


def test_minutes_answer_only_for_whole_minutes_in_order() -> None:
    minutes = profile_minutes(trades((0, 1, 1, False), (60_000, 1, 1, False)))
    with pytest.raises(OffMinute):
        volume_profile_of_minutes(minutes, BTC, T0 + 1, END)
    with pytest.raises(OffMinute):
        volume_profile_of_minutes(minutes.reverse(), BTC, T0, END)


def test_a_profile_minute_is_one_row_of_lists_by_rising_tick() -> None:
    minutes = profile_minutes(
        trades((5, 20, 3, False), (1, 10, 1, True), (9, 20, 4, True), (61_000, 5, 2, False), (2, 10, 1, True))
    )
    assert minutes.schema == pl.Schema(PROFILE_MINUTE_SCHEMA)
    assert minutes.rows() == [
        (T0, [10, 20], [0, 3], [2, 4], [2, 2]),
        (T0 + MINUTE_MS, [5], [2], [0], [1]),
    ]


def test_minutes_of_nothing_are_empty() -> None:
    empty = pl.DataFrame(schema=PROFILE_MINUTE_SCHEMA)
    for nothing in (profile_minutes(trades()), merge_minutes([]), merge_minutes([empty, empty])):
        assert nothing.equals(empty)
        assert nothing.schema == empty.schema


def test_a_profile_is_one_json_object() -> None:
    import msgspec

    profile = volume_profile(trades(*[(0, 10_000, 1, False)] * 1_000), BTC, T0, END)
    assert msgspec.json.decode(msgspec.json.encode(profile), type=VolumeProfile) == profile


def genuine_trades() -> pl.DataFrame:
    """One answer of the exchange: 1,000 aggregate trades of eight minutes."""
    path = recorded("aggtrades/BTCUSDT_spot_rest_202790190_1000.json.gz")
    btc = Instrument("binance", "BTCUSDT", "BTC", "USDT", 2, 6)
    rows = [
        (t["a"], btc.ticks(t["p"]), btc.lots(t["q"]), t["f"], t["l"], t["T"], t["m"])
        for t in json.loads(gzip.decompress(path.read_bytes()))
    ]
    return pl.DataFrame(rows, schema=TRADE_SCHEMA, orient="row")


def test_a_thousand_genuine_trades_give_a_profile_and_one_less_does_not() -> None:
    made, btc = genuine_trades(), Instrument("binance", "BTCUSDT", "BTC", "USDT", 2, 6)
    hi_ms = made["time_ms"].max() + 1
    profile = volume_profile(made, btc, hi_ms - HOUR_MS, hi_ms)
    assert profile.trade_count == 1_000
    assert profile.price_low <= profile.value_area_low + profile.bin_size
    assert profile.value_area_low < profile.point_of_control < profile.value_area_high
    assert profile.total_volume == pytest.approx((made["quantity"] / 10**6).sum())
    with pytest.raises(InsufficientTrades) as refusal:
        volume_profile(made.head(999), btc, hi_ms - HOUR_MS, hi_ms)
    assert (refusal.value.trade_count, refusal.value.wait_s) == (999, 1)
