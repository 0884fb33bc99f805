"""Rows that cannot have happened, as they came, each with the reason: a line of JSON a row, in a file of bounded size.

They are for whoever looks why; none goes back. When the file is full it takes the place of the one before it.
"""

import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

MOST_BYTES: Final = 8 * 2**20


class RefusedRows:
    """The file of refused rows; a `trading.provider.validation.Quarantine`.

    Args:
        file: Where they lie; made when the first comes.
        most_bytes: When the file is full.
    """

    def __init__(self, file: Path, most_bytes: int = MOST_BYTES) -> None:
        self._file, self._most_bytes = file, most_bytes

    def keep(self, kind: str, symbol: str, refused: Iterable[tuple[str, Mapping[str, Any]]]) -> None:
        """Keep rows as they came, each with the reason."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        # Several processes append to it: a row is one write, so that no line has another within it.
        with self._file.open("ab", buffering=0) as lines:
            for reason, row in refused:
                told = {"kind": kind, "symbol": symbol, "reason": str(reason), "row": dict(row)}
                lines.write(f"{json.dumps(told, default=str, ensure_ascii=False)}\n".encode())
            if lines.tell() > self._most_bytes:
                fcntl.flock(lines, fcntl.LOCK_EX)
                with suppress(FileNotFoundError):
                    # Another process may have put it away meanwhile; what has its name is then a new one.
                    if os.path.samestat(os.fstat(lines.fileno()), self._file.stat()):
                        self._file.replace(self._before)

    def counts(self) -> Counter[str]:
        """Return how many lie in the file and the one before it, by kind, symbol and reason; a torn line is `unreadable`."""
        found = Counter[str]()
        for file in (self._before, self._file):
            for line in file.read_bytes().split(b"\n") if file.exists() else ():
                if line:
                    found[_named(line)] += 1
        return found

    @property
    def _before(self) -> Path:
        return self._file.with_suffix(".before" + self._file.suffix)


def _named(line: bytes) -> str:
    try:
        told = json.loads(line)
        return f"{told['kind']} {told['symbol']} {told['reason']}"
    except (ValueError, LookupError, TypeError):
        return "unreadable"
