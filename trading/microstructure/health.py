"""Microstructure health is how well a market stands, 0 … 100, from four components that are each known or null.

Weights, formulas and levels are those of seed 003: stability of the spread .25, depth .35, balance of the flow .25, rate
of updates .15. A component whose input is absent is null and its weight is left out; it is never counted as zero.
"""

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

import msgspec
import numpy as np

WEIGHTS: Final = {"spread_stability": 0.25, "depth": 0.35, "flow_balance": 0.25, "update_rate": 0.15}

LEAST_WEIGHT: Final = 0.5
"""Components that are known must carry this much together, or there is no score."""

USUAL_UPDATES: Final = (10.0, 100.0)
MOST_UPDATES: Final = 500.0
SOUND_COMPONENT: Final = 50.0


class HealthLevel(StrEnum):
    """What a score means."""

    EXCELLENT = "excellent"
    GOOD = "good"
    FAIR = "fair"
    POOR = "poor"
    CRITICAL = "critical"


ACTIONS: Final = {
    HealthLevel.EXCELLENT: "trade as usual",
    HealthLevel.GOOD: "trade as usual, watch the weakest component",
    HealthLevel.FAIR: "trade smaller and with limit orders",
    HealthLevel.POOR: "open nothing that need not be opened",
    HealthLevel.CRITICAL: "open nothing; close only with limit orders",
}


class MicrostructureHealth(msgspec.Struct, frozen=True):
    """Scores 0 … 100, higher is better.

    Attributes:
        spread_stability: 100 less twice the spread's coefficient of variation in percent, which counts up to 50.
        depth: 50 times depth now by its mean, at most 100.
        flow_balance: 100 where takers buy as much as they sell, 0 where all are on one side.
        update_rate: 100 from 10 to 100 updates a second, falling to 0 at none and at 500.
        overall: Weighted mean of the known components; None where those weigh less than `LEAST_WEIGHT`.
        known_weight: What the known components weigh, 0 … 1.
        level: Excellent from 80 on, and only where all components are known and at least 50; good from 60, fair from
            40, poor from 20.
        recommended_action: By level.
    """

    spread_stability: float | None
    depth: float | None
    flow_balance: float | None
    update_rate: float | None
    overall: float | None
    known_weight: float
    level: HealthLevel | None
    recommended_action: str | None


def microstructure_health(
    *,
    spreads_bps: Sequence[float] | None = None,
    depth_now: float | None = None,
    depth_mean: float | None = None,
    buy_volume: float | None = None,
    sell_volume: float | None = None,
    updates_per_s: float | None = None,
) -> MicrostructureHealth:
    """Return the health of a market from what is known of it.

    Args:
        spreads_bps: Spreads of consecutive book snapshots; two or more.
        depth_now: Volume of the top levels of both sides.
        depth_mean: Its mean over a longer time, in the same unit.
        buy_volume: What takers bought in the window.
        sell_volume: What takers sold.
        updates_per_s: Changes of the book a second, counted on raw diffs (snapshots once a second do not carry it).
    """
    components = {
        "spread_stability": _spread_stability(spreads_bps),
        "depth": _depth(depth_now, depth_mean),
        "flow_balance": _flow_balance(buy_volume, sell_volume),
        "update_rate": _update_rate(updates_per_s),
    }
    known = {name: score for name, score in components.items() if score is not None}
    weight = sum(WEIGHTS[name] for name in known)
    overall = None
    if weight >= LEAST_WEIGHT:
        overall = sum(WEIGHTS[name] * score for name, score in known.items()) / weight
    level = None if overall is None else _level(overall, list(components.values()))
    return MicrostructureHealth(
        **components,
        overall=overall,
        known_weight=weight,
        level=level,
        recommended_action=None if level is None else ACTIONS[level],
    )


def _spread_stability(spreads_bps: Sequence[float] | None) -> float | None:
    if spreads_bps is None or len(spreads_bps) < 2:
        return None
    mean = float(np.mean(spreads_bps))
    if mean <= 0:
        return None
    variation_pct = 100 * float(np.std(spreads_bps)) / mean
    return 100 - 2 * min(variation_pct, 50)


def _depth(now: float | None, mean: float | None) -> float | None:
    return min(50 * now / mean, 100) if now is not None and mean else None


def _flow_balance(bought: float | None, sold: float | None) -> float | None:
    if bought is None or sold is None or bought + sold <= 0:
        return None
    return 100 * (1 - 2 * abs(bought / (bought + sold) - 0.5))


def _update_rate(updates_per_s: float | None) -> float | None:
    if updates_per_s is None:
        return None
    low, high = USUAL_UPDATES
    if updates_per_s < low:
        return 100 * updates_per_s / low
    if updates_per_s <= high:
        return 100.0
    return max(100 * (MOST_UPDATES - updates_per_s) / (MOST_UPDATES - high), 0.0)


def _level(overall: float, components: Sequence[float | None]) -> HealthLevel:
    sound = all(score is not None and score >= SOUND_COMPONENT for score in components)
    if overall >= 80 and sound:
        return HealthLevel.EXCELLENT
    bands = ((60, HealthLevel.GOOD), (40, HealthLevel.FAIR), (20, HealthLevel.POOR))
    return next((level for least, level in bands if overall >= least), HealthLevel.CRITICAL)
