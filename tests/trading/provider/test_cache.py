"""What the cache answers is what a plain list of the rows would, and what it handed out stays as it was."""

import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trading.market.book import BOOK_SNAPSHOT_SCHEMA
from trading.market.candle import CANDLE_SCHEMA, RANK
from trading.market.timeframe import MINUTE_MS, SECOND_MS, Timeframe
from trading.market.trade import TRADE_SCHEMA
from trading.provider.book_seconds import BOOK_1S_SCHEMA, imbalances_at
from trading.provider.cache import BARS, GRACE_MS, TABLES, WINDOW_MS, DataCacheManager, UnknownTable
from trading.provider.ring import Ring
from trading.provider.rows import LEVELS, Layout, Rows

START = 1_700_000_040_000
M1 = Timeframe.M1
FLOATS = st.floats(allow_nan=False, allow_infinity=False)


def bar(minute: int, close: float = 1.0, source: str = "trades", **others: Any) -> dict[str, Any]:
    prices = dict.fromkeys(("open", "high", "low"), close)
    counts = {"complete": True, "n_present": 1, "n_expected": 1}
    row = {"open_time": START + minute * MINUTE_MS, **prices, "close": close, "volume": 2.0, "source": source, **counts}
    return dict.fromkeys(CANDLE_SCHEMA) | row | others


def trade(number: int, time_ms: int) -> dict[str, Any]:
    return dict(zip(TRADE_SCHEMA, (number, 100, 5, number, number, time_ms, bool(number % 2)), strict=True))


def second(at: int, imbalance: float | None) -> dict[str, Any]:
    row = {"time_ms": START + at * SECOND_MS, "bid_volume": 1.0, "ask_volume": 1.0, "snapshots": 1}
    return dict.fromkeys(BOOK_1S_SCHEMA) | row | {"imbalance_20": imbalance}


def manager(now: int = 0, **others: Any) -> DataCacheManager:
    return DataCacheManager(lambda: now, **others)


VALUES: dict[Any, st.SearchStrategy[Any]] = {
    pl.Int64: st.integers(-(2**63) + 1, 2**63 - 1),
    pl.Int32: st.integers(-(2**31) + 1, 2**31 - 1),
    pl.Float64: FLOATS,
    pl.String: st.sampled_from(sorted(RANK)),
    pl.Boolean: st.booleans(),
    pl.List(pl.Float64): st.lists(FLOATS, max_size=LEVELS),
}


@pytest.mark.parametrize("table", TABLES)
@settings(max_examples=30)
@given(data=st.data())
def test_rows_come_back_from_memory_as_they_went_in(table: str, data: st.DataObject) -> None:
    schema = TABLES[table].schema
    rows = data.draw(st.lists(st.fixed_dictionaries({n: st.none() | VALUES[k] for n, k in schema.items()}), max_size=5))
    frame, layout = pl.DataFrame(rows, schema), Layout(schema)
    assert layout.unpack(layout.pack(frame)).equals(frame)
    singly = np.empty(len(rows), layout.dtype)
    for place, row in enumerate(rows):
        singly[place] = layout.row(row)
    assert singly.tobytes() == layout.pack(frame).tobytes()
    assert layout.unpack(layout.no_rows).schema == pl.Schema(schema)


WRITES = st.lists(
    st.lists(
        st.tuples(st.integers(0, 40), st.integers(0, 3).map(float), st.sampled_from(sorted(RANK))),
        min_size=1,
        max_size=4,
    ),
    max_size=25,
)


@given(WRITES, st.integers(0, 45), st.integers(0, 12), st.booleans())
def test_bars_in_any_order_are_those_of_a_plain_list(
    writes: list[list[tuple[int, float, str]]], minute: int, limit: int, singly: bool
) -> None:
    kept, held = manager(bars=16), dict[int, dict[str, Any]]()
    handed: list[tuple[Rows, bytes]] = []
    for batch in writes:
        rows = [bar(*row) for row in batch]
        if singly:
            for row in rows:
                kept.put("candle", "BTCUSDT", row, M1)
        else:
            kept.put("candle", "BTCUSDT", pl.DataFrame(rows, CANDLE_SCHEMA), M1)
        for row in rows:
            before = held.get(row["open_time"])
            if before is None or RANK[row["source"]] >= RANK[before["source"]]:
                held[row["open_time"]] = row
            if singly:
                held = dict(sorted(held.items())[-16:])
        held = dict(sorted(held.items())[-16:])
        view = kept.view("candle", "BTCUSDT", 100, M1)
        handed.append((view, view.tobytes()))
    as_of_ms = START + minute * MINUTE_MS
    closed = [row for _, row in sorted(held.items()) if row["open_time"] + MINUTE_MS <= as_of_ms]
    expected = pl.DataFrame(closed[len(closed) - min(limit, len(closed)) :], CANDLE_SCHEMA)
    for _ in range(2):
        assert kept.get_latest_ohlcv("BTCUSDT", M1, limit, as_of_ms).equals(expected)
    view = kept.view("candle", "BTCUSDT", limit, M1, as_of_ms)
    assert view["open_time"].tolist() == expected["open_time"].to_list()
    assert all(view.tobytes() == content for view, content in handed)


@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(-3_000, 10_000)), max_size=60),
    st.integers(0, 500_000),
    st.integers(1, 8),
)
def test_trades_are_by_id_and_none_of_later_though_clocks_step_back(
    steps: list[tuple[int, int]], after: int, limit: int
) -> None:
    kept, time_ms, rows = manager(), START, dict[int, dict[str, Any]]()
    for number, step in steps:
        time_ms += step
        rows[number] = trade(number, time_ms)
        kept.put("trade", "BTCUSDT", rows[number])
    newest = max((row["time_ms"] for row in rows.values()), default=0)
    assert all(row["time_ms"] <= newest for row in rows.values())
    seen = [row for _, row in sorted(rows.items()) if row["time_ms"] <= START + after]
    found = kept.get_latest_trades("BTCUSDT", limit, START + after).rows(named=True)
    old = newest - WINDOW_MS - GRACE_MS
    if all(row["time_ms"] >= old for row in rows.values()) and kept.statistics().evictions == 0:
        assert found == seen[-limit:]
    assert all(row in seen for row in found)


def test_an_open_bar_is_not_returned_and_one_that_just_closed_is() -> None:
    kept = manager(now=START + 2 * MINUTE_MS)
    kept.put("candle", "BTCUSDT", pl.DataFrame([bar(n, float(n + 1)) for n in range(4)], CANDLE_SCHEMA), M1)
    assert kept.get_latest_ohlcv("BTCUSDT", M1, 9)["close"].to_list() == [1.0, 2.0]
    assert len(kept.get_latest_ohlcv("BTCUSDT", M1, 9, START + 2 * MINUTE_MS - 1)) == 1
    assert kept.get_latest_ohlcv("BTCUSDT", M1, 9, START + MINUTE_MS - 1).is_empty()


def test_bars_of_a_second_are_kept_for_minutes_and_longer_ones_by_their_number() -> None:
    kept = manager()
    for n in range(BARS + 10):
        kept.put("candle", "BTCUSDT", bar(n), M1)
        kept.put("candle_1s", "BTCUSDT", bar(0, open_time=START + n * SECOND_MS))
    assert len(kept.get_latest_ohlcv("BTCUSDT", M1, 2_000)) == BARS >= 500
    seconds = kept.get_latest_ohlcv("BTCUSDT", Timeframe.S1, 2_000)
    assert len(seconds) == (WINDOW_MS + GRACE_MS) // SECOND_MS
    assert seconds["open_time"][-1] == START + (BARS + 9) * SECOND_MS
    assert kept.statistics().evictions == 10 + BARS + 10 - len(seconds)


def test_a_row_of_the_future_does_not_empty_the_cache() -> None:
    kept = manager(now=START + MINUTE_MS)
    kept.put("trade", "BTCUSDT", trade(1, START))
    kept.put("trade", "BTCUSDT", trade(2, START + 9 * MINUTE_MS))
    assert kept.get_latest_trades("BTCUSDT", 5)["agg_trade_id"].to_list() == [1]


def test_the_same_row_again_changes_nothing_and_a_correction_is_counted() -> None:
    kept = manager()
    kept.put("candle", "BTCUSDT", pl.DataFrame([bar(n) for n in range(3)], CANDLE_SCHEMA), M1)
    frame = kept.get_latest_ohlcv("BTCUSDT", M1, 3)
    kept.put("candle", "BTCUSDT", bar(1), M1)
    assert kept.get_latest_ohlcv("BTCUSDT", M1, 3) is frame
    kept.put("candle", "BTCUSDT", bar(1, 9.0), M1)
    kept.put("candle", "BTCUSDT", bar(2, 9.0, "rollup"), M1)
    kept.put("candle", "BTCUSDT", bar(-5), M1)
    assert kept.get_latest_ohlcv("BTCUSDT", M1, 4)["close"].to_list() == [1.0, 1.0, 9.0, 1.0]
    assert frame["close"].to_list() == [1.0, 1.0, 1.0]
    counted = kept.statistics()
    assert (counted.corrections, counted.outranked, counted.late, counted.writes) == (1, 1, 1, 7)


def test_a_hit_is_all_that_was_asked_for_and_a_forgotten_symbol_is_a_miss() -> None:
    kept = manager()
    assert kept.get_latest_ohlcv("BTCUSDT", M1, 1).schema == pl.Schema(CANDLE_SCHEMA)
    assert len(kept.view("candle", "BTCUSDT", 1, M1)) == 0
    kept.put("candle", "BTCUSDT", bar(0), M1)
    kept.put("book_1s", "ETHUSDT", second(0, 0.5))
    kept.get_latest_ohlcv("BTCUSDT", M1, 1)
    kept.get_latest_ohlcv("BTCUSDT", M1, 2)
    counted = kept.statistics()
    assert (counted.hits, counted.misses, counted.rows) == (1, 3, 2)
    assert counted.nbytes > 0
    kept.forget("BTCUSDT")
    assert kept.get_latest_ohlcv("BTCUSDT", M1, 1).is_empty()
    assert kept.statistics().rows == 1
    with pytest.raises(UnknownTable, match="keeps no rumours"):
        kept.put("rumours", "BTCUSDT", bar(0), M1)


@pytest.mark.parametrize(
    ("table", "row", "timeframe"), [("book_1s", lambda n: second(n, 0.5), None), ("candle", bar, M1)]
)
def test_what_the_cache_has_whole_begins_behind_what_fell_out_of_it(table: str, row: Any, timeframe: Any) -> None:
    kept = manager(window_ms=0, bars=2)
    kept.covers(table, "BTCUSDT", START, timeframe)
    kept.put(table, "BTCUSDT", row(0), timeframe)
    assert kept.covered_from(table, "BTCUSDT", timeframe) == START
    for n in (1, 500, 501):
        kept.put(table, "BTCUSDT", row(n), timeframe)
    step = SECOND_MS if timeframe is None else MINUTE_MS
    assert kept.frame(table, "BTCUSDT", timeframe).height == 2
    assert kept.covered_from(table, "BTCUSDT", timeframe) == START + step + 1, "nothing was between 1 and 500"


def test_the_last_book_is_the_last_before_the_moment_with_its_best_levels() -> None:
    kept = manager()
    for n in range(3):
        levels = [float(n + 1)] * (LEVELS + n)
        sides = dict.fromkeys(("bid_price", "bid_quantity", "ask_price", "ask_quantity"), levels)
        kept.put("book_snapshot", "BTCUSDT", {"time_ms": START + n, "last_update_id": n, **sides})
    book = kept.get_latest_orderbook("BTCUSDT", START + 1)
    assert book.schema == pl.Schema(BOOK_SNAPSHOT_SCHEMA)
    assert book["bid_price"].to_list() == [[2.0] * LEVELS]
    assert kept.get_latest_orderbook("BTCUSDT")["last_update_id"].to_list() == [2]
    assert kept.get_latest_orderbook("BTCUSDT", START - 1).is_empty()


@given(st.lists(st.none() | st.floats(-1, 1), max_size=80), st.integers(0, 90))
def test_imbalances_are_those_of_the_rows_and_windows_that_the_cache_does_not_reach_have_none(
    values: list[float | None], at: int
) -> None:
    rows = pl.DataFrame([second(n, value) for n, value in enumerate(values)], BOOK_1S_SCHEMA)
    kept, as_of_ms = manager(), START + at * SECOND_MS + 7
    kept.put("book_1s", "BTCUSDT", rows)
    found = kept.get_latest_imbalances("BTCUSDT", as_of_ms)
    expected = imbalances_at(rows, as_of_ms)
    assert found == {window: mean for window, mean in expected.items() if values and window <= at}
    seconds = kept.get_book_seconds("BTCUSDT", START + 3_000, as_of_ms)
    if values and at > 0:
        assert seconds is not None
        assert seconds.equals(rows.filter(pl.col("time_ms").is_between(START + 3_000, as_of_ms - SECOND_MS)))
    assert kept.get_book_seconds("BTCUSDT", START - 1, as_of_ms) is None


NUMBERED = Layout({"time_ms": pl.Int64, **dict.fromkeys("abcdefgh", pl.Float64)})


def numbered(key: int, version: int) -> tuple[float, ...]:
    """Return a row whose numbers are one number, and whose last three digits say which version it is."""
    return key, *(float(key * 1_000 + version) for _ in range(8))


def write(ring: Ring, keys: range) -> Iterator[int]:
    """Append rows, correct an earlier one after each seventh, bring some late and evict; yield after each."""
    for key in keys:
        if key % 10:
            ring.append(numbered(key, 0), key, key)
        else:
            ring.extend(np.array([numbered(key + 1, 0)], NUMBERED.dtype))
            ring.append(numbered(key, 0), key, key)
        if key % 7 == 0:
            ring.append(numbered(key - 3, key % 900), key - 3, key)
        if key % 500 == 0:
            ring.evict_before(key - 160)
        yield key


def faults(content: bytes) -> Iterator[str]:
    rows = np.frombuffer(content, NUMBERED.dtype)
    columns = np.stack([rows[name] for name in "abcdefgh"])
    if np.any(columns != columns[0]) or np.any(columns[0] // 1_000 != rows["time_ms"]):
        yield "a torn row"
    steps = np.diff(rows["time_ms"])
    if np.any(steps < 1) or np.any(steps[:-1] > 1):
        yield "a hole or a row twice"


def test_what_readers_see_is_whole_at_every_line_of_the_writer() -> None:
    ring, found, looks = Ring(NUMBERED, "time_ms", "time_ms", 0, 90), set[str](), 0

    def look(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal looks
        if frame.f_code.co_filename.endswith("ring.py"):
            published = ring.published
            found.update(faults(published.rows[published.first : published.end].tobytes()))
            looks += 1
            return look
        return None

    before = sys.gettrace()
    sys.settrace(look)
    try:
        assert len(list(write(ring, range(4, 400)))) == 396
    finally:
        sys.settrace(before)
    assert not found
    assert looks > 5_000
    assert ring.corrected > 50


def test_no_reader_in_another_thread_sees_a_torn_row_nor_a_view_that_changes() -> None:
    ring, stop, found, reads = Ring(NUMBERED, "time_ms", "time_ms", 0, 200), threading.Event(), list[str](), [0, 0, 0]

    def read(reader: int) -> None:
        held: list[tuple[Rows, bytes]] = []
        while not stop.is_set():
            view = ring.view(150, 2**62)
            content = view.tobytes()
            found.extend(faults(content))
            held = [*held[-20:], (view, content)]
            if held[0][0].tobytes() != held[0][1]:
                found.append("a view that changed")
            reads[reader] += 1

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    readers = [threading.Thread(target=read, args=(reader,)) for reader in range(3)]
    try:
        for thread in readers:
            thread.start()
        for _ in write(ring, range(4, 5_000)):
            pass
    finally:
        stop.set()
        for thread in readers:
            thread.join()
        sys.setswitchinterval(before)
    assert not found, set(found)
    assert min(reads) > 20
    assert ring.corrected > 500
