"""The provider against an oracle of two times, in all its methods; and what it refuses."""

import asyncio
from datetime import UTC, datetime
from itertools import count
from typing import Any
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resources.data_provider import AnnotationLoader, DataProvider
from resources.timescale.store import MarketStore
from resources.timescale.tables import CANDLE, TRADE
from tests.oracle import (
    BOOK,
    BOOK_SECOND,
    MEASURE,
    MINUTE,
    SECOND,
    T0,
    THREE,
    Oracle,
    Write,
    bar,
    histories,
    moments,
    put,
    register,
    rolled,
)
from trading.market.instrument import UnknownInstrument
from trading.market.timeframe import HOUR_MS, MINUTE_MS, SECOND_MS, Timeframe, parts_of
from trading.provider.floor import Floor, IncompleteData, InsufficientHistory, StaleData
from trading.provider.frames import Completeness
from trading.provider.moments import BadMoment, UnknownTimeframe
from trading.provider.provider import UnifiedDataProvider
from trading.provider.question import BadQuestion
from trading.stream.contiguity import IdRange

NUMBER = count()
NOW = T0 + 100 * HOUR_MS
BARS = (Timeframe.M1, Timeframe.M3, Timeframe.M5, Timeframe.M15)


@pytest.fixture(scope="module")
def provider(market: MarketStore) -> DataProvider:
    return DataProvider(UnifiedDataProvider(market.queries(), lambda: NOW))


def stored(market: MarketStore, *writes: Write) -> str:
    """Write a history under a name of its own."""
    symbol = f"P{next(NUMBER)}USDT"
    register(market, symbol)
    for write in writes:
        put(market, symbol, write)
    return symbol


def rows(frame: pl.DataFrame) -> list[dict[str, Any]]:
    return frame.to_dicts()


def mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def provided(
    oracle: Oracle, timeframe: Timeframe, as_of: int, known_by: int, limit: int, incomplete: bool
) -> list[dict[str, Any]]:
    """Return the bars of an answer: those of the store, and in the window those that complete finer ones make."""
    bars = {row["open_time"]: row for row in oracle.bars(timeframe, as_of, known_by)}
    stored = oracle.known(("candle", timeframe), known_by)
    end = timeframe.floor(as_of)
    for start in range(end - limit * timeframe.ms, end, timeframe.ms):
        if start in stored or (start in bars and bars[start]["complete"]):
            continue
        for finer in parts_of(timeframe):
            of_finer = {row["open_time"]: row for row in oracle.bars(finer, as_of, known_by) if row["complete"]}
            parts = [of_finer[at] for at in range(start, start + timeframe.ms, finer.ms) if at in of_finer]
            if len(parts) == timeframe.ms // finer.ms:
                bars[start] = rolled(start, parts, len(parts))
                break
    return [row for _, row in sorted(bars.items()) if incomplete or row["complete"]][-limit:]


@given(st.data())
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_every_method_answers_as_it_was_known(market: MarketStore, provider: DataProvider, data: st.DataObject) -> None:
    oracle = data.draw(histories(), "history")
    symbol, at = stored(market, *oracle.writes), moments(oracle)
    for _ in range(2):
        as_of, known_by = data.draw(at, "as of"), data.draw(st.none() | at, "known by")
        until = known_by if known_by is not None else NOW
        incomplete, limit = data.draw(st.booleans(), "incomplete"), data.draw(st.integers(1, 8), "limit")
        wanted = {"known_by": known_by, "limit": limit, "incomplete": incomplete}
        answer = provider.get_inference_data(symbol, as_of, 1, [*BARS], **wanted)
        bars = provider.get_multi_timeframe_data(symbol, BARS, as_of, **wanted)
        for timeframe in BARS:
            expected = provided(oracle, timeframe, as_of, until, limit, incomplete)
            assert rows(answer.ohlcv[timeframe]) == expected
            assert rows(bars[timeframe]) == expected
            opens = set(oracle.known(("candle", timeframe), until))
            made = tuple(b["open_time"] for b in expected if b["source"] == "rollup" and b["open_time"] not in opens)
            assert answer.completeness[timeframe].generated == made
            first = timeframe.floor(as_of) - limit * timeframe.ms
            whole = [b for b in expected if b["complete"] and b["open_time"] >= first]
            assert (answer.completeness[timeframe].present, answer.completeness[timeframe].expected) == (
                len(whole),
                limit,
            )
            age = as_of - expected[-1]["open_time"] - timeframe.ms if expected else None
            assert answer.freshness[f"ohlcv.{timeframe}"] == age
        assert rows(answer.indicators[Timeframe.M3]) == oracle.rows(MEASURE, as_of, until)[-limit:]
        books, seconds = oracle.rows(BOOK, as_of, until), oracle.rows(BOOK_SECOND, as_of, until)
        assert (rows(answer.book.rows) if answer.book else []) == books[-1:]
        assert rows(provider.get_order_book_data(symbol, as_of, "raw", limit, known_by=known_by).rows) == books[-limit:]
        of_seconds = provider.get_order_book_data(symbol, as_of, "1s", limit, known_by=known_by)
        assert rows(of_seconds.rows) == seconds[-limit:]
        for window in (1, 5, 15, 60):
            end = as_of // SECOND_MS * SECOND_MS
            found = mean([row["imbalance_20"] for row in seconds if row["time_ms"] >= end - window * SECOND_MS])
            assert of_seconds.imbalances[window] == pytest.approx(found)
            assert answer.imbalances[window] == of_seconds.imbalances[window]
        minutes = provider.get_order_book_data(symbol, as_of, "1m", limit, known_by=known_by).rows
        begins = sorted({row["time_ms"] // MINUTE_MS * MINUTE_MS for row in oracle.rows(BOOK_SECOND, NOW, until)})
        assert minutes["time_ms"].to_list() == [begin for begin in begins if begin + MINUTE_MS <= as_of][-limit:]
        surrounding = [b for b in oracle.rows(SECOND, as_of, until) if incomplete or b["complete"]]
        assert rows(answer.context["1s"]) == [b for b in surrounding if b["open_time"] >= as_of - MINUTE_MS]
        assert rows(answer.context["book_1s"]) == [row for row in seconds if row["time_ms"] >= as_of - MINUTE_MS]


def test_a_candle_that_was_repaired_an_hour_later_is_what_was_known_when_one_asks(
    market: MarketStore, provider: DataProvider
) -> None:
    hole = bar(T0 + MINUTE_MS, "incomplete_trades", volume=1.5)
    repaired = {**bar(T0 + MINUTE_MS, "trades", volume=2.25), "high": 101.5}
    minutes = {T0: bar(T0), T0 + MINUTE_MS: hole, T0 + 2 * MINUTE_MS: bar(T0 + 2 * MINUTE_MS)}
    formed, mended = T0 + 4 * MINUTE_MS, T0 + HOUR_MS
    symbol = stored(market, Write(formed, MINUTE, minutes), Write(mended, MINUTE, {T0 + MINUTE_MS: repaired}))
    for known_by, candle, complete, volume in (
        (formed, {**hole, "known_at_ms": formed}, False, 3.5),
        (mended - 1, {**hole, "known_at_ms": formed}, False, 3.5),
        (mended, {**repaired, "known_at_ms": mended}, True, 4.25),
        (None, {**repaired, "known_at_ms": mended}, True, 4.25),
    ):
        answer = provider.get_inference_data(
            symbol, T0 + 2 * HOUR_MS, timeframes=["1m", "3m"], known_by=known_by, limit=120, incomplete=True
        )
        assert answer.ohlcv[Timeframe.M1].row(1, named=True) == candle
        above = answer.ohlcv[Timeframe.M3].row(0, named=True)
        assert (above["complete"], above["volume"], above["n_present"]) == (complete, volume, 3 if complete else 2)
        whole = provider.get_multi_timeframe_data(symbol, ["3m"], T0 + 2 * HOUR_MS, known_by=known_by)
        assert len(whole[Timeframe.M3]) == int(complete)
        generated = answer.completeness[Timeframe.M3].generated
        assert generated == (T0,)


def test_what_came_after_a_moment_is_given_only_to_who_asks_for_it(market: MarketStore, provider: DataProvider) -> None:
    bars = {T0 + n * MINUTE_MS: bar(T0 + n * MINUTE_MS) for n in range(10)}
    symbol = stored(market, Write(T0 + HOUR_MS, MINUTE, bars))
    moment = datetime.fromtimestamp((T0 + 5 * MINUTE_MS) / 1000, UTC)
    assert provider.get_inference_data(symbol, moment, 2).context["1m"]["open_time"].to_list() == [
        T0 + 3 * MINUTE_MS,
        T0 + 4 * MINUTE_MS,
    ]
    found = AnnotationLoader(provider).load(symbol, moment, 2)
    assert found.before["1m"]["open_time"].to_list() == [T0 + 3 * MINUTE_MS, T0 + 4 * MINUTE_MS]
    assert found.after["1m"]["open_time"].to_list() == [T0 + 5 * MINUTE_MS, T0 + 6 * MINUTE_MS]
    assert found.known.ohlcv[Timeframe.M1]["open_time"].max() == T0 + 4 * MINUTE_MS


def test_an_answer_below_its_callers_floor_is_refused(market: MarketStore, provider: DataProvider) -> None:
    bars = {T0 + n * MINUTE_MS: bar(T0 + n * MINUTE_MS) for n in range(10) if n != 4}
    symbol = stored(market, Write(T0 + HOUR_MS, MINUTE, bars))

    def ask(at: int, floor: Floor) -> None:
        provider.get_inference_data(symbol, at, 0, ["1m"], limit=5, floor=floor)

    ask(T0 + 10 * MINUTE_MS, Floor(late_ms=0, share=1.0, bars=5))
    with pytest.raises(StaleData):
        ask(T0 + 11 * MINUTE_MS, Floor(late_ms=0))
    ask(T0 + 11 * MINUTE_MS - 1, Floor(late_ms=0))
    with pytest.raises(IncompleteData):
        ask(T0 + 6 * MINUTE_MS, Floor(share=0.9))
    with pytest.raises(InsufficientHistory):
        ask(T0 + 2 * MINUTE_MS, Floor(bars=3))
    with pytest.raises(StaleData):
        ask(T0 + 10 * MINUTE_MS, Floor(book_age_ms=1000))


def test_an_absent_minute_is_empty_only_where_all_its_trades_are_held_and_there_is_none(
    market: MarketStore, provider: DataProvider
) -> None:
    # Before T0 nothing is proven. After it nothing traded at the minutes 0, 1 and 5; that of 2 has no bar yet.
    traded = {2: [0, MINUTE_MS - 1], 3: [0], 4: [MINUTE_MS - 1], 6: [0], 7: [0]}
    times = [T0 + minute * MINUTE_MS + at for minute, ats in traded.items() for at in ats]
    bars = {T0 + n * MINUTE_MS: bar(T0 + n * MINUTE_MS) for n in (3, 4, 6, 7)}
    symbol, stranger = stored(market, Write(T0 + HOUR_MS, MINUTE, bars)), stored(market)
    columns = dict(zip(TRADE.schema, ([*range(len(times))], 1, 1, 0, 0, times, True), strict=True))
    for name, trades in ((symbol, pl.DataFrame(columns)), (stranger, pl.DataFrame(columns | {"time_ms": T0 + 90_000}))):
        market.write(TRADE, name, trades.cast(dict(TRADE.schema)), T0, T0 + HOUR_MS)
    edges = ((T0, T0 + MINUTE_MS + 1), (T0 + MINUTE_MS + 1, T0 + 8 * MINUTE_MS))
    market.set_trade_coverage(symbol, T0, [IdRange(0, -1, *edges[0]), IdRange(0, 5, *edges[1])])

    def ask(minute: int, limit: int, share: float, known_by: int | None = None) -> Completeness:
        at, floor = T0 + minute * MINUTE_MS, Floor(share=share)
        answer = provider.get_inference_data(symbol, at, 0, ["1m"], known_by=known_by, limit=limit, floor=floor)
        return answer.completeness[Timeframe.M1]

    assert ask(2, 2, share=1.0).share is None
    assert ask(8, 8, share=0.8) == Completeness(5, 4)
    assert ask(8, 8, share=0.5, known_by=NOW) == Completeness(8, 4)
    assert ask(8, 13, share=0.4) == Completeness(10, 4)
    for minute, limit in ((3, 1), (3, 3), (8, 8), (-1, 2)):
        with pytest.raises(IncompleteData):
            ask(minute, limit, share=0.99)
    market.write(CANDLE, symbol, pl.DataFrame(schema=CANDLE.schema), T0, T0 + HOUR_MS, Timeframe.M1, exact=True)
    with pytest.raises(IncompleteData, match="0 of 5 bars"):
        ask(8, 8, share=0.99)


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2023, 11, 15),
        datetime(2023, 11, 15, tzinfo=ZoneInfo("Europe/London")),
        T0 // 1000,
        T0 * 1000,
        NOW + 1,
        "2023-11-15",
    ],
)
def test_a_moment_that_is_not_utc_or_not_past_is_refused(
    market: MarketStore, provider: DataProvider, moment: Any
) -> None:
    symbol = stored(market)
    with pytest.raises(BadMoment):
        provider.get_inference_data(symbol, moment)
    with pytest.raises(BadMoment):
        provider.get_order_book_data(symbol, T0, known_by=moment)


def test_what_cannot_be_asked_for_is_refused(market: MarketStore, provider: DataProvider) -> None:
    symbol = stored(market)
    with pytest.raises(UnknownTimeframe):
        provider.get_multi_timeframe_data(symbol, ["7m"])
    with pytest.raises(UnknownInstrument):
        provider.get_inference_data("NEVERUSDT")
    with pytest.raises(BadQuestion):
        provider.get_inference_data(symbol, context_window_minutes=-1)
    with pytest.raises(BadQuestion):
        provider.get_multi_timeframe_data(symbol, limit=0)
    with pytest.raises(BadQuestion):
        provider.get_order_book_data(symbol, aggregation="2s")  # pyright: ignore
    only = DataProvider(UnifiedDataProvider(market.queries(), lambda: NOW, symbols=["BTCUSDT"]))
    with pytest.raises(UnknownInstrument):
        only.get_data(symbol)


def test_the_former_provider_and_a_loop_of_ones_own_get_the_same_bars(
    market: MarketStore, provider: DataProvider
) -> None:
    bars = {T0 + n * MINUTE_MS: bar(T0 + n * MINUTE_MS, volume=float(n)) for n in range(4)}
    symbol = stored(market, Write(T0 + HOUR_MS, MINUTE, bars), Write(T0 + HOUR_MS, THREE, {}, (T0, T0 + 1)))
    frame = provider.get_data(symbol, "1m", 3)
    assert list(frame.columns) == ["open", "high", "low", "close", "volume"]
    assert str(frame.index.tz) == "UTC"
    assert frame.index.name == "timestamp"
    assert frame["volume"].tolist() == [1.0, 2.0, 3.0]
    awaited = asyncio.run(provider.asynchronous.get_multi_timeframe_data(symbol, ["1m"], limit=3))
    assert awaited[Timeframe.M1]["volume"].to_list() == [1.0, 2.0, 3.0]
