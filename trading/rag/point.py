"""The identity of a point: one state of one market in one version of the features."""

import uuid
from typing import Final

NAMESPACE: Final = uuid.uuid5(uuid.NAMESPACE_URL, "trading-assets/market-state")


def point_id(venue: str, symbol: str, ts_ms: int, version: str) -> str:
    """Return the UUIDv5 of a state's natural key, the same in every run and on every machine."""
    return str(uuid.uuid5(NAMESPACE, f"{venue}|{symbol}|{ts_ms}|{version}"))
