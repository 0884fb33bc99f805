"""Binance spot's REST interface: server time, instruments, aggregate trades by id, klines by time.

Answers are decoded by type; what is not in the expected form is refused by name. Requests stay within the weight that
the exchange allows, wait as long as a 429 or 418 says, and are repeated with growing pauses when the server fails.
"""

import asyncio
import json
import random
import time
from collections.abc import Sequence
from typing import Any, Final

import aiohttp
import msgspec
import numpy as np
import polars as pl

from trading.errors import TradingError
from trading.market.candle import empty_candles, native_candles
from trading.market.instrument import Instrument
from trading.market.timeframe import Timeframe
from trading.market.trade import AggTrade
from trading.stream.events import DepthSnapshot, decode_depth_snapshot
from trading.stream.wire import BadFrame

PAGE: Final = 1000
PARALLEL: Final = 4
TRIES: Final = 6
TIMEOUT_S: Final = 15
DEFAULT_WAIT_S: Final = 60
WEIGHTS: Final = {"depth": 50, "aggTrades": 4, "klines": 2, "exchangeInfo": 20, "time": 1}
QUOTED_NUMBERS: Final = ("open", "high", "low", "close", "volume")


class ExchangeRefused(TradingError):
    """The exchange refuses or does not answer."""


class UnknownSymbol(TradingError):
    """The exchange does not trade a symbol."""


class InvalidInterval(TradingError):
    """The exchange serves no klines of an interval."""


class ExchangeAnswer(TradingError):
    """The exchange's answer is not in its documented form."""


class _Trade(msgspec.Struct):
    a: int
    p: str
    q: str
    f: int
    l: int  # noqa: E741
    T: int
    m: bool


_TRADES: Final = msgspec.json.Decoder(list[_Trade])
_KLINES: Final = msgspec.json.Decoder(list[tuple[int, str, str, str, str, str, int, str, int, str, str, str]])
_CODES: Final = {-1121: UnknownSymbol, -1120: InvalidInterval}


class BinanceRest:
    """A client of one REST root.

    Args:
        base_url: For example `https://api.binance.com`, or the simulated exchange.
        weight_per_minute: Request weight that may be used in a minute.
        seed: Of the jitter between repeated requests.
    """

    def __init__(self, base_url: str, weight_per_minute: int = 6000, seed: int = 0) -> None:
        self._root = base_url.rstrip("/")
        self._budget = weight_per_minute
        self._used, self._minute = 0, 0
        self._banned_until = 0.0
        self._random = random.Random(seed)  # noqa: S311
        self._session: aiohttp.ClientSession | None = None
        self._gate = asyncio.Semaphore(PARALLEL)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def server_time(self) -> int:
        """Return the exchange's clock, epoch milliseconds."""
        answer = _decode(await self._get("time", {}))
        if not isinstance(answer, dict) or not isinstance(answer.get("serverTime"), int):
            raise ExchangeAnswer(f"{self._root} answers time without serverTime", "is this a Binance REST root?")
        return answer["serverTime"]

    async def instruments(self, symbols: Sequence[str], venue: str) -> dict[str, Instrument]:
        """Return instruments by name, with the steps of their price and lot filters."""
        names = json.dumps(list(symbols), separators=(",", ":"), ensure_ascii=False)
        answer = _decode(await self._get("exchangeInfo", {"symbols": names}))
        try:
            return {entry["symbol"]: _instrument(entry, venue) for entry in answer["symbols"]}
        except (KeyError, TypeError) as error:
            raise ExchangeAnswer(f"exchangeInfo lacks {error}", "is this a Binance REST root?") from None

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
            rows = _TRADES.decode(body)
            return [
                AggTrade(t.a, instrument.ticks(t.p), instrument.lots(t.q), t.f, t.l, t.T, t.m)
                for t in rows
                if from_id is None or t.a >= from_id
            ]
        except msgspec.DecodeError as error:
            raise ExchangeAnswer(f"aggTrades of {instrument.name} is not in its form: {error}") from None

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
        except msgspec.DecodeError as error:
            raise ExchangeAnswer(f"klines of {instrument.name} are not in their form: {error}") from None
        return _candles(rows) if rows else empty_candles()

    async def _get(self, call: str, query: dict[str, Any]) -> bytes:
        problem = "no answer"
        for attempt in range(TRIES):
            async with self._gate:
                await self._within_budget(WEIGHTS[call])
                try:
                    status, headers, body = await self._request(call, query)
                except (aiohttp.ClientError, TimeoutError, OSError) as error:
                    status, headers, body, problem = 0, {}, b"", f"{type(error).__name__}: {error}"
            if status == 200:
                return body
            if 400 <= status < 500 and status not in (418, 429):
                raise _refusal(call, query, status, body)
            if status in (418, 429):
                wait = headers.get("Retry-After", "")
                pause = float(wait) if wait.isdigit() else DEFAULT_WAIT_S
                self._banned_until = time.monotonic() + pause
                problem = f"HTTP {status}, wait {pause:.0f} s"
            else:
                problem = f"HTTP {status}" if status else problem
                # Full jitter keeps clients that failed together from coming back together.
                await asyncio.sleep(self._random.uniform(0, min(5.0, 0.1 * 2**attempt)))
        raise ExchangeRefused(
            f"{self._root} refuses {call}: {problem} after {TRIES} tries",
            "check TRADING_EXCHANGE_REST_URL and try later",
        )

    async def _request(self, call: str, query: dict[str, Any]) -> tuple[int, Any, bytes]:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
        async with self._session.get(f"{self._root}/api/v3/{call}", params=query) as answer:
            return answer.status, answer.headers, await answer.read()

    async def _within_budget(self, weight: int) -> None:
        while True:
            now = time.monotonic()
            if now < self._banned_until:
                await asyncio.sleep(self._banned_until - now)
                continue
            if int(now // 60) != self._minute:
                self._minute, self._used = int(now // 60), 0
            if self._used + weight <= self._budget:
                self._used += weight
                return
            await asyncio.sleep(60 - now % 60)


def _decode(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError:
        start = body[:40].decode(errors="replace")
        raise ExchangeAnswer(f"the exchange answers something that is not JSON: {start!r}", "try again later") from None


def _refusal(call: str, query: dict[str, Any], status: int, body: bytes) -> TradingError:
    try:
        answer = msgspec.json.decode(body)
        code, text = int(answer["code"]), str(answer["msg"])
    except (msgspec.DecodeError, KeyError, TypeError, ValueError):
        return ExchangeRefused(f"{call} is refused with HTTP {status}", "check TRADING_EXCHANGE_REST_URL")
    kind = _CODES.get(code, ExchangeRefused)
    what = query.get("symbol") or query.get("symbols") or ""
    return kind(f"{call} {what} {query.get('interval', '')}: {text} ({code})".replace("  ", " "), "check the symbols")


def _instrument(entry: dict[str, Any], venue: str) -> Instrument:
    filters = {f["filterType"]: f for f in entry["filters"]}
    return Instrument(
        venue,
        entry["symbol"],
        entry["baseAsset"],
        entry["quoteAsset"],
        _decimals(filters["PRICE_FILTER"]["tickSize"]),
        _decimals(filters["LOT_SIZE"]["stepSize"]),
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
