"""Versions of derivatives data: what was known when, what is news, and what is held of a day."""

from itertools import pairwise

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trading.market.derivative_coverage import FEWEST, LONGEST_MS, day_coverage
from trading.market.derivatives import (
    DERIVATIVE_SCHEMA,
    AssetContext,
    Funding,
    OpenInterest,
    as_known,
    funding_rows,
    mark_rows,
    news,
    open_interest_rows,
)
from trading.market.timeframe import DAY_MS, HOUR_MS, MINUTE_MS
from trading.stream.events import MarkPrice
from trading.stream.usdm import LATE_MS, minute_marks

DAY = 1_700_006_400_000 // DAY_MS * DAY_MS
NOW = DAY + 2 * DAY_MS


def test_rows_say_what_each_kind_says_and_null_for_the_rest() -> None:
    interest = open_interest_rows([OpenInterest(DAY, 1.5, 9.0)], NOW).row(0)
    assert interest == ("open_interest", DAY, NOW, 1.5, 9.0, None, None, None)
    assert funding_rows([Funding(DAY, -0.1)], NOW).row(0) == ("funding", DAY, NOW, None, None, -0.1, None, None)
    marks = mark_rows([AssetContext(DAY, mark_price=5.0, index_price=6.0), AssetContext(mark_price=5.0)], NOW)
    assert marks.rows() == [("mark", DAY, NOW, None, None, None, 5.0, 6.0)]
    assert funding_rows([], NOW).schema == DERIVATIVE_SCHEMA


def test_nothing_is_known_before_it_happened() -> None:
    assert funding_rows([Funding(NOW + 7, 0.1)], NOW)["known_at_ms"].to_list() == [NOW + 7]


VALUE = st.sampled_from([0.0, 0.0001, -0.0001])
SAYINGS = st.lists(st.lists(st.tuples(st.integers(0, 4), VALUE, st.none() | VALUE), max_size=5), max_size=6)


@given(SAYINGS, st.integers(-1, 7))
def test_what_was_known_by_a_moment_is_what_had_been_said_last_by_then(
    sayings: list[list[tuple[int, float, float | None]]], known_by: int
) -> None:
    """A venue is asked again and again and may change its mind; the model is a dictionary for each moment."""
    held = pl.DataFrame(schema=DERIVATIVE_SCHEMA)
    told: dict[int, tuple[float, float | None]] = {}
    by_moment = {-1: dict(told)}
    for moment, saying in enumerate(sayings):
        found = funding_rows([Funding(DAY + t, rate, mark) for t, rate, mark in saying], NOW + moment)
        added = news(held, found)
        said = {DAY + t: (rate, mark) for t, rate, mark in saying}
        assert set(added["time_ms"]) == {t for t, value in said.items() if told.get(t) != value}
        assert news(pl.concat([held, added]), found).is_empty()
        held = pl.concat([held, added])
        told |= said
        by_moment[moment] = dict(told)
    then = by_moment[min(known_by, len(sayings) - 1)] if sayings else {}
    for rows, expected in ((as_known(held, NOW + known_by), then), (as_known(held), told)):
        seen = {t: (rate, mark) for t, rate, mark in rows.select("time_ms", "funding_rate", "mark_price").rows()}
        assert seen == expected
        assert len(rows) == len(seen)


def grid(step: int, offset: int = 0) -> list[int]:
    return list(range(DAY + offset, DAY + DAY_MS, step))


@pytest.mark.parametrize(
    ("kind", "times", "now", "served", "state"),
    [
        ("open_interest", grid(5 * MINUTE_MS), NOW, True, "available"),
        ("open_interest", grid(5 * MINUTE_MS)[:100] + grid(5 * MINUTE_MS)[101:], NOW, True, "degraded"),
        ("open_interest", grid(5 * MINUTE_MS)[1:], NOW, True, "degraded"),
        ("open_interest", grid(5 * MINUTE_MS)[:-1], NOW, True, "degraded"),
        ("open_interest", grid(5 * MINUTE_MS), NOW, False, "available"),
        ("open_interest", [], NOW, True, "empty"),
        ("open_interest", [], NOW, False, "missing"),
        ("open_interest", [DAY - 1, DAY + DAY_MS], NOW, True, "empty"),
        ("open_interest", [], DAY + HOUR_MS, True, "pending"),
        ("open_interest", grid(5 * MINUTE_MS), DAY + DAY_MS - 1, True, "pending"),
        ("open_interest", grid(5 * MINUTE_MS), DAY + DAY_MS, True, "available"),
        ("open_interest", [], DAY - DAY_MS, True, "pending"),
        ("funding", grid(8 * HOUR_MS, 17), NOW, True, "available"),
        ("funding", grid(4 * HOUR_MS, 3), NOW, True, "available"),
        ("funding", grid(8 * HOUR_MS)[:2], NOW, True, "degraded"),
        ("mark", grid(15 * MINUTE_MS, 40_000), NOW, False, "available"),
        ("mark", grid(15 * MINUTE_MS, 40_000)[::2], NOW, False, "degraded"),
        ("mark", [], NOW, False, "missing"),
    ],
)
def test_a_day_says_what_is_held_of_it(kind: str, times: list[int], now: int, served: bool, state: str) -> None:
    day = day_coverage(kind, DAY, times[::-1], now, served)
    assert day.state == state
    assert day.values == sum(DAY <= time < DAY + DAY_MS for time in times)
    assert (day.longest_gap_ms is None) == (day.values == 0)


@given(
    st.lists(st.integers(DAY, DAY + DAY_MS - 1), min_size=1, max_size=300, unique=True),
    st.sampled_from(list(LONGEST_MS)),
)
def test_a_day_is_available_when_no_minute_of_it_is_too_far_from_a_value(times: list[int], kind: str) -> None:
    edges = sorted({DAY, *times, DAY + DAY_MS})
    gap = max(b - a for a, b in pairwise(edges))
    day = day_coverage(kind, DAY, times, NOW, True)
    assert day.longest_gap_ms == gap
    assert day.state == ("available" if gap <= LONGEST_MS[kind] and len(times) >= FEWEST[kind] else "degraded")


def test_the_last_mark_price_of_a_minute_counts_once_the_minute_is_over() -> None:
    start = 1_760_000_040_000
    marks = [MarkPrice(start + 1000 * n, 1.0 + n, 2.0, 0.5, start) for n in (0, 58, 59, 60, 61)]
    over_ms = start + MINUTE_MS + LATE_MS
    assert minute_marks(marks, over_ms - 1) == []
    (first,) = minute_marks(marks, over_ms)
    assert (first.time_ms, first.mark_price, first.index_price) == (start + 59_000, 60.0, 2.0)
    assert (first.funding_rate, first.next_funding_time_ms, first.open_interest) == (0.5, start, None)
    assert [mark.time_ms for mark in minute_marks(marks, over_ms + MINUTE_MS)] == [start + 59_000, start + 61_000]
    assert minute_marks([], over_ms) == []
