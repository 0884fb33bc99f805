"""What the processes of one home may still ask an exchange, in one small locked file.

An exchange counts requests by address, not by process, and bans the address that goes on after a refusal. So the weight
used in the running minute and the moment until which nothing may be asked are the same for all processes of a home.
Both are by the wall clock, which processes share and exchanges count by. A file that cannot be read is as good as none:
the next refusal sets it right.
"""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

WINDOW_S: Final = 60
LONGEST_BAN_S: Final = 3 * 86_400
"""The longest that Binance bans for; a moment further off was written under another clock."""

FILE_BYTES: Final = 4096


@dataclass
class Spent:
    """What was asked of one root: weight in a minute counted from the epoch, and since and until when nothing may be."""

    minute: int = 0
    used: int = 0
    banned_since_s: float = 0.0
    banned_until_s: float = 0.0

    @property
    def entry(self) -> list[float]:
        """As it is kept in the file."""
        return [self.minute, self.used, self.banned_since_s, self.banned_until_s]


class HttpBudget:
    """The request weight of one REST root.

    Args:
        root: The root, by which its entry in the file is found.
        weight_per_minute: Weight that may be used in a minute.
        file: The file that processes share; None: this process asks alone.
        clock: Returns seconds since the epoch.
    """

    def __init__(
        self, root: str, weight_per_minute: int, file: Path | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._root, self._most, self._file, self._clock = root, weight_per_minute, file, clock
        self._alone: dict[str, Any] = {}

    def take(self, weight: int) -> float:
        """Use some weight and return 0, or return the seconds to wait before asking again."""
        now = self._clock()
        with self._entry(now) as spent:
            if now < spent.banned_until_s:
                return spent.banned_until_s - now
            # A call heavier than the whole budget must not wait for ever.
            if spent.used and spent.used + weight > self._most:
                return WINDOW_S - now % WINDOW_S
            spent.used += weight
            return 0.0

    def forbid(self, seconds: float) -> None:
        """Let nobody ask for some seconds; an earlier, longer ban stands."""
        now = self._clock()
        with self._entry(now) as spent:
            until_s = now + min(max(seconds, 0.0), LONGEST_BAN_S)
            if until_s > spent.banned_until_s:
                spent.banned_since_s, spent.banned_until_s = now, until_s

    def reported(self, used: int, asked_at_s: float) -> None:
        """Note the weight that the exchange says was used in the minute of a call, by whomever at this address."""
        now = self._clock()
        if asked_at_s // WINDOW_S == now // WINDOW_S:
            with self._entry(now) as spent:
                spent.used = max(spent.used, used)

    @property
    def now_s(self) -> float:
        """The clock, seconds since the epoch."""
        return self._clock()

    @contextmanager
    def _entry(self, now: float) -> Iterator[Spent]:
        """Yield this root's entry as it stands now, and keep what becomes of it."""
        if self._file is None:
            spent = _current(self._alone.get(self._root), now)
            yield spent
            self._alone[self._root] = spent.entry
            return
        self._file.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            entries = _read(descriptor)
            spent = _current(entries.get(self._root), now)
            yield spent
            others = {root: entry for root, entry in entries.items() if _live(_current(entry, now))}
            _write(descriptor, others | {self._root: spent.entry})
        finally:
            os.close(descriptor)


def _current(entry: Any, now: float) -> Spent:
    try:
        minute, used, *banned = entry
        banned_since_s, banned_until_s = map(float, banned)
        spent = Spent(int(minute), int(used), banned_since_s, banned_until_s)
    except (TypeError, ValueError, OverflowError):
        spent = Spent()
    if spent.minute != int(now // WINDOW_S):
        spent.minute, spent.used = int(now // WINDOW_S), 0
    stepped = now < spent.banned_since_s - WINDOW_S
    if stepped or not now < spent.banned_until_s <= now + LONGEST_BAN_S:
        spent.banned_since_s = spent.banned_until_s = 0.0
    return spent


def _live(spent: Spent) -> bool:
    return bool(spent.used or spent.banned_until_s)


def _read(descriptor: int) -> dict[str, Any]:
    try:
        entries = json.loads(os.pread(descriptor, FILE_BYTES, 0) or b"{}")
    except ValueError:
        return {}
    return entries if isinstance(entries, dict) else {}


def _write(descriptor: int, entries: dict[str, Any]) -> None:
    """Write all in one call, padded over what stood there: no death in between leaves half of it."""
    text = json.dumps(entries).encode()
    os.pwrite(descriptor, text.ljust(FILE_BYTES), 0)
