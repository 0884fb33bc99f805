"""A simulated exchange in the test's own loop, and real clients of it over loopback."""

import asyncio
import json
import math
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import cache
from typing import Any, NamedTuple

import aiohttp
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from resources.simulator.clock import Clock
from resources.simulator.faults import FaultPlan
from resources.simulator.market import Market
from resources.simulator.server import SimulatedExchange
from resources.simulator.synthetic import SyntheticMarket
from trading.market.timeframe import MINUTE_MS

START_MS = 1_760_000_040_000
SYMBOL = "BTCUSDT"
SEED = 11


class Exchange(NamedTuple):
    server: SimulatedExchange
    port: int

    @property
    def ws(self) -> str:
        return f"ws://127.0.0.1:{self.port}"

    @property
    def http(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def received(self, path: str, until: int | None = None, **options: Any) -> list[str]:
        """Return the frames of a socket: so many, or all until the market has ended or the socket has."""
        frames: list[str] = []
        ended = False
        async with connect(self.ws + path, close_timeout=1, **options) as socket:
            while until is None or len(frames) < until:
                try:
                    frame = await asyncio.wait_for(socket.recv(), 0.2)
                except TimeoutError:
                    if ended:
                        break
                    ended = self.server.finished  # its last frame may still be on the way
                    continue
                except ConnectionClosed:
                    break
                frames.append(frame if isinstance(frame, str) else frame.decode())
        return frames


@cache
def synthetic(symbol: str = SYMBOL, seed: int = SEED) -> list[Market]:
    return [SyntheticMarket(seed, [symbol], kind) for kind in ("spot", "usdm")]


@asynccontextmanager
async def exchange(
    markets: Sequence[Market] = (),
    start_ms: int = START_MS,
    end_ms: int = START_MS + 2 * MINUTE_MS,
    speed: float = math.inf,
    faults: FaultPlan | None = None,
    limit: bool = False,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[Exchange]:
    server = SimulatedExchange(list(markets) or synthetic(), Clock(start_ms, end_ms, speed), faults, limit)
    try:
        yield Exchange(server, await server.start(tls=tls))
    finally:
        await server.stop()


async def get(url: str, **query: Any) -> Any:
    """Return the decoded answer of a call that succeeds."""
    async with aiohttp.ClientSession() as session, session.get(url, params=query) as answer:
        text = await answer.text()
        assert answer.status == 200, text
        return json.loads(text)


async def set_faults(exchange: Exchange, **plan: Any) -> None:
    async with aiohttp.ClientSession() as session, session.post(f"{exchange.http}/sim/faults", json=plan) as answer:
        assert answer.status == 200, await answer.text()
