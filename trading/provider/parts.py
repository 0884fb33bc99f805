"""A part of an answer is a frame in the order of its first column, a time, and where it came from.

A part of which the cache has some and the store the rest is both together. A filter takes ten times as long as a look at a
column of a few hundred rows, which mostly shows that none is needed; so what is asked of a part here cuts, and filters last.
"""

from dataclasses import dataclass, field

import numpy as np
import polars as pl
from numpy.typing import NDArray

from trading.market.candle import RANK
from trading.provider.frames import Source


@dataclass
class Parts:
    """Frames by the name of their part, and where each came from.

    Names are `ohlcv.<timeframe>`, `indicators.<timeframe>`, `context.<timeframe>`, `book` and `seconds`, the book's.
    """

    frames: dict[str, pl.DataFrame] = field(default_factory=dict)
    sources: dict[str, Source] = field(default_factory=dict)

    def add(self, name: str, frame: pl.DataFrame, source: Source) -> None:
        """Take a part; of two versions of a row that of the better source stays, else the one known later."""
        if name in self.frames and not self.frames[name].is_empty():
            if frame.is_empty():
                return
            key, *facts = (column for column in frame.columns if column != "known_at_ms")
            worth = [pl.col("source").replace_strict(RANK, default=0)] if "source" in facts else []
            versions = pl.concat([frame, self.frames[name]]).sort(*worth, "known_at_ms", maintain_order=True)
            # What says the same again has been known since it was first said.
            told = versions.unique([key, *facts], keep="first", maintain_order=True)
            frame = told.unique(key, keep="last", maintain_order=True).sort(key)
            source = "mixed"
        self.frames[name], self.sources[name] = frame, source

    def bars(self, timeframe: str) -> pl.DataFrame:
        """Return the bars of a timeframe."""
        return self.frames[f"ohlcv.{timeframe}"]


def whole(bars: pl.DataFrame) -> pl.DataFrame:
    """Return the bars that lack nothing."""
    return bars if bars["complete"].all(ignore_nulls=False) else bars.filter("complete")


def whole_since(bars: pl.DataFrame, from_ms: int) -> NDArray[np.int64]:
    """Return the open times from a time on of the bars that lack nothing."""
    opens = bars["open_time"].to_numpy()[
        bars["complete"].to_numpy().astype(bool)
    ]  # who does not know it lacks something
    return opens[np.searchsorted(opens, from_ms) :]


def since(rows: pl.DataFrame, from_ms: int) -> pl.DataFrame:
    """Return the rows from a time on."""
    return rows.slice(_count_before(rows, from_ms))


def before(rows: pl.DataFrame, until_ms: int) -> pl.DataFrame:
    """Return the rows before a time."""
    return rows.head(_count_before(rows, until_ms))


def _count_before(rows: pl.DataFrame, time_ms: int) -> int:
    return int(np.searchsorted(rows.to_series(0).to_numpy(), time_ms))
