"""One-minute candles from a day of trades."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import polars as pl

from benchmarks.comparison import OURS, Comparison, compare
from trading.market.candle import candles_from_trades
from trading.market.instrument import Instrument
from trading.market.timeframe import DAY_MS, MINUTE_MS, Timeframe

START_MS = 1_760_054_400_000
INSTRUMENT = Instrument("sim", "BTCUSDT", "BTC", "USDT", 2, 5)
PRICE, LOT = 10**INSTRUMENT.price_decimals, 10**INSTRUMENT.quantity_decimals


def trades(count: int) -> pl.DataFrame:
    """Return `count` trades of one day: a random walk of prices, log-normal sizes, bursts in time."""
    random = np.random.default_rng(5)
    ids = np.arange(count)
    return pl.DataFrame(
        {
            "agg_trade_id": ids,
            "price": 6_800_000 + np.cumsum(random.integers(-40, 41, count)),
            "quantity": np.maximum(random.lognormal(6, 1.8, count).astype(np.int64), 1),
            "first_trade_id": ids,
            "last_trade_id": ids,
            "time_ms": START_MS + np.sort((random.beta(2, 3, count) * DAY_MS).astype(np.int64)),
            "buyer_is_maker": random.random(count) < 0.5,
        }
    )


def in_python(rows: list[tuple[Any, ...]]) -> list[tuple[float, ...]]:
    """Group row by row, as one writes it first."""
    bars: dict[int, list[int]] = {}
    for number, price, quantity, first, last, time_ms, _ in rows:
        minute = time_ms // MINUTE_MS * MINUTE_MS
        bar = bars.get(minute)
        if bar is None:
            bars[minute] = [price, price, price, price, quantity, price * quantity, last - first + 1, number, number]
            continue
        bar[1] = max(bar[1], price)
        bar[2] = min(bar[2], price)
        bar[3] = price
        bar[4] += quantity
        bar[5] += price * quantity
        bar[6] += last - first + 1
        bar[8] = number
    return [
        (minute, *(p / PRICE for p in bar[:4]), bar[4] / LOT, bar[5] / (PRICE * LOT), *bar[6:])
        for minute, bar in bars.items()
    ]


def in_numpy(
    number: np.ndarray, price: np.ndarray, lots: np.ndarray, first: np.ndarray, last: np.ndarray, times: np.ndarray
) -> np.ndarray:
    """Reduce ordered columns at the edges of minutes, with nothing around it."""
    minutes = times // MINUTE_MS
    ends = np.append(np.flatnonzero(minutes[1:] != minutes[:-1]), len(times) - 1)
    starts = np.append(0, ends[:-1] + 1)
    return np.column_stack(
        [
            minutes[starts] * MINUTE_MS,
            price[starts] / PRICE,
            np.maximum.reduceat(price, starts) / PRICE,
            np.minimum.reduceat(price, starts) / PRICE,
            price[ends] / PRICE,
            np.add.reduceat(lots, starts) / LOT,
            np.add.reduceat(price * lots, starts) / (PRICE * LOT),
            np.add.reduceat(last - first + 1, starts),
            number[starts],
            number[ends],
        ]
    )


def _same(ours: pl.DataFrame, other: Any) -> bool:
    if isinstance(other, pl.DataFrame):
        return ours.equals(other)
    numbers = ours.drop("source", "complete", "n_present", "n_expected", "known_at_ms").cast(pl.Float64)
    return np.array_equal(numbers.to_numpy(), np.asarray(other))


def comparisons(count: int = 1_000_000) -> Iterator[Comparison]:
    """Yield each comparison as it is done."""
    frame = trades(count)
    rows = frame.rows()
    columns = [frame[name].to_numpy() for name in frame.columns[:-1]]
    day = [(START_MS, START_MS + DAY_MS)]
    yield compare(
        "candles",
        len(frame),
        "trades",
        {
            OURS: lambda: candles_from_trades(frame, INSTRUMENT, Timeframe.M1, day),
            "python": lambda: in_python(rows),
            "limit": lambda: in_numpy(*columns),
        },
        _same,
    )
