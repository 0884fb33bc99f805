"""What has been kept for long enough goes from the database, once the lake gives it back.

A partition holds all symbols, so the symbol that is furthest behind decides. What goes is noted by day before it goes, with
the digest of the manifest; so it can be told later what was dropped and whether it is still in the lake.
"""

from dataclasses import dataclass
from datetime import date

from resources.lake import Lake, LakeFileDamaged, LakeFileMissing, day_of
from resources.lake_export import verified_until
from resources.timescale.store import MarketStore
from resources.timescale.tables import TRADE, Table
from resources.timescale.versions import first_row_ms
from trading.market.timeframe import DAY_MS


@dataclass(frozen=True)
class Retired:
    """What went from one table.

    Attributes:
        dropped: Names of the partitions or chunks.
        days: Days of symbols that went.
        waiting: Symbols that hold back what is old enough, with the first day that the lake does not give back.
    """

    dropped: list[str]
    days: int
    waiting: dict[str, str]


def retire(market: MarketStore, lake: Lake, table: Table, keep_days: int, now_ms: int) -> Retired:
    """Drop the days of a table that are older than `keep_days` and lie verified in the lake.

    Args:
        market: Open store.
        lake: Where the days were exported to.
        table: One of `resources.timescale.backend.RETAINED`.
        keep_days: Whole days before today that stay.
        now_ms: The exchange's clock.
    """
    keep_from_ms = (now_ms // DAY_MS - keep_days) * DAY_MS
    until = {name: verified_until(market, lake, table.name, name, keep_from_ms) for name in market.instruments()}
    foreign_ms = _first_of_others(market, table)
    verified_ms = min([keep_from_ms, foreign_ms, *until.values()])
    days = 0
    for symbol in until:
        first_ms = first_row_ms(market, table, symbol)
        gone = (
            [] if first_ms is None else [day_of(ms) for ms in range(first_ms // DAY_MS * DAY_MS, verified_ms, DAY_MS)]
        )
        manifests = [found for day in gone if (found := lake.manifest(table.name, symbol, day)) is not None]
        noted = {manifest.day: (manifest.rows, manifest.digest) for manifest in manifests if manifest.digest}
        market.note_days(f"retention_{table.name}", symbol, noted, [])
        days += len(noted)
    dropped = market.retain(table, keep_from_ms, verified_ms)
    if table is TRADE:
        # The check of these days compares with rows that are no longer to be there.
        market.execute(
            "DELETE FROM md.day d USING md.symbol s WHERE s.symbol_id = d.symbol_id AND venue = $1 "
            "AND asset = 'agg_trades' AND day < $2",
            market.venue,
            date.fromisoformat(day_of(verified_ms)),
        )
    waiting = {symbol: day_of(ms) for symbol, ms in until.items() if ms < keep_from_ms}
    return Retired(dropped, days, waiting)


def lost_days(market: MarketStore, lake: Lake, table: Table, symbol: str) -> list[str]:
    """Return the days whose rows went from the database and that the lake would not give back as they were."""
    lost = []
    for day, (rows, digest) in market.noted_days(f"retention_{table.name}", symbol).items():
        try:
            manifest = lake.manifest(table.name, symbol, day)
            if manifest is not None:
                lake.file(manifest)
        except (LakeFileDamaged, LakeFileMissing):
            manifest = None
        if manifest is None or (manifest.rows, manifest.digest) != (rows, digest):
            lost.append(day)
    return lost


def _first_of_others(market: MarketStore, table: Table) -> int:
    """Return the first day (ms) on which a symbol of another venue has rows, which nobody exports from here."""
    query = (
        f"SELECT (extract(epoch FROM min(t.{table.time_column})) * 1000)::bigint FROM md.{table.relation} t "  # noqa: S608
        "JOIN md.symbol s USING (symbol_id) WHERE s.venue <> $1"
    )
    first_ms = market.fetch(query, market.venue)[0][0]
    return 2**45 if first_ms is None else first_ms // DAY_MS * DAY_MS
