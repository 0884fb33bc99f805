"""What every asset of a subject shares: group, owner, kinds, freshness, and how far one run may reach.

Groups are the landing page of the lineage; read left to right they are the sentence
sources → trades → candles → indicators → rag, with derivatives beside.
"""

from datetime import timedelta
from typing import Any, Final

import dagster as dg

from trading_assets.partitions import symbol_days

MARKET_DATA: Final = ["team:market-data"]
RESEARCH: Final = ["team:research"]

daily_fresh: Final = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=26), warn_window=timedelta(hours=25))


def daily(group: str, *kinds: str, owners: list[str] = MARKET_DATA) -> dict[str, Any]:
    """Return the arguments of an asset with one partition for each symbol and day."""
    return {
        "partitions_def": symbol_days,
        "backfill_policy": dg.BackfillPolicy.multi_run(31),
        "group_name": group,
        "kinds": {"python", *kinds},
        "owners": owners,
        "freshness_policy": daily_fresh,
    }
