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


def in_python(rows: list[tuple[Any, ...]]) -> list[list[float]]:
    """Group row by row, as one writes it first."""
    bars: dict[int, list[int]] = {}
    for _, price, quantity, _, _, time_ms, _ in rows:
        minute = time_ms // MINUTE_MS * MINUTE_MS
        bar = bars.get(minute)
        if bar is None:
            bars[minute] = [price, price, price, price, quantity]
            continue
        bar[1] = max(bar[1], price)
        bar[2] = min(bar[2], price)
        bar[3] = price
        bar[4] += quantity
    return [
        [t, bar[0] / PRICE, bar[1] / PRICE, bar[2] / PRICE, bar[3] / PRICE, bar[4] / LOT] for t, bar in bars.items()
    ]


def in_numpy(times: np.ndarray, price: np.ndarray, quantity: np.ndarray) -> np.ndarray:
    """Reduce ordered columns at the edges of minutes, with nothing around it."""
    minutes = times // MINUTE_MS
    starts = np.flatnonzero(np.diff(minutes, prepend=-1))
    ends = np.append(starts[1:], len(times)) - 1
    return np.column_stack(
        [
            minutes[starts] * MINUTE_MS,
            price[starts] / PRICE,
            np.maximum.reduceat(price, starts) / PRICE,
            np.minimum.reduceat(price, starts) / PRICE,
            price[ends] / PRICE,
            np.add.reduceat(quantity, starts) / LOT,
        ]
    )


def _same(ours: pl.DataFrame, other: Any) -> bool:
    if isinstance(other, pl.DataFrame):
        return ours.equals(other)
    columns = ours.select("open_time", "open", "high", "low", "close", "volume").cast(pl.Float64).to_numpy()
    return np.array_equal(columns, np.asarray(other))


def comparisons(count: int = 600_000) -> Iterator[Comparison]:
    """Yield each comparison as it is done."""
    frame = trades(count)
    rows = frame.rows()
    columns = [frame[name].to_numpy() for name in ("time_ms", "price", "quantity")]
    day = [(START_MS, START_MS + DAY_MS)]
    yield compare(
        "candles_from_trades",
        len(frame),
        "trades",
        {
            OURS: lambda: candles_from_trades(frame, INSTRUMENT, Timeframe.M1, day),
            "python": lambda: in_python(rows),
            "limit": lambda: in_numpy(*columns),
        },
        _same,
    )
