"""The states of a day, and that a day without trades is not a day without data."""

import pytest

from trading.market.timeframe import DAY_MS, HOUR_MS
from trading_assets.coverage import state

WHOLE = {"agg_trades": (5000, None), "candles_1m": (1440, 1440), "candles_3m": (480, 480), "indicators_3m": (480, None)}


@pytest.mark.parametrize(
    ("dataset", "day", "proven_ms", "over_ms", "expected"),
    [
        ("agg_trades", WHOLE, DAY_MS, HOUR_MS, "available"),
        ("agg_trades", WHOLE, DAY_MS - 1, HOUR_MS, "degraded"),
        ("agg_trades", WHOLE, DAY_MS - 1, -HOUR_MS, "pending"),
        ("agg_trades", {}, DAY_MS, HOUR_MS, "empty"),
        ("agg_trades", {}, HOUR_MS, HOUR_MS, "degraded"),
        ("agg_trades", {}, 0, HOUR_MS, "missing"),
        ("agg_trades", {}, 0, -HOUR_MS, "pending"),
        ("candles_1m", WHOLE, 0, HOUR_MS, "available"),
        ("candles_1m", {"candles_1m": (1439, 1439)}, 0, HOUR_MS, "degraded"),
        ("candles_1m", {"candles_1m": (17, 17)}, DAY_MS, HOUR_MS, "available"),
        ("candles_1m", {"candles_1m": (1440, 1439)}, DAY_MS, HOUR_MS, "degraded"),
        ("candles_1m", {}, DAY_MS, HOUR_MS, "empty"),
        ("candles_1m", {}, 0, HOUR_MS, "missing"),
        ("indicators_3m", WHOLE, 0, HOUR_MS, "available"),
        ("indicators_3m", WHOLE | {"indicators_3m": (479, None)}, 0, HOUR_MS, "degraded"),
        ("candles_1m", {"agg_trades": (5000, None)}, DAY_MS, HOUR_MS, "missing"),
        ("profile_minutes", {"profile_minutes": (1400, None)}, DAY_MS, HOUR_MS, "available"),
        ("profile_minutes", {"profile_minutes": (60, None)}, HOUR_MS, HOUR_MS, "degraded"),
        ("profile_minutes", {"agg_trades": (5000, None)}, DAY_MS, HOUR_MS, "missing"),
        ("profile_minutes", {}, DAY_MS, HOUR_MS, "empty"),
        ("order_flow", {"profile_minutes": (60, None), "order_flow": (60, None)}, 0, HOUR_MS, "available"),
        ("order_flow", {}, DAY_MS, HOUR_MS, "empty"),
        ("order_books", {"order_books": (1440, None)}, 0, HOUR_MS, "available"),
        ("order_books", {"order_books": (1439, None)}, 0, HOUR_MS, "degraded"),
        ("order_books", {}, DAY_MS, HOUR_MS, "missing"),
        ("market_snapshots", {"market_snapshots": (96, None)}, 0, HOUR_MS, "available"),
        ("market_snapshots", {"market_snapshots": (95, None)}, 0, HOUR_MS, "degraded"),
        ("snapshot_outcomes", {"market_snapshots": (96, None), "snapshot_outcomes": (40, None)}, 0, HOUR_MS, "pending"),
        ("snapshot_outcomes", {"market_snapshots": (96, None), "snapshot_outcomes": (40, None)}, 0, DAY_MS, "degraded"),
        ("snapshot_outcomes", {"market_snapshots": (96, None)}, 0, DAY_MS, "missing"),
    ],
)
def test_a_day_is_in_one_state(
    dataset: str, day: dict[str, tuple[int, int | None]], proven_ms: int, over_ms: int, expected: str
) -> None:
    assert state(dataset, day, proven_ms, over_ms) == expected
