"""Embedded servers of a home: PostgreSQL, Redis and the owner of the Qdrant Edge shards, each a real one.

They belong to the home, not to a process. Every user holds a lease; the first one in starts what is not running, the
last one out stops them all. Leases are file locks, so the lease of a process that was killed ends with it; its servers
are found running by the next user and taken over, or started anew.
"""

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from resources.home import Home, HomeNotWritable
from resources.servers import postgres, process, qdrant, redis
from resources.settings import Settings, masked
from trading.errors import TradingError

WAIT_S: Final = 90


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
        NoHome: The folder is no home.
        StoreUnreachable: A server named by a URL, or an embedded one, does not answer.
    """
    home.require()
    home.run_dir.mkdir(parents=True, exist_ok=True)
    given = {name: str(getattr(settings, f"{name}_url")) for name in names if getattr(settings, f"{name}_url")}
    for name, address in given.items():
        if trouble := _SERVERS[name].check(address):
            raise StoreUnreachable(
                f"{name} at TRADING_{name.upper()}_URL does not serve: {masked(trouble)}",
                f"start it, or leave TRADING_{name.upper()}_URL empty for the embedded one",
            )
    with ExitStack() as stack:
        lease = stack.enter_context((home.run_dir / "users.lock").open("ab"))
        with _turn(home):
            fcntl.flock(lease, fcntl.LOCK_SH)
            stack.callback(_leave, home, lease, os.getpid())
            _own(home.socket_dir)
            for name in names:
                if name not in given:
                    _SERVERS[name].ensure(home)
        yield Urls(
            postgres=settings.postgres_url or postgres.url(home),
            dagster=dagster_url(home, settings),
            redis=settings.redis_url or redis.url(home),
            qdrant=settings.qdrant_url or (qdrant.url(home) if "qdrant" in names else ""),
        )


def revive(home: Home, settings: Settings, names: tuple[str, ...] = ("postgres", "redis", "qdrant")) -> list[str]:
    """Start again what has died of a home's own servers, and return the names; the caller holds a lease.

    Raises:
        ServerFailed, StoreUnreachable: One does not start.
        OSError: Its folders cannot be written.
    """
    own = [name for name in names if not getattr(settings, f"{name}_url")]
    dead = [name for name in own if process.alive(name, home.run_dir) is None]
    if dead:
        with _turn(home):
            _own(home.socket_dir)
            for name in dead:
                _SERVERS[name].ensure(home)
    return dead


def _own(folder: Path) -> None:
    """Make a folder that only we and root may enter: PostgreSQL trusts whoever reaches its socket."""
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or os.geteuid() not in (0, status.st_uid):
        raise HomeNotWritable(f"{folder} belongs to another user", "delete it, or set TMPDIR to a folder of your own")
    folder.chmod(0o700)


_SERVERS: Final = {"postgres": postgres, "redis": redis, "qdrant": qdrant}


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


def _leave(home: Home, lease: IO[bytes], holder: int) -> None:
    """Give the lease up, and if nobody else holds one stop all servers, also those that only others had asked for."""
    if os.getpid() != holder:
        return  # a fork shares its parent's lock: unlocking it here would stop the servers under the parent
    with _turn(home):
        fcntl.flock(lease, fcntl.LOCK_UN)
        try:
            fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return
        for name in ("qdrant", "redis", "postgres"):
            _SERVERS[name].stop(home)
        with suppress(OSError):  # another process of the home may keep its own socket there
            home.socket_dir.rmdir()


def in_use(home: Home) -> bool:
    """Return whether any process holds a lease on the home's servers."""
    if not (home.run_dir / "users.lock").exists():
        return False
    # In turn, or a user who leaves at this moment would take this look for another user and leave its servers running.
    with _turn(home), (home.run_dir / "users.lock").open("ab") as lease:
        try:
            fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
    return False


def dagster_url(home: Home, settings: Settings) -> str:
    """Return where a home's Dagster keeps its runs and events, for SQLAlchemy, whether or not the server runs."""
    if settings.postgres_url:
        return "postgresql+psycopg2://" + settings.postgres_url.split("://", 1)[1]
    return postgres.dagster_url(home)
