"""The exclusive right to write a journal: a locked file that names its holder's process and epoch."""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TextIO

from trading.errors import TradingError

LOOK_S: Final = 0.05


class JournalHeld(TradingError):
    """Another process writes this journal."""


class JournalFenced(TradingError):
    """This writer's lock is no longer the journal's: another one may write, so this one must not."""


class WriterLock:
    """The lock of one journal, held; see `held`.

    The kernel frees the lock of a dead process. Where file locks do not hold (some network mounts), or somebody
    deleted the file, a later writer has another file or epoch, and this one notices before it writes.
    """

    def __init__(self, path: Path, file: TextIO) -> None:
        self._path, self._file = path, file
        _, epoch = _holder(file)
        self.epoch = epoch + 1
        self._mark = f"{os.getpid()} {self.epoch}\n".encode()
        file.truncate(0)
        file.write(self._mark.decode())
        file.flush()

    @classmethod
    @contextmanager
    def held(cls, path: Path, patience_s: float) -> Iterator["WriterLock"]:
        """Hold the lock until the end of the block; raises `JournalHeld`."""
        with path.open("a+", encoding="utf-8") as file:
            if not _locked(file, patience_s):
                raise JournalHeld(
                    f"the journal {path.parent} is held by process {_holder(file)[0]}",
                    "one collector writes a journal; stop the other one first",
                )
            yield cls(path, file)

    def require(self) -> None:
        """Raise `JournalFenced` unless the lock is still this writer's."""
        held = self._file.fileno()
        try:
            same = os.path.samestat(os.fstat(held), self._path.stat())
        except FileNotFoundError:
            same = False
        if not same or os.pread(held, len(self._mark) + 1, 0) != self._mark:
            raise JournalFenced(
                f"the writer lock {self._path} is no longer that of epoch {self.epoch}",
                "another collector took over; let it run, or stop both and start one",
            )


def is_held(path: Path) -> bool:
    """Tell whether a process holds a lock now."""
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _holder(file: TextIO) -> tuple[str, int]:
    """Return process and epoch of the last writer."""
    file.seek(0)
    process, _, epoch = file.read(64).strip().partition(" ")
    return process or "unknown", int(epoch) if epoch.isdecimal() else 0


def _locked(lock: TextIO, patience_s: float) -> bool:
    deadline = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(LOOK_S)
