"""What was known when: versions of rows, as a write leaves them."""

import asyncio
from collections.abc import Iterator

import polars as pl
import pytest

from resources.timescale.loop import wait
from resources.timescale.store import MarketStore
from resources.timescale.tables import BOOK_1S, BOOK_SNAPSHOT, CANDLE, CANDLE_1S, INDICATOR, TRADE, Table
from resources.timescale.writing import Written
from trading.market.candle import CANDLE_SCHEMA
from trading.market.instrument import Instrument
from trading.market.timeframe import DAY_MS, HOUR_MS, MINUTE_MS, Timeframe

NAME = "VERUSDT"
DAY = 20_000 * DAY_MS
LIVE = DAY + HOUR_MS


@pytest.fixture
def store(market: MarketStore) -> Iterator[MarketStore]:
    market.register([Instrument("sim", NAME, "VER", "USDT", 2, 3)])
    symbol_id = market.fetch("SELECT symbol_id FROM md.symbol WHERE name = $1", NAME)[0][0]
    market.execute(
        "INSERT INTO md.trade_range SELECT $1, 1, 2, 'complete', 'websocket', at, at FROM to_timestamp($2 / 1000.0) AS at",
        symbol_id,
        float(LIVE),
    )
    yield market
    for name in ("candle", "candle_revision", "trade", "trade_range", "indicator", "indicator_revision"):
        market.execute(f"DELETE FROM md.{name} WHERE symbol_id = $1", symbol_id)


def bar(minute: int, close: float = 10.0, source: str = "trades", known_at_ms: int | None = None) -> pl.DataFrame:
    row = {
        "open_time": DAY + minute * MINUTE_MS,
        **{"open": 10.0, "high": 12.0, "low": 9.0, "close": close, "volume": 1.5, "quote_volume": 15.0},
        **{"trade_count": 3, "source": source, "complete": source == "trades", "n_present": 1, "n_expected": 1},
        "known_at_ms": known_at_ms,
    }
    return pl.DataFrame([row], schema=CANDLE_SCHEMA)


def write(store: MarketStore, frame: pl.DataFrame, recorded_at_ms: int | None, exact: bool = False) -> Written:
    return store.write(CANDLE, NAME, frame, DAY, DAY + DAY_MS, Timeframe.M1, exact, recorded_at_ms)


def known(store: MarketStore, by_ms: int | None) -> list[tuple[int, float, int]]:
    frame = store.read(CANDLE, NAME, DAY, DAY + DAY_MS, Timeframe.M1, known_by_ms=by_ms)
    return [
        ((row["open_time"] - DAY) // MINUTE_MS, row["close"], row["known_at_ms"]) for row in frame.iter_rows(named=True)
    ]


def test_a_bar_from_before_the_stream_is_known_at_its_close_and_a_later_one_when_it_was_recorded(
    store: MarketStore,
) -> None:
    recorded = LIVE + 2 * HOUR_MS
    write(store, pl.concat([bar(0), bar(90)]), recorded)
    assert known(store, None) == [(0, 10.0, DAY + MINUTE_MS), (90, 10.0, recorded)]
    assert known(store, recorded - 1) == [(0, 10.0, DAY + MINUTE_MS)]
    assert known(store, DAY + MINUTE_MS - 1) == []


def test_nothing_is_known_before_it_ended(store: MarketStore) -> None:
    write(store, bar(90, known_at_ms=DAY), LIVE + 2 * HOUR_MS)
    assert known(store, None) == [(90, 10.0, DAY + 91 * MINUTE_MS)]


def test_a_changed_bar_keeps_its_former_version_with_the_time_in_which_it_was_known(store: MarketStore) -> None:
    first, second = LIVE + 2 * HOUR_MS, LIVE + 3 * HOUR_MS
    write(store, bar(90, source="incomplete_trades"), first)
    assert write(store, bar(90, close=11.0), second) == Written(updated=1)
    assert known(store, first) == [(90, 10.0, first)]
    assert known(store, second - 1) == [(90, 10.0, first)]
    assert known(store, second) == known(store, None) == [(90, 11.0, second)]


def test_a_write_of_what_is_there_changes_nothing_and_leaves_no_version(store: MarketStore) -> None:
    write(store, bar(90), LIVE + 2 * HOUR_MS)
    assert write(store, bar(90), LIVE + 3 * HOUR_MS) == Written()
    assert store.fetch("SELECT count(*) FROM md.candle_revision WHERE symbol_id = $1", store._id(NAME))[0][0] == 0


def test_a_lower_rank_replaces_nothing(store: MarketStore) -> None:
    write(store, bar(90), LIVE + 2 * HOUR_MS)
    assert write(store, bar(90, close=11.0, source="kline"), LIVE + 3 * HOUR_MS) == Written()


def test_a_bar_that_is_no_longer_so_was_so_until_then(store: MarketStore) -> None:
    first, second, third = (LIVE + hours * HOUR_MS for hours in (2, 3, 4))
    write(store, pl.concat([bar(90), bar(91)]), first)
    assert write(store, bar(91), second, exact=True) == Written(deleted=1)
    assert known(store, second - 1) == [(90, 10.0, first), (91, 10.0, first)]
    assert known(store, second) == [(91, 10.0, first)]
    assert store.drop(CANDLE, NAME, [DAY + 91 * MINUTE_MS], Timeframe.M1, third) == Written(deleted=1)
    assert known(store, third - 1) == [(91, 10.0, first)]
    assert known(store, third) == []


def test_a_correction_of_a_bar_from_before_the_stream_is_known_since_it_was_made(store: MarketStore) -> None:
    recorded = LIVE + 5 * HOUR_MS
    write(store, bar(0), LIVE + HOUR_MS)
    write(store, bar(0, close=11.0), recorded)
    assert known(store, recorded - 1) == [(0, 10.0, DAY + MINUTE_MS)]
    assert known(store, recorded) == [(0, 11.0, recorded)]


def test_days_are_recorded_by_what_their_rows_say_and_not_by_when_that_was_known(store: MarketStore) -> None:
    write(store, bar(90), LIVE + 2 * HOUR_MS)
    store.record_days(CANDLE, "versions", NAME, DAY, DAY + DAY_MS, Timeframe.M1)
    digest = store.digest(CANDLE)
    store.execute("UPDATE md.candle SET known_at = known_at + interval '1 hour' WHERE symbol_id = $1", store._id(NAME))
    assert store.damaged_days(CANDLE, "versions", [NAME], Timeframe.M1) == []
    assert store.digest(CANDLE) == digest


def test_a_trade_whose_time_changes_stays_one_trade(store: MarketStore) -> None:
    rows = [(7, 100, 5, 7, 7, DAY + 5, True), (8, 101, 5, 8, 8, DAY + 6, True)]
    trades = pl.DataFrame(rows, schema=TRADE.schema, orient="row")
    assert store.write(TRADE, NAME, trades, DAY, DAY + DAY_MS) == Written(inserted=2)
    later = trades.with_columns(
        time_ms=pl.when(pl.col("agg_trade_id") == 7).then(DAY + DAY_MS + 1).otherwise("time_ms")
    )
    assert store.write(TRADE, NAME, later, DAY, DAY + 2 * DAY_MS) == Written(updated=1)
    assert store.read(TRADE, NAME, DAY, DAY + 2 * DAY_MS).equals(later)


def test_two_writers_of_a_new_month_make_its_partition_once(market: MarketStore) -> None:
    if market.execute("SELECT FROM pg_extension WHERE extname = 'timescaledb'") != "SELECT 0":
        pytest.skip("TimescaleDB makes chunks itself")
    made = "SELECT md.ensure_partitions('candle', '2051-03-01Z', '2051-03-02Z')"

    async def both() -> tuple[int, int]:
        async with market.connections.connection() as first, market.connections.connection() as second:
            begun = first.transaction()
            await begun.start()
            by_first = await first.fetchval(made)
            waiting = asyncio.create_task(second.fetchval(made))
            await asyncio.sleep(0.2)
            await begun.commit()
            return by_first, await waiting

    assert wait(both()) == (1, 0)


@pytest.mark.parametrize("table", [CANDLE, CANDLE_1S, INDICATOR, BOOK_SNAPSHOT, BOOK_1S], ids=lambda table: table.name)
def test_each_table_with_versions_has_the_columns_of_its_frame_and_a_revision_beside_it(
    market: MarketStore, table: Table
) -> None:
    query = (
        "SELECT column_name FROM information_schema.columns WHERE table_schema = 'md' AND table_name = $1 "
        "ORDER BY ordinal_position"
    )
    for name, more in ((table.relation, []), (f"{table.relation}_revision", ["superseded_at"])):
        there = [row[0] for row in market.fetch(query, name)]
        assert there == [*table.scope, *table.columns, *more]
