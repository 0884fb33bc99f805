"""Each measure against the same once more in plain Python: on what hypothesis draws and on genuine minutes."""

from fractions import Fraction

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trading.microstructure import plain
from tests.trading.microstructure.captured import RECORDED, Capture, capture
from tests.trading.microstructure.made import BTC, END, T0, book, trade_rows, trades
from trading.market.book import BookSnapshot
from trading.market.instrument import Instrument
from trading.microstructure.anomalies import absorptions, flash_crashes
from trading.microstructure.diff_anomalies import icebergs, updates_per_s
from trading.microstructure.l1 import l1_metrics, slippage
from trading.microstructure.order_flow import order_flow
from trading.microstructure.profile_minutes import profile_minutes
from trading.microstructure.vacuums import vacuums_in_book, vacuums_in_profile
from trading.microstructure.volume_profile import VolumeProfile, volume_profile, volume_profile_of_minutes
from trading.stream.events import DepthDiff

FEW = settings(max_examples=60, deadline=None)


@pytest.fixture(scope="module", params=RECORDED, ids=["spot-BTCUSDT", "spot-ETHUSDT", "usdm-BTCUSDT"])
def genuine(request: pytest.FixtureRequest) -> Capture:
    return capture(request.param)


def rows_of(frame: pl.DataFrame) -> list[plain.Row]:
    return frame.select("time_ms", "price", "quantity", "buyer_is_maker").rows()


def check_profile(found: VolumeProfile, rows: list[plain.Row], instrument: Instrument, size: int | None = None) -> None:
    bins, control, first, last = plain.profile(rows, found.lo_ms, found.hi_ms, size)
    price, quantity = instrument.price, instrument.quantity
    assert [(b.price_low, b.price_high, b.buy_volume, b.sell_volume, b.trade_count) for b in found.bins] == [
        (price(low), price(high), quantity(bought), quantity(sold), count) for low, high, bought, sold, count in bins
    ]
    assert found.point_of_control == price(bins[control][0] + bins[control][1]) / 2
    assert (found.value_area_low, found.value_area_high) == (price(bins[first][0]), price(bins[last][1]))
    total, area = (sum(b[2] + b[3] for b in some) for some in (bins, bins[first : last + 1]))
    assert found.value_area_pct == 100 * area / total
    assert [b.volume_pct for b in found.bins] == [100 * (b[2] + b[3]) / total for b in bins]
    expected = plain.vacuums([(b[0], b[1], b[2] + b[3]) for b in bins], Fraction(1, 5))
    assert [(v.price_low, v.price_high) for v in vacuums_in_profile(found)] == [
        (price(low), price(high)) for low, high, _, _ in expected
    ]
    assert [(v.actual_volume, v.median_volume) for v in vacuums_in_profile(found)] == [
        pytest.approx((float(mean) / 10**instrument.quantity_decimals, float(usual) / 10**instrument.quantity_decimals))
        for _, _, mean, usual in expected
    ]


@given(trade_rows(min_size=1, max_size=30), st.sampled_from([None, 17, 250]))
@FEW
def test_a_profile_and_its_vacuums_are_those_of_a_plain_count(rows, size: int | None) -> None:
    made = trades(*(rows * (-(-1_000 // len(rows)))))
    check_profile(volume_profile(made, BTC, T0, END, size), rows_of(made), BTC, size)


def test_a_genuine_profile_is_that_of_a_plain_count_whichever_way_it_is_made(genuine: Capture) -> None:
    lo_ms, hi_ms = genuine.window
    check_profile(
        volume_profile(genuine.trades, genuine.instrument, lo_ms, hi_ms), rows_of(genuine.trades), genuine.instrument
    )
    lo_ms, hi_ms = lo_ms // 60_000 * 60_000, lo_ms // 60_000 * 60_000 + 5 * 60_000
    of_minutes = volume_profile_of_minutes(profile_minutes(genuine.trades), genuine.instrument, lo_ms, hi_ms)
    check_profile(of_minutes, rows_of(genuine.trades), genuine.instrument)


def test_vacuums_in_a_genuine_book_are_those_of_a_plain_count(genuine: Capture) -> None:
    instrument, seen = genuine.instrument, 0
    for snapshot in genuine.snapshots[::10]:
        expected = []
        for levels in (snapshot.bids.tolist(), snapshot.asks.tolist()):
            rows = [(0, tick, lots, False) for tick, lots in levels]
            bins, *_ = plain.profile(rows, 0, 1, None)
            expected += plain.vacuums([(low, high, lots) for low, high, lots, _, _ in bins], Fraction(1, 5))
        found = vacuums_in_book(snapshot, instrument)
        assert [(v.price_low, v.price_high) for v in found] == [
            (instrument.price(low), instrument.price(high)) for low, high, _, _ in expected
        ]
        seen += len(found)
    assert seen > 0


def test_a_genuine_flow_is_that_of_a_plain_count(genuine: Capture) -> None:
    lo_ms, hi_ms = genuine.window
    for start in range(lo_ms, hi_ms - 60_000, 30_000):
        found = order_flow(genuine.trades, genuine.instrument, start, start + 60_000)
        count, bought, sold = plain.flow(rows_of(genuine.trades), start, start + 60_000)
        quantity = genuine.instrument.quantity
        assert (found.trade_count, found.buy_volume, found.sell_volume) == (count, quantity(bought), quantity(sold))
        assert found.cumulative_delta == quantity(bought - sold)


LOTS = st.sampled_from([1, 2, 3, 80, 100])


@st.composite
def seconds(draw: st.DrawFn) -> tuple[list[BookSnapshot], list[plain.Row]]:
    """A few seconds of a small book, with trades around its best prices."""
    side = st.lists(LOTS, min_size=0, max_size=6)
    snapshots, at = [], 0
    for bids, asks in draw(st.lists(st.tuples(side, side), min_size=2, max_size=8)):
        snapshots.append(
            book([(100 - i, n) for i, n in enumerate(bids)], [(101 + i, n) for i, n in enumerate(asks)], at)
        )
        at += draw(st.sampled_from([1_000, 1_000, 1_500, 1_501]))
    trade = st.tuples(st.integers(0, at), st.integers(99, 102), st.integers(1, 120), st.booleans())
    return snapshots, [(T0 + after, *rest) for after, *rest in draw(st.lists(trade, max_size=60))]


def listed(snapshots: list[BookSnapshot] | tuple[BookSnapshot, ...]) -> list[tuple[int, plain.Levels, plain.Levels]]:
    return [(s.time_ms, s.bids.tolist(), s.asks.tolist()) for s in snapshots]


def check_anomalies(snapshots, frame: pl.DataFrame, rows: list[plain.Row], instrument: Instrument) -> int:
    found = absorptions(snapshots, frame, instrument)
    expected = plain.absorptions(listed(snapshots), rows)
    assert {(a.side, a.price, a.refill_count, a.absorbed_volume) for a in found} == {
        (side, instrument.price(tick), count, instrument.quantity(lots)) for side, tick, count, lots in expected
    }
    # Where no spread is known, depth and cancels alone decide.
    crashes = {(c.side, c.until_ms): c.cancelled_pct for c in flash_crashes(snapshots, frame, None)}
    assert crashes == pytest.approx(
        {(side, until): 100 * float(share) for side, until, share in plain.collapses(listed(snapshots), rows)}
    )
    return len(found) + len(crashes)


@given(seconds())
@settings(max_examples=200, deadline=None)
def test_absorptions_and_flash_crashes_are_those_of_a_plain_count(made) -> None:
    snapshots, rows = made
    check_anomalies(snapshots, trades(*[(at - T0, *rest) for at, *rest in rows]), rows, BTC)


def test_genuine_absorptions_and_flash_crashes_are_those_of_a_plain_count(genuine: Capture) -> None:
    check_anomalies(genuine.snapshots[:60], genuine.trades, rows_of(genuine.trades), genuine.instrument)


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_icebergs_are_those_of_a_plain_count(data: st.DataObject) -> None:
    level = st.tuples(st.integers(98, 103), st.sampled_from([0, 0, 5, 9]))
    changes = data.draw(st.lists(st.lists(level, max_size=3), max_size=80))
    diffs = [
        DepthDiff(T0, n, n, None, *(np.array(side, np.int64).reshape(-1, 2) for side in split(levels)))
        for n, levels in enumerate(changes)
    ]
    fills = data.draw(st.lists(st.tuples(st.integers(98, 103), st.integers(1, 9), st.booleans()), max_size=30))
    rows = [(T0, tick, lots, sold) for tick, lots, sold in fills]
    start = book([(100, 9), (99, 5)], [(101, 9), (102, 5)])
    check_icebergs(start, diffs, trades(*[(0, *rest) for _, *rest in rows]), rows, BTC)


def split(levels: list[tuple[int, int]]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    return [one for one in levels if one[0] <= 100], [one for one in levels if one[0] > 100]


def check_icebergs(
    start: BookSnapshot, diffs, frame: pl.DataFrame, rows: list[plain.Row], instrument: Instrument
) -> int:
    found = icebergs(start, diffs, frame, instrument)
    changed = [(d.bids.tolist(), d.asks.tolist()) for d in diffs]
    expected = plain.icebergs((start.bids.tolist(), start.asks.tolist()), changed, rows)
    assert {(i.side, i.price): i.refill_count for i in found} == {
        (side, instrument.price(tick)): count for (side, tick), count in expected.items()
    }
    assert [(i.side == "ask", i.price) for i in found] == sorted((i.side == "ask", i.price) for i in found)
    return len(found)


def test_genuine_icebergs_and_rates_of_updates_are_those_of_a_plain_count(genuine: Capture) -> None:
    check_icebergs(genuine.book, genuine.diffs, genuine.trades, rows_of(genuine.trades), genuine.instrument)
    lo_ms, hi_ms = genuine.window
    changed = sum(len(d.bids) + len(d.asks) for d in genuine.diffs if lo_ms <= d.time_ms < hi_ms)
    assert updates_per_s(genuine.diffs, lo_ms, hi_ms) == pytest.approx(1_000 * changed / (hi_ms - lo_ms))


def check_slippage(snapshot: BookSnapshot, instrument: Instrument, notional: int) -> None:
    unit = 10 ** (instrument.price_decimals + instrument.quantity_decimals)
    for taker, levels in (("buy", snapshot.asks.tolist()), ("sell", snapshot.bids.tolist())):
        found, expected = slippage(snapshot, instrument, taker, notional), plain.fill(levels, unit, notional)
        if expected is None:
            assert (found.average_price, found.slippage_bps) == (None, None)
            assert found.filled_quantity == instrument.quantity(sum(lots for _, lots in levels))
            continue
        lots, ticks = expected
        assert found.filled_quantity == float(lots / 10**instrument.quantity_decimals)
        assert found.average_price == float(ticks / 10**instrument.price_decimals)
        assert found.slippage_bps == float(10_000 * abs(ticks / levels[0][0] - 1))


DEPTH = st.lists(st.tuples(st.integers(1, 50), st.integers(1, 10**7)), max_size=8)


@given(DEPTH, DEPTH, st.integers(1, 10**6))
def test_slippage_is_exactly_that_of_fractions(down, up, notional: int) -> None:
    bids = [(10_000 - sum(step for step, _ in down[: i + 1]), lots) for i, (_, lots) in enumerate(down)]
    asks = [(10_000 + sum(step for step, _ in up[: i + 1]), lots) for i, (_, lots) in enumerate(up)]
    check_slippage(book(bids, asks), BTC, notional)


def test_genuine_slippage_is_exactly_that_of_fractions(genuine: Capture) -> None:
    for snapshot in genuine.snapshots[::20]:
        for notional in (10_000, 25_000, 50_000):
            check_slippage(snapshot, genuine.instrument, notional)
        l1 = l1_metrics(snapshot, genuine.instrument)
        (bid, bid_lots), (ask, ask_lots) = snapshot.bids[0].tolist(), snapshot.asks[0].tolist()
        assert l1.spread_bps == pytest.approx(float(Fraction(10_000 * (ask - bid), bid)))
        micro = Fraction(bid * ask_lots + ask * bid_lots, bid_lots + ask_lots)
        assert l1.microprice == pytest.approx(float(micro / 10**genuine.instrument.price_decimals))
        bids, asks = (int(side[:20, 1].sum()) for side in (snapshot.bids, snapshot.asks))
        assert (l1.imbalance, l1.imbalance_ratio) == ((bids - asks) / (bids + asks), bids / asks)
