"""Microstructure health: what is known is scored, what is not is null."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trading.microstructure.health import HealthLevel, microstructure_health

ALL = {
    "spreads_bps": [1.0, 1.0, 1.0],
    "depth_now": 100.0,
    "depth_mean": 100.0,
    "buy_volume": 70.0,
    "sell_volume": 30.0,
    "updates_per_s": 10.0,
}
GROUPS = {
    "spread_stability": ("spreads_bps",),
    "depth": ("depth_now", "depth_mean"),
    "flow_balance": ("buy_volume", "sell_volume"),
    "update_rate": ("updates_per_s",),
}


def test_a_score_by_hand() -> None:
    health = microstructure_health(**ALL)
    assert (health.spread_stability, health.depth, health.update_rate) == (100, 50, 100)
    assert health.flow_balance == pytest.approx(60)
    assert health.overall == pytest.approx(0.25 * 100 + 0.35 * 50 + 0.25 * 60 + 0.15 * 100)
    assert (health.known_weight, health.level) == (1, HealthLevel.GOOD)


@pytest.mark.parametrize(
    "absent", [c for n in range(1, 5) for c in itertools.combinations(GROUPS, n)], ids=lambda names: "-".join(names)
)
def test_a_component_without_its_input_is_null_and_never_zero(absent: tuple[str, ...]) -> None:
    inputs = {name: value for name, value in ALL.items() if not any(name in GROUPS[g] for g in absent)}
    health, whole = microstructure_health(**inputs), microstructure_health(**ALL)
    for name in GROUPS:
        assert getattr(health, name) == (None if name in absent else getattr(whole, name))
    if health.known_weight < 0.5:
        assert (health.overall, health.level, health.recommended_action) == (None, None, None)
    else:
        scores = [getattr(health, name) for name in GROUPS if name not in absent]
        assert health.overall is not None
        assert min(scores) <= health.overall <= max(scores)


@pytest.mark.parametrize("half", ["depth_now", "depth_mean", "buy_volume", "sell_volume"])
def test_half_an_input_is_none(half: str) -> None:
    health = microstructure_health(**{**ALL, half: None})
    assert (health.depth if half.startswith("depth") else health.flow_balance) is None


@pytest.mark.parametrize(
    ("inputs", "component"),
    [
        ({"spreads_bps": [1.0]}, "spread_stability"),
        ({"spreads_bps": [0.0, 0.0]}, "spread_stability"),
        ({"depth_mean": 0.0}, "depth"),
        ({"buy_volume": 0.0, "sell_volume": 0.0}, "flow_balance"),
    ],
)
def test_what_has_no_quotient_is_null(inputs, component: str) -> None:
    assert getattr(microstructure_health(**{**ALL, **inputs}), component) is None


def test_depth_that_is_gone_is_zero_and_known() -> None:
    health = microstructure_health(**{**ALL, "depth_now": 0.0})
    assert health.depth == 0
    assert health.known_weight == 1


@pytest.mark.parametrize(("rate", "score"), [(0, 0), (5, 50), (10, 100), (100, 100), (300, 50), (500, 0), (9_000, 0)])
def test_the_rate_of_updates_is_best_from_ten_to_a_hundred(rate: float, score: float) -> None:
    assert microstructure_health(updates_per_s=rate).update_rate == score


def test_a_spread_that_varies_by_half_its_mean_scores_nothing() -> None:
    assert microstructure_health(spreads_bps=[1.0, 3.0]).spread_stability == 0
    assert microstructure_health(spreads_bps=[0.9, 1.1]).spread_stability == pytest.approx(80)


def test_depth_counts_up_to_twice_its_mean() -> None:
    assert microstructure_health(depth_now=150.0, depth_mean=100.0).depth == 75
    assert microstructure_health(depth_now=900.0, depth_mean=100.0).depth == 100


def test_excellent_takes_all_components_known_and_sound() -> None:
    best = {**ALL, "depth_now": 200.0, "buy_volume": 50.0, "sell_volume": 50.0}
    assert microstructure_health(**best).level == HealthLevel.EXCELLENT
    assert microstructure_health(**{**best, "updates_per_s": None}).level == HealthLevel.GOOD
    assert microstructure_health(**{**best, "updates_per_s": 4.0}).level == HealthLevel.GOOD


@pytest.mark.parametrize(
    ("depth", "level"),
    [
        (120.0, HealthLevel.GOOD),
        (119.0, HealthLevel.FAIR),
        (80.0, HealthLevel.FAIR),
        (79.0, HealthLevel.POOR),
        (40.0, HealthLevel.POOR),
        (39.0, HealthLevel.CRITICAL),
    ],
)
def test_levels_begin_at_sixty_forty_and_twenty(depth: float, level: HealthLevel) -> None:
    # Depth and flow are 60 % of the weight; here both score half of `depth`.
    side = depth / 200
    health = microstructure_health(depth_now=depth, depth_mean=100.0, buy_volume=side / 2, sell_volume=1 - side / 2)
    assert health.level == level


@given(
    st.lists(st.floats(0, 1e4), max_size=8),
    *[st.one_of(st.none(), st.floats(0, 1e9)) for _ in range(5)],
)
def test_scores_lie_between_zero_and_a_hundred(spreads, now, mean, bought, sold, rate) -> None:
    health = microstructure_health(
        spreads_bps=spreads,
        depth_now=now,
        depth_mean=mean,
        buy_volume=bought,
        sell_volume=sold,
        updates_per_s=rate,
    )
    for score in (*[getattr(health, name) for name in GROUPS], health.overall):
        assert score is None or -1e-9 <= score <= 100 + 1e-9
