"""Hot values in Redis: the newest facts of each symbol, a projection that is rebuilt from the database at any time."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from resources.settings import masked
from trading.errors import TradingError

TTL_S: Final = 7 * 24 * 3600
"""Longer than any pause between two refreshes; a value that nobody refreshes does not pass for fresh for ever."""

PREFIX: Final = "trading:latest:"


class CacheUnavailable(TradingError):
    """Redis does not answer, or not as Redis does."""


class HotValues:
    """The newest facts of each symbol, a hash each under `trading:latest:{symbol}`.

    Args:
        url: Redis URL.
    """

    def __init__(self, url: str) -> None:
        # redis-py's own retries would stretch a socket timeout of 5 s to many times that.
        self._client = Redis.from_url(
            url, decode_responses=True, socket_timeout=5, socket_connect_timeout=5, retry=Retry(NoBackoff(), 0)
        )

    def differing(self, rows: Mapping[str, Mapping[str, str]]) -> list[str]:
        """Return the symbols whose hash is not what `rows` says, in order, strays included."""
        with _answering():
            there = {key.removeprefix(PREFIX) for key in self._client.scan_iter(f"{PREFIX}*")}
            stray = there - rows.keys()
            return sorted(stray | {name for name, row in rows.items() if self._get(name) != dict(row)})

    def rebuild(self, rows: Mapping[str, Mapping[str, str]]) -> int:
        """Make the hashes what `rows` says, at once; return how many changed."""
        changed = self.differing(rows)
        with _answering(), self._client.pipeline(transaction=True) as pipe:
            for name in changed:
                pipe.delete(PREFIX + name)
                if name in rows:
                    pipe.hset(PREFIX + name, mapping=dict(rows[name]))
            for name in rows:
                pipe.expire(PREFIX + name, TTL_S)
            pipe.execute()
        return len(changed)

    def get(self, symbol: str) -> dict[str, str]:
        """Return the newest facts of one symbol; empty when there are none."""
        with _answering():
            return self._get(symbol)

    def _get(self, symbol: str) -> dict[str, str]:
        try:
            return self._client.hgetall(PREFIX + symbol)
        except ResponseError as error:
            # Another program wrote a value of another kind there: a miss, and the next rebuild replaces it.
            if "WRONGTYPE" in str(error):
                return {}
            raise

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


@contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        raise CacheUnavailable(
            f"Redis does not answer as it should: {masked(str(error))}",
            "check TRADING_REDIS_URL or run 'trading doctor'",
        ) from None
