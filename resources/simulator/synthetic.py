"""A synthetic market: all symbols of one seed and kind, each a pure function of the moment.

Klines are sums of trades, fills are parts of them, and the order book follows them, so that all agree.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from resources.simulator.derivatives import SyntheticDerivatives
from resources.simulator.klines import longer
from resources.simulator.market import NotRecorded
from resources.simulator.order_book import SyntheticBook
from resources.simulator.price_path import LAST_MINUTE, LISTED_MS, PricePath
from trading.market.instrument import Instrument
from trading.market.timeframe import MINUTE_MS, Timeframe


class SyntheticMarket:
    """All symbols of one seed.

    Args:
        seed: The same seed is the same market.
        symbols: Names such as `BTCUSDT`.
        kind: `spot`, or `usdm` for the perpetual contracts on the same prices.
        trades_per_second: Of each symbol; 0: about ten a minute.
    """

    has_trades = True

    def __init__(self, seed: int, symbols: Sequence[str], kind: str = "spot", trades_per_second: int = 0) -> None:
        self.symbols, self.kind = tuple(symbols), kind
        self._paths = {name: PricePath(seed, name, kind, trades_per_second) for name in symbols}
        self._books = {name: SyntheticBook(path) for name, path in self._paths.items()}

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

    def fills(self, symbol: str, lo_ms: int, hi_ms: int) -> pl.DataFrame:
        """Return the fills of the trades in `[lo_ms, hi_ms)`: each trade is two, the greater first."""
        trades = self.trades(symbol, lo_ms, hi_ms)
        half = pl.col("quantity") // 2
        parts = [
            trades.with_columns(trade_id=pl.col("first_trade_id"), quantity=pl.col("quantity") - half),
            trades.with_columns(trade_id=pl.col("last_trade_id"), quantity=half),
        ]
        return pl.concat(parts).sort("trade_id")

    def klines(self, symbol: str, timeframe: Timeframe, lo_ms: int, hi_ms: int) -> pl.DataFrame:
        """Return the bars opening in `[lo_ms, hi_ms)`: prices in ticks, volume in lots; empty minutes repeat the close."""
        path = self._paths[symbol]
        lo_ms = max(timeframe.ceil(lo_ms), LISTED_MS)
        hi_ms = timeframe.ceil(hi_ms)
        return longer(path.minutes(path.minute(lo_ms), path.minute(hi_ms)), timeframe)

    def frames(self, stream: str, lo_ms: int, hi_ms: int) -> None:
        """Return None: nothing is recorded, all is computed."""

    def book(self, symbol: str) -> SyntheticBook:
        """Return one symbol's order book."""
        return self._books[symbol]

    def derivatives(self, symbol: str) -> SyntheticDerivatives:
        """Return one contract's mark price, funding and open interest."""
        path = self._paths[symbol]
        if self.kind == "spot":
            raise NotRecorded(f"{symbol} is no contract")
        return SyntheticDerivatives(path, PricePath(path.seed, symbol))
