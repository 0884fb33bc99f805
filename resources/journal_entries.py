"""What a journal's keys and values look like: keys by symbol and time, frames with a checksum, damage by its key."""

import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from resources.rocksdb import JournalDamaged
from trading.market.trade import TRADE_SCHEMA, AggTrade
from trading.stream.batch import BatchDamaged, Columns, decode_columns

VERSION: Final = 2
"""Of the frame around ledgers, fills and books."""

FOREVER_MS: Final = 10**13 - 1
PIECE_BYTES: Final = 2**20
"""How much is decoded at once where only the ids are wanted."""

Table = NDArray[np.int64]
"""The columns of `TRADE_SCHEMA` as rows."""

Entry = tuple[bytes, bytes]


class _Frame(msgspec.Struct, array_like=True):
    version: int
    crc: int
    payload: bytes


_FRAMES: Final = msgspec.msgpack.Decoder(_Frame)


def key_of(name: str, symbol: str, start_ms: int) -> bytes:
    """Return the key of a batch or book that begins at a moment."""
    return f"{name}:{symbol}:{start_ms:013d}".encode()


def span_of(name: str, symbol: str, lo_ms: int, hi_ms: int) -> tuple[bytes, bytes]:
    """Return the first key of `[lo_ms, hi_ms)` and the one behind its last."""
    return key_of(name, symbol, max(lo_ms, 0)), key_of(name, symbol, min(hi_ms, FOREVER_MS))


def start_ms(key: bytes) -> int:
    """Return the moment in a key."""
    return int(key[-13:])


def starts(entries: Sequence[Entry]) -> Table:
    """Return the moments in the keys of entries."""
    return np.fromiter((start_ms(key) for key, _ in entries), np.int64, len(entries))


def pieces(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Yield entries in lists of about `PIECE_BYTES`."""
    piece, size = list[Entry](), 0
    for entry in entries:
        piece.append(entry)
        size += len(entry[1])
        if size >= PIECE_BYTES:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def table_of(trades: Iterable[AggTrade]) -> Table:
    """Return trades as a table, shape (columns, trades)."""
    rows = [msgspec.structs.astuple(trade) for trade in trades]
    return np.ascontiguousarray(np.array(rows, np.int64).reshape(-1, len(TRADE_SCHEMA)).T)


def columns_of(entries: Sequence[Entry]) -> Columns:
    """Return the trades of batches as columns; raises `JournalDamaged`."""
    with naming_damage(entries):
        return decode_columns([value for _, value in entries], starts(entries), [key for key, _ in entries])


@contextmanager
def naming_damage(entries: Sequence[Entry]) -> Iterator[None]:
    """Say under which key a damaged batch is kept."""
    try:
        yield
    except BatchDamaged as error:
        raise damaged(entries[error.place][0]) from None


def damaged(key: bytes) -> JournalDamaged:
    """Return the error of a value that is not what was written."""
    return JournalDamaged(
        f"{key.decode(errors='replace')} is not what was written",
        "start the collector: it sets the batch aside and repairs its ids; where ids prove nothing, its second is missing",
    )


def framed(key: bytes, value: object) -> bytes:
    """Return a value with a version and a checksum over key and content, as MessagePack."""
    payload = msgspec.msgpack.encode(value)
    return msgspec.msgpack.encode(_Frame(VERSION, zlib.crc32(payload, zlib.crc32(key)), payload))


def unframed(key: bytes, value: bytes, kind: Any) -> Any:
    """Return what `framed` was given; raises `JournalDamaged`."""
    try:
        frame = _FRAMES.decode(value)
        if frame.version == VERSION and zlib.crc32(frame.payload, zlib.crc32(key)) == frame.crc:
            return msgspec.msgpack.decode(frame.payload, type=kind)
    except msgspec.DecodeError:
        pass
    raise damaged(key)


def aside(time_ms: int, reason: str, content: bytes) -> Entry:
    """Return the entry of a bad frame or batch; the same again is the same entry, so a loop of restarts keeps it once."""
    key = f"quarantine:{time_ms:013d}:{sha256(content).hexdigest()[:16]}"
    return key.encode(), msgspec.msgpack.encode([reason, content])
