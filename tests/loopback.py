"""A small HTTP server on loopback that answers as a test says and remembers what it was asked."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Answer = tuple[int, str, dict[str, str]]
"""Status, body and headers."""


@dataclass(frozen=True)
class Asked:
    """One request: seconds on the monotonic clock, path, query of a GET or JSON body of a POST."""

    at_s: float
    path: str
    parameters: dict[str, Any]


@dataclass
class Loopback:
    """The server's root and what it was asked."""

    root: str = ""
    asked: list[Asked] = field(default_factory=list)

    @property
    def paths(self) -> list[str]:
        """Paths in the order in which they were asked for."""
        return [asked.path for asked in self.asked]


@contextmanager
def loopback(answer: Callable[[Asked], Answer]) -> Iterator[Loopback]:
    """Serve until the end of the block."""
    server, loop = Loopback(), asyncio.new_event_loop()

    async def handle(request: web.Request) -> web.Response:
        parameters = await request.json() if request.method == "POST" else dict(request.query)
        asked = Asked(loop.time(), request.path, parameters)
        server.asked.append(asked)
        status, text, headers = answer(asked)
        return web.Response(status=status, text=text, headers=headers)

    async def start() -> web.AppRunner:
        app = web.Application()
        app.router.add_route("*", "/{anything:.*}", handle)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        server.root = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    runner = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
    try:
        yield server
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
