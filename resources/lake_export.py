"""Closed days on their way from the market database into the lake.

A day is written under a hidden name, read back off the disk, taken back by the database into a temporary table and compared
there with the rows it came from; only then it gets its name, and a manifest. A day whose rows have not changed since is left
alone. What retention may drop is told here too: days whose rows are, at that moment, those that lie verified in the lake.
"""

import fcntl
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from resources.lake import (
    DATASETS,
    MANIFEST,
    Lake,
    LakeFileDamaged,
    LakeFileMissing,
    Manifest,
    Proof,
    day_of,
    day_start_ms,
)
from resources.timescale.store import MarketStore
from resources.timescale.tables import TRADE, Table
from resources.timescale.versions import Summary, first_row_ms, read_versions, summary, summary_of_copy
from trading.errors import TradingError
from trading.market.timeframe import DAY_MS

FORMAT: Final = 1
ROW_GROUP: Final = 65_536
"""Rows that are unpacked at once."""


class DayNotOver(TradingError):
    """A day cannot be exported before it has ended."""


class NotVerified(TradingError):
    """What was read back from the lake is not what the database holds."""


@dataclass(frozen=True)
class Exported:
    """Days that are in the lake, and what it took to bring them there."""

    manifests: list[Manifest]
    files: int
    bytes: int


def export_days(
    market: MarketStore, lake: Lake, dataset: str, symbol: str, days: Sequence[str], now_ms: int
) -> Exported:
    """Bring closed days of one dataset into the lake, and record them for the check; see `export_day`.

    Days before the first that has a row are not in the lake; a later one without rows is, as a day on which nothing is held.
    """
    first_ms = first_row_ms(market, DATASETS[dataset], symbol)
    held = [day for day in days if first_ms is not None and day_start_ms(day) + DAY_MS > first_ms]
    done = [export_day(market, lake, dataset, symbol, day, now_ms) for day in held]
    noted = {manifest.day: (manifest.rows, manifest.sha256) for manifest, _ in done}
    market.note_days(f"lake_{dataset}", symbol, noted, held)
    new = [manifest for manifest, written in done if written]
    return Exported([manifest for manifest, _ in done], len(new), sum(manifest.bytes for manifest in new))


def export_day(
    market: MarketStore, lake: Lake, dataset: str, symbol: str, day: str, now_ms: int
) -> tuple[Manifest, bool]:
    """Bring one closed day of one dataset into the lake.

    Args:
        market: Open store.
        lake: Where to.
        dataset: One of `resources.lake.DATASETS`.
        symbol: Exchange name.
        day: UTC day, `YYYY-MM-DD`.
        now_ms: The exchange's clock.

    Returns:
        The day's manifest, and whether anything was written.

    Raises:
        DayNotOver: The day has not ended.
        NotVerified: The file does not give back what the database holds; it was not taken into the lake.
    """
    if now_ms < day_start_ms(day) + DAY_MS:
        raise DayNotOver(f"{symbol}: {day} is not over", "export it tomorrow")
    folder = lake.day_dir(dataset, symbol, day)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        return _export(market, lake, folder, (dataset, symbol, day), now_ms)


def _export(
    market: MarketStore, lake: Lake, folder: Path, key: tuple[str, str, str], now_ms: int
) -> tuple[Manifest, bool]:
    dataset, symbol, day = key
    table, lo_ms = DATASETS[dataset], day_start_ms(day)
    there = summary(market, table, symbol, lo_ms, lo_ms + DAY_MS)
    proven = _proven(market, table, symbol, lo_ms)
    if (held := _held(lake, dataset, symbol, day)) and (_summary_of(held), held.proven) == (there, proven):
        return held, False
    instrument = market.instrument(symbol)
    frame = read_versions(market, table, symbol, lo_ms, lo_ms + DAY_MS)
    unfinished = folder / "_unfinished"
    about = {"dataset": dataset, "venue": lake.venue, "symbol": symbol, "day": day}
    decimals = {"price_decimals": instrument.price_decimals, "quantity_decimals": instrument.quantity_decimals}
    _write(unfinished, frame, about | {name: str(value) for name, value in decimals.items()})
    content = unfinished.read_bytes()
    copied = pq.read_table(pa.BufferReader(content), page_checksum_verification=True)
    found = summary_of_copy(market, table, symbol, pl.DataFrame(copied, schema=frame.schema))
    if found != there:
        raise NotVerified(
            f"{symbol} {day}: the lake would give back {found.rows} rows of {dataset} unlike the {there.rows} there",
            "they may just have been repaired: materialize 'lake' again",
        )
    sha256 = hashlib.sha256(content).hexdigest()
    manifest = Manifest(
        format=FORMAT,
        **about,
        **decimals,
        file=f"{sha256[:16]}.parquet",
        bytes=len(content),
        sha256=sha256,
        rows=there.rows,
        superseded=there.superseded,
        digest=there.digest,
        proven=proven,
        columns={name: str(kind) for name, kind in frame.schema.items()},
        written_by={name: version(name) for name in ("trading-assets", "polars", "pyarrow")},
        verified_at_ms=now_ms,
    )
    unfinished.replace(folder / manifest.file)
    unfinished.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
    _to_disk(unfinished)
    unfinished.replace(folder / MANIFEST)
    for former in folder.iterdir():
        if former.name not in (MANIFEST, manifest.file):
            former.unlink()
    _to_disk(folder)
    return manifest, True


def verified_until(market: MarketStore, lake: Lake, dataset: str, symbol: str, until_ms: int) -> int:
    """Return the moment (ms) before which the lake gives back all that the database holds of a dataset now.

    Every day that holds a row, from the first on, is compared by its digest; the first that is not in the lake as it is
    here ends it. No further than `until_ms`, for a day costs about a second for a million rows.
    """
    table, until_ms = DATASETS[dataset], until_ms // DAY_MS * DAY_MS
    first_ms = first_row_ms(market, table, symbol)
    if first_ms is None:
        return until_ms
    if first_ms >= until_ms:
        return first_ms // DAY_MS * DAY_MS
    for lo_ms in range(first_ms // DAY_MS * DAY_MS, until_ms, DAY_MS):
        there = summary(market, table, symbol, lo_ms, lo_ms + DAY_MS)
        held = _held(lake, dataset, symbol, day_of(lo_ms))
        if there != (Summary() if held is None else _summary_of(held)):
            return lo_ms
    return until_ms


def _held(lake: Lake, dataset: str, symbol: str, day: str) -> Manifest | None:
    """Return the manifest of a day whose file is as it was written, else None."""
    try:
        manifest = lake.manifest(dataset, symbol, day)
        if manifest is not None:
            lake.content(manifest)
    except (LakeFileDamaged, LakeFileMissing):
        return None
    return manifest


def _summary_of(manifest: Manifest) -> Summary:
    return Summary(manifest.rows, manifest.superseded, manifest.digest)


def _proven(market: MarketStore, table: Table, symbol: str, day_ms: int) -> list[Proof]:
    """Return what ids prove of a day of trades."""
    if table is not TRADE:
        return []
    rows = market.fetch(
        "SELECT first_id, last_id, (extract(epoch FROM proven_from) * 1000)::bigint, "
        "(extract(epoch FROM proven_until) * 1000)::bigint FROM md.trade_coverage JOIN md.symbol USING (symbol_id) "
        "WHERE venue = $1 AND name = $2 AND proven_from >= to_timestamp($3) "
        "AND proven_from < to_timestamp($3) + interval '24 hours' ORDER BY proven_from",
        market.venue,
        symbol,
        day_ms / 1000,
    )
    return [Proof(*row) for row in rows]


def _write(path: Path, frame: pl.DataFrame, about: dict[str, str]) -> None:
    """Write a frame as Parquet, bars of each timeframe in row groups of their own."""
    rows = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
    schema = rows.schema.with_metadata({f"trading.{name}": value for name, value in about.items()})
    words = [field.name for field in schema if pa.types.is_large_string(field.type)]
    # Moments and ids rise by little; a column has either a dictionary or an encoding of its own.
    steps = {field.name: "DELTA_BINARY_PACKED" for field in schema if pa.types.is_integer(field.type)}
    parts = frame.partition_by("timeframe", maintain_order=True) if "timeframe" in frame.columns else [frame]
    with pq.ParquetWriter(
        path, schema, compression="zstd", use_dictionary=words, column_encoding=steps, write_page_checksum=True
    ) as file:
        for part in parts:
            file.write_table(
                part.to_arrow(compat_level=pl.CompatLevel.oldest()).replace_schema_metadata(schema.metadata), ROW_GROUP
            )
    _to_disk(path)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process exports the same day."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _to_disk(path: Path) -> None:
    """Wait until a file or folder is on the disk, and forget what memory holds of it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        if hasattr(os, "posix_fadvise") and not path.is_dir():
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
