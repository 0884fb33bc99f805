"""Derivatives data in the market database: versions of values, and what is held of each day."""

from collections.abc import Sequence
from datetime import UTC, date, datetime

import polars as pl

from resources.timescale.store import MarketStore
from resources.timescale.tables import DERIVATIVE
from resources.timescale.writing import Written
from trading.market.derivative_coverage import DayCoverage
from trading.market.derivatives import as_known, news


def add_versions(market: MarketStore, symbol: str, found: pl.DataFrame, lo_ms: int, hi_ms: int) -> Written:
    """Keep what was found in `[lo_ms, hi_ms)` and is not held so already; what is held stays.

    Args:
        market: Where to.
        symbol: Whose values.
        found: `DERIVATIVE_SCHEMA`.
        lo_ms: Start of the span.
        hi_ms: End of it.
    """
    held = market.read(DERIVATIVE, symbol, lo_ms, hi_ms)
    return market.write(DERIVATIVE, symbol, news(held, found), lo_ms, hi_ms)


def derivatives_as_of(
    market: MarketStore, symbol: str, lo_ms: int, hi_ms: int, known_by_ms: int | None = None
) -> pl.DataFrame:
    """Return each value with time in `[lo_ms, hi_ms)` once, as it was known by a moment (inclusive) or is now."""
    return as_known(market.read(DERIVATIVE, symbol, lo_ms, hi_ms), known_by_ms)


def set_coverage(market: MarketStore, symbol: str, days: Sequence[DayCoverage]) -> None:
    """Note what is held of some days; a day that the venue once said to be empty does not become missing."""
    rows = [(d.kind, _date(d.day_ms), d.state, d.values, d.longest_gap_ms) for d in days]
    kinds, dates, states, values, gaps = zip(*rows, strict=True) if rows else ((), (), (), (), ())
    market.execute(
        """
        INSERT INTO md.derivative_coverage AS c (symbol_id, kind, day, state, n_values, longest_gap_ms)
        SELECT s.symbol_id, d.* FROM md.symbol s,
            unnest($3::text[], $4::date[], $5::text[], $6::int[], $7::bigint[]) AS d
        WHERE s.venue = $1 AND s.name = $2
        ON CONFLICT (symbol_id, kind, day) DO UPDATE SET
            state = CASE WHEN c.state = 'empty' AND excluded.state = 'missing' THEN 'empty' ELSE excluded.state END,
            n_values = excluded.n_values, longest_gap_ms = excluded.longest_gap_ms
        """,
        market.venue,
        symbol,
        list(kinds),
        list(dates),
        list(states),
        list(values),
        list(gaps),
    )


def coverage(market: MarketStore, symbol: str) -> list[DayCoverage]:
    """Return what is held of each day and kind that was ever asked for, by day."""
    rows = market.fetch(
        "SELECT c.kind, c.day, c.state, c.n_values, c.longest_gap_ms FROM md.derivative_coverage c "
        "JOIN md.symbol s USING (symbol_id) WHERE s.venue = $1 AND s.name = $2 ORDER BY c.day, c.kind",
        market.venue,
        symbol,
    )
    return [DayCoverage(kind, _first_ms(day), state, values, gap) for kind, day, state, values, gap in rows]


def _date(day_ms: int) -> date:
    return datetime.fromtimestamp(day_ms / 1000, UTC).date()


def _first_ms(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000
