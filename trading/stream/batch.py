"""A batch is the trades of one symbol in one window of exchange time, as bytes.

The bytes are one MessagePack extension value, so that any reader can step over it: type 84, then a version, a CRC-32 and
columns of variable-length integers: milliseconds since the trade before, price change in ticks with the taker's side,
lots, fills beyond the first. A column has the lowest bytes of all its integers first, then the next bytes of those that
go on, as bytes of one kind compress better side by side. Ids follow from the first one; where an id, a fill id or a time
does not follow, a jump says so. The window's start and the key are not stored but part of the checksum, so a batch under
another key is damage. A second and an hour are written alike. Nothing here knows what keys mean.
"""

import zlib
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import polars as pl
from numba import njit
from numpy.typing import NDArray

from trading.compiled import read_only
from trading.errors import TradingError
from trading.market.trade import TRADE_SCHEMA

EXTENSION: Final = 84
VERSION: Final = 3
WITHOUT_KEY: Final = 2
"""The version before, whose checksum has no key in it; it is read and no longer written."""

_HEADER_BOUND: Final = 80
_TRADE_BOUND: Final = 80
_HEAD: Final = 5
"""Version and CRC."""

Number = int | np.int64
Bytes = NDArray[np.uint8]
Integers = NDArray[np.int64]
Columns = tuple[Integers, Integers, Integers, Integers, Integers, Integers, NDArray[np.bool_]]


class BatchDamaged(TradingError):
    """Bytes are not those of a batch that was written for their window and key; `place` counts from zero."""

    def __init__(self, place: int) -> None:
        super().__init__(f"batch {place} is not what was written", "delete it; its ids are repaired")
        self.place = place


def _crc_table() -> NDArray[np.uint32]:
    """Return the table of CRC-32 as zlib computes it (reflected polynomial 0xEDB88320)."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0xEDB88320), table >> 1)
    return table.astype(np.uint32)


_CRC: Final = _crc_table()


@njit(cache=True)
def _checksum(content: Bytes, start: Number, end: Number, start_ms: Number, key_crc: Number) -> Number:
    crc = np.uint32(key_crc) ^ np.uint32(0xFFFFFFFF)
    for shift in range(0, 64, 8):
        crc = _CRC[(crc ^ np.uint32((start_ms >> shift) & 255)) & np.uint32(255)] ^ (crc >> np.uint32(8))
    for place in range(start, end):
        crc = _CRC[(crc ^ content[place]) & np.uint32(255)] ^ (crc >> np.uint32(8))
    return np.int64(crc ^ np.uint32(0xFFFFFFFF))


@njit(cache=True)
def _put(out: Bytes, place: Number, value: Number) -> Number:
    """Write a number of 0 … 2^63 - 1, seven bits a byte, and return the next place."""
    while value > 127:
        out[place] = (value & 127) | 128
        value >>= 7
        place += 1
    out[place] = value
    return place + 1


@njit(cache=True)
def _put_signed(out: Bytes, place: Number, value: Number) -> Number:
    return _put(out, place, (value << 1) ^ (value >> 63))


@njit(cache=True)
def _get(content: Bytes, place: Number, end: Number) -> tuple[Number, Number]:
    """Return a number and the next place, which is beyond `end` where the bytes are no number."""
    value = np.int64(0)
    for shift in range(0, 63, 7):
        if place >= end:
            return 0, end + 1
        byte = np.int64(content[place])
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    return 0, end + 1


@njit(cache=True)
def _get_signed(content: Bytes, place: Number, end: Number) -> tuple[Number, Number]:
    value, place = _get(content, place, end)
    return (value >> 1) ^ -(value & 1), place


@njit(cache=True)
def _put_column(out: Bytes, place: Number, numbers: Integers) -> Number:
    """Write the lowest seven bits of every number, then the next seven of those that go on, and so forth."""
    left, shift = len(numbers), 0
    while left:
        left = 0
        for number in numbers:
            rest = number >> shift
            if rest > 0 or shift == 0:
                out[place] = (rest & 127) | (128 if rest > 127 else 0)
                left += rest > 127
                place += 1
        shift += 7
    return place


@njit(cache=True)
def _get_column(content: Bytes, place: Number, end: Number, numbers: Integers, going: Integers) -> Number:
    """Read what `_put_column` wrote into `numbers` and return the next place; `going` is scratch of that length."""
    left, shift = len(numbers), 0
    for row in range(left):
        going[row], numbers[row] = row, 0
    while left:
        if place + left > end or shift >= 63:
            return end + 1
        still = 0
        for index in range(left):
            row, byte = going[index], np.int64(content[place + index])
            numbers[row] |= (byte & 127) << shift
            going[still] = row
            still += byte > 127
        place += left
        left, shift = still, shift + 7
    return place


@njit(cache=True)
def _encode(columns: Columns, lo: Number, hi: Number, start_ms: Number, out: Bytes) -> Number:
    """Write the body of one batch to `out`, from place 0, and return its length."""
    ids, price, lots, first, last, time_ms, maker = columns
    place = _put(out, 0, hi - lo)
    place = _put(out, place, ids[lo])
    place = _put_signed(out, place, first[lo] - ids[lo])
    place = _put(out, place, price[lo])
    numbers, jumping = np.empty(hi - lo, np.int64), np.zeros(hi - lo, np.bool_)
    before = start_ms
    for row in range(lo, hi):
        jump = time_ms[row] < before or (row > lo and (ids[row] != ids[row - 1] + 1 or first[row] != last[row - 1] + 1))
        jumping[row - lo] = jump
        numbers[row - lo] = 0 if jump else time_ms[row] - before
        before = time_ms[row]
    place = _put_column(out, place, numbers)
    for row in range(lo, hi):
        change = price[row] - price[row - 1] if row > lo else 0
        numbers[row - lo] = ((change << 1) ^ (change >> 63)) << 1 | np.int64(maker[row])
    place = _put_column(out, place, numbers)
    place = _put_column(out, place, lots[lo:hi])
    place = _put_column(out, place, last[lo:hi] - first[lo:hi])
    rows = np.flatnonzero(jumping)
    place = _put(out, place, len(rows))
    for jump_row in rows:
        row = lo + jump_row
        place = _put(out, place, jump_row)
        place = _put_signed(out, place, ids[row] - ids[row - 1] - 1 if row > lo else 0)
        place = _put_signed(out, place, first[row] - last[row - 1] - 1 if row > lo else 0)
        place = _put_signed(out, place, time_ms[row] - (time_ms[row - 1] if row > lo else start_ms))
    return place


@njit(cache=True)
def _bodies(
    content: Bytes, ends: Integers, starts_ms: Integers, key_crcs: Integers, bodies: Integers
) -> tuple[Number, Number]:
    """Find each batch's body; return how many trades there are and the first damaged batch, or -1."""
    total, start = 0, 0
    for batch in range(len(ends)):
        end = ends[batch]
        head, length = 0, np.int64(0)
        if end - start > 2 and content[start] == 0xC7:
            head, length = 2, np.int64(content[start + 1])
        elif end - start > 3 and content[start] == 0xC8:
            head, length = 3, np.int64(content[start + 1]) << 8 | np.int64(content[start + 2])
        elif end - start > 5 and content[start] == 0xC9:
            head = 5
            for place in range(start + 1, start + 5):
                length = length << 8 | np.int64(content[place])
        body = start + head + 1 + _HEAD
        if head == 0 or end - start != head + 1 + length or body >= end:
            return total, batch
        version = content[start + head + 1]
        if content[start + head] != EXTENSION or (version != VERSION and version != WITHOUT_KEY):
            return total, batch
        crc = np.int64(0)
        for place in range(4):
            crc |= np.int64(content[start + head + 2 + place]) << (8 * place)
        if crc != _checksum(content, body, end, starts_ms[batch], key_crcs[batch] if version == VERSION else 0):
            return total, batch
        count, _ = _get(content, body, end)
        # Each trade takes at least four bytes: a damaged count cannot ask for more memory than there are bytes.
        if count * 4 > end - body:
            return total, batch
        total += count
        bodies[batch] = body
        start = end
    return total, -1


@njit(cache=True)
def _decode(content: Bytes, bodies: Integers, ends: Integers, starts_ms: Integers, columns: Columns) -> Number:
    """Read all batches into columns; return the first damaged one, or -1."""
    ids, price, lots, first, last, time_ms, maker = columns
    lo = 0
    for batch in range(len(ends)):
        end = ends[batch]
        count, place = _get(content, bodies[batch], end)
        hi = lo + count
        first_id, place = _get(content, place, end)
        fill_offset, place = _get_signed(content, place, end)
        level, place = _get(content, place, end)
        going = np.empty(count, np.int64)
        place = _get_column(content, place, end, time_ms[lo:hi], going)
        place = _get_column(content, place, end, price[lo:hi], going)
        place = _get_column(content, place, end, lots[lo:hi], going)
        place = _get_column(content, place, end, last[lo:hi], going)
        for row in range(lo, hi):
            change = price[row]
            maker[row] = change & 1
            change >>= 1
            level += (change >> 1) ^ -(change & 1)
            price[row] = level
            ids[row], first[row] = 1, 0
        jumps, place = _get(content, place, end)
        for _ in range(jumps):
            row, place = _get(content, place, end)
            if place > end or row >= count:
                return batch
            step, place = _get_signed(content, place, end)
            fills, place = _get_signed(content, place, end)
            ids[lo + row] += step
            first[lo + row] = fills
            time_ms[lo + row], place = _get_signed(content, place, end)
        if place != end:
            return batch
        moment, number, fill = starts_ms[batch], first_id - 1, first_id + fill_offset
        for row in range(lo, hi):
            moment += time_ms[row]
            number += ids[row]
            first[row] += fill
            last[row] += first[row]
            fill = last[row] + 1
            ids[row], time_ms[row] = number, moment
        lo = hi
    return -1


def encode(trades: pl.DataFrame, edges: Integers, starts_ms: Integers, keys: Sequence[bytes]) -> list[bytes]:
    """Return the bytes of consecutive batches.

    Args:
        trades: `TRADE_SCHEMA`, ordered by aggregate trade id inside each batch; numbers below 2^61.
        edges: Row at which each batch begins, and at last the number of rows.
        starts_ms: Start of each batch's window, epoch milliseconds; the same is given to `decode`.
        keys: What each batch is kept under; the same is given to `decode`.
    """
    return encode_columns([trades[name].to_numpy() for name in TRADE_SCHEMA], edges, starts_ms, keys)


def encode_columns(
    columns: Sequence[NDArray[Any]], edges: Integers, starts_ms: Integers, keys: Sequence[bytes]
) -> list[bytes]:
    """Return the bytes of consecutive batches; like `encode`, of the columns of `TRADE_SCHEMA` in its order."""
    *integers, maker = columns
    ids, price, lots, first, last, time_ms = (read_only(values, np.int64) for values in integers)
    given = (ids, price, lots, first, last, time_ms, read_only(maker, np.bool_))
    longest = int(np.diff(edges).max()) if len(starts_ms) else 0
    out = np.empty(_HEADER_BOUND + _TRADE_BOUND * longest, np.uint8)
    batches: list[bytes] = []
    for batch, (start_ms, key) in enumerate(zip(starts_ms, keys, strict=True)):
        length = int(_encode(given, edges[batch], edges[batch + 1], start_ms, out))
        crc = int(_checksum(out, 0, length, start_ms, zlib.crc32(key)))
        batches.append(_extension(length + _HEAD) + crc.to_bytes(4, "little") + out[:length].tobytes())
    return batches


def decode(batches: Sequence[bytes], starts_ms: Integers, keys: Sequence[bytes]) -> pl.DataFrame:
    """Return the trades of batches as `TRADE_SCHEMA`, one batch after the other.

    Raises:
        BatchDamaged: One of them is not what was written for its window and key.
    """
    columns = decode_columns(batches, starts_ms, keys)
    return pl.DataFrame(dict(zip(TRADE_SCHEMA, columns, strict=True)), schema=TRADE_SCHEMA)


def decode_columns(batches: Sequence[bytes], starts_ms: Integers, keys: Sequence[bytes]) -> Columns:
    """Return the trades of batches; like `decode`, as the columns of `TRADE_SCHEMA` in its order."""
    content = np.frombuffer(b"".join(batches), np.uint8)
    ends = np.cumsum(np.fromiter(map(len, batches), np.int64, len(batches)))
    bodies, key_crcs = np.empty(len(batches), np.int64), np.fromiter(map(zlib.crc32, keys), np.int64, len(batches))
    total, damaged = _bodies(content, ends, starts_ms, key_crcs, bodies)
    if damaged < 0:
        ids, price, lots, first, last, time_ms = (np.empty(total, np.int64) for _ in range(6))
        columns = (ids, price, lots, first, last, time_ms, np.empty(total, np.bool_))
        damaged = _decode(content, bodies, ends, starts_ms, columns)
        if damaged < 0:
            return columns
    raise BatchDamaged(int(damaged))


def _extension(length: int) -> bytes:
    """Return the head of a MessagePack extension of `length` bytes, with the version that is its first byte."""
    if length < 1 << 8:
        return bytes((0xC7, length, EXTENSION, VERSION))
    if length < 1 << 16:
        return bytes((0xC8, *length.to_bytes(2, "big"), EXTENSION, VERSION))
    return bytes((0xC9, *length.to_bytes(4, "big"), EXTENSION, VERSION))
