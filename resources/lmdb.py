"""The LMDB projection: candles and indicators as JSON, for readers that know nothing of the database.

Keys are `{symbol}:{open_time_ms}` with 13 digits, so that the order of bytes is the order of time. One asset writes;
every opener uses the same map size. A damaged file is refused before it is mapped, since LMDB would end the process.
"""

import hashlib
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import lmdb
import msgspec
import polars as pl

from trading.errors import TradingError

FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "candles_3m": ("open", "high", "low", "close", "volume"),
    "candles_4h": ("open", "high", "low", "close", "volume"),
    "indicators_3m": ("ema_20", "ema_50", "macd", "rsi_7", "rsi_14", "atr_14"),
    "indicators_4h": ("ema_20", "ema_50", "macd", "rsi_14", "atr_3", "atr_14"),
}
"""The named databases and the fields of their JSON values."""

FIRST_KEY_MS: Final = 10**12
LAST_KEY_MS: Final = 10**13 - 1
SYMBOL_BYTES: Final = 400
"""LMDB keys have at most 511 bytes."""

MAX_DBS: Final = 10
META_BYTES: Final = 152
META_MAGIC: Final = 0xBEEFC0DE
PAGE_SIZES: Final = (4096, 8192, 16384, 32768, 65536)
_OPENING: Final = threading.RLock()


class LmdbDamaged(TradingError):
    """An LMDB file is shorter than its own page count, or an entry is not what was written."""


class LmdbMissing(TradingError):
    """There is no LMDB, or not this database in it."""


class LmdbNotOurs(TradingError):
    """The LMDB belongs to an external producer or cannot be locked."""


class LmdbFull(TradingError):
    """A write does not fit into the map."""


class BadEntry(TradingError):
    """A symbol, database or open time cannot be part of a key."""


@dataclass(frozen=True)
class Changed:
    """Entries that a write inserted, updated, deleted and left as they were."""

    inserted: int
    updated: int
    deleted: int
    unchanged: int

    @property
    def changed(self) -> int:
        """All entries that are not as they were."""
        return self.inserted + self.updated + self.deleted


class LmdbStore:
    """One LMDB environment with four named databases; opened for each operation, closed after it.

    Args:
        path: The environment's folder.
        max_size_gb: Map size, GiB of address space; the file grows only as it is filled.
        ours: False when an external producer owns it; then it is never written.
    """

    def __init__(self, path: Path, max_size_gb: int = 10, ours: bool = True) -> None:
        self.path = path
        self._map_size = max_size_gb * 2**30
        self.ours = ours

    def write(self, database: str, symbol: str, frame: pl.DataFrame, lo_ms: int, hi_ms: int) -> Changed:
        """Make a symbol's entries with open time in `[lo_ms, hi_ms)` equal to the frame, in one transaction.

        Rows with a null or no finite number among the database's fields have no entry; rows outside the range are left
        out.

        Raises:
            LmdbNotOurs: An external producer owns the environment.
            LmdbFull: The map is too small.
        """
        if not self.ours:
            raise LmdbNotOurs(f"{self.path} belongs to an external producer", "unset LMDB_PATH to write a projection")
        wanted = dict(_entries(database, symbol, frame.filter(pl.col("open_time").is_between(lo_ms, hi_ms, "left"))))
        self.path.mkdir(parents=True, exist_ok=True)
        with self._environment(readonly=False) as environment:
            handle = environment.open_db(database.encode())
            with environment.begin(db=handle, write=True) as transaction:
                there = dict(_scan(transaction, symbol, lo_ms, hi_ms))
                put = [(key, value) for key, value in wanted.items() if there.get(key) != value]
                gone = [key for key in there if key not in wanted]
                with transaction.cursor() as cursor:
                    cursor.putmulti(put)
                for key in gone:
                    transaction.delete(key)
        updated = sum(key in there for key, _ in put)
        return Changed(len(put) - updated, updated, len(gone), len(wanted) - len(put))

    def read(self, database: str, symbol: str, lo_ms: int, hi_ms: int) -> pl.DataFrame:
        """Return a symbol's entries with open time in `[lo_ms, hi_ms)`: `open_time` and the database's fields.

        Raises:
            LmdbDamaged: A key or a value is not what its database holds; the first one is named.
        """
        _check(database, symbol)
        schema = {"open_time": pl.Int64, **dict.fromkeys(FIELDS[database], pl.Float64)}
        entries = self._scanned(database, symbol, lo_ms, hi_ms)
        if not entries:
            return pl.DataFrame(schema=schema)
        prefix = len(symbol.encode()) + 1
        times = [
            int(digits) if len(digits) == 13 and digits.isdigit() else 0 for digits in (k[prefix:] for k, _ in entries)
        ]
        try:
            values = _DECODERS[database].decode(b"[" + b",".join(value for _, value in entries) + b"]")
        except msgspec.DecodeError:
            values = []
        if len(values) != len(entries) or not all(times):
            raise LmdbDamaged(_bad_entries(database, entries, times), self._remedy)
        columns = {name: [getattr(value, name) for value in values] for name in FIELDS[database]}
        return pl.DataFrame({"open_time": times, **columns}, schema=schema)

    def counts(self) -> dict[str, int]:
        """Return entries by database."""
        if not (self.path / "data.mdb").exists():
            return dict.fromkeys(FIELDS, 0)
        counts = {}
        with self._environment(readonly=True) as environment:
            for database in FIELDS:
                try:
                    handle = environment.open_db(database.encode(), create=False)
                except lmdb.NotFoundError:
                    counts[database] = 0
                    continue
                with environment.begin(db=handle) as transaction:
                    counts[database] = transaction.stat(handle)["entries"]
        return counts

    def digest(self, database: str) -> str:
        """Return SHA-256 over all entries of a database in key order."""
        _check(database)
        digest = hashlib.sha256()
        for key, value in self._scanned(database, None, 0, LAST_KEY_MS):
            digest.update(key + b"\0" + value + b"\0")
        return digest.hexdigest()

    @property
    def _remedy(self) -> str:
        if not self.ours:
            return "let its producer mend it, or unset LMDB_PATH"
        return f"delete {self.path} and materialize lmdb_candles and lmdb_indicators again"

    def _scanned(self, database: str, symbol: str | None, lo_ms: int, hi_ms: int) -> list[tuple[bytes, bytes]]:
        if not (self.path / "data.mdb").exists():
            if self.ours:
                return []
            raise LmdbMissing(f"there is no LMDB at {self.path}", "check LMDB_PATH")
        with self._environment(readonly=True) as environment:
            try:
                handle = environment.open_db(database.encode(), create=False)
            except lmdb.NotFoundError:
                if self.ours:
                    return []
                raise LmdbMissing(f"{self.path} has no database {database}", "check LMDB_PATH") from None
            with environment.begin(db=handle) as transaction:
                return list(_scan(transaction, symbol, lo_ms, hi_ms))

    @contextmanager
    def _environment(self, *, readonly: bool) -> Iterator[lmdb.Environment]:
        """Open the environment for one operation; one opener at a time in a process, as LMDB demands."""
        with _OPENING:
            self._check_before_mapping(readonly)
            try:
                with lmdb.open(
                    str(self.path),
                    map_size=self._map_size,
                    max_dbs=MAX_DBS,
                    readonly=readonly,
                    readahead=False,
                    create=not readonly,
                ) as environment:
                    environment.reader_check()
                    yield environment
            except lmdb.MapFullError:
                hint = "raise LMDB_MAX_SIZE_GB for every opener"
                raise LmdbFull(f"LMDB at {self.path} has no room in its {self._map_size >> 30} GiB", hint) from None
            except lmdb.Error as error:
                raise LmdbDamaged(f"LMDB at {self.path} cannot be used: {error}", self._remedy) from None

    def _check_before_mapping(self, readonly: bool) -> None:
        file, lock = self.path / "data.mdb", self.path / "lock.mdb"
        if not file.exists():
            return
        if readonly and not os.access(lock if lock.exists() else self.path, os.W_OK):
            raise LmdbNotOurs(
                f"{lock} cannot be written; without the reader's lock, reads beside a writer are torn",
                "mount the folder writable for readers, or read a copy",
            )
        size = file.stat().st_size
        # Offsets in LMDB's meta page on 64-bit machines: header 16, magic 4, version 4, address 8, map size 8, then the
        # two root records of 48 bytes, whose first word is the page size, the last page and the transaction. The second
        # meta page follows the first, whose size is the writer's (4 KiB on most machines, 16 on some).
        page_bytes = last_page = 0
        with file.open("rb") as pages:
            for place in (0, 1):
                pages.seek(place * page_bytes)
                page = pages.read(META_BYTES)[16:]
                if len(page) < META_BYTES - 16:
                    raise LmdbDamaged(f"{file} is cut off at {size} bytes", self._remedy)
                magic, page_bytes = struct.unpack_from("<I", page)[0], struct.unpack_from("<I", page, 24)[0]
                if magic != META_MAGIC or page_bytes not in PAGE_SIZES:
                    raise LmdbDamaged(f"{file} does not begin as an LMDB file does", self._remedy)
                last_page = max(last_page, struct.unpack_from("<Q", page, 24 + 96)[0])
        if size < (last_page + 1) * page_bytes:
            raise LmdbDamaged(f"{file} has {size} bytes, its pages need {(last_page + 1) * page_bytes}", self._remedy)


def _check(database: str, symbol: str = "-") -> None:
    if database not in FIELDS:
        raise BadEntry(f"{database!r} is no database of this LMDB", f"one of {', '.join(FIELDS)}")
    if not symbol or ":" in symbol or not symbol.isprintable() or len(symbol.encode()) > SYMBOL_BYTES:
        raise BadEntry(f"{symbol[:40]!r} cannot be part of a key", "a symbol is short, printable and has no colon")


def _bad_entries(database: str, entries: list[tuple[bytes, bytes]], times: list[int]) -> str:
    """Say how many entries are wrong and which is the first; values are decoded one by one only to say so."""
    decode = msgspec.json.Decoder(_VALUES[database]).decode
    bad: list[str] = []
    for (key, value), time_ms in zip(entries, times, strict=True):
        try:
            decode(value)
        except msgspec.DecodeError as error:
            bad.append(f"{key!r} ({error})")
            continue
        if not time_ms:
            bad.append(f"{key!r} (its time has not 13 digits)")
    return f"{database} holds {len(bad)} of {len(entries)} entries that are not its own, first {bad[0] if bad else '?'}"


def _entries(database: str, symbol: str, frame: pl.DataFrame) -> list[tuple[bytes, bytes]]:
    _check(database, symbol)
    fields = FIELDS[database]
    rows = frame.select("open_time", *fields).drop_nulls().filter(pl.all_horizontal(pl.col(fields).is_finite()))
    if not rows["open_time"].is_between(FIRST_KEY_MS, LAST_KEY_MS).all():
        raise BadEntry(
            f"an open time of {symbol} has not 13 digits", "open times are epoch milliseconds since 2001-09-09"
        )
    value, encode = _VALUES[database], msgspec.json.encode
    return [(f"{symbol}:{row[0]}".encode(), encode(value(*row[1:]))) for row in rows.iter_rows()]


def _key(symbol: str, time_ms: int) -> bytes:
    return f"{symbol}:{min(max(time_ms, FIRST_KEY_MS), LAST_KEY_MS)}".encode()


def _scan(transaction: lmdb.Transaction, symbol: str | None, lo_ms: int, hi_ms: int) -> Iterator[tuple[bytes, bytes]]:
    with transaction.cursor() as cursor:
        if symbol is None:
            yield from cursor
            return
        end = _key(symbol, hi_ms)
        if cursor.set_range(_key(symbol, lo_ms)):
            for key, value in cursor:
                if key >= end:
                    return
                yield key, value


_VALUES: Final = {
    name: msgspec.defstruct(f"{name}_value", [(field, float) for field in fields], frozen=True)
    for name, fields in FIELDS.items()
}
_DECODERS: Final = {name: msgspec.json.Decoder(list[value]) for name, value in _VALUES.items()}
