"""What happens, as it happens, in Redis Streams: one stream a symbol, one entry for what came together.

A projection for whoever wants to know at once; the journal and the database are the truth. Entries go after some minutes of
event time, streams that nobody writes to a while later, and a reader that comes back for an entry that went finds it in the
database. While Redis is away what is to be told waits, so that who reads the streams misses nothing.
"""

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError, RedisError

from resources.redis import CacheUnavailable
from resources.settings import masked
from trading.market.timeframe import MINUTE_MS
from trading.provider.events import LiveEvent, packed, unpacked

KEPT_MS: Final = 10 * MINUTE_MS
PREFIX: Final = "trading:live:"
FIELD: Final = b"e"
ENTRIES: Final = 256
BACK: Final = 64

BOUND_S: Final = MINUTE_MS / 1000
MOST_ENTRIES: Final = 100_000
"""Of a stream, should their age say nothing: when Redis's clock was set back, ids stand still until it has caught up."""

AGAIN_S: Final = 10.0
"""What was told so long before Redis went away is told again; it may be gone with it."""

MOST_WAITING: Final = 100_000
"""Events that wait for Redis, of a minute or two, in 30 MiB."""

SPARED: Final = 2.0
"""A Redis that is silent until patience ends would hold up its caller each time; it is left alone for so many times that."""

_log = logging.getLogger(__name__)

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
        self._bounded_s: dict[str, float] = {}
        """When it was last said of a stream how long it is to stay, and to be."""

    async def publish(self, *batches: Mapping[str, Sequence[LiveEvent]]) -> None:
        """Tell events by symbol, at once, an entry for each batch.

        Raises:
            CacheUnavailable: Redis does not answer; what was to be told may have been, or not.
        """
        try:
            now_s, oldest_ms = time.monotonic(), int(time.time() * 1000) - KEPT_MS
            pipe, fresh = self._client.pipeline(transaction=False), dict[str, float]()
            for symbol, told in (item for events in batches for item in events.items()):
                if told:
                    pipe.xadd(PREFIX + symbol, {FIELD: packed(told)}, minid=str(oldest_ms), approximate=True)
                    if symbol not in fresh and now_s - self._bounded_s.get(symbol, -BOUND_S) >= BOUND_S:
                        pipe.pexpire(PREFIX + symbol, 2 * KEPT_MS)
                        pipe.xtrim(PREFIX + symbol, maxlen=MOST_ENTRIES, approximate=True)
                        fresh[symbol] = now_s
            await pipe.execute()
            self._bounded_s |= fresh
        except (RedisError, OSError) as error:
            raise _unavailable(error) from None

    async def begun(self) -> str:
        """Return a name that Redis has anew each time it begins, and then may be empty; nothing where it may not be asked.

        Raises:
            CacheUnavailable: It does not answer.
        """
        try:
            return (await self._client.info("server"))["run_id"]
        except NoPermissionError:
            return ""
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


_Batch = Mapping[str, Sequence[LiveEvent]]


class Teller:
    """Tells events in their order, and each of them at least once, however long Redis is away.

    What could not be told waits, and what was told shortly before is told again, as it may be gone. Instead of what finds no
    room `missed` is told, upon which a reader turns to the database. What waits when the process ends is not told.

    Args:
        streams: Where.
        statistics: Counts what was `told`, what of it was told `late` or again, and what found no room and was `not_told`.
    """

    def __init__(self, streams: LiveStreams, statistics: Counter[str]) -> None:
        self._streams, self._statistics = streams, statistics
        self._waiting, self._told = deque[_Batch](), deque[tuple[float, _Batch]]()
        self._missed: dict[str, LiveEvent] = {}
        self._begun: str | None = None
        self._failure, self._not_before_s = "", 0.0
        self._telling = asyncio.Lock()

    async def tell(self, events: Mapping[str, Sequence[LiveEvent]]) -> None:
        """Tell events by symbol, with all that waits, or let them wait."""
        if any(events.values()):
            self._waiting.append(events)
        async with self._telling:
            now_s = time.monotonic()
            if not self._waiting or now_s < self._not_before_s:
                return
            try:
                await self._join()
                self._make_room()
                waiting: list[_Batch] = [{name: [event] for name, event in self._missed.items()}, *self._waiting]
                await self._streams.publish(*waiting)
            except CacheUnavailable as error:
                self._fail(error, now_s)
                return
            count = sum(map(_count, waiting))
            self._statistics["told"] += count
            self._statistics["late"] += count if self._failure else 0
            self._failure = ""
            self._missed.clear()
            for _ in waiting[1:]:
                self._waiting.popleft()
            self._told.extend((now_s, batch) for batch in waiting if batch)
            while self._told and self._told[0][0] < now_s - AGAIN_S:
                self._told.popleft()

    async def close(self) -> None:
        """Close the connections."""
        await self._streams.close()

    async def _join(self) -> None:
        """Find that Redis answers, before much is put together in vain, and whether it was away unseen."""
        begun = await self._streams.begun()
        if begun != self._begun and self._begun is not None:
            self._again()
            self._failure = self._failure or "it began anew"
        self._begun = begun

    def _again(self) -> None:
        """Have what was told of late told again, first."""
        self._waiting.extendleft(batch for _, batch in reversed(self._told))
        self._told.clear()

    def _fail(self, error: CacheUnavailable, began_s: float) -> None:
        now_s = time.monotonic()
        self._not_before_s = now_s + SPARED * (now_s - began_s)
        self._again()
        if error.message != self._failure:
            _log.warning("what is new waits to be told: %s", error.message)
        self._failure = error.message

    def _make_room(self) -> None:
        """Give up what has waited longest, where there is too much."""
        count = sum(map(_count, self._waiting))
        while count > MOST_WAITING:
            batch = self._waiting.popleft()
            count -= _count(batch)
            self._statistics["not_told"] += _count(batch)
            for symbol, given_up in batch.items():
                if given_up:
                    before = [self._missed[symbol]] if symbol in self._missed else []
                    newest_ms = max(event.time_ms for event in (*before, *given_up))
                    self._missed[symbol] = LiveEvent("missed", symbol, newest_ms, newest_ms, ())


def _count(batch: _Batch) -> int:
    return sum(map(len, batch.values()))


def entry_ms(entry: str) -> int:
    """Return when an entry was told, epoch ms of Redis's clock."""
    return int(entry.partition("-")[0])


def _unavailable(error: Exception) -> CacheUnavailable:
    return CacheUnavailable(
        f"Redis does not answer as it should: {masked(str(error))}",
        "check TRADING_REDIS_URL or run 'trading doctor'",
    )
