"""The index of market states in Qdrant: exact search among states whose outcomes were known at a moment.

The moment is a mandatory argument of every search and becomes a filter on maturity here; no caller can search without
it. The embedded engine and a Qdrant server are reached alike, by URL.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from resources.settings import masked
from trading.errors import TradingError
from trading.rag.features import FEATURE_VERSION, FEATURES

BATCH: Final = 1000
PAGE: Final = 5000
INDEXED: Final = {
    "symbol": models.PayloadSchemaType.KEYWORD,
    "ts_ms": models.PayloadSchemaType.INTEGER,
    "matures_at_ms": models.PayloadSchemaType.INTEGER,
}


class WrongCollection(TradingError):
    """The collection exists with another dimension or distance."""


class IndexUnavailable(TradingError):
    """Qdrant does not answer, or not as Qdrant does."""


@dataclass(frozen=True)
class Point:
    """One state: its id, vector and payload."""

    id: str
    vector: list[float]
    payload: dict[str, Any]


@dataclass(frozen=True)
class Neighbour:
    """A state found: its id, time, Euclidean distance and payload."""

    id: str
    ts_ms: int
    score: float
    payload: dict[str, Any]


class SnapshotIndex:
    """The states of all symbols in one version of the features.

    Args:
        url: Qdrant's REST root.
        collection: Collection name; it carries the version of the features.
        dimension: Length of a vector.
    """

    def __init__(
        self, url: str, collection: str = f"market_states_{FEATURE_VERSION}", dimension: int = len(FEATURES)
    ) -> None:
        self._collection = collection
        self._dimension = dimension
        self._client = QdrantClient(url=url, timeout=60, check_compatibility=False)

    def ensure(self) -> None:
        """Create the collection and its payload indexes, or check that it fits.

        Raises:
            IndexUnavailable: Qdrant does not answer as Qdrant does.
            WrongCollection: The collection has another dimension or distance.
        """
        with _answering():
            if not self._client.collection_exists(self._collection):
                vectors = models.VectorParams(size=self._dimension, distance=models.Distance.EUCLID)
                self._client.create_collection(self._collection, vectors_config=vectors)
            there = self._client.get_collection(self._collection)
            parameters = there.config.params.vectors
            if not isinstance(parameters, models.VectorParams) or (parameters.size, parameters.distance) != (
                self._dimension,
                models.Distance.EUCLID,
            ):
                raise WrongCollection(
                    f"collection {self._collection} is not {self._dimension}-dimensional with Euclidean distance",
                    "delete it, or use another Qdrant",
                )
            # A creation that was cut short may have left the collection without them.
            for name in INDEXED.keys() - there.payload_schema.keys():
                self._client.create_payload_index(self._collection, name, INDEXED[name], wait=True)

    def upsert(self, points: Sequence[Point]) -> None:
        """Insert or replace points; they are searchable when this returns."""
        for first in range(0, len(points), BATCH):
            batch = [
                models.PointStruct(id=point.id, vector=point.vector, payload=point.payload)
                for point in points[first : first + BATCH]
            ]
            with _answering():
                self._client.upsert(self._collection, batch, wait=True)

    def delete(self, ids: Sequence[str]) -> None:
        """Delete points by id."""
        for first in range(0, len(ids), BATCH):
            with _answering():
                batch = models.PointIdsList(points=list(ids[first : first + BATCH]))
                self._client.delete(self._collection, batch, wait=True)

    def stored(self, symbol: str, lo_ms: int = 0, hi_ms: int = 2**53) -> list[tuple[int, str, str]]:
        """Return (ts_ms, id, digest) of a symbol's points with time in `[lo_ms, hi_ms)`, in order of time and id."""
        with _answering():
            return sorted(
                (point.payload["ts_ms"], str(point.id), point.payload.get("digest") or "")
                for point in self._scroll(_where(symbol, ts_ms=models.Range(gte=lo_ms, lt=hi_ms)))
                if point.payload
            )

    def payload_digests(self, symbol: str, lo_ms: int, hi_ms: int) -> dict[str, str]:
        """Return the digest of each of a symbol's points by id."""
        return {identity: digest for _, identity, digest in self.stored(symbol, lo_ms, hi_ms)}

    def query(self, vector: Sequence[float], *, symbol: str, as_of_ms: int, k: int) -> list[Neighbour]:
        """Return the `k` nearest states of a symbol whose outcomes were known at `as_of_ms`, nearest first."""
        with _answering():
            found = self._client.query_points(
                self._collection,
                query=list(vector),
                query_filter=_where(symbol, matures_at_ms=models.Range(lte=as_of_ms)),
                search_params=models.SearchParams(exact=True),
                limit=k,
                with_payload=True,
            ).points
        return [Neighbour(str(p.id), (p.payload or {})["ts_ms"], p.score, p.payload or {}) for p in found]

    def count(self, symbol: str | None = None) -> int:
        """Return how many points there are, of one symbol or of all."""
        where = _where(symbol) if symbol else None
        with _answering():
            return self._client.count(self._collection, count_filter=where, exact=True).count

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _scroll(self, where: models.Filter) -> Iterator[Any]:
        offset: Any = None
        while True:
            points, offset = self._client.scroll(
                self._collection, where, limit=PAGE, offset=offset, with_payload=["ts_ms", "digest"], with_vectors=False
            )
            yield from points
            if offset is None:
                return


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except (UnexpectedResponse, ResponseHandlingException, ValueError) as error:
        raise IndexUnavailable(
            f"Qdrant does not answer as it should: {masked(str(error))}",
            "check TRADING_QDRANT_URL or run 'trading doctor'",
        ) from None


def _where(symbol: str, **ranges: models.Range) -> models.Filter:
    must: list[Any] = [models.FieldCondition(key="symbol", match=models.MatchValue(value=symbol))]
    must += [models.FieldCondition(key=key, range=bounds) for key, bounds in ranges.items()]
    return models.Filter(must=must)
