"""What the database's monitors measure, and what they hold against it."""

import time
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from resources.timescale.backend import Hypertables
from resources.timescale.loop import wait
from resources.timescale.monitor import (
    BIG_BYTES,
    SHAPES,
    Latency,
    _scanned,
    days_of_room,
    history,
    keep,
    latencies,
    latest,
    rows_a_second,
    rows_written,
    sizes,
    too_large,
    too_slow,
)
from resources.timescale.store import MarketStore
from resources.timescale.tables import CANDLE
from trading.market.candle import CANDLE_SCHEMA
from trading.market.instrument import Instrument
from trading.market.timeframe import DAY_MS, Timeframe

NAME = "MONUSDT"
DAY = 20_100 * DAY_MS
DAYS = 2
ALARMED = {"one_day_1m.p99_ms": 101.0}


@pytest.fixture(scope="module")
def store(market: MarketStore) -> MarketStore:
    """A market of two days of one-minute bars, no books and no trades."""
    market.register([Instrument("sim", NAME, "MON", "USDT", 2, 3)])
    times = np.arange(DAY, DAY + DAYS * DAY_MS, Timeframe.M1.ms)
    bars = pl.DataFrame({"open_time": times}).with_columns(
        *(pl.lit(10.0).alias(name) for name in ("open", "high", "low", "close", "volume", "quote_volume")),
        trade_count=1,
        first_agg_trade_id=None,
        last_agg_trade_id=None,
        source=pl.lit("trades"),
        complete=True,
        n_present=1,
        n_expected=1,
        known_at_ms=None,
    )
    bars = bars.select(pl.col(name).cast(kind) for name, kind in CANDLE_SCHEMA.items())
    market.write(CANDLE, NAME, bars, DAY, DAY + DAYS * DAY_MS, Timeframe.M1)
    return market


def test_every_question_is_timed_first_and_warm_whether_or_not_there_is_an_answer(store: MarketStore) -> None:
    found = wait(latencies(store._dsn, "sim", NAME, DAY + DAYS * DAY_MS, rounds=3))
    assert [latency.shape for latency in found] == [shape.name for shape in SHAPES]
    assert all(0 < latency.p50_ms <= latency.p99_ms and latency.first_ms > 0 for latency in found)
    assert all(latency.scanned == () for latency in found)


def test_a_big_table_that_is_read_from_end_to_end_is_named(store: MarketStore) -> None:
    store.execute("CREATE TABLE md.heap AS SELECT n FROM generate_series(1, 20000) n")
    store.execute("ANALYZE md.heap")
    try:
        found = wait(store.connections.run(lambda c: _scanned(c, "SELECT count(*) FROM md.heap WHERE n > $1", (7,))))
        assert found == {"heap"}
    finally:
        store.execute("DROP TABLE md.heap")


def test_sizes_count_every_partition_and_index(store: MarketStore) -> None:
    store.execute("ANALYZE md.candle")
    found = {size.table: size for size in wait(store.connections.run(sizes))}
    assert found["candle"].rows >= DAYS * 1_440
    assert found["candle"].total_bytes > DAYS * 1_440 * 80
    assert found["monitor"].total_bytes > 0
    if isinstance(store._storage, Hypertables):
        assert found["candle_rollup_3m"].total_bytes > DAYS * 480 * 40
    assert not any(name.startswith("candle_2") for name in found), "a partition is part of its table"


def test_samples_are_kept_and_the_newest_of_each_is_found(store: MarketStore) -> None:
    for value in (1.0, 2.0):
        wait(store.connections.run(lambda c, v=value: keep(c, "tested", {"a": v, "b": -v}), transaction=True))
    assert wait(store.connections.run(lambda c: latest(c, "tested"))) == {"a": 2.0, "b": -2.0}
    assert [value for _, value in wait(store.connections.run(lambda c: history(c, "tested", "a")))] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        ({"one_day_1m.p99_ms": 100.0, "one_day_1m.scanned": 0.0}, []),
        (ALARMED, ["one_day_1m: p99 101 ms, 100 ms is the most"]),
        ({"last_book.scanned": 1.0}, ["last_book: a big table is read from end to end"]),
    ],
)
def test_what_is_slow_or_badly_planned_is_said(samples: dict[str, float], said: list[str]) -> None:
    assert too_slow(samples) == said


@pytest.mark.parametrize(
    ("samples", "said"),
    [
        ({"days_of_room": 30.0}, []),
        ({"days_of_room": 29.0}, ["at this rate the disk is full in 29 days"]),
        ({"trade.saved": 0.79, "trade.bytes": BIG_BYTES - 1.0}, []),
        ({"trade.saved": 0.79, "trade.bytes": BIG_BYTES}, ["trade: the columnstore saves 79 %, 80 % is the least"]),
    ],
)
def test_what_is_large_is_said(samples: dict[str, float], said: list[str]) -> None:
    assert too_large(samples) == said


def test_the_disk_lasts_as_long_as_a_line_through_the_samples_says() -> None:
    start = datetime(2026, 11, 1, tzinfo=UTC)
    grown = [(start + timedelta(hours=hour), 1e6 + 1e5 * hour) for hour in range(49)]
    assert days_of_room(grown, 2.4e7) == pytest.approx(10.0)
    assert days_of_room(grown[:24], 2.4e7) is None, "less than a day tells nothing"
    assert days_of_room([(at, -value) for at, value in grown], 2.4e7) is None, "what shrinks fills no disk"


def test_a_latency_is_kept_under_the_name_of_its_question() -> None:
    assert Latency("trades_10m", 9.0, 2.0, 5.0, ("trade_20261120",)).samples() == {
        "trades_10m.first_ms": 9.0,
        "trades_10m.p50_ms": 2.0,
        "trades_10m.p99_ms": 5.0,
        "trades_10m.scanned": 1,
    }


def test_rows_a_second_are_those_since_the_last_sample_and_unknown_before_it(store: MarketStore) -> None:
    store.execute("DELETE FROM md.monitor WHERE monitor = 'rows_refused'")
    assert wait(store.connections.run(rows_a_second)) is None
    store.execute(
        "INSERT INTO md.monitor (monitor, name, time, value) "
        "VALUES ('rows_refused', 'rows_written', now() - interval '100 seconds', 0)"
    )
    written, patience = 0.0, time.monotonic() + 30
    while written <= DAYS * 1_440 and time.monotonic() < patience:  # the server counts what a session did by and by
        store.execute("SELECT pg_stat_force_next_flush()")
        time.sleep(0.1)
        written = wait(store.connections.run(rows_written))
    assert written > DAYS * 1_440
    assert wait(store.connections.run(rows_a_second)) == pytest.approx(written / 100, rel=0.2)
    store.execute("UPDATE md.monitor SET value = 1e15 WHERE monitor = 'rows_refused'")
    assert wait(store.connections.run(rows_a_second)) is None
