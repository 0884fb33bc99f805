"""The simulated exchange: Binance's REST and websocket protocol over one market of each kind, on loopback.

Its clock is its own. Played at a speed it runs beside the wall clock; played as fast as the client reads, time advances
with what has been delivered and waits for a first subscriber. REST never shows what lies after the exchange's now.
"""

import asyncio
import re
import ssl
import time
from collections import deque
from typing import Final, NamedTuple

import msgspec
from aiohttp import web

from resources.simulator import calls_futures, calls_spot
from resources.simulator.archive import MarketArchive
from resources.simulator.clock import Clock
from resources.simulator.connection import Connection, TooManyStreams
from resources.simulator.faults import FaultPlan, fault_plan
from resources.simulator.market import Market
from resources.simulator.rest import Handler, Rest, error
from resources.simulator.streams import Streams
from trading.market.timeframe import MINUTE_MS

TICK_S: Final = 0.05
REAL_TICK_S: Final = 0.02
"""Beside the wall clock; a real exchange sends at once. A faster market is computed in fewer, longer stretches."""

JOIN_S: Final = 0.3
"""Time for the first subscriber to look around, and for others to join, before a market at full speed begins."""

STRETCH_MS: Final = 5 * MINUTE_MS
BREATH: Final = 64
"""Frames after which others have their turn; sending alone yields only when a client reads too slowly."""

CONNECTS: Final = 300
CONNECTS_S: Final = 300.0


class Root(NamedTuple):
    """One root of streams: the kind of its market, and which of its streams it carries."""

    path: str
    kind: str
    carried: re.Pattern[str]


PUBLIC: Final = re.compile(r".*@(bookTicker|depth.*)")
MARKET: Final = re.compile(r"(?!.*@(bookTicker|depth)).*")
ROOTS: Final = (
    Root("", "spot", re.compile(r".*")),
    Root("/market", "usdm", MARKET),
    Root("/public", "usdm", PUBLIC),
    Root("/fstream/market", "usdm", MARKET),
    Root("/fstream/public", "usdm", PUBLIC),
    # Since futures were split, their bare root accepts a connection and is silent.
    Root("/fstream", "usdm", re.compile(r"(?!)")),
)


class SimulatedExchange:
    """One spot market, futures on it, or both, behind Binance's protocol.

    Args:
        markets: What is traded, at most one market of a kind.
        clock: Its clock.
        faults: What goes wrong.
        limit: Whether request weight, messages and connections are limited as on the real exchange.
    """

    def __init__(
        self, markets: list[Market], clock: Clock, faults: FaultPlan | None = None, limit: bool = False
    ) -> None:
        self.markets, self.clock, self.faults = markets, clock, faults or FaultPlan()
        self._limit = limit
        self._streams = {market.kind: Streams(market) for market in markets}
        self._rest = Rest(lambda: self.faults, limit)
        self._connections: list[Connection] = []
        self._connected: deque[float] = deque(maxlen=CONNECTS)
        self._connects, self._frames = 0, 0
        self._runner: web.AppRunner | None = None
        self._pump: asyncio.Task[None] | None = None

    async def start(self, port: int = 0, tls: ssl.SSLContext | None = None) -> int:
        """Listen on 127.0.0.1, by TLS where a context is given, and return the port."""
        app = web.Application()
        for market in self.markets:
            if market.kind == "spot":
                self._rest.serve(app.router, calls_spot.SpotCalls(market, self.clock).calls, calls_spot.WEIGHT_A_MINUTE)
                app.router.add_get("/data/{path:.*}", MarketArchive(market, self.clock.now_ms).answer)
            else:
                calls = calls_futures.FuturesCalls(market, self.clock).calls
                self._rest.serve(app.router, calls, calls_futures.WEIGHT_A_MINUTE)
        for root in ROOTS:
            if root.kind in self._streams:
                for path in ("/ws", "/ws/{streams:.*}", "/stream"):
                    app.router.add_get(root.path + path, self._socket(root))
        app.router.add_get("/sim/clock", self._show_clock)
        app.router.add_get("/sim/counts", self._show_counts)
        app.router.add_get("/sim/faults", self._show_faults)
        app.router.add_post("/sim/faults", self._set_faults)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port, ssl_context=tls).start()
        self._pump = asyncio.create_task(self._stream())
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """Close all connections."""
        if self._pump is not None:
            self._pump.cancel()
        await asyncio.gather(*(connection.close() for connection in self._connections))
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def finished(self) -> bool:
        """Whether all that happens has been sent."""
        return self._pump is not None and self._pump.done()

    # -- its own commands --------------------------------------------------------------------------------------------

    async def _show_clock(self, request: web.Request) -> web.Response:
        now, end = self.clock.now_ms(), self.clock.end_ms
        return web.json_response({"now_ms": now, "end_ms": end, "finished": now >= end})

    async def _show_counts(self, request: web.Request) -> web.Response:
        counts = {"connects": self._connects, "open": len(self._connections), "frames": self._frames}
        return web.json_response(counts | {"calls": self._rest.calls})

    async def _show_faults(self, request: web.Request) -> web.Response:
        return web.json_response(msgspec.to_builtins(self.faults))

    async def _set_faults(self, request: web.Request) -> web.Response:
        """Put another plan in force; what it does not name stops."""
        try:
            self.faults = fault_plan(msgspec.json.decode(await request.read()))
        except (msgspec.ValidationError, msgspec.DecodeError) as problem:
            return error(400, -1100, str(problem))
        for number, connection in enumerate(self._connections):
            connection.cut_in_storm(self.faults, number)
        return web.json_response({})

    # -- websocket ---------------------------------------------------------------------------------------------------

    def _socket(self, root: Root) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            self._connects += 1
            now = time.monotonic()
            if self._limit and len(self._connected) == CONNECTS and now - self._connected[0] < CONNECTS_S:
                return error(429, -1003, "Too many connection attempts.", {"Retry-After": str(int(CONNECTS_S))})
            self._connected.append(now)
            try:
                connection = Connection(request, root.kind, lambda s: bool(root.carried.fullmatch(s)), self._limit)
            except TooManyStreams:
                return error(400, -1130, "Too many streams.")
            connection.cut_in_storm(self.faults, self._connects)
            self._connections.append(connection)
            try:
                return await connection.run()
            finally:
                self._connections.remove(connection)

        return handle

    async def _stream(self) -> None:
        """Send what happens to everyone who listens, stretch by stretch of exchange time."""
        sent_until = self.clock.now_ms()
        joined = 0.0
        while sent_until < self.clock.end_ms:
            if self.clock.paced:
                self._prepare(sent_until)
                await asyncio.sleep(REAL_TICK_S if self.clock.speed <= 1 else TICK_S)
                until = self.clock.now_ms()
            else:
                while not any(connection.carried for connection in self._connections):
                    await asyncio.sleep(0.01)
                    joined = time.monotonic()
                while time.monotonic() < joined + JOIN_S:
                    await asyncio.sleep(0.01)
                until = min(self.clock.end_ms, sent_until + STRETCH_MS)
            await self._deliver(sent_until, until)
            self.clock.delivered(until)
            sent_until = until
            await asyncio.sleep(0)
        for connection in list(self._connections):
            await connection.release()

    def _prepare(self, now_ms: int) -> None:
        if self.clock.speed <= 1:
            for kind, streams in self._streams.items():
                streams.prepare(self._wanted(kind), now_ms)

    def _wanted(self, kind: str) -> set[str]:
        return {name for c in self._connections if c.kind == kind for name in c.carried}

    async def _deliver(self, lo_ms: int, hi_ms: int) -> None:
        """Send the events of a stretch in the order of their times."""
        events = []
        for kind, streams in self._streams.items():
            events += [(event, kind) for event in streams.events(self._wanted(kind), lo_ms, hi_ms)]
        if len(self._streams) > 1:
            events.sort(key=lambda one: one[0].time_ms)
        for event, kind in events:
            # Time passes with the events, so that a snapshot asked for between two of them belongs between them.
            self.clock.delivered(max(lo_ms, event.time_ms))
            self._frames += 1
            if not self._frames % BREATH:
                await asyncio.sleep(0)
            for connection in list(self._connections):
                if event.stream in connection.carried and connection.kind == kind:
                    await connection.deliver(event, self._frames, self.faults)
