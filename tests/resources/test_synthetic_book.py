"""The synthetic order book, put together again from what it says of itself and compared with its trades."""

from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from resources.simulator.market import DepthChange
from resources.simulator.order_book import SyntheticBook
from resources.simulator.price_path import LISTED_MS, PricePath
from resources.simulator.synthetic import SyntheticMarket
from trading.market.timeframe import HOUR_MS, MINUTE_MS

BOOKS = st.tuples(
    st.sampled_from([0, 2**31 + 7]),
    st.sampled_from(["BTCUSDT", "ETHUSDT", "ADAUSDT", "XRPETH"]),
    st.sampled_from(["spot", "usdm"]),
    st.integers(LISTED_MS, LISTED_MS + 3 * 365 * 24 * HOUR_MS),
)
ALL = 5000


@cache
def market(seed: int, symbol: str, kind: str) -> SyntheticMarket:
    return SyntheticMarket(seed, [symbol], kind)


class Rebuilt:
    """A book as a client keeps it: two dictionaries, a number, and no opinion."""

    def __init__(self, update_id: int, bids: Any, asks: Any) -> None:
        self.update_id, self.bids, self.asks = update_id, dict(bids), dict(asks)

    def take(self, change: DepthChange) -> None:
        if change.last_id <= self.update_id:
            return
        assert change.first_id <= self.update_id + 1
        for side, levels in ((self.bids, change.bids), (self.asks, change.asks)):
            for price, quantity in levels:
                if quantity:
                    side[price] = quantity
                else:
                    side.pop(price, None)  # a level that came and went between two changes was never there
        self.update_id = change.last_id


@settings(max_examples=12)
@given(BOOKS, st.integers(0, MINUTE_MS), st.sampled_from([100, 250, 500, 1000]))
@example((0, "BTCUSDT", "spot", 1_763_043_374_000), 400, 1000)  # a price moves away and back within a second
def test_a_snapshot_and_the_changes_after_it_are_every_later_book(
    which: tuple[int, str, str, int], asked_ms: int, period_ms: int
) -> None:
    *name, start_ms = which
    start_ms -= start_ms % 1000
    book = market(*name).book(name[1])
    rebuilt = Rebuilt(*(book.depth(start_ms + asked_ms, ALL)[place] for place in (0, 2, 3)))
    changes = book.changes(start_ms, start_ms + 2 * MINUTE_MS, period_ms)
    assert [c.time_ms for c in changes] == list(range(start_ms + period_ms, start_ms + 2 * MINUTE_MS + 1, period_ms))
    for before, change in pairwise(changes):
        assert change.first_id == before.last_id + 1
    for change in changes:
        rebuilt.take(change)
        assert max(rebuilt.bids) < min(rebuilt.asks)
    last = book.depth(start_ms + 2 * MINUTE_MS - 1, ALL)
    assert rebuilt.update_id == last.update_id
    assert sorted(rebuilt.bids.items(), reverse=True) == last.bids
    assert sorted(rebuilt.asks.items()) == last.asks


@settings(max_examples=12)
@given(BOOKS)
def test_each_trade_happens_at_a_best_price_and_leaves_less_there(which: tuple[int, str, str, int]) -> None:
    *name, start_ms = which
    one = market(*name)
    trades = one.trades(name[1], start_ms, start_ms + 10 * MINUTE_MS)
    quotes = {
        row["order"]: row
        for row in one.book(name[1]).quotes(start_ms - MINUTE_MS, start_ms + 11 * MINUTE_MS).to_dicts()
    }
    for trade in trades.to_dicts():
        before, after = quotes[3 * trade["agg_trade_id"]], quotes[3 * trade["agg_trade_id"] + 2]
        assert before["time_ms"] <= trade["time_ms"] == after["time_ms"]
        assert before["update_id"] < after["update_id"]
        side = "bid" if trade["buyer_is_maker"] else "ask"
        assert before[side] == after[side] == trade["price"]
        assert before[f"{side}_quantity"] - after[f"{side}_quantity"] == trade["quantity"]
        assert before["bid"] < before["ask"]


@settings(max_examples=12)
@given(BOOKS)
def test_best_prices_of_one_number_are_the_books(which: tuple[int, str, str, int]) -> None:
    *name, start_ms = which
    book = market(*name).book(name[1])
    quotes = book.quotes(start_ms, start_ms + 5 * MINUTE_MS).to_dicts()
    assert [q["update_id"] for q in quotes] == sorted({q["update_id"] for q in quotes})
    depths = {d.update_id: d for d in book.depths(start_ms, start_ms + 5 * MINUTE_MS, 100, 5)}
    shared = [quote for quote in quotes if quote["update_id"] in depths]
    assert len(shared) > 200
    for quote in shared:
        depth = depths[quote["update_id"]]
        assert depth.bids[0] == (quote["bid"], quote["bid_quantity"])
        assert depth.asks[0] == (quote["ask"], quote["ask_quantity"])


@settings(max_examples=6)
@given(BOOKS)
def test_two_books_of_one_number_are_one(which: tuple[int, str, str, int]) -> None:
    *name, start_ms = which
    book = market(*name).book(name[1])
    books = {}
    for moved_ms in book.quotes(start_ms + 1, start_ms + MINUTE_MS)["time_ms"]:
        for at in (moved_ms - 1, moved_ms):
            depth = book.depth(at, ALL)
            assert books.setdefault(depth.update_id, depth[2:]) == depth[2:]


def test_fills_are_the_trades_in_parts() -> None:
    one = market(3, "BTCUSDT", "spot")
    trades = one.trades("BTCUSDT", LISTED_MS, LISTED_MS + HOUR_MS)
    fills = one.fills("BTCUSDT", LISTED_MS, LISTED_MS + HOUR_MS)
    ids = fills["trade_id"].to_list()
    assert ids == list(range(trades["first_trade_id"][0], trades["last_trade_id"][-1] + 1))
    assert fills["quantity"].min() > 0
    assert (
        fills.group_by("agg_trade_id", maintain_order=True).sum()["quantity"].to_list() == trades["quantity"].to_list()
    )


def test_the_first_book_of_a_market_has_no_minute_before_it() -> None:
    book = SyntheticBook(PricePath(1, "BTCUSDT"))
    assert book.depth(LISTED_MS, 5).bids
    assert len(book.changes(LISTED_MS, LISTED_MS + 1000, 100)) == 10


@pytest.mark.parametrize("symbol", ["BTCUSDT", "ADAUSDT"])
def test_a_contract_keeps_to_its_index_and_funds_every_eight_hours(symbol: str) -> None:
    contract = market(5, symbol, "usdm").derivatives(symbol)
    times = np.arange(LISTED_MS, LISTED_MS + 40 * HOUR_MS, 60_000, dtype=np.int64)
    marks, indices = contract.mark_prices(times), contract.index_prices(times)
    assert (abs(marks - indices) < indices // 1000).all()
    assert (marks != indices).any()
    fundings = contract.fundings(LISTED_MS, LISTED_MS + 40 * HOUR_MS)
    assert [t // (8 * HOUR_MS) - LISTED_MS // (8 * HOUR_MS) for t in fundings["time_ms"]] == [0, 1, 2, 3, 4]
    assert (fundings["time_ms"] % (8 * HOUR_MS) < 18).all()
    # The rate announced until just before a funding is the one that is settled.
    announced = contract.funding_rates(fundings["time_ms"].to_numpy() // (8 * HOUR_MS) * (8 * HOUR_MS) - 1)
    assert (abs(announced - fundings["rate"].to_numpy()) <= 1).all()
    assert (contract.open_interest(times) > 0).all()
