"""A volume profile is how much traded at which price in one window of time.

Prices fall into bins of equal size on one grid that starts at zero, so that profiles of two windows with one bin size
have the same edges. Bins without a trade between the lowest and the highest are kept. Sums are integer ticks and lots:
the trades and any cut of them into profile minutes give the same profile, bit for bit. The rules (70 % value area grown
from the point of control) are those of the Market Profile of J. P. Steidlmayer, one bin at a time.
"""

import math
from typing import Final

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from trading.compiled import read_only
from trading.errors import TradingError
from trading.market.instrument import Instrument
from trading.market.timeframe import MINUTE_MS, SECOND_MS, Timeframe
from trading.microstructure.profile_bins import (
    BUY,
    COUNT,
    SELL,
    Bins,
    empty_bins,
    extent,
    fill_from_levels,
    fill_from_trades,
    point_of_control,
    value_area,
)
from trading.microstructure.profile_minutes import LISTS
from trading.microstructure.terms import check_window

MIN_TRADES: Final = 1_000
VALUE_AREA_PCT: Final = 70


class InsufficientTrades(TradingError):
    """A window holds too few trades for a profile that means something.

    Args:
        trade_count: Aggregate trades in the window.
        wait_s: Seconds until there will be enough at the rate seen, from the end of the window on; None where no rate
            is known or a window of that length never holds enough at that rate.
    """

    def __init__(self, symbol: str, trade_count: int, wait_s: int | None) -> None:
        wait = f"wait about {wait_s} s, or ask for a longer window" if wait_s is not None else "ask for a longer window"
        super().__init__(f"{symbol}: {trade_count} trades are in the window, a profile needs {MIN_TRADES}", wait)
        self.trade_count = trade_count
        self.required = MIN_TRADES
        self.wait_s = wait_s


class OffMinute(TradingError):
    """A window over profile minutes, or the minutes themselves, are not whole minutes in order."""


class ProfileBin(msgspec.Struct, frozen=True):
    """What traded from `price_low` up to, not including, `price_high`; volumes in base currency."""

    price_low: float
    price_high: float
    volume: float
    buy_volume: float
    sell_volume: float
    trade_count: int
    volume_pct: float


class VolumeProfile(msgspec.Struct, frozen=True):
    """The profile of one window.

    Attributes:
        symbol: The exchange's name.
        lo_ms: First moment of the window.
        hi_ms: End of the window.
        data_from_ms: Begin of the minute of the first trade.
        data_until_ms: End of the minute of the last trade.
        trade_count: Aggregate trades.
        price_low: Lowest price traded.
        price_high: Highest price traded.
        bin_size: Width of a bin, in quote currency.
        point_of_control: Middle of the bin with the most volume; of equals the one nearest to the middle of the bins,
            then the lower.
        value_area_low: Lower edge of the value area, which grows from the point of control by the neighbour with more
            volume (of equals the upper) until it holds at least `VALUE_AREA_PCT` of the volume.
        value_area_high: Upper edge of the value area.
        value_area_pct: Share of the volume inside.
        total_volume: Base currency.
        bins: By rising price, without holes.
    """

    symbol: str
    lo_ms: int
    hi_ms: int
    data_from_ms: int
    data_until_ms: int
    trade_count: int
    price_low: float
    price_high: float
    bin_size: float
    point_of_control: float
    value_area_low: float
    value_area_high: float
    value_area_pct: float
    total_volume: float
    bins: tuple[ProfileBin, ...]


def volume_profile(
    trades: pl.DataFrame, instrument: Instrument, lo_ms: int, hi_ms: int, bin_ticks: int | None = None
) -> VolumeProfile:
    """Return the profile of the trades in `[lo_ms, hi_ms)`.

    Args:
        trades: Columns `price`, `quantity`, `time_ms` and `buyer_is_maker` of `TRADE_SCHEMA`, in any order.
        instrument: Gives the size of a tick and a lot.
        lo_ms: First moment.
        hi_ms: End.
        bin_ticks: Ticks of a bin; None: `adaptive_bin_ticks`.

    Raises:
        InsufficientTrades: Fewer than `MIN_TRADES`.
        BadBinSize: `bin_ticks` is below 1 or gives more than `MAX_BINS`.
        EmptyWindow: `hi_ms` is not after `lo_ms`.
    """
    check_window(lo_ms, hi_ms)
    span, ticks, lots, sold = _between(trades, lo_ms, hi_ms)
    if span is None or len(ticks) < MIN_TRADES:
        wait_s = estimated_wait_s(len(ticks), span[0] if span else None, lo_ms, hi_ms)
        raise InsufficientTrades(instrument.name, len(ticks), wait_s)
    low, high = extent(ticks)
    bins = empty_bins(low, high, bin_ticks)
    fill_from_trades(ticks, lots, sold, bins.first_tick, bins.bin_ticks, bins.rows)
    first_minute, last_minute = (Timeframe.M1.floor(edge) for edge in span)
    return _profile(instrument, (lo_ms, hi_ms, first_minute, last_minute + MINUTE_MS), (low, high), bins)


def volume_profile_of_minutes(
    minutes: pl.DataFrame, instrument: Instrument, lo_ms: int, hi_ms: int, bin_ticks: int | None = None
) -> VolumeProfile:
    """Return the profile of `[lo_ms, hi_ms)`, whole minutes, from profile minutes; the same as from their trades.

    Args:
        minutes: `PROFILE_MINUTE_SCHEMA`, ordered by minute.
        instrument: Gives the size of a tick and a lot.
        lo_ms: First moment, the begin of a minute.
        hi_ms: End, the begin of a minute.
        bin_ticks: Ticks of a bin; None: `adaptive_bin_ticks`.

    Raises:
        InsufficientTrades: As `volume_profile`; the rate is taken from the begin of the first minute.
        BadBinSize: As `volume_profile`.
        OffMinute: The window is not whole minutes, or the minutes are not in order.
        EmptyWindow: `hi_ms` is not after `lo_ms`.
    """
    check_window(lo_ms, hi_ms)
    if lo_ms % MINUTE_MS or hi_ms % MINUTE_MS:
        raise OffMinute(f"[{lo_ms}, {hi_ms}) is not whole minutes", "ask for whole minutes, or pass trades")
    starts = minutes["minute"].to_numpy()
    if np.any(np.diff(starts) < 0):
        raise OffMinute("profile minutes are not ordered by minute", "order them by `minute`")
    first_row, last_row = (int(edge) for edge in np.searchsorted(starts, (lo_ms, hi_ms)))
    inside = minutes.slice(first_row, last_row - first_row)
    # Flattening a slice of lists copies nothing; filtering them would copy a day.
    ticks, buys, sells, counts = (read_only(inside[name].explode().to_numpy()) for name in LISTS)
    trade_count = int(counts.sum())
    if trade_count < MIN_TRADES:
        first_ms = int(starts[first_row]) if trade_count else None
        raise InsufficientTrades(instrument.name, trade_count, estimated_wait_s(trade_count, first_ms, lo_ms, hi_ms))
    low, high = extent(ticks)
    bins = empty_bins(low, high, bin_ticks)
    fill_from_levels(ticks, buys, sells, counts, bins.first_tick, bins.bin_ticks, bins.rows)
    period = (lo_ms, hi_ms, int(starts[first_row]), int(starts[last_row - 1]) + MINUTE_MS)
    return _profile(instrument, period, (low, high), bins)


def estimated_wait_s(trade_count: int, first_ms: int | None, lo_ms: int, hi_ms: int) -> int | None:
    """Return the seconds after `hi_ms` until the window holds `MIN_TRADES`, at the rate since its first trade.

    None where no rate is known, or where a window of that length never holds enough at that rate.
    """
    if first_ms is None or first_ms >= hi_ms:
        return None
    trades_per_ms = trade_count / (hi_ms - first_ms)
    if trades_per_ms * (hi_ms - lo_ms) < MIN_TRADES:
        return None
    return math.ceil((MIN_TRADES - trade_count) / trades_per_ms / SECOND_MS)


def _between(
    trades: pl.DataFrame, lo_ms: int, hi_ms: int
) -> tuple[tuple[int, int] | None, NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Return first and last moment, ticks, lots and taker sides (true: sold) of the trades in a window.

    In numpy, as a query would wake polars' threads, which then spin beside the pass over the trades: 8 ms for 4 ms.
    """
    names = ("time_ms", "price", "quantity", "buyer_is_maker")
    moment, ticks, lots, sold = (read_only(trades[name].to_numpy()) for name in names)
    span = extent(moment) if len(moment) else None
    if span is None or lo_ms <= span[0] <= span[1] < hi_ms:
        return span, ticks, lots, sold
    inside = (moment >= lo_ms) & (moment < hi_ms)
    moment, ticks, lots, sold = (read_only(values[inside]) for values in (moment, ticks, lots, sold))
    return extent(moment) if len(moment) else None, ticks, lots, sold


def _profile(
    instrument: Instrument, period: tuple[int, int, int, int], traded: tuple[int, int], bins: Bins
) -> VolumeProfile:
    rows: list[list[int]] = bins.rows.tolist()
    lots = [row[BUY] + row[SELL] for row in rows]
    total = sum(lots)
    whole = max(total, 1)  # where nothing but zero quantities traded, each share is zero
    control = point_of_control(lots)
    area_first, area_last, held = value_area(lots, control, VALUE_AREA_PCT)
    edges = [instrument.price(bins.edge(index)) for index in range(len(rows) + 1)]
    return VolumeProfile(
        instrument.name,
        *period,
        trade_count=sum(row[COUNT] for row in rows),
        price_low=instrument.price(traded[0]),
        price_high=instrument.price(traded[1]),
        bin_size=instrument.price(bins.bin_ticks),
        point_of_control=instrument.price(bins.edge(control) + bins.edge(control + 1)) / 2,
        value_area_low=edges[area_first],
        value_area_high=edges[area_last + 1],
        value_area_pct=100 * held / whole,
        total_volume=instrument.quantity(total),
        bins=tuple(
            ProfileBin(
                edges[index],
                edges[index + 1],
                instrument.quantity(lot),
                instrument.quantity(row[BUY]),
                instrument.quantity(row[SELL]),
                row[COUNT],
                100 * lot / whole,
            )
            for index, (row, lot) in enumerate(zip(rows, lots, strict=True))
        ),
    )
