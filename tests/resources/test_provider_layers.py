"""The provider's other layers, the cache and the lake, against the same oracle."""

import asyncio
from functools import partial
from itertools import count
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resources.backtest import BacktestReader
from resources.data_provider import DataProvider
from resources.lake import LakeReader, day_of
from resources.lake_export import export_days
from resources.live_follower import LiveFollower
from resources.timescale.queries import MarketQueries
from resources.timescale.store import MarketStore
from tests.oracle import (
    BOOK,
    BOOK_SECOND,
    MEASURE,
    MINUTE,
    SECOND,
    T0,
    TABLES,
    Write,
    bar,
    histories,
    moments,
    put,
    register,
)
from trading.market.instrument import Instrument
from trading.market.timeframe import CANDLE_TIMEFRAMES, DAY_MS, HOUR_MS, MINUTE_MS, Timeframe
from trading.provider.cache import DataCacheManager
from trading.provider.provider import UnifiedDataProvider
from trading.stream.contiguity import IdRange

NUMBER = count()
BARS = (Timeframe.M1, Timeframe.M3)
databases = settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@given(st.data())
@databases
def test_now_is_answered_as_it_is_known_whatever_part_of_it_the_cache_has(
    market: MarketStore, data: st.DataObject
) -> None:
    oracle = data.draw(histories(), "history")
    symbol = f"C{next(NUMBER)}USDT"
    register(market, symbol)
    now = [0]
    cache = DataCacheManager(lambda: now[0], window_ms=HOUR_MS)
    provider = DataProvider(UnifiedDataProvider(market.queries(), lambda: now[0], cache=cache))
    kept = data.draw(st.integers(0, len(oracle.writes)), "the cache begins with write")
    for place, write in enumerate(oracle.writes):
        put(market, symbol, write)
        name, timeframe = write.series
        if place == kept:
            for of in TABLES:
                for timeframe_of in (*BARS, None):
                    cache.covers(of, symbol, now[0], timeframe_of)
        if write.exact:
            cache.forget(symbol)  # whoever deletes tells the cache so
        elif place >= kept:
            frame = pl.DataFrame(
                [{**r, "known_at_ms": write.recorded_ms} for r in write.rows.values()], TABLES[name].schema
            )
            cache.put(name, symbol, frame, timeframe)
        now[0] = write.recorded_ms
        limit = data.draw(st.integers(1, 6), "limit")
        answer = provider.get_inference_data(symbol, None, 1, [*BARS], limit=limit)
        for timeframe in BARS:
            expected = [b for b in oracle.bars(timeframe, now[0], now[0]) if b["complete"]][-limit:]
            assert answer.ohlcv[timeframe].to_dicts() == expected
            assert answer.sources[f"ohlcv.{timeframe}"] in ("cache", "database", "mixed")
        assert answer.indicators[Timeframe.M3].to_dicts() == oracle.rows(MEASURE, now[0], now[0])[-limit:]
        books = oracle.rows(BOOK, now[0], now[0])
        assert (answer.book.rows.to_dicts() if answer.book else []) == books[-1:]
        seconds = [r for r in oracle.rows(BOOK_SECOND, now[0], now[0]) if r["time_ms"] >= now[0] - MINUTE_MS]
        assert answer.context["book_1s"].to_dicts() == seconds
        for name, series in (("1s", SECOND), ("1m", MINUTE)):
            inside = [
                b for b in oracle.rows(series, now[0], now[0]) if b["complete"] and b["open_time"] >= now[0] - MINUTE_MS
            ]
            assert answer.context[name].to_dicts() == inside


def loaded(market: MarketStore, symbol: str, now_ms: int) -> DataCacheManager:
    """Return the cache of a follower that has loaded what is stored."""
    follower = LiveFollower("redis://127.0.0.1:1", [symbol], market.queries())
    follower.clock_ms = now_ms
    asyncio.run(follower._load(symbol, market.queries()))
    assert follower.cache.covered_from("book_snapshot", symbol) is not None
    return follower.cache


@given(st.data())
@databases
def test_what_was_loaded_of_a_young_history_is_answered_as_if_the_history_were_asked(
    market: MarketStore, data: st.DataObject
) -> None:
    oracle = data.draw(histories(), "history")
    symbol = f"Y{next(NUMBER)}USDT"
    register(market, symbol)
    for write in oracle.writes:
        put(market, symbol, write)
    if data.draw(st.booleans(), "proven"):
        since = T0 - data.draw(st.integers(0, 20), "minutes before") * MINUTE_MS
        market.set_trade_coverage(symbol, since // DAY_MS * DAY_MS, [IdRange(0, -1, since, T0 + HOUR_MS)])
    now = (
        oracle.writes[-1].recorded_ms + data.draw(st.integers(0, 6), "minutes later") * MINUTE_MS
        if oracle.writes
        else T0
    )
    cache = loaded(market, symbol, now)
    for _ in range(4):
        limit, incomplete = data.draw(st.integers(1, 20), "limit"), data.draw(st.booleans(), "incomplete")
        question: Any = (symbol, None, 1, ["1s", *BARS, "5m", "1d"])
        answers = [
            DataProvider(UnifiedDataProvider(market.queries(), lambda: now, cache=of)).get_inference_data(
                *question, limit=limit, incomplete=incomplete
            )
            for of in (None, cache)
        ]
        asked, ours = ({**answer.to_dict(), "sources": None} for answer in answers)
        assert asked == ours


def test_of_a_young_and_quiet_history_that_was_loaded_nobody_else_is_asked(market: MarketStore) -> None:
    symbol, now, quiet = "YOUNGUSDT", T0 + HOUR_MS, range(T0 + 30 * MINUTE_MS, T0 + 33 * MINUTE_MS)
    register(market, symbol)
    market.set_trade_coverage(symbol, T0, [IdRange(0, -1, T0, now)])
    for timeframe in CANDLE_TIMEFRAMES:
        opens = range(T0, now - timeframe.ms + 1, timeframe.ms)
        if rows := {at: bar(at) for at in opens if at not in quiet or at + timeframe.ms > quiet.stop}:
            put(market, symbol, Write(now, ("candle", timeframe), rows))
    cache, nowhere = loaded(market, symbol, now), MarketQueries(None, "sim")  # type: ignore[arg-type]
    provider = DataProvider(UnifiedDataProvider(nowhere, lambda: now, cache=cache))
    nowhere._reader._known[symbol] = (0, Instrument("sim", symbol, "YOU", "USDT", 2, 5))
    answer = provider.get_inference_data(symbol)
    assert set(answer.sources.values()) == {"cache"}
    assert [len(answer.ohlcv[timeframe]) for timeframe in CANDLE_TIMEFRAMES] == [57, 19, 12, 4, 1, 0, 0]
    asked = DataProvider(UnifiedDataProvider(market.queries(), lambda: now)).get_inference_data(symbol)
    assert asked.completeness == answer.completeness
    assert [answer.completeness[t].expected for t in (Timeframe.M1, Timeframe.M3)] == [497, 499]
    with pytest.raises(TypeError):
        provider.get_inference_data(symbol, limit=5_000)
    cache.forget(symbol)
    with pytest.raises(TypeError):
        provider.get_inference_data(symbol)


def test_seconds_of_before_the_first_minute_are_asked_for(market: MarketStore) -> None:
    symbol, now = "SECONDSUSDT", T0 + HOUR_MS
    register(market, symbol)
    put(market, symbol, Write(now, SECOND, {T0: bar(T0)}))
    put(market, symbol, Write(now, MINUTE, {now - MINUTE_MS: bar(now - MINUTE_MS)}))
    provider = UnifiedDataProvider(market.queries(), lambda: now, cache=loaded(market, symbol, now))
    seconds = DataProvider(provider).get_multi_timeframe_data(symbol, ["1s"], limit=5)[Timeframe.S1]
    assert seconds["open_time"].to_list() == [T0]


def test_a_cache_that_lacks_what_came_before_it_is_not_believed_to_have_the_last(market: MarketStore) -> None:
    symbol, now = "LATECUSDT", T0 + HOUR_MS
    register(market, symbol)
    put(market, symbol, Write(now, MINUTE, {at: bar(at) for at in range(T0, now, MINUTE_MS)}))
    cache = DataCacheManager(lambda: now + 1)
    provider = DataProvider(UnifiedDataProvider(market.queries(), lambda: now + 1, cache=cache))
    late = [bar(at, volume=9.0) | {"known_at_ms": now + 1} for at in (T0 + 2 * MINUTE_MS, T0 + 4 * MINUTE_MS)]
    cache.put("candle", symbol, pl.DataFrame(late, TABLES["candle"].schema), Timeframe.M1)
    for covered in (None, now):
        if covered is not None:
            cache.covers("candle", symbol, covered, Timeframe.M1)
        for limit in (1, 2):
            opens = provider.get_multi_timeframe_data(symbol, ["1m"], limit=limit)[Timeframe.M1]["open_time"].to_list()
            assert opens == list(range(now - limit * MINUTE_MS, now, MINUTE_MS))
    corrected = provider.get_multi_timeframe_data(symbol, ["1m"], limit=60)[Timeframe.M1]
    assert corrected["volume"].to_list()[:5] == [1.0, 1.0, 9.0, 1.0, 9.0]


def test_a_bar_that_was_stored_before_it_came_to_the_cache_has_been_known_since_then(market: MarketStore) -> None:
    symbol, now = "AGAINUSDT", T0 + HOUR_MS
    register(market, symbol)
    put(market, symbol, Write(now, MINUTE, {T0: bar(T0), T0 + MINUTE_MS: bar(T0 + MINUTE_MS)}))
    cache = DataCacheManager(lambda: now + 2)
    provider = DataProvider(UnifiedDataProvider(market.queries(), lambda: now + 2, cache=cache))
    again = [bar(T0), bar(T0 + MINUTE_MS, volume=9.0)]
    frame = pl.DataFrame([b | {"known_at_ms": now + 1} for b in again], TABLES["candle"].schema)
    cache.put("candle", symbol, frame, Timeframe.M1)
    bars = provider.get_multi_timeframe_data(symbol, ["1m"], limit=60)[Timeframe.M1]
    assert bars["known_at_ms"].to_list() == [now, now + 1]
    assert bars["volume"].to_list() == [1.0, 9.0]


def test_what_the_cache_has_whole_is_asked_of_nobody_else() -> None:
    now = T0 + DAY_MS
    cache = DataCacheManager(lambda: now)
    for timeframe in BARS:
        opens = range(now - 5 * timeframe.ms, now, timeframe.ms)
        rows = [{**bar(at), "known_at_ms": at + timeframe.ms} for at in opens]
        cache.put("candle", "BTCUSDT", pl.DataFrame(rows, TABLES["candle"].schema), timeframe)
        cache.covers("candle", "BTCUSDT", opens[0], timeframe)
    nowhere: Any = None
    provider = DataProvider(UnifiedDataProvider(nowhere, lambda: now, cache=cache))
    bars = provider.get_multi_timeframe_data("BTCUSDT", BARS, limit=5)
    assert [len(bars[timeframe]) for timeframe in BARS] == [5, 5]
    with pytest.raises(AttributeError):
        provider.get_multi_timeframe_data("BTCUSDT", BARS, limit=6)
    with pytest.raises(AttributeError):
        provider.get_multi_timeframe_data("BTCUSDT", BARS, known_by=now, limit=5)


def test_a_bar_whose_last_minute_is_still_to_come_is_asked_of_nobody_else() -> None:
    now = T0 + DAY_MS
    cache = DataCacheManager(lambda: now)
    nowhere: Any = None
    provider = DataProvider(UnifiedDataProvider(nowhere, lambda: now, cache=cache))
    for timeframe in BARS:
        opens = range(now - 6 * timeframe.ms, now - timeframe.ms, timeframe.ms)
        rows = [{**bar(at), "known_at_ms": at + timeframe.ms} for at in opens]
        cache.put("candle", "BTCUSDT", pl.DataFrame(rows, TABLES["candle"].schema), timeframe)
        cache.covers("candle", "BTCUSDT", opens[0], timeframe)
    bars = provider.get_multi_timeframe_data("BTCUSDT", BARS, limit=5)
    assert [int(bars[timeframe]["open_time"][-1]) for timeframe in BARS] == [now - 2 * t.ms for t in BARS]
    with pytest.raises(AttributeError):
        provider.get_multi_timeframe_data("BTCUSDT", BARS, limit=5, incomplete=True)
    came = {**bar(now - MINUTE_MS), "known_at_ms": now}
    cache.put("candle", "BTCUSDT", pl.DataFrame([came], TABLES["candle"].schema), Timeframe.M1)
    with pytest.raises(AttributeError):  # now the longer bar can be made, whether or not it was told
        provider.get_multi_timeframe_data("BTCUSDT", BARS, limit=5)


@given(st.data())
@settings(databases, max_examples=5)
def test_what_went_from_the_database_is_answered_from_the_lake(
    market: MarketStore, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    oracle = data.draw(histories((SECOND, BOOK, BOOK_SECOND, MINUTE)), "history")
    symbol, day = f"L{next(NUMBER)}USDT", day_of(T0)
    register(market, symbol)
    for write in oracle.writes:
        put(market, symbol, write)
    lake = LakeReader(tmp_path_factory.mktemp("lake"), "sim")
    for name in ("candle_1s", "book_snapshot", "book_1s", "candle"):
        export_days(market, lake, name, symbol, [day], T0 + 2 * DAY_MS)
        manifest = lake.manifest(name, symbol, day)
        if name != "candle" and manifest is not None:
            market.note_days(f"retention_{name}", symbol, {day: (manifest.rows, manifest.digest)}, [])
            for relation in (TABLES[name].relation, f"{TABLES[name].relation}_revision"):
                market.execute(
                    f"DELETE FROM md.{relation} t USING md.symbol s WHERE s.symbol_id = t.symbol_id AND s.name = $1",
                    symbol,
                )
    queries = MarketQueries(partial(market.connections.run, read=True), "sim", lake)
    provider = DataProvider(UnifiedDataProvider(queries, lambda: T0 + 2 * DAY_MS))
    at = moments(oracle)
    for _ in range(3):
        as_of, known_by = data.draw(at, "as of"), data.draw(st.none() | at, "known by")
        until, limit = known_by or T0 + 2 * DAY_MS, data.draw(st.integers(1, 6), "limit")
        answer = provider.get_inference_data(symbol, as_of, 1, ["1s", "1m"], known_by=known_by, limit=limit)
        bars = [b for b in oracle.rows(SECOND, as_of, until) if b["complete"]]
        assert answer.ohlcv[Timeframe.S1].to_dicts() == bars[-limit:]
        assert answer.context["1s"].to_dicts() == [b for b in bars if b["open_time"] >= as_of - MINUTE_MS]
        seconds = oracle.rows(BOOK_SECOND, as_of, until)
        assert answer.context["book_1s"].to_dicts() == [r for r in seconds if r["time_ms"] >= as_of - MINUTE_MS]
        books = oracle.rows(BOOK, as_of, until)
        assert (answer.book.rows.to_dicts() if answer.book else []) == books[-1:]
        assert answer.sources["book"] == ("lake" if books else "database")
        held = provider.get_order_book_data(symbol, as_of, "raw", limit, known_by=known_by)
        assert held.rows.to_dicts() == books[-limit:]
    if lake.manifest("candle", symbol, day) is not None:
        reader = BacktestReader.of_lake(lake, symbol, [Timeframe.M1], T0, T0 + HOUR_MS, known_by, rows=5)
        found = [row for batch in reader for row in batch.drop("timeframe").to_dicts()]
        assert found == [b for b in oracle.rows(MINUTE, T0 + HOUR_MS, until) if b["complete"]]
