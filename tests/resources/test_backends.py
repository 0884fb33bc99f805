"""Plain PostgreSQL and TimescaleDB answer alike: the same history of writes leaves equal rows in every table and view.

The history has what happens to a market database: bars that come late, come again, are corrected or withdrawn, days that are
half there, months and years that end, days in the columnstore that change a little or wholly, and days that are let go.
"""

import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg
import numpy as np
import polars as pl
import pytest

from resources.timescale.backend import Hypertables, RefreshRefused, RetentionRefused
from resources.timescale.loop import wait
from resources.timescale.migrations import Backend, apply, backend_of, migrations
from resources.timescale.store import MarketStore
from resources.timescale.tables import (
    BOOK_1S,
    BOOK_SNAPSHOT,
    CANDLE,
    CANDLE_1S,
    INDICATOR,
    INDICATOR_SCHEMA,
    TRADE,
    Table,
)
from resources.timescale.writing import Rows, Target, Written, dated, write
from tests.databases import database, timescale
from trading.market.book import BOOK_SNAPSHOT_SCHEMA
from trading.market.candle import CANDLE_SCHEMA, roll_up
from trading.market.instrument import Instrument
from trading.market.timeframe import DAY_MS, HOUR_MS, MINUTE_MS, ROLLED_UP, SECOND_MS, Timeframe
from trading.market.trade import TRADE_SCHEMA
from trading.provider.book_tops import VOLUMES, completed
from trading.stream.contiguity import IdRange

SEEDS: Final = range(40) if os.environ.get("SOAK") else range(2)
START_MS: Final = 1_798_588_800_000  # 2026-12-30: a month and a year end two days later
SYMBOLS: Final = tuple(Instrument("sim", name, name[:3], "USDT", 2, 5) for name in ("AAAUSDT", "BBBUSDT"))
VIEWS: Final = ("ohlcv_1s", "ohlcv_1m", *(f"ohlcv_{timeframe}" for timeframe in ROLLED_UP), "book_1m")
TABLES: Final = (TRADE, CANDLE, CANDLE_1S, INDICATOR, BOOK_SNAPSHOT, BOOK_1S)
RELATIONS: Final = (
    *VIEWS,
    *(table.name for table in TABLES),
    *(f"{table.name}_revision" for table in TABLES if table.revised),
    "book",
    "book_revision",
    "trade_coverage",
)


@dataclass
class Pair:
    """The same market database on both kinds of server, and how many rows were found equal so far."""

    plain: MarketStore
    timescale: MarketStore
    equal: Counter[str] = field(default_factory=Counter)

    def write(self, table: Table, symbol: str, frame: pl.DataFrame, lo_ms: int, hi_ms: int, **options: Any) -> Written:
        """Write the same rows to both, which say the same of it."""
        first, second = (s.write(table, symbol, frame, lo_ms, hi_ms, **options) for s in (self.plain, self.timescale))
        assert first == second
        return first

    def drop(self, symbol: str, times_ms: list[int], recorded_at_ms: int | None) -> Written:
        """Delete the same 1m bars of both."""
        first, second = (
            store.drop(CANDLE, symbol, times_ms, Timeframe.M1, recorded_at_ms) for store in (self.plain, self.timescale)
        )
        assert first == second
        return first

    def compare(self, *relations: str) -> None:
        """Find equal rows in the relations named, or in all."""
        for relation in relations or RELATIONS:
            first, second = (
                store.fetch(f"SELECT * FROM md.{relation} AS r ORDER BY r::text")
                for store in (self.plain, self.timescale)
            )
            assert first == second, relation
            self.equal[relation] += len(first)


@pytest.fixture
def pair(postgres: str) -> Iterator[Pair]:
    with (
        timescale() as there,
        database(postgres, Backend.PLAIN) as here,
        MarketStore(here, "sim") as plain,
        MarketStore(there, "sim") as second,
    ):
        for store in (plain, second):
            store.register(SYMBOLS)
        # What the scheduler does on its own clock is done here when the history says so.
        second.execute(
            "SELECT alter_job(job_id, scheduled => false) FROM timescaledb_information.jobs WHERE job_id >= 1000"
        )
        yield Pair(plain, second)


def minutes(rng: np.random.Generator, lo_ms: int, hi_ms: int, share: float, step_ms: int = MINUTE_MS) -> pl.DataFrame:
    """Return bars of some of the buckets in a range; some of them incomplete, some without volumes in quote coin."""
    times = np.arange(lo_ms, hi_ms, step_ms)
    times = times[rng.random(len(times)) < share]
    ticks = rng.integers(100_000, 110_000, (len(times), 4))
    first = times // 1000 - START_MS // 1000 + 10**7
    whole = rng.random(len(times)) < 0.9
    return (
        pl.DataFrame(
            {
                "open_time": times,
                "open": ticks[:, 0] / 100,
                "high": ticks.max(axis=1, initial=0) / 100,
                "low": ticks.min(axis=1, initial=10**9) / 100,
                "close": ticks[:, 1] / 100,
                "volume": rng.integers(0, 10**10, len(times)) / 1e5,
                "quote_volume": pl.Series(rng.integers(0, 10**14, len(times)) / 1e7),
                "trade_count": pl.Series(rng.integers(1, 1000, len(times)), dtype=pl.Int64),
                "first_agg_trade_id": first * 100,
                "last_agg_trade_id": first * 100 + 99,
                "source": np.where(whole, "trades", "incomplete_trades"),
                "complete": whole,
                "n_present": 1,
                "n_expected": 1,
                "known_at_ms": None,
            }
        )
        .with_columns(
            quote_volume=pl.when(pl.Series(rng.random(len(times)) < 0.02)).then(None).otherwise("quote_volume"),
            trade_count=pl.when(pl.Series(rng.random(len(times)) < 0.02)).then(None).otherwise("trade_count"),
        )
        .select(pl.col(name).cast(kind) for name, kind in CANDLE_SCHEMA.items())
    )


def trades(rng: np.random.Generator, lo_ms: int, hi_ms: int, count: int) -> pl.DataFrame:
    """Return trades whose ids rise with the day they are of."""
    ids = np.arange(count) + (lo_ms - START_MS) // DAY_MS * 10_000_000 + 100_000_000
    columns = {
        "agg_trade_id": ids,
        "price": rng.integers(100_000, 110_000, count),
        "quantity": rng.integers(1, 10**6, count),
        "first_trade_id": ids * 3,
        "last_trade_id": ids * 3 + 2,
        "time_ms": np.sort(rng.integers(lo_ms, hi_ms, count)),
        "buyer_is_maker": rng.random(count) < 0.5,
    }
    return pl.DataFrame(columns).select(pl.col(name).cast(kind) for name, kind in TRADE_SCHEMA.items())


def indicators(rng: np.random.Generator, bars: pl.DataFrame) -> pl.DataFrame:
    values = {name: rng.normal(size=len(bars)) for name, kind in INDICATOR_SCHEMA.items() if kind == pl.Float64}
    frame = pl.DataFrame({"open_time": bars["open_time"], **values, "warm": True, "known_at_ms": None})
    return frame.select(pl.col(name).cast(kind) for name, kind in INDICATOR_SCHEMA.items())


def books(rng: np.random.Generator, lo_ms: int, hi_ms: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return books of some moments and of some seconds."""
    times = np.unique(rng.integers(lo_ms, hi_ms, 300))
    bids = [[round(1000 - 0.01 * level, 2) for level in range(20)] for _ in times]
    asks = [[round(1000.01 + 0.01 * level, 2) for level in range(20)] for _ in times]
    snapshots = {
        "time_ms": times,
        "last_update_id": times,
        "bid_price": bids,
        "bid_quantity": (rng.integers(1, 10**6, (len(times), 20)) / 1e5).tolist(),
        "ask_price": asks,
        "ask_quantity": (rng.integers(1, 10**6, (len(times), 20)) / 1e5).tolist(),
        "known_at_ms": None,
    }
    seconds = np.unique(times // SECOND_MS) * SECOND_MS
    volumes = np.sort(rng.integers(0, 10**8, (len(seconds), 2, 3)), axis=2).reshape(-1, 6) / 1e5
    rows = dict(zip(VOLUMES, volumes.T, strict=True)) | {
        "time_ms": seconds,
        "snapshots": rng.integers(0, 9, len(seconds)),
    }
    best = {
        "best_bid": rng.integers(99_000, 100_000, len(seconds)) / 100,
        "best_ask": [1000.01, 1000.1, None][len(seconds) % 3],
    }
    return (
        pl.DataFrame(snapshots).select(pl.col(name).cast(kind) for name, kind in BOOK_SNAPSHOT.schema.items()),
        completed(pl.DataFrame(rows | best | {"known_at_ms": None}, schema_overrides={"best_ask": pl.Float64})).select(
            pl.col(name).cast(kind) for name, kind in BOOK_1S.schema.items()
        ),
    )


def as_the_program_does(store: MarketStore, instrument: Instrument, lo_ms: int, hi_ms: int) -> None:
    """Find the database's roll-ups to be what the program would make of the same 1m bars."""
    bars = store.read(CANDLE, instrument.name, lo_ms, hi_ms, Timeframe.M1)
    columns = ["open", "high", "low", "close", "volume", "trade_count", "n_present", "n_expected", "complete"]
    for timeframe in ROLLED_UP:
        query = (
            f"SELECT (extract(epoch FROM open_time) * 1000)::bigint AS open_time, {', '.join(columns)}, "
            f"(extract(epoch FROM known_at) * 1000)::bigint AS known_at_ms FROM md.ohlcv_{timeframe} "
            "JOIN md.symbol USING (symbol_id) WHERE name = $1 AND source = 'rollup' ORDER BY 1"
        )
        stored = store.read(CANDLE, instrument.name, lo_ms, hi_ms, timeframe)["open_time"].to_list()
        made = roll_up(bars, Timeframe.M1, timeframe, instrument).filter(~pl.col("open_time").is_in(stored))
        found = [tuple(row) for row in store.fetch(query, instrument.name) if row["open_time"] not in stored]
        assert found == made.select("open_time", *columns, "known_at_ms").rows()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_same_history_leaves_equal_rows_on_both_backends(pair: Pair, seed: int) -> None:
    rng = np.random.default_rng(seed)
    clock_ms = START_MS + 3 * DAY_MS
    days = [START_MS + n * DAY_MS for n in range(3)]
    m1: dict[str, Any] = {"timeframe": Timeframe.M1}

    # Days as they come: two whole, one partly; a stored bar of a longer timeframe wins over the roll-up.
    kept: dict[tuple[str, int], pl.DataFrame] = {}
    hours: dict[tuple[str, int], int] = {}
    for instrument in SYMBOLS:
        name = instrument.name
        for day, share in zip(days, (1.0, 0.9, 0.3), strict=True):
            kept[name, day] = minutes(rng, day, day + DAY_MS, share)
            pair.write(CANDLE, name, kept[name, day], day, day + DAY_MS, **m1)
        for timeframe in (Timeframe.M3, Timeframe.H1, Timeframe.H4):
            bars = roll_up(kept[name, days[1]], Timeframe.M1, timeframe, instrument)[::2]
            pair.write(CANDLE, name, bars, days[1], days[1] + DAY_MS, timeframe=timeframe)
            pair.write(INDICATOR, name, indicators(rng, bars), days[1], days[1] + DAY_MS, timeframe=timeframe)
        for day in days:
            hour = hours[name, day] = day + int(rng.integers(0, 23)) * HOUR_MS
            pair.write(CANDLE_1S, name, minutes(rng, hour, hour + HOUR_MS, 0.3, SECOND_MS), hour, hour + HOUR_MS)
            pair.write(TRADE, name, trades(rng, day, day + DAY_MS, 2_000), day, day + DAY_MS)
            for store in (pair.plain, pair.timescale):
                store.set_trade_coverage(name, day, [IdRange(0, 9, day, day + DAY_MS)])
            snapshots, seconds = books(rng, hour, hour + HOUR_MS)
            pair.write(BOOK_SNAPSHOT, name, snapshots, hour, hour + HOUR_MS)
            pair.write(BOOK_1S, name, seconds, hour, hour + HOUR_MS)
    pair.compare()

    # Once more changes nothing; what was materialized meanwhile and what was not give one answer.
    for store in (pair.plain, pair.timescale):
        store.refresh(START_MS, START_MS + DAY_MS + 90 * MINUTE_MS)
    for (name, day), frame in kept.items():
        assert pair.write(CANDLE, name, frame, day, day + DAY_MS, exact=True, **m1).changed == 0
    pair.compare()

    # Late, corrected and withdrawn bars, before and after what was materialized.
    for name, lo_ms in [(s.name, int(START_MS + rng.integers(0, 66) * HOUR_MS)) for s in SYMBOLS for _ in range(4)]:
        hi_ms = lo_ms + int(rng.integers(1, 6)) * HOUR_MS
        options = m1 | {"recorded_at_ms": (clock_ms := clock_ms + SECOND_MS)}
        pair.write(CANDLE, name, minutes(rng, lo_ms, hi_ms, 0.5), lo_ms, hi_ms, **options)
        pair.write(
            CANDLE, name, minutes(rng, lo_ms, lo_ms + HOUR_MS, 0.8), lo_ms, lo_ms + HOUR_MS, exact=True, **options
        )
        pair.drop(name, [hi_ms - n * MINUTE_MS for n in range(1, 9)], clock_ms)
        pair.compare("candle", "candle_revision", *VIEWS)

    # Days in the columnstore: a little changes, all changes, nothing changes, a trade is told another time.
    compressed = pair.timescale.compress(START_MS + 40 * DAY_MS)
    assert len(compressed) >= 6
    assert pair.timescale.compress(START_MS + 40 * DAY_MS) == pair.plain.compress(clock_ms) == []
    for name in (s.name for s in SYMBOLS):
        lo_ms = days[0] + int(rng.integers(0, 23)) * HOUR_MS
        pair.write(CANDLE, name, minutes(rng, lo_ms, lo_ms + HOUR_MS, 0.2), lo_ms, lo_ms + HOUR_MS, **m1)
        day = minutes(rng, days[1], days[1] + DAY_MS, 0.95)
        assert (
            pair.write(CANDLE, name, day, days[1], days[1] + DAY_MS, exact=True, recorded_at_ms=clock_ms, **m1).changed
            > 1000
        )
        assert (
            pair.write(CANDLE, name, day, days[1], days[1] + DAY_MS, exact=True, recorded_at_ms=clock_ms, **m1).changed
            == 0
        )
        told = trades(rng, days[0], days[0] + DAY_MS, 2_000)
        pair.write(TRADE, name, told, days[0], days[0] + DAY_MS, exact=True)
        others = told[:100].with_columns(pl.col("agg_trade_id") + 5_000_000)
        assert pair.write(TRADE, name, others, days[0], days[0] + DAY_MS, exact=True) == Written(100, 0, 2_000)
        assert pair.write(TRADE, name, told, days[0], days[0] + DAY_MS, exact=True) == Written(2_000, 0, 100)
        moved = told[1000:1005].with_columns(pl.col("time_ms") + 1)
        assert pair.write(TRADE, name, moved, days[0], days[0] + DAY_MS) == Written(0, 5, 0)
        again = {"exact": True, "recorded_at_ms": clock_ms}
        for hour in (hours[name, days[0]], hours[name, days[2]]):
            snapshots, seconds = books(rng, hour, hour + HOUR_MS)
            assert pair.write(BOOK_SNAPSHOT, name, snapshots, hour, hour + HOUR_MS, **again).deleted
            assert pair.write(BOOK_1S, name, seconds, hour, hour + HOUR_MS, **again).updated
            bars = minutes(rng, hour, hour + HOUR_MS, 0.3, SECOND_MS)
            assert pair.write(CANDLE_1S, name, bars, hour, hour + HOUR_MS, **again).changed
        bars = minutes(rng, days[1], days[1] + DAY_MS, 0.5, HOUR_MS)
        changed = pair.write(
            INDICATOR, name, indicators(rng, bars), days[1], days[1] + DAY_MS, timeframe=Timeframe.H1, **again
        )
        assert changed.updated and changed.deleted
    pair.compare()

    # Whole days go, where both clocks allow it, and nothing that is made of minutes.
    for store in (pair.plain, pair.timescale):
        for table in (TRADE, CANDLE_1S, BOOK_SNAPSHOT, BOOK_1S):
            assert not store.retain(table, days[0] + DAY_MS - 1, days[2])
            assert store.retain(table, days[2] + HOUR_MS, days[1] + HOUR_MS)
        store.refresh(START_MS, days[2] + DAY_MS)
    pair.compare()
    for table in (TRADE, CANDLE_1S, BOOK_SNAPSHOT, BOOK_1S):
        for name in [table.name, *([f"{table.name}_revision"] if table.revised else [])]:
            first = pair.plain.fetch(f"SELECT min({table.time_column}) AS first FROM md.{name}")[0]["first"]
            assert first is None or first.timestamp() * 1000 >= days[1]
    assert [len(pair.plain.trade_coverage(s.name)) for s in SYMBOLS] == [2, 2]
    for instrument in SYMBOLS:
        as_the_program_does(pair.plain, instrument, days[0], days[2] + DAY_MS)
    print(f"seed {seed}: rows compared and equal", dict(pair.equal))
    assert min(pair.equal.values()) > 0


def test_what_may_not_go_and_what_has_no_end_is_refused(pair: Pair) -> None:
    for store in (pair.plain, pair.timescale):
        with pytest.raises(RetentionRefused, match=r"md\.candle are kept for good"):
            store.retain(CANDLE, START_MS, START_MS)
        for range_ms in [(None, START_MS), (START_MS, None), (START_MS, START_MS)]:
            with pytest.raises(RefreshRefused, match="nothing lies in"):
                store.refresh(*range_ms)


def test_a_history_is_materialized_as_it_is_loaded_and_what_is_live_is_not() -> None:
    rng, first, days = np.random.default_rng(2), START_MS - 500 * DAY_MS, 10 * DAY_MS
    watermark = (
        "SELECT (_timescaledb_functions.cagg_watermark(mat_hypertable_id) / 1000)::bigint AS ms "
        "FROM _timescaledb_catalog.continuous_agg WHERE user_view_name = 'candle_rollup_3m'"
    )
    with timescale() as dsn, MarketStore(dsn, "sim") as store:
        store.register(SYMBOLS)
        store.execute(
            "SELECT alter_job(job_id, scheduled => false) FROM timescaledb_information.jobs WHERE job_id >= 1000"
        )

        def written(symbol: Instrument, lo_ms: int, hi_ms: int) -> int:
            """Write minutes, and return on which day what is materialized ends."""
            store.write(CANDLE, symbol.name, minutes(rng, lo_ms, hi_ms, 0.9), lo_ms, hi_ms, Timeframe.M1)
            (row,) = store.fetch(watermark)
            return (row["ms"] - first) // DAY_MS

        for n in range(3):
            assert written(SYMBOLS[0], first + n * days, first + (n + 1) * days) in (10 * n + 9, 10 * n + 10)
        assert written(SYMBOLS[0], first + 3 * days, first + 3 * days + DAY_MS) in (29, 30)
        assert written(SYMBOLS[1], first - 2 * days, first - days) in (29, 30)
        now_ms = int(time.time()) // 60 * MINUTE_MS
        day = (now_ms - HOUR_MS - first) // DAY_MS
        assert written(SYMBOLS[0], now_ms - DAY_MS, now_ms) == day
        assert written(SYMBOLS[0], now_ms, now_ms + MINUTE_MS) == day
        (row,) = store.fetch(watermark)
        assert now_ms - HOUR_MS - 3 * MINUTE_MS <= row["ms"] < now_ms - 30 * MINUTE_MS, "the last hour is still to come"
        bars = {view: store.fetch(f"SELECT * FROM md.{view} ORDER BY 1, 2") for view in VIEWS}
        assert len(bars["ohlcv_1d"]) == 30 + 1 + 10 + 2
        store.refresh(first - 2 * days, now_ms)
        assert bars == {view: store.fetch(f"SELECT * FROM md.{view} ORDER BY 1, 2") for view in VIEWS}


def test_bars_above_minutes_that_an_operator_dropped_stay(pair: Pair) -> None:
    rng = np.random.default_rng(1)
    name, later = SYMBOLS[0].name, START_MS + 60 * DAY_MS
    for day in (START_MS, later):
        pair.write(CANDLE, name, minutes(rng, day, day + DAY_MS, 1.0), day, day + DAY_MS, timeframe=Timeframe.M1)
    pair.timescale.refresh(START_MS, later + DAY_MS)
    pair.compare(*VIEWS)
    pair.plain.execute("DROP TABLE md.candle_202612")
    pair.plain.execute("INSERT INTO md.rollup_dirty SELECT symbol_id, '2026-12-01', '2027-03-10' FROM md.symbol")
    pair.timescale.execute("SELECT drop_chunks('md.candle', older_than => '2027-01-31'::timestamptz)")
    for store in (pair.plain, pair.timescale):
        store.refresh(START_MS, later + DAY_MS)
        minutes_and_days = (
            "SELECT (SELECT count(*) FROM md.ohlcv_1m) AS minutes, (SELECT count(*) FROM md.ohlcv_1d) AS days"
        )
        assert dict(store.fetch(minutes_and_days)[0]) == {"minutes": 1440, "days": 2}
    pair.compare(*VIEWS)


def test_each_hypertable_has_one_columnstore_job_of_ours(pair: Pair) -> None:
    jobs = pair.timescale.fetch(
        "SELECT proc_name, count(*) AS jobs, count(DISTINCT hypertable_name) AS tables FROM timescaledb_information.jobs "
        "WHERE job_id >= 1000 GROUP BY 1 ORDER BY 1"
    )
    assert [tuple(row) for row in jobs] == [("keep_rollups", 1, 0), ("policy_compression", 12, 12)]
    assert isinstance(pair.timescale._storage, Hypertables)


@pytest.fixture(params=list(Backend))
def empty(request: pytest.FixtureRequest) -> Iterator[str]:
    """A database without a schema on each kind of server."""
    if request.param is Backend.TIMESCALE:
        with timescale() as dsn:
            yield dsn
    else:
        with database(request.getfixturevalue("postgres"), Backend.PLAIN) as dsn:
            yield dsn


FORMER = """
INSERT INTO md.symbol (venue, name, base, quote, kind, price_decimals, quantity_decimals)
VALUES ('sim', 'A', 'A', 'B', 'c', 2, 5);
INSERT INTO md.candle SELECT 1, '1m', t, 2, 3, 1, 2, 0.1, 0.3, 1, 1, 1, 'trades', true, 1, 1, t + interval '1 minute'
FROM generate_series('2026-10-31T23:00Z'::timestamptz, '2026-11-01T00:59Z', '1 minute') t;
INSERT INTO md.trade SELECT 1, n, 100, 1, n, n, '2026-10-31T23:00Z'::timestamptz + n * interval '1 minute', true
FROM generate_series(0, 119) n;
"""


def test_rows_from_before_there_were_partitions_are_all_there_afterwards(empty: str) -> None:
    async def grow() -> None:
        connection = await asyncpg.connect(empty, server_settings={"timezone": "UTC"})
        files = migrations(await backend_of(connection))
        await apply(connection, [file for file in files if file.name < "0012"])
        await connection.execute(FORMER)
        before = [await connection.fetch(f"SELECT * FROM md.{name} ORDER BY 1, 2, 3") for name in ("candle", "trade")]
        await apply(connection, files)
        after = [await connection.fetch(f"SELECT * FROM md.{name} ORDER BY 1, 2, 3") for name in ("candle", "trade")]
        assert before == after
        day = await connection.fetchrow("SELECT volume, n_present, complete FROM md.ohlcv_1d ORDER BY open_time")
        assert tuple(day) == (6.0, 60, False)
        for wrong, error in [
            ("SELECT 9, timeframe, open_time, 2, 3, 1, 2", asyncpg.ForeignKeyViolationError),
            ("SELECT 1, '5m', open_time, 2, 1, 3, 2", asyncpg.CheckViolationError),
            ("SELECT 1, '5m', open_time, 2, 'NaN', 1, 2", asyncpg.CheckViolationError),
            ("SELECT 1, timeframe, open_time, 2, 3, 1, 2", asyncpg.UniqueViolationError),
        ]:
            with pytest.raises(error):
                await connection.execute(
                    f"INSERT INTO md.candle {wrong}, 1, 1, 1, 1, 1, source, true, 1, 1, known_at FROM md.candle LIMIT 1"
                )
        await connection.close()

    wait(grow())


def test_a_writer_writes_and_a_reader_reads(empty: str) -> None:
    rng = np.random.default_rng(3)
    day = minutes(rng, START_MS, START_MS + DAY_MS, 1.0)

    async def act(store: MarketStore, role: str, end_ms: int) -> int:
        target = Target(CANDLE, (1, "1m"), START_MS, end_ms)
        frame = dated(CANDLE, day.filter(pl.col("open_time") < end_ms), Timeframe.M1, None, None)
        async with store.connections.connection() as connection:
            await connection.execute(f"SET ROLE {role}")
            try:
                written = await write(connection, store._storage, target, Rows.of(frame, target), exact=True)
                assert len(await connection.fetch("SELECT FROM md.ohlcv_3m")) == len(frame) // 3
                return written.changed
            finally:
                await connection.execute("RESET ROLE")

    with MarketStore(empty, "sim") as store:
        store.register(SYMBOLS)
        assert wait(act(store, "md_writer", START_MS + HOUR_MS)) == 60
        assert wait(act(store, "md_writer", START_MS + DAY_MS)) == 1380
        assert wait(act(store, "md_writer", START_MS + DAY_MS)) == 0
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            wait(act(store, "md_reader", START_MS + DAY_MS))
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            store.execute("BEGIN; SET LOCAL ROLE md_reader; DELETE FROM md.candle; COMMIT")
        book = dict(zip(BOOK_SNAPSHOT_SCHEMA, (START_MS, 7, [2.5, 2.4], [1.0, 0.125], [2.6], [3.0], None), strict=True))
        books = pl.DataFrame([book], BOOK_SNAPSHOT_SCHEMA)
        store.write(BOOK_SNAPSHOT, SYMBOLS[0].name, books, START_MS, START_MS + 1)
        levels = "SELECT bid_price[2] AS price, bid_quantity[2] AS quantity FROM md.book_snapshot"
        assert tuple(store.fetch(levels)[0]) == (2.4, 0.125)
        store.execute(f"BEGIN; SET LOCAL ROLE md_reader; {levels}; COMMIT")
        for view in ("ohlcv_3m", "candle_1s"):
            store.execute(f"BEGIN; SET LOCAL ROLE md_reader; SELECT count(*) FROM md.{view}; COMMIT")
