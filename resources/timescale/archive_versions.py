"""The versions of the archive's files that days were compared with, and which ids have the archive's rows."""

from datetime import date
from typing import NamedTuple

from resources.timescale.store import MarketStore
from trading.stream.contiguity import IdSpans


class ArchiveVersion(NamedTuple):
    """One version of the file that holds a day, and what it brought.

    Attributes:
        day: UTC day `YYYY-MM-DD`.
        version: 1 for the first file that was read, one more for each with another checksum.
        file: Its name without ending.
        sha256: Checksum of its zip.
        rows: Trades of this day in it.
        taken: Ids that have an archive's row, this version's or an earlier one's.
        added: Ids that were absent before.
        changed: Ids of which an earlier version had brought something else.
        kept: Ids that came from elsewhere and differ; they stayed as they were.
        withdrawn: Ids that an earlier version had brought and this one lacks; they stayed.
    """

    day: str
    version: int
    file: str
    sha256: str
    rows: int
    taken: IdSpans
    added: IdSpans
    changed: IdSpans
    kept: IdSpans
    withdrawn: IdSpans


_SPANS = ("taken", "added", "changed", "kept", "withdrawn")


def archive_versions(market: MarketStore, symbol: str, day: str) -> list[ArchiveVersion]:
    """Return all versions of a day, oldest first."""
    columns = ", ".join(f"array(SELECT ARRAY[lower(r), upper(r) - 1] FROM unnest({n}) r) AS {n}" for n in _SPANS)
    query = (
        f"SELECT version, file, sha256, rows, {columns} FROM md.archive_version JOIN md.symbol USING (symbol_id) "
        "WHERE venue = $1 AND name = $2 AND day = $3 ORDER BY version"
    )
    return [
        ArchiveVersion(
            day, row["version"], row["file"], row["sha256"], row["rows"], *(tuple(map(tuple, row[n])) for n in _SPANS)
        )
        for row in market.fetch(query, market.venue, symbol, date.fromisoformat(day))
    ]


def record_archive_version(market: MarketStore, symbol: str, version: ArchiveVersion) -> None:
    """Note one version, over what was noted of it before."""
    spans = ["{" + ",".join(f"[{a},{b}]" for a, b in getattr(version, name)) + "}" for name in _SPANS]
    values = ", ".join(f"${place}::text::int8multirange" for place in range(8, 8 + len(_SPANS)))
    replaced = ", ".join(f"{name} = excluded.{name}" for name in ("rows", *_SPANS))
    market.execute(
        f"INSERT INTO md.archive_version (symbol_id, day, version, file, sha256, rows, {', '.join(_SPANS)}) "
        f"SELECT symbol_id, $3, $4, $5, $6, $7, {values} FROM md.symbol WHERE venue = $1 AND name = $2 "
        f"ON CONFLICT (symbol_id, day, version) DO UPDATE SET {replaced}",
        market.venue,
        symbol,
        date.fromisoformat(version.day),
        *version[1:5],
        *spans,
    )
