"""Liquidity vacuums: where little traded and where little rests."""

from statistics import median

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.trading.microstructure.made import BTC, END, T0, book, trades
from trading.microstructure.profile_bins import BadBinSize
from trading.microstructure.terms import Severity
from trading.microstructure.vacuums import Impact, LiquidityVacuum, stop_advice, vacuums_in_book, vacuums_in_profile
from trading.microstructure.volume_profile import VolumeProfile, volume_profile


def profile(*lots: int, bin_ticks: int = 10, low_tick: int = 100_000) -> VolumeProfile:
    """Return a profile with these lots in its bins."""
    rows = [(0, low_tick + bin_ticks * i, 1, False) for i, lot in enumerate(lots) for _ in range(lot)]
    return volume_profile(trades(*rows), BTC, T0, END, bin_ticks)


def edges(vacuums: tuple[LiquidityVacuum, ...]) -> list[tuple[float, float]]:
    return [(v.price_low, v.price_high) for v in vacuums]


def test_a_run_of_thin_bins_is_one_vacuum() -> None:
    (vacuum,) = vacuums_in_profile(profile(500, 400, 10, 0, 50, 500))
    assert (vacuum.source, vacuum.side) == ("trades", None)
    assert (vacuum.price_low, vacuum.price_high) == (1_000.2, 1_000.5)
    assert vacuum.median_volume == 400 / 10**5  # of 500, 400, 10, 50, 500
    assert vacuum.actual_volume == pytest.approx(20 / 10**5)
    assert vacuum.deficit_pct == pytest.approx(95)
    assert (vacuum.severity, vacuum.expected_impact) == (Severity.CRITICAL, Impact.FAST_MOVEMENT)


def test_an_empty_bin_is_a_vacuum_and_does_not_lower_what_is_usual() -> None:
    empty = [0] * 9
    (vacuum,) = vacuums_in_profile(profile(500, *empty, 500))
    assert edges((vacuum,)) == [(1_000.1, 1_001.0)]
    assert (vacuum.actual_volume, vacuum.median_volume, vacuum.deficit_pct) == (0, 0.005, 100)


def test_a_bin_of_exactly_a_fifth_of_the_median_is_not_thin() -> None:
    assert vacuums_in_profile(profile(500, 100, 500)) == ()
    assert len(vacuums_in_profile(profile(500, 99, 501))) == 1
    assert vacuums_in_profile(profile(525, 105, 525)) == ()  # in floats, 0.00105 is less than a fifth of 0.00525


def test_neighbours_nearer_than_a_tenth_of_a_percent_are_one() -> None:
    # Bins of 0.10 at a price of 1,000: nine bins between are 0.09 %, ten are just 0.1 %.
    near = vacuums_in_profile(profile(200, 0, *[200] * 9, 0, 200))
    far = vacuums_in_profile(profile(200, 0, *[200] * 11, 0, 200))
    assert edges(near) == [(1_000.1, 1_001.2)]
    assert edges(far) == [(1_000.1, 1_000.2), (1_001.3, 1_001.4)]


def test_a_merge_weighs_each_part_by_its_own_width() -> None:
    # Three empty bins and, one normal bin on, one bin of 80: the gap counts for neither.
    (vacuum,) = vacuums_in_profile(profile(500, 0, 0, 0, 500, 80, 500))
    assert edges((vacuum,)) == [(1_000.1, 1_000.6)]
    assert vacuum.actual_volume == pytest.approx(20 / 10**5)  # 80 over four thin bins


@pytest.mark.parametrize(
    ("lots", "severity", "impact"),
    [
        (10, Severity.CRITICAL, Impact.FAST_MOVEMENT),
        (100, Severity.HIGH, Impact.MODERATE),
        (250, Severity.MEDIUM, Impact.NEGLIGIBLE),
        (400, Severity.LOW, Impact.NEGLIGIBLE),
    ],
)
def test_severity_follows_the_deficit(lots: int, severity: Severity, impact: Impact) -> None:
    (vacuum,) = vacuums_in_profile(profile(500, lots, 500), thin_share=0.9)
    assert (vacuum.severity, vacuum.expected_impact) == (severity, impact)


@given(st.lists(st.integers(0, 400), min_size=8, max_size=60).filter(lambda lots: sum(lots) >= 1_000))
@settings(max_examples=40, deadline=None)
@example([0, 0, 26, 44, 400, 400, 0, 130])  # an empty bin lacks all of the median, and not a bit more
def test_each_thin_bin_lies_in_exactly_one_vacuum(lots: list[int]) -> None:
    made = profile(*lots)
    vacuums = vacuums_in_profile(made)
    assert list(vacuums) == sorted(vacuums, key=lambda v: v.price_low)
    for b in made.bins:
        holding = [v for v in vacuums if v.price_low <= b.price_low and b.price_high <= v.price_high]
        assert len(holding) <= 1
        assert holding or 5 * round(b.volume * 10**5) >= median([lot for lot in lots if lot])
    assert all(80 < v.deficit_pct <= 100 for v in vacuums)


def test_a_hole_in_a_book_is_a_vacuum_of_its_side_and_the_spread_is_none() -> None:
    bids = [(10_000, 50), (9_990, 60), (9_930, 40)]
    asks = [(10_500, 30), (10_510, 30), (10_520, 2), (10_530, 30)]
    found = vacuums_in_book(book(bids, asks), BTC)
    assert [(v.source, v.side, v.price_low, v.price_high) for v in found] == [
        ("book", "bid", 99.4, 99.9),
        ("book", "ask", 105.2, 105.3),
    ]
    assert found[0].median_volume == 0.0005
    assert found[1].actual_volume == 0.00002


def test_a_book_without_levels_has_no_vacuum() -> None:
    assert vacuums_in_book(book([], []), BTC) == ()


def test_bins_of_a_book_have_limits() -> None:
    with pytest.raises(BadBinSize):
        vacuums_in_book(book([(10_000, 1), (1_000, 1)], []), BTC, bin_ticks=1)


def vacuum(low: float, high: float) -> LiquidityVacuum:
    return LiquidityVacuum("trades", None, low, high, 0.0, 1.0, 100.0, Severity.CRITICAL, Impact.FAST_MOVEMENT)


def test_a_stop_stands_beyond_the_nearest_vacuum() -> None:
    vacuums = [vacuum(900, 910), vacuum(950, 960), vacuum(1_050, 1_060), vacuum(1_100, 1_110)]
    long = stop_advice(vacuums, "long", 1_000.0, BTC)
    assert (long.stop_price, long.vacuum) == (948.1, vacuums[1])
    assert long.distance_pct == pytest.approx(5.19)
    short = stop_advice(vacuums, "short", 1_000.0, BTC)
    assert (short.stop_price, short.vacuum) == (1_062.12, vacuums[2])


def test_a_vacuum_around_the_entry_is_the_nearest() -> None:
    around = vacuum(990, 1_010)
    assert stop_advice([vacuum(900, 910), around], "long", 1_000.0, BTC).vacuum == around
    assert stop_advice([around, vacuum(1_100, 1_110)], "short", 1_000.0, BTC).vacuum == around


@pytest.mark.parametrize(("position", "stop"), [("long", 980.0), ("short", 1_020.0)])
def test_without_a_vacuum_a_stop_is_two_percent_away(position, stop: float) -> None:
    beyond = vacuum(1_200, 1_210) if position == "long" else vacuum(800, 810)
    advice = stop_advice([beyond], position, 1_000.0, BTC)
    assert (advice.stop_price, advice.vacuum) == (stop, None)
    assert advice.distance_pct == pytest.approx(2)


def test_a_stop_is_a_whole_tick_away_from_the_entry() -> None:
    assert stop_advice([], "long", 1_000.07, BTC).stop_price == 980.06  # 980.0686
    assert stop_advice([], "short", 1_000.07, BTC).stop_price == 1_020.08  # 1,020.0714
