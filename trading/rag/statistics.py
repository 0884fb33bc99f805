"""What followed similar states: counts and quantiles of outcomes, by one rule."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

HORIZONS: Final = ("1h", "4h", "24h")
QUANTILES: Final = (5, 25, 50, 75, 95)


def neighbour_statistics(neighbours: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how many states there are on how many days, and quantiles of their outcomes by horizon, in percent.

    Args:
        neighbours: Each with `time` (ISO text) and `outcome_1h`, `outcome_4h`, `outcome_24h`.
    """
    horizons: dict[str, Any] = {}
    for horizon in HORIZONS:
        values = [n[f"outcome_{horizon}"] for n in neighbours if n[f"outcome_{horizon}"] is not None]
        if values:
            cuts = np.percentile(values, QUANTILES)
            horizons[horizon] = {f"p{q:02d}_pct": round(float(cut), 4) for q, cut in zip(QUANTILES, cuts, strict=True)}
            horizons[horizon]["share_up"] = round(sum(value > 0 for value in values) / len(values), 4)
    return {"n": len(neighbours), "distinct_days": len({n["time"][:10] for n in neighbours}), **horizons}
