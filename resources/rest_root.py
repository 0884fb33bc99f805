"""One REST root of an exchange: requests within its budget, waits that it asks for, repeats when it fails.

What is asked and what an answer means is the client's; this knows only whether an exchange answers, refuses, wants to
be left alone, or has failed.
"""

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import Any, Final

import aiohttp

from resources.http_budget import HttpBudget
from trading.errors import TradingError

PARALLEL: Final = 4
TRIES: Final = 6
TIMEOUT_S: Final = 15
DEFAULT_WAIT_S: Final = 60
USED_WEIGHT: Final = "X-MBX-USED-WEIGHT-1M"


class ExchangeRefused(TradingError):
    """The exchange refuses or does not answer."""


class ExchangeUntrusted(ExchangeRefused):
    """The exchange shows a certificate that none of the known authorities has issued."""


class ExchangeAnswer(TradingError):
    """The exchange's answer is not in its documented form."""


Refusal = Callable[[str, Mapping[str, Any], int, bytes], TradingError]
"""Makes the error of a refused call from its name, its parameters, the HTTP status and the body."""

Patience = Callable[[int, Mapping[str, str], bytes], float | None]
"""Returns how long an answer asks to be left alone, from its status, headers and body; None: it does not."""


def wait_when_limited(status: int, headers: Mapping[str, str], body: bytes) -> float | None:
    """Return what 429 and 418 ask for: `Retry-After`, or a minute where it is missing."""
    if status not in (418, 429):
        return None
    wait = headers.get("Retry-After", "")
    return float(wait) if wait.isdecimal() else float(DEFAULT_WAIT_S)


class RestRoot:
    """A REST root.

    Args:
        root: For example `https://api.binance.com`.
        budget: The weight that may be used.
        refusal: Makes the error of a refused call.
        patience: Tells when to leave the exchange alone.
        seed: Of the jitter between repeated requests.
        setting: Where the root is set, for whoever must mend it.
    """

    def __init__(
        self,
        root: str,
        budget: HttpBudget,
        refusal: Refusal,
        patience: Patience = wait_when_limited,
        seed: int = 0,
        setting: str = "TRADING_EXCHANGE_REST_URL",
    ) -> None:
        self.root, self.budget = root, budget
        self._refusal, self._patience, self._setting = refusal, patience, setting
        self._random = random.Random(seed)  # noqa: S311
        self._session: aiohttp.ClientSession | None = None
        self._gate = asyncio.Semaphore(PARALLEL)

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def get(self, path: str, query: Mapping[str, Any], weight: int) -> bytes:
        """Return the body of a GET; raises `ExchangeRefused` or what `refusal` makes."""
        return await self._call("GET", path, query, weight)

    async def post(self, path: str, question: Mapping[str, Any], weight: int) -> bytes:
        """Return the body of a POST with a JSON body; raises `ExchangeRefused` or what `refusal` makes."""
        return await self._call("POST", path, question, weight)

    async def _call(self, method: str, path: str, parameters: Mapping[str, Any], weight: int) -> bytes:
        name, problem = path.rsplit("/", 1)[-1], "no answer"
        for attempt in range(TRIES):
            async with self._gate:
                while wait := self.budget.take(weight):
                    await asyncio.sleep(wait)
                try:
                    status, headers, body = await self._request(method, path, parameters)
                except aiohttp.ClientConnectorCertificateError as error:
                    raise ExchangeUntrusted(
                        f"{self.root} shows a certificate that is not trusted: {error.certificate_error}",
                        f"check {self._setting}; an authority of your own is named by SSL_CERT_FILE",
                    ) from None
                except (aiohttp.ClientError, TimeoutError, OSError) as error:
                    status, headers, body, problem = 0, {}, b"", f"{type(error).__name__}: {error}"
            pause = self._patience(status, headers, body)
            if pause is not None:
                self.budget.forbid(pause)
                problem = f"HTTP {status}, wait {pause:.0f} s"
                continue
            if status == 200:
                return body
            if 400 <= status < 500:
                raise self._refusal(name, parameters, status, body)
            problem = f"HTTP {status}" if status else problem
            # Full jitter keeps clients that failed together from coming back together.
            await asyncio.sleep(self._random.uniform(0, min(5.0, 0.1 * 2**attempt)))
        raise ExchangeRefused(
            f"{self.root} refuses {name}: {problem} after {TRIES} tries", f"check {self._setting} and try later"
        )

    async def _request(self, method: str, path: str, parameters: Mapping[str, Any]) -> tuple[int, Any, bytes]:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
        given = {"params": parameters} if method == "GET" else {"json": parameters}
        asked_at_s = self.budget.now_s
        async with self._session.request(method, f"{self.root}{path}", **given) as answer:
            used = answer.headers.get(USED_WEIGHT, "")
            if used.isdecimal() and len(used) < 10:
                self.budget.reported(int(used), asked_at_s)
            return answer.status, answer.headers, await answer.read()
