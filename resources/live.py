"""What happens, as it happens, in Redis Streams: one stream a symbol, one entry for what came together.

A projection for whoever wants to know at once; the journal and the database are the truth. Entries go after some minutes of
event time, streams that nobody writes to a while later, and a reader that comes back for an entry that went finds it in the
database.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from resources.redis import CacheUnavailable
from resources.settings import masked
from trading.market.timeframe import MINUTE_MS
from trading.provider.events import LiveEvent, packed, unpacked

KEPT_MS: Final = 10 * MINUTE_MS
PREFIX: Final = "trading:live:"
FIELD: Final = b"e"
ENTRIES: Final = 256
BACK: Final = 64

Arrived = tuple[str, str, list[LiveEvent]]
"""Symbol, id of the entry, events."""


class LiveStreams:
    """The streams of one Redis.

    Args:
        url: Redis URL.
        timeout_s: How long an answer may take.
    """

    def __init__(self, url: str, timeout_s: float = 2.0) -> None:
        self._client = Redis.from_url(
            url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=Retry(NoBackoff(), 0)
        )
        self._kept_ms: dict[str, int] = {}
        """When it was last said of a stream how long it is to stay."""

    async def publish(self, events: Mapping[str, Sequence[LiveEvent]]) -> None:
        """Tell events by symbol, at once.

        Raises:
            CacheUnavailable: Redis does not answer; what was to be told may have been, or not.
        """
        try:
            now_ms = int(time.time() * 1000)
            oldest_ms = now_ms - KEPT_MS
            pipe, fresh = self._client.pipeline(transaction=False), dict[str, int]()
            for symbol, told in events.items():
                if told:
                    pipe.xadd(PREFIX + symbol, {FIELD: packed(told)}, minid=str(oldest_ms), approximate=True)
                    if now_ms - self._kept_ms.get(symbol, 0) > MINUTE_MS:
                        pipe.pexpire(PREFIX + symbol, 2 * KEPT_MS)
                        fresh[symbol] = now_ms
            await pipe.execute()
            self._kept_ms |= fresh
        except (RedisError, OSError) as error:
            raise _unavailable(error) from None

    async def read(self, after: Mapping[str, str], wait_ms: int) -> list[Arrived]:
        """Return the entries that follow those named, by symbol; wait for the first one a while."""
        try:
            found = await self._client.xread(
                {PREFIX + symbol: entry for symbol, entry in after.items()}, count=ENTRIES, block=wait_ms
            )
        except (RedisError, OSError) as error:
            raise _unavailable(error) from None
        return [
            (key.decode().removeprefix(PREFIX), entry.decode(), unpacked(fields[FIELD]))
            for key, entries in found
            for entry, fields in entries
        ]

    async def before(self, symbol: str, time_ms: int) -> str:
        """Return the id of an entry that tells nothing later than a moment of exchange time, or the beginning."""
        end = "+"
        try:
            while entries := await self._client.xrevrange(PREFIX + symbol, max=end, count=BACK):
                times = [event.time_ms for _, fields in entries for event in unpacked(fields[FIELD])]
                if max(times) <= time_ms:  # what was repaired is old; a whole run of entries that are is no repair
                    return entries[0][0].decode()
                end = f"({entries[-1][0].decode()}"
        except (RedisError, OSError) as error:
            raise _unavailable(error) from None
        return "0"

    async def lag_ms(self, symbol: str, entry: str) -> int:
        """Return by how much an entry is older than the newest one of its stream; 0 where there is no later one."""
        try:
            newest = await self._client.xrevrange(PREFIX + symbol, count=1)
        except (RedisError, OSError) as error:
            raise _unavailable(error) from None
        return max(0, entry_ms(newest[0][0].decode()) - entry_ms(entry)) if newest else 0

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def entry_ms(entry: str) -> int:
    """Return when an entry was told, epoch ms of Redis's clock."""
    return int(entry.partition("-")[0])


def _unavailable(error: Exception) -> CacheUnavailable:
    return CacheUnavailable(
        f"Redis does not answer as it should: {masked(str(error))}",
        "check TRADING_REDIS_URL or run 'trading doctor'",
    )
