"""Rows and a digest for each UTC day of a frame, to compare what a store holds with what was written into it."""

import hashlib
from datetime import UTC, datetime

import polars as pl

from trading.market.timeframe import DAY_MS


def days_of_frame(frame: pl.DataFrame, time: str) -> dict[str, tuple[int, str]]:
    """Return `{YYYY-MM-DD: (rows, SHA-256)}` of a frame, by its column of epoch milliseconds `time`."""
    days = frame.sort(time).with_columns(_day=pl.col(time) // DAY_MS).partition_by("_day", maintain_order=True)
    return {
        datetime.fromtimestamp(int(day[time][0]) // 1000, UTC).strftime("%Y-%m-%d"): (
            len(day),
            hashlib.sha256(day.drop("_day").write_csv().encode()).hexdigest(),
        )
        for day in days
    }
