"""What came live of one symbol, on its way into the database.

Rows gather until they are written, a version of a bar that a later one has overtaken among them. Trades go first, what is
made of them next, and last what they prove, so that whatever is claimed is there. Each write keeps the day's record in step.
"""

from collections import Counter
from typing import NamedTuple

import numpy as np
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
        # Lost rows are read again from where their proof joins the one before.
        self.since_ms = since_ms if self.since_ms is None else min(self.since_ms, since_ms)

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
    """Return by UTC day what claims prove from a moment on, by all trades (`TRADE_SCHEMA`, by id) since then.

    Where the last trade before that moment is known too, it is from that trade on.
    """
    ids, times_ms = trades["agg_trade_id"].to_numpy(), trades["time_ms"].to_numpy()
    since_ms = int(min(since_ms, times_ms[0])) if len(times_ms) else since_ms
    until_ms = ranges[-1].proven_until_ms if ranges else since_ms
    # The trade before the first one is claimed, and since it is not here it was before that moment.
    if len(ids) and any(r.first_id < ids[0] <= r.last_id and r.proven_from_ms < since_ms for r in ranges):
        ids, times_ms = np.insert(ids, 0, ids[0] - 1), np.insert(times_ms, 0, since_ms - 1)
    proven = {
        day_ms: proven_ranges(ranges, ids, times_ms, max(day_ms, since_ms), min(day_ms + DAY_MS, until_ms))
        for day_ms in range(since_ms // DAY_MS * DAY_MS, until_ms, DAY_MS)
    }
    return {day_ms: found for day_ms, found in proven.items() if found}
