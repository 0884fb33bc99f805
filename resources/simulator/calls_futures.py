"""Binance USDⓈ-M's REST calls under `/fapi/v1` and `/futures/data`, with their weights."""

import json
from typing import Any, Final

import numpy as np

from resources.simulator.calls import Call, MarketCalls, Query, Refused, always, filters, number, stepped, weight_limit
from resources.simulator.clock import Clock
from resources.simulator.market import Market
from resources.simulator.price_path import LISTED_MS
from resources.simulator.wire_futures import funding_rates, open_interest, open_interest_history, premium_index
from trading.market.timeframe import DAY_MS, MINUTE_MS

WEIGHT_A_MINUTE: Final = 2400
MOST_KLINES: Final = 1500
KLINE_WEIGHTS: Final = {99: 1, 499: 2, 1000: 5, MOST_KLINES: 10}
DEPTH_ROWS: Final = (500, 1000)
DEPTH_WEIGHTS: Final = {5: 2, 10: 2, 20: 2, 50: 2, 100: 5, 500: 10, 1000: 20}
PERIODS: Final = {"5m": 5, "15m": 15, "30m": 30, "1h": 60, "2h": 120, "4h": 240, "6h": 360, "12h": 720, "1d": 1440}
HISTORY_MS: Final = 30 * DAY_MS
FUNDING_ROWS: Final = (100, 1000)
INTEREST_ROWS: Final = (30, 500)


class FuturesCalls(MarketCalls):
    """One futures market's answers."""

    def __init__(self, market: Market, clock: Clock) -> None:
        super().__init__(market, clock, MOST_KLINES)
        self.calls = {
            "/fapi/v1/ping": Call(always(1), self.ping),
            "/fapi/v1/time": Call(always(1), self.time),
            "/fapi/v1/exchangeInfo": Call(always(1), self.info),
            "/fapi/v1/klines": Call(stepped(KLINE_WEIGHTS, 500), self.klines),
            "/fapi/v1/aggTrades": Call(always(20), self.agg_trades),
            "/fapi/v1/trades": Call(always(5), self.trades),
            "/fapi/v1/depth": Call(stepped(DEPTH_WEIGHTS, DEPTH_ROWS[0]), self.valid_depth),
            "/fapi/v1/premiumIndex": Call(lambda query: 1 if "symbol" in query else 10, self.premium_index),
            "/fapi/v1/fundingRate": Call(always(1), self.funding_rate),
            "/fapi/v1/openInterest": Call(always(1), self.open_interest),
            "/futures/data/openInterestHist": Call(always(0), self.open_interest_history),
        }

    def info(self, query: Query) -> str:
        """Answer `exchangeInfo`; like the real one it takes no parameters."""
        answer = {"timezone": "UTC", "serverTime": self.clock.now_ms(), "futuresType": "U_MARGINED"}
        answer |= {"rateLimits": [weight_limit(WEIGHT_A_MINUTE)], "exchangeFilters": []}
        return json.dumps(answer | {"symbols": [self._contract(n) for n in self.market.symbols]}, ensure_ascii=False)

    def _contract(self, name: str) -> dict[str, Any]:
        i = self.market.instrument(name)
        names = {"symbol": name, "pair": name, "contractType": "PERPETUAL", "deliveryDate": 4_133_404_800_000}
        names |= {"onboardDate": LISTED_MS, "status": "TRADING", "baseAsset": i.base, "quoteAsset": i.quote}
        names |= {"marginAsset": i.quote, "pricePrecision": i.price_decimals, "quantityPrecision": i.quantity_decimals}
        return names | {"filters": filters(i)}

    def valid_depth(self, query: Query) -> str:
        """Answer `depth`, which takes some limits only."""
        if number(query, "limit", DEPTH_ROWS[0]) not in DEPTH_WEIGHTS:
            raise Refused(-4021, f"{query['limit']} is not valid depth limit.")
        return self.depth(query, *DEPTH_ROWS)

    def premium_index(self, query: Query) -> str:
        """Answer `premiumIndex`, of one symbol or of all."""
        names = [self.symbol(query)] if "symbol" in query else list(self.market.symbols)
        now, market = self.clock.now_ms(), self.market
        found = [premium_index(now, market.derivatives(name), market.instrument(name)) for name in names]
        return json.dumps(found[0] if "symbol" in query else found, ensure_ascii=False)

    def funding_rate(self, query: Query) -> str:
        """Answer `fundingRate`: the newest ones, or those from a time on."""
        symbol, limit = self.symbol(query), number(query, "limit", FUNDING_ROWS[0], 1, FUNDING_ROWS[1])
        lo, hi = self.span(query)
        fundings = self.market.derivatives(symbol).fundings(lo or 0, hi)
        fundings = fundings.tail(limit) if lo is None else fundings.head(limit)
        return funding_rates(fundings, self.market.instrument(symbol))

    def open_interest(self, query: Query) -> str:
        """Answer `openInterest`."""
        symbol = self.symbol(query)
        return open_interest(self.clock.now_ms(), self.market.derivatives(symbol), self.market.instrument(symbol))

    def open_interest_history(self, query: Query) -> str:
        """Answer `openInterestHist`, which reaches thirty days back."""
        symbol, limit = self.symbol(query), number(query, "limit", INTEREST_ROWS[0], 1, INTEREST_ROWS[1])
        if query.get("period") not in PERIODS:
            raise Refused(-1130, "Data sent for parameter 'period' is not valid.")
        period = PERIODS[query["period"]] * MINUTE_MS
        lo, hi = self.span(query)
        oldest = self.clock.now_ms() - HISTORY_MS
        if lo is not None and lo < oldest:
            raise Refused(-1130, "parameter 'startTime' is invalid.")
        first = -(-max(lo or 0, oldest, LISTED_MS) // period)
        times = np.arange(first, -(-hi // period), dtype=np.int64) * period
        times = times[-limit:] if lo is None else times[:limit]
        return open_interest_history(times, self.market.derivatives(symbol), self.market.instrument(symbol))
