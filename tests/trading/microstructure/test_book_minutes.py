"""Minutes of order books: each second counts once, and one that is not known counts nowhere."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trading.microstructure.captured import RECORDED, capture
from tests.trading.microstructure.made import BTC, book
from trading.market.book import BookSnapshot
from trading.market.timeframe import DAY_MS, MINUTE_MS, SECOND_MS
from trading.microstructure.book_minutes import BOOK_MINUTE_SCHEMA, SLIPPAGES, book_minutes
from trading.microstructure.l1 import l1_metrics
from trading.stream.book_recorder import BookRecord

MIDNIGHT = 1_700_006_400_000


def at(second: int, follows: bool = True, bid: int = 99, ask: int = 101, after_ms: int = 350) -> BookRecord:
    made = book([(bid, 10)], [(ask, 30)])
    return BookRecord(follows, BookSnapshot(MIDNIGHT + second * SECOND_MS + after_ms, 1, made.bids, made.asks))


def test_a_book_holds_until_one_that_follows_and_for_its_own_second_before_one_that_does_not() -> None:
    minutes = book_minutes([at(1, False), at(55), at(65), at(100, False), at(118)], BTC)
    assert minutes["minute"].to_list() == [MIDNIGHT, MIDNIGHT + MINUTE_MS]
    assert minutes["seconds"].to_list() == [59, 6 + 19]


def test_no_book_holds_over_midnight_so_that_a_day_alone_is_the_day_among_others() -> None:
    records = [at(86_390, False), at(86_397), at(86_403), at(86_470)]
    whole = book_minutes(records, BTC)
    assert whole["seconds"].to_list() == [8, 57, 11]
    days = [book_minutes([r for r in records if r.second_ms // DAY_MS == d], BTC) for d in range(19676, 19678)]
    assert whole.equals(days[0].vstack(days[1]))


def test_means_weigh_each_second_alike_and_prices_are_of_the_last_book() -> None:
    minutes = book_minutes([at(0, False), at(30, bid=100, ask=104), at(59, bid=100, ask=101)], BTC)
    assert minutes["spread_bps"][0] == pytest.approx((30 * 10_000 * 2 / 99 + 29 * 10_000 * 4 / 100 + 100) / 60)
    assert minutes["spread_bps_max"][0] == 400
    assert minutes["imbalance"][0] == -0.5
    assert (minutes["best_bid"][0], minutes["best_ask"][0]) == (1.0, 1.01)
    assert minutes["buy_10k_bps"][0] is None, "a book of 30 lots does not fill it"


def test_what_a_book_lacks_is_null_and_not_zero() -> None:
    empty = np.empty((0, 2), np.int64)
    bids = book([(99, 10)], []).bids
    moment = MIDNIGHT + 350
    one_sided = BookRecord(False, BookSnapshot(moment, 1, bids, empty))
    crossed = BookRecord(False, BookSnapshot(moment + 60_000, 2, bids, bids))
    minutes = book_minutes([one_sided, crossed], BTC)
    assert minutes["seconds"].to_list() == [1, 1]
    for name in ("spread_bps", "spread_bps_max", "imbalance", "mid_price", "microprice", *SLIPPAGES[::2]):
        assert minutes[name].to_list() == [None, None], name
    assert minutes["bid_volume"].to_list() == [0.0001, 0.0001]
    assert minutes["ask_volume"].to_list() == [None, 0.0001]
    assert minutes["best_bid"].to_list() == [0.99, None]


def test_of_no_book_nothing_is_known() -> None:
    assert book_minutes([], BTC).is_empty()
    assert dict(book_minutes([], BTC).schema) == BOOK_MINUTE_SCHEMA


@given(st.integers(1, 50))
def test_any_gap_before_a_book_that_does_not_follow_leaves_one_second_of_the_one_before(gap: int) -> None:
    assert book_minutes([at(0, False), at(gap, False)], BTC)["seconds"].sum() == 2


@pytest.mark.parametrize("name", RECORDED)
def test_genuine_minutes_are_the_means_of_their_seconds_metrics(name: str) -> None:
    recorded = capture(name)
    records = [BookRecord(n > 0, snapshot) for n, snapshot in enumerate(recorded.snapshots)]
    minutes = book_minutes(records, recorded.instrument)
    assert len(minutes) >= 5
    for row in minutes.iter_rows(named=True):
        inside = [r.book for r in records if row["minute"] <= r.book.time_ms < row["minute"] + MINUTE_MS]
        metrics = [l1_metrics(one, recorded.instrument) for one in inside]
        last = metrics[-1]
        assert (row["best_bid"], row["microprice"]) == (last.best_bid, last.microprice)
        assert [row[name] for name in SLIPPAGES] == [order.slippage_bps for order in last.slippage]
        assert row["spread_bps_max"] == max(one.spread_bps or 0 for one in metrics)
        if row["seconds"] == len(metrics):
            for measure in ("spread_bps", "imbalance", "bid_volume"):
                assert row[measure] == pytest.approx(np.mean([getattr(one, measure) for one in metrics]))
