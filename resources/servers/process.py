"""A server process of a home, started in a session of its own.

It is known by pid and start time, so that a reused pid is never taken for it, and by its command line, so that one
whose starter was killed before it could write the pid down is found too.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import psutil

from trading.errors import TradingError

_BOOT: Final = Path("/proc/sys/kernel/random/boot_id")
START_S: Final = 60
STOP_S: Final = 15
MESSAGE_LINES: Final = 10
"""As many lines at most does an error have at the end of a log."""
LOG_BYTES: Final = 16 * 2**20
"""Dagster's daemon alone writes some 30 MB a day."""


class ServerFailed(TradingError):
    """An embedded server did not start."""


def launch(
    name: str, run_dir: Path, log: Path, command: Sequence[str | Path], ready: Callable[[], bool], **options: Any
) -> None:
    """Start a server and return once it is ready.

    Raises:
        ServerFailed: It ended or was not ready in time; the message has the error that its log ends with.
    """
    with log.open("ab") as output:
        began = output.tell()
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            **options,
        )
    _record(name, run_dir, process.pid)
    deadline = time.monotonic() + START_S
    while not ready():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()  # half-started it would keep its files from the next one
            process.wait()
            _file(name, run_dir).unlink(missing_ok=True)
            raise ServerFailed(f"{name} did not start: {last_error(log, began)}", f"see {log}")
        time.sleep(0.02)
    process.returncode = 0  # it outlives this object, which would warn that it still runs


def last_error(log: Path, began: int = 0) -> str:
    """Return the error that a log, since it had `began` bytes, ends with: what a traceback says, else the last line."""
    if not log.exists():
        return "no output"
    with log.open("rb") as written:
        written.seek(began)
        last = written.read().decode(errors="replace").strip().splitlines()[-MESSAGE_LINES:]
    frames = [number for number, line in enumerate(last, 1) if line.startswith("  ")]
    # A library may add hints below its error; that itself is the line after the frames.
    message = last[frames[-1] :] if frames else []
    return message[0] if message else last[-1] if last else "no output"


def shorten_logs(folder: Path, most_bytes: int = LOG_BYTES) -> None:
    """Put away what servers have written into logs that are full, in the place of what was put away before.

    They go on writing at the end of the same file, so a line that comes meanwhile may be lost.
    """
    for log in folder.glob("*.log"):
        if log.stat().st_size > most_bytes:
            with suppress(OSError):  # on a full disk it is not kept
                shutil.copyfile(log, log.with_suffix(".log.before"))
            os.truncate(log, 0)


def taken_over(name: str, run_dir: Path, program: str, place: Path, ready: Callable[[], bool]) -> bool:
    """Return whether the server already runs and answers; one that does not answer in time is ended.

    Args:
        name: The server's name in the home.
        run_dir: The home's folder of pids.
        program: End of the first word of its command line, or one of its words.
        place: Another of its words, which no other home's server has.
        ready: Whether it answers.
    """
    if alive(name, run_dir) is None and not _found(name, run_dir, program, str(place)):
        return False
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and alive(name, run_dir) is not None:
        if ready():
            return True
        time.sleep(0.05)
    end(name, run_dir)
    return False


def recorded(name: str, run_dir: Path) -> tuple[int, float] | None:
    """Return pid and start time of the server as they were written down here, whether or not it still runs."""
    try:
        record = json.loads(_file(name, run_dir).read_text(encoding="utf-8"))
        return (int(record["pid"]), float(record["started"])) if record["folder"] == identity(run_dir) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def started_s(pid: int) -> float:
    """Return when a process started, in seconds since the machine did: by the wall clock that changes when it is set.

    Raises:
        psutil.NoSuchProcess: It is gone.
    """
    # Linux knows ticks since its boot; psutil adds the boot by the wall clock as it is now.
    return psutil.Process(pid).create_time() - (psutil.boot_time() if sys.platform == "linux" else 0.0)


def identity(folder: Path) -> list[int | str]:
    """Return what a folder keeps when it is moved and its copy has not, and what a machine has until it starts anew.

    What the copy of a home says is of the first one, and what was written down before a start of the machine is of nobody.
    """
    status = folder.stat()
    with suppress(OSError):  # only Linux tells
        return [status.st_dev, status.st_ino, _BOOT.read_text(encoding="ascii").strip()]
    return [status.st_dev, status.st_ino]


def running_as(record: tuple[int, float] | None) -> psutil.Process | None:
    """Return the process of a record, or None when it is gone."""
    if record is None:
        return None
    try:
        process = psutil.Process(record[0])
        if abs(started_s(process.pid) - record[1]) >= 1:
            return None
        if process.status() != psutil.STATUS_ZOMBIE:
            return process
        if process.ppid() == os.getpid():
            os.waitpid(process.pid, os.WNOHANG)
    except (psutil.NoSuchProcess, ChildProcessError):
        pass
    return None


def alive(name: str, run_dir: Path) -> psutil.Process | None:
    """Return the server's process, or None when it is gone; the record of a gone one is deleted."""
    process = running_as(recorded(name, run_dir))
    if process is None:
        _file(name, run_dir).unlink(missing_ok=True)
    return process


def end(name: str, run_dir: Path, number: int = signal.SIGTERM) -> None:
    """Stop the server and wait until it is gone; what does not stop in time is killed."""
    for attempt in (number, signal.SIGKILL):
        process = alive(name, run_dir)
        if process is None:
            return
        with suppress(psutil.NoSuchProcess):
            process.send_signal(attempt)
        deadline = time.monotonic() + STOP_S
        # Not `process.wait`: its parent may never reap it, and a zombie has given up all that a server holds.
        while alive(name, run_dir) is not None and time.monotonic() < deadline:
            time.sleep(0.01)


def _found(name: str, run_dir: Path, program: str, place: str) -> bool:
    """Find a server that runs without a record, and record it."""
    for process in psutil.process_iter(["cmdline", "uids", "status"]):
        written = process.info["cmdline"] or [""]
        words = {*written, *" ".join(written).split()}  # Redis rewrites its command line into one word
        if place not in words or not (program in words or written[0].split(" ")[0].endswith(program)):
            continue
        ours = process.info["uids"] and os.geteuid() in (0, process.info["uids"].effective)
        if ours and process.info["status"] != psutil.STATUS_ZOMBIE:
            _record(name, run_dir, process.pid)
            return True
    return False


def _record(name: str, run_dir: Path, pid: int) -> None:
    unfinished = run_dir / f"{name}.pid.unfinished"
    try:
        text = json.dumps({"pid": pid, "started": started_s(pid), "folder": identity(run_dir)})
    except psutil.NoSuchProcess:
        return
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(_file(name, run_dir))


def _file(name: str, run_dir: Path) -> Path:
    return run_dir / f"{name}.pid.json"
