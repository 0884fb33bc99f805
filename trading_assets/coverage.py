"""What is there, by symbol, UTC day and dataset: `available`, `degraded`, `pending`, `empty` or `missing`.

The answer comes from what assets recorded of their days and from what ids prove, never from the rows themselves, so it
takes the same moment over a thousand rows as over a thousand million.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from trading.market.timeframe import CANDLE_TIMEFRAMES, DAY_MS, MINUTE_MS
from trading_assets.partitions import day_key, day_ms

if TYPE_CHECKING:
    from resources.timescale.store import MarketStore

STATES: Final = ("available", "degraded", "pending", "empty", "missing")
"""In words: all of it; some of it; not all of it yet; proven to be nothing; nothing."""

FOLLOWS: Final = {
    "indicators_3m": "candles_3m",
    "indicators_4h": "candles_4h",
    "order_flow": "profile_minutes",
    "snapshot_outcomes": "market_snapshots",
    "qdrant_points": "snapshot_features",
}
"""Datasets with a row for each row of another one."""

MATURES_MS: Final = DAY_MS
"""An outcome is known a day after its state."""

DATASETS: Final = (
    "agg_trades",
    *(f"candles_{timeframe.value}" for timeframe in CANDLE_TIMEFRAMES),
    "indicators_3m",
    "indicators_4h",
    "profile_minutes",
    "order_flow",
    "order_books",
    "market_snapshots",
    "snapshot_outcomes",
    "snapshot_features",
    "qdrant_points",
)
_BARS: Final = {f"candles_{timeframe.value}": DAY_MS // timeframe.ms for timeframe in CANDLE_TIMEFRAMES}
_EMPTY_WITHOUT_TRADES: Final = {"agg_trades", "profile_minutes", "order_flow", *_BARS}
_ROWS_A_DAY: Final = {"market_snapshots": DAY_MS // (15 * MINUTE_MS), "order_books": DAY_MS // MINUTE_MS}
"""Of books: one in each minute."""

Record = tuple[int, int | None]
"""Rows of a day, and how many of them lack nothing where they say so."""


def state(dataset: str, day: Mapping[str, Record], proven_ms: int, over_ms: int) -> str:
    """Return the state of one dataset on one day.

    Args:
        dataset: One of `DATASETS`.
        day: What assets recorded of the day, by dataset.
        proven_ms: How much of the day ids prove.
        over_ms: How long the day has been over; negative while it lasts.
    """
    rows, complete = day.get(dataset, (0, None))
    proven = proven_ms >= DAY_MS
    if dataset in ("agg_trades", "profile_minutes"):
        whole = proven
    elif dataset in _BARS:
        whole = complete == rows and (proven or rows == _BARS[dataset])
    elif dataset in _ROWS_A_DAY:
        whole = rows == _ROWS_A_DAY[dataset]
    else:
        whole = rows == day.get(FOLLOWS.get(dataset, dataset), (0, None))[0]
    if proven and not rows and not day.get("agg_trades", (0, None))[0] and dataset in _EMPTY_WITHOUT_TRADES:
        return "empty"
    if rows and whole:
        return "available"
    if over_ms < (MATURES_MS if dataset in ("snapshot_outcomes", "snapshot_features", "qdrant_points") else 0):
        return "pending"
    return "degraded" if rows or (dataset == "agg_trades" and proven_ms) else "missing"


def coverage(
    market: "MarketStore", symbols: Sequence[str], lo_ms: int | None, hi_ms: int | None, now_ms: int | None
) -> list[dict[str, Any]]:
    """Return one entry for each symbol, day and dataset: `symbol`, `day`, `dataset`, `state`, `rows`.

    Args:
        market: Open store.
        symbols: Exchange names.
        lo_ms: First day; None: the first that anything is recorded of, 30 days back at most.
        hi_ms: Moment before which it ends; None: the present.
        now_ms: The present; None: the end of the last day that anything is recorded of, as in a home whose market ends.
    """
    from resources.retired_trades import retired_days

    first, last = market.fetch(
        """
        SELECT min(day), max(day) FROM (
            SELECT symbol_id, day FROM md.day
            UNION ALL SELECT symbol_id, (proven_from AT TIME ZONE 'UTC')::date FROM md.trade_coverage) d
        JOIN md.symbol USING (symbol_id) WHERE venue = $1 AND name = ANY($2)
        """,
        market.venue,
        symbols,
    )[0]
    if first is None:
        return []
    now_ms = now_ms or day_ms(str(last)) + DAY_MS
    end_ms = hi_ms or now_ms
    start_ms = max(day_ms(str(first)), (end_ms - 1) // DAY_MS * DAY_MS - 29 * DAY_MS) if lo_ms is None else lo_ms
    days = [day_key(at_ms) for at_ms in range(start_ms // DAY_MS * DAY_MS, end_ms, DAY_MS)]
    recorded, proven = _recorded(market, symbols, days), _proven(market, symbols, days)
    for symbol in symbols:
        for day, (rows, proven_ms) in retired_days(market, symbol, start_ms, end_ms).items():
            recorded.setdefault((symbol, day), {}).setdefault("agg_trades", (rows, None))
            proven.setdefault((symbol, day), proven_ms)
    return [
        {
            "symbol": symbol,
            "day": day,
            "dataset": dataset,
            "state": state(dataset, records, proven.get((symbol, day), 0), now_ms - day_ms(day) - DAY_MS),
            "rows": records.get(dataset, (0, None))[0],
        }
        for symbol in symbols
        for day in days
        for records in [recorded.get((symbol, day), {})]
        for dataset in DATASETS
    ]


def _recorded(
    market: "MarketStore", symbols: Sequence[str], days: Sequence[str]
) -> dict[tuple[str, str], dict[str, Record]]:
    query = (
        "SELECT name, day::text, asset, rows, complete FROM md.day JOIN md.symbol USING (symbol_id) "
        "WHERE venue = $1 AND name = ANY($2) AND day BETWEEN $3::text::date AND $4::text::date"
    )
    found: dict[tuple[str, str], dict[str, Record]] = {}
    for name, day, asset, rows, complete in (
        market.fetch(query, market.venue, symbols, days[0], days[-1]) if days else []
    ):
        found.setdefault((name, day), {})[asset] = (rows, complete)
    return found


def _proven(market: "MarketStore", symbols: Sequence[str], days: Sequence[str]) -> dict[tuple[str, str], int]:
    """Return how many milliseconds of each day ids prove; a day's ranges are apart and do not reach over its end."""
    query = (
        "SELECT name, (proven_from AT TIME ZONE 'UTC')::date::text AS day, "
        "sum(extract(epoch FROM proven_until - proven_from) * 1000)::bigint "
        "FROM md.trade_coverage JOIN md.symbol USING (symbol_id) WHERE venue = $1 AND name = ANY($2) "
        "AND (proven_from AT TIME ZONE 'UTC')::date BETWEEN $3::text::date AND $4::text::date GROUP BY 1, 2"
    )
    rows = market.fetch(query, market.venue, symbols, days[0], days[-1]) if days else []
    return {(name, day): proven_ms for name, day, proven_ms in rows}
