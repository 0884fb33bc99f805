"""Anomalies that book snapshots once a second and trades can show: absorption and flash crashes.

Snapshots are of the top 20 levels, in order. What lies between two of them is known by the trades alone; a pair further
apart than `MAX_STEP_MS` says nothing of one second and is left out. Icebergs and quote stuffing happen between two
snapshots and need raw diffs (`trading.microstructure.diff_anomalies`).
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, Literal

import msgspec
import numpy as np
import polars as pl

from trading.market.book import BookSnapshot
from trading.market.instrument import Instrument
from trading.microstructure.l1 import spread_bps
from trading.microstructure.terms import SIDES, BookSide, Severity, top

MAX_STEP_MS: Final = 1_500
"""Snapshots are taken each second; half a second more allows for a late one."""

DEPLETION: Final = 0.2
MIN_REFILLS: Final = 3
ABSORBING_MEDIANS: Final = 5
MARKET_MAKER_REFILLS: Final = 5
DEPTH_LOSS: Final = 0.8
SPREAD_MEANS: Final = 10
CANCELLED: Final = 0.9


class Absorption(msgspec.Struct, frozen=True, tag="absorption"):
    """One price at which takers were filled again and again while the level stood.

    Attributes:
        side: Side of the level.
        price: Of the level.
        absorbed_volume: What takers traded into it in the seconds after which it stood again, base currency.
        refill_count: How many such seconds there were.
        first_detected_ms: Snapshot after the first.
        last_updated_ms: Snapshot after the last.
        direction: A bid that absorbs accumulates, an ask distributes.
        suspected_entity: A name for how often, no evidence of who: market maker above five refills, else whale.
    """

    side: BookSide
    price: float
    absorbed_volume: float
    refill_count: int
    first_detected_ms: int
    last_updated_ms: int
    direction: Literal["accumulation", "distribution"]
    suspected_entity: Literal["market_maker", "whale"]


class FlashCrash(msgspec.Struct, frozen=True, tag="flash_crash"):
    """One second in which more than four fifths of one side's depth went.

    Attributes:
        side: Side that went.
        from_ms: Snapshot before.
        until_ms: Snapshot after.
        depth_loss_pct: How much of the top levels' lots went.
        spread_ratio: Spread after, by its mean; None where the mean is unknown or a side is empty.
        cancelled_pct: Share of what went that was not traded away; None where trades are unknown.
        severity: Critical where spread and cancels confirm it; None while one that is unknown would have to.
    """

    side: BookSide
    from_ms: int
    until_ms: int
    depth_loss_pct: float
    spread_ratio: float | None
    cancelled_pct: float | None
    severity: Severity | None


class _Refill(msgspec.Struct, frozen=True):
    time_ms: int
    traded: int
    remaining: int


def absorptions(
    snapshots: Sequence[BookSnapshot], trades: pl.DataFrame, instrument: Instrument
) -> tuple[Absorption, ...]:
    """Return the levels that absorbed.

    A level is refilled when trades took more than a fifth of what a snapshot showed there and the next one shows at
    least four fifths of it again. It absorbs with three refills or more after which, on average, it held more than five
    times the median level of its side.

    Args:
        snapshots: In order of time.
        trades: Columns `price`, `quantity`, `time_ms` and `buyer_is_maker` of `TRADE_SCHEMA`, in any order.
        instrument: Gives the size of a tick and a lot.

    Returns:
        Bids, then asks, each by rising price.
    """
    taken = _Taken(trades)
    found: list[Absorption] = []
    for side in SIDES:
        held = [lots for snapshot in snapshots for lots in top(snapshot, side)[:, 1].tolist()]
        median = float(np.median(held)) if held else 0.0
        for tick, refills in sorted(_refills(snapshots, taken, side).items()):
            mean = sum(r.remaining for r in refills) / len(refills)
            if len(refills) >= MIN_REFILLS and mean > ABSORBING_MEDIANS * median:
                found.append(_absorption(side, tick, refills, instrument))
    return tuple(found)


def flash_crashes(
    snapshots: Sequence[BookSnapshot], trades: pl.DataFrame | None, mean_spread_bps: float | None
) -> tuple[FlashCrash, ...]:
    """Return the seconds in which one side of the book collapsed.

    More than 80 % of the depth of one side goes within a second, the spread is more than 10 times its mean and more than
    90 % of what went was cancelled. A second that a known figure speaks against is none.

    Args:
        snapshots: In order of time. Only the top levels are seen: depth that price has left behind counts as gone.
        trades: As for `absorptions`; None where they are unknown.
        mean_spread_bps: Mean spread of the 24 hours before; None where it is unknown.

    Raises:
        CrossedBook: A snapshot after a collapse is crossed.
    """
    taken = None if trades is None else _Taken(trades)
    found: list[FlashCrash] = []
    for before, after in _steps(snapshots):
        for side in SIDES:
            depth, left = (int(top(snapshot, side)[:, 1].sum()) for snapshot in (before, after))
            lost = depth - left
            if depth == 0 or lost <= DEPTH_LOSS * depth:
                continue
            cancelled = None
            if taken is not None:
                traded = sum(taken.between(before.time_ms, after.time_ms, side).values())
                cancelled = max(lost - traded, 0) / lost
            spread = spread_bps(after)
            ratio = spread / mean_spread_bps if spread is not None and mean_spread_bps else None
            # A side without levels has no spread to measure, and none could be wider.
            wide = True if spread is None else _above(ratio, SPREAD_MEANS)
            confirmed = _all((wide, _above(cancelled, CANCELLED)))
            if confirmed is not False:
                found.append(
                    FlashCrash(
                        side,
                        before.time_ms,
                        after.time_ms,
                        100 * lost / depth,
                        ratio,
                        None if cancelled is None else 100 * cancelled,
                        Severity.CRITICAL if confirmed else None,
                    )
                )
    return tuple(found)


class _Taken:
    """Lots that takers took from each side, by tick, between any two moments."""

    def __init__(self, trades: pl.DataFrame) -> None:
        ordered = trades.sort("time_ms", maintain_order=True)
        self._moments = ordered["time_ms"].to_numpy()
        self._columns = [ordered[name].to_numpy() for name in ("price", "quantity", "buyer_is_maker")]

    def between(self, lo_ms: int, hi_ms: int, side: BookSide) -> dict[int, int]:
        """Return lots by tick in `[lo_ms, hi_ms)`; a taker who sells takes bids."""
        first, last = (int(edge) for edge in np.searchsorted(self._moments, (lo_ms, hi_ms)))
        lots: dict[int, int] = defaultdict(int)
        for price, quantity, buyer_is_maker in zip(*(c[first:last].tolist() for c in self._columns), strict=True):
            if buyer_is_maker == (side == "bid"):
                lots[price] += quantity
        return lots


def _steps(snapshots: Sequence[BookSnapshot]) -> Iterator[tuple[BookSnapshot, BookSnapshot]]:
    return ((a, b) for a, b in pairwise(snapshots) if 0 < b.time_ms - a.time_ms <= MAX_STEP_MS)


def _refills(snapshots: Sequence[BookSnapshot], taken: _Taken, side: BookSide) -> dict[int, list[_Refill]]:
    refills: dict[int, list[_Refill]] = defaultdict(list)
    for before, after in _steps(snapshots):
        traded = taken.between(before.time_ms, after.time_ms, side)
        stands = dict(top(after, side).tolist())
        for tick, lots in top(before, side).tolist():
            remaining = stands.get(tick, 0)
            if traded.get(tick, 0) > DEPLETION * lots and remaining >= (1 - DEPLETION) * lots:
                refills[tick].append(_Refill(after.time_ms, traded[tick], remaining))
    return refills


def _absorption(side: BookSide, tick: int, refills: Sequence[_Refill], instrument: Instrument) -> Absorption:
    return Absorption(
        side,
        instrument.price(tick),
        instrument.quantity(sum(r.traded for r in refills)),
        len(refills),
        refills[0].time_ms,
        refills[-1].time_ms,
        "accumulation" if side == "bid" else "distribution",
        "market_maker" if len(refills) > MARKET_MAKER_REFILLS else "whale",
    )


def _above(value: float | None, threshold: float) -> bool | None:
    return None if value is None else value > threshold


def _all(verdicts: Sequence[bool | None]) -> bool | None:
    """Return false if any is, else None if any is unknown, else true."""
    if False in verdicts:
        return False
    return None if None in verdicts else True
