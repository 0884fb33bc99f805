"""Which bars a day gets: from trades where ids prove them, else the exchange's own, whatever range is asked for."""

import math
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from resources.simulator.recording import Recording
from resources.simulator.server import Clock, SimulatedExchange
from resources.stores import Exchange
from resources.timescale.loop import wait
from resources.timescale.store import MarketStore
from resources.timescale.tables import CANDLE, TRADE
from trading.market.instrument import Instrument
from trading.market.timeframe import DAY_MS, MINUTE_MS, ROLLED_UP, Timeframe
from trading.stream.contiguity import IdRange
from trading_assets.candles import longer_bars, minute_bars, store_minutes
from trading_assets.cli.demo import traded
from trading_assets.cli.status import missing, trade_gaps
from trading_assets.partitions import SymbolWindow

START = 1_570_752_000_000
LAST_DAY = START + 2 * DAY_MS
FIRST_TRADE = LAST_DAY + 70 * MINUTE_MS + 10_623
"""In the middle of a minute, of a 3m bar, and of longer ones."""

TRADES = [(700 + n, f"{100 + n % 7}.50", "2", FIRST_TRADE + n * 20_000) for n in range(3 * 8 * 60)]


def recording(folder: Path, klines: Timeframe | None, days: int = 3) -> Recording:
    """Eight hours of trades on the third day, and klines of all days."""
    (folder / "aggTrades").mkdir(parents=True)
    lines = "".join(f"{number},{price},{lots},{number},{number},{ms},True\n" for number, price, lots, ms in TRADES)
    (folder / "aggTrades" / "ADAETH.csv").write_text(lines)
    if klines is not None:
        (folder / "klines").mkdir()
        opens = range(START, START + days * DAY_MS, klines.ms)
        bars = pl.DataFrame({"open_time": opens, "open": 7.5, "high": 9.0, "low": 7.0, "close": 8.0, "volume": 1.0})
        bars.write_parquet(folder / "klines" / f"ADAETH-{klines}.parquet")
    return Recording(folder)


@pytest.fixture(params=[Timeframe.M1, Timeframe.M3])
def played(request: pytest.FixtureRequest, tmp_path: Path, market: MarketStore) -> Iterator[Exchange]:
    """An exchange whose clock is at the recording's end, and its trades in the database with what they prove."""
    source = recording(tmp_path, request.param)
    server = SimulatedExchange([source], Clock(source.end_ms, source.end_ms, math.inf))
    exchange = Exchange(f"http://127.0.0.1:{wait(server.start())}", "sim")
    market.register([source.instrument("ADAETH")])
    for table in ("candle", "trade", "trade_coverage"):
        market.execute(
            f"DELETE FROM md.{table} USING md.symbol s WHERE {table}.symbol_id = s.symbol_id AND name = 'ADAETH'"
        )
    market.write(TRADE, "ADAETH", source.trades("ADAETH", START, source.end_ms), START, source.end_ms)
    proven = IdRange(TRADES[0][0], TRADES[-1][0], *traded(source, "ADAETH"))
    market.set_trade_coverage("ADAETH", LAST_DAY, [proven])
    yield exchange
    exchange.close()
    wait(server.stop())


def test_a_range_of_days_gets_the_bars_that_each_day_alone_gets_and_loses_no_kline(
    played: Exchange, market: MarketStore
) -> None:
    whole = SymbolWindow("ADAETH", START, START + 3 * DAY_MS)
    days = [SymbolWindow("ADAETH", lo, lo + DAY_MS) for lo in range(START, START + 3 * DAY_MS, DAY_MS)]
    market.write(CANDLE, "ADAETH", minute_bars(market, played, whole), whole.lo_ms, whole.hi_ms, Timeframe.M1)
    kept = {}
    for timeframe in ROLLED_UP:
        bars = longer_bars(market, played, whole, timeframe)
        assert bars.equals(pl.concat([longer_bars(market, played, day, timeframe) for day in days])), timeframe
        market.write(CANDLE, "ADAETH", bars, whole.lo_ms, whole.hi_ms, timeframe, exact=True)
        kept[timeframe] = bars
    before = kept[Timeframe.M3].filter(pl.col("open_time") + Timeframe.M3.ms <= FIRST_TRADE)
    assert len(before) == (2 * DAY_MS + 70 * MINUTE_MS) // Timeframe.M3.ms
    finest = played.finest(market.instrument("ADAETH"), START)
    for timeframe, bars in kept.items():
        if timeframe.ms % finest.ms == 0:
            assert len(bars) == len(bars.filter("complete")) == 3 * DAY_MS // timeframe.ms
    made = kept[Timeframe.M3].filter(pl.col("open_time") > FIRST_TRADE, pl.col("open_time") < TRADES[-1][3] - 180_000)
    assert set(made["volume"]) == {18.0}, "where there are trades, bars are made from them"


@pytest.mark.parametrize("played", [Timeframe.M1], indirect=True)
def test_a_kline_of_a_minute_that_ids_later_prove_empty_goes(played: Exchange, market: MarketStore) -> None:
    day = SymbolWindow("ADAETH", LAST_DAY, LAST_DAY + DAY_MS)
    market.set_trade_coverage("ADAETH", LAST_DAY, [])
    store_minutes(market, played, day)
    quiet = FIRST_TRADE - 10 * MINUTE_MS
    market.set_trade_coverage("ADAETH", LAST_DAY, [IdRange(TRADES[0][0], TRADES[-1][0], quiet, TRADES[-1][3])])
    bars, written = store_minutes(market, played, day)
    assert written.deleted == 9
    held = market.read(CANDLE, "ADAETH", LAST_DAY, LAST_DAY + DAY_MS, Timeframe.M1)
    assert held.drop("known_at_ms").equals(bars.drop("known_at_ms")), "the same as from nothing"
    assert store_minutes(market, played, day)[1].changed == 0


def test_trades_prove_nothing_that_klines_show_to_lie_outside_their_recording(tmp_path: Path) -> None:
    alone = recording(tmp_path / "alone", None)
    assert traded(alone, "ADAETH") == (FIRST_TRADE - 10_623, alone.end_ms)
    for timeframe in (Timeframe.M1, Timeframe.M3, Timeframe.H4):
        assert traded(recording(tmp_path / timeframe, timeframe), "ADAETH") == (FIRST_TRADE, TRADES[-1][3])
    assert traded(recording(tmp_path / "before", Timeframe.M1, days=2), "ADAETH") == (FIRST_TRADE, alone.end_ms)


@pytest.mark.parametrize("played", [Timeframe.M3], indirect=True)
def test_a_missing_bar_is_named_where_no_finer_bars_are(played: Exchange, market: MarketStore) -> None:
    last_day = SymbolWindow("ADAETH", LAST_DAY, LAST_DAY + DAY_MS)
    market.write(CANDLE, "ADAETH", minute_bars(market, played, last_day), LAST_DAY, LAST_DAY + DAY_MS, Timeframe.M1)
    whole = SymbolWindow("ADAETH", START, START + 3 * DAY_MS)
    bars = longer_bars(market, played, whole, Timeframe.M3).filter(pl.col("open_time") != START + DAY_MS)
    market.write(CANDLE, "ADAETH", bars, whole.lo_ms, whole.hi_ms, Timeframe.M3, exact=True)
    assert missing(market)["ADAETH"] == [
        {"from": "2019-10-12T00:00:00+00:00", "to": "2019-10-12T00:03:00+00:00", "timeframe": "3m", "bars": 1}
    ]


def test_the_gaps_of_another_venue_are_its_own(market: MarketStore) -> None:
    other = MarketStore(market._dsn, "elsewhere")
    with other:
        other.register([Instrument("elsewhere", "GAPUSDT", "GAP", "USDT", 2, 5)])
        before = trade_gaps(market)
        other.set_trade_coverage(
            "GAPUSDT", START, [IdRange(1, 0, START, START + 1), IdRange(9, 8, START + 2, START + 3)]
        )
        assert trade_gaps(other) == 1
    assert trade_gaps(market) == before
