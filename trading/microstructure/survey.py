"""A survey is every measure of one market from what was observed of it, ready to be reported.

Whoever observes says what is missing and why; here a measure that needs it passes that on, and a measure that refuses
(too few trades, a crossed book, snapshots in the place of raw diffs) becomes missing with its own reason. One that is
missing never takes another one with it.
"""

from collections.abc import Sequence
from typing import TypeVar

import msgspec
import numpy as np
import polars as pl

from trading.errors import TradingError
from trading.market.book import BookSnapshot
from trading.market.instrument import Instrument
from trading.microstructure.anomalies import absorptions, flash_crashes
from trading.microstructure.diff_anomalies import icebergs, quote_stuffing, updates_per_s
from trading.microstructure.health import MicrostructureHealth, microstructure_health
from trading.microstructure.l1 import L1Metrics, l1_metrics, spread_bps
from trading.microstructure.order_flow import OrderFlow, order_flow
from trading.microstructure.report import Basis, Known, MarketReport, Missing, both, measured
from trading.microstructure.terms import SIDES, top
from trading.microstructure.vacuums import (
    LiquidityVacuum,
    StopAdvice,
    stop_advice,
    vacuums_in_book,
    vacuums_in_profile,
)
from trading.microstructure.volume_profile import volume_profile
from trading.stream.events import DepthDiff

T = TypeVar("T")


class NoBook(TradingError):
    """There is no book in the window, or it lacks a side."""


class RawDepth(msgspec.Struct, frozen=True, eq=False):
    """Raw diffs of a window, and the book before the first of them."""

    book: BookSnapshot
    diffs: Sequence[DepthDiff | BookSnapshot]


class Observed(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """What was observed of one market. The window of each source is that of its (first) basis.

    Attributes:
        instrument: The market.
        as_of_ms: The moment of the survey, exchange time.
        trades: `TRADE_SCHEMA`, of the hours that the profile is about.
        recent_trades: `TRADE_SCHEMA`, of the seconds or minutes that flow and anomalies are about.
        books: Snapshots of the top 20 levels once a second, in order, of the recent window.
        depth: Raw diffs of the recent window.
        usual_spread_bps: Mean spread of the 24 hours before; None where it is unknown.
        warnings: What whoever reads an answer must know of where it came from.
    """

    instrument: Instrument
    as_of_ms: int
    trades: Known[pl.DataFrame] | Missing
    recent_trades: Known[pl.DataFrame] | Missing
    books: Known[Sequence[BookSnapshot]] | Missing
    depth: Known[RawDepth] | Missing
    usual_spread_bps: float | None = None
    warnings: Sequence[str] = ()


def survey(seen: Observed) -> MarketReport:
    """Return every measure of what was observed, or why it is missing."""
    instrument = seen.instrument
    profile = measured(seen.trades, lambda rows: volume_profile(rows, instrument, *_window(seen.trades)))
    thin = measured(profile, vacuums_in_profile)
    newest = measured(seen.books, _newest)
    l1 = measured(newest, lambda book: l1_metrics(book, instrument))
    flow = measured(seen.recent_trades, lambda rows: order_flow(rows, instrument, *_window(seen.recent_trades)))
    seconds, changes = both(seen.books, seen.recent_trades), both(seen.depth, seen.recent_trades)
    return MarketReport(
        instrument=instrument,
        as_of_ms=seen.as_of_ms,
        top_of_book=l1,
        volume_profile=profile,
        vacuums_in_trades=thin,
        vacuums_in_book=measured(newest, lambda book: vacuums_in_book(book, instrument)),
        stops=measured(both(thin, l1), lambda known: _stops(*known, instrument)),
        order_flow=flow,
        absorption=measured(seconds, lambda known: absorptions(*known, instrument)),
        flash_crashes=measured(seconds, lambda known: flash_crashes(*known, seen.usual_spread_bps)),
        icebergs=measured(changes, lambda known: icebergs(known[0].book, known[0].diffs, known[1], instrument)),
        quote_stuffing=measured(
            changes, lambda known: quote_stuffing(known[0].diffs, known[1], *_window(seen.recent_trades))
        ),
        health=_health(seen, flow),
    )


def _window(source: Known[T] | Missing) -> tuple[int, int]:
    return source.basis[0].lo_ms, source.basis[0].hi_ms


def _newest(books: Sequence[BookSnapshot]) -> BookSnapshot:
    if not books:
        raise NoBook("no snapshot of the book is in the window", "see whether the collector has the book in step")
    return books[-1]


def _stops(vacuums: Sequence[LiquidityVacuum], l1: L1Metrics, instrument: Instrument) -> tuple[StopAdvice, ...]:
    """Return stops of positions that would be opened now, in the middle of the spread."""
    if l1.mid_price is None:
        raise NoBook("the book lacks a side, so that there is no price to open a position at", "wait for the book")
    mid_price = l1.mid_price
    return tuple(stop_advice(vacuums, position, mid_price, instrument) for position in ("long", "short"))


def _health(seen: Observed, flow: Known[OrderFlow] | Missing) -> Known[MicrostructureHealth] | Missing:
    """Return the health from those components whose source is known; missing where none is."""
    spreads = measured(seen.books, lambda books: [s for b in books if (s := spread_bps(b)) is not None])
    depths = measured(seen.books, lambda books: [_depth(book) for book in books])
    updates = measured(seen.depth, lambda raw: updates_per_s(raw.diffs, *_window(seen.depth)))
    sources = (spreads, depths, flow, updates)
    if all(isinstance(source, Missing) for source in sources):
        return Missing("neither books nor trades nor diffs are known")
    bases: dict[Basis, None] = {}
    for source in sources:
        bases |= dict.fromkeys(source.basis if isinstance(source, Known) else ())
    lots, taken = _value(depths), _value(flow)
    health = microstructure_health(
        spreads_bps=_value(spreads),
        depth_now=lots[-1] if lots else None,
        depth_mean=float(np.mean(lots)) if lots else None,
        buy_volume=taken.buy_volume if taken else None,
        sell_volume=taken.sell_volume if taken else None,
        updates_per_s=_value(updates),
    )
    return Known(health, tuple(bases))


def _depth(book: BookSnapshot) -> int:
    return sum(int(top(book, side)[:, 1].sum()) for side in SIDES)


def _value(source: Known[T] | Missing) -> T | None:
    return source.value if isinstance(source, Known) else None
