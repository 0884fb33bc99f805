"""Klines off the wire as a check of the trades that were taken: they agree, or what differs has a name.

A kline says nothing that its trades do not say, so no value of one is kept. It waits until the ledger proves its time;
what is never proven is forgotten, as nothing can be said of it.
"""

from collections.abc import Iterable, Mapping
from typing import Final

import polars as pl

from trading.stream.contiguity import IdRange
from trading.stream.events import Kline

INTERVAL: Final = "1m"
MOST_WAITING: Final = 1_000


class KlineCheck:
    """Closed klines that wait for their trades.

    Attributes:
        forgotten: How many were given up, oldest first, because too many waited.
    """

    def __init__(self) -> None:
        self.forgotten = 0
        self._waiting: dict[tuple[str, int], Kline] = {}
        self._newest_ms: dict[str, int] = {}

    def take(self, symbol: str, kline: Kline) -> None:
        """Take a kline off the wire; two connections bring it twice, and it is compared once."""
        if kline.closed and kline.interval == INTERVAL and kline.open_time_ms > self._newest_ms.get(symbol, 0):
            self._newest_ms[symbol] = kline.open_time_ms
            self._waiting[symbol, kline.open_time_ms] = kline
            if len(self._waiting) > MOST_WAITING:
                del self._waiting[next(iter(self._waiting))]
                self.forgotten += 1

    def proven(self, ledgers: Mapping[str, Iterable[IdRange]]) -> list[tuple[str, Kline]]:
        """Return, once, the klines of whose time a ledger says that no trade is missing."""
        ready = [key for key, kline in self._waiting.items() if _proves(ledgers.get(key[0], ()), kline)]
        return [(key[0], self._waiting.pop(key)) for key in ready]


def differences(kline: Kline, trades: pl.DataFrame) -> dict[str, tuple[int, int]]:
    """Return what a kline says otherwise than the trades of its time: its number and theirs, by name.

    Args:
        kline: Closed; prices in ticks, volumes in lots, `trades` counts fills.
        trades: `TRADE_SCHEMA`, by id: all of its time.
    """
    fills = (trades["last_trade_id"] - trades["first_trade_id"] + 1).sum()
    bought = trades.filter(~pl.col("buyer_is_maker"))["quantity"].sum()
    ours = {"volume": int(trades["quantity"].sum()), "taker_buy_volume": int(bought), "trades": int(fills)}
    # A minute without a trade repeats the price of the one before.
    if prices := trades["price"].to_list():
        ours |= {"open": prices[0], "high": max(prices), "low": min(prices), "close": prices[-1]}
    said = {name: (getattr(kline, name), number) for name, number in ours.items()}
    return {name: pair for name, pair in said.items() if pair[0] is not None and pair[0] != pair[1]}


def _proves(ranges: Iterable[IdRange], kline: Kline) -> bool:
    return any(r.proven_from_ms <= kline.open_time_ms and kline.close_time_ms < r.proven_until_ms for r in ranges)
