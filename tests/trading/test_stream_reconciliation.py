"""Sources compared by id: a difference is found and named, agreement is counted, and silence is no agreement."""

from itertools import pairwise

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from trading.market.trade import TRADE_SCHEMA, AggTrade, trades_frame
from trading.stream.contiguity import IdSpans, count_of, in_spans, spans_of
from trading.stream.reconciliation import Source, difference, merged, reconciled, sample_starts

Contents = dict[int, int]
"""Price by id."""

contents = st.dictionaries(st.integers(0, 30), st.integers(1, 3))


def frame(content: Contents) -> pl.DataFrame:
    return trades_frame([AggTrade(n, price, 1, n, n, n, False) for n, price in sorted(content.items())])


def content_of(trades: pl.DataFrame) -> Contents:
    return dict(trades.select("agg_trade_id", "price").rows())


def ids_of(spans: IdSpans) -> set[int]:
    return {n for first, last in spans for n in range(first, last + 1)}


@given(st.sets(st.integers(-50, 50)), st.integers(-60, 60))
def test_spans_hold_their_ids_and_no_other(ids: set[int], probe: int) -> None:
    spans = spans_of(sorted(ids))
    assert ids_of(spans) == ids and count_of(spans) == len(ids)
    assert all(b[0] - a[1] > 1 for a, b in pairwise(spans))
    assert bool(in_spans(pl.Series([probe]).to_numpy(), spans)[0]) == (probe in ids)


@given(contents, contents)
def test_a_difference_is_that_of_dictionaries(left: Contents, right: Contents) -> None:
    found = difference(frame(left), frame(right))
    assert found.only_left.tolist() == sorted(left.keys() - right.keys())
    assert found.only_right.tolist() == sorted(right.keys() - left.keys())
    assert found.unlike.tolist() == sorted(n for n in left.keys() & right.keys() if left[n] != right[n])


def test_trades_differ_by_any_field() -> None:
    trade = AggTrade(7, 1, 2, 3, 4, 5, False)
    for name in list(TRADE_SCHEMA)[1:]:
        here = trades_frame([trade])
        there = here.with_columns(~pl.col(name) if name == "buyer_is_maker" else pl.col(name) + 1)
        assert difference(here, there).ids.tolist() == [7], name


@given(contents, contents, st.sets(st.integers(0, 30)), st.sets(st.integers(0, 30)))
def test_the_archive_adds_and_renews_its_own_and_touches_nothing_else(
    published: Contents, stored: Contents, collected: set[int], before: set[int]
) -> None:
    collected &= stored.keys()
    merge = merged(frame(published), frame(stored), sorted(collected), spans_of(sorted(before)))
    after = stored | content_of(merge.trades)
    theirs = (before & stored.keys()) - collected
    assert ids_of(merge.added) == published.keys() - stored.keys()
    assert ids_of(merge.taken) == theirs | ids_of(merge.added)
    assert all(after[n] == published[n] for n in published.keys() & ids_of(merge.taken))
    assert all(after[n] == stored[n] for n in stored.keys() - theirs)
    assert ids_of(merge.kept) == {n for n in published.keys() & after.keys() if after[n] != published[n]}
    assert ids_of(merge.withdrawn) == theirs - published.keys()
    again = merged(frame(published), frame(after), sorted(collected), merge.taken)
    assert again.trades.is_empty() and again.taken == merge.taken


def source(name: str, content: Contents, *spans: tuple[int, int]) -> Source:
    return Source(name, frame(content), spans)


ALL = dict.fromkeys(range(10, 20), 1)


def test_three_sources_that_agree_are_equal() -> None:
    sources = [source(name, ALL, (10, 19)) for name in ("websocket", "rest", "archive")]
    verdict = reconciled(sources)
    assert (verdict.verdict, verdict.differing_rows, verdict.first_differing) == ("equal", 0, None)
    assert "websocket and rest agree on 10 ids" in verdict.reason


def test_a_difference_names_the_sources_and_the_ids() -> None:
    other = ALL | {13: 2, 14: 2, 17: 2}
    verdict = reconciled([source("websocket", ALL, (10, 19)), source("archive", other, (10, 19))])
    assert verdict.verdict == "differs"
    assert verdict.reason == "websocket and archive differ at 3 ids: 13…14, 17"
    assert (verdict.differing_rows, verdict.first_differing) == (3, 13)


def test_what_a_source_does_not_claim_is_not_held_against_it() -> None:
    page = {n: 1 for n in (12, 13, 14)}
    assert reconciled([source("websocket", ALL, (10, 19)), source("rest", page, (12, 14))]).verdict == "equal"
    lacking = {n: 1 for n in (12, 14)}
    verdict = reconciled([source("websocket", ALL, (10, 19)), source("rest", lacking, (12, 14))])
    assert (verdict.verdict, verdict.first_differing) == ("differs", 13)


def test_a_source_alone_is_not_comparable_and_the_others_say_why() -> None:
    verdict = reconciled([source("websocket", ALL, (10, 19)), Source.without("archive", "no archive is set")])
    assert verdict.verdict == "not_comparable"
    assert verdict.reason == "archive: no archive is set"


def test_sources_without_a_trade_in_common_are_not_comparable() -> None:
    verdict = reconciled([source("websocket", {10: 1}, (10, 10)), source("rest", {20: 1}, (20, 20))])
    assert verdict == ("not_comparable", "no two sources have a trade in common", 0, None)


@given(st.integers(0, 1000), st.integers(0, 5000))
def test_a_sample_has_the_ends_and_is_the_same_for_the_same_day(first: int, more: int) -> None:
    starts = sample_starts(((first, first + more),), 1000, "BTCUSDT|2026-11-01")
    assert starts == sample_starts(((first, first + more),), 1000, "BTCUSDT|2026-11-01")
    assert starts[0] == first and starts[-1] + 1000 > first + more
    assert all(first <= start <= first + more for start in starts) and len(starts) <= 5


def test_what_is_missing_between_is_asked_for() -> None:
    assert {5, 105} <= set(sample_starts(((0, 5), (8, 105), (200, 9000)), 1000, "a"))
