"""Rows of a day: what the profile says, or why there is none."""

from hypothesis import given
from hypothesis import strategies as st

from tests.trading.microstructure.made import BTC, trades
from trading.market.timeframe import DAY_MS
from trading.microstructure.day_rows import day_profile, profile_row, vacuum_row
from trading.microstructure.profile_minutes import profile_minutes
from trading.microstructure.terms import Severity
from trading.microstructure.vacuums import Impact, LiquidityVacuum, vacuums_in_profile
from trading.microstructure.volume_profile import InsufficientTrades, VolumeProfile, volume_profile

DAY = 1_700_006_400_000


def day_of_trades(count: int):
    return trades(*((17_000 * n, 1_000 + 7 * (n % 90), 1 + n % 5, n % 3 == 0) for n in range(count)))


def test_a_day_of_a_thousand_trades_has_the_profile_of_these_trades_alone() -> None:
    made = day_of_trades(6_000)
    profile = day_profile(profile_minutes(made), BTC, DAY)
    assert profile == volume_profile(made, BTC, DAY, DAY + DAY_MS)
    assert isinstance(profile, VolumeProfile)
    row = profile_row(DAY, profile, 0.5)
    assert row["trade_count"] == sum(row["bin_trade_count"]) == -(-DAY_MS // 17_000)
    assert sum(row["bin_buy_volume"]) + sum(row["bin_sell_volume"]) - row["total_volume"] < 1e-9
    assert (row["day"], row["proven_share"], row.get("missing")) == (DAY, 0.5, None)


def test_a_day_of_fewer_says_how_many_and_why_and_no_figure_at_all() -> None:
    few = day_profile(profile_minutes(day_of_trades(999)), BTC, DAY)
    assert isinstance(few, InsufficientTrades)
    reason = "InsufficientTrades: BTCUSDT: 999 trades are in the window, a profile needs 1000"
    assert profile_row(DAY, few, 1.0) == {"day": DAY, "proven_share": 1.0, "trade_count": 999, "missing": reason}


def test_each_vacuum_of_a_day_is_a_row() -> None:
    profile = day_profile(profile_minutes(day_of_trades(1_500)), BTC, DAY)
    assert isinstance(profile, VolumeProfile)
    for vacuum in vacuums_in_profile(profile):
        assert vacuum_row(DAY, vacuum, BTC)["price_low"] == vacuum.price_low


@given(st.integers(100, 10**7), st.integers(1, 10**6))
def test_the_stops_of_a_vacuum_lie_beyond_it_on_either_side(low: int, width: int) -> None:
    price_low, price_high = BTC.price(low), BTC.price(low + width)
    vacuum = LiquidityVacuum("trades", None, price_low, price_high, 0, 1, 100, Severity.CRITICAL, Impact.FAST_MOVEMENT)
    row = vacuum_row(DAY, vacuum, BTC)
    assert price_low * 0.998 - 0.0101 < row["stop_long"] < price_low
    assert price_high < row["stop_short"] < price_high * 1.002 + 0.0101
    assert (row["severity"], row["expected_impact"]) == ("critical", "fast_movement")
