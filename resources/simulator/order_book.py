"""A synthetic order book: a pure function of its market and the moment, consistent with the market's trades.

The best prices follow the trades: before each trade they move to where it happens, after it they hold less. Behind them
lie levels near the best price and a lattice of levels over all prices the market reaches, each with a quantity that is
drawn anew from time to time. So the whole book of any moment is computed from the minute that holds it, and what changed
between two moments is the difference of two books.

Changes are numbered in slots of 100 ms: the first of a slot is the redrawing of levels, then come its best prices in
order. A slot's numbers that nothing used are passed over by the next change, as on the real exchange.
"""

from functools import lru_cache
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from resources.simulator.market import Depth, DepthChange, Levels
from resources.simulator.price_path import LISTED_MS, Hashes, Ints, PricePath
from trading.market.timeframe import MINUTE_MS

SLOT_MS: Final = 100
SLOT_IDS: Final = 64
"""More than the changes that a slot can hold: two for each trade of a minute, one a second, one redrawing."""

FIRST_UPDATE: Final = 10_000_000_000
QUOTES, PHASES, QUANTITIES, IDLE = 20, 21, 22, 23
"""Streams of noise."""

LEAD_MS: Final = 400
NEAR: Final = 20
NEAR_SLOTS: Final = 16
LATTICE: Final = 1000
LATTICE_SLOTS: Final = 512
QUOTE_COLUMNS: Final = ("time_ms", "order", "bid", "bid_quantity", "ask", "ask_quantity")


class SyntheticBook:
    """The book of one market."""

    def __init__(self, path: PricePath) -> None:
        self._path, self.instrument = path, path.instrument
        self._step = max(1, path.base // 600_000)
        self._wide = path.base * 6 // (10 * LATTICE)
        self._lattice = np.arange(path.base * 7 // 10 // self._wide, path.base * 13 // 10 // self._wide) * self._wide
        self._minute = lru_cache(8)(self._quotes_of_minute)

    # -- best prices -------------------------------------------------------------------------------------------------

    def quotes(self, lo_ms: int, hi_ms: int) -> pl.DataFrame:
        """Return each change of the best prices in `[lo_ms, hi_ms)`: its time, place among trades, id, ticks and lots.

        `order` sorts changes of one millisecond among its trades: 3 · id before, 3 · id + 2 after trade `id`.
        """
        first, last = self._path.minute(lo_ms), self._path.minute(max(lo_ms, hi_ms - 1))
        quotes = pl.concat([self._minute(minute) for minute in range(first, last + 1)])
        return quotes.filter((pl.col("time_ms") >= lo_ms) & (pl.col("time_ms") < hi_ms))

    def _quotes_of_minute(self, minute: int) -> pl.DataFrame:
        start_ms = LISTED_MS + minute * MINUTE_MS
        trades = self._path.trades(minute, minute + 1)
        ids, times, price, traded, sold = (
            trades[name].to_numpy() for name in ("agg_trade_id", "time_ms", "price", "quantity", "buyer_is_maker")
        )
        lead, spread, left, other = _parts(self._drawn(ids, QUOTES), LEAD_MS, 5, 2**16, 2**16)
        moved_ms = np.maximum(np.append(start_ms, times[:-1])[: len(ids)], times - lead)
        bid = np.where(sold, price, price - spread)
        rows = [
            (
                moved_ms,
                3 * ids,
                bid,
                np.where(sold, left + traded, other),
                bid + spread,
                np.where(sold, other, left + traded),
            ),
            (times, 3 * ids + 2, bid, np.where(sold, left, other), bid + spread, np.where(sold, other, left)),
        ]
        # Once a second the best prices hold something else, but not between a move and the trade that it was for.
        ticks = start_ms + np.arange(0, MINUTE_MS, 1000)
        following = np.searchsorted(times, ticks)
        free = ticks < np.append(moved_ms, np.iinfo(np.int64).max)[following]
        free[0] = True
        ticks = ticks[free]
        level = int(self._path.levels(np.array([minute]))[0])
        opening = np.where(ticks == start_ms, level, 0)
        bids, asks = _parts(self._drawn(ticks // 1000, IDLE), 2**16, 2**16)
        rows.append((ticks, np.zeros_like(ticks), opening - 1, bids, opening + 1, asks))
        columns = [np.concatenate(column) for column in zip(*rows, strict=True)]
        columns = [column[np.lexsort((columns[1], columns[0]))] for column in columns]
        # A change of quantities alone is at the prices before it.
        at = np.maximum.accumulate(np.where(columns[4] > 1, np.arange(len(columns[0])), 0))
        columns[2], columns[4] = columns[2][at], columns[4][at]
        slots = (columns[0] - LISTED_MS) // SLOT_MS
        nth = np.arange(len(slots)) - np.searchsorted(slots, slots) + 1
        quotes = pl.DataFrame(dict(zip(QUOTE_COLUMNS, columns, strict=True)))
        return quotes.with_columns(slot=slots, update_id=FIRST_UPDATE + slots * SLOT_IDS + nth)

    # -- the whole book ----------------------------------------------------------------------------------------------

    def depth(self, now_ms: int, limit: int) -> Depth:
        """Return the best levels after all changes up to a moment."""
        return self._depths(np.array([now_ms + 1]), limit)[0]

    def depths(self, lo_ms: int, hi_ms: int, period_ms: int, limit: int) -> list[Depth]:
        """Return the best levels at each whole period in `(lo_ms, hi_ms]`, after all changes before it."""
        return [depth for times in _periods(lo_ms, hi_ms, period_ms) for depth in self._depths(times, limit)]

    def changes(self, lo_ms: int, hi_ms: int, period_ms: int) -> list[DepthChange]:
        """Return what changed within each whole period that ends in `(lo_ms, hi_ms]`."""
        return [change for times in _periods(lo_ms, hi_ms, period_ms) for change in self._changes(times, period_ms)]

    def _depths(self, times: Ints, limit: int) -> list[Depth]:
        prices, books, ids = self._books(times)
        found = []
        for time_ms, book, update_id in zip(times.tolist(), books, ids.tolist(), strict=True):
            bids, asks = np.nonzero(book > 0)[0][::-1][:limit], np.nonzero(book < 0)[0][:limit]
            found.append(Depth(update_id, time_ms - 1, _levels(prices, book, bids), _levels(prices, book, asks)))
        return found

    def _changes(self, times: Ints, period_ms: int) -> list[DepthChange]:
        """Return the changes of periods in a row; a level that changed and changed back is one of them."""
        start_ms, end_ms = int(times[0]) - period_ms, int(times[-1])
        redrawn = np.arange(-(-start_ms // SLOT_MS) * SLOT_MS, end_ms, SLOT_MS)
        moments = np.unique(np.concatenate([redrawn, self.quotes(start_ms, end_ms)["time_ms"].to_numpy()])) + 1
        prices, books, ids = self._books(np.append(start_ms, moments))
        last = np.searchsorted(moments, times, side="right")
        found = []
        for first_row, last_row, time_ms in zip(np.append(0, last[:-1]), last, times.tolist(), strict=True):
            rows = books[first_row : last_row + 1]
            changed = (rows[1:] != rows[:-1]).any(axis=0)
            bids, asks = (np.nonzero(changed & side.any(axis=0))[0] for side in (rows > 0, rows < 0))
            found.append(
                DepthChange(
                    time_ms,
                    int(ids[first_row]) + 1,
                    int(ids[last_row]),
                    _levels(prices, np.maximum(rows[-1], 0), bids[::-1]),
                    _levels(prices, np.minimum(rows[-1], 0), asks),
                )
            )
        return found

    def _books(self, times: Ints) -> tuple[Ints, Ints, Ints]:
        """Return prices, quantity by moment and price (bids positive, asks negative) and last ids, just before moments."""
        path, slots = self._path, (times - 1 - LISTED_MS) // SLOT_MS
        first_ms = LISTED_MS + path.minute(int(times[0]) - 1) * MINUTE_MS
        quotes = self.quotes(first_ms, int(times[-1]))
        last = np.maximum(np.searchsorted(quotes["time_ms"].to_numpy(), times) - 1, 0)
        best = quotes[last]
        bid, ask = best["bid"].to_numpy(), best["ask"].to_numpy()
        opened = FIRST_UPDATE + slots * SLOT_IDS
        ids = np.where(best["slot"].to_numpy() == slots, best["update_id"].to_numpy(), opened)
        reach = NEAR * self._step
        grid = np.arange((bid.min() - reach) // self._step, (ask.max() + reach) // self._step + 1) * self._step
        prices = np.unique(np.concatenate([self._lattice, grid, bid, ask]))
        books = self._resting(prices, slots)
        far = (prices < bid[:, None] - reach) | (prices > ask[:, None] + reach)
        books[far & (prices % self._wide != 0)] = 0
        books[(prices > bid[:, None]) & (prices < ask[:, None])] = 0
        books[prices >= ask[:, None]] *= -1
        rows = np.arange(len(times))
        books[rows, np.searchsorted(prices, bid)] = best["bid_quantity"].to_numpy()
        books[rows, np.searchsorted(prices, ask)] = -best["ask_quantity"].to_numpy()
        return prices, books, ids

    def _resting(self, prices: Ints, slots: Ints) -> Ints:
        """Return what rests at each price in each slot, apart from the best prices."""
        wide = prices % self._wide == 0
        stay = np.where(wide, LATTICE_SLOTS, NEAR_SLOTS)
        phase = self._drawn(prices, PHASES).astype(np.int64) & (LATTICE_SLOTS - 1)
        era = (slots[:, None] + phase) // stay
        size, presence = _parts(self._drawn(era * 2**27 + prices, QUANTITIES), 2**17, 4)
        size = np.where(wide & (presence == 1), size * 16, size)
        return np.where(wide | ((presence > 1) & (prices % self._step == 0)), size, 0)

    def _drawn(self, numbers: Ints, stream: int) -> Hashes:
        return self._path.hashes(numbers, stream + self._path.apart)


def _parts(drawn: Hashes, *sizes: int) -> list[Ints]:
    """Split each hash into numbers from 1 to each size."""
    parts = []
    for size in sizes:
        parts.append((drawn % np.uint64(size)).astype(np.int64) + 1)
        drawn = drawn // np.uint64(size)
    return parts


def _periods(lo_ms: int, hi_ms: int, period_ms: int) -> list[Ints]:
    """Return the whole periods in `(lo_ms, hi_ms]`, in pieces of a minute: some 1,300 books, 15 MB a matrix."""
    times = np.arange(lo_ms // period_ms + 1, hi_ms // period_ms + 1, dtype=np.int64) * period_ms
    piece = MINUTE_MS // period_ms
    return [times[at : at + piece] for at in range(0, len(times), piece)]


def _levels(prices: Ints, book: Ints, at: NDArray[np.intp]) -> Levels:
    return list(zip(prices[at].tolist(), np.abs(book[at]).tolist(), strict=True))
