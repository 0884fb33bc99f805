"""Which ids of a symbol are held, from where, and which are missing: the journal's ledger, for whoever asks in SQL.

The journal's ledger is written with the trades and is the truth; `md.trade_range` is its projection. What the journal
keeps no longer stays there.
"""

from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from resources.journal import TradeJournal
from resources.timescale.store import MarketStore
from trading.errors import TradingError
from trading.stream.contiguity import IdRange
from trading.stream.repair import Fill

Row = tuple[int, int, str, str, int, int]
"""First id, last id, state, origin, first and last exchange time in milliseconds."""


class NoSuchGap(TradingError):
    """No missing ids are known where a note was to be left."""


def rows_of(ledger: list[IdRange], fills: list[Fill]) -> list[Row]:
    """Return the rows of one symbol's ledger and of what came over REST."""
    rows = [
        (held.first_id, held.last_id, "complete", "websocket", held.proven_from_ms, held.proven_until_ms)
        for held in ledger
        if held.last_id >= held.first_id
    ]
    rows += [
        (
            before.last_id + 1,
            after.first_id - 1,
            "absent" if after.absent_before else "repairing",
            "nowhere",
            before.proven_until_ms,
            max(after.proven_from_ms, before.proven_until_ms),
        )
        for before, after in pairwise(ledger)
    ]
    rows += [(fill.first_id, fill.last_id, "complete", "rest", fill.from_ms, fill.until_ms) for fill in fills]
    return rows


def project(journal: TradeJournal, market: MarketStore, symbol: str) -> None:
    """Bring the projection of one symbol up to date; what the journal speaks of no longer stays, cut at its edge."""
    ledger = journal.ledger(symbol)
    if not ledger:
        return
    edge, since_ms = ledger[0].first_id, ledger[0].proven_from_ms
    rows = rows_of(ledger, [fill for fill in journal.fills(symbol) if fill.first_id >= edge])
    columns = list(zip(*rows, strict=True)) or [[]] * 6
    whose = "symbol_id = (SELECT symbol_id FROM md.symbol WHERE venue = $1 AND name = $2)"
    market.execute(
        f"DELETE FROM md.trade_range WHERE {whose} AND first_id >= $3 "  # noqa: S608
        "AND (origin, first_id) NOT IN (SELECT * FROM unnest($4::text[], $5::bigint[]))",
        *(market.venue, symbol, edge, columns[3], columns[0]),
    )
    market.execute(
        "UPDATE md.trade_range SET last_id = $3 - 1, until_time = greatest(from_time, least(until_time, "  # noqa: S608
        f"to_timestamp($4::bigint / 1000.0))) WHERE {whose} AND first_id < $3 AND last_id >= $3",
        *(market.venue, symbol, edge, since_ms),
    )
    market.execute(
        "INSERT INTO md.trade_range SELECT symbol_id, r.a, r.b, r.c, r.d, to_timestamp(r.e / 1000.0), "
        "to_timestamp(r.f / 1000.0) FROM md.symbol, "
        "unnest($3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::bigint[], $8::bigint[]) AS r (a, b, c, d, e, f) "
        "WHERE venue = $1 AND name = $2 ON CONFLICT (symbol_id, origin, first_id) DO UPDATE SET last_id = excluded.last_id, "
        "state = excluded.state, from_time = excluded.from_time, until_time = excluded.until_time",
        *(market.venue, symbol, *columns),
    )


def gaps(market: MarketStore, symbols: list[str]) -> list[dict[str, Any]]:
    """Return what is or was missing, oldest first: `repairing`, `absent`, `explained` or `repaired`.

    What the collector still misses is repaired too once all of it is in the database, from the archive or a backfill;
    `missing` counts the ids that are not.
    """
    query = """
        SELECT s.name AS symbol, r.first_id, r.last_id, r.last_id - r.first_id + 1 AS ids, r.from_time, r.until_time,
               CASE WHEN r.origin = 'nowhere' THEN r.last_id - r.first_id + 1 - h.held ELSE 0 END AS missing,
               CASE WHEN r.origin <> 'nowhere' OR h.held = r.last_id - r.first_id + 1 THEN 'repaired'
                    WHEN n.note IS NOT NULL THEN 'explained' ELSE r.state END AS state,
               n.note
        FROM md.trade_range r JOIN md.symbol s USING (symbol_id)
        LEFT JOIN LATERAL (
            SELECT string_agg(note, '; ' ORDER BY noted_at) AS note FROM md.gap_note n
            WHERE n.symbol_id = r.symbol_id AND n.first_id <= r.first_id AND n.last_id >= r.last_id) n ON true
        LEFT JOIN LATERAL (
            SELECT count(*) AS held FROM md.trade t WHERE r.origin = 'nowhere'
            AND t.symbol_id = r.symbol_id AND t.agg_trade_id BETWEEN r.first_id AND r.last_id) h ON true
        WHERE s.venue = $1 AND s.name = ANY($2) AND r.origin <> 'websocket' ORDER BY s.name, r.first_id
    """
    return [
        {**row, "from_time": _iso(row["from_time"]), "until_time": _iso(row["until_time"])}
        for row in map(dict, market.fetch(query, market.venue, symbols))
    ]


def explain(market: MarketStore, symbol: str, first_id: int, last_id: int, note: str) -> None:
    """Say why ids are missing.

    Raises:
        NoSuchGap: None of these ids is missing.
    """
    found = market.fetch(
        "SELECT 1 FROM md.trade_range JOIN md.symbol USING (symbol_id) WHERE venue = $1 AND name = $2 "
        "AND origin = 'nowhere' AND first_id <= $4 AND last_id >= $3",
        market.venue,
        symbol,
        first_id,
        last_id,
    )
    if not found:
        raise NoSuchGap(f"no id of {symbol} from {first_id} to {last_id} is missing", "'trading gaps' lists them")
    market.execute(
        "INSERT INTO md.gap_note SELECT symbol_id, $3, $4, $5 FROM md.symbol WHERE venue = $1 AND name = $2 "
        "ON CONFLICT (symbol_id, first_id, last_id) DO UPDATE SET note = excluded.note, noted_at = now()",
        market.venue,
        symbol,
        first_id,
        last_id,
        note,
    )


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
