"""Mark price, funding and open interest of a synthetic perpetual contract, each a pure function of the moment.

The index is the price of the spot market, the mark price that of the contract; both are finer than a tick. Funding is
settled every eight hours, a few milliseconds late as on the real exchange; the rate announced before drifts towards it.
"""

from typing import Final

import numpy as np
import polars as pl

from resources.simulator.price_path import LISTED_MS, Ints, PricePath
from trading.market.timeframe import MINUTE_MS

FUNDING_MS: Final = 8 * 60 * MINUTE_MS
DECIMALS: Final = 8
RATES, LATENESS, DRIFT, INTEREST, FRACTION = 60, 61, 62, 63, 64
"""Streams of noise."""

CONTRACTS: Final = 80_000
"""About so many coins are open."""


class SyntheticDerivatives:
    """One contract and the spot market under it."""

    def __init__(self, contract: PricePath, spot: PricePath) -> None:
        self._contract, self._spot = contract, spot

    def mark_prices(self, times_ms: Ints) -> Ints:
        """Return mark prices in units of 1e-8."""
        return self._fine(self._contract, times_ms)

    def index_prices(self, times_ms: Ints) -> Ints:
        """Return index prices in units of 1e-8."""
        return self._fine(self._spot, times_ms)

    def funding_rates(self, times_ms: Ints) -> Ints:
        """Return the rate announced at each moment for the next funding, in units of 1e-8."""
        following = times_ms // FUNDING_MS + 1
        drift = self._contract.noise((times_ms - LISTED_MS) // MINUTE_MS, 30, 2_000, DRIFT)
        return self._settled(following) + drift * (following * FUNDING_MS - times_ms) // FUNDING_MS

    def fundings(self, lo_ms: int, hi_ms: int) -> pl.DataFrame:
        """Return the fundings in `[lo_ms, hi_ms)`: time, rate and mark price in units of 1e-8."""
        numbers = np.arange(max(lo_ms, LISTED_MS) // FUNDING_MS, hi_ms // FUNDING_MS + 1, dtype=np.int64)
        late = (self._contract.hashes(numbers, LATENESS) % np.uint64(18)).astype(np.int64)
        times = numbers * FUNDING_MS + late
        columns = {"time_ms": times, "rate": self._settled(numbers), "mark_price": self.mark_prices(times)}
        return pl.DataFrame(columns).filter((pl.col("time_ms") >= lo_ms) & (pl.col("time_ms") < hi_ms))

    def open_interest(self, times_ms: Ints) -> Ints:
        """Return open interest in lots."""
        lots = CONTRACTS * 10**self._contract.instrument.quantity_decimals
        return lots + self._contract.noise((times_ms - LISTED_MS) // 1000, 3600, lots // 8, INTEREST)

    def _settled(self, numbers: Ints) -> Ints:
        return (self._contract.hashes(numbers, RATES) % np.uint64(30_001)).astype(np.int64) - 10_000

    def _fine(self, path: PricePath, times_ms: Ints) -> Ints:
        unit = 10 ** (DECIMALS - path.instrument.price_decimals)
        fraction = path.hashes(times_ms, FRACTION) % np.uint64(unit)
        return path.levels_at(times_ms) * unit + fraction.astype(np.int64)
