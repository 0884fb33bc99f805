"""Rows leave the buffers once, in order, one version of a fact at a time, and never more wait than may."""

from typing import NamedTuple

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trading.provider.pipeline import Batch, Buffers, PipelineFull, Receipt, Series


class Table(NamedTuple):
    name: str = "bars"
    key: tuple[str, ...] = ("at",)
    schema: dict[str, type[pl.DataType]] = {"at": pl.Int64, "value": pl.Int64}  # noqa: RUF012


BARS = Table()
SERIES = [Series("bars", symbol) for symbol in "ABC"]
STEPS = st.one_of(
    st.tuples(st.just("row"), st.sampled_from(SERIES), st.integers(0, 5)),
    st.tuples(st.just("frame"), st.sampled_from(SERIES), st.lists(st.integers(0, 9), max_size=9)),
    st.tuples(st.just("wait"), st.floats(0.0, 0.5), st.none()),
    st.tuples(st.just("take"), st.booleans(), st.none()),
    st.tuples(st.just("keep"), st.none(), st.none()),
)


@given(st.lists(STEPS, max_size=60))
def test_each_row_leaves_once_in_order_and_beside_no_other_version_of_itself(steps: list[tuple]) -> None:
    buffers, now_s, number = Buffers(most_rows=20, flush_rows=4, flush_age_s=0.25), 0.0, 0
    came: dict[Series, list[tuple[int, int]]] = {series: [] for series in SERIES}
    left: dict[Series, list[tuple[int, int]]] = {series: [] for series in SERIES}
    under_way: list[Batch] = []
    receipts: list[Receipt] = []

    def take(all_of_them: bool) -> bool:
        batch = buffers.due(now_s, all_of_them)
        if batch is None:
            return False
        assert batch.series not in [other.series for other in under_way]
        assert 0 < len(batch.frame) <= 4 and batch.frame["at"].is_unique().all()
        under_way.append(batch)
        return True

    def keep() -> None:
        batch = under_way.pop(0)
        left[batch.series] += batch.frame.rows()
        buffers.kept(batch)

    for what, one, other in steps:
        if what in ("row", "frame"):
            times = [other] if what == "row" else other
            rows = [(at, number + i) for i, at in enumerate(times)]
            number += len(rows)
            whole = pl.DataFrame(rows, schema=BARS.schema, orient="row")
            if buffers.rows + len(rows) > 20:
                with pytest.raises(PipelineFull):
                    buffers.add(BARS, one, whole, 7, now_s)
                continue
            receipts.append(buffers.add(BARS, one, whole.row(0, named=True) if what == "row" else whole, 7, now_s))
            came[one] += rows
        elif what == "wait":
            now_s += one
        elif what == "take":
            take(one)
        elif under_way:
            keep()
        assert buffers.rows == sum(len(came[s]) - len(left[s]) for s in SERIES) <= buffers.most_seen <= 20
        for receipt in receipts:
            assert buffers.is_kept(receipt) == (len(left[receipt.series]) >= receipt.number)
    while under_way or take(True):
        if not take(True):
            keep()
    assert came == left and all(map(buffers.is_kept, receipts))


def test_a_batch_is_due_when_it_is_large_or_old_enough_and_the_oldest_first() -> None:
    buffers = Buffers(flush_rows=2, flush_age_s=0.25)
    row = {"at": 1, "value": 1}
    buffers.add(BARS, SERIES[0], row, 10, now_s=0.0)
    assert buffers.due(0.24) is None
    buffers.add(BARS, SERIES[1], row, 11, now_s=0.1)
    buffers.add(BARS, SERIES[1], row | {"at": 2}, 12, now_s=0.2)
    large = buffers.due(0.2)
    assert large is not None and (large.series, len(large.frame), large.recorded_at_ms) == (SERIES[1], 2, 12)
    old = buffers.due(0.25)
    assert old is not None and (old.series, old.recorded_at_ms) == (SERIES[0], 10)
    assert buffers.due(9.0, all_of_them=True) is None


@given(st.lists(st.integers(0, 3), max_size=12), st.booleans())
def test_what_is_not_kept_comes_in_order_what_is_under_way_first(times: list[int], taken: bool) -> None:
    buffers = Buffers(flush_rows=4)
    rows = [(at, number) for number, at in enumerate(times)]
    buffers.add(BARS, SERIES[0], pl.DataFrame(rows, schema=BARS.schema, orient="row"), 7, 0.0)
    if taken:
        buffers.due(9.0)
    assert [row for batch in buffers.unkept() for row in batch.frame.rows()] == rows
    assert buffers.rows == 0


def test_the_halves_of_a_batch_are_its_rows_in_order() -> None:
    batch = Batch(SERIES[0], pl.DataFrame({"at": range(7), "value": range(7)}), 9)
    first, second = batch.halves()
    assert pl.concat([first.frame, second.frame]).equals(batch.frame)
    assert len(first.frame) == 3 and second.recorded_at_ms == 9
