"""Embedded servers of a home: PostgreSQL, Redis and the owner of the Qdrant Edge shards, each a real one.

They belong to the home, not to a process. Every user holds a lease; the first one in starts what is not running, the
last one out stops it. Leases are file locks, so the lease of a process that was killed ends with it; its servers are
found running by the next user and taken over, or started anew.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from resources.home import Home
from resources.servers import postgres, qdrant, redis
from resources.settings import Settings
from trading.errors import TradingError

WAIT_S: Final = 30


class StoreUnreachable(TradingError):
    """A store does not answer at the URL that its setting names."""


@dataclass(frozen=True)
class Urls:
    """Where each store answers."""

    postgres: str
    dagster: str
    redis: str
    qdrant: str


@contextmanager
def running(home: Home, settings: Settings, names: tuple[str, ...] = ("postgres", "redis", "qdrant")) -> Iterator[Urls]:
    """Yield the URLs of a home's stores and keep its embedded servers running meanwhile.

    Raises:
        StoreUnreachable: A server named by a URL, or an embedded one, does not answer.
    """
    home.socket_dir.mkdir(mode=0o711, exist_ok=True)
    home.run_dir.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        embedded = []
        for name in names:
            if getattr(settings, f"{name}_url"):
                continue
            embedded.append(name)
        lease = stack.enter_context(_lease(home))
        with _turn(home):
            for name in embedded:
                _SERVERS[name].ensure(home)
            fcntl.flock(lease, fcntl.LOCK_SH)
        stack.callback(_leave, home, lease, embedded)
        urls = Urls(
            postgres=settings.postgres_url or postgres.url(home),
            dagster=_dagster_url(settings.postgres_url) if settings.postgres_url else postgres.dagster_url(home),
            redis=settings.redis_url or redis.url(home),
            qdrant=settings.qdrant_url or (qdrant.url(home) if "qdrant" in names else ""),
        )
        yield urls


_SERVERS: Final = {"postgres": postgres, "redis": redis, "qdrant": qdrant}


@contextmanager
def _lease(home: Home) -> Iterator[IO[bytes]]:
    with (home.run_dir / "users.lock").open("ab") as lease:
        yield lease


@contextmanager
def _turn(home: Home) -> Iterator[None]:
    """Let one process at a time start or stop servers."""
    with (home.run_dir / "servers.lock").open("ab") as turn:
        deadline = time.monotonic() + WAIT_S
        while True:
            try:
                fcntl.flock(turn, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise StoreUnreachable(
                        f"another process has been starting the servers of {home.path} for {WAIT_S} s",
                        "run 'trading doctor'",
                    ) from None
                time.sleep(0.05)
        yield


def _leave(home: Home, lease: IO[bytes], embedded: list[str]) -> None:
    """Give the lease up, and stop the servers if nobody else holds one."""
    with _turn(home):
        fcntl.flock(lease, fcntl.LOCK_UN)
        try:
            fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return
        for name in ("qdrant", "redis", "postgres"):
            if name in embedded:
                _SERVERS[name].stop(home)


def in_use(home: Home) -> bool:
    """Return whether any process holds a lease on the home's servers."""
    file = home.run_dir / "users.lock"
    if not file.exists():
        return False
    with Path(file).open("ab") as lease:
        try:
            fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def _dagster_url(url: str) -> str:
    """Return a PostgreSQL URL for SQLAlchemy with the driver that dagster-postgres ships."""
    return "postgresql+psycopg2://" + url.split("://", 1)[1]


def user_pid() -> int:
    """Return this process's pid, for messages."""
    return os.getpid()
