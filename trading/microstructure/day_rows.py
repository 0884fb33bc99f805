"""What a day's profile says, as rows: one of the profile, or of why there is none, and one of each vacuum in it."""

from typing import Any, Final

import polars as pl

from trading.market.instrument import Instrument
from trading.market.timeframe import DAY_MS
from trading.microstructure.vacuums import LiquidityVacuum, stop_advice
from trading.microstructure.volume_profile import InsufficientTrades, VolumeProfile, volume_profile_of_minutes

_FIGURES: Final = (
    *("trade_count", "price_low", "price_high", "bin_size", "point_of_control"),
    *("value_area_low", "value_area_high", "value_area_pct", "total_volume"),
)


def day_profile(minutes: pl.DataFrame, instrument: Instrument, day_ms: int) -> VolumeProfile | InsufficientTrades:
    """Return the profile of one UTC day, or the refusal of a day with too few trades, as a value.

    Args:
        minutes: `PROFILE_MINUTE_SCHEMA`, ordered by minute.
        instrument: Gives the size of a tick and a lot.
        day_ms: Its first moment.
    """
    try:
        return volume_profile_of_minutes(minutes, instrument, day_ms, day_ms + DAY_MS)
    except InsufficientTrades as few:
        return few


def profile_row(day_ms: int, profile: VolumeProfile | InsufficientTrades, proven_share: float) -> dict[str, Any]:
    """Return the row of a day: figures and bins, or the count of trades and, in `missing`, the reason."""
    row: dict[str, Any] = {"day": day_ms, "proven_share": proven_share}
    if isinstance(profile, InsufficientTrades):
        return row | {"trade_count": profile.trade_count, "missing": f"InsufficientTrades: {profile.message}"}
    return (
        row
        | {name: getattr(profile, name) for name in _FIGURES}
        | {
            "bin_low": [b.price_low for b in profile.bins],
            "bin_buy_volume": [b.buy_volume for b in profile.bins],
            "bin_sell_volume": [b.sell_volume for b in profile.bins],
            "bin_trade_count": [b.trade_count for b in profile.bins],
        }
    )


def vacuum_row(day_ms: int, vacuum: LiquidityVacuum, instrument: Instrument) -> dict[str, Any]:
    """Return the row of a vacuum; its stops are of positions whose nearest vacuum on the losing side it is."""
    long = stop_advice((vacuum,), "long", vacuum.price_high, instrument)
    short = stop_advice((vacuum,), "short", vacuum.price_low, instrument)
    figures = ("price_low", "price_high", "actual_volume", "median_volume", "deficit_pct")
    return {
        "day": day_ms,
        **{name: getattr(vacuum, name) for name in figures},
        "severity": vacuum.severity.value,
        "expected_impact": vacuum.expected_impact.value,
        "stop_long": long.stop_price,
        "stop_short": short.stop_price,
    }
