"""Which ids of a symbol are held, from where, and which are missing: the journal's ledger, for whoever asks in SQL.

The journal's ledger is written with the trades and is the truth; `md.trade_range` is its projection. What the journal
keeps no longer stays there, and so does what the archive or a backfill over REST brought of ids that it does not hold.
"""

from datetime import UTC, datetime
from itertools import pairwise
from typing import Any, Literal

import polars as pl

from resources.journal import TradeJournal
from resources.timescale.store import MarketStore
from trading.errors import TradingError
from trading.market.instrument import LARGEST
from trading.stream.contiguity import IdRange, claims_of, united
from trading.stream.repair import Fill

Row = tuple[int, int, str, str, int, int]
"""First id, last id, state, origin, first and last exchange time in milliseconds."""

_WHOSE = "symbol_id = (SELECT symbol_id FROM md.symbol WHERE venue = $1 AND name = $2)"


class NoSuchGap(TradingError):
    """No missing ids are known where a note was to be left."""


def rows_of(ledger: list[IdRange], fills: list[Fill]) -> list[Row]:
    """Return the rows of one symbol's ledger and of what came over REST, as far as the ledger holds it."""
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
    cut = (
        (max(fill.first_id, held.first_id), min(fill.last_id, held.last_id), fill) for fill in fills for held in ledger
    )
    rows += [(a, b, "complete", "rest", fill.from_ms, fill.until_ms) for a, b, fill in cut if a <= b]
    return rows


def project(journal: TradeJournal, market: MarketStore, symbol: str) -> None:
    """Bring the projection of one symbol up to date; what the journal speaks of no longer stays, cut at its edge."""
    ledger = journal.ledger(symbol)
    if not ledger:
        return
    edge, since_ms = ledger[0].first_id, ledger[0].proven_from_ms
    rows = rows_of(ledger, journal.fills(symbol)) + _brought_otherwise(market, symbol, ledger)
    # Ids that came twice may begin two rows; the one that reaches further says what both do.
    furthest = {(row[3], row[0]): row for row in sorted(rows, key=lambda row: row[1])}
    market.execute(
        "UPDATE md.trade_range SET last_id = $3 - 1, until_time = greatest(from_time, least(until_time, "  # noqa: S608
        f"to_timestamp($4::bigint / 1000.0))) WHERE {_WHOSE} AND first_id < $3 AND last_id >= $3",
        *(market.venue, symbol, edge, since_ms),
    )
    _replace(market, symbol, list(furthest.values()), edge, LARGEST, ["websocket", "rest", "archive", "nowhere"])


def note_brought(market: MarketStore, symbol: str, origin: Literal["archive", "rest"], trades: pl.DataFrame) -> None:
    """Note that trades (`TRADE_SCHEMA`, in order) are stored which the journal did not bring.

    Those of the archive replace what was noted of it between the first and the last of them. Those over REST are only what
    was absent, and what was noted of it stays.
    """
    spans = claims_of(trades["agg_trade_id"].to_numpy(), trades["time_ms"].to_numpy())
    for span in spans:
        span.proven_from_ms -= 1  # the first trade's own time
    if spans and origin == "rest":
        noted = _noted(market, symbol, [origin], spans[0].first_id - 1, spans[-1].last_id + 1)
        spans = united(spans + [IdRange(r["first_id"], r["last_id"], r["from_ms"], r["until_ms"]) for r in noted])
    rows: list[Row] = [
        (s.first_id, s.last_id, "complete", origin, s.proven_from_ms, max(s.proven_from_ms, s.proven_until_ms))
        for s in spans
    ]
    if rows:
        _replace(market, symbol, rows, rows[0][0], rows[-1][1], [origin])


def _noted(market: MarketStore, symbol: str, origins: list[str], first_id: int, last_id: int) -> list[Any]:
    """Return what is noted of some origins that reaches into `first_id` … `last_id`."""
    return market.fetch(
        "SELECT first_id, last_id, origin, (extract(epoch FROM from_time) * 1000)::bigint AS from_ms, "  # noqa: S608
        f"(extract(epoch FROM until_time) * 1000)::bigint AS until_ms FROM md.trade_range WHERE {_WHOSE} "
        "AND origin = ANY($3) AND last_id >= $4 AND first_id <= $5",
        *(market.venue, symbol, origins, first_id, last_id),
    )


def _brought_otherwise(market: MarketStore, symbol: str, ledger: list[IdRange]) -> list[Row]:
    """Return what is noted of the archive and of backfills over REST among the ids that the ledger does not hold."""
    noted = _noted(market, symbol, ["archive", "rest"], ledger[0].first_id, LARGEST)
    holes = [(before.last_id + 1, after.first_id - 1) for before, after in pairwise(ledger)]
    holes.append((ledger[-1].last_id + 1, LARGEST))
    cut = ((max(first, r["first_id"]), min(last, r["last_id"]), r) for r in noted for first, last in holes)
    return [(a, b, "complete", r["origin"], r["from_ms"], r["until_ms"]) for a, b, r in cut if a <= b]


def _replace(market: MarketStore, symbol: str, rows: list[Row], lo: int, hi: int, origins: list[str]) -> None:
    """Let rows be all that is noted of some origins from the id `lo` up to `hi`."""
    columns = list(zip(*rows, strict=True)) or [[]] * 6
    market.execute(
        f"DELETE FROM md.trade_range WHERE {_WHOSE} AND first_id BETWEEN $3 AND $4 AND origin = ANY($5) "  # noqa: S608
        "AND (origin, first_id) NOT IN (SELECT * FROM unnest($6::text[], $7::bigint[]))",
        *(market.venue, symbol, lo, hi, origins, columns[3], columns[0]),
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

    What the collector still misses is repaired too once all of it is in the database; `missing` counts the ids that are
    not, and `repaired_from` says where the others came from: `rest`, `archive` or both.
    """
    query = """
        SELECT s.name AS symbol, r.first_id, r.last_id, r.last_id - r.first_id + 1 AS ids, r.from_time, r.until_time,
               CASE WHEN r.origin = 'nowhere' THEN r.last_id - r.first_id + 1 - h.held ELSE 0 END AS missing,
               CASE WHEN r.origin <> 'nowhere' OR h.held = r.last_id - r.first_id + 1 THEN 'repaired'
                    WHEN n.note IS NOT NULL THEN 'explained' ELSE r.state END AS state,
               CASE WHEN r.origin = 'nowhere' THEN f.origins ELSE r.origin END AS repaired_from, n.note
        FROM md.trade_range r JOIN md.symbol s USING (symbol_id)
        LEFT JOIN LATERAL (
            SELECT string_agg(note, '; ' ORDER BY noted_at) AS note FROM md.gap_note n
            WHERE n.symbol_id = r.symbol_id AND n.first_id <= r.first_id AND n.last_id >= r.last_id) n ON true
        LEFT JOIN LATERAL (
            SELECT count(*) AS held FROM md.trade t WHERE r.origin = 'nowhere'
            AND t.symbol_id = r.symbol_id AND t.agg_trade_id BETWEEN r.first_id AND r.last_id) h ON true
        LEFT JOIN LATERAL (
            SELECT string_agg(DISTINCT o.origin, ', ') AS origins FROM md.trade_range o
            WHERE r.origin = 'nowhere' AND o.symbol_id = r.symbol_id AND o.origin IN ('archive', 'rest')
            AND o.first_id <= r.last_id AND o.last_id >= r.first_id) f ON true
        WHERE s.venue = $1 AND s.name = ANY($2) AND r.origin <> 'websocket' AND (r.origin = 'nowhere' OR NOT EXISTS (
            SELECT 1 FROM md.trade_range w WHERE w.symbol_id = r.symbol_id AND w.origin = 'nowhere'
            AND w.first_id <= r.first_id AND w.last_id >= r.last_id))
        ORDER BY s.name, r.first_id
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
