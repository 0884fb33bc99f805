"""Indicators against TA-Lib and third-party tables, and batch against one more candle."""

import csv
import json

import numpy as np
import polars as pl
import pytest
import talib
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.recorded import recorded
from trading.indicators.recursion import STATE, VALUES, WARM_BARS, WINDOW_BARS, indicators, indicators_of_days, step
from trading.market.timeframe import DAY_MS, Timeframe


def walk(bars: int, seed: int = 1) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(random.normal(0, 0.002, bars)))
    high, low = close * (1 + random.random(bars) * 0.001), close * (1 - random.random(bars) * 0.001)
    open_time = 19_000 * DAY_MS + np.arange(bars) * Timeframe.M3.ms
    return pl.DataFrame({"open_time": open_time, "high": high, "low": low, "close": close})


def oracle(candles: pl.DataFrame) -> dict[str, np.ndarray]:
    high, low, close = (candles[name].to_numpy() for name in ("high", "low", "close"))
    macd, signal, histogram = talib.MACD(close)
    return {
        "ema_20": talib.EMA(close, 20),
        "ema_50": talib.EMA(close, 50),
        "ema_200": talib.EMA(close, 200),
        "macd": macd,
        "macd_signal": signal,
        "macd_hist": histogram,
        "rsi_7": talib.RSI(close, 7),
        "rsi_14": talib.RSI(close, 14),
        "atr_3": talib.ATR(high, low, close, 3),
        "atr_14": talib.ATR(high, low, close, 14),
    }


@pytest.mark.parametrize("bars", [1, 3, 4, 8, 15, 20, 33, 34, 60, 250, 3000])
def test_every_value_agrees_with_talib_and_is_null_where_it_is(bars: int) -> None:
    candles = walk(bars)
    ours = indicators(candles)
    for name, theirs in oracle(candles).items():
        mine = ours[name].fill_null(float("nan")).to_numpy()
        np.testing.assert_allclose(mine, theirs, rtol=1e-11, atol=1e-9, equal_nan=True, err_msg=name)


@given(st.integers(1, 400), st.integers(0, 1000))
@settings(max_examples=25)
def test_one_more_candle_equals_the_whole_window_bit_for_bit(bars: int, seed: int) -> None:
    candles = walk(bars, seed)
    state, row = np.zeros(STATE), np.empty(len(VALUES))
    for bar in candles.iter_rows(named=True):
        step(state, bar["high"], bar["low"], bar["close"], row)
    last = indicators(candles).select(VALUES).row(-1)
    assert [None if np.isnan(value) else value for value in row.tolist()] == list(last)


def test_a_day_alone_has_the_same_bits_as_in_a_range() -> None:
    candles = walk(480 * 9)
    first = int(candles["open_time"][0])
    whole = indicators_of_days(candles, Timeframe.M3, first, first + 9 * DAY_MS)
    for day in (0, 1, 5, 8):
        lo = first + day * DAY_MS
        place = day * 480
        alone = candles[max(0, place - WINDOW_BARS) : place + 480]
        part = indicators_of_days(alone, Timeframe.M3, lo, lo + DAY_MS)
        assert part.equals(whole.filter((pl.col("open_time") >= lo) & (pl.col("open_time") < lo + DAY_MS)))


def test_a_window_of_2400_bars_has_forgotten_its_seed() -> None:
    candles = walk(480 * 12)
    last_day = int(candles["open_time"][0]) + 11 * DAY_MS
    ours = indicators_of_days(candles, Timeframe.M3, last_day, last_day + DAY_MS)
    whole = indicators(candles).filter(pl.col("open_time") >= last_day)
    for name in VALUES:
        np.testing.assert_allclose(ours[name].to_numpy(), whole[name].to_numpy(), rtol=1e-9, atol=1e-9)


def test_a_part_of_a_day_has_the_bits_of_the_whole_day() -> None:
    candles = walk(480 * 7)
    lo = int(candles["open_time"][0]) + 6 * DAY_MS
    whole = indicators_of_days(candles, Timeframe.M3, lo, lo + DAY_MS)
    part = indicators_of_days(candles, Timeframe.M3, lo + 100 * Timeframe.M3.ms, lo + 300 * Timeframe.M3.ms)
    assert part.equals(whole[100:300])


def test_a_value_is_warm_from_the_hundred_and_fiftieth_bar() -> None:
    warm = indicators(walk(200))["warm"].to_list()
    assert warm == [False] * (WARM_BARS - 1) + [True] * (200 - WARM_BARS + 1)


def test_a_market_that_does_not_move_has_no_strength_and_no_range() -> None:
    still = walk(300).with_columns(high=pl.lit(5.0), low=pl.lit(5.0), close=pl.lit(5.0))
    last = indicators(still).row(-1, named=True)
    assert last["ema_20"] == last["ema_200"] == 5.0
    assert last["macd"] == last["macd_hist"] == last["rsi_14"] == last["atr_3"] == 0.0


def test_no_candles_have_no_indicators() -> None:
    nothing = walk(3).clear()
    assert indicators(nothing).is_empty()
    assert indicators_of_days(nothing, Timeframe.M3, 0, 3 * DAY_MS).columns == [
        "open_time",
        *VALUES,
        "warm",
        "known_at_ms",
    ]


@given(st.integers(1, 480 * 4 - 1))
@settings(max_examples=25)
def test_no_later_candle_changes_an_indicator(known: int) -> None:
    candles = walk(480 * 4)
    first = int(candles["open_time"][0])
    poisoned = pl.concat([candles[:known], candles[known:].with_columns(pl.col("high", "low", "close") * 1e18)])
    for computed in (candles[:known], poisoned):
        days = indicators_of_days(computed, Timeframe.M3, first, first + 4 * DAY_MS)
        assert days[:known].equals(indicators_of_days(candles, Timeframe.M3, first, first + 4 * DAY_MS)[:known])


@pytest.mark.parametrize(
    ("name", "table", "field", "settled"),
    [
        ("ema_20", "ema", "ema", 19),
        ("rsi_14", "rsi", "rsi", 14),
        ("atr_14", "atr", "atr", 14),
        # That library seeds the fast average on its own first 12 bars; the difference fades.
        ("macd", "macd", "macd", 250),
        ("macd_signal", "macd", "signal", 250),
    ],
)
def test_values_equal_another_librarys_table_on_recorded_quotes(
    name: str, table: str, field: str, settled: int
) -> None:
    quotes = recorded("indicators_reference/stock_indicators/quotes/default.csv")
    results = recorded(f"indicators_reference/stock_indicators/results/{table}.standard.json")
    with quotes.open(encoding="utf-8-sig") as file:
        rows = [{key.lower(): value for key, value in row.items()} for row in csv.DictReader(file)]
    candles = pl.DataFrame(
        {"open_time": range(len(rows))} | {name: [float(r[name]) for r in rows] for name in ("high", "low", "close")}
    )
    theirs = [row[field] for row in json.loads(results.read_text(encoding="utf-8-sig"))]
    ours = indicators(candles)[name].to_list()
    assert ours[settled:] == pytest.approx(theirs[settled:], abs=1e-9)
