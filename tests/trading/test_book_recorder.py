"""A record is the book at the end of its second, and says whether nothing is missing before it."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.captures import frames
from tests.trading.test_book_sync import depth, diff
from trading.market.book import BookSnapshot
from trading.market.instrument import Instrument
from trading.stream.book_recorder import BookRecord, BookRecorder, content, record_of
from trading.stream.book_sync import BookSync, Reason
from trading.stream.events import DepthDiff, DepthSnapshot, decode_depth_snapshot, decode_event

BTC = Instrument("binance", "BTCUSDT", "BTC", "USDT", 2, 5)


def recorder() -> BookRecorder:
    made = BookRecorder()
    made.snapshot(depth(10))
    return made


def told(made: BookRecorder) -> list[tuple[int, bool, int]]:
    return [(r.second_ms % 100_000, r.follows, r.book.last_update_id) for r in made.records]


def test_a_second_is_recorded_when_a_later_one_has_begun_and_silence_is_no_record() -> None:
    made = recorder()
    for last, at in ((11, 100), (12, 900), (13, 1_000), (14, 4_500), (15, 4_600)):
        made.diff(diff(last, last, bids=[(99, last)], at=at))
    assert told(made) == [(0, False, 12), (1_000, True, 13)]


def test_a_missing_diff_leaves_its_second_unrecorded_and_the_next_record_does_not_follow() -> None:
    made = recorder()
    made.diff(diff(11, 11, at=100))
    made.diff(diff(12, 12, at=1_100))
    assert made.diff(diff(15, 15, at=2_100)) is not None
    assert told(made) == [(0, False, 11)]
    made.snapshot(depth(15))
    made.diff(diff(16, 16, at=2_200))
    made.diff(diff(17, 17, at=3_200))
    made.diff(diff(18, 18, at=4_200))
    assert told(made)[1:] == [(2_000, False, 16), (3_000, True, 17)]


def test_diffs_that_the_snapshot_has_already_are_no_record_of_their_seconds() -> None:
    made = BookRecorder()
    made.snapshot(depth(20))
    for last, at in ((11, 100), (15, 1_100), (20, 2_100), (21, 3_100), (22, 4_100)):
        made.diff(diff(last, last, at=at))
    assert told(made) == [(3_000, False, 21)]


def test_a_lost_connection_breaks_the_record() -> None:
    made = recorder()
    for last, at in ((11, 100), (12, 1_100)):
        made.diff(diff(last, last, at=at))
    made.resync(Reason.GAP)
    made.snapshot(depth(20))
    for last, at in ((21, 2_100), (22, 3_100)):
        made.diff(diff(last, last, at=at))
    assert told(made) == [(0, False, 11), (2_000, False, 21)]


def test_a_book_with_few_levels_is_whole_and_one_that_was_cut_is_asked_for_again() -> None:
    thin = recorder()
    assert thin.diff(diff(11, 11, at=100)) is None
    cut = BookRecorder()
    cut.snapshot(
        DepthSnapshot(
            10, None, np.array([[5_000 - n, 1] for n in range(1_000)]), np.array([[6_000 + n, 1] for n in range(1_000)])
        )
    )
    gone = [(6_000 + n, 0) for n in range(981)]
    needs = cut.diff(diff(11, 11, asks=gone, at=100))
    assert needs is not None
    assert needs.reason is Reason.STALE


sides = st.lists(st.tuples(st.integers(1, 2**40), st.integers(1, 2**50)), max_size=20, unique_by=lambda level: level[0])


@given(st.booleans(), st.integers(10**12, 10**13 - 1), st.integers(0, 2**60 - 1), sides, sides)
def test_a_record_comes_back_from_its_integers(
    follows: bool, time_ms: int, last: int, bids: list[tuple[int, int]], asks: list[tuple[int, int]]
) -> None:
    levels = [np.array(sorted(side, reverse=side is bids), np.int64).reshape(-1, 2) for side in (bids, asks)]
    back = record_of(content(BookRecord(follows, BookSnapshot(time_ms, last, *levels))))
    assert (back.follows, back.book.time_ms, back.book.last_update_id) == (follows, time_ms, last)
    assert back.book.bids.tolist() == levels[0].tolist()
    assert back.book.asks.tolist() == levels[1].tolist()


def test_the_records_of_a_recorded_stream_are_the_book_at_the_end_of_each_second() -> None:
    made, other = BookRecorder(), BookSync()
    ends: dict[int, tuple[int, list[list[int]]]] = {}
    for _, frame in frames("raw/binance_spot/btcusdt_20240808.gz"):
        if b'"lastUpdateId"' in frame[:30]:
            made.snapshot(decode_depth_snapshot(frame, BTC))
            other.snapshot(decode_depth_snapshot(frame, BTC))
        elif b'"depthUpdate"' in frame:
            decoded = decode_event(frame, {"BTCUSDT": BTC}, 0)
            assert isinstance(decoded, tuple)
            assert isinstance(decoded[1], DepthDiff)
            made.diff(decoded[1])
            other.diff(decoded[1])
            if (top := other.top(20)) is not None:
                ends[top.time_ms // 1_000 * 1_000] = (top.last_update_id, top.bids.tolist())
    print(len(made.records), "records")
    assert len(made.records) == 247
    assert [r.follows for r in made.records] == [False] + [True] * (len(made.records) - 1)
    for record in made.records:
        assert ends[record.second_ms] == (record.book.last_update_id, record.book.bids.tolist())
