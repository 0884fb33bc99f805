"""The lake: closed UTC days of the market database as Parquet files, one for each dataset, symbol and day.

A file holds every version of its day's rows: what is known now, and what was known before it was corrected. The manifest
beside it names the file and its SHA-256, and appears only after the file was read back and found equal to the database. A
file that is not as its manifest says is refused by name. Nothing here writes; `resources.lake_export` does.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final
from urllib.parse import quote

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from polars.io.plugins import register_io_source

from resources.timescale.tables import BOOK_1S, BOOK_SNAPSHOT, CANDLE, CANDLE_1S, TRADE, Table
from trading.errors import TradingError
from trading.market.timeframe import DAY_MS, Timeframe

DATASETS: Final = {table.name: table for table in (TRADE, CANDLE, CANDLE_1S, BOOK_SNAPSHOT, BOOK_1S)}
"""By name: the table whose closed days are exported."""

MANIFEST: Final = "_manifest.json"
"""Readers of hive folders pass over names that begin with `_`."""

LONGEST: Final = 200
"""Bytes of a symbol in a path; file systems end at 255."""


AGAIN: Final = "put it back from a copy, or materialize 'lake' for this day while the database holds it"


class UnknownDataset(TradingError):
    """A dataset is not one that the lake keeps."""


class NotInLake(TradingError):
    """Days that were asked for have not been exported."""


class LakeFileMissing(TradingError):
    """A file that a manifest names is not there."""


class LakeFileDamaged(TradingError):
    """A file of the lake is not as it was written."""


class Proof(msgspec.Struct, frozen=True, array_like=True):
    """Consecutive ids of a day that were all held, and the half-open span of exchange time (ms) that they prove."""

    first_id: int
    last_id: int
    proven_from_ms: int
    proven_until_ms: int


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one file.

    Attributes:
        format: Version of this layout.
        dataset: Name of the table, as in `DATASETS`.
        venue: Venue of the symbol.
        symbol: The exchange's own name.
        day: UTC day, `YYYY-MM-DD`.
        file: Name of the Parquet file beside the manifest.
        bytes: Its size.
        sha256: Of its bytes.
        rows: Rows as they are known now.
        superseded: Further rows, each a version that another one took the place of.
        digest: Order-free digest of all versions, as the database works it out.
        proven: Of trades: what their ids prove.
        columns: Name and type of each column.
        price_decimals: Decimals of a price that is kept in ticks.
        quantity_decimals: Decimals of a quantity that is kept in lots.
        written_by: Versions of what wrote it.
        verified_at_ms: The exchange's clock when the file had been read back and was equal to the database.
    """

    format: int
    dataset: str
    venue: str
    symbol: str
    day: str
    file: str
    bytes: int
    sha256: str
    rows: int
    superseded: int
    digest: str
    proven: list[Proof]
    columns: dict[str, str]
    price_decimals: int
    quantity_decimals: int
    written_by: dict[str, str]
    verified_at_ms: int


@dataclass(frozen=True)
class Lake:
    """Where the files of one venue lie: `dataset=…/venue=…/symbol=…/date=…/`.

    Attributes:
        root: Folder of the lake.
        venue: Venue whose symbols are meant.
    """

    root: Path
    venue: str

    def symbol_dir(self, dataset: str, symbol: str) -> Path:
        """Return the folder of all days of a symbol."""
        return self.root / f"dataset={dataset}" / f"venue={self.venue}" / f"symbol={slug(symbol)}"

    def day_dir(self, dataset: str, symbol: str, day: str) -> Path:
        """Return the folder of one day."""
        return self.symbol_dir(dataset, symbol) / f"date={day}"

    def days(self, dataset: str, symbol: str) -> list[str]:
        """Return the days that are in the lake, verified, in order."""
        found = self.symbol_dir(_known(dataset).name, symbol).glob(f"date=*/{MANIFEST}")
        return sorted(path.parent.name.removeprefix("date=") for path in found)

    def manifest(self, dataset: str, symbol: str, day: str) -> Manifest | None:
        """Return what is known of a day's file, or None where the day was not exported.

        Raises:
            LakeFileDamaged: The manifest cannot be read.
        """
        path = self.day_dir(dataset, symbol, day) / MANIFEST
        try:
            manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _damaged(path, str(error)) from None
        if (manifest.dataset, manifest.venue, manifest.symbol, manifest.day) != (dataset, self.venue, symbol, day):
            raise _damaged(path, f"it is of {manifest.dataset} {manifest.venue} {manifest.symbol} {manifest.day}")
        return manifest

    def content(self, manifest: Manifest) -> bytes:
        """Return a file, which is byte for byte what was written.

        Raises:
            LakeFileMissing: It is gone.
            LakeFileDamaged: It is not as its manifest says.
        """
        path = self.file(manifest)
        content = path.read_bytes()
        # Checksums of pages do not cover their headers, nor the footer whose statistics decide what is skipped.
        if hashlib.sha256(content).hexdigest() != manifest.sha256:
            raise _damaged(path, "its SHA-256 is not the manifest's")
        return content

    def file(self, manifest: Manifest) -> Path:
        """Return the path of a file that is there and as long as it should be.

        Raises:
            LakeFileMissing: It is gone.
            LakeFileDamaged: It has another length.
        """
        path = self.day_dir(manifest.dataset, manifest.symbol, manifest.day) / manifest.file
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise LakeFileMissing(f"{path} is gone", AGAIN) from None
        if size != manifest.bytes:
            raise _damaged(path, f"{size} bytes, {manifest.bytes} written")
        return path


class LakeReader(Lake):
    """Reads days of the lake as the database would give them, one file in memory at a time."""

    def read(
        self,
        dataset: str,
        symbol: str,
        lo_ms: int,
        hi_ms: int,
        timeframe: Timeframe | None = None,
        known_by_ms: int | None = None,
        versions: bool = False,
    ) -> pl.LazyFrame:
        """Return the rows with time in `[lo_ms, hi_ms)`, day after day, inside a day ordered by key.

        Nothing is read before the frame is collected; `collect_batches()` holds one day at a time. Days before the first
        and after the last of the lake have no rows.

        Args:
            dataset: `trade`, `candle` and so on; see `DATASETS`.
            symbol: Exchange name.
            lo_ms: First moment, epoch ms.
            hi_ms: Moment before which it ends.
            timeframe: Of the rows, where the table has one.
            known_by_ms: Give the versions known at this moment; None: those known now. Trades have none.
            versions: Give every version instead, with a last column `superseded_at_ms` (null: known now).

        Returns:
            The table's schema.

        Raises:
            UnknownDataset: The lake keeps no such dataset.
            NotInLake: Nothing of the symbol was exported, or a day between the first and the last was not.
            LakeFileMissing: A file is gone.
            LakeFileDamaged: A file is not as it was written; raised when the frame is collected, unless its size tells.
        """
        table = _known(dataset)
        schema = table.schema | ({"superseded_at_ms": pl.Int64} if versions else {})
        if table.by_timeframe == (timeframe is None):
            raise ValueError(f"md.{table.name} is {'' if table.by_timeframe else 'not '}kept by timeframe")
        wanted = _condition(table, lo_ms, hi_ms, known_by_ms, versions)
        needed = set(wanted.meta.root_names())
        days = self._days_of(table, symbol, lo_ms, hi_ms)
        for day in days:
            self.file(self._exported(table.name, symbol, day))

        def source(
            columns: list[str] | None, predicate: pl.Expr | None, rows: int | None, _batch: int | None
        ) -> Iterator[pl.DataFrame]:
            names = list(schema) if columns is None else columns
            left = rows
            for day in days if left != 0 else ():
                frame = self._frame(table.name, symbol, day, [*needed.union(names)], timeframe)
                frame = frame.filter(wanted).select(names)
                if left is not None:  # polars counts rows before it filters them
                    frame = frame.head(left)
                    left -= len(frame)
                yield frame if predicate is None else frame.filter(predicate)
                if left == 0:
                    return

        return register_io_source(source, schema=schema)

    def _days_of(self, table: Table, symbol: str, lo_ms: int, hi_ms: int) -> list[str]:
        """Return the days of a range that are in the lake; none between the first and the last may be absent."""
        there = self.days(table.name, symbol)
        if not there:
            raise NotInLake(f"{symbol}: no {table.name} in the lake {self.root}", "materialize 'lake' for its days")
        first, last = max(lo_ms, day_start_ms(there[0])), min(hi_ms, day_start_ms(there[-1]) + DAY_MS)
        wanted = [day_of(at_ms) for at_ms in range(first // DAY_MS * DAY_MS, last, DAY_MS)] if first < last else []
        absent = sorted(set(wanted) - set(there))
        if absent:
            raise NotInLake(
                f"{symbol}: {len(absent)} days of {table.name} are not in the lake, {absent[0]} the first of them",
                f"materialize 'lake' for {absent[0]}",
            )
        return wanted

    def _frame(
        self, dataset: str, symbol: str, day: str, names: Sequence[str], timeframe: Timeframe | None
    ) -> pl.DataFrame:
        manifest, content = self._day(dataset, symbol, day)
        try:
            file = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
            groups = [place for place in range(file.num_row_groups) if _may_hold(file, place, timeframe)]
            # A day's columns are small: handing each to a thread took longer than reading it.
            return pl.DataFrame(file.read_row_groups(groups, columns=names, use_threads=False))
        except (OSError, pa.ArrowException) as error:
            raise _damaged(self.day_dir(dataset, symbol, day) / manifest.file, str(error)) from None

    def _day(self, dataset: str, symbol: str, day: str) -> tuple[Manifest, bytes]:
        manifest = self._exported(dataset, symbol, day)
        try:
            return manifest, self.content(manifest)
        except LakeFileMissing:
            anew = self._exported(dataset, symbol, day)  # between the two reads it may have been exported anew
            return anew, self.content(anew)

    def _exported(self, dataset: str, symbol: str, day: str) -> Manifest:
        manifest = self.manifest(dataset, symbol, day)
        if manifest is None:
            raise NotInLake(f"{symbol}: {day} of {dataset} is not in the lake", f"materialize 'lake' for {day}")
        return manifest


def _may_hold(file: pq.ParquetFile, group: int, timeframe: Timeframe | None) -> bool:
    """Tell whether a row group has bars of a timeframe; each is written into groups of its own."""
    if timeframe is None:
        return True
    metadata = file.metadata.row_group(group)
    place = file.schema.names.index("timeframe")
    return metadata.column(place).statistics.min == timeframe.value


def _condition(table: Table, lo_ms: int, hi_ms: int, known_by_ms: int | None, versions: bool) -> pl.Expr:
    condition = pl.col(table.time).is_between(lo_ms, hi_ms, closed="left")
    if "known_at_ms" not in table.schema:
        if known_by_ms is not None:
            raise ValueError(f"md.{table.name} keeps no versions")
        return condition
    if versions:
        return condition
    replaced = pl.col("superseded_at_ms")
    if known_by_ms is None:
        return condition & replaced.is_null()
    return condition & (pl.col("known_at_ms") <= known_by_ms) & (replaced.is_null() | (replaced > known_by_ms))


def _known(dataset: str) -> Table:
    if dataset not in DATASETS:
        raise UnknownDataset(f"{dataset} is not kept in the lake", f"choose one of {', '.join(DATASETS)}")
    return DATASETS[dataset]


def slug(symbol: str) -> str:
    """Return a symbol as a path may have it: percent-encoded as in hive folders, or its digest where that is too long."""
    text = quote(symbol, safe="")
    return text if len(text) <= LONGEST else hashlib.sha256(symbol.encode()).hexdigest()


def day_of(time_ms: int) -> str:
    """Return the UTC day that holds a moment."""
    return datetime.fromtimestamp(time_ms // 1000, UTC).strftime("%Y-%m-%d")


def day_start_ms(day: str) -> int:
    """Return the first moment (ms) of a UTC day."""
    return int(datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()) * 1000


def _damaged(path: Path, why: str) -> LakeFileDamaged:
    return LakeFileDamaged(f"{path} is damaged: {why}", AGAIN)
