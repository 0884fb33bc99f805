import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from random import Random
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.captures import feed, frames
from trading.market.book import BookSnapshot
from trading.market.instrument import Instrument
from trading.stream.book_sync import EVENT_BYTES, RESTART_MS, BookSync, NeedsSnapshot, Reason
from trading.stream.events import BookTicker, DepthDiff, DepthSnapshot, Trade, decode_depth_snapshot, decode_event

NOW_MS = 1_700_000_000_000
Levels = Sequence[tuple[int, int]]


def levels(pairs: Iterable[tuple[int, int]]) -> NDArray[np.int64]:
    return np.array(list(pairs), np.int64).reshape(-1, 2)


def diff(first: int, last: int, pu: int | None = None, bids: Levels = (), asks: Levels = (), at: int = 0) -> DepthDiff:
    return DepthDiff(NOW_MS + at, first, last, pu, levels(bids), levels(asks))


def depth(last: int, bids: Levels = ((100, 5),), asks: Levels = ((101, 5),), at: int | None = None) -> DepthSnapshot:
    return DepthSnapshot(last, at, levels(bids), levels(asks))


def best(book: BookSync, n: int = 20) -> tuple[int, list[list[int]], list[list[int]]]:
    top = book.top(n)
    assert top is not None
    return top.last_update_id, top.bids.tolist(), top.asks.tolist()


# -- the rules of the exchange -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "linked"),
    [
        (diff(5, 10), False),  # u = lastUpdateId: the snapshot has it
        (diff(5, 11), True),  # U ≤ lastUpdateId + 1 ≤ u
        (diff(11, 11), True),
        (diff(11, 15), True),
        (diff(5, 9, pu=4), False),  # u < lastUpdateId
        (diff(5, 10, pu=4), True),  # U ≤ lastUpdateId ≤ u
        (diff(10, 15, pu=8), True),
        (diff(13, 15, pu=10), True),  # begins right behind the snapshot
        (diff(13, 15, pu=9), True),  # nothing happened between pu and U
    ],
)
@pytest.mark.parametrize("waited", [True, False])
def test_the_first_diff_must_span_the_snapshot(event: DepthDiff, linked: bool, waited: bool) -> None:
    book = BookSync()
    if waited:
        assert book.diff(event) == NeedsSnapshot(Reason.FIRST, 0)
        assert book.snapshot(depth(10)) is None
    else:
        assert book.snapshot(depth(10)) is None
        assert book.diff(event) is None
    assert (book.counts["applied"], book.counts["late"]) == (linked, not linked)
    assert best(book)[0] == (event.last_update_id if linked else 10)


@pytest.mark.parametrize("event", [diff(12, 15), diff(12, 15, pu=11), diff(13, 13, pu=12)])
@pytest.mark.parametrize("waited", [True, False])
def test_a_snapshot_older_than_the_first_diff_is_refused_again_and_again_row_35(event: DepthDiff, waited: bool) -> None:
    book = BookSync()
    for attempt in range(1, 13):
        if waited or attempt > 1:
            book.diff(event)
        book.snapshot(depth(10))
        assert book.diff(event) == NeedsSnapshot(Reason.STALE, attempt)
        assert book.top(1) is None
    assert book.snapshot(depth(15)) is None
    assert book.diff(diff(16, 16, pu=None if event.previous_update_id is None else 15)) is None
    assert book.resync(Reason.GAP) == NeedsSnapshot(Reason.GAP, 0)


@pytest.mark.parametrize(
    ("second", "need"),
    [
        (diff(16, 20), None),
        (diff(14, 20), None),  # quantities are absolute, so what overlaps does no harm
        (diff(17, 20), Reason.GAP),
        (diff(18, 20, pu=15), None),
        (diff(18, 20, pu=14), Reason.GAP),
        (diff(18, 20, pu=17), Reason.GAP),
    ],
)
def test_a_diff_must_follow_the_one_before_row_33(second: DepthDiff, need: Reason | None) -> None:
    book = BookSync()
    book.diff(diff(9, 15, pu=None if second.previous_update_id is None else 8))
    book.snapshot(depth(10))
    expected = NeedsSnapshot(need, 0) if need else None
    assert book.diff(second) == expected
    assert (book.top(1) is None, book.counts["gap"]) == (need is not None, need is not None)
    # The diff behind the hole waits for the snapshot that leads over it.
    assert book.snapshot(depth(20)) is None
    assert best(book)[0] == 20


def test_levels_are_set_removed_and_kept_best_first() -> None:
    book = BookSync(snapshot_levels=3)
    book.snapshot(depth(10, [(98, 1), (100, 5), (99, 2)], [(103, 1), (101, 5), (102, 0)]))
    assert book.top(5) is None  # a spot snapshot does not say when, and no diff has either
    book.diff(diff(11, 12, bids=[(99, 0), (97, 4), (50, 0), (100, 6)], asks=[(104, 1), (101, 0), (104, 3)]))
    assert best(book) == (12, [[100, 6], [98, 1], [97, 4]], [[103, 1], [104, 3]])
    assert best(book, 1) == (12, [[100, 6]], [[103, 1]])
    assert book.certain_levels == 1
    empty = book.top(0)
    assert empty is not None
    assert empty.bids.shape == empty.asks.shape == (0, 2)


def test_the_moment_of_a_book_is_the_exchanges_never_ours() -> None:
    book = BookSync()
    book.snapshot(depth(10, at=NOW_MS - 5))
    assert [top.time_ms for top in (book.top(1),) if top] == [NOW_MS - 5]
    book.diff(diff(11, 11, at=7))
    assert [top.time_ms for top in (book.top(1),) if top] == [NOW_MS + 7]


# -- what goes wrong ---------------------------------------------------------------------------------------------------


def test_a_crossed_book_is_dropped_and_fetched_again_row_34() -> None:
    book = BookSync()
    book.snapshot(depth(10))
    assert book.diff(diff(11, 11, bids=[(101, 1)])) == NeedsSnapshot(Reason.CROSSED, 1)
    assert (book.top(1), book.counts["crossed"]) == (None, 1)
    assert book.snapshot(depth(10, [(102, 1)])) == NeedsSnapshot(Reason.CROSSED, 2)
    assert BookSync().snapshot(depth(10, [(101, 1)])) == NeedsSnapshot(Reason.CROSSED, 1)
    assert book.snapshot(depth(12)) is None
    assert book.diff(diff(13, 13)) is None
    assert book.diff(diff(14, 14, asks=[(100, 1)])) == NeedsSnapshot(Reason.CROSSED, 0)


def test_an_empty_side_is_not_crossed() -> None:
    book = BookSync()
    book.snapshot(depth(10, (), [(101, 5)], at=NOW_MS))
    assert best(book) == (10, [], [[101, 5]])


def test_the_same_diff_twice_and_one_with_other_content_change_nothing_rows_21_and_22() -> None:
    book = BookSync()
    book.snapshot(depth(10))
    for quantity in (7, 7, 8):
        assert book.diff(diff(11, 12, bids=[(100, quantity)])) is None
    assert best(book)[1] == [[100, 7]]
    assert book.counts["late"] == 2


def test_ids_that_jump_are_a_gap_and_ids_that_begin_anew_are_found_by_their_time_rows_23_and_24() -> None:
    book = BookSync()
    book.snapshot(depth(10))
    assert book.diff(diff(11, 11)) is None
    assert book.diff(diff(1_011, 1_011)) == NeedsSnapshot(Reason.GAP, 0)
    assert book.snapshot(depth(1_011)) is None
    assert book.diff(diff(1_012, 1_012)) is None
    assert book.diff(diff(1, 2, at=RESTART_MS)) is None
    assert book.diff(diff(3, 4, at=RESTART_MS + 1)) == NeedsSnapshot(Reason.GAP, 0)
    # Also while waiting: nothing of the old count is of use.
    assert book.diff(diff(1, 1, at=3 * RESTART_MS)) == NeedsSnapshot(Reason.GAP, 0)
    assert book.snapshot(depth(1)) is None
    assert (best(book)[0], book.counts["restarts"]) == (1, 1)


def test_a_snapshot_that_nobody_asked_for_is_left_alone() -> None:
    book = BookSync()
    book.snapshot(depth(10, at=NOW_MS))
    assert book.snapshot(depth(20, [(90, 1)])) is None
    assert (best(book)[0], book.counts["unneeded"]) == (10, 1)


def test_what_waits_is_bounded_and_a_newer_snapshot_heals_what_was_forgotten() -> None:
    size = EVENT_BYTES + 2 * 16
    book = BookSync(buffer_bytes=100 * size)
    for number in range(1, 501):
        book.diff(diff(number, number, bids=[(100, number)], asks=[(200, number)]))
    assert (book.counts["buffered"], book.counts["forgotten"]) == (500, 400)
    assert book.snapshot(depth(399)) == NeedsSnapshot(Reason.STALE, 1)
    assert book.snapshot(depth(400)) is None
    assert best(book) == (500, [[100, 500]], [[101, 5], [200, 500]])


def test_a_hole_among_what_waits_makes_the_diffs_before_it_useless() -> None:
    book = BookSync()
    for first in (1, 2, 4, 3, 5):
        book.diff(diff(first, first))
    assert (book.counts["forgotten"], book.counts["late"]) == (2, 1)
    assert book.snapshot(depth(2)) == NeedsSnapshot(Reason.STALE, 1)
    assert book.snapshot(depth(3)) is None
    assert book.counts["applied"] == 2


def test_a_lost_connection_forgets_what_waited() -> None:
    book = BookSync()
    book.diff(diff(1, 1))
    assert book.resync(Reason.STALE) == NeedsSnapshot(Reason.STALE, 0)
    assert book.snapshot(depth(5)) is None
    assert book.counts["applied"] == 0


# -- against a dictionary ----------------------------------------------------------------------------------------------


class Market:
    """A book that changes one level at a time, remembers itself after each change, and sums changes to diffs."""

    def __init__(self, random: Random, futures: bool) -> None:
        self.random, self.futures = random, futures
        self.sides: tuple[dict[int, int], dict[int, int]] = ({50: 1}, {51: 1})
        self.number = 100
        self.past: dict[int, tuple[dict[int, int], dict[int, int]]] = {}
        self.pu = self.number
        self.remember()

    def remember(self) -> None:
        self.past[self.number] = (dict(self.sides[0]), dict(self.sides[1]))

    def event(self, at: int) -> DepthDiff:
        changed: tuple[dict[int, int], dict[int, int]] = ({}, {})
        first = 0
        for _ in range(self.random.randint(1, 4)):
            self.number += self.random.randint(1, 4) if self.futures else 1
            first = first or self.number
            side = self.random.randint(0, 1)
            price = self.random.randint(45, 50) + 6 * side
            quantity = self.random.choice((0, 1, 2, 3))
            self.sides[side].pop(price, None)
            if quantity:
                self.sides[side][price] = quantity
            changed[side][price] = quantity
            self.remember()
        pu, self.pu = self.pu, self.number
        bids, asks = (levels(side.items()) for side in changed)
        return DepthDiff(NOW_MS + at, first, self.number, pu if self.futures else None, bids, asks)

    def snapshot(self, number: int) -> DepthSnapshot:
        bids, asks = (levels(side.items()) for side in self.past[number])
        return DepthSnapshot(number, None, bids, asks)


class Fate(NamedTuple):
    drop: float
    duplicate: float
    swap: float


def delivered(events: Sequence[DepthDiff], random: Random, fate: Fate) -> Iterator[DepthDiff]:
    held: DepthDiff | None = None
    for event in events:
        if random.random() < fate.drop:
            continue
        if held is None and random.random() < fate.swap:
            held = event
            continue
        yield event
        if random.random() < fate.duplicate:
            yield event
        if held is not None:
            yield held
            held = None


def follow(seed: int, futures: bool, fate: Fate, length: int = 60) -> Counter[str]:
    """Feed a faulty stream to a book and compare it with the market's own past after every message."""
    random = Random(seed)
    market, book = Market(random, futures), BookSync()
    events = [market.event(at) for at in range(length)]
    ids = sorted(market.past)
    seen: Counter[str] = Counter()

    def check() -> None:
        top = book.top(100)
        if top is not None:
            seen["checked"] += 1
            bids, asks = market.past[top.last_update_id]
            assert top.bids.tolist() == [[price, bids[price]] for price in sorted(bids, reverse=True)]
            assert top.asks.tolist() == [[price, asks[price]] for price in sorted(asks)]

    for event in delivered(events, random, fate):
        book.diff(event)
        check()
        if book.needs and random.random() < 0.5:
            # REST may lag behind the stream or be ahead of it.
            place = ids.index(event.last_update_id) + random.randint(-12, 6)
            book.snapshot(market.snapshot(ids[min(max(place, 0), len(ids) - 1)]))
            check()
    if book.needs:
        assert book.snapshot(market.snapshot(market.number)) is None
    for event in (market.event(length), market.event(length + 1)):
        if book.diff(event):
            # Messages were lost at the very end; one more snapshot and all is well.
            assert book.snapshot(market.snapshot(market.number)) is None
        check()
    assert best(book)[0] == market.number
    return seen + book.counts


fates = st.builds(Fate, *[st.sampled_from([0.0, 0.05, 0.3])] * 3)


@settings(max_examples=300)
@given(st.integers(0, 2**32), st.booleans(), fates)
def test_a_book_in_step_is_the_markets_own_whatever_the_stream_loses_repeats_or_swaps(
    seed: int, futures: bool, fate: Fate
) -> None:
    follow(seed, futures, fate)


@pytest.mark.parametrize("futures", [False, True])
def test_a_stream_without_faults_needs_one_snapshot_and_one_with_faults_is_mostly_in_step(futures: bool) -> None:
    faultless, faulty = Counter[str](), Counter[str]()
    for seed in range(50):
        faultless += follow(seed, futures, Fate(0, 0, 0))
        faulty += follow(seed, futures, Fate(0.02, 0.1, 0.0))
    print("faultless", dict(faultless), "faulty", dict(faulty))
    assert (faultless["gap"], faultless["crossed"]) == (0, 0)
    assert faulty["gap"] > 20
    assert faulty["late"] > 100
    assert faulty["checked"] > 1_000


# -- recorded ----------------------------------------------------------------------------------------------------------


class Replay:
    """Frames of one symbol fed to a book, with what the exchange itself called the best bid and ask."""

    def __init__(self, instrument: Instrument) -> None:
        self.instruments = {instrument.name: instrument}
        self.instrument, self.book = instrument, BookSync()
        self.trade_ids: list[int] = []
        self.tickers: dict[int, tuple[int, ...]] = {}
        self.tops: dict[int, tuple[int, ...]] = {}
        self.lags_ms: list[float] = []
        self.newest_ms = 0

    def take(self, received_ms: float, frame: bytes) -> None:
        if b'"lastUpdateId"' in frame[:30]:
            self.book.snapshot(decode_depth_snapshot(frame, self.instrument))
            return
        decoded = decode_event(frame, self.instruments, self.newest_ms)
        assert isinstance(decoded, tuple)
        event = decoded[1]
        if isinstance(event, Trade):
            self.trade_ids.append(event.trade_id)
        elif isinstance(event, BookTicker):
            self.tickers[event.update_id] = (event.bid_price, event.bid_quantity, event.ask_price, event.ask_quantity)
        elif isinstance(event, DepthDiff):
            self.book.diff(event)
            self.lags_ms.append(received_ms - event.time_ms)
            self.newest_ms = max(self.newest_ms, event.time_ms)
            self.remember(self.book.top(20))

    def remember(self, top: BookSnapshot | None) -> None:
        if top is not None:
            assert top.bids[0, 0] < top.asks[0, 0]
            assert (np.diff(top.bids[:, 0]) < 0).all()
            assert (np.diff(top.asks[:, 0]) > 0).all()
            assert top.bids.min() > 0 < top.asks.min()
            self.tops[top.last_update_id] = (*top.bids[0].tolist(), *top.asks[0].tolist())

    def equal(self) -> int:
        """Return at how many ids both said the best bid and ask, after asserting that they always said the same."""
        both = self.tickers.keys() & self.tops.keys()
        assert {number: self.tickers[number] for number in both} == {number: self.tops[number] for number in both}
        return len(both)


SPOT_BTC = ("raw/binance_spot/btcusdt_20240808.gz", "raw/binance_spot/btcusdt_20240809.gz")


@pytest.mark.parametrize(
    ("names", "instrument", "trades", "diffs", "equal"),
    [
        (SPOT_BTC, Instrument("binance", "BTCUSDT", "BTC", "USDT", 2, 5), 19_904, 6_495, 1_072),
        (
            ("raw/binance_spot/ethusdt_20240808.gz",),
            Instrument("binance", "ETHUSDT", "ETH", "USDT", 2, 4),
            6_106,
            3_434,
            577,
        ),
        (
            ("raw/binance_usdm/btcusdt_20240808.gz",),
            Instrument("binance", "BTCUSDT", "BTC", "USDT", 2, 3, "usdm"),
            21_313,
            6_551,
            629,
        ),
    ],
    ids=["spot-BTCUSDT", "spot-ETHUSDT", "usdm-BTCUSDT"],
)
def test_a_recorded_stream_is_unbroken_and_its_book_is_the_exchanges_own(
    names: tuple[str, ...], instrument: Instrument, trades: int, diffs: int, equal: int
) -> None:
    replay = Replay(instrument)
    for received_ns, frame in frames(*names):
        replay.take(received_ns / 1e6, frame)
    counts = replay.book.counts
    print(
        f"{instrument.kind} {instrument.name}: {len(replay.trade_ids):,} trades, {dict(counts)}, best prices compared at "
        f"{replay.equal():,} of {len(replay.tickers):,} ids, receive time minus event time {min(replay.lags_ms):,.0f} … "
        f"{max(replay.lags_ms):,.0f} ms, certain levels left {replay.book.certain_levels}"
    )
    first = replay.trade_ids[0]
    assert replay.trade_ids == list(range(first, first + trades))
    assert (counts["gap"], counts["stale"], counts["crossed"], counts["forgotten"]) == (0, 0, 0, 0)
    assert counts["snapshots"] == 1
    assert counts["applied"] + counts["late"] == diffs
    assert replay.equal() == equal
    # The recorder's clock ran behind the exchange's; nothing here may depend on it.
    assert max(replay.lags_ms) < 0


@pytest.mark.parametrize(("name", "equal"), [("BINANCE", 26), ("BINANCE_FUTURES", 50)])
def test_recorded_books_of_several_symbols_follow_their_rest_snapshots(name: str, equal: int) -> None:
    replays = replay_feed(name, f"raw/cryptofeed/{name}.http.0.0.gz")
    counts = sum((replay.book.counts for replay in replays), Counter[str]())
    compared = sum(replay.equal() for replay in replays)
    print(name, len(replays), "symbols", dict(counts), "best prices compared at", compared)
    assert (counts["gap"], counts["stale"], counts["crossed"], counts["forgotten"]) == (0, 0, 0, 0)
    assert (counts["snapshots"], [replay.book.needs for replay in replays]) == (4, [None] * 4)
    assert compared == equal


def test_a_recorded_feed_without_a_snapshot_waits_unbroken() -> None:
    replays = replay_feed("BINANCE_US", None)
    assert sum(replay.book.counts["buffered"] for replay in replays) == 336
    assert sum(replay.book.counts["forgotten"] for replay in replays) == 0
    assert {replay.book.needs for replay in replays} == {NeedsSnapshot(Reason.FIRST, 0)}


def replay_feed(name: str, rest: str | None) -> list[Replay]:
    replays: dict[str, Replay] = {}
    for received, url, body in feed(f"raw/cryptofeed/{name}.ws.1.0.gz", rest):
        symbol = url.partition("symbol=")[2].partition("&")[0] or json.loads(body)["data"]["s"]
        replay = replays.setdefault(symbol, Replay(Instrument("binance", symbol, symbol, "?", 8, 8)))
        replay.take(received * 1e3, body)
    return list(replays.values())


def test_a_recorded_stream_that_loses_a_diff_is_dropped_and_heals_with_a_snapshot() -> None:
    instrument = Instrument("binance", "BTCUSDT", "BTC", "USDT", 2, 5)
    whole, broken, diffs = Replay(instrument), Replay(instrument), 0
    for received_ns, frame in frames(SPOT_BTC[0]):
        whole.take(received_ns / 1e6, frame)
        diffs += b'"depthUpdate"' in frame
        if b'"depthUpdate"' in frame and diffs == 1_000:
            continue
        broken.take(received_ns / 1e6, frame)
        if diffs == 1_001:
            assert (broken.book.needs, broken.book.top(1)) == (NeedsSnapshot(Reason.GAP, 0), None)
        if diffs == 1_010 and broken.book.needs:
            top = whole.book.top(10_000)
            assert top is not None
            assert broken.book.snapshot(DepthSnapshot(top.last_update_id, None, top.bids, top.asks)) is None
    assert diffs > 3_000
    assert broken.book.counts["snapshots"] == 2
    assert best(broken.book, 10_000) == best(whole.book, 10_000)
