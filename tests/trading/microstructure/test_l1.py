"""L1 metrics: what the top of a book says, and what it cannot."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trading.microstructure.captured import capture
from tests.trading.microstructure.made import BTC, T0, book
from trading.microstructure.l1 import CrossedBook, NoOrder, Slippage, l1_metrics, slippage

LEVELS = st.lists(st.tuples(st.integers(1, 50), st.integers(1, 10**7)), min_size=1, max_size=30)


def test_metrics_by_hand() -> None:
    bids = [(6_765_000, 1_000_000), (6_764_900, 500_000)]
    asks = [(6_765_100, 1_500_000), (6_765_200, 500_000)]
    l1 = l1_metrics(book(bids, asks), BTC)
    assert (l1.symbol, l1.time_ms, l1.last_update_id) == ("BTCUSDT", T0, 1)
    assert (l1.best_bid, l1.best_bid_quantity) == (67_650.0, 10.0)
    assert (l1.best_ask, l1.best_ask_quantity) == (67_651.0, 15.0)
    assert l1.mid_price == 67_650.5
    assert l1.spread_bps == pytest.approx(0.1478, abs=1e-4)
    assert l1.microprice == pytest.approx(67_650.4)
    assert (l1.bid_volume, l1.ask_volume) == (15.0, 20.0)
    assert l1.imbalance == pytest.approx(-5 / 35)
    assert l1.imbalance_ratio == 0.75
    assert [s.notional for s in l1.slippage] == [10_000, 10_000, 25_000, 25_000, 50_000, 50_000]
    assert [s.taker for s in l1.slippage] == ["buy", "sell"] * 3


def test_a_wall_is_more_than_twice_the_median_of_both_sides() -> None:
    bids = [(1_000, 10), (999, 10), (998, 31)]
    asks = [(1_001, 20), (1_002, 10), (1_003, 30), (1_004, 10)]
    l1 = l1_metrics(book(bids, asks), BTC)
    assert [(w.side, w.price, w.quantity, w.medians) for w in l1.walls] == [
        ("bid", 9.98, 0.00031, 3.1),
        ("ask", 10.03, 0.0003, 3.0),
    ]


def test_only_the_top_twenty_levels_count() -> None:
    bids = [(1_000 - i, 10) for i in range(25)]
    asks = [(1_001 + i, 10) for i in range(25)]
    l1 = l1_metrics(book(bids, asks), BTC)
    assert (l1.bid_volume, l1.ask_volume) == (0.002, 0.002)


def test_an_order_that_walks_two_levels() -> None:
    # 1 at 100.00 and 1 at 110.00: 155 buys 1.5.
    made = book([(9_000, 100_000)], [(10_000, 100_000), (11_000, 100_000)])
    filled = slippage(made, BTC, "buy", 155)
    assert (filled.filled_notional, filled.filled_quantity) == (155, 1.5)
    assert filled.average_price == pytest.approx(155 / 1.5)
    assert filled.slippage_bps == pytest.approx(10_000 * (155 / 1.5 - 100) / 100)
    sold = slippage(made, BTC, "sell", 45)
    assert (sold.average_price, sold.filled_quantity, sold.slippage_bps) == (90, 0.5, 0)


def test_a_book_too_thin_gives_no_price_and_says_how_much_it_filled() -> None:
    made = book([(9_000, 100_000)], [(10_000, 100_000), (11_000, 100_000)])
    assert slippage(made, BTC, "buy", 211) == Slippage("buy", 211, 210, 2, None, None)
    assert slippage(made, BTC, "buy", 210).average_price == 105
    assert slippage(book([], []), BTC, "sell", 10) == Slippage("sell", 10, 0, 0, None, None)


@pytest.mark.parametrize("notional", [0, -1, float("nan")])
def test_an_order_of_nothing_is_refused(notional: float) -> None:
    with pytest.raises(NoOrder):
        slippage(book([(9, 1)], [(10, 1)]), BTC, "buy", notional)


def test_a_side_without_levels_leaves_unknown_what_needs_it() -> None:
    l1 = l1_metrics(book([(1_000, 10)], []), BTC)
    assert (l1.best_bid, l1.best_bid_quantity, l1.bid_volume) == (10.0, 0.0001, 0.0001)
    unknown = (l1.best_ask, l1.best_ask_quantity, l1.ask_volume, l1.mid_price, l1.spread_bps, l1.microprice)
    assert unknown == (None,) * 6
    assert (l1.imbalance, l1.imbalance_ratio) == (None, None)
    assert l1_metrics(book([], []), BTC).walls == ()


@pytest.mark.parametrize("bid", [1_000, 1_001])
def test_a_crossed_book_is_refused(bid: int) -> None:
    with pytest.raises(CrossedBook, match="update 1"):
        l1_metrics(book([(bid, 1)], [(1_000, 1)]), BTC)


@given(LEVELS, LEVELS)
def test_the_microprice_lies_in_the_spread_and_imbalances_agree(down, up) -> None:
    bids, asks, price = [], [], 10_000
    for step, lots in down:
        price -= step
        bids.append((price, lots))
    price = 10_000
    for step, lots in up:
        price += step
        asks.append((price, lots))
    l1 = l1_metrics(book(bids, asks), BTC)
    assert l1.best_bid <= l1.microprice * (1 + 1e-12)
    assert l1.microprice <= l1.best_ask * (1 + 1e-12)
    assert l1.imbalance == pytest.approx((l1.imbalance_ratio - 1) / (l1.imbalance_ratio + 1))
    for order in l1.slippage:
        assert order.filled_notional <= order.notional
        assert (order.average_price is None) == (order.filled_notional < order.notional)
        assert order.slippage_bps is None or order.slippage_bps >= -1e-6


def test_a_genuine_book_fills_fifty_thousand_at_little_cost() -> None:
    spot = capture("raw/binance_spot/btcusdt_20240808.gz")
    l1 = l1_metrics(spot.book, spot.instrument)
    assert 0 < l1.spread_bps < 1
    assert l1.best_bid < l1.microprice < l1.best_ask
    assert all(order.slippage_bps is not None and order.slippage_bps < 5 for order in l1.slippage)
    assert [order.slippage_bps for order in l1.slippage[::2]] == sorted(o.slippage_bps for o in l1.slippage[::2])
