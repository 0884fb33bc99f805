"""Seconds of books that are kept as integers come back as the floats they were, to the program and to who asks in SQL."""

from typing import Any

import asyncpg
import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.timescale.book_tops import TOPS, packed, unpacked
from resources.timescale.counted import NotStorable
from resources.timescale.store import MarketStore
from resources.timescale.tables import BOOK_1S
from tests.trading.provider.test_book_seconds import BTC, START, recorded_books
from trading.market.book import BookSnapshot
from trading.market.instrument import Instrument
from trading.market.timeframe import SECOND_MS
from trading.provider.book_seconds import BOOK_1S_SCHEMA, book_seconds
from trading.provider.book_tops import BEST, FOLLOWING, VOLUMES, completed
from trading.stream.book_recorder import BookRecord

FLOATS = [*BEST, *VOLUMES, *FOLLOWING]


@st.composite
def books(draw: st.DrawFn) -> tuple[Instrument, list[BookRecord]]:
    """Books of any depth, whose sides may be empty, of an instrument with any steps."""
    instrument = Instrument("sim", "TOPUSDT", "TOP", "USDT", draw(st.integers(0, 8)), draw(st.integers(0, 8)))
    records = []
    for n in range(draw(st.integers(1, 6))):
        bid = draw(st.integers(100, 10 ** draw(st.integers(3, 12))))
        spread = draw(st.integers(1, 10 ** draw(st.integers(0, 12))))
        sides = []
        for best, step in ((bid, -1), (bid + spread, 1)):
            lots = draw(st.lists(st.integers(1, 10 ** draw(st.integers(1, 13))), max_size=25))
            sides.append(
                np.array([(best + step * level, lot) for level, lot in enumerate(lots)], np.int64).reshape(-1, 2)
            )
        records.append(BookRecord(False, BookSnapshot(START + n * SECOND_MS, n, *sides)))
    return instrument, records


def kept_in(seconds: pl.DataFrame) -> pl.DataFrame:
    return pl.DataFrame(packed(seconds)).select(list(TOPS.columns))


def as_read(rows: pl.DataFrame) -> dict[str, Any]:
    return {column.name: column.fill_null(0).to_numpy() for column in rows}


@given(books())
def test_seconds_come_back_bit_for_bit_and_alone_as_among_others(made: tuple[Instrument, list[BookRecord]]) -> None:
    seconds = book_seconds(made[1], made[0])
    rows = kept_in(seconds)
    assert [kept_in(seconds[n]).row(0) for n in range(len(seconds))] == rows.rows()
    back = pl.DataFrame(unpacked(as_read(rows))).select(FLOATS)
    assert back.equals(seconds.select(FLOATS))
    assert back.fill_null(7.0).to_numpy().tobytes() == seconds.select(FLOATS).fill_null(7.0).to_numpy().tobytes()


def test_what_follows_is_what_the_book_itself_says_however_far_apart_its_sides_are() -> None:
    """Ticks of eight decimals times 10,000 are more than a float tells apart; the row, in fewer, says the same."""
    book = BookSnapshot(START, 1, np.array([[100_000_000, 5]]), np.array([[10**15 + 700_000_000, 10**15]]))
    seconds = book_seconds([BookRecord(False, book)], Instrument("sim", "FARUSDT", "FAR", "USDT", 8, 8))
    assert unpacked(as_read(kept_in(seconds)))["spread_bps"].to_list() == seconds["spread_bps"].to_list()
    assert seconds["spread_bps"].item() == 10_000.0 * (10**7 + 6)


def test_recorded_seconds_are_small_integers_and_the_view_shows_their_floats(market: MarketStore) -> None:
    seconds = book_seconds(recorded_books(), BTC)
    one_sided = completed(
        seconds.head(3).with_columns(best_bid=pl.Series([None, None, 1.5]), best_ask=pl.Series([None, 2.5, None]))
    )
    seconds = pl.concat([one_sided, seconds[3:]])
    rows = kept_in(seconds)
    assert rows["price_decimals"].max() == 2 and rows["quantity_decimals"].max() == 5
    symbol = Instrument("sim", "TOPSUSDT", "TOPS", "USDT", 2, 5)
    market.register([symbol])
    lo_ms, hi_ms = int(seconds["time_ms"][0]), int(seconds["time_ms"][-1]) + 1
    assert market.write(BOOK_1S, symbol.name, seconds, lo_ms, hi_ms).inserted == len(seconds)
    assert market.write(BOOK_1S, symbol.name, seconds, lo_ms, hi_ms).changed == 0
    assert market.read(BOOK_1S, symbol.name, lo_ms, hi_ms).drop("known_at_ms").equals(seconds.drop("known_at_ms"))
    names = [*FLOATS, "snapshots"]
    query = f"SELECT {', '.join(names)} FROM md.book_1s JOIN md.symbol USING (symbol_id) WHERE name = $1 ORDER BY time"
    assert [tuple(row) for row in market.fetch(query, symbol.name)] == seconds.select(names).rows()
    later = seconds.with_columns(pl.col("snapshots") + 1)
    market.write(BOOK_1S, symbol.name, later, lo_ms, hi_ms, recorded_at_ms=hi_ms + SECOND_MS)
    former = query.replace("book_1s", "book_1s_revision")
    assert [tuple(row) for row in market.fetch(former, symbol.name)] == seconds.select(names).rows()


def second(**others: float | None) -> pl.DataFrame:
    tops = {"best_bid": 1.0, "best_ask": 1.5, **dict.fromkeys(VOLUMES, 2.0), **others}
    row = {"time_ms": START, **tops, "snapshots": 1, "known_at_ms": None}
    return completed(pl.DataFrame([row], BOOK_1S_SCHEMA))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -0.0, 1 / 3, 1e-13, 2.0**53])
@pytest.mark.parametrize("column", ["best_bid", "bid_volume_1", "ask_volume"])
def test_what_is_no_multiple_of_any_step_is_refused(column: str, number: float) -> None:
    with pytest.raises(NotStorable, match=f"book second {START} has a price or volume of more than 12 decimals"):
        packed(second(**{column: number}))


@pytest.mark.parametrize("column", BEST)
def test_a_price_of_nothing_is_no_empty_side(column: str) -> None:
    with pytest.raises(NotStorable, match="has a price or volume"):
        packed(second(**{column: 0.0}))


@pytest.mark.parametrize("column", FOLLOWING)
def test_what_does_not_follow_is_refused_and_not_stored_as_something_else(column: str) -> None:
    for value in (None, float("nan"), -0.0, second()[column].item() + 1e-9):
        with pytest.raises(NotStorable, match=f"book second {START} says what does not follow"):
            packed(second().with_columns(pl.lit(value, pl.Float64).alias(column)))
    one_sided = second(best_ask=None)
    assert one_sided[column].item() is None and packed(one_sided)
    with pytest.raises(NotStorable, match="does not follow"):
        packed(one_sided.with_columns(pl.lit(float("nan")).alias(column)))


@pytest.mark.parametrize(
    "others",
    [
        {"best_ask": 1.0},
        {"best_bid": -1.0},
        {"best_bid": None, "best_ask": -1.0},
        {"bid_volume_1": 3.0},
        {"ask_volume": -2.0},
    ],
)
def test_the_database_takes_no_crossed_second_and_none_whose_depth_falls(
    market: MarketStore, others: dict[str, float | None]
) -> None:
    market.register([Instrument("sim", "FALLSUSDT", "FALLS", "USDT", 2, 5)])
    with pytest.raises(asyncpg.CheckViolationError):
        market.write(BOOK_1S, "FALLSUSDT", second(**others), START, START + 1)
