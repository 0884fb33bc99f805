"""What an operator wants of a stream, and its collector's last sign of life: two small files of the home.

The wish outlives processes and shutdowns. The heartbeat names the process that beats, so that a silent one can be
ended by whoever watches.
"""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from resources.checkpoints import publish
from resources.heartbeat import heartbeat, last_said
from resources.servers.process import identity, started_s
from trading.stream.supervision import Wish


@dataclass(frozen=True)
class Beat:
    """The last sign of life of a stream's collector."""

    age_s: float
    pid: int
    started: float

    def process(self) -> psutil.Process | None:
        """Return the process that gave it, or None when that is gone; a reused pid is not taken for it."""
        try:
            process = psutil.Process(self.pid)
            same = abs(started_s(self.pid) - self.started) < 1 and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return None
        return process if same else None


class StreamFiles:
    """The two files of one stream.

    Args:
        stream: Its name.
        home: The home; that of TRADING_HOME by default.
    """

    def __init__(self, stream: str, home: Path | None = None) -> None:
        self.home = home or Path(os.environ.get("TRADING_HOME", ".trading"))
        run = self.home / "run"
        self._wish, self._beat = run / "desired" / f"{stream}.json", heartbeat(run, stream)

    def wish(self) -> Wish:
        """Return what the operator wants; a stream that was never touched is wanted."""
        if not self._wish.exists():
            return Wish.RUNNING
        return Wish(json.loads(self._wish.read_text(encoding="utf-8"))["desired"])

    def set_wish(self, wish: Wish) -> None:
        """Keep what the operator wants, even if power is lost at once."""
        self._wish.parent.mkdir(parents=True, exist_ok=True)
        publish(self._wish, json.dumps({"desired": wish.value}))

    def beat(self, status: dict[str, Any]) -> None:
        """Give a sign of life of this process."""
        self._beat.parent.mkdir(parents=True, exist_ok=True)
        own = {"pid": os.getpid(), "started": started_s(os.getpid()), "beat_s": time.monotonic()}
        own |= {"folder": identity(self._beat.parent)}
        unfinished = self._beat.with_suffix(".unfinished")
        unfinished.write_text(json.dumps({**status, **own}), encoding="utf-8")
        unfinished.replace(self._beat)

    def last_beat(self) -> Beat | None:
        """Return the last sign of life since the machine started; one that was copied with a home is none.

        It is as old as the clock says that never is set and stands still while the machine sleeps, as its process does.
        """
        said = last_said(self.home / "run", self._beat.stem)
        if not said or said.get("folder") != identity(self._beat.parent):
            return None
        beat = Beat(time.monotonic() - said["beat_s"], said["pid"], said["started"])
        return beat if beat.age_s >= 0 else None
