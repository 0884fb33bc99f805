"""What came live of one symbol, on its way into the database.

Rows gather until they are written, a version of a bar that a later one has overtaken among them. What they prove is last, so
that whatever is claimed is there. Each write keeps the day's record in step.
"""

from collections import Counter
from typing import NamedTuple

import msgspec
import polars as pl

from resources.timescale.delivery import Delivery, SetAside
from resources.timescale.store import MarketStore
from resources.timescale.tables import CANDLE, CANDLE_1S, INDICATOR, TRADE, Table
from trading.market.timeframe import DAY_MS, Timeframe
from trading.provider.pipeline import Batch, Series
from trading.provider.validation import DataValidator
from trading.stream.contiguity import IdRange, proven_ranges
from trading.stream.live_bars import Closed


class Outcome(NamedTuple):
    """How many rows changed something, how many are not stored, and whether trades are among these."""

    changed: int
    aside: int
    trades_lack: bool


class Gathered:
    """Rows of one symbol that are to be written.

    Args:
        symbol: Whose.
    """

    def __init__(self, symbol: str) -> None:
        self.symbol = symbol
        self.since_ms: int | None = None
        """Time of the earliest trade or bar among them, or from which on they prove something."""
        self.rows = self.clock_ms = 0
        self._frames: dict[tuple[str, Timeframe | None], tuple[Table, list[pl.DataFrame]]] = {}
        self._proofs: list[tuple[list[IdRange], pl.DataFrame, int]] = []

    def add(self, table: Table, frame: pl.DataFrame, clock_ms: int, timeframe: Timeframe | None = None) -> None:
        """Take rows of a table; of two with one key the later one holds."""
        if frame.is_empty():
            return
        self._frames.setdefault((table.name, timeframe), (table, []))[1].append(frame)
        self.rows, self.clock_ms = self.rows + len(frame), max(self.clock_ms, clock_ms)
        earliest_ms = int(frame[table.time].min())  # pyright: ignore
        self.since_ms = earliest_ms if self.since_ms is None else min(self.since_ms, earliest_ms)

    def add_closed(self, closed: Closed, clock_ms: int) -> None:
        """Take bars and their indicators."""
        if closed.timeframe is Timeframe.S1:
            return self.add(CANDLE_1S, closed.bars, clock_ms)
        self.add(CANDLE, closed.bars, clock_ms, closed.timeframe)
        if closed.indicators is not None:
            self.add(INDICATOR, closed.indicators, clock_ms, closed.timeframe)

    def prove(self, ranges: list[IdRange], trades: pl.DataFrame, since_ms: int) -> None:
        """Note by what claims, and all trades since a moment, something is proven once these rows are stored."""
        if self._proofs and self._proofs[-1][2] == since_ms:
            self._proofs.pop()  # the later one proves all that this one does
        self._proofs.append((ranges, trades, since_ms))
        # Lost rows are read again from where their proof joins the one before: at the last trade before, where it is known.
        joins_ms = min([since_ms, *trades["time_ms"].head(1)])
        self.since_ms = joins_ms if self.since_ms is None else min(self.since_ms, joins_ms)

    def joined(self, later: "Gathered") -> "Gathered":
        """Return these rows with those of a later one; neither has proofs."""
        both = Gathered(self.symbol)
        for gathered in (self, later):
            for (_, timeframe), (table, frames) in gathered._frames.items():
                for frame in frames:
                    both.add(table, frame, gathered.clock_ms, timeframe)
        return both

    @property
    def empty(self) -> bool:
        """Whether there is nothing to write."""
        return not self._frames and not self._proofs

    def write(
        self, market: MarketStore, checks: DataValidator, set_aside: SetAside, claiming: bool = True
    ) -> "Outcome":
        """Write all that can have happened and that the server takes, and what it proves, if no trade lacks for that.

        Args:
            market: Where to.
            checks: Tells what cannot have happened.
            set_aside: Keeps what the server refuses.
            claiming: No earlier trade lacks either.
        """
        changed, aside = 0, Counter[str]()
        for (_, timeframe), (table, frames) in self._frames.items():
            frame = pl.concat(frames).unique(list(table.key), keep="last", maintain_order=True)
            series = Series(table.name, self.symbol, Timeframe.S1 if table is CANDLE_1S else timeframe)
            accepted = checks.rows(series, frame)
            delivery = Delivery(Batch(series, accepted, self.clock_ms), set_aside)
            delivery.go_on(market)
            changed += delivery.written.changed
            aside[table.name] += len(frame) - len(accepted) + delivery.aside
        if claiming and not aside[TRADE.name]:
            self._claim(market)
        return Outcome(changed, aside.total(), bool(aside[TRADE.name]))

    def _claim(self, market: MarketStore) -> None:
        proven: dict[int, list[IdRange]] = {}
        for proof in self._proofs:
            for day_ms, ranges in proven_by(*proof).items():
                proven.setdefault(day_ms, []).extend(ranges)
        for day_ms, ranges in proven.items():
            market.extend_trade_coverage(self.symbol, day_ms, ranges)


def proven_by(ranges: list[IdRange], trades: pl.DataFrame, since_ms: int) -> dict[int, list[IdRange]]:
    """Return by UTC day what claims prove by all trades (`TRADE_SCHEMA`, by id) since a moment.

    Where the last trade before that moment is known too, it is from that trade on.
    """
    ids, times_ms = trades["agg_trade_id"].to_numpy(), trades["time_ms"].to_numpy()
    if len(ids):
        first_id, since_ms = int(ids[0]), min(since_ms, int(times_ms[0]))
        ranges = [_since(r, first_id, since_ms) for r in ranges if r.last_id >= first_id]
    else:
        ranges = [r for r in ranges if r.proven_until_ms > since_ms]
    days = range(ranges[0].proven_from_ms // DAY_MS * DAY_MS, ranges[-1].proven_until_ms, DAY_MS) if ranges else ()
    proven = {day_ms: proven_ranges(ranges, ids, times_ms, day_ms, day_ms + DAY_MS) for day_ms in days}
    return {day_ms: found for day_ms, found in proven.items() if found}


def _since(claim: IdRange, first_id: int, since_ms: int) -> IdRange:
    """Return what is left of a claim from the first trade of a moment on, whose trades before that are not looked at."""
    if not claim.first_id < first_id <= claim.last_id:
        return claim
    return msgspec.structs.replace(claim, first_id=first_id, proven_from_ms=max(since_ms, claim.proven_from_ms))
