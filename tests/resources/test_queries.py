"""Queries against an oracle of two times: when something happened, and when it was known."""

import math
from itertools import count
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resources.timescale.loop import wait
from resources.timescale.queries import MarketQueries
from resources.timescale.store import MarketStore
from resources.timescale.tables import CANDLE
from tests.oracle import BOOK, BOOK_SECOND, MEASURE, T0, Oracle, bar, histories, moments, put, register
from trading.market.instrument import UnknownInstrument
from trading.market.timeframe import DAY_MS, MINUTE_MS, SECOND_MS, Timeframe
from trading.provider.moments import BadRange

NUMBER = count()
BARS = (Timeframe.S1, Timeframe.M1, Timeframe.M3, Timeframe.M5, Timeframe.M15)


@pytest.fixture(scope="module")
def queries(market: MarketStore) -> MarketQueries:
    return market.queries()


def stored(market: MarketStore, oracle: Oracle) -> str:
    """Write a history under a name of its own."""
    symbol = f"Q{next(NUMBER)}USDT"
    register(market, symbol)
    for write in oracle.writes:
        put(market, symbol, write)
    return symbol


def rows(frame: pl.DataFrame) -> list[dict[str, Any]]:
    return frame.to_dicts()


@given(st.data())
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_every_query_answers_as_it_was_known(market: MarketStore, queries: MarketQueries, data: st.DataObject) -> None:
    oracle = data.draw(histories(), "history")
    symbol, at = stored(market, oracle), moments(oracle)
    for _ in range(3):
        as_of, known_by = data.draw(at, "as of"), data.draw(st.none() | at, "known by")
        until = known_by if known_by is not None else 2**53
        limit = data.draw(st.integers(1, 6), "limit")
        expected = {timeframe: oracle.bars(timeframe, as_of, until) for timeframe in BARS}
        every = wait(
            queries.query_multi_timeframe_ohlcv(symbol, BARS, as_of, limit, known_by_ms=known_by, incomplete=True)
        )
        whole = wait(queries.query_multi_timeframe_ohlcv(symbol, BARS, as_of, limit, known_by_ms=known_by))
        for timeframe, bars in expected.items():
            assert rows(every[timeframe]) == bars[-limit:]
            assert rows(whole[timeframe]) == [bar for bar in bars if bar["complete"]][-limit:]
        one, lo = data.draw(st.sampled_from(BARS), "timeframe"), data.draw(at, "from")
        hi = lo + data.draw(st.integers(0, 20 * MINUTE_MS), "length")
        found = wait(
            queries.query_ohlcv_data(symbol, one, lo, hi, as_of_ms=as_of, known_by_ms=known_by, incomplete=True)
        )
        assert rows(found) == [bar for bar in expected[one] if lo <= bar["open_time"] < hi]
        last = wait(
            queries.query_ohlcv_data(symbol, one, limit=limit, as_of_ms=as_of, known_by_ms=known_by, incomplete=True)
        )
        assert rows(last) == expected[one][-limit:]
        latest = wait(queries.query_latest_ohlcv(one, as_of, known_by_ms=known_by, incomplete=True))
        assert rows(latest.filter(pl.col("name") == symbol).drop("name")) == expected[one][-1:]
        measures = wait(queries.query_indicators(symbol, [Timeframe.M3], as_of, limit, known_by_ms=known_by))
        assert rows(measures[Timeframe.M3]) == oracle.rows(MEASURE, as_of, until)[-limit:]
        books = wait(queries.query_orderbook_snapshots(symbol, as_of_ms=as_of, known_by_ms=known_by, limit=limit))
        assert rows(books) == oracle.rows(BOOK, as_of, until)[-limit:]
        seconds = wait(queries.query_orderbook_aggregated(symbol, "1s", lo, hi, as_of_ms=as_of, known_by_ms=known_by))
        assert rows(seconds) == [r for r in oracle.rows(BOOK_SECOND, as_of, until) if lo <= r["time_ms"] < hi]
        balance = wait(queries.query_orderbook_imbalances(symbol, lo, hi, as_of_ms=as_of, known_by_ms=known_by))
        assert rows(balance) == [
            {"time_ms": row["time_ms"], **balances(oracle.rows(BOOK_SECOND, as_of, until), row["time_ms"] + SECOND_MS)}
            for row in rows(seconds)
        ]


def balances(seconds: list[dict[str, Any]], end: int) -> dict[str, float | None]:
    """Return the mean imbalances over the seconds before a moment."""
    found: dict[str, float | None] = {}
    for window in (1, 5, 15, 60):
        inside = [row["imbalance_20"] for row in seconds if end - window * SECOND_MS <= row["time_ms"] < end]
        known = [value for value in inside if value is not None]
        found[f"imbalance_{window}s"] = math.fsum(known) / len(known) if known else None
    return found


@pytest.mark.parametrize("alone", [True, False], ids=["alone in its range", "beside another"])
def test_a_bar_that_was_taken_back_and_comes_again_was_not_known_in_between(
    market: MarketStore, queries: MarketQueries, alone: bool
) -> None:
    symbol, hour = f"Q{next(NUMBER)}USDT", 60 * MINUTE_MS
    register(market, symbol)
    rows = [T0] if alone else [T0, T0 + MINUTE_MS]
    undated = pl.DataFrame([bar(at) | {"known_at_ms": None} for at in rows], CANDLE.schema)  # known at its close
    market.write(CANDLE, symbol, undated, T0, T0 + hour, Timeframe.M1, recorded_at_ms=T0 + hour)
    market.drop(CANDLE, symbol, [T0], Timeframe.M1, T0 + 2 * hour)
    market.write(CANDLE, symbol, undated, T0, T0 + hour, Timeframe.M1, recorded_at_ms=T0 + 3 * hour)
    first, again = [T0 + MINUTE_MS], [T0 + 3 * hour]
    for known_by, known in ((T0 + hour, first), (T0 + 2 * hour, []), (T0 + 3 * hour, again), (None, again)):
        found = wait(queries.query_ohlcv_data(symbol, Timeframe.M1, T0, T0 + 1, known_by_ms=known_by))
        assert found["known_at_ms"].to_list() == known


def test_the_latest_bars_are_of_every_symbol_that_has_one_and_in_the_order_of_names(
    market: MarketStore, queries: MarketQueries
) -> None:
    known, since = wait(queries.query_latest_ohlcv(Timeframe.M1, T0 + DAY_MS))["name"].to_list(), T0 + DAY_MS
    for symbol, at in (("QLATESTBUSDT", 2), ("QLATESTAUSDT", 2), ("QLATESTCUSDT", 1), ("QLATESTDUSDT", None)):
        register(market, symbol)
        if at is not None:
            row = pl.DataFrame([bar(since + at * MINUTE_MS)], CANDLE.schema)
            market.write(CANDLE, symbol, row, since, since + 3 * MINUTE_MS, Timeframe.M1)
    for minutes, opens in ((3, [2, 2, 1]), (2, [1]), (2 * 24 * 60, [])):
        found = wait(queries.query_latest_ohlcv(Timeframe.M1, since + minutes * MINUTE_MS, within_ms=3 * MINUTE_MS))
        found = found.filter(pl.col("name").str.starts_with("QLATEST"))  # other tests have symbols here too
        assert [(time - since) // MINUTE_MS for time in found["open_time"]] == opens
        assert found["name"].to_list() == ["QLATESTAUSDT", "QLATESTBUSDT", "QLATESTCUSDT"][-len(opens) :][: len(opens)]
    assert known == sorted(known)


def test_a_range_that_ends_before_it_begins_and_a_symbol_that_is_unknown_are_refused(
    market: MarketStore, queries: MarketQueries
) -> None:
    register(market, "QRANGEUSDT")
    with pytest.raises(BadRange):
        wait(queries.query_ohlcv_data("QRANGEUSDT", Timeframe.M1, T0, T0 - 1))
    with pytest.raises(UnknownInstrument):
        wait(queries.query_ohlcv_data("NEVERUSDT", Timeframe.M1, T0, T0))
