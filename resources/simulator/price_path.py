"""The price of one synthetic market and the trades along it: a pure function of seed, symbol, kind and minute.

Prices are sums of noise on ever longer grids, so that any minute is computed without the ones before it, moves cluster
and the level stays within bounds; trades are drawn along that path on demand. Ids are prefix sums of the trades of each
minute since the listing. All is integer arithmetic: the same on every machine.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from resources.simulator.klines import minute_sums
from trading.market.instrument import Instrument
from trading.market.timeframe import MINUTE_MS

LISTED_MS: Final = 1_704_067_200_000
"""2024-01-01: the first minute of every synthetic market."""

LAST_MINUTE: Final = 6 * 366 * 1440
FIRST_ID: Final = 1_000_000
KNOWN: Final = {"BTCUSDT": (6_000_000, 2, 5), "ETHUSDT": (300_000, 2, 4)}
OCTAVES: Final = 10
COUNTS, TRADES, CALM, LEVELS, BASIS = 1, 2, 5, 10, 40
"""Streams of noise. A future is a market of its own on the same price: it counts and draws its trades elsewhere."""

FUTURE: Final = 100
BASIS_MINUTES: Final = 240
Ints = NDArray[np.int64]
Hashes = NDArray[np.uint64]


@dataclass(frozen=True)
class PricePath:
    """One market.

    Attributes:
        seed: The same seed is the same market.
        name: Such as `BTCUSDT`.
        kind: `spot`, or `usdm` for a perpetual contract, which stays within a thousandth of the spot price.
        trades_per_second: So many in each second of each minute; 0: about ten a minute, as `_counts` draws them.
    """

    seed: int
    name: str
    kind: str = "spot"
    trades_per_second: int = 0

    @cached_property
    def instrument(self) -> Instrument:
        """The market's instrument."""
        base, quote = (self.name[:-4], "USDT") if self.name.endswith("USDT") else (self.name[:-3], self.name[-3:])
        return Instrument("sim", self.name, base, quote, self._shape[1], self._shape[2], self.kind)

    @property
    def base(self) -> int:
        """The level in ticks around which the price moves, never more than 27 % away."""
        return self._shape[0]

    @cached_property
    def _shape(self) -> tuple[int, int, int]:
        """Level in ticks, decimals of a price and of a quantity."""
        return KNOWN.get(self.name, (50_000 + self._key % 900_000, 4, 2))

    @cached_property
    def _key(self) -> int:
        return int.from_bytes(hashlib.sha256(f"{self.seed}|{self.name}".encode()).digest()[:7], "big")

    @property
    def apart(self) -> int:
        """What is added to a stream of noise that markets of two kinds must not share."""
        return 0 if self.kind == "spot" else FUTURE

    def minute(self, time_ms: int) -> int:
        """Return the minute since the listing that holds a moment."""
        return min(max(0, (time_ms - LISTED_MS) // MINUTE_MS), LAST_MINUTE)

    def hashes(self, numbers: Ints, stream: int) -> Hashes:
        """Mix numbers and a stream with the market's key (the finaliser of SplitMix64)."""
        with np.errstate(over="ignore"):
            x = numbers.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
            x += np.uint64((self._key + stream * 0xD1342543DE82EF95) % 2**64)
            x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            return x ^ (x >> np.uint64(31))

    def noise(self, numbers: Ints, period: int, spread: int, stream: int) -> Ints:
        """Return noise within plus and minus `spread`, drawn every `period` numbers with straight lines between."""
        node, inside = numbers // period, numbers % period
        ends = [
            (self.hashes(node + step, stream) % np.uint64(2 * spread + 1)).astype(np.int64) - spread for step in (0, 1)
        ]
        return (ends[0] * (period - inside) + ends[1] * inside) // period

    def _counts(self, minutes: Ints) -> Ints:
        """Return trades by minute: more by day than by night, none in one minute of fifty."""
        if self.trades_per_second:
            return np.full(len(minutes), 60 * self.trades_per_second, np.int64)
        noon = 720 - np.abs(minutes % 1440 - 720)
        bits = (10 + noon // 60).astype(np.uint64)
        drawn = self.hashes(minutes, COUNTS + self.apart)
        counts = np.bitwise_count(drawn & ((np.uint64(1) << bits) - np.uint64(1))).astype(np.int64)
        return np.where((drawn >> np.uint64(40)) % np.uint64(50) == 0, 0, counts)

    @cached_property
    def ids(self) -> Ints:
        """The id of the first trade of each minute, or of the next trade where it has none."""
        counts = self._counts(np.arange(LAST_MINUTE, dtype=np.int64))
        return FIRST_ID + np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])

    def levels(self, minutes: Ints) -> Ints:
        """Return the price path in ticks at the start of each minute."""
        level = np.full(len(minutes), self.base, np.int64)
        for octave in range(OCTAVES):
            # A random walk's spread grows with the square root of time: it doubles with each fourfold period.
            part = self.noise(minutes, 4**octave, self.base * 2**octave // 4096, LEVELS + octave)
            if octave <= 3:
                # Storm and calm: blocks of six hours scale the short moves from a third to double.
                calm = (self.hashes(minutes // 360, CALM) % np.uint64(6)).astype(np.int64) + 1
                part = part * calm // 3
            level += part
        if self.kind != "spot":
            level += self.noise(minutes, BASIS_MINUTES, self.base // 2048, BASIS)
        return level

    def levels_at(self, times_ms: Ints) -> Ints:
        """Return the price path in ticks at each moment."""
        minutes, inside = np.divmod(times_ms - LISTED_MS, MINUTE_MS)
        here, there = self.levels(minutes), self.levels(minutes + 1)
        return here + (there - here) * inside // MINUTE_MS

    def trades(self, first: int, last: int) -> pl.DataFrame:
        """Return the trades of minutes `[first, last)`, each of two fills."""
        minutes = np.arange(first, max(first, last), dtype=np.int64)
        counts = self.ids[first + 1 : last + 1] - self.ids[first:last]
        ids = np.arange(self.ids[first], self.ids[max(first, last)], dtype=np.int64)
        levels = self.levels(np.append(minutes, minutes[-1:] + 1)) if len(minutes) else np.zeros(1, np.int64)
        which = np.repeat(np.arange(len(minutes)), counts)
        place = ids - self.ids[first:last][which]
        drawn = self.hashes(ids, TRADES + self.apart)
        jitter = (drawn % np.uint64(MINUTE_MS)).astype(np.int64)
        offset = (place * MINUTE_MS + jitter) // np.maximum(counts[which], 1)
        spread = self.base // 8192
        noise = ((drawn >> np.uint64(20)) % np.uint64(2 * spread + 1)).astype(np.int64) - spread
        here, there = levels[:-1][which], levels[1:][which]
        price = here + (there - here) * offset // MINUTE_MS + noise
        size = ((drawn >> np.uint64(34)) % np.uint64(4096)).astype(np.int64) + 2
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
