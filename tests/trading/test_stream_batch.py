import zlib

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trading.market.trade import TRADE_SCHEMA
from trading.stream.batch import EXTENSION, VERSION, BatchDamaged, decode, encode

START = 1_760_000_000_000
LARGEST = 2**60
KEY = b"trades:BTCUSDT:1760000000000"
RIGHT_CRC = zlib.crc32(START.to_bytes(8, "little"), zlib.crc32(KEY))
WRITTEN_BEFORE = bytes.fromhex("c71b54024546c912030000809bee0200fafa010101040501020301010100")
"""Three trades of the second 1,700,000,000 in version 2, as it was written."""

numbers = st.one_of(st.integers(0, 300), st.integers(0, LARGEST))
trades = st.tuples(numbers, numbers, numbers, numbers, st.integers(0, 10**6), st.integers(0, 2**41), st.booleans())


def frame(rows: list[tuple]) -> pl.DataFrame:
    rows = [(a, p, q, f, f + fills, t, m) for a, p, q, f, fills, t, m in rows]
    return pl.DataFrame(rows, schema=TRADE_SCHEMA, orient="row")


def consecutive(count: int, step_ms: int = 70) -> pl.DataFrame:
    return frame(
        [
            (10**9 + n, 6_800_000 + n % 7, 500 + n, 4 * 10**9 + n, 0, START + n * step_ms, n % 2 == 0)
            for n in range(count)
        ]
    )


def one(count: int = 14) -> bytes:
    (batch,) = encode(consecutive(count), np.array([0, count]), np.array([START]), [KEY])
    return batch


def read(batch: bytes, start_ms: int = START, key: bytes = KEY) -> pl.DataFrame:
    return decode([batch], np.array([start_ms]), [key])


@given(st.lists(st.lists(trades, min_size=1, max_size=20), max_size=5), st.integers(0, 2**41))
def test_what_is_read_is_what_was_written_whatever_the_numbers(batches: list[list[tuple]], start_ms: int) -> None:
    together = frame([trade for batch in batches for trade in batch])
    edges = np.cumsum([0, *map(len, batches)])
    starts = start_ms + np.arange(len(batches)) * 1000
    keys = [b"%d" % start for start in starts]
    assert decode(encode(together, edges, starts, keys), starts, keys).equals(together)


@given(st.integers(1, 400), st.integers(0, 2**32))
def test_consecutive_trades_in_any_number_come_back(count: int, step_ms: int) -> None:
    trades = consecutive(count, step_ms % 50_000)
    (batch,) = encode(trades, np.array([0, count]), np.array([START]), [KEY])
    assert read(batch).equals(trades)


@pytest.mark.parametrize("count", [1, 14, 100, 20_000])
def test_a_batch_is_one_messagepack_value_of_any_length(count: int) -> None:
    value = msgspec.msgpack.decode(one(count))
    assert isinstance(value, msgspec.msgpack.Ext)
    assert value.code == EXTENSION
    body = value.data[5:]
    assert int.from_bytes(value.data[1:5], "little") == zlib.crc32(body, RIGHT_CRC)


@given(st.data())
@settings(max_examples=300)
def test_any_changed_byte_is_noticed(data: st.DataObject) -> None:
    batch = bytearray(one())
    place = data.draw(st.integers(0, len(batch) - 1))
    batch[place] ^= data.draw(st.integers(1, 255))
    with pytest.raises(BatchDamaged):
        read(bytes(batch))


@given(st.binary(max_size=200))
def test_bytes_that_are_no_batch_are_refused(content: bytes) -> None:
    with pytest.raises(BatchDamaged):
        read(content)


@given(st.binary(min_size=1, max_size=100))
def test_a_body_that_is_no_batch_is_refused_even_with_a_right_checksum(body: bytes) -> None:
    crc = zlib.crc32(body, RIGHT_CRC)
    batch = bytes((0xC7, len(body) + 5, EXTENSION, VERSION)) + crc.to_bytes(4, "little") + body
    try:
        trades = read(batch)
    except BatchDamaged:
        return
    assert len(trades) * 4 <= len(body)


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_batch_that_was_cut_short_is_refused(cut: int) -> None:
    with pytest.raises(BatchDamaged):
        read(one()[:-cut])


def test_a_batch_under_another_window_is_refused() -> None:
    with pytest.raises(BatchDamaged):
        read(one(), START + 1000)


@given(st.binary(max_size=40).filter(lambda key: key != KEY))
def test_a_batch_under_another_key_is_refused(key: bytes) -> None:
    with pytest.raises(BatchDamaged):
        read(one(), key=key)


def test_a_batch_of_the_version_before_is_read_under_any_key_and_never_taken_for_one_of_the_present() -> None:
    start_ms = 1_700_000_000_000
    for key in (KEY, b"any other"):
        assert read(WRITTEN_BEFORE, start_ms, key)["agg_trade_id"].to_list() == [0, 1, 2]
    for version in {*range(256)} - {2}:
        with pytest.raises(BatchDamaged):
            read(WRITTEN_BEFORE[:3] + bytes((version,)) + WRITTEN_BEFORE[4:], start_ms)


def test_the_damaged_one_of_many_is_named() -> None:
    trades = consecutive(50)
    edges, starts = np.array([0, 10, 20, 50]), np.array([START, START + 1000, START + 2000])
    keys = [KEY] * 3
    batches = encode(trades, edges, starts, keys)
    batches[1] = batches[1][:-1] + b"\x7f"
    with pytest.raises(BatchDamaged) as refused:
        decode(batches, starts, keys)
    assert refused.value.place == 1


def test_no_batches_are_no_trades() -> None:
    assert decode([], np.array([], np.int64), []).equals(pl.DataFrame(schema=TRADE_SCHEMA))
