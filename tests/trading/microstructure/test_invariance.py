"""What a measure says does not depend on units, on the place on the clock or on the order of its rows."""

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trading.microstructure.made import END, T0, book, trade_rows, trades
from trading.market.book import BookSnapshot
from trading.market.instrument import Instrument
from trading.market.timeframe import MINUTE_MS
from trading.microstructure.anomalies import absorptions, flash_crashes
from trading.microstructure.diff_anomalies import icebergs
from trading.microstructure.health import microstructure_health
from trading.microstructure.l1 import l1_metrics
from trading.microstructure.order_flow import order_flow
from trading.microstructure.profile_minutes import merge_minutes, profile_minutes
from trading.microstructure.vacuums import vacuums_in_book, vacuums_in_profile
from trading.microstructure.volume_profile import volume_profile
from trading.stream.events import DepthDiff

FACTOR = st.integers(2, 9)
WHOLE = Instrument("sim", "X", "X", "Y", 0, 0)
"""Ticks and lots are the prices and quantities themselves, so that what is exact stays so."""
SIDE = st.lists(st.integers(1, 1_000), min_size=1, max_size=20)


def enough(rows: list[tuple[int, int, int, bool]]) -> list[tuple[int, int, int, bool]]:
    return rows * (-(-1_000 // len(rows)))


def made_book(
    bids: list[int], asks: list[int], lots: int = 1, ticks: int = 1, up: int = 0, at: int = 0
) -> BookSnapshot:
    """Return a book with these lots a level, one tick apart around 100; lots and prices times a factor, prices up."""
    down = [((100 - i) * ticks + up, n * lots) for i, n in enumerate(bids)]
    return book(down, [((101 + i) * ticks + up, n * lots) for i, n in enumerate(asks)], at)


@given(trade_rows(min_size=1, max_size=20), st.integers(-5, 5), st.integers(0, 50))
@settings(max_examples=40, deadline=None)
def test_a_profile_moves_with_its_trades_in_time_and_price(rows, minutes: int, bins: int) -> None:
    here = volume_profile(trades(*enough(rows)), WHOLE, T0, END, 40)
    later, up = minutes * MINUTE_MS, bins * 40
    moved = trades(*enough([(at + later, price + up, lots, sold) for at, price, lots, sold in rows]))
    there = volume_profile(moved, WHOLE, T0 + later, END + later, 40)
    assert there.data_from_ms == here.data_from_ms + later
    assert there.value_area_pct == here.value_area_pct
    for name in ("price_low", "price_high", "point_of_control", "value_area_low", "value_area_high"):
        assert getattr(there, name) == getattr(here, name) + up
    assert [
        msgspec.structs.replace(b, price_low=b.price_low - up, price_high=b.price_high - up) for b in there.bins
    ] == [*here.bins]


@given(trade_rows(min_size=1, max_size=20), FACTOR)
@settings(max_examples=40, deadline=None)
def test_a_profile_and_its_vacuums_do_not_depend_on_the_size_of_a_lot(rows, factor: int) -> None:
    small = volume_profile(trades(*enough(rows)), WHOLE, T0, END)
    large = volume_profile(trades(*enough([(at, p, lots * factor, s) for at, p, lots, s in rows])), WHOLE, T0, END)
    for name in ("point_of_control", "value_area_low", "value_area_high", "bin_size", "trade_count"):
        assert getattr(large, name) == getattr(small, name)
    assert [b.volume for b in large.bins] == [b.volume * factor for b in small.bins]
    assert [(v.price_low, v.price_high, v.severity) for v in vacuums_in_profile(large)] == [
        (v.price_low, v.price_high, v.severity) for v in vacuums_in_profile(small)
    ]


@given(st.lists(trade_rows(max_size=15), min_size=3, max_size=3))
def test_minutes_merge_in_any_order_and_grouping(parts) -> None:
    a, b, c = (profile_minutes(trades(*rows)) for rows in parts)
    whole = merge_minutes([a, b, c])
    assert merge_minutes([merge_minutes([a, b]), c]).equals(whole)
    assert merge_minutes([a, merge_minutes([b, c])]).equals(whole)
    assert merge_minutes([c, b, a]).equals(whole)
    assert merge_minutes([a, profile_minutes(trades())]).equals(a)


@given(trade_rows(min_size=1), FACTOR, st.integers(0, 10**9))
def test_flow_scales_with_lots_and_moves_with_time(rows, factor: int, later: int) -> None:
    here = order_flow(trades(*rows), WHOLE, T0, END)
    moved = trades(*[(at + later, p, lots * factor, s) for at, p, lots, s in rows])
    there = order_flow(moved, WHOLE, T0 + later, END + later)
    assert (there.direction, there.trade_count) == (here.direction, here.trade_count)
    assert there.buy_sell_ratio == pytest.approx(here.buy_sell_ratio)
    assert there.cumulative_delta == here.cumulative_delta * factor


@given(trade_rows(min_size=1))
def test_flow_changes_its_sign_with_the_takers_side(rows) -> None:
    here = order_flow(trades(*rows), WHOLE, T0, END)
    there = order_flow(trades(*[(at, p, lots, not s) for at, p, lots, s in rows]), WHOLE, T0, END)
    assert there.cumulative_delta == -here.cumulative_delta
    assert (there.buy_volume, there.sell_volume) == (here.sell_volume, here.buy_volume)


@given(SIDE, SIDE, FACTOR, FACTOR)
def test_the_top_of_a_book_does_not_depend_on_units(bids, asks, lots: int, ticks: int) -> None:
    here = l1_metrics(made_book(bids, asks), WHOLE)
    there = l1_metrics(made_book(bids, asks, lots, ticks), WHOLE, [n * lots * ticks for n in (10_000, 25_000, 50_000)])
    for name in ("spread_bps", "imbalance", "imbalance_ratio"):
        assert getattr(there, name) == pytest.approx(getattr(here, name))
    assert there.microprice == pytest.approx(here.microprice * ticks)
    assert [(w.side, w.price, w.medians) for w in there.walls] == [
        (w.side, w.price * ticks, w.medians) for w in here.walls
    ]
    assert [s.slippage_bps for s in there.slippage] == [s.slippage_bps for s in here.slippage]


@given(SIDE, SIDE, FACTOR)
def test_vacuums_of_a_book_do_not_depend_on_the_size_of_a_lot(bids, asks, lots: int) -> None:
    here, there = (vacuums_in_book(made_book(bids, asks, n), WHOLE, 1) for n in (1, lots))
    assert [(v.side, v.price_low, v.price_high, v.severity) for v in there] == [
        (v.side, v.price_low, v.price_high, v.severity) for v in here
    ]


LOTS = st.sampled_from([1, 2, 80, 100])
BOOKS = st.lists(st.tuples(st.lists(LOTS, min_size=1, max_size=5), st.lists(LOTS, min_size=1, max_size=5)), max_size=8)
FILLS = st.lists(
    st.tuples(st.integers(0, 8_000), st.integers(99, 102), st.integers(1, 120), st.booleans()), max_size=60
)


@given(BOOKS, FILLS, FACTOR, st.integers(0, 5_000), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_anomalies_of_snapshots_do_not_depend_on_units_place_or_order(books, fills, lots, up, random) -> None:
    def seen(lots: int, up: int, rows: list[tuple[int, int, int, bool]]) -> list[object]:
        snapshots = [made_book(*sides, lots, 1, up, 1_000 * n) for n, sides in enumerate(books)]
        made = trades(*[(at, price + up, size * lots, sold) for at, price, size, sold in rows])
        return [
            *(
                (a.side, a.price - up, a.refill_count, a.absorbed_volume / lots)
                for a in absorptions(snapshots, made, WHOLE)
            ),
            *((c.side, c.until_ms, c.depth_loss_pct, c.cancelled_pct) for c in flash_crashes(snapshots, made, None)),
        ]

    assert seen(lots, up, random.sample(fills, len(fills))) == seen(1, 0, fills)


LEVEL = st.tuples(st.integers(98, 103), st.sampled_from([0, 0, 5, 9]))


@given(st.lists(st.lists(LEVEL, max_size=3), max_size=60), FILLS, FACTOR, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_icebergs_do_not_depend_on_the_size_of_a_lot_or_the_order_of_trades(changes, fills, factor, random) -> None:
    def seen(lots: int, rows: list[tuple[int, int, int, bool]]) -> list[object]:
        diffs = [
            DepthDiff(
                T0,
                n,
                n,
                None,
                np.array([(p, q * lots) for p, q in levels if p <= 100], np.int64).reshape(-1, 2),
                np.array([(p, q * lots) for p, q in levels if p > 100], np.int64).reshape(-1, 2),
            )
            for n, levels in enumerate(changes)
        ]
        made: pl.DataFrame = trades(*[(at, price, size * lots, sold) for at, price, size, sold in rows])
        found = icebergs(made_book([9, 5, 5], [9, 5, 5], lots), diffs, made, WHOLE)
        return [(i.side, i.price, i.refill_count, i.z, i.executed_volume / lots) for i in found]

    assert seen(factor, random.sample(fills, len(fills))) == seen(1, fills)


@given(st.lists(st.floats(0.01, 100), min_size=2, max_size=8), *[st.floats(0.01, 1e6)] * 4, st.floats(0.1, 10))
def test_health_does_not_depend_on_units(spreads, now, mean, bought, sold, factor: float) -> None:
    def components(unit: float) -> list[float | None]:
        health = microstructure_health(
            spreads_bps=[s * unit for s in spreads],
            depth_now=now * unit,
            depth_mean=mean * unit,
            buy_volume=bought * unit,
            sell_volume=sold * unit,
        )
        return [health.spread_stability, health.depth, health.flow_balance, health.overall]

    assert components(factor) == pytest.approx(components(1.0), abs=1e-6)
