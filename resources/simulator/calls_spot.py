"""Binance spot's REST calls under `/api/v3`, with their weights."""

import json
from typing import Any, Final

from resources.simulator.calls import Call, MarketCalls, Query, always, filters, stepped, weight_limit
from resources.simulator.clock import Clock
from resources.simulator.market import Market

WEIGHT_A_MINUTE: Final = 6000
DEPTH_ROWS: Final = (100, 5000)
DEPTH_WEIGHTS: Final = {100: 5, 500: 25, 1000: 50, 5000: 250}


class SpotCalls(MarketCalls):
    """One spot market's answers."""

    def __init__(self, market: Market, clock: Clock) -> None:
        super().__init__(market, clock)
        self.calls = {
            "/api/v3/ping": Call(always(1), self.ping),
            "/api/v3/time": Call(always(1), self.time),
            "/api/v3/exchangeInfo": Call(always(20), self.info),
            "/api/v3/klines": Call(always(2), self.klines),
            "/api/v3/aggTrades": Call(always(4), self.agg_trades),
            "/api/v3/trades": Call(always(25), self.trades),
            "/api/v3/depth": Call(stepped(DEPTH_WEIGHTS, DEPTH_ROWS[0]), lambda query: self.depth(query, *DEPTH_ROWS)),
        }

    def info(self, query: Query) -> str:
        """Answer `exchangeInfo`."""
        names = list(self.market.symbols)
        if "symbol" in query:
            names = [self.symbol(query)]
        elif "symbols" in query:
            names = [self.known(name) for name in json.loads(query["symbols"])]
        answer = {"timezone": "UTC", "serverTime": self.clock.now_ms(), "rateLimits": [weight_limit(WEIGHT_A_MINUTE)]}
        return json.dumps(answer | {"symbols": [self._symbol(name) for name in names]}, ensure_ascii=False)

    def _symbol(self, name: str) -> dict[str, Any]:
        instrument = self.market.instrument(name)
        names = {"symbol": name, "status": "TRADING", "baseAsset": instrument.base, "quoteAsset": instrument.quote}
        return names | {"filters": filters(instrument)}
