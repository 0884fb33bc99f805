"""A batch becomes facts, all but the rows that the server refuses: these are found by halving and set aside.

Whatever must not end at one bad row goes through here: what users bring, what comes live, and dead letters that are sent
again. A server that is away refuses nothing; that is for the caller to wait out.
"""

from collections.abc import Callable
from typing import Final

import polars as pl

from resources.timescale.store import MarketStore
from resources.timescale.tables import BOOK_1S, BOOK_SNAPSHOT, CANDLE, CANDLE_1S, INDICATOR, TRADE, Table
from resources.timescale.trouble import is_rows_fault
from resources.timescale.writing import Written
from trading.market.instrument import UnknownInstrument
from trading.market.timeframe import Timeframe
from trading.provider.pipeline import Batch

TABLES: Final = {table.name: table for table in (CANDLE, CANDLE_1S, INDICATOR, TRADE, BOOK_SNAPSHOT, BOOK_1S)}
"""Those whose rows are delivered."""

ASSETS: Final = {
    "trade": "agg_trades",
    "candle_1s": "candles_1s",
    "book_snapshot": "book_snapshots",
    "book_1s": "book_seconds",
}
MOST_REFUSED: Final = 200
"""A batch that is refused so often is wrong as a whole, and what is left of it is not halved any more."""

SetAside = Callable[[Batch, str], object]
"""Keeps rows that were refused, with the reason."""


class Delivery:
    """A batch on its way.

    Attributes:
        written: What became of the rows that the server took.
        aside: Rows that were set aside.
        writes: Writes that were done.
        attempts: Writes that were tried.
        refusals: Of these, refused for the rows' sake.

    Args:
        batch: The rows.
        set_aside: Keeps those that are refused; `DeadLetters.write` is one.
    """

    def __init__(self, batch: Batch, set_aside: SetAside) -> None:
        self.written, self.aside, self.writes, self.attempts, self.refusals = Written(), 0, 0, 0, 0
        self._parts, self._set_aside = [batch] if len(batch.frame) else [], set_aside

    def go_on(self, store: MarketStore, recorded: bool = True) -> None:
        """Write what is left to write; of `recorded` see `write`.

        Raises:
            Exception: Whatever keeps the server from it, or the disk from what is set aside. What was done stays done, and
                another call does the rest.
        """
        while self._parts:
            part = self._parts[-1]
            self.attempts += 1
            try:
                self.written += write(store, part, recorded)
                self.writes += 1
                self._parts.pop()
            except Exception as error:
                unknown = isinstance(error, UnknownInstrument)
                if not (unknown or is_rows_fault(error)):
                    raise
                self.refusals += 1
                if unknown or len(part.frame) == 1 or self.refusals > MOST_REFUSED:
                    self._set_aside(part, f"{type(error).__name__}: {error}")
                    self.aside += len(part.frame)
                    self._parts.pop()
                else:
                    self._parts[-1:] = reversed(part.halves())


def write(store: MarketStore, batch: Batch, recorded: bool = True) -> Written:
    """Write a batch of at least one row, all of it or nothing; what is so already is not changed.

    Args:
        store: Where to.
        batch: The rows.
        recorded: The records of the days follow, as if the asset that rebuilds them had written the rows.
    """
    table, (_, symbol, timeframe) = TABLES[batch.series.table], batch.series
    of_table = timeframe if table.by_timeframe else None
    recorded_at_ms = batch.recorded_at_ms if table.revised else None
    record_of = asset_of(table, timeframe) if recorded else ""
    # The range ends with the last row, so that the day's record need not look any further.
    lo_ms, hi_ms = span_ms(table, batch.frame)
    return store.write(
        table, symbol, batch.frame, lo_ms, hi_ms, of_table, recorded_at_ms=recorded_at_ms, record_of=record_of
    )


def span_ms(table: Table, frame: pl.DataFrame) -> tuple[int, int]:
    """Return the half-open range of time of a frame's rows."""
    return frame[table.time].min(), frame[table.time].max() + 1  # pyright: ignore


def asset_of(table: Table, timeframe: Timeframe | None) -> str:
    """Return the asset that writes the same rows when it rebuilds a day."""
    return ASSETS.get(table.name) or f"{table.name}s_{timeframe}"
