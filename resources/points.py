"""Points of the market-state index: what they should be by the database, and the few writes that make them so.

The index is a projection. A point's payload carries a digest of itself, so that a comparison with the database reads
digests only and a run over unchanged history writes nothing.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

import polars as pl

from resources.day_digest import days_of_frame
from resources.qdrant import Point, SnapshotIndex
from resources.timescale.store import MarketStore
from resources.timescale.tables import FEATURE, OUTCOME, SNAPSHOT
from trading.rag.features import FEATURE_VERSION, FEATURES
from trading.rag.point import point_id

OUTCOME_FIELDS = (
    "outcome_15m",
    "outcome_1h",
    "outcome_4h",
    "outcome_24h",
    "max_runup_24h",
    "max_drawdown_24h",
    "first_touch",
)


@dataclass(frozen=True)
class Points:
    """Points of one symbol in order of time, and how many of them have mature outcomes."""

    points: list[Point]
    matured: int

    def digests(self) -> dict[str, str]:
        """Return each point's digest by its id."""
        return {point.id: point.payload["digest"] for point in self.points}

    def by_day(self) -> dict[str, tuple[int, str]]:
        """Return rows and digest by UTC day."""
        return days_of_digests([(point.payload["ts_ms"], point.id, point.payload["digest"]) for point in self.points])


def days_of_digests(rows: list[tuple[int, str, str]]) -> dict[str, tuple[int, str]]:
    """Return rows and digest by UTC day of `(ts_ms, id, digest)` rows."""
    if not rows:
        return {}
    return days_of_frame(pl.DataFrame(rows, schema=["ts_ms", "id", "digest"], orient="row"), "ts_ms")


def points_of(market: MarketStore, symbol: str, lo_ms: int, hi_ms: int) -> Points:
    """Return the points that the database's features, states and outcomes make for `[lo_ms, hi_ms)`."""
    features = market.read(FEATURE, symbol, lo_ms, hi_ms)
    states = market.read(SNAPSHOT, symbol, lo_ms, hi_ms).select("ts_ms", "price", snapshot_digest="digest")
    outcomes = market.read(OUTCOME, symbol, lo_ms, hi_ms, where="complete")
    rows = features.join(states, on="ts_ms", how="left").join(
        outcomes.select("ts_ms", "matures_at_ms", *OUTCOME_FIELDS), on="ts_ms", how="left"
    )
    vectors = rows.select(FEATURES).to_numpy().tolist()
    payloads = rows.drop(FEATURES).to_dicts()
    points = [_point(market.venue, symbol, payload, vector) for payload, vector in zip(payloads, vectors, strict=True)]
    return Points(points, sum("outcome" in point.payload for point in points))


def _point(venue: str, symbol: str, row: dict[str, Any], vector: list[float]) -> Point:
    payload: dict[str, Any] = {
        "symbol": symbol,
        "venue": venue,
        "ts_ms": row["ts_ms"],
        "price": row["price"],
        "embedding_version": FEATURE_VERSION,
        "snapshot_digest": row["snapshot_digest"],
    }
    if row["matures_at_ms"] is not None:
        # An immature point has no such field, so no search by maturity can find it.
        payload |= {"matures_at_ms": row["matures_at_ms"], "outcome": {name: row[name] for name in OUTCOME_FIELDS}}
    text = json.dumps([payload, vector], sort_keys=True, separators=(",", ":"))
    payload["digest"] = hashlib.sha256(text.encode()).hexdigest()[:32]
    return Point(point_id(venue, symbol, row["ts_ms"], FEATURE_VERSION), vector, payload)


def reconcile(index: SnapshotIndex, symbol: str, points: Points, lo_ms: int, hi_ms: int) -> int:
    """Make the index hold exactly `points` for a symbol's `[lo_ms, hi_ms)`; return how many points changed."""
    there, wanted = index.payload_digests(symbol, lo_ms, hi_ms), points.digests()
    stray = [point for point in there if point not in wanted]
    differing = [point for point in points.points if there.get(point.id) != point.payload["digest"]]
    if stray:
        index.delete(stray)
    if differing:
        index.upsert(differing)
    return len(stray) + len(differing)
