"""Absorption and flash crashes: seen by snapshots once a second and trades."""

import pytest

from tests.trading.microstructure.made import BTC, T0, book, trades
from trading.market.book import BookSnapshot
from trading.microstructure.anomalies import Absorption, absorptions, flash_crashes
from trading.microstructure.l1 import CrossedBook
from trading.microstructure.terms import Severity

SMALL_BIDS = [(999, 10), (998, 10), (997, 10)]
SMALL_ASKS = [(1_001, 10), (1_002, 10), (1_003, 10)]


def standing_bid(*lots: int, every_ms: int = 1_000) -> list[BookSnapshot]:
    """Return a snapshot a second in which the bid at 10.00 holds these lots."""
    return [book([(1_000, lot), *SMALL_BIDS], SMALL_ASKS, i * every_ms) for i, lot in enumerate(lots)]


def test_a_bid_that_stands_while_it_is_sold_into_absorbs() -> None:
    sold = trades((100, 1_000, 30, True), (1_100, 1_000, 40, True), (2_999, 1_000, 50, True))
    assert absorptions(standing_bid(100, 100, 90, 100), sold, BTC) == (
        Absorption("bid", 10.0, 0.0012, 3, T0 + 1_000, T0 + 3_000, "accumulation", "whale"),
    )


def test_an_ask_that_stands_while_it_is_bought_from_distributes() -> None:
    snapshots = [book([(999, 10)], [(1_000, 100), *SMALL_ASKS], i * 1_000) for i in range(7)]
    bought = trades(*[(i * 1_000 + 1, 1_000, 30, False) for i in range(6)])
    (found,) = absorptions(snapshots, bought, BTC)
    assert (found.side, found.direction, found.refill_count) == ("ask", "distribution", 6)
    assert found.suspected_entity == "market_maker"


@pytest.mark.parametrize(
    ("sold", "lots"),
    [
        ([(100, 30), (1_100, 30)], (100, 100, 100, 100)),  # two refills are too few
        ([(100, 30), (1_100, 30), (2_100, 20)], (100, 100, 100, 100)),  # a fifth is no depletion
        ([(100, 30), (1_100, 30), (2_100, 30)], (100, 100, 100, 79)),  # not refilled the third time
        ([(100, 30), (1_100, 30), (3_000, 30)], (100, 100, 100, 100)),  # the third trade comes after all snapshots
        ([(100, 20), (1_100, 20), (2_100, 20)], (50, 50, 50, 50)),  # five medians are not more than five
    ],
)
def test_less_than_that_is_no_absorption(sold: list[tuple[int, int]], lots: tuple[int, ...]) -> None:
    made = trades(*[(after, 1_000, lot, True) for after, lot in sold])
    assert absorptions(standing_bid(*lots), made, BTC) == ()


def test_a_level_that_falls_without_trades_absorbs_nothing() -> None:
    assert absorptions(standing_bid(100, 50, 100, 50, 100, 50, 100), trades(), BTC) == ()


def test_buys_at_the_price_of_a_bid_are_not_absorbed_by_it() -> None:
    bought = trades(*[(i * 1_000 + 1, 1_000, 30, False) for i in range(3)])
    assert absorptions(standing_bid(100, 100, 100, 100), bought, BTC) == ()


def test_snapshots_too_far_apart_show_no_second() -> None:
    sold = trades(*[(i * 1_600 + 1, 1_000, 30, True) for i in range(3)])
    assert absorptions(standing_bid(100, 100, 100, 100, every_ms=1_600), sold, BTC) == ()
    sold = trades(*[(i * 1_500 + 1, 1_000, 30, True) for i in range(3)])
    assert len(absorptions(standing_bid(100, 100, 100, 100, every_ms=1_500), sold, BTC)) == 1


CALM = book([(10_000, 500), (9_999, 500)], [(10_001, 500), (10_002, 500)])
"""A spread of one basis point and 1,000 lots a side."""


def collapsed(bid: int = 9_900, lots: int = 100, after_ms: int = 1_000) -> BookSnapshot:
    return book([(bid, lots)] if lots else [], [(10_001, 500), (10_002, 500)], after_ms)


def test_depth_that_is_cancelled_within_a_second_is_a_flash_crash() -> None:
    (crash,) = flash_crashes([CALM, collapsed()], trades((500, 10_000, 50, True)), 1.0)
    assert (crash.side, crash.from_ms, crash.until_ms) == ("bid", T0, T0 + 1_000)
    assert crash.depth_loss_pct == pytest.approx(90)
    assert crash.spread_ratio == pytest.approx(102.02, abs=0.01)
    assert crash.cancelled_pct == pytest.approx(100 * 850 / 900)
    assert crash.severity == Severity.CRITICAL


@pytest.mark.parametrize(
    ("after", "sold", "mean_spread"),
    [
        (collapsed(lots=200), 0, 1.0),  # 80 % is not more than 80 %
        (collapsed(bid=10_000), 0, 1.0),  # the spread is as ever
        (collapsed(), 90, 1.0),  # a tenth was traded away
        (collapsed(after_ms=1_501), 0, 1.0),  # not within a second
        (collapsed(), 90, None),  # known trades speak against it, whatever the spread
    ],
)
def test_less_than_that_is_no_flash_crash(after: BookSnapshot, sold: int, mean_spread: float | None) -> None:
    made = trades((500, 10_000, sold, True)) if sold else trades()
    assert flash_crashes([CALM, after], made, mean_spread) == ()


def test_buys_do_not_explain_bids_that_are_gone() -> None:
    (crash,) = flash_crashes([CALM, collapsed()], trades((500, 10_000, 900, False)), 1.0)
    assert crash.cancelled_pct == 100


def test_a_collapse_that_unknown_figures_would_have_to_confirm_has_no_severity() -> None:
    (without_trades,) = flash_crashes([CALM, collapsed()], None, 1.0)
    assert (without_trades.cancelled_pct, without_trades.severity) == (None, None)
    (without_mean,) = flash_crashes([CALM, collapsed()], trades(), None)
    assert (without_mean.spread_ratio, without_mean.severity) == (None, None)


def test_a_side_that_is_empty_has_no_spread_and_is_a_crash_all_the_same() -> None:
    (crash,) = flash_crashes([CALM, collapsed(lots=0)], trades(), 1.0)
    assert (crash.depth_loss_pct, crash.spread_ratio, crash.severity) == (100, None, Severity.CRITICAL)


def test_a_crossed_snapshot_is_refused() -> None:
    with pytest.raises(CrossedBook):
        flash_crashes([CALM, collapsed(bid=10_001)], trades(), 1.0)


def test_nothing_is_seen_in_nothing() -> None:
    assert absorptions([], trades(), BTC) == ()
    assert absorptions([CALM], trades(), BTC) == ()
    assert flash_crashes([CALM], trades(), 1.0) == ()
