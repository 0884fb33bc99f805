"""A row that cannot have happened is refused with its reason, the same one alone and in a batch."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.recorded import recorded
from trading.market.book import BOOK_SNAPSHOT_SCHEMA
from trading.market.candle import CANDLE_SCHEMA, native_candles
from trading.market.instrument import LARGEST
from trading.market.timeframe import Timeframe
from trading.market.trade import TRADE_SCHEMA
from trading.provider.book_seconds import BOOK_1S_SCHEMA
from trading.provider.book_tops import FOLLOWING, completed
from trading.provider.pipeline import Series
from trading.provider.rules import SECONDS, Reason, Row
from trading.provider.validation import LAST_ROWS, DataValidator, RefusedRow
from trading.stream.wire import MAX_AHEAD_MS

NOW = 1_700_000_040_000
BAR: dict[str, Any] = {
    "open_time": NOW - 60_000,
    "open": 2.0,
    "high": 4.0,
    "low": 1.0,
    "close": 3.0,
    "volume": 5.0,
    "quote_volume": 12.0,
    "trade_count": 3,
    "first_agg_trade_id": 7,
    "last_agg_trade_id": 9,
    "source": "trades",
    "complete": True,
    "n_present": 1,
    "n_expected": 1,
    "known_at_ms": None,
}
TRADE: dict[str, Any] = {
    "agg_trade_id": 9,
    "price": 100,
    "quantity": 5,
    "first_trade_id": 11,
    "last_trade_id": 12,
    "time_ms": NOW,
    "buyer_is_maker": False,
}
BOOK: dict[str, Any] = {
    "time_ms": NOW,
    "last_update_id": 7,
    "bid_price": [99.0, 98.0],
    "bid_quantity": [1.0, 2.0],
    "ask_price": [100.0, 101.0],
    "ask_quantity": [1.0, 2.0],
    "known_at_ms": None,
}
TOPS: dict[str, Any] = {
    "best_bid": 99.98,
    "best_ask": 100.0,
    "bid_volume_1": 0.1,
    "bid_volume_5": 1.5,
    "bid_volume": 20.25,
    "ask_volume_1": 0.2,
    "ask_volume_5": 0.2,
    "ask_volume": 7.0,
}
SECOND: dict[str, Any] = {"time_ms": NOW, "snapshots": 1, "known_at_ms": None} | completed(pl.DataFrame(TOPS)).row(
    0, named=True
)
NAN, INFINITY = float("nan"), float("inf")
BadRows = list[tuple[Reason, dict[str, Any]]]
BAD_BARS: BadRows = [
    (Reason.WRONG_TYPE, {"open": "2.0"}),
    (Reason.WRONG_TYPE, {"open": True}),
    (Reason.WRONG_TYPE, {"trade_count": 2**63}),
    (Reason.WRONG_TYPE, {"n_present": 2**31}),
    (Reason.WRONG_TYPE, {"open_time": float(NOW)}),
    (Reason.MISSING, {"open": None}),
    (Reason.MISSING, {"complete": None}),
    (Reason.NOT_FINITE, {"high": INFINITY}),
    (Reason.NOT_FINITE, {"quote_volume": NAN}),
    (Reason.BAD_TIME, {"open_time": NOW // 1_000}),
    (Reason.BAD_TIME, {"open_time": NOW * 1_000}),
    (Reason.BAD_TIME, {"open_time": 10**13}),
    (Reason.BAD_TIME, {"known_at_ms": 2**62}),
    (Reason.FUTURE_TIME, {"open_time": NOW + MAX_AHEAD_MS + 60_000}),
    (Reason.OFF_GRID, {"open_time": NOW - 59_000}),
    (Reason.BAD_IDS, {"first_agg_trade_id": 10}),
    (Reason.BAD_IDS, {"first_agg_trade_id": -1}),
    (Reason.BAD_IDS, {"last_agg_trade_id": LARGEST}),
    (Reason.NOT_POSITIVE, {"low": 0.0}),
    (Reason.NOT_POSITIVE, {"close": -3.0}),
    (Reason.NEGATIVE_VOLUME, {"volume": -1.0}),
    (Reason.NEGATIVE_VOLUME, {"trade_count": -1}),
    (Reason.HIGH_BELOW_LOW, {"high": 0.5}),
    (Reason.OUTSIDE_RANGE, {"close": 4.5}),
    (Reason.OUTSIDE_RANGE, {"open": 0.5}),
    (Reason.UNKNOWN_SOURCE, {"source": "rumour"}),
    (Reason.BAD_COUNTS, {"n_present": 2}),
    (Reason.BAD_COUNTS, {"n_expected": 0, "n_present": 0}),
]
BAD_TRADES: BadRows = [
    (Reason.WRONG_TYPE, {"buyer_is_maker": 1}),
    (Reason.MISSING, {"price": None}),
    (Reason.BAD_TIME, {"time_ms": 0}),
    (Reason.FUTURE_TIME, {"time_ms": NOW + MAX_AHEAD_MS + 1}),
    (Reason.BAD_IDS, {"agg_trade_id": -1}),
    (Reason.BAD_IDS, {"first_trade_id": 13}),
    (Reason.NOT_POSITIVE, {"price": 0}),
    (Reason.NEGATIVE_VOLUME, {"quantity": -1}),
    (Reason.TOO_LARGE, {"quantity": LARGEST}),
]
BAD_BOOKS: BadRows = [
    (Reason.WRONG_TYPE, {"bid_price": 99.0}),
    (Reason.WRONG_TYPE, {"bid_price": [99.0, "98"]}),
    (Reason.MISSING, {"ask_price": None}),
    (Reason.MISSING, {"ask_price": [100.0, None]}),
    (Reason.NOT_FINITE, {"ask_quantity": [1.0, NAN]}),
    (Reason.BAD_TIME, {"time_ms": 5}),
    (Reason.BAD_TIME, {"known_at_ms": -1}),
    (Reason.FUTURE_TIME, {"time_ms": NOW + MAX_AHEAD_MS + 1}),
    (Reason.BAD_IDS, {"last_update_id": -1}),
    (Reason.UNEVEN_SIDES, {"bid_quantity": [1.0]}),
    (Reason.NOT_POSITIVE, {"bid_quantity": [1.0, 0.0]}),
    (Reason.UNSORTED_BOOK, {"bid_price": [98.0, 99.0]}),
    (Reason.UNSORTED_BOOK, {"ask_price": [100.0, 100.0]}),
    (Reason.CROSSED_BOOK, {"bid_price": [100.0, 98.0]}),
]
BAD_SECONDS: BadRows = [
    (Reason.WRONG_TYPE, {"best_bid": "99"}),
    (Reason.MISSING, {"bid_volume_5": None}),
    (Reason.NOT_FINITE, {"imbalance_1": NAN}),
    (Reason.NOT_FINITE, {"best_ask": INFINITY}),
    (Reason.BAD_TIME, {"time_ms": 5}),
    (Reason.FUTURE_TIME, {"time_ms": NOW + MAX_AHEAD_MS + 1_000}),
    (Reason.OFF_GRID, {"time_ms": NOW - 1}),
    (Reason.NOT_POSITIVE, {"best_bid": 0.0}),
    (Reason.NEGATIVE_VOLUME, {"ask_volume_1": -0.1}),
    (Reason.BAD_COUNTS, {"snapshots": -1}),
    (Reason.CROSSED_BOOK, {"best_bid": 100.0}),
    (Reason.FALLING_DEPTH, {"bid_volume_5": 0.05}),
    (Reason.FALLING_DEPTH, {"ask_volume": 0.1}),
    (Reason.DOES_NOT_FOLLOW, {"mid_price": 99.990001}),
    (Reason.DOES_NOT_FOLLOW, {"spread_bps": None}),
    (Reason.DOES_NOT_FOLLOW, {"imbalance_5": SECOND["imbalance_5"] + 1e-15}),
    (Reason.DOES_NOT_FOLLOW, {"imbalance_20": 0.5}),
    (Reason.DOES_NOT_FOLLOW, {"ask_volume": 7.00001}),
    (Reason.DOES_NOT_FOLLOW, {"best_bid": None}),
    (Reason.DOES_NOT_FOLLOW, {"bid_volume": 100 / 3}),
]
NO_BALANCE: dict[str, Any] = dict.fromkeys(FOLLOWING)
FINE: list[tuple[str, dict[str, Any]]] = [
    ("bar", {}),
    ("bar", {"volume": 0.0, "quote_volume": None, "trade_count": None, "first_agg_trade_id": None}),
    ("bar", {"open": 2, "volume": 5}),
    ("bar", {"first_agg_trade_id": 9}),
    ("bar", {"open_time": NOW + MAX_AHEAD_MS - 60_000}),
    ("trade", {"quantity": 0}),
    ("trade", {"time_ms": np.int64(NOW)}),
    ("trade", {"time_ms": NOW + MAX_AHEAD_MS}),
    ("book", {"bid_price": [], "bid_quantity": []}),
    ("book", {"bid_price": [99], "bid_quantity": (1,)}),
    ("second", {"snapshots": 0, "known_at_ms": NOW + 5}),
    ("second", NO_BALANCE | {"best_ask": None}),
    ("second", NO_BALANCE | {"best_bid": None, "ask_volume": 8}),
]
ROWS = {
    "bar": (BAR, CANDLE_SCHEMA),
    "trade": (TRADE, TRADE_SCHEMA),
    "book": (BOOK, BOOK_SNAPSHOT_SCHEMA),
    "second": (SECOND, BOOK_1S_SCHEMA),
}


class Kept:
    """A quarantine in memory."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, Reason, Row]] = []

    def keep(self, kind: str, symbol: str, refused: Iterable[tuple[Reason, Row]]) -> None:
        self.rows += [(kind, symbol, reason, row) for reason, row in refused]


def validator(now: int = NOW, kept: Kept | None = None) -> DataValidator:
    return DataValidator({"BTCUSDT"}, lambda: now, kept)


def alone(check: DataValidator, kind: str, row: Row) -> Reason | None:
    ask: dict[str, Callable[[], None]] = {
        "bar": lambda: check.candle("BTCUSDT", Timeframe.M1, row),
        "trade": lambda: check.trade("BTCUSDT", row),
        "book": lambda: check.book("BTCUSDT", row),
        "second": lambda: check._check(SECONDS, "BTCUSDT", row),
    }
    try:
        ask[kind]()
    except RefusedRow as refused:
        return refused.reason
    return None


def batched(check: DataValidator, kind: str, rows: pl.DataFrame) -> pl.DataFrame:
    if kind == "bar":
        return check.candles("BTCUSDT", "1m", rows)
    if kind == "second":
        return check.rows(Series("book_1s", "BTCUSDT"), rows)
    return check.trades("BTCUSDT", rows) if kind == "trade" else check.books("BTCUSDT", rows)


@pytest.mark.parametrize(
    ("kind", "reason", "change"),
    [("bar", *case) for case in BAD_BARS]
    + [("trade", *case) for case in BAD_TRADES]
    + [("book", *case) for case in BAD_BOOKS]
    + [("second", *case) for case in BAD_SECONDS],
)
def test_each_impossible_row_is_refused_counted_and_kept(kind: str, reason: Reason, change: dict[str, Any]) -> None:
    kept = Kept()
    check, row = validator(kept=kept), ROWS[kind][0] | change
    assert alone(check, kind, row) is reason
    ((_, symbol, why, same),) = kept.rows
    assert (symbol, why, same) == ("BTCUSDT", reason, row)
    assert [name for _, name in check.refused] == [reason]
    assert check.checked.total() == check.refused.total() == 1
    if reason is not Reason.WRONG_TYPE:
        assert batched(check, kind, pl.DataFrame([row], ROWS[kind][1])).is_empty()
        assert check.refused.total() == len(kept.rows) == 2
        assert len(check.refused) == 1


@pytest.mark.parametrize(("kind", "change"), FINE)
def test_odd_rows_that_may_happen_are_accepted_as_they_are(kind: str, change: dict[str, Any]) -> None:
    check, (row, schema) = validator(), ROWS[kind]
    assert alone(check, kind, row | change) is None
    frame = pl.DataFrame([row | change], schema)
    assert batched(check, kind, frame).equals(frame)
    assert not check.refused


def test_columns_that_may_be_unknown_may_be_absent_and_others_not() -> None:
    check = validator()
    bar = pl.DataFrame([BAR], CANDLE_SCHEMA).drop("known_at_ms", "quote_volume")
    assert batched(check, "bar", bar).schema == pl.Schema(CANDLE_SCHEMA)
    assert batched(check, "bar", bar.drop("volume")).is_empty()
    assert batched(check, "bar", bar.with_columns(pl.col("open").cast(pl.String))).is_empty()
    assert alone(check, "bar", {name: BAR[name] for name in BAR if name != "volume"}) is Reason.MISSING
    assert check.refused == {("candle", Reason.MISSING): 2, ("candle", Reason.WRONG_TYPE): 1}


def changed(kind: str, cases: BadRows) -> st.SearchStrategy[dict[str, Any]]:
    """Return rows with values of several bad rows, so that more than one rule is broken, and a few of our own."""
    fits = [change for reason, change in cases if reason is not Reason.WRONG_TYPE]
    others = {
        "bar": {"open": st.floats(), "high": st.floats(0), "volume": st.floats(), "open_time": st.integers(-1, 2**45)},
        "trade": {
            "price": st.integers(-1, 2**62),
            "quantity": st.integers(-1, 2**62),
            "time_ms": st.integers(0, 2**45),
        },
        # Of as many decimals as an exchange writes: others no table of books holds, and they become dead letters.
        "book": {
            "bid_price": st.lists(st.none() | st.floats(90, 110).map(lambda price: round(price, 8)), max_size=3),
            "ask_quantity": st.lists(
                st.floats(-1, 1e6).map(lambda lots: round(lots, 8))
                | st.sampled_from([NAN, float("inf"), float("-inf")])
            ),
        },
        "second": {
            "best_bid": st.none() | st.floats(90, 110).map(lambda price: round(price, 3)),
            "imbalance_1": st.none() | st.floats(),
            "bid_volume_5": st.floats() | st.sampled_from([0.1, 1.5, 20.25]),
        },
    }[kind]
    return st.builds(
        lambda bad, own: ROWS[kind][0] | {name: value for one in bad for name, value in one.items()} | own,
        st.lists(st.sampled_from(fits), max_size=2),
        st.fixed_dictionaries({}, optional=others),
    )


@settings(max_examples=60)
@pytest.mark.parametrize(
    ("kind", "cases"), [("bar", BAD_BARS), ("trade", BAD_TRADES), ("book", BAD_BOOKS), ("second", BAD_SECONDS)]
)
@given(data=st.data())
def test_a_row_gets_one_verdict_alone_and_in_a_batch(kind: str, cases: BadRows, data: st.DataObject) -> None:
    rows = data.draw(st.lists(changed(kind, cases), min_size=1, max_size=6))
    now = data.draw(st.sampled_from([0, NOW]))
    single, batch, kept = validator(now), validator(now), Kept()
    batch._quarantine = kept
    verdicts = [alone(single, kind, row) for row in rows]
    frame = pl.DataFrame(rows, ROWS[kind][1])
    accepted = batched(batch, kind, frame)
    assert [reason for _, _, reason, _ in kept.rows] == [reason for reason in verdicts if reason]
    assert accepted.equals(frame.filter(pl.Series([reason is None for reason in verdicts])))
    assert (single.refused, single.checked) == (batch.refused, batch.checked)
    assert single.refused_share == batch.refused_share


def test_unknown_symbols_and_timeframes_are_refused_whatever_the_row() -> None:
    check, bar = validator(), pl.DataFrame([BAR], CANDLE_SCHEMA)
    for timeframe, symbol, reason in (
        ("7m", "BTCUSDT", Reason.UNKNOWN_TIMEFRAME),
        ("1m", "DOGE", Reason.UNKNOWN_SYMBOL),
    ):
        with pytest.raises(RefusedRow) as refused:
            check.candle(symbol, timeframe, BAR)
        assert refused.value.reason is reason
        assert check.candles(symbol, timeframe, bar).is_empty()
        assert check.refused["candle", reason] == 2


def test_without_a_clock_no_time_is_too_late() -> None:
    assert alone(validator(now=0), "trade", TRADE | {"time_ms": 9_999_999_999_999}) is None


def test_an_alarm_rises_above_a_share_of_the_last_rows_and_falls_again() -> None:
    check, bad = validator(), TRADE | {"price": 0}
    for _ in range(99):
        alone(check, "trade", bad)
    assert not check.alarmed
    alone(check, "trade", bad)
    assert check.alarmed
    good = pl.DataFrame([TRADE] * LAST_ROWS, TRADE_SCHEMA)
    check.trades("BTCUSDT", good[:-10])
    assert check.refused_share == 10 / LAST_ROWS
    assert not check.alarmed
    alone(check, "trade", TRADE)
    assert check.refused_share == 9 / LAST_ROWS
    check.trades("BTCUSDT", pl.concat([good, pl.DataFrame([bad] * 20, TRADE_SCHEMA), good[:900]]))
    assert check.refused_share == 20 / LAST_ROWS
    assert check.alarmed


def bars_of(path: str, time: str = "timestamp") -> pl.DataFrame:
    frame = pl.read_parquet(recorded(path))
    times = frame[time]
    number = times.cast(pl.Int64) if times.dtype.is_integer() else times.dt.timestamp("ms")
    return native_candles(
        frame.select(
            number.alias("open_time"),
            *(pl.col(name).cast(pl.Float64, strict=False) for name in ("open", "high", "low", "close", "volume")),
            quote_volume=None,
            trade_count=None,
            known_at_ms=None,
        )
    )


@pytest.mark.parametrize(
    ("folder", "refused"),
    [
        ("high_lt_low", {Reason.HIGH_BELOW_LOW: 3}),
        ("close_outside", {Reason.OUTSIDE_RANGE: 2}),
        ("negative_volume", {Reason.NEGATIVE_VOLUME: 2}),
        ("nan_inf", {Reason.MISSING: 2, Reason.NOT_FINITE: 1}),
        ("off_grid", {Reason.OFF_GRID: 1_463}),
        ("mixed_units", {Reason.BAD_TIME: 700}),
        ("epoch_us", {Reason.BAD_TIME: 1_463}),
        ("future", {Reason.FUTURE_TIME: 1_463}),
        ("gap", {}),
        ("unsorted", {}),
    ],
)
def test_damaged_files_lose_just_their_bad_rows(folder: str, refused: dict[Reason, int]) -> None:
    check = DataValidator({"BTCUSDT"}, lambda: 1_800_000_000_000)
    rows = bars_of(f"parquet_cache_bad/{folder}/BTCUSDT_1h.parquet")
    accepted = check.candles("BTCUSDT", Timeframe.H1, rows)
    assert check.refused == {("candle", reason): number for reason, number in refused.items()}
    assert len(accepted) == len(rows) - sum(refused.values())


def test_real_bars_are_accepted_those_without_volume_too() -> None:
    frame = pl.read_ipc(recorded("klines/binance_spot/BTC_USDT-3m.feather"))
    rows = native_candles(
        frame.select(
            pl.col("date").dt.timestamp("ms").alias("open_time"),
            pl.col("open", "high", "low", "close", "volume").cast(pl.Float64),
            quote_volume=None,
            trade_count=None,
            known_at_ms=None,
        )
    )
    check = validator()
    assert check.candles("BTCUSDT", "3m", rows).equals(rows)
    assert len(rows) == 145_973
    assert rows.filter(volume=0).height == 24
    times = rows["open_time"].to_numpy()
    assert np.all(times < NOW)
