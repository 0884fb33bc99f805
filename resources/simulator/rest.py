"""The REST side of the simulated exchange: request weight, refusals and faults around each call's answer."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from resources.simulator.calls import Call, Query, Refused
from resources.simulator.faults import FaultPlan
from resources.simulator.market import NotRecorded

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
PAGE: Final = "<!DOCTYPE html><html><head><title>Attention</title></head><body>The page cannot be shown.</body></html>"
SERVER_ERRORS: Final = (500, 502, 503, 504)
BAN: Final = {429: "Too many requests; current limit is exceeded.", 418: "Way too many requests; IP banned."}


class Rest:
    """All calls of one exchange.

    Args:
        faults: Returns the plan in force.
        limit: Whether the request weight is limited as on the real exchange.

    Attributes:
        calls: Calls so far, whatever came of them.
    """

    def __init__(self, faults: Callable[[], FaultPlan], limit: bool) -> None:
        self._faults, self._limit = faults, limit
        self.calls = 0

    def serve(self, router: web.UrlDispatcher, calls: dict[str, Call], weight_a_minute: int) -> None:
        """Add the calls of one kind of market, which share one limit."""
        weight = _Weight(weight_a_minute)
        for path, call in calls.items():
            router.add_get(path, self._handler(call, weight))

    def _handler(self, call: Call, weight: "_Weight") -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            self.calls += 1
            plan, number = self._faults(), self.calls
            headers = {"X-MBX-USED-WEIGHT-1M": str(weight.take(call.weight(request.query)))}
            fault = plan.of_call(number)
            if fault in ("rest_refused", "rest_hang"):
                return await _unanswered(request, fault == "rest_hang")
            if fault and fault != "rest_truncated":
                return _struck(fault, number, plan, headers)
            if self._limit and weight.exceeded:
                wait = str(60 - int(time.monotonic() % 60))
                return error(429, -1003, "Too much request weight used", headers | {"Retry-After": wait})
            status, text = _answer(call, request.query)
            text = text[: len(text) // 2] if fault else text
            return web.Response(status=status, text=text, content_type="application/json", headers=headers)

        return handle


class _Weight:
    def __init__(self, most: int) -> None:
        self._most, self._used, self._minute = most, 0, 0

    def take(self, weight: int) -> int:
        """Return what is used in this minute, with this call."""
        minute = int(time.monotonic() // 60)
        if minute != self._minute:
            self._used, self._minute = 0, minute
        self._used += weight
        return self._used

    @property
    def exceeded(self) -> bool:
        return self._used > self._most


def error(status: int, code: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    """Return an error in the exchange's form."""
    return web.json_response({"code": code, "msg": message}, status=status, headers=headers)


def _answer(call: Call, query: Query) -> tuple[int, str]:
    try:
        return 200, call.answer(query)
    except Refused as refusal:
        status, code, message = refusal.status, refusal.code, str(refusal)
    except NotRecorded as absent:
        status, code, message = 503 if absent.later else 400, -1000, str(absent)
    return status, json.dumps({"code": code, "msg": message}, ensure_ascii=False)


def _struck(fault: str, number: int, plan: FaultPlan, headers: dict[str, str]) -> web.Response:
    if fault == "rest_html":
        return web.Response(text=PAGE, content_type="text/html", headers=headers)
    if fault == "rest_403":
        return web.Response(status=403, text=PAGE, content_type="text/html")
    if fault == "rest_5xx":
        status = SERVER_ERRORS[int(plan.chance("status", number) * len(SERVER_ERRORS))]
        return web.Response(status=status, text=f"HTTP {status}", headers=headers)
    status = int(fault.removeprefix("rest_"))
    wait = {} if plan.retry_after_s is None else {"Retry-After": str(plan.retry_after_s)}
    return error(status, -1003, BAN[status], headers | wait)


async def _unanswered(request: web.Request, patient: bool) -> web.Response:
    """Cut the connection, at once or when the caller has given up."""
    transport = request.transport
    while patient and transport is not None and not transport.is_closing():
        await asyncio.sleep(0.05)
    if transport is not None:
        transport.abort()
    return web.Response()
