"""What is written while a day is open does not make the day differ from its record, and damage still does."""

from collections.abc import Iterator

import polars as pl
import pytest

from resources.timescale.store import MarketStore
from resources.timescale.tables import CANDLE, TRADE, Table
from tests.synthetic import MARKET
from trading.market.candle import candles_from_trades
from trading.market.instrument import Instrument
from trading.market.timeframe import DAY_MS, MINUTE_MS, Timeframe
from trading.stream.contiguity import IdRange

NAME = "BTCUSDT"
PAIR = Instrument("sim", NAME, "BTC", "USDT", 2, 5)
DAY = 20_100 * DAY_MS
EARLY, LATE = DAY + 10 * MINUTE_MS, DAY + 20 * MINUTE_MS


@pytest.fixture
def store(market: MarketStore) -> Iterator[MarketStore]:
    market.register([PAIR])
    yield market
    (row,) = market.fetch("SELECT symbol_id FROM md.symbol WHERE name = $1 AND venue = 'sim'", NAME)
    for table in ("candle", "candle_revision", "trade", "trade_coverage", "day"):
        market.execute(f"DELETE FROM md.{table} WHERE symbol_id = $1", row["symbol_id"])


def trades(lo_ms: int, hi_ms: int) -> pl.DataFrame:
    return MARKET.trades(NAME, lo_ms, hi_ms)


def minutes(lo_ms: int, hi_ms: int, proven: bool = True) -> pl.DataFrame:
    return candles_from_trades(trades(lo_ms, hi_ms), PAIR, Timeframe.M1, [(lo_ms, hi_ms)] if proven else [])


def damaged(store: MarketStore) -> list[tuple[str, str, int, int]]:
    return [
        *store.damaged_days(TRADE, "agg_trades", [NAME]),
        *store.damaged_days(CANDLE, "candles_1m", [NAME], Timeframe.M1),
    ]


def add(store: MarketStore, table: Table, frame: pl.DataFrame, lo_ms: int, hi_ms: int) -> int:
    asset, timeframe = ("agg_trades", None) if table is TRADE else ("candles_1m", Timeframe.M1)
    return store.write(table, NAME, frame, lo_ms, hi_ms, timeframe, recorded_at_ms=hi_ms, record_of=asset).changed


def test_an_open_day_grows_and_is_still_as_it_was_written(store: MarketStore) -> None:
    store.write(TRADE, NAME, trades(DAY, EARLY), DAY, EARLY)
    store.write(CANDLE, NAME, minutes(DAY, EARLY, proven=False), DAY, EARLY, Timeframe.M1)
    store.record_days(TRADE, "agg_trades", NAME, DAY, DAY + DAY_MS)
    store.record_days(CANDLE, "candles_1m", NAME, DAY, DAY + DAY_MS, Timeframe.M1)
    assert add(store, TRADE, trades(EARLY, LATE), EARLY, LATE) > 0
    assert add(store, CANDLE, minutes(EARLY, LATE), EARLY, LATE) == 10
    assert add(store, CANDLE, minutes(DAY, EARLY), DAY, EARLY) == 10, "complete now, and so others than before"
    assert damaged(store) == []
    (row,) = store.fetch("SELECT rows, complete FROM md.day WHERE asset = 'candles_1m'")
    assert tuple(row) == (20, 20)
    assert add(store, CANDLE, minutes(DAY, LATE), DAY, LATE) == 0
    assert damaged(store) == []


def test_a_day_that_only_the_stream_wrote_has_a_record_too(store: MarketStore) -> None:
    before = DAY - MINUTE_MS
    add(store, TRADE, trades(before, EARLY), before, EARLY)
    add(store, TRADE, trades(EARLY, LATE), EARLY, LATE)
    assert damaged(store) == []


def test_damage_to_an_open_day_shows_however_much_is_added(store: MarketStore) -> None:
    add(store, CANDLE, minutes(DAY, EARLY), DAY, EARLY)
    store.execute("UPDATE md.candle SET volume = volume + 1 WHERE open_time = to_timestamp($1 / 1000.0)", float(DAY))
    add(store, CANDLE, minutes(EARLY, LATE), EARLY, LATE)
    assert [(day[2], day[3]) for day in damaged(store)] == [(20, 20)]


def test_what_is_proven_of_a_day_is_added_to_and_what_others_noted_stays(store: MarketStore) -> None:
    store.set_trade_coverage(NAME, DAY, [IdRange(1, 10, DAY, EARLY), IdRange(50, 60, LATE, LATE + 5)])
    store.extend_trade_coverage(NAME, DAY, [IdRange(9, 20, EARLY - 5, EARLY + 90)])
    assert store.trade_coverage(NAME) == [IdRange(1, 20, DAY, EARLY + 90), IdRange(50, 60, LATE, LATE + 5)]
    store.extend_trade_coverage(NAME, DAY, [IdRange(21, 49, EARLY + 90, LATE)])
    assert store.trade_coverage(NAME) == [IdRange(1, 60, DAY, LATE + 5)]
