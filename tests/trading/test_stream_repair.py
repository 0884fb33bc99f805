"""When the trades of a symbol are all there up to a moment."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from trading.market.trade import AggTrade
from trading.stream.contiguity import IdRange
from trading.stream.repair import GRACE_S, LONGEST_SILENCE_S, PAGE, SETTLE_S, SHORTEST_SILENCE_S, Fetch, SymbolStream


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
    for page in [[AggTrade(7, 1, 1, 7, 7, 4_000, False)]] * 4:
        fetch = stream.next_fetch(now_s)
        assert fetch is not None
        assert not stream.complete
        stream.fetched(fetch, 9_000, page, now_s)
        now_s += SETTLE_S
    assert stream.complete
    assert (stream.ledger.ranges[0].proven_from_ms, stream.ledger.ranges[0].proven_until_ms) == (1_000, 5_000)


def trades(first: int, last: int) -> list[AggTrade]:
    return [AggTrade(number, 1, 1, number, number, 1_000 + number, False) for number in range(first, last + 1)]


def begin(stream: SymbolStream, known: list[AggTrade]) -> None:
    """Let a stream begin with the first trades that are known."""
    for _ in range(2):
        fetch = stream.next_fetch(0.0)
        assert fetch is not None and fetch.from_id is None
        stream.fetched(fetch, 9_000, known[: fetch.limit], 0.0)


def test_a_beginning_is_believed_when_two_answers_in_turn_give_it() -> None:
    stream = SymbolStream("BTCUSDT", (), 1_000)
    for page, proven in (((2, 9), False), ((0, 0), False), ((1, 1), False), ((0, 0), False), ((0, 0), True)):
        fetch = stream.next_fetch(0.0)
        assert fetch is not None and fetch.from_id is None
        stream.fetched(fetch, 9_000, trades(*page), 0.0)
        assert (stream.ledger.ranges[0].proven_from_ms == 1_000) == proven


def test_a_stream_that_goes_on_behind_a_page_of_a_busy_market_is_not_asked_after_again() -> None:
    stream = SymbolStream("BTCUSDT", (), 1_000)
    begin(stream, trades(0, PAGE - 1))
    behind = stream.next_fetch(0.1)
    assert behind is not None and behind.from_id == PAGE - 1
    stream.take(trades(PAGE, PAGE + 10))
    stream.fetched(behind, 9_100, trades(PAGE - 1, PAGE + 20), 0.2)
    assert stream.next_fetch(0.2) is None
    assert not stream.settled
    stream.take(trades(PAGE + 21, PAGE + 30))
    assert stream.next_fetch(0.2 + SETTLE_S) is None
    assert stream.settled


def test_a_page_that_ends_early_is_not_the_end() -> None:
    stream = SymbolStream("BTCUSDT", (), 1_000)
    begin(stream, trades(0, 4))
    behind = stream.next_fetch(0.1)
    assert behind is not None
    stream.fetched(behind, 9_100, trades(4, 9), 0.2)
    assert stream.next_fetch(0.2) is None
    again = stream.next_fetch(0.2 + SETTLE_S)
    assert again is not None and again.from_id == 9
    assert not stream.settled


@pytest.mark.parametrize(
    ("ranges", "from_id"),
    [
        ([], None),
        ([IdRange(50, 59, 5_000, 6_000)], None),  # ended before anything was proven of the time from 1,000 on
        ([IdRange(10, 59, 1_000, 6_000)], 59),
        ([IdRange(10, 59, 500, 6_000)], 59),
    ],
)
def test_the_time_from_the_wanted_moment_on_is_asked_for_until_it_is_proven(
    ranges: list[IdRange], from_id: int | None
) -> None:
    fetch = SymbolStream("BTCUSDT", ranges, since_ms=1_000).next_fetch(0.0)
    assert fetch is not None
    assert (fetch.from_id, fetch.since_ms if from_id is None else 1_000) == (from_id, 1_000)


def with_holes(missing: set[int], last: int) -> tuple[SymbolStream, float]:
    """Return a stream that lacks some ids before `last` and has known so for long enough to ask for them."""
    stream = SymbolStream("BTCUSDT", [IdRange(0, 0, 1_000, 1_000)], since_ms=1_000)
    stream.take([trade for trade in trades(1, last) if trade.agg_trade_id not in missing])
    stream.next_fetch(0.0)
    stream.refused(Fetch("BTCUSDT", 0, 0), 0.0)
    return stream, GRACE_S


@given(
    st.sets(st.integers(1, 4 * PAGE - 1), min_size=1, max_size=60), st.sets(st.integers(1, 4 * PAGE - 1), max_size=3)
)
@example({2}, {1})  # what is left of the hole ends elsewhere
def test_a_page_fills_every_hole_that_it_reaches_and_two_pages_name_what_is_absent(
    missing: set[int], never: set[int]
) -> None:
    stream, now_s = with_holes(missing | never, 4 * PAGE)
    source = [trade for trade in trades(0, 4 * PAGE) if trade.agg_trade_id not in never]
    pages = 0
    while stream.ledger.open_holes():
        now_s += SETTLE_S
        fetch = stream.next_fetch(now_s)
        assert fetch is not None and fetch.hole and fetch.from_id is not None
        page = [trade for trade in source if trade.agg_trade_id >= fetch.from_id][: fetch.limit]
        stream.fetched(fetch, 9_000, page, now_s)
        pages += 1
    assert pages <= 4 + 2 * len(never)
    assert [number for first, last in stream.ledger.holes() for number in range(first, last + 1)] == sorted(never)
    assert sum(fill.last_id - fill.first_id + 1 for fill in stream.fills) == len(missing - never)


def test_a_hole_that_the_stream_fills_while_it_is_asked_for_is_no_harm() -> None:
    stream, now_s = with_holes({5}, 9)
    fetch = stream.next_fetch(now_s)
    assert fetch is not None and fetch.hole
    stream.take(trades(5, 5))
    assert stream.next_fetch(now_s + 0.25) is None
    stream.fetched(fetch, 9_000, trades(5, 5), now_s + 0.3)
    assert not stream.ledger.holes() and not stream.fills


def test_each_hole_of_a_page_says_how_long_it_was_open() -> None:
    stream, now_s = with_holes({5}, 9)
    stream.take(trades(12, 12))
    stream.next_fetch(now_s - 0.1)  # too soon for the second hole to be asked for by itself
    stream.refused(Fetch("BTCUSDT", 5, 0), now_s - 0.1)
    fetch = stream.next_fetch(now_s + 1.0)
    assert fetch == Fetch("BTCUSDT", 5, 0, 7, hole=True)
    stream.fetched(fetch, 9_000, trades(5, 11), now_s + 1.5)
    assert [(fill.first_id, fill.last_id, fill.waited_ms) for fill in stream.fills] == [(5, 5, 2_000), (10, 11, 1_600)]


def ended(known: list[AggTrade]) -> SymbolStream:
    """Return a stream that holds trades 0 … 4, asked for a minute what follows of an exchange that knows some trades."""
    stream = SymbolStream("BTCUSDT", (), 1_000)
    begin(stream, trades(0, 4))
    for quarter in range(1, 240):
        fetch = stream.next_fetch(quarter / 4)
        if fetch is not None and fetch.from_id is not None:
            page = [trade for trade in known if trade.agg_trade_id >= fetch.from_id]
            stream.fetched(fetch, 90_000 + quarter, page, quarter / 4)
    return stream


def test_an_end_is_believed_only_of_an_exchange_that_knows_the_trade_before_it() -> None:
    assert ended(trades(0, 4)).ledger.ranges[-1].proven_until_ms > 90_000
    anew = [AggTrade(number, 1, 1, number, number, 80_000 + number, False) for number in range(3)]
    for known in ([], anew):
        stream = ended(known)
        assert stream.ledger.ranges[-1].proven_until_ms == 1_004
        assert not stream.settled


def test_ids_that_began_anew_and_have_come_further_are_known_by_the_time_of_the_last_one() -> None:
    anew = [AggTrade(number, 1, 1, number, number, 80_000 + number, False) for number in range(9)]
    stream = ended(anew)
    assert stream.relisted and stream.ledger.next_id == 5
    assert stream.ledger.ranges[-1].proven_until_ms == 1_004


def test_trades_are_there_up_to_the_first_hole_that_the_exchange_may_fill() -> None:
    ranges = [IdRange(1, 2, 1_000, 1_002), IdRange(5, 6, 1_006, 1_006, True), IdRange(9, 9, 1_010, 1_010)]
    assert SymbolStream("BTCUSDT", ranges, 1_000).proven_until_ms == 1_006
    assert SymbolStream("BTCUSDT", ranges[:2], 1_000).proven_until_ms == 1_006
    assert SymbolStream("BTCUSDT", ranges[:1], 1_000).proven_until_ms == 1_002


def test_before_the_beginning_is_known_trades_are_there_up_to_nowhere() -> None:
    stream = SymbolStream("BTCUSDT", (), 1_000)
    stream.take(trades(3, 4))
    assert stream.proven_until_ms == 0
    begin(stream, trades(0, 4))
    assert stream.proven_until_ms == 1_004


def test_a_market_that_is_silent_for_a_month_is_asked_after_ever_more_rarely_and_never_given_up() -> None:
    stream = SymbolStream("BTCUSDT", (), 1_000)
    stream.heard(0.0)
    looked_s = [0.0]
    for now_s in range(30 * 86_400):
        if stream.silent(now_s):
            stream.look(now_s)
            looked_s.append(now_s)
    pauses = [after - before for before, after in pairwise(looked_s)]
    assert pauses[0] == SHORTEST_SILENCE_S + 1 and pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_SILENCE_S + 1
