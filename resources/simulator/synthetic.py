"""A synthetic market: a pure function of seed, symbol and minute.

Prices are sums of noise on ever longer grids, so that any minute is computed without the ones before it, moves cluster
and the level stays within bounds; trades are drawn along that path on demand, and klines are their sums. Ids are prefix
sums of the trades of each minute since the listing. All is integer arithmetic: the same on every machine.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from trading.market.instrument import Instrument
from trading.market.timeframe import MINUTE_MS, Timeframe

LISTED_MS: Final = 1_704_067_200_000
"""2024-01-01: the first minute of every synthetic market."""

LAST_MINUTE: Final = 6 * 366 * 1440
FIRST_ID: Final = 1_000_000
KNOWN: Final = {"BTCUSDT": (6_000_000, 2, 5), "ETHUSDT": (300_000, 2, 4)}
OCTAVES: Final = 10
Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]


class SyntheticMarket:
    """All symbols of one seed.

    Args:
        seed: The same seed is the same market.
        symbols: Names such as `BTCUSDT`.
    """

    has_trades = True

    def __init__(self, seed: int, symbols: Sequence[str]) -> None:
        self.symbols = tuple(symbols)
        self._paths = {name: _Path(seed, name) for name in symbols}

    def instrument(self, symbol: str) -> Instrument:
        """Return one symbol's instrument."""
        return self._paths[symbol].instrument

    def intervals(self, symbol: str) -> tuple[Timeframe, ...]:
        """Return the timeframes of which there are klines."""
        return tuple(Timeframe)[1:]

    def trades(self, symbol: str, lo_ms: int, hi_ms: int) -> pl.DataFrame:
        """Return the trades with time in `[lo_ms, hi_ms)` as `TRADE_SCHEMA`."""
        path = self._paths[symbol]
        first, last = path.minute(lo_ms), path.minute(hi_ms + MINUTE_MS - 1)
        return path.trades(first, last).filter((pl.col("time_ms") >= lo_ms) & (pl.col("time_ms") < hi_ms))

    def trades_by_id(self, symbol: str, from_id: int, limit: int) -> pl.DataFrame:
        """Return up to `limit` trades with ids from `from_id` on."""
        path = self._paths[symbol]
        before = path.ids
        first = max(0, int(np.searchsorted(before, from_id, side="right")) - 1)
        last = min(LAST_MINUTE, int(np.searchsorted(before, from_id + limit, side="left")) + 1)
        return path.trades(first, last).filter(pl.col("agg_trade_id") >= from_id).head(limit)

    def klines(self, symbol: str, timeframe: Timeframe, lo_ms: int, hi_ms: int) -> pl.DataFrame:
        """Return the bars opening in `[lo_ms, hi_ms)`: prices in ticks, volume in lots; empty minutes repeat the close."""
        path = self._paths[symbol]
        lo_ms = max(timeframe.ceil(lo_ms), LISTED_MS)
        hi_ms = timeframe.ceil(hi_ms)
        return longer(path.minutes(path.minute(lo_ms), path.minute(hi_ms)), timeframe)


@dataclass(frozen=True)
class _Path:
    seed: int
    name: str

    @cached_property
    def instrument(self) -> Instrument:
        base, quote = (self.name[:-4], "USDT") if self.name.endswith("USDT") else (self.name[:-3], self.name[-3:])
        return Instrument("sim", self.name, base, quote, self._shape[1], self._shape[2])

    @cached_property
    def _shape(self) -> tuple[int, int, int]:
        """Level in ticks, decimals of a price and of a quantity."""
        return KNOWN.get(self.name, (50_000 + self._key % 900_000, 4, 2))

    @cached_property
    def _key(self) -> int:
        return int.from_bytes(hashlib.sha256(f"{self.seed}|{self.name}".encode()).digest()[:7], "big")

    def minute(self, time_ms: int) -> int:
        """Return the minute since the listing that holds a moment."""
        return min(max(0, (time_ms - LISTED_MS) // MINUTE_MS), LAST_MINUTE)

    def _hash(self, numbers: Ints, stream: int) -> Hashes:
        """Mix numbers and a stream with the market's key (the finaliser of SplitMix64)."""
        with np.errstate(over="ignore"):
            x = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
            x += np.uint64((self._key + stream * 0xD1342543DE82EF95) % 2**64)
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            return x ^ (x >> np.uint64(31))

    def _counts(self, minutes: Ints) -> Ints:
        """Return trades by minute: more by day than by night, none in one minute of fifty."""
        noon = 720 - np.abs(minutes % 1440 - 720)
        bits = (10 + noon // 60).astype(np.uint64)
        drawn = self._hash(minutes, 1)
        counts = np.bitwise_count(drawn & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)
        return np.where((drawn >> np.uint64(40)) % np.uint64(50) == 0, 0, counts)

    @cached_property
    def ids(self) -> Ints:
        """The id of the first trade of each minute, or of the next trade where it has none."""
        counts = self._counts(np.arange(LAST_MINUTE, dtype=np.int64))
        return FIRST_ID + np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])

    def _levels(self, minutes: Ints) -> Ints:
        """Return the price path in ticks at the start of each minute."""
        level = np.full(len(minutes), self._shape[0], np.int64)
        for octave in range(OCTAVES):
            period = 4**octave
            # A random walk's spread grows with the square root of time: it doubles with each fourfold period.
            spread = self._shape[0] * 2**octave // 4096
            node, inside = minutes // period, minutes % period
            ends = [
                (self._hash(node + step, 10 + octave) % np.uint64(2 * spread + 1)).astype(np.int64) - spread
                for step in (0, 1)
            ]
            part = (ends[0] * (period - inside) + ends[1] * inside) // period
            if octave <= 3:
                # Storm and calm: blocks of six hours scale the short moves from a third to double.
                calm = (self._hash(minutes // 360, 5) % np.uint64(6)).astype(np.int64) + 1
                part = part * calm // 3
            level += part
        return level

    def trades(self, first: int, last: int) -> pl.DataFrame:
        """Return the trades of minutes `[first, last)`."""
        minutes = np.arange(first, max(first, last), dtype=np.int64)
        counts = self.ids[first + 1 : last + 1] - self.ids[first:last]
        ids = np.arange(self.ids[first], self.ids[max(first, last)], dtype=np.int64)
        levels = self._levels(np.append(minutes, minutes[-1:] + 1)) if len(minutes) else np.zeros(1, np.int64)
        which = np.repeat(np.arange(len(minutes)), counts)
        place = ids - self.ids[first:last][which]
        drawn = self._hash(ids, 2)
        jitter = (drawn % np.uint64(MINUTE_MS)).astype(np.int64)
        offset = (place * MINUTE_MS + jitter) // np.maximum(counts[which], 1)
        spread = self._shape[0] // 8192
        noise = ((drawn >> np.uint64(20)) % np.uint64(2 * spread + 1)).astype(np.int64) - spread
        here, there = levels[:-1][which], levels[1:][which]
        price = here + (there - here) * offset // MINUTE_MS + noise
        size = ((drawn >> np.uint64(34)) % np.uint64(4096)).astype(np.int64) + 1
        quantity = np.where((drawn >> np.uint64(48)) % np.uint64(32) == 0, size * 16, size)
        return pl.DataFrame(
            {
                "agg_trade_id": ids,
                "price": price,
                "quantity": quantity,
                "first_trade_id": ids * 2,
                "last_trade_id": ids * 2 + 1,
                "time_ms": LISTED_MS + (first + which) * MINUTE_MS + offset,
                "buyer_is_maker": (drawn >> np.uint64(60)) % np.uint64(2) == 0,
            }
        )

    def minutes(self, first: int, last: int) -> pl.DataFrame:
        """Return one row for each minute of `[first, last)`; one without a trade repeats the close before it."""
        before = first
        while before > 0 and self.ids[before] == self.ids[first]:
            before -= 1  # back to a minute with a trade, for the close that an empty first minute repeats
        bars = minute_sums(self.trades(before, last))
        wanted = pl.DataFrame({"open_time": LISTED_MS + np.arange(before, last, dtype=np.int64) * MINUTE_MS})
        filled = wanted.join(bars, on="open_time", how="left").with_columns(pl.col("close").forward_fill())
        prices = [pl.col(name).fill_null(pl.col("close")) for name in ("open", "high", "low")]
        rest = [pl.col(name).fill_null(0) for name in ("volume", "notional", "trade_count", "taker_volume")]
        return filled.with_columns(*prices, *rest).filter(
            (pl.col("open_time") >= LISTED_MS + first * MINUTE_MS) & pl.col("close").is_not_null()
        )


def minute_sums(trades: pl.DataFrame) -> pl.DataFrame:
    """Return one row for each minute with a trade: prices in ticks, volumes in lots, notional in ticks times lots."""
    return (
        trades.group_by(open_time=pl.col("time_ms") // MINUTE_MS * MINUTE_MS, maintain_order=True)
        .agg(
            open=pl.col("price").first(),
            high=pl.col("price").max(),
            low=pl.col("price").min(),
            close=pl.col("price").last(),
            volume=pl.col("quantity").sum(),
            notional=(pl.col("price") * pl.col("quantity")).sum(),
            trade_count=(pl.col("last_trade_id") - pl.col("first_trade_id") + 1).sum(),
            taker_volume=pl.col("quantity").filter(~pl.col("buyer_is_maker")).sum(),
        )
        .sort("open_time")
    )


def longer(minutes: pl.DataFrame, timeframe: Timeframe) -> pl.DataFrame:
    """Return bars of a longer timeframe summed from minute rows."""
    if timeframe is Timeframe.M1:
        return minutes
    return (
        minutes.group_by(open_time=pl.col("open_time") // timeframe.ms * timeframe.ms, maintain_order=True)
        .agg(
            open=pl.col("open").first(),
            high=pl.col("high").max(),
            low=pl.col("low").min(),
            close=pl.col("close").last(),
            **{name: pl.col(name).sum() for name in ("volume", "notional", "trade_count", "taker_volume")},
        )
        .sort("open_time")
    )
