"""When the trades of a symbol are all there up to a moment."""

import pytest

from trading.market.trade import AggTrade
from trading.stream.contiguity import IdRange
from trading.stream.repair import PAGE, SETTLE_S, SymbolStream


def test_a_market_without_a_trade_lacks_none_at_the_moment_at_which_the_exchange_was_asked() -> None:
    stream = SymbolStream("BTCUSDT", (), 1_000, 5_000)
    fetch = stream.next_fetch(0.0)
    assert fetch is not None
    assert not stream.complete
    stream.fetched(fetch, 4_999, [], 0.0)
    assert not stream.complete
    again = stream.next_fetch(SETTLE_S)
    assert again is not None
    stream.fetched(again, 5_000, [], SETTLE_S)
    assert stream.complete
    assert stream.ledger.ranges == [], "nothing is proven by it"


def test_nothing_is_proven_beyond_what_was_wanted() -> None:
    stream = SymbolStream("BTCUSDT", (), 1_000, 5_000)
    now_s = 0.0
    for page in ([AggTrade(7, 1, 1, 7, 7, 4_000, False)], [], []):
        fetch = stream.next_fetch(now_s)
        assert fetch is not None
        assert not stream.complete
        stream.fetched(fetch, 9_000, page, now_s)
        now_s += SETTLE_S
    assert stream.complete
    assert (stream.ledger.ranges[0].proven_from_ms, stream.ledger.ranges[0].proven_until_ms) == (1_000, 5_000)


def trades(first: int, last: int) -> list[AggTrade]:
    return [AggTrade(number, 1, 1, number, number, 1_000 + number, False) for number in range(first, last + 1)]


def test_a_stream_that_goes_on_behind_a_page_of_a_busy_market_is_not_asked_after_again() -> None:
    stream = SymbolStream("BTCUSDT", (), 1_000)
    first = stream.next_fetch(0.0)
    assert first is not None
    stream.fetched(first, 9_000, trades(0, PAGE - 1), 0.0)
    behind = stream.next_fetch(0.1)
    assert behind is not None and behind.from_id == PAGE
    stream.take(trades(PAGE, PAGE + 10))
    stream.fetched(behind, 9_100, trades(PAGE, PAGE + 20), 0.2)
    assert stream.next_fetch(0.2) is None
    assert not stream.settled
    stream.take(trades(PAGE + 21, PAGE + 30))
    assert stream.next_fetch(0.2 + SETTLE_S) is None
    assert stream.settled


def test_a_page_that_ends_early_is_not_the_end() -> None:
    stream = SymbolStream("BTCUSDT", (), 1_000)
    first = stream.next_fetch(0.0)
    assert first is not None
    stream.fetched(first, 9_000, trades(0, 4), 0.0)
    behind = stream.next_fetch(0.1)
    assert behind is not None
    stream.fetched(behind, 9_100, trades(5, 9), 0.2)
    assert stream.next_fetch(0.2) is None
    again = stream.next_fetch(0.2 + SETTLE_S)
    assert again is not None and again.from_id == 10
    assert not stream.settled


@pytest.mark.parametrize(
    ("ranges", "from_id"),
    [
        ([], None),
        ([IdRange(50, 59, 5_000, 6_000)], None),  # ended before anything was proven of the time from 1,000 on
        ([IdRange(10, 59, 1_000, 6_000)], 60),
        ([IdRange(10, 59, 500, 6_000)], 60),
    ],
)
def test_the_time_from_the_wanted_moment_on_is_asked_for_until_it_is_proven(
    ranges: list[IdRange], from_id: int | None
) -> None:
    fetch = SymbolStream("BTCUSDT", ranges, since_ms=1_000).next_fetch(0.0)
    assert fetch is not None
    assert (fetch.from_id, fetch.since_ms if from_id is None else 1_000) == (from_id, 1_000)
