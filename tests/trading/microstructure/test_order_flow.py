"""Order flow: what takers bought and sold, summed over trades."""

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trading.microstructure.made import BTC, END, T0, trade_rows, trades
from trading.market.timeframe import Timeframe
from trading.microstructure.order_flow import (
    MINUTE_FLOW_SCHEMA,
    FlowDirection,
    cumulative_delta,
    flow_direction,
    flow_of_minutes,
    order_flow,
)
from trading.microstructure.profile_minutes import profile_minutes
from trading.microstructure.terms import EmptyWindow


@given(trade_rows())
def test_delta_is_what_was_bought_less_what_was_sold(rows) -> None:
    flow = order_flow(trades(*rows), BTC, T0, END)
    signed = sum(-lots if sold else lots for _, _, lots, sold in rows)
    assert flow.cumulative_delta == BTC.quantity(signed)
    assert flow.trade_count == len(rows)
    assert flow.buy_volume + flow.sell_volume == pytest.approx(sum(lots for _, _, lots, _ in rows) / 10**5)


@given(trade_rows(), st.integers(1, 599_999))
def test_deltas_of_two_windows_sum_to_that_of_both(rows, cut: int) -> None:
    made = trades(*rows)
    before, after = order_flow(made, BTC, T0, T0 + cut), order_flow(made, BTC, T0 + cut, END)
    whole = order_flow(made, BTC, T0, END)
    assert round(before.cumulative_delta * 10**5) + round(after.cumulative_delta * 10**5) == round(
        whole.cumulative_delta * 10**5
    )
    assert before.trade_count + after.trade_count == whole.trade_count


@given(trade_rows(min_size=1), st.randoms(use_true_random=False))
def test_cumulative_delta_by_bucket_ends_at_the_delta_of_all(rows, random) -> None:
    made = trades(*rows)
    order = list(range(len(made)))
    random.shuffle(order)
    buckets = cumulative_delta(made[order], BTC, Timeframe.M1)
    assert buckets.equals(cumulative_delta(made, BTC, Timeframe.M1))
    assert buckets["open_time"].is_sorted()
    assert buckets["cumulative_delta"][-1] == order_flow(made, BTC, T0, END).cumulative_delta
    for open_time, delta in buckets.select("open_time", "delta").iter_rows():
        assert delta == order_flow(made, BTC, open_time, open_time + 60_000).cumulative_delta


def test_a_flow_by_hand() -> None:
    made = trades((0, 1, 300_000, False), (500, 1, 100_000, True), (9_999, 1, 50_000, True), (10_000, 1, 7, False))
    flow = order_flow(made, BTC, T0, T0 + 10_000)
    assert (flow.buy_volume, flow.sell_volume, flow.cumulative_delta) == (3.0, 1.5, 1.5)
    assert (flow.buy_rate, flow.sell_rate) == (0.3, 0.15)
    assert flow.net_rate == 0.15
    assert (flow.buy_sell_ratio, flow.direction) == (2.0, FlowDirection.MODERATE_BUY)


def test_buckets_by_hand() -> None:
    made = trades((0, 1, 300_000, False), (500, 1, 100_000, True), (125_000, 1, 50_000, True))
    assert cumulative_delta(made, BTC, Timeframe.M1).rows() == [(T0, 2.0, 2.0), (T0 + 120_000, -0.5, 1.5)]
    assert cumulative_delta(trades(), BTC, Timeframe.M1).schema == pl.Schema(
        {"open_time": pl.Int64, "delta": pl.Float64, "cumulative_delta": pl.Float64}
    )


@pytest.mark.parametrize(
    ("bought", "sold", "direction"),
    [
        (100, 40, FlowDirection.STRONG_BUY),
        (60, 50, FlowDirection.MODERATE_BUY),
        (40, 60, FlowDirection.MODERATE_SELL),
        (20, 100, FlowDirection.STRONG_SELL),
        (200, 100, FlowDirection.MODERATE_BUY),
        (201, 100, FlowDirection.STRONG_BUY),
        (119, 100, FlowDirection.NEUTRAL),
        (80, 100, FlowDirection.NEUTRAL),
        (79, 100, FlowDirection.MODERATE_SELL),
        (50, 100, FlowDirection.MODERATE_SELL),
        (49, 100, FlowDirection.STRONG_SELL),
        (1, 0, FlowDirection.STRONG_BUY),
        (0, 1, FlowDirection.STRONG_SELL),
    ],
)
def test_directions_have_exact_thresholds(bought: int, sold: int, direction: FlowDirection) -> None:
    assert flow_direction(bought, sold) == direction


def test_without_a_trade_there_is_no_direction_and_never_a_strong_buy() -> None:
    flow = order_flow(trades(), BTC, T0, END)
    assert (flow.direction, flow.buy_sell_ratio) == (None, None)
    assert (flow.buy_rate, flow.sell_rate, flow.cumulative_delta, flow.trade_count) == (0, 0, 0, 0)


def test_where_nothing_was_sold_there_is_no_ratio_but_a_direction() -> None:
    flow = order_flow(trades((0, 1, 5, False)), BTC, T0, END)
    assert (flow.buy_sell_ratio, flow.direction) == (None, FlowDirection.STRONG_BUY)


def test_a_window_that_holds_no_moment_is_refused() -> None:
    with pytest.raises(EmptyWindow):
        order_flow(trades(), BTC, T0, T0)


@given(trade_rows(min_size=1))
def test_the_flow_of_minutes_is_that_of_their_trades(rows) -> None:
    made = trades(*rows)
    flow = flow_of_minutes(profile_minutes(made), BTC)
    assert flow.select("minute", "delta", "cumulative_delta").rows() == cumulative_delta(made, BTC, Timeframe.M1).rows()
    for row in flow.iter_rows(named=True):
        expected = order_flow(made, BTC, row["minute"], row["minute"] + 60_000)
        assert (row["buy_volume"], row["sell_volume"]) == (expected.buy_volume, expected.sell_volume)
        assert row["trade_count"] == expected.trade_count


def test_the_cumulative_delta_of_minutes_starts_anew_at_midnight() -> None:
    made = trades((0, 1, 300_000, False), (60_000, 1, 100_000, False), (86_400_000, 1, 50_000, True))
    assert flow_of_minutes(profile_minutes(made), BTC)["cumulative_delta"].to_list() == [3.0, 4.0, -0.5]


def test_no_minutes_have_no_flow() -> None:
    assert dict(flow_of_minutes(profile_minutes(trades()), BTC).schema) == MINUTE_FLOW_SCHEMA
