"""Old days go from the database only once the lake gives them back; then all that is made of them is made as before."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from resources.lake import LakeReader, day_of
from resources.lake_export import export_days
from resources.lake_retention import lost_days, retire
from resources.retired_trades import proven_of, trades_of
from resources.timescale.backend import RetentionRefused
from resources.timescale.store import MarketStore
from resources.timescale.tables import CANDLE, TRADE
from tests.databases import beside
from tests.synthetic import MARKET
from trading.market.candle import candles_from_trades
from trading.market.instrument import Instrument
from trading.market.timeframe import DAY_MS, HOUR_MS, Timeframe
from trading.stream.contiguity import IdRange
from trading_assets.coverage import coverage

START = 1_760_054_400_000
NOW = START + 4 * DAY_MS + HOUR_MS
DAYS = [day_of(START + n * DAY_MS) for n in range(4)]
SYMBOLS = ("BTCUSDT", "ETHUSDT")


@pytest.fixture
def held(market: MarketStore) -> Iterator[MarketStore]:
    """A database of its own with two hours of trades on each of four days and on the present one, for two symbols."""
    with beside(market) as dsn, MarketStore(dsn, "sim") as store:
        store.register(MARKET.instrument(symbol) for symbol in SYMBOLS)
        for symbol in SYMBOLS:
            for day_ms in range(START, NOW, DAY_MS):
                trades = MARKET.trades(symbol, day_ms, day_ms + 2 * HOUR_MS)
                store.write(TRADE, symbol, trades, day_ms, day_ms + DAY_MS)
                ids = (int(trades["agg_trade_id"][0]), int(trades["agg_trade_id"][-1]))
                store.set_trade_coverage(symbol, day_ms, [IdRange(*ids, day_ms, day_ms + 2 * HOUR_MS)])
            store.record_days(TRADE, "agg_trades", symbol, START, START + 5 * DAY_MS)
        yield store


@pytest.fixture
def lake(held: MarketStore, tmp_path: Path) -> LakeReader:
    held.lake = LakeReader(tmp_path, "sim")
    for symbol in SYMBOLS:
        export_days(held, held.lake, "trade", symbol, DAYS, NOW)
    return held.lake


def first_day(store: MarketStore, symbol: str) -> str:
    return day_of(int(store.read(TRADE, symbol, 0, 2**45)["time_ms"].min()))  # pyright: ignore


def test_what_is_old_enough_goes_and_everything_can_be_made_of_it_as_before(
    held: MarketStore, lake: LakeReader
) -> None:
    instrument, whole = held.instrument("BTCUSDT"), (START, START + 5 * DAY_MS)
    trades, proven = held.read(TRADE, "BTCUSDT", *whole), held.proven("BTCUSDT")
    bars = candles_from_trades(trades, instrument, Timeframe.M1, proven)
    covered = coverage(held, SYMBOLS, START, NOW, NOW)
    retired = retire(held, lake, TRADE, 2, NOW)
    assert (retired.days, retired.waiting, len(retired.dropped)) == (4, {}, 2)
    assert first_day(held, "BTCUSDT") == first_day(held, "ETHUSDT") == DAYS[2]
    assert trades_of(held, "BTCUSDT", *whole).equals(trades)
    assert proven_of(held, "BTCUSDT") == proven and held.proven("BTCUSDT") == proven[2:]
    again = candles_from_trades(
        trades_of(held, "BTCUSDT", *whole), instrument, Timeframe.M1, proven_of(held, "BTCUSDT")
    )
    assert again.equals(bars) and bars["complete"].any()
    assert coverage(held, SYMBOLS, START, NOW, NOW) == covered
    assert held.damaged_days(TRADE, "agg_trades", SYMBOLS) == []
    assert retire(held, lake, TRADE, 2, NOW).dropped == []
    middle = trades.filter(pl.col("time_ms").is_between(START + HOUR_MS, START + DAY_MS + HOUR_MS, closed="left"))
    assert trades_of(held, "BTCUSDT", START + HOUR_MS, START + DAY_MS + HOUR_MS).equals(middle)


def test_the_symbol_that_is_furthest_behind_holds_all_back(held: MarketStore, lake: LakeReader) -> None:
    shutil.rmtree(lake.day_dir("trade", "ETHUSDT", DAYS[1]))
    retired = retire(held, lake, TRADE, 1, NOW)
    assert retired.waiting == {"ETHUSDT": DAYS[1]} and len(retired.dropped) == 1
    assert first_day(held, "BTCUSDT") == first_day(held, "ETHUSDT") == DAYS[1]


def test_a_day_that_changed_since_its_export_stays(held: MarketStore, lake: LakeReader) -> None:
    held.execute("DELETE FROM md.trade WHERE agg_trade_id = (SELECT min(agg_trade_id) FROM md.trade)")
    retired = retire(held, lake, TRADE, 1, NOW)
    assert retired.dropped == [] and list(retired.waiting.values()) == [DAYS[0]]


def test_rows_of_another_venue_that_nobody_exports_stay(held: MarketStore, lake: LakeReader) -> None:
    with MarketStore(held._dsn, "binance") as other:
        other.register([Instrument("binance", "BTCUSDT", "BTC", "USDT", 2, 5)])
        other.write(TRADE, "BTCUSDT", MARKET.trades("BTCUSDT", START, START + HOUR_MS), START, START + DAY_MS)
    assert retire(held, lake, TRADE, 1, NOW).dropped == []


def test_candles_are_kept_for_good(held: MarketStore, lake: LakeReader) -> None:
    with pytest.raises(RetentionRefused, match="for good"):
        retire(held, lake, CANDLE, 1, NOW)


def test_a_day_that_went_and_is_lost_from_the_lake_is_named(held: MarketStore, lake: LakeReader) -> None:
    retire(held, lake, TRADE, 2, NOW)
    assert lost_days(held, lake, TRADE, "BTCUSDT") == []
    manifest = lake.manifest("trade", "BTCUSDT", DAYS[1])
    assert manifest is not None
    lake.file(manifest).unlink()
    assert lost_days(held, lake, TRADE, "BTCUSDT") == [DAYS[1]]
    shutil.rmtree(lake.day_dir("trade", "BTCUSDT", DAYS[0]))
    assert lost_days(held, lake, TRADE, "BTCUSDT") == DAYS[:2]
