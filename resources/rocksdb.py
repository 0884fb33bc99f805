"""The trade journal in RocksDB: what came off the wire, one value a symbol and second, with the ledger of ids.

A batch and the ledger that claims its ids are written in one WriteBatch and synced, so what the ledger claims is there
after any crash. One process writes; it alone makes checkpoints, and readers open the newest checkpoint. A reader never
opens the live directory: even a read-only open would rewrite a file in it. rocksdict runs in raw mode only, since its
default mode unpickles what it reads; values are MessagePack in a frame of version and CRC.
"""

import fcntl
import hashlib
import os
import shutil
import socket
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TextIO

import msgspec
import polars as pl
from rocksdict import AccessType, Checkpoint, DBCompressionType, Options, Rdict, ReadOptions, WriteBatch, WriteOptions

from trading.errors import TradingError
from trading.market.timeframe import SECOND_MS
from trading.market.trade import AggTrade, trades_frame
from trading.stream.contiguity import IdRange, missing_ids

VERSION: Final = 1
CHECKPOINTS_KEPT: Final = 2
CONTROL_TIMEOUT_S: Final = 10
LONGEST_SOCKET_PATH: Final = 100
PATIENCE_S: Final = 5.0
"""How long a collector waits for a reader that is making a checkpoint in its place, and a reader for a starting one."""

LOCK_LOOK_S: Final = 0.05


class JournalHeld(TradingError):
    """Another collector writes this journal."""


class JournalDamaged(TradingError):
    """A value of the journal is not what was written."""


class _Frame(msgspec.Struct, array_like=True):
    version: int
    crc: int
    payload: bytes


_FRAMES: Final = msgspec.msgpack.Decoder(_Frame)
_BATCHES: Final = msgspec.msgpack.Decoder(list[AggTrade])
_LEDGERS: Final = msgspec.msgpack.Decoder(list[IdRange])


def control_socket(directory: Path) -> Path:
    """Return the path of the writer's control socket: inside the journal, unless that is too long for a unix socket."""
    inside = directory.resolve() / "control.sock"
    if len(bytes(inside)) <= LONGEST_SOCKET_PATH:
        return inside
    name = hashlib.sha256(bytes(inside)).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"trading-journal-{name}.sock"


class TradeJournal:
    """An open journal; see `write` and `read`."""

    def __init__(self, directory: Path, db: Rdict) -> None:
        self.directory = directory
        self._db = db
        self._write_options = WriteOptions()
        self._write_options.sync = True

    # -- opening -----------------------------------------------------------------------------------------------------

    @classmethod
    @contextmanager
    def write(cls, directory: Path, patience_s: float = 0.0) -> Iterator["TradeJournal"]:
        """Open for writing.

        Args:
            directory: The journal's folder; made where it is absent.
            patience_s: How long to wait for another process; a reader holds a dead collector's journal for moments.

        Raises:
            JournalHeld: Another process has it open.
        """
        directory.mkdir(parents=True, exist_ok=True)
        with (directory / "writer.lock").open("a+", encoding="utf-8") as lock:
            if not _locked(lock, patience_s):
                lock.seek(0)
                raise JournalHeld(
                    f"the journal {directory} is held by process {lock.read().strip() or 'unknown'}",
                    "one collector writes a journal; stop the other one first",
                )
            lock.truncate(0)
            lock.write(str(os.getpid()))
            lock.flush()
            db = Rdict(str(directory / "live"), _options())
            try:
                yield cls(directory, db)
            finally:
                db.close()

    @classmethod
    @contextmanager
    def read(cls, directory: Path) -> Iterator["TradeJournal"]:
        """Open the newest checkpoint; a living collector is asked for a new one, a dead one's journal is checkpointed."""
        checkpoint = _newest_checkpoint(directory)
        db = Rdict(str(checkpoint), _options(), access_type=AccessType.read_only())
        try:
            yield cls(directory, db)
        finally:
            db.close()

    def checkpoint(self) -> Path:
        """Make a checkpoint of all that was written, point `CURRENT` to it, and return its folder."""
        folder = self.directory / "checkpoints"
        folder.mkdir(exist_ok=True)
        numbers = sorted(int(entry.name) for entry in folder.iterdir() if entry.name.isdigit())
        made = folder / str(numbers[-1] + 1 if numbers else 1)
        Checkpoint(self._db).create_checkpoint(str(made))
        unfinished = folder / "CURRENT.unfinished"
        unfinished.write_text(made.name, encoding="utf-8")
        unfinished.replace(folder / "CURRENT")
        for number in numbers[: len(numbers) + 1 - CHECKPOINTS_KEPT]:
            shutil.rmtree(folder / str(number), ignore_errors=True)
        return made

    # -- writing -----------------------------------------------------------------------------------------------------

    def append(self, trades: Mapping[str, Iterable[AggTrade]], ledgers: Mapping[str, Iterable[IdRange]]) -> int:
        """Store trades with their ledgers, all or nothing, synced when this returns; return how many batches are new.

        A second that has a batch already keeps its trades; the first trade of an id stays.
        """
        batch, created = WriteBatch(raw_mode=True), 0
        for symbol, arrived in trades.items():
            seconds: dict[int, dict[int, AggTrade]] = {}
            for trade in arrived:
                seconds.setdefault(trade.time_ms // SECOND_MS * SECOND_MS, {})[trade.agg_trade_id] = trade
            for second, by_id in seconds.items():
                key = _batch_key(symbol, second)
                there = self._db.get(key)
                if there is None:
                    created += 1
                else:
                    by_id |= {trade.agg_trade_id: trade for trade in _unframed(key, there, _BATCHES)}
                batch.put(key, _framed([by_id[number] for number in sorted(by_id)]))
        for symbol, ranges in ledgers.items():
            batch.put(_ledger_key(symbol), _framed(list(ranges)))
        self._db.write(batch, self._write_options)
        return created

    def quarantine(self, number: int, reason: str, frame: bytes) -> None:
        """Keep a bad frame as it came."""
        self._db.put(f"quarantine:{number:09d}".encode(), msgspec.msgpack.encode([reason, frame]))

    def delete_batch(self, symbol: str, second_ms: int) -> None:
        """Delete one batch; the ledger goes on claiming its ids, so that the loss is found."""
        self._db.delete(_batch_key(symbol, second_ms))

    # -- reading -----------------------------------------------------------------------------------------------------

    def ledger(self, symbol: str) -> list[IdRange]:
        """Return the ranges of ids that are claimed for a symbol."""
        value = self._db.get(_ledger_key(symbol))
        return [] if value is None else _unframed(_ledger_key(symbol), value, _LEDGERS)

    def trades(self, symbol: str, lo_ms: int, hi_ms: int) -> pl.DataFrame:
        """Return the trades with time in `[lo_ms, hi_ms)` as `TRADE_SCHEMA`, ordered by id."""
        found = [
            trade
            for _, batch in self._batches(symbol, lo_ms, hi_ms)
            for trade in batch
            if lo_ms <= trade.time_ms < hi_ms
        ]
        found.sort(key=lambda trade: trade.agg_trade_id)
        return trades_frame(found)

    def beside(self, symbol: str, lo_ms: int, hi_ms: int) -> list[tuple[int, int]]:
        """Return id and time of the last trade before `[lo_ms, hi_ms)` and of the first after it; both whole seconds."""
        found: list[tuple[int, int]] = []
        last = self._db.iter(ReadOptions())
        last.seek_for_prev(_batch_key(symbol, lo_ms - SECOND_MS))
        if last.valid() and last.key().startswith(_batch_prefix(symbol)):
            found += [(t.agg_trade_id, t.time_ms) for t in _unframed(last.key(), last.value(), _BATCHES)[-1:]]
        after = next(self._batches(symbol, hi_ms, 10**13 - 1), None)
        return found + ([(t.agg_trade_id, t.time_ms) for t in after[1][:1]] if after else [])

    def seconds(self, symbol: str) -> list[int]:
        """Return the seconds (ms) that have a batch."""
        return [second for second, _ in self._batches(symbol, 0, 10**13 - 1)]

    def verify(self, symbol: str) -> list[tuple[int, int]]:
        """Return the ids that the ledger claims and no batch holds, as (first, last)."""
        held = sorted(trade.agg_trade_id for _, batch in self._batches(symbol, 0, 10**13 - 1) for trade in batch)
        return missing_ids(self.ledger(symbol), held)

    def _batches(self, symbol: str, lo_ms: int, hi_ms: int) -> Iterator[tuple[int, list[AggTrade]]]:
        first, last = (
            _batch_key(symbol, max(lo_ms, 10**12) // SECOND_MS * SECOND_MS),
            _batch_key(symbol, min(hi_ms, 10**13 - 1)),
        )
        for key, value in self._scan(first, last):
            yield int(key[-13:]), _unframed(key, value, _BATCHES)

    def _scan(self, first: bytes, last: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Yield entries in `[first, last)`; a damaged block ends RocksDB's iteration silently, so its status is asked."""
        options = ReadOptions()
        options.set_iterate_upper_bound(last)
        entry = self._db.iter(options)
        entry.seek(first)
        while entry.valid():
            yield entry.key(), entry.value()
            entry.next()
        try:
            entry.status()
        except Exception as error:  # rocksdict raises its own bare exceptions
            raise JournalDamaged(
                f"the journal {self.directory} is damaged: {error}", "restore it from the lake"
            ) from None


def _locked(lock: TextIO, patience_s: float) -> bool:
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(LOCK_LOOK_S)


def _newest_checkpoint(directory: Path) -> Path:
    path = control_socket(directory)
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(CONTROL_TIMEOUT_S)
            client.connect(str(path))
            client.sendall(b"checkpoint\n")
            answer = client.recv(4096).decode().split()
            if answer[:1] == ["ok"]:
                return directory / "checkpoints" / answer[1]
    except OSError:
        pass  # nobody listens: the collector is not running
    current = directory / "checkpoints" / "CURRENT"
    try:
        with TradeJournal.write(directory, 0 if current.exists() else PATIENCE_S) as journal:
            return journal.checkpoint()
    except JournalHeld:
        if not current.exists():
            raise
        return current.parent / current.read_text(encoding="utf-8").strip()


def _options() -> Options:
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_compression_type(DBCompressionType.zstd())
    options.set_keep_log_file_num(2)
    return options


def _batch_prefix(symbol: str) -> bytes:
    return f"trades:{symbol}:".encode()


def _batch_key(symbol: str, second_ms: int) -> bytes:
    return _batch_prefix(symbol) + f"{second_ms:013d}".encode()


def _ledger_key(symbol: str) -> bytes:
    return f"ledger:{symbol}".encode()


def _framed(content: object) -> bytes:
    payload = msgspec.msgpack.encode(content)
    return msgspec.msgpack.encode(_Frame(VERSION, zlib.crc32(payload), payload))


def _unframed(key: bytes, value: bytes, decoder: "msgspec.msgpack.Decoder[list]") -> list:  # pyright: ignore
    try:
        frame = _FRAMES.decode(value)
        if frame.version == VERSION and zlib.crc32(frame.payload) == frame.crc:
            return decoder.decode(frame.payload)
    except msgspec.DecodeError:
        pass
    raise JournalDamaged(f"{key.decode(errors='replace')} is not what was written", "delete it; its ids are repaired")
