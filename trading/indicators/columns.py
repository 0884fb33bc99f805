"""Columns of indicators, apart from what computes them: who only stores or reads them need not wait for a compiler."""

from typing import Final

import polars as pl

VALUES: Final = (
    "ema_20",
    "ema_50",
    "ema_200",
    "macd",
    "macd_signal",
    "macd_hist",
    "rsi_7",
    "rsi_14",
    "atr_3",
    "atr_14",
)

INDICATOR_SCHEMA: Final[dict[str, type[pl.DataType]]] = {
    "open_time": pl.Int64,
    **dict.fromkeys(VALUES, pl.Float64),
    "warm": pl.Boolean,
    "known_at_ms": pl.Int64,
}
