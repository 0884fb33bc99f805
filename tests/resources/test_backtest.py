"""Backtests see bars in the order in which they closed, or in which they became known."""

from itertools import count
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resources.backtest import BacktestReader, as_known
from resources.timescale.store import MarketStore
from tests.oracle import FIVE, MINUTE, MINUTES, T0, THREE, Write, bar, histories, moments, put, register
from trading.market.timeframe import HOUR_MS, MINUTE_MS, Timeframe

NUMBER = count()
BARS = (Timeframe.M1, Timeframe.M3, Timeframe.M5)
HIGH = T0 + 100 * HOUR_MS
databases = settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


def stored(market: MarketStore, *writes: Write) -> str:
    symbol = f"T{next(NUMBER)}USDT"
    register(market, symbol)
    for write in writes:
        put(market, symbol, write)
    return symbol


@given(st.data())
@databases
def test_bars_come_in_the_order_in_which_they_closed(market: MarketStore, data: st.DataObject) -> None:
    oracle = data.draw(histories((MINUTE, THREE, FIVE)), "history")
    symbol, at = stored(market, *oracle.writes), moments(oracle)
    lo, known_by = data.draw(at, "from"), data.draw(st.none() | at, "known by")
    hi = lo + data.draw(st.integers(1, 20 * MINUTE_MS), "length")
    until = HIGH if known_by is None else known_by
    expected = [
        (b["open_time"] + timeframe.ms, timeframe.ms, {"timeframe": timeframe.value, **b})
        for timeframe in BARS
        for b in oracle.bars(timeframe, hi, until)
        if b["complete"] and b["open_time"] + timeframe.ms > lo
    ]
    reader = BacktestReader.of_database(
        market.queries(), symbol, BARS, lo, hi, known_by, rows=data.draw(st.integers(1, 20))
    )
    for _ in range(2):
        found = [row for batch in reader for row in batch.to_dicts()]
        assert found == [b for _, _, b in sorted(expected, key=lambda one: one[:2])]


@given(st.data())
@databases
def test_a_replay_of_what_became_known_is_at_each_moment_what_was_known_then(
    market: MarketStore, data: st.DataObject
) -> None:
    oracle = data.draw(histories((MINUTE, THREE), most=12), "history")
    symbol = stored(market, *oracle.writes)
    state: dict[tuple[str, int], dict[str, Any]] = {}
    moments_of_knowledge = sorted({write.recorded_ms for write in oracle.writes})
    told = [row for batch in as_known(market.queries(), symbol, BARS, T0, T0 + HOUR_MS) for row in batch.to_dicts()]
    assert [row["known_at_ms"] for row in told] == sorted(row["known_at_ms"] for row in told)
    for moment in moments_of_knowledge:
        while told and told[0]["known_at_ms"] <= moment:
            row = told.pop(0)
            key = row.pop("timeframe"), row["open_time"]
            state.pop(key, None) if row.pop("withdrawn") else state.update({key: row})
        for series in (MINUTE, THREE):
            held = {time: row for (timeframe, time), row in sorted(state.items()) if timeframe == series[1]}
            assert held == oracle.known(series, moment)
    assert not told


def test_a_reader_that_is_left_early_leaves_nothing_behind(market: MarketStore) -> None:
    symbol = stored(market, Write(HIGH, MINUTE, {T0 + n * MINUTE_MS: bar(T0 + n * MINUTE_MS) for n in range(MINUTES)}))
    reader = BacktestReader.of_database(market.queries(), symbol, [Timeframe.M1], T0, T0 + HOUR_MS, rows=2)
    assert len(next(iter(reader))) == 2
    replay = as_known(market.queries(), symbol, [Timeframe.M1], T0, T0 + HOUR_MS)
    assert len(next(replay)) == MINUTES
    replay.close()
    assert sum(len(batch) for batch in reader) == MINUTES


def test_a_backtest_may_ask_for_some_columns_only(market: MarketStore) -> None:
    symbol = stored(market, Write(HIGH, MINUTE, {T0: bar(T0, volume=2.5)}))
    reader = BacktestReader.of_database(
        market.queries(), symbol, [Timeframe.M1], T0, T0 + HOUR_MS, columns=("open_time", "volume")
    )
    assert [batch.rows() for batch in reader] == [[("1m", T0, 2.5)]]
