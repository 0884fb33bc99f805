"""The questions as MCP tools, over standard input and output or over HTTP on loopback.

Over HTTP a caller needs the bearer token of the home; the `Host` and `Origin` it names are checked (a page in a browser
must not reach a server on this machine), a request is small, and so is the number of requests a second and at a time.
"""

import dataclasses
import functools
import hmac
import inspect
import json
import secrets
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from trading.errors import TradingError
from trading_assets.tools.answers import TOOLS, Markets

if TYPE_CHECKING:
    from mcp.server.mcpserver import MCPServer

LARGEST_REQUEST: Final = 64 * 2**10
RATE: Final = 10.0
BURST: Final = 20
AT_ONCE: Final = 4

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


def build(markets: Markets) -> "MCPServer":
    """Return a server with every tool."""
    from mcp.server.mcpserver import MCPServer
    from mcp_types import ToolAnnotations

    server = MCPServer(
        "trading-assets",
        title="Market data you can prove",
        instructions=(
            "Every answer says as of when it holds, how old the newest event in it is, and how much of its window is "
            "proven complete. Read `warnings` before you rely on `result`."
        ),
        log_level="WARNING",
        middleware=[_undotted],
    )
    turns = threading.Semaphore(AT_ONCE)
    for name, method in TOOLS.items():
        question = _plain(getattr(markets, method), turns)
        read_only = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)
        server.add_tool(question, name=name, annotations=read_only)
    return server


async def _undotted(context: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
    """Let `binance.get_order_flow` be called too: the seed's form, which most LLM interfaces refuse as a name."""
    named = isinstance(context.params, dict) and isinstance(context.params.get("name"), str)
    if context.method == "tools/call" and named:
        name = context.params["name"].replace(".", "_", 1)
        context = dataclasses.replace(context, params={**context.params, "name": name})
    return await call_next(context)


def _plain(question: Callable[..., dict[str, Any]], turns: threading.Semaphore) -> Callable[..., dict[str, Any]]:
    """Return a question whose refusals reach the caller as JSON, and whose other failures say nothing of the inside."""
    from mcp.server.mcpserver.exceptions import ToolError

    @functools.wraps(question)
    def asked(**arguments: Any) -> dict[str, Any]:
        with turns:
            try:
                return question(**arguments)
            except TradingError as error:
                raise ToolError(json.dumps(error.told())) from None

    asked.__signature__ = inspect.signature(question)  # pyright: ignore[reportAttributeAccessIssue]
    return asked


def token_of(folder: Path) -> str:
    """Return the token that is kept in a folder, made at the first call and readable by its owner alone."""
    file = folder / "tools.token"
    if not file.exists():
        unfinished = folder / f"tools.token.{secrets.token_hex(4)}"
        unfinished.touch(mode=0o600)
        unfinished.write_text(secrets.token_urlsafe(32), encoding="ascii")
        unfinished.replace(file)
    return file.read_text(encoding="ascii").strip()


def http_app(server: "MCPServer", token: str, port: int) -> App:
    """Return the server as an ASGI application at `/mcp`, guarded."""
    from mcp.server.transport_security import TransportSecuritySettings

    names = [f"{host}:{port}" for host in ("127.0.0.1", "localhost")]
    security = TransportSecuritySettings(allowed_hosts=names, allowed_origins=[f"http://{name}" for name in names])
    app = server.streamable_http_app(
        json_response=True,
        stateless_http=True,
        max_request_body_size=LARGEST_REQUEST,
        transport_security=security,
    )
    return Guard(app, token)


class Guard:
    """Lets a request pass that carries the token and comes no faster than `RATE` a second on average.

    Args:
        app: What is guarded.
        token: The bearer token.
        clock: Monotonic seconds.
    """

    def __init__(self, app: App, token: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._app, self._token, self._clock = app, token.encode(), clock
        self._left, self._filled_s = float(BURST), clock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one ASGI scope."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif not self._authorized(scope):
            await _refuse(
                send,
                401,
                "a bearer token is needed: that of run/tools.token in the home",
                ("www-authenticate", "Bearer"),
            )
        elif not self._in_time():
            await _refuse(send, 429, f"at most {RATE:.0f} requests a second", ("retry-after", "1"))
        else:
            await self._app(scope, receive, send)

    def _authorized(self, scope: Scope) -> bool:
        given = dict(scope["headers"]).get(b"authorization", b"")
        kind, _, token = given.partition(b" ")
        return kind.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._token)

    def _in_time(self) -> bool:
        now_s = self._clock()
        self._left = min(BURST, self._left + (now_s - self._filled_s) * RATE)
        self._filled_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True


async def _refuse(send: Send, status: int, why: str, header: tuple[str, str]) -> None:
    body = json.dumps({"error": why}).encode()
    headers = [(b"content-type", b"application/json"), (header[0].encode(), header[1].encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def serve_http(markets: Markets, token: str, port: int, ready: Callable[[int], None]) -> None:
    """Serve on loopback until interrupted; `ready` is called with the port when it is open."""
    import socket

    import uvicorn

    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        port = listening.getsockname()[1]
        app = http_app(build(markets), token, port)
        config = uvicorn.Config(app, log_level="warning", limit_concurrency=64, timeout_keep_alive=5)  # pyright: ignore
        listening.listen()
        ready(port)
        uvicorn.Server(config).run(sockets=[listening])


def serve_stdio(markets: Markets) -> None:
    """Serve one client over standard input and output until it closes them."""
    import anyio

    anyio.run(build(markets).run_stdio_async)
