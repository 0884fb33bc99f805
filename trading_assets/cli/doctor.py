"""What runs, where, in which version, what is wrong and what to do.

A finding's state is `running`, `stopped`, `fine` or `wrong`; only `wrong` needs a hand.
"""

import os
import platform
import shutil
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from resources.home import RESERVE_BYTES, Home
from resources.servers import in_use, postgres, process, qdrant, redis
from resources.settings import Settings


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    where: str
    version: str
    state: str
    advice: str = ""


def doctor(home: Home, settings: Settings) -> list[Finding]:
    """Look at the machine, the home and each store."""
    return [*_machine(home), *_home(home), *(_server(home, settings, name) for name in _SERVERS), *_ui(settings)]


_SERVERS: dict[str, Any] = {"postgres": postgres, "redis": redis, "qdrant": qdrant}


def _machine(home: Home) -> Iterator[Finding]:
    yield Finding("python", platform.python_implementation(), platform.python_version(), "fine")
    folder = home.path if home.path.exists() else home.path.parent
    if not folder.exists():
        return
    free = shutil.disk_usage(folder).free
    full = free < RESERVE_BYTES
    yield Finding(
        "disk",
        str(folder),
        f"{free / 2**30:.1f} GiB free",
        "wrong" if full else "fine",
        "free some space" if full else "",
    )


def _home(home: Home) -> Iterator[Finding]:
    if not home.path.exists():
        yield Finding("home", str(home.path), "", "fine", "not made yet; 'trading demo' or 'trading up' makes it")
        return
    writable = os.access(home.path, os.W_OK)
    advice = "" if writable else "set TRADING_HOME to a folder that can be written"
    yield Finding("home", str(home.path), home.kind, "fine" if writable else "wrong", advice)
    yield Finding("leases", str(home.run_dir), "", "running" if in_use(home) else "stopped")


def _server(home: Home, settings: Settings, name: str) -> Finding:
    if getattr(settings, f"{name}_url"):
        return Finding(name, f"TRADING_{name.upper()}_URL", "", "fine", "not embedded; it is asked when it is used")
    server = _SERVERS[name]
    version = server.version(home)
    found = process.alive(name, home.run_dir) if home.run_dir.exists() else None
    if found is None:
        return Finding(name, "embedded", version, "stopped", "starts with whatever needs it")
    if not in_use(home):
        return Finding(
            name, f"pid {found.pid}", version, "running", "left by a killed process; the next command takes it over"
        )
    return Finding(name, f"pid {found.pid}", version, "running")


def _ui(settings: Settings) -> Iterator[Finding]:
    with socket.socket() as probe:
        probe.settimeout(1)
        taken = probe.connect_ex(("127.0.0.1", settings.port)) == 0
    where = f"http://127.0.0.1:{settings.port}"
    yield Finding("ui", where, "", "running" if taken else "stopped", "" if taken else "'make up' starts it")
