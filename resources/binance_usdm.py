"""Binance USDⓈ-M's REST interface: what spot's has under another path, and open interest, funding and mark prices.

Rules of paging (developers.binance.com, Market Data): `fundingRate` gives up to 1,000 rows from `startTime` on and shares
500 calls in five minutes; `openInterestHist` gives up to 500 rows of the latest 30 days and allows 1,000 calls in
five minutes beside the weight. It refuses to be asked about older times, so they are not asked for here.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

from resources.binance import BinanceRest, UnknownSymbol, binance_refusal, instruments_of
from resources.http_budget import HttpBudget
from resources.rest_root import ExchangeRefused, RestRoot
from resources.venue_rest import forward, in_spans, read_answer
from trading.errors import TradingError
from trading.market.derivatives import AssetContext, Funding, OpenInterest
from trading.market.instrument import Instrument
from trading.market.timeframe import DAY_MS, MINUTE_MS
from trading.stream.usdm import (
    decode_fundings,
    decode_open_interest,
    decode_open_interest_history,
    decode_premium_index,
)

FUNDING_PAGE: Final = 1000
HISTORY_PAGE: Final = 500
PERIOD: Final = "5m"
PERIOD_MS: Final = 5 * MINUTE_MS
HISTORY_REACH_MS: Final = 30 * DAY_MS
MARGIN_MS: Final = MINUTE_MS
"""The exchange measures its thirty days when the request arrives."""

# Calls with limits of their own are given the weight that keeps them within those at the pace of 2,400 a minute.
FUNDING_WEIGHT: Final = 24
HISTORY_WEIGHT: Final = 12


class NoFuturesRoot(TradingError):
    """The root does not serve USDⓈ-M."""


def usdm_refusal(call: str, query: Any, status: int, body: bytes) -> TradingError:
    """Return the error of a refused call; a root without these calls is no futures root."""
    if status == 404:
        return NoFuturesRoot(f"the exchange has no call {call} of USDⓈ-M", "check TRADING_FUTURES_REST_URL")
    error = binance_refusal(call, query, status, body)
    return error if isinstance(error, UnknownSymbol) else ExchangeRefused(error.message, error.hint)


class UsdmRest(BinanceRest):
    """A client of one futures root.

    Args:
        base_url: For example `https://fapi.binance.com`, or the simulated exchange.
        budget_file: Where the processes of a home share what they use; None: this one asks alone.
    """

    path: ClassVar[str] = "/fapi/v1"
    weights: ClassVar[Mapping[str, int]] = {"depth": 20, "aggTrades": 20, "klines": 5, "exchangeInfo": 1, "time": 1}

    def __init__(self, base_url: str, budget_file: Path | None = None) -> None:
        root = base_url.rstrip("/")
        # A spot and a futures root count apart, also where one server is both.
        budget = HttpBudget(f"{root}/fapi", 2400, budget_file)
        self._rest = RestRoot(root, budget, usdm_refusal, setting="TRADING_FUTURES_REST_URL")

    async def instruments(self, symbols: Sequence[str], venue: str) -> dict[str, Instrument]:
        """Return contracts by name, with the steps of their price and lot filters; a symbol without one is left out."""
        return instruments_of(await self._get("exchangeInfo", {}), symbols, venue, "usdm")

    async def open_interest(self, symbol: str) -> OpenInterest:
        """Return what is open now, in the base coin."""
        body = await self._rest.get("/fapi/v1/openInterest", {"symbol": symbol}, 1)
        return read_answer("openInterest", lambda b: decode_open_interest(b, symbol), body)

    async def premium_index(self, symbol: str) -> AssetContext:
        """Return mark and index price now, with the funding that comes next."""
        body = await self._rest.get("/fapi/v1/premiumIndex", {"symbol": symbol}, 1)
        return read_answer("premiumIndex", lambda b: decode_premium_index(b, symbol), body)

    async def fundings(self, symbol: str, lo_ms: int, hi_ms: int) -> list[Funding]:
        """Return the fundings settled in `[lo_ms, hi_ms)`, oldest first."""

        async def ask(at_ms: int) -> list[Funding]:
            query = {"symbol": symbol, "startTime": at_ms, "endTime": hi_ms - 1, "limit": FUNDING_PAGE}
            body = await self._rest.get("/fapi/v1/fundingRate", query, FUNDING_WEIGHT)
            return read_answer("fundingRate", lambda b: decode_fundings(b, symbol), body)

        return await forward(ask, lo_ms, hi_ms, FUNDING_PAGE)

    async def open_interest_history(self, symbol: str, lo_ms: int, hi_ms: int, now_ms: int) -> list[OpenInterest]:
        """Return open interest every five minutes in `[lo_ms, hi_ms)`, as far back as the exchange keeps it.

        Args:
            symbol: Exchange name.
            lo_ms: Start of the span.
            hi_ms: End of it.
            now_ms: The exchange's clock, from which the thirty days are counted.
        """
        lo_ms = max(lo_ms, oldest_kept_ms(now_ms))

        async def ask(start: int, end: int) -> list[OpenInterest]:
            query = {"symbol": symbol, "period": PERIOD, "startTime": start, "endTime": end, "limit": HISTORY_PAGE}
            body = await self._rest.get("/futures/data/openInterestHist", query, HISTORY_WEIGHT)
            return read_answer("openInterestHist", lambda b: decode_open_interest_history(b, symbol), body)

        return await in_spans(ask, lo_ms, hi_ms, HISTORY_PAGE * PERIOD_MS)


def oldest_kept_ms(now_ms: int) -> int:
    """Return the oldest moment (ms) of which open interest can be asked for."""
    return now_ms - HISTORY_REACH_MS + MARGIN_MS
