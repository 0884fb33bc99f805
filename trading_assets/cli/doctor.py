"""A finding is one thing a home needs: where it is, in which version, whether it is well, and what to do if not.

Nothing is started, changed or repaired here; `trading doctor` prints what this returns.
"""

import errno
import os
import platform
import shutil
import socket
import sys
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from resources.home import Home
    from resources.settings import Settings

WELL: Final = "fine"
RUNNING: Final = "running"
STOPPED: Final = "stopped"
WRONG: Final = "wrong"


@dataclass(frozen=True)
class Finding:
    """One thing that a home needs; `state` is fine, running, stopped (nothing uses it now) or wrong (see `advice`)."""

    what: str
    where: str
    version: str
    state: str
    advice: str


def doctor(home: "Home", settings: "Settings") -> list[Finding]:
    """Return what there is to say about a home and the machine it is on, in the order of what rests on what."""
    engines = [_engine(home, settings, name) for name in ("postgres", "redis", "qdrant")]
    return [
        _python(),
        _home(home),
        _disk(home),
        *engines,
        *_replica(settings),
        *_processes(home),
        *_collectors(home),
        _port(home, settings.port),
        _kernels(),
    ]


def _python() -> Finding:
    supported = (3, 11) <= sys.version_info[:2] <= (3, 13)
    advice = "" if supported else "use Python 3.11, 3.12 or 3.13"
    return Finding("python", sys.executable, platform.python_version(), WELL if supported else WRONG, advice)


def _home(home: "Home") -> Finding:
    from resources.home import SCHEMA, WrongHome

    try:
        kind = f"{home.kind}, schema {SCHEMA}"
    except WrongHome as error:
        return Finding("home", str(home.path), "", WRONG, f"{error.message}; {error.hint}")
    if not (home.path / "home.json").exists():
        return Finding("home", str(home.path), "", STOPPED, "not made yet: 'trading up' or 'trading demo' makes it")
    if not os.access(home.path, os.W_OK | os.X_OK):
        return Finding("home", str(home.path), kind, WRONG, "it cannot be written: set TRADING_HOME to another folder")
    return Finding("home", str(home.path), kind, WELL, "")


def _disk(home: "Home") -> Finding:
    from resources.home import RESERVE_BYTES

    folder = next(path for path in (home.path, *home.path.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    enough = free >= RESERVE_BYTES
    advice = "" if enough else f"free at least {RESERVE_BYTES // 2**20} MiB, or set TRADING_HOME to another disk"
    return Finding("disk", str(folder), f"{free / 2**30:.1f} GiB free", WELL if enough else WRONG, advice)


def _engine(home: "Home", settings: "Settings", name: str) -> Finding:
    from resources.servers import in_use, postgres, process, qdrant, redis
    from resources.settings import masked
    from trading.errors import TradingError

    module: Any = {"postgres": postgres, "redis": redis, "qdrant": qdrant}[name]
    given: str = getattr(settings, f"{name}_url")
    if given:
        trouble = masked(module.check(given))
        advice = f"check TRADING_{name.upper()}_URL: {trouble}" if trouble else ""
        return Finding(name, masked(given), "elsewhere", WRONG if trouble else WELL, advice)
    try:
        number = module.version(home)
    except (TradingError, OSError) as error:
        return Finding(name, "embedded", "", WRONG, f"run 'make setup': {error}")
    running = process.running_as(process.recorded(name, home.run_dir))
    if running is None:
        return Finding(name, "embedded", number, STOPPED, "starts with the first command that needs it")
    try:
        address = module.url(home)
        trouble = module.check(address)
    except (OSError, ValueError, KeyError) as error:
        address, trouble = "embedded", str(error)
    place = f"{address} (pid {running.pid})"
    if trouble:
        log = home.logs_dir / f"{name}.log"
        return Finding(name, place, number, WRONG, f"it runs but does not serve ({trouble}); see {log}")
    advice = "" if in_use(home) else "left by a killed process; the next command takes it over"
    return Finding(name, place, number, RUNNING, advice)


def _replica(settings: "Settings") -> list[Finding]:
    from resources.servers import postgres
    from resources.settings import masked

    url = settings.postgres_read_url
    if not url:
        return []
    trouble = masked(postgres.check_replica(url))
    advice = f"check TRADING_POSTGRES_READ_URL: {trouble}; meanwhile postgres itself is asked" if trouble else ""
    return [Finding("postgres replica", masked(url), "elsewhere", WRONG if trouble else WELL, advice)]


def _processes(home: "Home") -> list[Finding]:
    """Return the other processes of the home, and records of processes that ended without cleaning up."""
    from resources.servers import process

    found = []
    for file in sorted(home.run_dir.glob("*.pid.json")):
        name = file.name.removesuffix(".pid.json")
        running = process.running_as(process.recorded(name, home.run_dir))
        if running is None:
            found.append(Finding(name, str(file), "", STOPPED, "it was killed; the next start clears this away"))
        elif name not in ("postgres", "redis", "qdrant"):
            found.append(Finding(name, f"pid {running.pid}", "", RUNNING, ""))
    return found


def _collectors(home: "Home") -> list[Finding]:
    """Return the collectors by their last sign of life, and what the operator wants of each."""
    from trading.stream.supervision import SILENT_S
    from trading_assets.cli.status import streams

    found = []
    for kind, said in streams(home).items():
        alive = said["beat_age_s"] <= SILENT_S
        advice = "" if alive else f"collects while 'trading up' runs; if it does, see the runs of collect_{kind}"
        found.append(Finding(f"collector {kind}", f"pid {said['pid']}", "", RUNNING if alive else STOPPED, advice))
    return found


def _port(home: "Home", port: int) -> Finding:
    address = f"127.0.0.1:{port}"
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                return Finding("port", address, "", WRONG, f"it cannot be used ({error.strerror}); set TRADING_PORT")
            if _ours(home):
                return Finding("port", address, "", RUNNING, "the UI of this home is there")
            return Finding("port", address, "", WRONG, "another program uses it; stop it or set TRADING_PORT")
    return Finding("port", address, "free", WELL, "")


def _ours(home: "Home") -> bool:
    from resources.servers import process

    return any(
        process.running_as(process.recorded(file.name.removesuffix(".pid.json"), home.run_dir)) is not None
        for file in home.run_dir.glob("*webserver*.pid.json")
    )


def _kernels() -> Finding:
    from resources.kernels import kept_in

    folder, number = kept_in(), f"numba {version('numba')}"
    if next(folder.glob("*.nbc"), None) is not None:
        return Finding("compiled kernels", str(folder), number, WELL, "")
    if folder.exists() and not os.access(folder, os.W_OK | os.X_OK):
        return Finding("compiled kernels", str(folder), number, WRONG, "it cannot be written: every run would compile")
    return Finding(
        "compiled kernels", str(folder), number, STOPPED, "'python -m resources.kernels' compiles them, in ten seconds"
    )
