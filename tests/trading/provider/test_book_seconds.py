"""The seconds of a book are the same as it comes and afterwards, and a second of which nothing is known has none."""

from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.captures import frames
from trading.market.book import BOOK_SNAPSHOT_SCHEMA, BookSnapshot
from trading.market.instrument import Instrument
from trading.market.timeframe import DAY_MS, SECOND_MS
from trading.microstructure.l1 import l1_metrics
from trading.provider.book_seconds import (
    BOOK_1S_SCHEMA,
    BookSeconds,
    book_seconds,
    book_snapshots,
    imbalances_at,
    record_of,
)
from trading.provider.book_tops import BEST, FOLLOWING, VOLUMES
from trading.provider.validation import DataValidator
from trading.stream.book_recorder import BookRecord, BookRecorder
from trading.stream.events import DepthDiff, decode_depth_snapshot, decode_event

BTC = Instrument("binance", "BTCUSDT", "BTC", "USDT", 2, 5)
START = 19_000 * DAY_MS
Levels = list[tuple[int, int]]


def record(at: int, follows: bool, bids: Levels, asks: Levels) -> BookRecord:
    def side(levels: Levels) -> Any:
        return np.array(levels, np.int64).reshape(-1, 2)

    return BookRecord(follows, BookSnapshot(START + at, at, side(bids), side(asks)))


def told(rows: pl.DataFrame) -> list[tuple[int, int, float | None]]:
    return [
        ((t - START) // SECOND_MS, n, m) for t, n, m in rows.select("time_ms", "snapshots", "mid_price").iter_rows()
    ]


def test_a_book_stands_until_one_that_follows_it_and_not_over_a_missing_change() -> None:
    books = [
        record(500, False, [(100, 1)], [(200, 1)]),
        record(3_900, True, [(110, 1)], [(210, 1)]),
        record(6_000, False, [(120, 1)], [(220, 1)]),
        record(7_999, True, [(130, 1)], [(230, 1)]),
    ]
    assert told(book_seconds(books, BTC)) == [
        *[(0, 1, 1.5), (1, 0, 1.5), (2, 0, 1.5)],
        (3, 1, 1.6),
        *[(6, 1, 1.7), (7, 1, 1.8)],
    ]


def test_a_day_knows_nothing_of_the_day_before() -> None:
    end = DAY_MS - 2_500
    books = [record(end, False, [(100, 1)], [(200, 1)]), record(end + 5_000, True, [(110, 1)], [(210, 1)])]
    first, second = ((end + after) // SECOND_MS for after in (0, 5_000))
    assert told(book_seconds(books, BTC)) == [(first, 1, 1.5), (second, 1, 1.6)]


def test_the_last_of_several_books_of_a_second_stands() -> None:
    books = [record(at, at > 0, [(100 + at, 1)], [(2_000, 1)]) for at in (0, 100, 200, 1_500)]
    assert told(book_seconds(books, BTC)) == [(0, 3, 11.5), (1, 1, 18.0)]
    seconds = BookSeconds(BTC)
    assert [told(seconds.take([book]))[-1] for book in books] == [
        (0, 1, 10.5),
        (0, 2, 11.0),
        (0, 3, 11.5),
        (1, 1, 18.0),
    ]


def test_a_book_without_a_side_has_a_depth_and_no_price_between_and_a_crossed_one_is_none() -> None:
    books = [
        record(0, False, [(100, 150_000), (99, 50_000)], []),
        record(1_000, False, [(100, 1)], [(100, 1)]),
        record(2_000, True, [(99, 1)], [(100, 1)]),
    ]
    rows = book_seconds(books, BTC)
    assert told(rows) == [(0, 1, None), (2, 1, 0.995)]
    assert rows.select(*BEST, *VOLUMES).row(0) == (1.0, None, 1.5, 2.0, 2.0, 0.0, 0.0, 0.0)
    assert rows.select(FOLLOWING).row(0) == (None,) * 5
    assert rows.schema == book_seconds([], BTC).schema == pl.Schema(BOOK_1S_SCHEMA)


SIDES = st.lists(st.integers(1, 2**40), min_size=0, max_size=25)


@st.composite
def runs(draw: st.DrawFn) -> list[BookRecord]:
    at = draw(st.sampled_from([0, DAY_MS - 5_000]))
    books: list[BookRecord] = []
    for step, follows, bids, asks in draw(
        st.lists(st.tuples(st.integers(0, 4_000), st.booleans(), SIDES, SIDES), max_size=12)
    ):
        at += step
        books.append(
            record(at, follows, [(500 - n, q) for n, q in enumerate(bids)], [(501 + n, q) for n, q in enumerate(asks)])
        )
    return books


@settings(max_examples=60)
@given(runs(), st.data())
def test_books_as_they_come_give_the_seconds_of_all_at_once(books: list[BookRecord], data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.sets(st.integers(0, len(books)))) | {0, len(books)})
    seconds, came = BookSeconds(BTC), [pl.DataFrame(schema=BOOK_1S_SCHEMA)]
    came += [seconds.take(books[lo:hi]) for lo, hi in pairwise(cuts)]
    streamed = pl.concat(came).unique("time_ms", keep="last", maintain_order=True).sort("time_ms")
    assert streamed.equals(book_seconds(books, BTC))
    assert streamed["time_ms"].is_unique().all()


@settings(max_examples=40)
@given(runs())
def test_a_book_read_from_its_row_is_the_same_book(books: list[BookRecord]) -> None:
    rows = book_snapshots(books, BTC)
    again = [record_of(row, BTC, book.follows) for row, book in zip(rows.iter_rows(named=True), books, strict=True)]
    assert rows.schema == pl.Schema(BOOK_SNAPSHOT_SCHEMA)
    assert book_seconds(again, BTC).equals(book_seconds(books, BTC))


NUMBERS = st.lists(st.none() | st.floats(-1, 1), max_size=70)


@given(NUMBERS, st.integers(0, 80_000))
def test_an_imbalance_is_the_mean_of_the_closed_seconds_before_a_moment(values: list[float | None], after: int) -> None:
    rows = {"time_ms": [START + n * SECOND_MS for n in range(len(values))], "imbalance_20": values}
    means = imbalances_at(pl.DataFrame(rows, schema={"time_ms": pl.Int64, "imbalance_20": pl.Float64}), START + after)
    for window, mean in means.items():
        lo, hi = max(0, after // SECOND_MS - window), after // SECOND_MS
        known = [value for value in values[lo:hi] if value is not None]
        assert (mean is None) == (not known)
        assert mean is None or mean == pytest.approx(sum(known) / len(known), abs=1e-15)
    assert list(means) == [1, 5, 15, 60]


@settings(max_examples=20)
@given(st.permutations([0.1, -0.7, 0.3, 1e-17, -0.3, 0.9, 0.2]))
def test_the_order_of_the_seconds_does_not_change_the_last_bit_of_their_mean(values: list[float]) -> None:
    rows = pl.DataFrame({"time_ms": [START + n * SECOND_MS for n in range(7)], "imbalance_20": values})
    assert imbalances_at(rows, START + 7_000)[15] == float(sum(map(Fraction, values))) / 7


def recorded_books() -> list[BookRecord]:
    made = BookRecorder()
    for _, frame in frames("raw/binance_spot/btcusdt_20240808.gz"):
        if b'"lastUpdateId"' in frame[:30]:
            made.snapshot(decode_depth_snapshot(frame, BTC))
        elif b'"depthUpdate"' in frame:
            _, event = decode_event(frame, {"BTCUSDT": BTC}, 0) or ("", None)
            assert isinstance(event, DepthDiff)
            made.diff(event)
    return made.records


def test_seconds_of_a_recorded_book_say_what_its_top_says() -> None:
    books = recorded_books()
    rows = book_seconds(books, BTC)
    whole = rows.filter(pl.col("snapshots") > 0)
    assert len(whole) == len(books) == 247
    for row, book in zip(whole.iter_rows(named=True), books, strict=True):
        top = l1_metrics(book.book, BTC)
        for name in ("best_bid", "best_ask", "mid_price", "spread_bps", "bid_volume", "ask_volume"):
            assert row[name] == getattr(top, name), name
        assert row["imbalance_20"] == top.imbalance
        for depth, name in ((1, "_1"), (5, "_5"), (20, "")):
            bids, asks = (levels[:depth, 1].sum() for levels in (book.book.bids, book.book.asks))
            assert (row[f"bid_volume{name}"], row[f"ask_volume{name}"]) == (bids / 1e5, asks / 1e5)
            assert row[f"imbalance_{depth}"] == (bids - asks) / (bids + asks)
    snapshots = book_snapshots(books, BTC)
    check = DataValidator({"BTCUSDT"}, lambda: 0)
    assert check.books("BTCUSDT", snapshots).equals(snapshots)
