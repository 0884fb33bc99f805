"""One websocket of the simulated exchange: its subscriptions, its limits, and the faults on the way to its client."""

import asyncio
import contextlib
import json
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from resources.simulator.faults import FaultPlan
from resources.simulator.market import Event

MOST_STREAMS: Final = 1024
MESSAGES_A_SECOND: Final = {"spot": 5, "usdm": 10}
PING_S: Final = {"spot": 20.0, "usdm": 180.0}
PONG_S: Final = {"spot": 60.0, "usdm": 600.0}
"""A connection without a pong for so long is cut."""

SHUTDOWN: Final = "!serverShutdown"
ENDED: Final = (WSMsgType.CLOSE, WSMsgType.CLOSING, WSMsgType.CLOSED, WSMsgType.ERROR)


class TooManyStreams(Exception):
    """A connection asks for more streams than it may have."""


class Connection:
    """One websocket.

    Args:
        request: What asked for it; its path says whether events are combined, and may name streams.
        kind: Kind of the market whose streams it carries.
        carries: Whether its root carries a stream; on any other it is silent.
        limit: Whether messages a second are limited as on the real exchange.

    Raises:
        TooManyStreams: The path names too many.

    Attributes:
        streams: What it subscribed to.
        carried: What of it the root carries.
    """

    def __init__(self, request: web.Request, kind: str, carries: Callable[[str], bool], limit: bool) -> None:
        self.kind = kind
        self.streams: dict[str, None] = {}
        self.carried: set[str] = set()
        self._request, self._carries, self._limit = request, carries, limit
        self._combined = request.path.endswith("/stream")
        self._socket = web.WebSocketResponse(autoping=False, autoclose=False, timeout=1, max_msg_size=2**20)
        self._received: deque[float] = deque(maxlen=MESSAGES_A_SECOND[kind])
        self._ponged = time.monotonic()
        self._half_open, self._shutting_down = False, False
        self._held: Event | None = None
        named = request.query.get("streams", "") if self._combined else request.match_info.get("streams", "")
        self._subscribe([name for name in named.split("/") if name])

    async def run(self) -> web.WebSocketResponse:
        """Take the client's messages until either side ends it."""
        await self._socket.prepare(self._request)
        pinging = asyncio.create_task(self._ping())
        try:
            await self._receive()
        finally:
            pinging.cancel()
        return self._socket

    async def close(self) -> None:
        """Close it as the protocol has it."""
        if self._socket.prepared:
            await self._socket.close()

    def cut(self) -> None:
        """End it without a word."""
        if self._request.transport is not None:
            self._request.transport.abort()

    def cut_in_storm(self, plan: FaultPlan, number: int) -> None:
        """Cut it after a while, if the plan has a storm."""
        if plan.storm_s:
            asyncio.get_running_loop().call_later(plan.storm_s * plan.chance("storm", number), self.cut)

    # -- to the client -----------------------------------------------------------------------------------------------

    async def deliver(self, event: Event, number: int, plan: FaultPlan) -> None:
        """Send an event, with what the plan does to the frame of this number."""
        # A client that has gone is taken off the server's list.
        with contextlib.suppress(ConnectionError, RuntimeError):
            if plan.spares_frames:
                await self._send(event)
            elif event.stream not in plan.stalled:
                await self._deliver(event, plan.of_frame(number), plan)

    async def release(self) -> None:
        """Send a frame that waited for one after it."""
        held, self._held = self._held, None
        if held is not None:
            with contextlib.suppress(ConnectionError, RuntimeError):
                await self._send(held)

    async def _deliver(self, event: Event, faults: set[str], plan: FaultPlan) -> None:
        if "half_open" in faults:
            self._half_open = True
        if "drop" in faults:
            return
        if "malformed" in faults:
            event = event._replace(text=event.text[: len(event.text) // 2])
        if "reorder" in faults and self._held is None:
            self._held = event
            return
        await self._send(event)
        await self.release()
        if "duplicate" in faults:
            await self._send(event)
        if "shutdown" in faults and not self._shutting_down:
            self._shutting_down = True
            await self._send(Event(0, 0, SHUTDOWN, f'{{"e":"serverShutdown","E":{event.time_ms}}}'))
            asyncio.get_running_loop().call_later(plan.shutdown_lead_s, self.cut)
        if "disconnect" in faults:
            await self.close()

    async def _send(self, event: Event) -> None:
        if self._half_open or self._socket.closed:
            return
        envelope = f'{{"stream":"{event.stream}","data":{event.text}}}' if self._combined else event.text
        await self._socket.send_str(envelope)

    async def _ping(self) -> None:
        while not self._socket.closed:
            await asyncio.sleep(PING_S[self.kind])
            if time.monotonic() - self._ponged > PONG_S[self.kind]:
                self.cut()
            elif not self._half_open:
                await self._socket.ping()

    # -- from the client ---------------------------------------------------------------------------------------------

    async def _receive(self) -> None:
        while True:
            message = await self._socket.receive()
            if self._half_open:
                await self._be_deaf()
                return
            if message.type in ENDED:
                await self.close()
                return
            if self._limit and self._too_fast():
                await self._socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"Too many requests")
                return
            if message.type is WSMsgType.TEXT:
                await self._socket.send_str(self._command(message.data))
            elif message.type is WSMsgType.PING:
                await self._socket.pong(message.data)
            elif message.type is WSMsgType.PONG:
                self._ponged = time.monotonic()

    async def _be_deaf(self) -> None:
        transport = self._request.transport
        while transport is not None and not transport.is_closing():
            await asyncio.sleep(0.05)

    def _too_fast(self) -> bool:
        """Note a message; return whether there were more within a second than may be."""
        now, received = time.monotonic(), self._received
        fast = len(received) == received.maxlen and now - received[0] < 1
        received.append(now)
        return fast

    def _command(self, text: str) -> str:
        """Carry out SUBSCRIBE, UNSUBSCRIBE or LIST_SUBSCRIPTIONS and return the answer."""
        try:
            command = msgspec.json.decode(text)
            method, identity = command["method"], command.get("id")
            streams = command.get("params") or []
            if not all(isinstance(stream, str) for stream in streams):
                raise TypeError
        except (msgspec.DecodeError, KeyError, TypeError, AttributeError):
            return _refusal(3, "Invalid JSON: expected a command")
        if method == "SUBSCRIBE":
            try:
                self._subscribe(streams)
            except TooManyStreams:
                return _refusal(2, f"Invalid request: more than {MOST_STREAMS} streams", identity)
            return json.dumps({"result": None, "id": identity})
        if method == "UNSUBSCRIBE":
            for stream in streams:
                self.streams.pop(stream, None)
            self.carried -= set(streams)
            return json.dumps({"result": None, "id": identity})
        if method == "LIST_SUBSCRIPTIONS":
            return json.dumps({"result": list(self.streams), "id": identity}, ensure_ascii=False)
        return _refusal(2, f"Invalid request: unknown method {method!r}", identity)

    def _subscribe(self, streams: Sequence[str]) -> None:
        if len(self.streams.keys() | set(streams)) > MOST_STREAMS:
            raise TooManyStreams
        self.streams |= dict.fromkeys(streams)
        self.carried |= {stream for stream in streams if self._carries(stream)}


def _refusal(code: int, message: str, identity: object = None) -> str:
    refusal: dict[str, object] = {"error": {"code": code, "msg": message}}
    return json.dumps(refusal if identity is None else refusal | {"id": identity}, ensure_ascii=False)
