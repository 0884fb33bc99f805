"""A server process of a home, started in a session of its own.

It is known by pid and start time, so that a reused pid is never taken for it.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import psutil

from trading.errors import TradingError

_started: Final[dict[int, subprocess.Popen[bytes]]] = {}
"""Servers that this process started; they may outlive it, and are its children to reap while it lives."""

START_S: Final = 30
STOP_S: Final = 15


class ServerFailed(TradingError):
    """An embedded server did not start."""


def launch(
    name: str, run_dir: Path, log: Path, command: Sequence[str | Path], ready: Callable[[], bool], **options: Any
) -> None:
    """Start a server and return once it is ready.

    Raises:
        ServerFailed: It ended or was not ready in time; the message has the last line of its log.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            **options,
        )
    _started[process.pid] = process
    record = {"pid": process.pid, "started": psutil.Process(process.pid).create_time()}
    (run_dir / f"{name}.pid.json").write_text(json.dumps(record), encoding="utf-8")
    deadline = time.monotonic() + START_S
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise ServerFailed(f"{name} did not start: {lines[-1] if lines else 'no output'}", f"see {log}")
        time.sleep(0.02)


def alive(name: str, run_dir: Path) -> psutil.Process | None:
    """Return the server's process, or None when it is gone; the record of a gone one is deleted."""
    file = run_dir / f"{name}.pid.json"
    if not file.exists():
        return None
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        process = psutil.Process(record["pid"])
        if abs(process.create_time() - record["started"]) < 1 and process.status() != psutil.STATUS_ZOMBIE:
            return process
    except (psutil.NoSuchProcess, ValueError, KeyError):
        pass
    file.unlink(missing_ok=True)
    return None


def end(name: str, run_dir: Path, number: int = signal.SIGTERM) -> None:
    """Stop the server and wait until it is gone; what does not stop in time is killed."""
    process = alive(name, run_dir)
    if process is None:
        return
    os.kill(process.pid, number)
    child = _started.pop(process.pid, None)
    try:
        (child or process).wait(STOP_S)
    except (psutil.TimeoutExpired, subprocess.TimeoutExpired):
        process.kill()
        (child or process).wait(STOP_S)
    (run_dir / f"{name}.pid.json").unlink(missing_ok=True)
