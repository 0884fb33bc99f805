"""An answer written and read again is the same answer, to the last bit, and one that knows too much cannot be made."""

import pickle
import struct
from collections.abc import Callable
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trading.market.candle import CANDLE_SCHEMA
from trading.market.timeframe import DAY_MS, SECOND_MS, Timeframe
from trading.provider.frames import (
    IMBALANCE_WINDOWS,
    Completeness,
    InferenceDataFrame,
    KnowsTooMuch,
    OrderBookDataFrame,
)
from trading.provider.serialised import NotDeserialisable, NotSerialisable, Serialised

AS_OF = 1_700_000_000_000
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
VALUES: dict[Any, st.SearchStrategy[Any]] = {
    pl.Int64: st.integers(-(2**63), 2**63 - 1),
    pl.Int32: st.integers(-(2**31), 2**31 - 1),
    pl.Float64: FLOATS,
    pl.String: st.text(max_size=5),
    pl.Boolean: st.booleans(),
    pl.List(pl.Float64): st.lists(FLOATS, max_size=3),
}
LEVELS = pl.List(pl.Float64)
RAW = {"time_ms": pl.Int64, "last_update_id": pl.Int64} | dict.fromkeys(
    ("bid_price", "bid_quantity", "ask_price", "ask_quantity"), LEVELS
)
SECONDS = {"time_ms": pl.Int64, "mid_price": pl.Float64, "spread_bps": pl.Float64, "snapshots": pl.Int32}
INDICATORS = {"open_time": pl.Int64, "ema_20": pl.Float64, "warm": pl.Boolean}


@st.composite
def tables(draw: st.DrawFn, schema: dict[str, Any], closes_after: int) -> pl.DataFrame:
    time, *others = schema
    times = draw(st.lists(st.integers(0, AS_OF - closes_after), unique=True, max_size=4).map(sorted))
    columns = {
        name: draw(st.lists(st.none() | VALUES[schema[name]], min_size=len(times), max_size=len(times)))
        for name in others
    }
    return pl.DataFrame({time: times} | columns, schema=schema)


WINDOWS = st.fixed_dictionaries({w: st.none() | st.floats(-1, 1) for w in IMBALANCE_WINDOWS})


@st.composite
def books(draw: st.DrawFn) -> OrderBookDataFrame:
    raw = draw(st.booleans())
    rows = draw(tables(RAW, 0) if raw else tables(SECONDS, SECOND_MS))
    known_by = draw(st.none() | st.just(AS_OF))
    return OrderBookDataFrame("BTCUSDT", AS_OF, known_by, "raw" if raw else "1s", rows, draw(WINDOWS))


def by_timeframe(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    tables_of = {timeframe: tables(schema, DAY_MS) for timeframe in Timeframe}
    return st.sets(st.sampled_from(Timeframe), max_size=3).flatmap(
        lambda chosen: st.fixed_dictionaries({timeframe: tables_of[timeframe] for timeframe in sorted(chosen)})
    )


CANDLES = {name: dtype for name, dtype in CANDLE_SCHEMA.items() if name != "known_at_ms"}
PARTS = st.sampled_from(["ohlcv.1m", "book", "context.1s"])
ANSWERS = st.builds(
    InferenceDataFrame,
    symbol=st.text(max_size=8),
    as_of_ms=st.just(AS_OF),
    known_by_ms=st.none() | st.integers(0, 2**53),
    ohlcv=by_timeframe(CANDLES),
    indicators=by_timeframe(INDICATORS),
    book=st.none(),
    imbalances=WINDOWS,
    context=st.dictionaries(st.sampled_from(["1s", "1m", "book_1s"]), tables(CANDLES, -DAY_MS), max_size=2),
    sources=st.dictionaries(PARTS, st.sampled_from(["cache", "database", "lake", "mixed"])),
    freshness=st.dictionaries(PARTS, st.none() | st.integers(0, 2**53)),
    completeness=st.dictionaries(
        st.sampled_from(Timeframe),
        st.builds(Completeness, st.integers(0, 9), st.integers(0, 9), st.lists(st.integers(0, 2**53)).map(tuple)),
    ),
)
WAYS: dict[str, Callable[[Any], Any]] = {
    "dict": lambda answer: type(answer).from_dict(answer.to_dict()),
    "json": lambda answer: type(answer).from_json(answer.to_json()),
    "arrow": lambda answer: type(answer).from_arrow(answer.to_arrow()),
    "pickle": lambda answer: pickle.loads(pickle.dumps(answer)),
}


def bits(answer: Serialised) -> Any:
    """Return every value with the type it has, floats by their bytes, so that 0.0 and -0.0 differ."""

    def of(value: Any) -> Any:
        if isinstance(value, float):
            return struct.pack("<d", value)
        if isinstance(value, list):
            return [of(one) for one in value]
        return type(value), value

    return {
        name: (frame.schema, [[of(value) for value in row] for row in frame.rows()])
        for name, frame in answer.frames().items()
    }


@settings(max_examples=40)
@given(book=books())
def test_a_book_comes_back_bit_for_bit(book: OrderBookDataFrame) -> None:
    for way in WAYS.values():
        again = way(book)
        assert again == book
        assert bits(again) == bits(book)
        assert repr(dict(again.imbalances)) == repr(dict(book.imbalances))


@settings(max_examples=40)
@given(answer=ANSWERS)
def test_an_answer_comes_back_bit_for_bit(answer: InferenceDataFrame) -> None:
    for way in WAYS.values():
        again = way(answer)
        assert again == answer
        assert bits(again) == bits(answer)
        assert again.head() == answer.head()


def answer(**others: Any) -> InferenceDataFrame:
    empty: dict[Any, Any] = {}
    parts: dict[str, Any] = dict.fromkeys(
        ("ohlcv", "indicators", "imbalances", "context", "sources", "freshness", "completeness"), empty
    )
    return InferenceDataFrame(
        **{"symbol": "BTCUSDT", "as_of_ms": AS_OF, "known_by_ms": None, "book": None} | parts | others
    )


def bars(open_time: int, **others: Any) -> pl.DataFrame:
    return pl.DataFrame({"open_time": [open_time], "close": [1.0]} | {name: [value] for name, value in others.items()})


def raw_book(**others: Any) -> OrderBookDataFrame:
    row: dict[str, list[Any]] = {
        "time_ms": [AS_OF - 5],
        "last_update_id": [7],
        "bid_price": [[100.0, 99.0]],
        "bid_quantity": [[2.0, 3.0]],
        "ask_price": [[101.0]],
        "ask_quantity": [[4.0]],
    }
    rows = pl.DataFrame(row | {name: [value] for name, value in others.items()}, schema=RAW)
    return OrderBookDataFrame("BTCUSDT", AS_OF, None, "raw", rows, {1: 0.5})


def test_an_answer_with_its_book_comes_back() -> None:
    whole = answer(book=raw_book(), sources={"book": "cache"})
    for way in WAYS.values():
        assert way(whole) == whole
        assert way(whole).book == whole.book
    assert whole != answer()


def test_a_bar_that_had_not_closed_is_refused_and_one_that_just_closed_is_not() -> None:
    minute = Timeframe.M1
    answer(ohlcv={minute: bars(AS_OF - minute.ms)})
    with pytest.raises(KnowsTooMuch, match=r"ohlcv\.1m holds a row of 1699999940001"):
        answer(ohlcv={minute: bars(AS_OF - minute.ms + 1)})
    with pytest.raises(KnowsTooMuch, match=r"indicators\.1m"):
        answer(indicators={minute: bars(AS_OF - minute.ms + 1)})
    answer(context={"1m": bars(AS_OF + 1)})


def test_a_version_recorded_later_than_the_knowledge_time_is_refused() -> None:
    late = bars(AS_OF - Timeframe.M1.ms, known_at_ms=AS_OF + 1)
    answer(ohlcv={Timeframe.M1: late})
    with pytest.raises(KnowsTooMuch, match="recorded at"):
        answer(ohlcv={Timeframe.M1: late}, known_by_ms=AS_OF)
    with pytest.raises(KnowsTooMuch, match=r"context\.1m"):
        answer(context={"1m": late}, known_by_ms=AS_OF)


def test_a_book_of_another_moment_or_symbol_is_refused() -> None:
    with pytest.raises(KnowsTooMuch):
        answer(book=raw_book(), as_of_ms=AS_OF - 1)
    with pytest.raises(KnowsTooMuch):
        answer(book=raw_book(), symbol="ETHUSDT")
    with pytest.raises(KnowsTooMuch):
        raw_book(time_ms=AS_OF + 1)


def test_the_newest_book_says_its_prices_and_volumes() -> None:
    book = raw_book()
    assert (book.time_ms, book.best_bid, book.best_ask, book.mid_price) == (AS_OF - 5, 100.0, 101.0, 100.5)
    assert (book.spread_bps, book.bid_volume, book.ask_volume) == (100.0, 5.0, 4.0)
    one_sided = raw_book(ask_price=[], ask_quantity=[])
    assert (one_sided.best_bid, one_sided.best_ask, one_sided.mid_price, one_sided.spread_bps) == (
        100.0,
        None,
        None,
        None,
    )
    none = OrderBookDataFrame("BTCUSDT", AS_OF, None, "raw", pl.DataFrame(schema=RAW), {})
    assert (none.time_ms, none.mid_price, none.bid_volume) == (None, None, None)
    seconds = OrderBookDataFrame(
        "BTCUSDT", AS_OF, None, "1s", pl.DataFrame([(AS_OF - 1_000, 3.0, 2.0, 1)], schema=SECONDS, orient="row"), {}
    )
    assert (seconds.mid_price, seconds.spread_bps) == (3.0, 2.0)


def test_nothing_of_an_answer_can_be_changed() -> None:
    frozen = answer(freshness={"book": 5})
    with pytest.raises(AttributeError):
        frozen.symbol = "ETHUSDT"  # type: ignore[misc]
    with pytest.raises(TypeError):
        frozen.freshness["book"] = 6  # type: ignore[index]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_what_is_no_number_is_not_written(number: float) -> None:
    for wrong in (answer(context={"1m": bars(0, volume=number)}), raw_book(bid_price=[number], bid_quantity=[1.0])):
        for write in (wrong.to_dict, wrong.to_json, wrong.to_arrow):
            with pytest.raises(NotSerialisable, match="NaN or infinity"):
                write()


def test_an_imbalance_that_is_no_number_is_not_written() -> None:
    wrong = answer(imbalances={1: float("nan")})
    for write in (wrong.to_dict, wrong.to_json, wrong.to_arrow):
        with pytest.raises(NotSerialisable, match="imbalance"):
            write()


def test_a_column_without_a_written_form_is_named() -> None:
    with pytest.raises(NotSerialisable, match=r"context\.1m: the column day is of kind Date"):
        answer(context={"1m": bars(0).with_columns(day=pl.lit(0).cast(pl.Date))}).to_json()


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"{}", b'{"kind":"OrderBookDataFrame"}', b'{"frames":3}', b'{"frames":{"a":{}}}', b"\xff", "é"]
)
def test_what_no_answer_wrote_is_refused(text: str | bytes) -> None:
    for kind in (InferenceDataFrame, OrderBookDataFrame):
        with pytest.raises(NotDeserialisable):
            kind.from_json(text)
        if isinstance(text, bytes):
            with pytest.raises(NotDeserialisable):
                kind.from_arrow(text)


def test_one_kind_is_not_read_as_another_nor_a_head_with_a_wrong_field() -> None:
    with pytest.raises(NotDeserialisable, match="expected InferenceDataFrame of format 1, found OrderBookDataFrame"):
        InferenceDataFrame.from_json(raw_book().to_json())
    with pytest.raises(NotDeserialisable, match="format 2"):
        OrderBookDataFrame.from_dict(raw_book().to_dict() | {"format": 2})
    with pytest.raises(NotDeserialisable, match="as_of_ms"):
        OrderBookDataFrame.from_dict(raw_book().to_dict() | {"as_of_ms": "soon"})


def test_pandas_rows_are_by_utc_time_and_unknown_integers_stay_integers() -> None:
    big = 2**53 + 1
    frame = pl.DataFrame(
        {"open_time": [0, 60_000], "close": [1.5, None], "trade_count": [big, None], "complete": [True, None]}
    )
    rows = answer(ohlcv={Timeframe.M1: frame}).to_pandas()["ohlcv.1m"]
    assert str(rows.index.dtype).endswith("UTC]")
    assert rows.index.name == "open_time"
    assert rows["trade_count"].iloc[0] == big
    assert rows["trade_count"].isna().tolist() == rows["close"].isna().tolist() == [False, True]
    assert str(rows["complete"].dtype) == "boolean"
    assert raw_book().to_pandas().index.name == "time"
    assert answer(book=raw_book()).to_polars()["book"].equals(raw_book().to_polars())


def test_a_source_of_several_is_mixed() -> None:
    assert answer().source is None
    assert answer(sources={"book": "lake", "ohlcv.1m": "lake"}).source == "lake"
    assert answer(sources={"book": "cache", "ohlcv.1m": "lake"}).source == "mixed"


def test_the_share_of_bars_that_are_there() -> None:
    assert Completeness(4, 3).share == 0.75
    assert Completeness(0, 0).share is None
