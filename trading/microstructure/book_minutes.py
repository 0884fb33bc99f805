"""A book minute is what the order books at the ends of its seconds say: how wide, how deep, how balanced, at what cost.

A book holds until the next one that follows it without a missing change, so that a second without a change is known
too; any other second is unknown and counts nowhere. A day knows nothing of the day before: its first seconds, up to its
first book, are unknown, and any day gives the same minutes alone or among others.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from trading.market.instrument import Instrument
from trading.market.timeframe import DAY_MS, MINUTE_MS, SECOND_MS
from trading.microstructure.l1 import NOTIONALS, L1Metrics, l1_metrics
from trading.microstructure.terms import TOP_LEVELS
from trading.stream.book_recorder import BookRecord

SLIPPAGES: Final = tuple(f"{taker}_{notional // 1_000}k_bps" for notional in NOTIONALS for taker in ("buy", "sell"))

BOOK_MINUTE_SCHEMA: Final[dict[str, type[pl.DataType]]] = {
    "minute": pl.Int64,
    "seconds": pl.Int64,
    **dict.fromkeys(("spread_bps", "spread_bps_max", "imbalance", "bid_volume", "ask_volume"), pl.Float64),
    **dict.fromkeys(("best_bid", "best_ask", "mid_price", "microprice"), pl.Float64),
    **dict.fromkeys(SLIPPAGES, pl.Float64),
}
"""`minute` is the epoch millisecond at which it begins, `seconds` how many of it are known. Spread, imbalance and volumes
(top 20 levels, base currency) are means over those; prices and slippage (market orders of 10, 25 and 50 thousand in quote
currency) are of the last book."""


def book_minutes(records: Sequence[BookRecord], instrument: Instrument) -> pl.DataFrame:
    """Return the minutes in which a book is known.

    A book that lacks a side or is crossed has neither spread nor imbalance; a mean is null where no second has it.

    Args:
        records: In order of time; a record follows the one before it of the same day, or does not.
        instrument: Gives the size of a tick and a lot.

    Returns:
        `BOOK_MINUTE_SCHEMA`, ordered by minute.
    """
    if not records:
        return pl.DataFrame(schema=BOOK_MINUTE_SCHEMA)
    begins = np.array([record.second_ms for record in records], np.int64)
    seconds = np.repeat(np.arange(len(records)), seconds_held(records, begins))
    first = np.concatenate(([0], np.flatnonzero(np.diff(seconds)) + 1))
    since = np.arange(len(seconds)) - np.repeat(first, np.diff(np.append(first, len(seconds))))
    of_second = pl.DataFrame(_top_of(records, instrument))[seconds]
    minutes = (
        of_second.with_columns(minute=pl.Series((begins[seconds] + since * SECOND_MS) // MINUTE_MS * MINUTE_MS))
        .group_by("minute", maintain_order=True)
        .agg(
            pl.len().cast(pl.Int64).alias("seconds"),
            pl.col("spread_bps", "imbalance", "bid_volume", "ask_volume").mean(),
            pl.col("spread_bps").max().alias("spread_bps_max"),
            pl.col("record").last(),
        )
    )
    last: list[int] = minutes["record"].to_list()
    closes = pl.DataFrame([_close_of(records[place], instrument) for place in last], schema=_CLOSE_SCHEMA)
    return pl.concat([minutes, closes], how="horizontal").select(list(BOOK_MINUTE_SCHEMA))


_CLOSE: Final = ("best_bid", "best_ask", "mid_price", "microprice", *SLIPPAGES)
_CLOSE_SCHEMA: Final = {name: BOOK_MINUTE_SCHEMA[name] for name in _CLOSE}


def seconds_held(records: Sequence[BookRecord], begins: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return for how many seconds each book stands: its own, and those until one that follows on the same day.

    Args:
        records: In order of time, at least one; of several of one second only the last stands.
        begins: The begin of each one's second, epoch ms.
    """
    follows = np.array([record.follows for record in records[1:]], np.bool_)
    same_day = np.diff(begins // DAY_MS) == 0
    apart = np.diff(begins) // SECOND_MS
    return np.append(np.where((follows & same_day) | (apart == 0), apart, 1), 1)


def _top_of(records: Sequence[BookRecord], instrument: Instrument) -> dict[str, Any]:
    """Return spread, imbalance and volumes of each book; as `l1_metrics`, all books at once."""
    bid, bid_lots = _side([record.book.bids[:TOP_LEVELS] for record in records])
    ask, ask_lots = _side([record.book.asks[:TOP_LEVELS] for record in records])
    whole, unit = (bid > 0) & (bid < ask), 10**instrument.quantity_decimals
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "record": np.arange(len(records)),
            "spread_bps": _where(whole, 10_000 * (ask - bid) / bid),
            "imbalance": _where(whole, (bid_lots - ask_lots) / (bid_lots + ask_lots)),
            "bid_volume": _where(bid > 0, bid_lots / unit),
            "ask_volume": _where(ask > 0, ask_lots / unit),
        }


def _side(levels: Sequence[NDArray[np.int64]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the best price (ticks) and the lots of one side of each book, zeros where it has none."""
    size, counts = len(levels), np.array([len(rows) for rows in levels])
    flat = np.concatenate(levels)
    lots, best = np.zeros(size, np.int64), np.zeros(size, np.int64)
    np.add.at(lots, np.repeat(np.arange(size), counts), flat[:, 1])
    best[counts > 0] = flat[(np.cumsum(counts) - counts)[counts > 0], 0]
    return best, lots


def _where(known: NDArray[np.bool_], values: NDArray[np.float64]) -> pl.Series:
    return pl.Series(np.where(known, values, np.nan)).fill_nan(None)


def _close_of(record: BookRecord, instrument: Instrument) -> dict[str, float | None]:
    """Return prices and slippage of a minute's last book; nothing of one that is crossed."""
    book = record.book
    if len(book.bids) and len(book.asks) and book.bids[0, 0] >= book.asks[0, 0]:
        return dict.fromkeys(_CLOSE)
    l1: L1Metrics = l1_metrics(book, instrument)
    prices = {name: getattr(l1, name) for name in _CLOSE if name not in SLIPPAGES}
    return prices | dict(zip(SLIPPAGES, (order.slippage_bps for order in l1.slippage), strict=True))
