"""Trades and books made for tests."""

import numpy as np
import polars as pl
from hypothesis import strategies as st

from trading.market.book import BookSnapshot
from trading.market.instrument import Instrument
from trading.market.trade import TRADE_SCHEMA

BTC = Instrument("sim", "BTCUSDT", "BTC", "USDT", 2, 5)
T0 = 1_700_006_400_000
END = T0 + 600_000


def trades(*rows: tuple[int, int, int, bool]) -> pl.DataFrame:
    """Return trades of (time after T0 in ms, ticks, lots, buyer is maker)."""
    made = [(i, price, lots, i, i, T0 + after, sold) for i, (after, price, lots, sold) in enumerate(rows)]
    return pl.DataFrame(made, schema=TRADE_SCHEMA, orient="row")


def book(bids: list[tuple[int, int]], asks: list[tuple[int, int]], after_ms: int = 0) -> BookSnapshot:
    """Return a book of (ticks, lots), best first."""
    sides = [np.array(side, np.int64).reshape(-1, 2) for side in (bids, asks)]
    return BookSnapshot(T0 + after_ms, 1, sides[0], sides[1])


def trade_rows(min_size: int = 0, max_size: int = 60) -> st.SearchStrategy[list[tuple[int, int, int, bool]]]:
    """Trades of ten minutes."""
    row = st.tuples(st.integers(0, 599_999), st.integers(1, 3_000), st.integers(1, 10**9), st.booleans())
    return st.lists(row, min_size=min_size, max_size=max_size)
