"""The simulated exchange: Binance spot's REST and websocket protocol over one market, on loopback.

Its clock is its own. Played at a speed it runs beside the wall clock; played as fast as the client reads, time advances
with what has been delivered and waits for a first subscriber. REST never shows what lies after the exchange's now.
"""

import asyncio
import json
import math
import time
from typing import Any, Final, Protocol

import msgspec
import polars as pl
from aiohttp import WSMsgType, web

from resources.simulator.faults import FaultPlan, fault_plan
from resources.simulator.wire import kline_event, rest_klines, rest_trades, stream_trades
from trading.market.instrument import Instrument
from trading.market.timeframe import MINUTE_MS, Timeframe

MAX_ROWS: Final = 1000
DEFAULT_ROWS: Final = 500
WEIGHT_A_MINUTE: Final = 6000
PING_S: Final = 20
TICK_S: Final = 0.05
JOIN_S: Final = 0.3
"""Time for the first subscriber to look around, and for others to join, before a market at full speed begins."""

STRETCH_MS: Final = 5 * MINUTE_MS
WEIGHTS: Final = {"aggTrades": 4, "klines": 2, "exchangeInfo": 20, "time": 1, "ping": 1}


class Market(Protocol):
    """What is traded: synthetic or recorded."""

    symbols: tuple[str, ...]

    def instrument(self, symbol: str) -> Instrument: ...  # noqa: D102
    def intervals(self, symbol: str) -> tuple[Timeframe, ...]: ...  # noqa: D102
    def trades(self, symbol: str, lo_ms: int, hi_ms: int) -> pl.DataFrame: ...  # noqa: D102
    def trades_by_id(self, symbol: str, from_id: int, limit: int) -> pl.DataFrame: ...  # noqa: D102
    def klines(self, symbol: str, timeframe: Timeframe, lo_ms: int, hi_ms: int) -> pl.DataFrame: ...  # noqa: D102


class Clock:
    """The exchange's clock.

    Args:
        start_ms: Exchange time at the start.
        end_ms: Where it stops.
        speed: Exchange seconds a second; infinite: as fast as the client reads.
    """

    def __init__(self, start_ms: int, end_ms: int, speed: float) -> None:
        self.start_ms, self.end_ms, self.speed = start_ms, end_ms, speed
        self._started = time.monotonic()
        self._delivered_ms = start_ms

    def now_ms(self) -> int:
        """Return exchange time, epoch milliseconds."""
        if math.isinf(self.speed):
            return self._delivered_ms
        return min(self.end_ms, self.start_ms + int((time.monotonic() - self._started) * 1000 * self.speed))

    def delivered(self, until_ms: int) -> None:
        """Let time pass, where it passes with what is delivered."""
        self._delivered_ms = until_ms


class Refused(Exception):
    """A call that the exchange answers with an error code."""

    def __init__(self, code: int, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code, self.status = code, status


class Subscriber:
    """One websocket with its streams."""

    def __init__(self, socket: web.WebSocketResponse, combined: bool, streams: list[str]) -> None:
        self.socket, self.combined, self.streams = socket, combined, dict.fromkeys(streams)

    async def send(self, stream: str, text: str) -> None:
        """Send one event of a stream in this connection's form."""
        await self.socket.send_str(f'{{"stream":"{stream}","data":{text}}}' if self.combined else text)


class SimulatedExchange:
    """One market behind Binance spot's protocol.

    Args:
        market: What is traded.
        clock: Its clock.
        faults: What goes wrong.
        limit: Whether the request weight is limited as on the real exchange.
    """

    def __init__(self, market: Market, clock: Clock, faults: FaultPlan | None = None, limit: bool = False) -> None:
        self.market, self.clock, self.faults = market, clock, faults or FaultPlan()
        self._limit = limit
        self._subscribers: list[Subscriber] = []
        self._frames, self._calls = 0, 0
        self._weight, self._weight_minute = 0, 0
        self._runner: web.AppRunner | None = None
        self._pump: asyncio.Task[None] | None = None

    async def start(self, port: int = 0) -> int:
        """Listen on 127.0.0.1 and return the port."""
        app = web.Application()
        rest = {"ping": self._ping, "time": self._time, "exchangeInfo": self._info, "klines": self._klines}
        rest["aggTrades"] = self._agg_trades
        for name, answer in rest.items():
            app.router.add_get(f"/api/v3/{name}", self._rest(name, answer))
        app.router.add_get("/ws", self._socket)
        app.router.add_get("/ws/{streams}", self._socket)
        app.router.add_get("/stream", self._socket)
        app.router.add_get("/sim/clock", self._show_clock)
        app.router.add_post("/sim/faults", self._set_faults)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        self._pump = asyncio.create_task(self._stream())
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Close all connections."""
        if self._pump is not None:
            self._pump.cancel()
        for subscriber in list(self._subscribers):
            await subscriber.socket.close()
        if self._runner is not None:
            await self._runner.cleanup()

    # -- REST --------------------------------------------------------------------------------------------------------

    def _rest(self, name: str, answer: Any) -> Any:
        async def handle(request: web.Request) -> web.Response:
            self._calls += 1
            if self.faults.strikes("rest_refused", self._calls):
                return web.Response(status=503, text="Service Unavailable")
            minute = int(time.monotonic() // 60)
            if minute != self._weight_minute:
                self._weight, self._weight_minute = 0, minute
            self._weight += WEIGHTS[name]
            headers = {"X-MBX-USED-WEIGHT-1M": str(self._weight)}
            if self._limit and self._weight > WEIGHT_A_MINUTE:
                wait = str(60 - int(time.monotonic() % 60))
                return _error(429, -1003, "Too much request weight used", headers | {"Retry-After": wait})
            try:
                text = answer(request.query)
            except Refused as refusal:
                return _error(refusal.status, refusal.code, str(refusal), headers)
            return web.Response(text=text, content_type="application/json", headers=headers)

        return handle

    def _ping(self, query: Any) -> str:
        return "{}"

    def _time(self, query: Any) -> str:
        return json.dumps({"serverTime": self.clock.now_ms()})

    def _info(self, query: Any) -> str:
        names = list(self.market.symbols)
        if "symbol" in query:
            names = [self._symbol(query)]
        elif "symbols" in query:
            names = [self._known(name) for name in json.loads(query["symbols"])]
        symbols = []
        for name in names:
            i = self.market.instrument(name)
            price, lot = i.price_text(1), i.quantity_text(1)
            filters = [
                {"filterType": "PRICE_FILTER", "minPrice": price, "maxPrice": "1000000.00", "tickSize": price},
                {"filterType": "LOT_SIZE", "minQty": lot, "maxQty": "9000.00", "stepSize": lot},
            ]
            symbols.append(
                {"symbol": name, "status": "TRADING", "baseAsset": i.base, "quoteAsset": i.quote, "filters": filters}
            )
        return json.dumps(
            {"timezone": "UTC", "serverTime": self.clock.now_ms(), "symbols": symbols}, ensure_ascii=False
        )

    def _klines(self, query: Any) -> str:
        symbol = self._symbol(query)
        if "interval" not in query:
            raise Refused(-1102, "Mandatory parameter 'interval' was not sent, was empty/null, or malformed.")
        if query["interval"] not in self.market.intervals(symbol):
            raise Refused(-1120, "Invalid interval.")
        timeframe, limit = Timeframe(query["interval"]), _number(query, "limit", DEFAULT_ROWS, 1, MAX_ROWS)
        now = self.clock.now_ms()
        lo, hi = _number(query, "startTime", None), min(_number(query, "endTime", now), now) + 1
        if lo is None:
            lo = timeframe.floor(hi - 1) - (limit - 1) * timeframe.ms
            bars = self._visible(symbol, timeframe, lo, hi)
        else:
            # Bars may be missing, so a page is found by widening, never by counting on one bar a step.
            reach, bars = limit * timeframe.ms, pl.DataFrame()
            end = timeframe.ceil(lo)
            while len(bars) < limit and end < hi:
                end = min(hi, end + reach)
                bars, reach = self._visible(symbol, timeframe, lo, end), reach * 4
        bars = bars.head(limit)
        return rest_klines(bars, self.market.instrument(symbol), timeframe) if len(bars) else "[]"

    def _visible(self, symbol: str, timeframe: Timeframe, lo_ms: int, hi_ms: int) -> pl.DataFrame:
        """Return bars opening in `[lo_ms, hi_ms)`, the open one as it stands."""
        now = self.clock.now_ms()
        bars = self.market.klines(symbol, timeframe, max(0, lo_ms), min(hi_ms, now + 1))
        bars = bars.filter((pl.col("open_time") >= lo_ms) & (pl.col("open_time") < hi_ms))
        if len(bars) and int(bars["open_time"][-1]) + timeframe.ms > now:
            return bars[:-1]  # an open bar would show trades that have not happened yet
        return bars

    def _agg_trades(self, query: Any) -> str:
        symbol, limit = self._symbol(query), _number(query, "limit", DEFAULT_ROWS, 1, MAX_ROWS)
        now = self.clock.now_ms()
        from_id, lo = _number(query, "fromId", None), _number(query, "startTime", None)
        hi = min(_number(query, "endTime", now), now) + 1
        if from_id is not None:
            if lo is not None or "endTime" in query:
                raise Refused(-1128, "Combination of optional parameters invalid.")
            trades = self.market.trades_by_id(symbol, from_id, limit)
        elif lo is not None:
            reach, trades, end = 60 * MINUTE_MS, pl.DataFrame(), lo
            while len(trades) < limit and end < hi:
                end = min(hi, end + reach)
                trades, reach = self.market.trades(symbol, lo, end), reach * 4
            trades = trades.head(limit)
        else:
            reach, trades = 60 * MINUTE_MS, pl.DataFrame()
            while len(trades) < limit and reach < 2**42:
                trades, reach = self.market.trades(symbol, hi - reach, hi), reach * 4
            trades = trades.tail(limit)
        if trades.is_empty():
            return "[]"
        trades = trades.filter(pl.col("time_ms") <= now)
        return "[" + ",".join(rest_trades(trades, self.market.instrument(symbol))) + "]"

    def _symbol(self, query: Any) -> str:
        if not query.get("symbol"):
            raise Refused(-1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed.")
        return self._known(query["symbol"])

    def _known(self, name: str) -> str:
        if name not in self.market.symbols:
            raise Refused(-1121, "Invalid symbol.")
        return name

    async def _show_clock(self, request: web.Request) -> web.Response:
        now, end = self.clock.now_ms(), self.clock.end_ms
        return web.json_response({"now_ms": now, "end_ms": end, "finished": now >= end})

    async def _set_faults(self, request: web.Request) -> web.Response:
        try:
            self.faults = fault_plan(msgspec.json.decode(await request.read()))
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            return _error(400, -1100, str(error), {})
        return web.json_response({})

    # -- websocket ---------------------------------------------------------------------------------------------------

    async def _socket(self, request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse(heartbeat=None, autoping=True, max_msg_size=2**20)
        await socket.prepare(request)
        combined = request.path == "/stream"
        named = request.query.get("streams", "") if combined else request.match_info.get("streams", "")
        subscriber = Subscriber(socket, combined, [name for name in named.split("/") if name])
        self._subscribers.append(subscriber)
        pinging = asyncio.create_task(_ping_forever(socket))
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    await socket.send_str(_command(subscriber, message.data))
        finally:
            pinging.cancel()
            self._subscribers.remove(subscriber)
        return socket

    async def _stream(self) -> None:
        """Send what happens to everyone who listens, stretch by stretch of exchange time."""
        sent_until = self.clock.now_ms()
        joined = 0.0
        paced = not math.isinf(self.clock.speed)
        while sent_until < self.clock.end_ms:
            if paced:
                await asyncio.sleep(TICK_S)
                until = self.clock.now_ms()
            else:
                while not any(subscriber.streams for subscriber in self._subscribers):
                    await asyncio.sleep(0.01)
                    joined = time.monotonic()
                while time.monotonic() < joined + JOIN_S:
                    await asyncio.sleep(0.01)
                until = min(self.clock.end_ms, sent_until + STRETCH_MS)
            await self._deliver(sent_until, until)
            self.clock.delivered(until)
            sent_until = until
            await asyncio.sleep(0)

    async def _deliver(self, lo_ms: int, hi_ms: int) -> None:
        """Send the events of `[lo_ms, hi_ms)` in the order of their times."""
        events: list[tuple[int, str, str]] = []
        wanted = {stream for subscriber in self._subscribers for stream in subscriber.streams}
        for symbol in self.market.symbols:
            name = symbol.lower()
            if f"{name}@aggTrade" in wanted:
                trades = self.market.trades(symbol, lo_ms, hi_ms)
                texts = stream_trades(trades, self.market.instrument(symbol)) if len(trades) else []
                events += zip(trades["time_ms"].to_list(), [f"{name}@aggTrade"] * len(texts), texts, strict=True)
            for timeframe in self.market.intervals(symbol):
                if f"{name}@kline_{timeframe}" in wanted:
                    events += self._closed_bars(symbol, timeframe, lo_ms, hi_ms)
        events.sort(key=lambda event: event[0])
        for _, stream, text in events:
            self._frames += 1
            for subscriber in list(self._subscribers):
                if stream in subscriber.streams and not subscriber.socket.closed:
                    await self._send(subscriber, stream, text)

    def _closed_bars(self, symbol: str, timeframe: Timeframe, lo_ms: int, hi_ms: int) -> list[tuple[int, str, str]]:
        bars = self.market.klines(symbol, timeframe, timeframe.floor(lo_ms) - timeframe.ms, timeframe.floor(hi_ms))
        instrument, stream = self.market.instrument(symbol), f"{symbol.lower()}@kline_{timeframe}"
        closing = [(bar["open_time"] + timeframe.ms, bar) for bar in bars.iter_rows(named=True)]
        return [
            (at, stream, kline_event(bar, instrument, timeframe, True, at))
            for at, bar in closing
            if lo_ms < at <= hi_ms
        ]

    async def _send(self, subscriber: Subscriber, stream: str, text: str) -> None:
        number = self._frames
        try:
            if self.faults.strikes("drop", number):
                return
            if self.faults.strikes("malformed", number):
                text = text[: len(text) // 2]
            await subscriber.send(stream, text)
            if self.faults.strikes("duplicate", number):
                await subscriber.send(stream, text)
            if self.faults.strikes("disconnect", number):
                await subscriber.socket.close()
        except (ConnectionError, RuntimeError):
            return  # the subscriber has gone; its handler takes it off the list


async def _ping_forever(socket: web.WebSocketResponse) -> None:
    while not socket.closed:
        await asyncio.sleep(PING_S)
        await socket.ping()


def _command(subscriber: Subscriber, text: str) -> str:
    """Carry out SUBSCRIBE, UNSUBSCRIBE or LIST_SUBSCRIPTIONS and return the answer."""
    try:
        command = msgspec.json.decode(text)
        method, identity = command["method"], command.get("id")
        streams = command.get("params") or []
        if not all(isinstance(stream, str) for stream in streams):
            raise TypeError
    except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
        return json.dumps({"error": {"code": 3, "msg": "Invalid JSON: expected a command"}})
    if method == "SUBSCRIBE":
        subscriber.streams |= dict.fromkeys(streams)
        return json.dumps({"result": None, "id": identity})
    if method == "UNSUBSCRIBE":
        for stream in streams:
            subscriber.streams.pop(stream, None)
        return json.dumps({"result": None, "id": identity})
    if method == "LIST_SUBSCRIPTIONS":
        return json.dumps({"result": list(subscriber.streams), "id": identity})
    return json.dumps({"error": {"code": 2, "msg": f"Invalid request: unknown method {method!r}"}, "id": identity})


def _number(query: Any, name: str, default: int | None, low: int = 0, high: int = 2**62) -> Any:
    if name not in query:
        return default
    try:
        value = int(query[name])
    except ValueError:
        raise Refused(-1100, f"Illegal characters found in parameter '{name}'.") from None
    if value < low:
        raise Refused(-1130, f"Data sent for parameter '{name}' is not valid.")
    return min(value, high)


def _error(status: int, code: int, message: str, headers: dict[str, str]) -> web.Response:
    return web.json_response({"code": code, "msg": message}, status=status, headers=headers)
