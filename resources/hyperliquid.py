"""Hyperliquid's info interface: instruments, asset contexts, fundings and candles of its perpetuals.

Every question is a POST to `/info` and costs 20 of 1,200 a minute by address, and more for many rows: one for each 20
fundings and each 60 candles (Hyperliquid, Rate limits). Of candles only the newest 5,000 of an interval are served, of
open interest only what is open now, of trades only a handful.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from resources.http_budget import HttpBudget
from resources.rest_root import ExchangeRefused, RestRoot
from resources.venue_rest import chosen, forward, read_answer
from trading.errors import TradingError
from trading.market.derivatives import AssetContext, Funding
from trading.market.identified import IdentifiedTrade
from trading.market.instrument import Instrument
from trading.stream import hyperliquid
from trading.stream.events import Kline
from trading.stream.venue import LENGTHS

WEIGHT_A_MINUTE: Final = 1200
QUESTION: Final = 20
FUNDINGS: Final = 500
CANDLES: Final = 500
FUNDING_WEIGHT: Final = QUESTION + FUNDINGS // 20
CANDLE_WEIGHT: Final = QUESTION + CANDLES // 60 + 1


def _refused(_: str, question: Mapping[str, Any], status: int, body: bytes) -> TradingError:
    text = body[:80].decode(errors="replace")
    return ExchangeRefused(f"Hyperliquid refuses {question.get('type')} with HTTP {status}: {text}", "check the coin")


class HyperliquidRest:
    """A client of Hyperliquid's info interface.

    Args:
        base_url: For example `https://api.hyperliquid.xyz`.
        budget_file: Where the processes of a home share what they use; None: this one asks alone.
    """

    def __init__(self, base_url: str = "https://api.hyperliquid.xyz", budget_file: Path | None = None) -> None:
        root = base_url.rstrip("/")
        self._rest = RestRoot(root, HttpBudget(root, WEIGHT_A_MINUTE, budget_file), _refused)

    async def close(self) -> None:
        """Close the connections."""
        await self._rest.close()

    async def instruments(self, coins: Sequence[str] = ()) -> dict[str, Instrument]:
        """Return perpetuals by name, with the steps of their prices and quantities; all where none is named.

        Raises:
            UnknownSymbol: Hyperliquid does not have one.
        """
        found = read_answer("meta", hyperliquid.decode_instruments, await self._ask({"type": "meta"}, QUESTION))
        return chosen(found, coins or list(found), "Hyperliquid's perpetuals")

    async def contexts(self) -> dict[str, AssetContext]:
        """Return open interest, funding, mark and oracle price now of every perpetual, by name."""
        body = await self._ask({"type": "metaAndAssetCtxs"}, QUESTION)
        return read_answer("metaAndAssetCtxs", hyperliquid.decode_contexts, body)

    async def trades(self, instrument: Instrument) -> list[IdentifiedTrade]:
        """Return the newest trades, oldest first, with nothing left out between them."""
        body = await self._ask({"type": "recentTrades", "coin": instrument.name}, QUESTION)
        return read_answer("recentTrades", lambda b: hyperliquid.decode_trades(b, instrument), body)

    async def fundings(self, coin: str, lo_ms: int, hi_ms: int) -> list[Funding]:
        """Return the fundings settled in `[lo_ms, hi_ms)`, oldest first."""

        async def ask(at_ms: int) -> list[Funding]:
            question = {"type": "fundingHistory", "coin": coin, "startTime": at_ms, "endTime": hi_ms - 1}
            body = await self._ask(question, FUNDING_WEIGHT)
            return read_answer("fundingHistory", lambda b: hyperliquid.decode_fundings(b, coin), body)

        return await forward(ask, lo_ms, hi_ms, FUNDINGS)

    async def klines(self, instrument: Instrument, interval: str, lo_ms: int, hi_ms: int, now_ms: int) -> list[Kline]:
        """Return the candles opening in `[lo_ms, hi_ms)`, oldest first.

        Args:
            instrument: Whose candles.
            interval: `1m`, `1h`, `1d`.
            lo_ms: Start of the span.
            hi_ms: End of it.
            now_ms: Exchange time, which answers do not give; a candle that ends later is not closed.
        """
        if interval not in LENGTHS:
            raise ExchangeRefused(f"Hyperliquid has no interval {interval}", f"one of {', '.join(LENGTHS)}")
        step = CANDLES * LENGTHS[interval]
        found: list[Kline] = []
        for at in range(lo_ms, hi_ms, step):
            until = min(at + step, hi_ms)
            asked = {"coin": instrument.name, "interval": interval, "startTime": at, "endTime": until - 1}
            body = await self._ask({"type": "candleSnapshot", "req": asked}, CANDLE_WEIGHT)
            bars = read_answer("candleSnapshot", lambda b: hyperliquid.decode_klines(b, instrument, now_ms), body)
            # It begins with the candle that holds the start.
            found += [bar for bar in bars if at <= bar.open_time_ms < until]
        return found

    async def _ask(self, question: dict[str, Any], weight: int) -> bytes:
        return await self._rest.post("/info", question, weight)
