"""Bybit v5's REST interface: recent trades, candles, open interest and funding of one category of markets.

Bybit counts 600 requests in five seconds by address and answers 403 beyond, after which it wants ten minutes of silence;
a limit of one call it states inside an answer (`retCode` 10006). Lists hold the newest rows of a span, so spans are
asked for that a page can hold. Of trades only the newest are served, of spot 60 and of contracts a thousand: what is
older is gone.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from resources.http_budget import HttpBudget
from resources.rest_root import ExchangeRefused, RestRoot, wait_when_limited
from resources.venue_rest import chosen, in_spans, read_answer
from trading.errors import TradingError
from trading.market.derivatives import Funding, OpenInterest
from trading.market.identified import IdentifiedTrade
from trading.market.instrument import Instrument
from trading.market.timeframe import HOUR_MS, MINUTE_MS
from trading.stream import bybit
from trading.stream.events import Kline
from trading.stream.venue import LENGTHS

REQUESTS_A_MINUTE: Final = 300
"""So that no five seconds hold more than 600, not even those where two minutes meet."""

SILENCE_S: Final = 600.0
SHORT_SILENCE_S: Final = 5.0
TRADES: Final = {"linear": 1000, "inverse": 1000, "spot": 60}
"""The longest list of recent trades by category."""

KLINES: Final = 1000
ROWS: Final = 200
OPEN_INTEREST_MS: Final = 5 * MINUTE_MS
SHORTEST_FUNDING_MS: Final = HOUR_MS


def _patience(status: int, headers: Mapping[str, str], body: bytes) -> float | None:
    if status == 403:
        return SILENCE_S
    if status == 200 and bybit.refusal(body)[0] == bybit.TOO_MANY_VISITS:
        return SHORT_SILENCE_S
    return wait_when_limited(status, headers, body)


def _refused(call: str, query: Mapping[str, Any], status: int, body: bytes) -> TradingError:
    code, message = bybit.refusal(body)
    why = f"{message} ({code})" if code else f"HTTP {status}"
    return ExchangeRefused(f"{call} of {query.get('symbol', '')}: {why}", "check the symbols")


class BybitRest:
    """A client of Bybit v5.

    Args:
        base_url: For example `https://api.bybit.com`.
        category: `linear`, `inverse` or `spot`.
        budget_file: Where the processes of a home share what they use; None: this one asks alone.
    """

    def __init__(
        self, base_url: str = "https://api.bybit.com", category: str = "linear", budget_file: Path | None = None
    ) -> None:
        root = base_url.rstrip("/")
        self._category = category
        self._rest = RestRoot(root, HttpBudget(root, REQUESTS_A_MINUTE, budget_file), _refused, _patience)

    async def close(self) -> None:
        """Close the connections."""
        await self._rest.close()

    async def instruments(self, symbols: Sequence[str]) -> dict[str, Instrument]:
        """Return instruments by symbol, with the steps of their prices and quantities.

        Raises:
            UnknownSymbol: Bybit does not have one in this category.
        """
        found: dict[str, Instrument] = {}
        for symbol in symbols:  # a whole category is thousands
            body = await self._get("instruments-info", {"symbol": symbol})
            found |= read_answer("instruments-info", lambda b: bybit.decode_instruments(b, self._category), body)
        return chosen(found, symbols, f"Bybit's {self._category} markets")

    async def trades(self, instrument: Instrument) -> list[IdentifiedTrade]:
        """Return the newest trades, as many as `TRADES` at most, oldest first, with nothing left out between them."""
        body = await self._get("recent-trade", {"symbol": instrument.name, "limit": TRADES[self._category]})
        return read_answer("recent-trade", lambda b: bybit.decode_trades(b, instrument), body)

    async def klines(self, instrument: Instrument, interval: str, lo_ms: int, hi_ms: int) -> list[Kline]:
        """Return the candles opening in `[lo_ms, hi_ms)`, oldest first.

        Args:
            instrument: Whose candles.
            interval: As Bybit writes it: `1`, `60`, `D`.
            lo_ms: Start of the span.
            hi_ms: End of it.
        """
        if interval not in bybit.INTERVALS:
            raise ExchangeRefused(f"Bybit has no interval {interval}", f"one of {', '.join(bybit.INTERVALS)}")
        step = KLINES * LENGTHS[bybit.INTERVALS[interval]]
        found: list[Kline] = []
        for at in range(lo_ms, hi_ms, step):
            until = min(at + step, hi_ms)
            query = {"symbol": instrument.name, "interval": interval, "start": at, "end": until - 1, "limit": KLINES}
            body = await self._get("kline", query)
            now_ms = read_answer("kline", bybit.answered_at, body)
            bars = read_answer("kline", lambda b, now=now_ms: bybit.decode_klines(b, instrument, interval, now), body)
            found += [bar for bar in bars if at <= bar.open_time_ms < until]
        return found

    async def open_interest(self, symbol: str, lo_ms: int, hi_ms: int) -> list[OpenInterest]:
        """Return open interest every five minutes in `[lo_ms, hi_ms)`, oldest first."""

        async def ask(start: int, end: int) -> list[OpenInterest]:
            query = {"symbol": symbol, "intervalTime": "5min", "startTime": start, "endTime": end, "limit": ROWS}
            return read_answer("open-interest", bybit.decode_open_interest, await self._get("open-interest", query))

        return await in_spans(ask, lo_ms, hi_ms, ROWS * OPEN_INTEREST_MS)

    async def fundings(self, symbol: str, lo_ms: int, hi_ms: int) -> list[Funding]:
        """Return the fundings settled in `[lo_ms, hi_ms)`, oldest first."""

        async def ask(start: int, end: int) -> list[Funding]:
            query = {"symbol": symbol, "startTime": start, "endTime": end, "limit": ROWS}
            body = await self._get("funding/history", query)
            return read_answer("funding/history", bybit.decode_fundings, body)

        return await in_spans(ask, lo_ms, hi_ms, ROWS * SHORTEST_FUNDING_MS)

    async def _get(self, call: str, query: dict[str, Any]) -> bytes:
        body = await self._rest.get(f"/v5/market/{call}", {"category": self._category} | query, 1)
        if bybit.refusal(body)[0]:
            raise _refused(call, query, 200, body)
        return body
