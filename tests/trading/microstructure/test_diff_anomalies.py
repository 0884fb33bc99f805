"""Quote stuffing and icebergs: seen in raw diffs alone."""

import numpy as np
import pytest

from tests.trading.microstructure.made import BTC, T0, book, trades
from trading.microstructure.diff_anomalies import NeedsRawDiffs, icebergs, quote_stuffing, updates_per_s
from trading.microstructure.terms import EmptyWindow, Severity
from trading.stream.events import DepthDiff


def diff(bids: list[tuple[int, int]], asks: list[tuple[int, int]] = (), after_ms: int = 0) -> DepthDiff:
    sides = [np.array(side, np.int64).reshape(-1, 2) for side in (bids, asks)]
    return DepthDiff(T0 + after_ms, 1, 1, None, *sides)


def flicker(changes_per_s: int) -> list[DepthDiff]:
    """Return ten diffs of a second that change so many levels together."""
    each = changes_per_s // 10
    return [diff([(1_000 - i, n + 1) for i in range(each)], after_ms=n * 100) for n in range(10)]


@pytest.mark.parametrize(
    ("rate", "severity"),
    [
        (510, Severity.MEDIUM),
        (750, Severity.MEDIUM),
        (760, Severity.HIGH),
        (1_000, Severity.HIGH),
        (1_010, Severity.CRITICAL),
    ],
)
def test_many_updates_and_few_fills_are_quote_stuffing(rate: int, severity: Severity) -> None:
    found = quote_stuffing(flicker(rate), trades(*[(5, 1_000, 1, True)] * 50), T0, T0 + 1_000)
    assert (found.updates_per_s, found.severity) == (rate, severity)
    assert found.fill_pct == pytest.approx(100 * 50 / rate)


def test_a_rate_is_counted_over_the_whole_window() -> None:
    assert updates_per_s(flicker(600), T0, T0 + 1_000) == 600
    assert updates_per_s(flicker(600), T0, T0 + 2_000) == 300
    assert updates_per_s(flicker(600), T0, T0 + 500) == 600
    assert quote_stuffing(flicker(600), trades(), T0, T0 + 2_000) is None


def test_five_hundred_updates_or_a_tenth_of_fills_are_none() -> None:
    assert quote_stuffing(flicker(500), trades(), T0, T0 + 1_000) is None
    assert quote_stuffing(flicker(600), trades(*[(5, 1_000, 1, True)] * 60), T0, T0 + 1_000) is None
    assert quote_stuffing(flicker(600), trades(*[(5, 1_000, 1, True)] * 59), T0, T0 + 1_000) is not None
    assert quote_stuffing(flicker(600), trades(*[(1_000, 1_000, 1, True)] * 60), T0, T0 + 1_000) is not None


START = book([(1_000, 10), (999, 50), (998, 50), (997, 50)], [(1_001, 10)])


def refilled(times: int, shown: int = 10) -> list[DepthDiff]:
    """Return diffs that empty the best bid and fill it again."""
    return [diff([(1_000, lots)], after_ms=n) for n, lots in enumerate([0, shown] * times)]


def test_a_level_that_trades_more_than_it_shows_and_is_refilled_is_an_iceberg() -> None:
    sold = trades(*[(1, 1_000, 9, True)] * 6, (1, 999, 5, True), (1, 998, 5, True))
    (found,) = icebergs(START, refilled(6), sold, BTC)
    assert (found.side, found.price, found.refill_count) == ("bid", 10.0, 6)
    assert (found.executed_volume, found.largest_shown) == (0.00054, 0.0001)
    assert found.z == pytest.approx((6 - 1) / 0.2)
    assert found.confidence > 0.999  # a strong sign is a high confidence
    assert found.severity == Severity.CRITICAL


@pytest.mark.parametrize(
    ("times", "sold"),
    [
        (5, [(1_000, 90), (999, 5), (998, 5)]),  # five medians are not more than five
        (6, [(1_000, 10), (999, 5), (998, 5)]),  # no more traded than was shown
        (6, [(999, 5), (998, 5)]),  # nothing traded there
        (6, [(1_000, 90)]),  # its own refills are the median
    ],
)
def test_less_than_that_is_no_iceberg(times: int, sold: list[tuple[int, int]]) -> None:
    made = trades(*[(1, tick, lots, True) for tick, lots in sold])
    assert icebergs(START, refilled(times), made, BTC) == ()


def test_a_level_that_only_grows_is_not_refilled() -> None:
    grows = [diff([(1_000, 10 + n)], after_ms=n) for n in range(20)]
    sold = trades((1, 1_000, 90, True), (1, 999, 5, True), (1, 998, 5, True))
    assert icebergs(START, grows, sold, BTC) == ()


def test_refills_that_vary_among_levels_make_a_high_one_less_odd() -> None:
    sold = trades((1, 1_000, 90, True), (1, 999, 5, True), (1, 998, 5, True), (1, 997, 5, True), (1, 1_001, 5, False))
    others = [diff([(tick, lots)]) for tick, times in ((999, 2), (998, 4)) for lots in [0, 50] * times]
    (found,) = icebergs(START, refilled(11) + others, sold, BTC)
    assert found.z == pytest.approx((11 - 2) / (1.4826 * 2))  # refills 11, 2, 4, 0, 0


def test_snapshots_once_a_second_are_refused() -> None:
    for measure in (
        lambda: quote_stuffing([START], trades(), T0, T0 + 1),
        lambda: icebergs(START, [*refilled(6), START], trades(), BTC),
        lambda: updates_per_s([START], T0, T0 + 1),
    ):
        with pytest.raises(NeedsRawDiffs, match="raw depth diffs"):
            measure()


def test_a_window_that_holds_no_moment_is_refused() -> None:
    with pytest.raises(EmptyWindow):
        quote_stuffing([], trades(), T0, T0)
    with pytest.raises(EmptyWindow):
        updates_per_s([], T0, T0)


def test_nothing_is_seen_in_nothing() -> None:
    assert icebergs(START, [], trades(), BTC) == ()
    assert quote_stuffing([], trades(), T0, T0 + 1) is None
