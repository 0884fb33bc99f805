"""Real candles: what the provider answers at any moment is what pandas makes of the file."""

import random
from datetime import UTC, datetime

import pandas as pd
import polars as pl
import pytest

from resources.backtest import BacktestReader
from resources.data_provider import DataProvider
from resources.timescale.store import MarketStore
from resources.timescale.tables import CANDLE
from tests.recorded import recorded
from trading.market.candle import native_candles, roll_up
from trading.market.instrument import Instrument
from trading.market.timeframe import DAY_MS, MINUTE_MS, Timeframe
from trading.provider.provider import UnifiedDataProvider

START, END = (int(datetime(*day, tzinfo=UTC).timestamp()) * 1000 for day in ((2022, 12, 1), (2023, 10, 1, 4)))
ROWS = 145_973
MOMENTS = 25
FOUR = Timeframe.H4


@pytest.fixture(scope="module", params=["BTC", "ETH"])
def real(request: pytest.FixtureRequest, market: MarketStore) -> tuple[DataProvider, MarketStore, str, pd.DataFrame]:
    """A provider of ten months of 3m candles, the symbol's name in it, and the file."""
    path = recorded(f"klines/binance_spot/{request.param}_USDT-3m.feather")
    symbol = f"REAL{request.param}USDT"
    market.register([Instrument("sim", symbol, request.param, "USDT", 2, 5)])
    bars = pl.read_ipc(path).rename({"date": "open_time"})
    bars = bars.with_columns(pl.col("open_time").dt.epoch("ms"), quote_volume=None, trade_count=None)
    written = market.write(CANDLE, symbol, native_candles(bars), START, END, Timeframe.M3)
    assert written.inserted == ROWS
    provider = DataProvider(UnifiedDataProvider(market.queries(), lambda: END + DAY_MS))
    raw = pd.read_feather(path)
    return provider, market, symbol, raw.set_index(raw.pop("date").astype("int64") // 10**6)


def test_at_random_moments_the_answer_is_what_pandas_makes_of_the_file(
    real: tuple[DataProvider, MarketStore, str, pd.DataFrame],
) -> None:
    provider, _, symbol, raw = real
    choose = random.Random(7)
    for _ in range(MOMENTS):
        as_of, limit = choose.randrange(START, END), choose.randrange(1, 60)
        bars = provider.get_multi_timeframe_data(symbol, ["3m", "15m", "4h"], as_of, limit)
        closed = raw[raw.index + 3 * MINUTE_MS <= as_of]
        pd.testing.assert_frame_equal(
            _plain(bars[Timeframe.M3]), closed.tail(limit), check_names=False, check_exact=True
        )
        for timeframe in (Timeframe.M15, FOUR):
            lo = timeframe.floor(as_of) - limit * timeframe.ms
            whole = _resampled(closed[closed.index >= lo], timeframe, 3 * MINUTE_MS)
            whole = whole[whole.index + timeframe.ms <= as_of]
            pd.testing.assert_frame_equal(_plain(bars[timeframe]), whole, check_names=False, rtol=1e-12)
            prices = ["open", "high", "low", "close"]
            assert _plain(bars[timeframe])[prices].equals(whole[prices])


def test_four_hours_of_three_minute_bars_are_the_ones_of_independent_files(
    real: tuple[DataProvider, MarketStore, str, pd.DataFrame],
) -> None:
    provider, market, symbol, _ = real
    reader = BacktestReader.of_database(market.queries(), symbol, [Timeframe.M3], START, END, rows=20_000)
    bars = pl.concat(list(reader)).drop("timeframe")
    assert len(bars) == ROWS
    made = roll_up(bars, Timeframe.M3, FOUR, market.instrument(symbol))
    provided = provider.get_multi_timeframe_data(symbol, ["4h"], END, 1_825)[FOUR]
    # One is cut off by the outage of 2023-03-24, the last by the end of the file.
    assert (len(made), len(provided), made.filter(~pl.col("complete")).height) == (1_825, 1_823, 2)
    file = pd.read_csv(recorded(f"klines/binance_spot/{symbol[4:]}_4h_2021_2025.csv.gz")).set_index("timestamp")
    closes = file["close"]
    # The last one is missing three minutes, and in ETH they moved the price.
    equal = sum(closes[row["open_time"]] == row["close"] for row in made.iter_rows(named=True))
    assert equal == (1_825 if symbol == "REALBTCUSDT" else 1_824)
    for row in provided.iter_rows(named=True):
        independent = file.loc[row["open_time"]]
        assert [row[name] for name in ("open", "high", "low", "close")] == independent[
            ["open", "high", "low", "close"]
        ].tolist()


def _plain(bars: pl.DataFrame) -> pd.DataFrame:
    columns = ["open", "high", "low", "close", "volume"]
    return pd.DataFrame({name: bars[name].to_numpy() for name in columns}, bars["open_time"].to_numpy())


def _resampled(bars: pd.DataFrame, timeframe: Timeframe, part_ms: int) -> pd.DataFrame:
    groups = bars.groupby(bars.index // timeframe.ms * timeframe.ms)
    how = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}
    return groups.agg(how)[groups.size() == timeframe.ms // part_ms]
