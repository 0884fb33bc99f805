"""A loopback server that speaks as Bybit or Hyperliquid does, and lets happen what a test tells it to.

What happened is said on sockets that are subscribed, and in the list of recent trades. The trades are recorded ones.
"""

import asyncio
import gzip
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol

from aiohttp import WSMsgType, web

from tests.captures import frames
from tests.recorded import recorded

LISTED: Final = 1000


@dataclass(frozen=True)
class Print:
    """One recorded trade; price and quantity as they were written."""

    name: str
    trade_id: str
    price: str
    quantity: str
    time_ms: int
    taker_sold: bool


class Form(Protocol):
    """How a venue writes."""

    begins_with_list: bool

    def frame(self, prints: Sequence[Print]) -> str:
        """Return trades of one market as the stream brings them."""
        ...

    def listed(self, prints: Sequence[Print]) -> Any:
        """Return trades of one market, newest first, as REST does."""
        ...

    def instruments(self) -> Any:
        """Return the answer that names the instruments."""
        ...

    def asked(self, message: Any) -> tuple[set[str], list[str]]:
        """Return the markets whose trades a message asks for, and the answers to it."""
        ...


class Bybit:
    """Bybit v5."""

    begins_with_list = False

    def __init__(self, price_step: str = "0.0001", quantity_step: str = "0.00001") -> None:
        self._steps = price_step, quantity_step

    def frame(self, prints: Sequence[Print]) -> str:
        rows = [
            {"T": p.time_ms, "s": p.name, "S": _side(p), "v": p.quantity, "p": p.price, "i": p.trade_id, "BT": False}
            for p in prints
        ]
        topic = f"publicTrade.{prints[0].name}"
        return json.dumps({"topic": topic, "type": "snapshot", "ts": prints[-1].time_ms, "data": rows})

    def listed(self, prints: Sequence[Print]) -> Any:
        rows = [
            {"execId": p.trade_id, "symbol": p.name, "price": p.price, "size": p.quantity, "side": _side(p)}
            | {"time": str(p.time_ms), "isBlockTrade": False}
            for p in prints
        ]
        return {"retCode": 0, "retMsg": "OK", "result": {"list": rows}, "time": 1_700_000_000_000}

    def instruments(self) -> Any:
        tick, step = self._steps
        rows = [
            {"symbol": name, "baseCoin": name[:-4], "quoteCoin": "USDT", "priceFilter": {"tickSize": tick}}
            | {"lotSizeFilter": {"qtyStep": step}}
            for name in NAMES
        ]
        return {"retCode": 0, "retMsg": "OK", "result": {"list": rows}, "time": 1_700_000_000_000}

    def asked(self, message: Any) -> tuple[set[str], list[str]]:
        if message["op"] == "ping":
            return set(), ['{"success":true,"ret_msg":"pong","conn_id":"c","op":"ping"}']
        topics = [topic.split(".") for topic in message["args"]]
        said = json.loads(recorded("raw/bybit_fixtures_nautilus/ws_subscription_ack.json").read_bytes())
        return {topic[-1] for topic in topics if topic[0] == "publicTrade"}, [json.dumps(said)]


class Hyperliquid:
    """Hyperliquid, of whose subscriptions the first trades are recent ones."""

    begins_with_list = True

    def _rows(self, prints: Sequence[Print]) -> list[Any]:
        return [
            {"coin": p.name, "side": "A" if p.taker_sold else "B", "px": p.price, "sz": p.quantity, "hash": "0x0"}
            | {"time": p.time_ms, "tid": int(p.trade_id)}
            for p in prints
        ]

    def frame(self, prints: Sequence[Print]) -> str:
        return json.dumps({"channel": "trades", "data": self._rows(prints)})

    def listed(self, prints: Sequence[Print]) -> Any:
        return self._rows(prints)

    def instruments(self) -> Any:
        return {"universe": [{"name": "BTC", "szDecimals": 5}, {"name": "ETH", "szDecimals": 4}]}

    def asked(self, message: Any) -> tuple[set[str], list[str]]:
        if message["method"] == "ping":
            return set(), ['{"channel":"pong"}']
        wanted = message["subscription"]
        said = json.dumps({"channel": "subscriptionResponse", "data": message})
        return ({wanted["coin"]} if wanted["type"] == "trades" else set()), [said]


class Venue:
    """The server. What tests set takes effect at once.

    Attributes:
        reach: How many trades a list holds.
        rest_refuses: REST answers nothing.
        socket_refuses: No connection is accepted.
        stalled: Markets of which the stream brings nothing.
        mute: Sockets bring nothing at all, no pong either.
    """

    def __init__(self, form: Form) -> None:
        self.form = form
        self.reach, self.rest_refuses, self.socket_refuses, self.mute = LISTED, False, False, False
        self.stalled: set[str] = set()
        self.happened: list[Print] = []
        self.port = self.connections = self.pings = self.lists = 0
        self._sockets: dict[web.WebSocketResponse, set[str]] = {}
        self._requests: dict[web.WebSocketResponse, web.Request] = {}
        self._loop = asyncio.new_event_loop()

    @property
    def rest_url(self) -> str:
        """Root of REST."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        """URL of the stream."""
        return f"ws://127.0.0.1:{self.port}/stream"

    # -- what a test lets happen -------------------------------------------------------------------------------------

    def bring(self, prints: Iterable[Print], times: int = 1) -> None:
        """Let trades happen, one frame a run of one market; say each frame as many times."""
        self._call(self._bring(list(prints), times))

    def say(self, frame: str | bytes) -> None:
        """Send a frame on every socket."""
        self._call(self._say(frame, None))

    def cut(self) -> None:
        """Lose all connections without a word."""
        self._call(self._cut())

    def subscribed(self, *names: str) -> bool:
        """Tell whether there is a socket on which all of these were asked for."""
        return any(set(names) <= asked for asked in list(self._sockets.values()))

    async def _bring(self, prints: list[Print], times: int) -> None:
        at = 0
        while at < len(prints):
            run = [p for p in prints[at : at + 5] if p.name == prints[at].name]
            run = run if prints[at : at + len(run)] == run else run[:1]
            self.happened += run
            at += len(run)
            for _ in range(times):
                await self._say(self.form.frame(run), run[0].name)

    async def _say(self, frame: str | bytes, name: str | None) -> None:
        for socket, asked in list(self._sockets.items()):
            if self.mute or (name is not None and (name not in asked or name in self.stalled)):
                continue
            try:
                await (socket.send_str(frame) if isinstance(frame, str) else socket.send_bytes(frame))
            except ConnectionError:
                self._sockets.pop(socket, None)

    async def _cut(self) -> None:
        for socket in list(self._sockets):
            del self._sockets[socket]
            if (transport := self._requests.pop(socket).transport) is not None:
                transport.abort()

    def _call(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(20)

    # -- the server --------------------------------------------------------------------------------------------------

    def recent(self, name: str) -> list[Print]:
        """Return the newest trades of a market, newest first."""
        return [p for p in self.happened if p.name == name][-self.reach :][::-1]

    async def _rest(self, request: web.Request) -> web.Response:
        asked = await request.json() if request.method == "POST" else dict(request.query)
        if "instruments" in request.path or asked.get("type") == "meta":
            return web.json_response(self.form.instruments())
        self.lists += 1
        if self.rest_refuses:
            return web.Response(status=403 if "v5" not in request.path else 404, text="no")
        return web.json_response(self.form.listed(self.recent(asked.get("symbol") or asked["coin"])))

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        if self.socket_refuses:
            return web.Response(status=503)
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.connections += 1
        self._sockets[socket], self._requests[socket] = set(), request
        async for message in socket:
            if message.type != WSMsgType.TEXT or socket not in self._sockets:
                break
            told = json.loads(message.data)
            self.pings += "ping" in (told.get("op"), told.get("method"))
            names, answers = self.form.asked(told)
            for answer in () if self.mute else answers:
                await socket.send_str(answer)
            for name in names:
                self._sockets.setdefault(socket, set()).add(
                    name
                )  # at once with the list, so that the stream goes on where that ends
                if self.form.begins_with_list and (recent := self.recent(name)):
                    await socket.send_str(self.form.frame(recent))
        self._sockets.pop(socket, None)
        return socket

    async def _start(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/stream", self._stream)
        app.router.add_route("*", "/{anything:.*}", self._rest)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", self.port).start()
        self.port = runner.addresses[0][1]
        return runner

    @contextmanager
    def serving(self) -> Iterator["Venue"]:
        """Serve until the end of the block."""
        thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        thread.start()
        runner = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        try:
            yield self
        finally:
            self._call(self._cut())
            self._call(runner.cleanup())
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join(10)
            self._loop.close()


# -- recorded trades ---------------------------------------------------------------------------------------------------

NAMES: Final = ("BTCUSDT", "BCHUSDT", "XTZUSDT", "UNIUSDT", "LTCUSDT", "DOTUSDT", "LINKUSDT", "ADAUSDT", "ETHUSDT")


def bybit_prints() -> list[Print]:
    """Return the trades of a recording of Bybit's older interface, by time."""
    found: list[Print] = []
    for line in gzip.decompress(recorded("raw/cryptofeed/BYBIT.ws.25.0.gz").read_bytes()).splitlines():
        _, _, body = line.partition(b": ")
        if body.startswith(b'{"topic":"trade.'):
            found += [
                Print(
                    row["symbol"],
                    row["trade_id"],
                    row["price"],
                    f"{row['size']:.5f}",
                    int(row["trade_time_ms"]),
                    row["side"] == "Sell",
                )
                for row in json.loads(body)["data"]
            ]
    return sorted(found, key=lambda p: p.time_ms)


def hyperliquid_prints() -> list[Print]:
    """Return the trades of a recording of Hyperliquid, by time."""
    found: dict[int, Print] = {}
    for _, line in frames("raw/hyperliquid/btcusd_20250126.gz"):
        plain = json.loads(line)
        for row in plain["data"] if plain["channel"] == "trades" else ():
            found[row["tid"]] = Print("BTC", str(row["tid"]), row["px"], row["sz"], row["time"], row["side"] == "A")
    return sorted(found.values(), key=lambda p: p.time_ms)


def busy_prints() -> list[Print]:
    """Return 9,757 trades that were recorded at another venue, with its numbers for names."""
    found: list[Print] = []
    for _, line in frames("raw/binance_spot/btcusdt_20240808.gz"):
        if line.startswith(b'{"stream":"btcusdt@trade"'):
            row = json.loads(line)["data"]
            found.append(Print("BTCUSDT", f"t-{row['t']}", row["p"], row["q"], row["T"], row["m"]))
    return sorted(found, key=lambda p: p.time_ms)


VENUES: Final[dict[Literal["bybit", "hyperliquid"], tuple[Callable[[], Form], Callable[[], list[Print]]]]] = {
    "bybit": (Bybit, bybit_prints),
    "hyperliquid": (Hyperliquid, hyperliquid_prints),
}


def _side(trade: Print) -> str:
    return "Sell" if trade.taker_sold else "Buy"
