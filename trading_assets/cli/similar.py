"""States of the past that resemble a state, and what came after them, as of a moment."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from trading.errors import TradingError
from trading.market.timeframe import MINUTE_MS

if TYPE_CHECKING:
    from resources.stores import Stores

SNAPSHOT_INTERVAL_MS = 15 * MINUTE_MS


class NoState(TradingError):
    """There is no state to compare at that moment."""


def last_state(stores: "Stores", symbol: str) -> int:
    """Return the time (ms) of the last state of a symbol that can be compared.

    Raises:
        NoState: There is none.
    """
    from resources.timescale.tables import FEATURE

    span = stores.market.span(FEATURE, symbol)
    if span is None:
        raise NoState(
            f"{symbol} has no market state yet",
            "a state needs 25 days of bars before it: materialize 26 days or more up to 'qdrant_points'",
        )
    return span[1]


def similar(stores: "Stores", symbol: str, as_of_ms: int, k: int) -> dict[str, Any]:
    """Return the `k` mature states nearest to the state of `symbol` at the last quarter of an hour up to `as_of_ms`.

    Raises:
        NoState: No warm, gapless state was taken at that moment.
    """
    from resources.timescale.tables import FEATURE
    from trading.rag.features import FEATURES
    from trading.rag.statistics import neighbour_statistics

    ts_ms = as_of_ms - as_of_ms % SNAPSHOT_INTERVAL_MS
    row = stores.market.read(FEATURE, symbol, ts_ms, ts_ms + 1)
    if row.is_empty():
        hint = f"the last state is that of {_iso(last_state(stores, symbol))}"
        raise NoState(f"{symbol} has no warm state without gaps at {_iso(ts_ms)}", hint)
    vector = [float(value) for value in row.select(FEATURES).row(0)]
    found = stores.index.query(vector, symbol=symbol, as_of_ms=as_of_ms, k=k)
    neighbours = [
        {
            "time": _iso(n.ts_ms),
            "id": str(n.id),
            "distance": n.score,
            "price": n.payload["price"],
            "matures_at": _iso(n.payload["matures_at_ms"]),
            **n.payload["outcome"],
        }
        for n in found
    ]
    return {
        "symbol": symbol,
        "as_of": _iso(as_of_ms),
        "state_at": _iso(ts_ms),
        "neighbours": neighbours,
        "statistics": neighbour_statistics(neighbours),
    }


def _iso(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat().replace("+00:00", "Z")
