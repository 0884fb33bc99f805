"""Candles: made from trades and rolled up, the same whichever way."""

from collections import defaultdict
from time import perf_counter

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trading.market.candle import (
    CANDLE_SCHEMA,
    WrongTimeframe,
    candles_from_trades,
    merge_sources,
    missing_bars,
    roll_up,
    unproven,
    whole_buckets,
)
from trading.market.instrument import LARGEST, Instrument
from trading.market.timeframe import DAY_MS, MINUTE_MS, ROLLED_UP, Timeframe
from trading.market.trade import AggTrade, trades_frame

BTC = Instrument("sim", "BTCUSDT", "BTC", "USDT", 2, 5)
T0 = 1_700_006_400_000
ALL_TIME = [(0, 2**53)]


@st.composite
def trades(draw: st.DrawFn) -> list[AggTrade]:
    steps = draw(st.lists(st.tuples(st.integers(0, 200_000), st.integers(1, 10**7), st.integers(1, 10**9)), min_size=1))
    time_ms, made = T0, []
    for number, (step, price, quantity) in enumerate(steps):
        time_ms += step
        made.append(AggTrade(number, price, quantity, number, number, time_ms, False))
    return made


@given(trades(), st.sampled_from(ROLLED_UP))
@settings(max_examples=60)
def test_a_rolled_up_bar_equals_the_bar_made_from_the_trades(made: list[AggTrade], timeframe: Timeframe) -> None:
    frame = trades_frame(made)
    minutes = candles_from_trades(frame, BTC, Timeframe.M1, ALL_TIME)
    rolled = roll_up(minutes, Timeframe.M1, timeframe, BTC, ALL_TIME)
    direct = candles_from_trades(frame, BTC, timeframe, ALL_TIME)
    same = ["open_time", "open", "high", "low", "close", "volume", "trade_count", "first_agg_trade_id", "complete"]
    assert rolled.select(same).equals(direct.select(same))


@given(st.data())
@settings(max_examples=60)
def test_a_candle_is_what_a_plain_loop_over_its_trades_says(data: st.DataObject) -> None:
    largest = data.draw(st.sampled_from([10**7, 2**45]), "largest price and quantity")  # sums of 64 and of 128 bits
    step = st.tuples(st.integers(-90_000, 200_000), st.integers(1, largest), st.integers(1, largest))
    time_ms, fill, made = T0, LARGEST - 1_000, []
    for number, (after, price, quantity) in enumerate(data.draw(st.lists(step, min_size=1, max_size=60))):
        time_ms += after  # ids are in order, times need not be
        made.append(AggTrade(number, price, quantity, fill, fill + number % 3, time_ms, False))
        fill += number % 3 + 1
    bars = candles_from_trades(trades_frame(made), BTC, Timeframe.M1, ALL_TIME)
    inside: dict[int, list[AggTrade]] = defaultdict(list)
    for trade in made:
        inside[trade.time_ms // MINUTE_MS * MINUTE_MS].append(trade)
    assert bars["open_time"].to_list() == sorted(inside)
    for bar in bars.iter_rows(named=True):
        of_bar = inside[bar["open_time"]]
        prices = [BTC.price(t.price) for t in of_bar]
        assert (bar["open"], bar["high"], bar["low"], bar["close"]) == (
            prices[0],
            max(prices),
            min(prices),
            prices[-1],
        )
        assert bar["volume"] == BTC.quantity(sum(t.quantity for t in of_bar))
        assert bar["quote_volume"] == float(sum(t.price * t.quantity for t in of_bar)) / 10**7
        assert bar["trade_count"] == sum(t.last_trade_id - t.first_trade_id + 1 for t in of_bar)
        assert (bar["first_agg_trade_id"], bar["last_agg_trade_id"]) == (
            of_bar[0].agg_trade_id,
            of_bar[-1].agg_trade_id,
        )


def test_a_candle_whose_interval_is_not_proven_is_not_complete() -> None:
    frame = trades_frame([AggTrade(1, 100, 1, 1, 1, T0 + 5, False), AggTrade(2, 100, 1, 2, 2, T0 + 60_005, False)])
    bars = candles_from_trades(frame, BTC, Timeframe.M1, [(T0 + 1, T0 + 2 * MINUTE_MS)])
    assert bars["complete"].to_list() == [False, True]
    assert bars["source"].to_list() == ["incomplete_trades", "trades"]


ranges = st.lists(st.tuples(st.integers(0, 10 * MINUTE_MS), st.integers(0, 10 * MINUTE_MS)), max_size=6)


@given(ranges, st.sets(st.integers(0, 10)))
def test_a_bucket_is_proven_where_any_one_range_covers_it(proven: list[tuple[int, int]], opened: set[int]) -> None:
    times = np.array(sorted(opened), np.int64) * MINUTE_MS
    plain = [any(lo <= at and at + MINUTE_MS <= hi for lo, hi in proven) for at in times.tolist()]
    assert whole_buckets(times, MINUTE_MS, proven).tolist() == plain


def test_candles_of_a_store_that_is_years_old_are_made_as_soon_as_those_of_a_new_one() -> None:
    """What it has proven is a range a day, and more for each hole that the exchange could not fill."""
    made = trades_frame([AggTrade(1, 1, 1, 1, 1, 90_000, False)])
    years = [(day * DAY_MS, (day + 1) * DAY_MS) for day in range(20_000)]
    started = perf_counter()
    assert candles_from_trades(made, BTC, Timeframe.M1, years)["complete"].to_list() == [True]
    assert perf_counter() - started < 5


def minutes(*present: int, source: str = "kline", close: float = 1.0) -> pl.DataFrame:
    rows = [
        {"open_time": T0 + i * MINUTE_MS, "open": 1.0, "high": 1.0, "low": 1.0, "close": close, "volume": 0.1}
        | {"quote_volume": 0.1, "trade_count": 1, "first_agg_trade_id": None, "last_agg_trade_id": None}
        | {"source": source, "complete": True, "n_present": 1, "n_expected": 1}
        for i in present
    ]
    return pl.DataFrame(rows, schema=CANDLE_SCHEMA)


def test_a_rolled_up_bar_that_lacks_a_part_says_so() -> None:
    bar = roll_up(minutes(0, 2), Timeframe.M1, Timeframe.M3, BTC)
    assert bar.select("complete", "n_present", "n_expected").row(0) == (False, 2, 3)


def test_a_part_proven_empty_is_not_lacking() -> None:
    bar = roll_up(minutes(0, 2), Timeframe.M1, Timeframe.M3, BTC, [(T0 + 50_000, T0 + 130_000)])
    assert bar.select("complete", "n_present").row(0) == (True, 3)
    almost = roll_up(minutes(0, 2), Timeframe.M1, Timeframe.M3, BTC, [(T0 + 60_001, T0 + 130_000)])
    assert almost.select("complete").row(0) == (False,)


def test_volumes_sum_without_the_errors_of_floats() -> None:
    bar = roll_up(minutes(*range(10)), Timeframe.M1, Timeframe.M15, BTC)
    assert bar["volume"][0] == 1.0  # the float sum of ten times 0.1 is 0.9999999999999999


def test_a_timeframe_that_does_not_divide_is_refused() -> None:
    with pytest.raises(WrongTimeframe):
        roll_up(minutes(0), Timeframe.M3, Timeframe.M5, BTC)


def test_contiguous_trades_come_before_klines_and_klines_before_incomplete_trades() -> None:
    merged = merge_sources(
        pl.concat([minutes(0, source="trades", close=1.0), minutes(1, source="incomplete_trades", close=1.0)]),
        minutes(0, 1, 2, close=1.0),
    )
    assert merged["source"].to_list() == ["trades", "kline", "kline"]


def test_missing_bars_are_named_as_ranges() -> None:
    assert missing_bars(minutes(0, 3), Timeframe.M1, T0, T0 + 5 * MINUTE_MS) == [
        (T0 + MINUTE_MS, T0 + 3 * MINUTE_MS),
        (T0 + 4 * MINUTE_MS, T0 + 5 * MINUTE_MS),
    ]


def test_only_whole_buckets_count_as_proven() -> None:
    proven = [(T0 + 30_000, T0 + 5 * MINUTE_MS + 1)]
    assert unproven(T0, T0 + 6 * MINUTE_MS, proven, Timeframe.M1) == [
        (T0, T0 + MINUTE_MS),
        (T0 + 5 * MINUTE_MS, T0 + 6 * MINUTE_MS),
    ]


@given(st.integers(0, 4 * 10**12), st.sampled_from(list(Timeframe)))
def test_bucket_edges_are_integer_arithmetic(time_ms: int, timeframe: Timeframe) -> None:
    assert timeframe.floor(time_ms) <= time_ms < timeframe.floor(time_ms) + timeframe.ms
    assert timeframe.floor(time_ms) % timeframe.ms == 0
    assert DAY_MS % timeframe.ms == 0
