"""Binance spot's REST interface: server time, instruments, aggregate trades by id, books, klines by time.

Answers are decoded by type; what is not in the expected form is refused by name. How requests are paced and repeated is
`resources.rest_root`'s.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final

import msgspec
import numpy as np
import polars as pl

from resources.http_budget import HttpBudget
from resources.rest_root import ExchangeAnswer, ExchangeRefused, RestRoot
from trading.errors import TradingError
from trading.market.candle import empty_candles, native_candles
from trading.market.instrument import Instrument
from trading.market.timeframe import Timeframe
from trading.market.trade import AggTrade
from trading.stream.events import DepthSnapshot, decode_depth_snapshot
from trading.stream.wire import BadFrame, decode_page

PAGE: Final = 1000
UNREADABLE: Final = (msgspec.DecodeError, UnicodeError, RecursionError)
"""What bytes that are no JSON of the expected form may raise."""

QUOTED_NUMBERS: Final = ("open", "high", "low", "close", "volume")


class UnknownSymbol(TradingError):
    """The exchange does not trade a symbol."""


class InvalidInterval(TradingError):
    """The exchange serves no klines of an interval."""


_KLINES: Final = msgspec.json.Decoder(list[tuple[int, str, str, str, str, str, int, str, int, str, str, str]])
_CODES: Final = {-1121: UnknownSymbol, -1120: InvalidInterval}


class BinanceRest:
    """A client of one REST root.

    Args:
        base_url: For example `https://api.binance.com`, or the simulated exchange.
        weight_per_minute: Request weight that may be used in a minute.
        seed: Of the jitter between repeated requests.
        budget_file: Where the processes of a home share what they use; None: this one asks alone.
    """

    path: ClassVar[str] = "/api/v3"
    weights: ClassVar[Mapping[str, int]] = {"depth": 50, "aggTrades": 4, "klines": 2, "exchangeInfo": 20, "time": 1}

    def __init__(
        self, base_url: str, weight_per_minute: int = 6000, seed: int = 0, budget_file: Path | None = None
    ) -> None:
        root = base_url.rstrip("/")
        self._rest = RestRoot(root, HttpBudget(root, weight_per_minute, budget_file), binance_refusal, seed=seed)

    async def close(self) -> None:
        """Close the connections."""
        await self._rest.close()

    async def server_time(self) -> int:
        """Return the exchange's clock, epoch milliseconds."""
        answer = decoded(await self._get("time", {}))
        if not isinstance(answer, dict) or not isinstance(answer.get("serverTime"), int):
            raise ExchangeAnswer(f"{self._rest.root} answers time without serverTime", "is this a Binance REST root?")
        return answer["serverTime"]

    async def instruments(self, symbols: Sequence[str], venue: str) -> dict[str, Instrument]:
        """Return instruments by name, with the steps of their price and lot filters."""
        names = json.dumps(list(symbols), separators=(",", ":"), ensure_ascii=False)
        return instruments_of(await self._get("exchangeInfo", {"symbols": names}), symbols, venue)

    async def agg_trades(
        self,
        instrument: Instrument,
        from_id: int | None = None,
        start_ms: int | None = None,
        end_ms: int | None = None,
        limit: int = PAGE,
    ) -> list[AggTrade]:
        """Return one page of aggregate trades, oldest first, from an id or from a time on."""
        query: dict[str, Any] = {"symbol": instrument.name, "limit": limit}
        query |= {k: v for k, v in (("fromId", from_id), ("startTime", start_ms), ("endTime", end_ms)) if v is not None}
        body = await self._get("aggTrades", query)
        try:
            page = decode_page(body, instrument)
        except BadFrame as error:
            raise ExchangeAnswer(f"aggTrades of {instrument.name} is not in its form: {error}") from None
        return [trade for trade in page if from_id is None or trade.agg_trade_id >= from_id]

    async def depth(self, instrument: Instrument, limit: int) -> DepthSnapshot:
        """Return the order book, the best `limit` levels of each side."""
        body = await self._get("depth", {"symbol": instrument.name, "limit": limit})
        try:
            return decode_depth_snapshot(body, instrument)
        except BadFrame as error:
            raise ExchangeAnswer(f"depth of {instrument.name} is not in its form: {error}") from None

    async def klines(self, instrument: Instrument, timeframe: Timeframe, lo_ms: int, hi_ms: int) -> pl.DataFrame:
        """Return the klines opening in `[lo_ms, hi_ms)` as `CANDLE_SCHEMA`; bars that the exchange lacks are absent."""
        step = PAGE * timeframe.ms
        pages = await asyncio.gather(
            *(self._kline_page(instrument, timeframe, at, min(at + step, hi_ms)) for at in range(lo_ms, hi_ms, step))
        )
        return pl.concat(pages) if pages else empty_candles()

    async def _kline_page(self, instrument: Instrument, timeframe: Timeframe, lo_ms: int, hi_ms: int) -> pl.DataFrame:
        query = {"symbol": instrument.name, "interval": timeframe.value, "startTime": lo_ms, "endTime": hi_ms - 1}
        body = await self._get("klines", query | {"limit": PAGE})
        try:
            rows = _KLINES.decode(body)
        except UNREADABLE as error:
            raise ExchangeAnswer(f"klines of {instrument.name} are not in their form: {error}") from None
        return _candles(rows) if rows else empty_candles()

    async def _get(self, call: str, query: dict[str, Any]) -> bytes:
        return await self._rest.get(f"{self.path}/{call}", query, self.weights[call])


def decoded(body: bytes) -> Any:
    """Return JSON; raises `ExchangeAnswer`."""
    try:
        return msgspec.json.decode(body)
    except UNREADABLE:
        start = body[:40].decode(errors="replace")
        raise ExchangeAnswer(f"the exchange answers something that is not JSON: {start!r}", "try again later") from None


def binance_refusal(call: str, query: Mapping[str, Any], status: int, body: bytes) -> TradingError:
    """Return the error of a refused call, by Binance's own code where it gives one."""
    try:
        answer = msgspec.json.decode(body)
        code, text = int(answer["code"]), str(answer["msg"])
    except (*UNREADABLE, KeyError, TypeError, ValueError):
        return ExchangeRefused(f"{call} is refused with HTTP {status}", "check TRADING_EXCHANGE_REST_URL")
    kind = _CODES.get(code, ExchangeRefused)
    what = query.get("symbol") or query.get("symbols") or ""
    return kind(f"{call} {what} {query.get('interval', '')}: {text} ({code})".replace("  ", " "), "check the symbols")


def instruments_of(body: bytes, symbols: Sequence[str], venue: str, kind: str = "spot") -> dict[str, Instrument]:
    """Return those instruments of an `exchangeInfo` answer that are asked for, by name; raises `ExchangeAnswer`."""
    try:
        entries = {entry["symbol"]: entry for entry in decoded(body)["symbols"]}
        return {name: _instrument(entries[name], venue, kind) for name in symbols if name in entries}
    except (KeyError, TypeError) as error:
        raise ExchangeAnswer(f"exchangeInfo lacks {error}", "is this a Binance REST root?") from None


def _instrument(entry: dict[str, Any], venue: str, kind: str) -> Instrument:
    filters = {f["filterType"]: f for f in entry["filters"]}
    return Instrument(
        venue,
        entry["symbol"],
        entry["baseAsset"],
        entry["quoteAsset"],
        _decimals(filters["PRICE_FILTER"]["tickSize"]),
        _decimals(filters["LOT_SIZE"]["stepSize"]),
        kind,
    )


def _decimals(step: str) -> int:
    return len(step.partition(".")[2].rstrip("0"))


def _candles(rows: list[tuple[Any, ...]]) -> pl.DataFrame:
    columns = list(zip(*rows, strict=True))
    numbers = {name: np.array(columns[place], dtype=np.float64) for place, name in enumerate(QUOTED_NUMBERS, 1)}
    quote, count = np.array(columns[7], dtype=np.float64), np.array(columns[8], dtype=np.int64)
    traded = numbers["volume"] > 0
    frame = pl.DataFrame(
        {
            "open_time": np.array(columns[0], dtype=np.int64),
            **numbers,
            "quote_volume": quote,
            "trade_count": count,
            "unknown": traded & (count == 0),
        }
    )
    # A volume without trades means that whoever recorded the bar did not keep their number: unknown, not zero.
    known = [
        pl.when("unknown").then(None).otherwise(pl.col(name)).alias(name) for name in ("quote_volume", "trade_count")
    ]
    return native_candles(frame.with_columns(known))
