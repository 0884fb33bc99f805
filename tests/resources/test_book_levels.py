"""Books that are kept as integers come back as the floats they were, to the program and to who asks in SQL."""

from decimal import Decimal
from typing import Any

import asyncpg
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.timescale.book_levels import LEVELS, packed, unpacked
from resources.timescale.counted import NotStorable
from resources.timescale.store import MarketStore
from resources.timescale.tables import BOOK_SNAPSHOT
from tests.trading.provider.test_book_seconds import BTC, recorded_books
from trading.market.book import BOOK_SNAPSHOT_SCHEMA
from trading.market.instrument import Instrument
from trading.provider.book_seconds import book_snapshots

SIDES = ("bid_price", "bid_quantity", "ask_price", "ask_quantity")
Side = tuple[list[float], list[float]]


@st.composite
def sides(draw: st.DrawFn) -> Side:
    """Prices and quantities of one side, in any order: who is to see to that is not who keeps them."""
    levels = draw(st.integers(0, 20))

    def numbers(digits: int) -> list[float]:
        decimals = draw(st.integers(0, 12))
        units = draw(st.lists(st.integers(1, 10**digits), min_size=levels, max_size=levels))
        return [float(Decimal(unit).scaleb(-decimals)) for unit in units]

    return numbers(draw(st.integers(1, 9))), numbers(draw(st.integers(1, 9)))


def frame(books: list[tuple[Side, Side]]) -> pl.DataFrame:
    rows = [(n, n, *bid, *ask, None) for n, (bid, ask) in enumerate(books)]
    return pl.DataFrame(rows, schema=BOOK_SNAPSHOT_SCHEMA, orient="row")


def kept_in(books: pl.DataFrame) -> pl.DataFrame:
    return pl.DataFrame(packed(books)).select(list(LEVELS.columns))


def as_read(rows: pl.DataFrame) -> dict[str, Any]:
    return {column.name: column if column.dtype == pl.List else column.fill_null(0).to_numpy() for column in rows}


@given(st.lists(st.tuples(sides(), sides()), max_size=6))
def test_books_come_back_bit_for_bit_and_alone_as_among_others(books: list[tuple[Side, Side]]) -> None:
    # Nine digits above and twelve decimals below are more than a float holds; then the row is refused, and no other.
    kept = []
    for book in books:
        try:
            kept.append((book, kept_in(frame([book])).row(0)))
        except NotStorable as refusal:
            assert "more digits" in str(refusal)
    whole = frame([book for book, _ in kept])
    rows = kept_in(whole)
    assert rows.rows() == [row for _, row in kept]
    assert pl.DataFrame(unpacked(as_read(rows))).select(SIDES).equals(whole.select(SIDES))


@pytest.mark.parametrize("number", [float("nan"), float("inf"), 1 / 3, 1e-13, 2.0**53, 1e300])
@pytest.mark.parametrize("column", SIDES)
def test_what_is_no_multiple_of_any_step_is_refused(column: str, number: float) -> None:
    book = frame([(([1.0, 0.5], [1.0, 2.0]), ([2.0, 3.0], [1.0, 2.0]))])
    with pytest.raises(NotStorable):
        packed(book.with_columns(pl.Series(column, [[1.0, number]])))


def test_a_recorded_book_is_small_integers_and_the_view_shows_its_floats(market: MarketStore) -> None:
    books = book_snapshots(recorded_books(), BTC)
    rows = packed(books)
    assert rows["price_decimals"].unique().to_list() == [2] and rows["quantity_decimals"].unique().to_list() == [5]
    assert rows["bid_steps"].explode().drop_nulls().max() < 0 < rows["ask_steps"].explode().drop_nulls().min()
    symbol = Instrument("sim", "LEVELSUSDT", "LEVELS", "USDT", 2, 5)
    market.register([symbol])
    lo_ms, hi_ms = int(books["time_ms"][0]), int(books["time_ms"][-1]) + 1
    assert market.write(BOOK_SNAPSHOT, symbol.name, books, lo_ms, hi_ms).inserted == len(books)
    assert market.write(BOOK_SNAPSHOT, symbol.name, books, lo_ms, hi_ms).changed == 0
    assert market.read(BOOK_SNAPSHOT, symbol.name, lo_ms, hi_ms).drop("known_at_ms").equals(books.drop("known_at_ms"))
    query = f"SELECT {', '.join(SIDES)} FROM md.book_snapshot JOIN md.symbol USING (symbol_id) WHERE name = $1 ORDER BY time"
    assert [tuple(row) for row in market.fetch(query, symbol.name)] == books.select(SIDES).rows()


@pytest.mark.parametrize(
    ("column", "levels"),
    [("ask_price", [0.5, 3.0]), ("bid_price", [-1.0, -2.0]), ("bid_quantity", [1.0]), ("ask_price", [])],
)
def test_the_database_takes_no_crossed_book_and_none_out_of_step(
    market: MarketStore, column: str, levels: list[float]
) -> None:
    market.register([Instrument("sim", "CROSSEDUSDT", "CROSSED", "USDT", 2, 5)])
    book = frame([(([1.0, 0.5], [1.0, 2.0]), ([2.0, 3.0], [1.0, 2.0]))]).with_columns(pl.Series(column, [levels]))
    with pytest.raises(asyncpg.CheckViolationError):
        market.write(BOOK_SNAPSHOT, "CROSSEDUSDT", book, 0, 1)
