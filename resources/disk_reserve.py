"""The room that is left free on a disk: on a full one RocksDB cannot even be opened again."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from trading.errors import TradingError

RESERVED_SHARE: Final = 0.05
RESERVED_BYTES: Final = 256 * 2**20
"""What is left free, the larger of the two."""

LOOK_S: Final = 1.0


def reserve_bytes(total_bytes: int) -> float:
    """Return what is left free on a disk."""
    return max(RESERVED_SHARE * total_bytes, RESERVED_BYTES)


class JournalFull(TradingError):
    """The disk is filled up to the reserve; nothing was written."""


class DiskReserve:
    """The reserve of the disk on which a directory lies.

    Args:
        directory: On the disk.
        clock: Monotonic seconds.
    """

    def __init__(self, directory: Path, clock: Callable[[], float]) -> None:
        self._directory, self._clock = directory, clock
        self._looked, self._room = -float("inf"), True

    def require(self) -> None:
        """Raise `JournalFull` when the disk is filled up to the reserve; looks once a second."""
        now = self._clock()
        if now - self._looked >= LOOK_S:
            disk = shutil.disk_usage(self._directory)
            self._room = disk.free >= reserve_bytes(disk.total)
            self._looked = now
        if not self._room:
            raise JournalFull(
                f"the disk of the journal {self._directory} is full up to the reserve",
                f"free {RESERVED_BYTES // 2**20} MiB and {RESERVED_SHARE:.0%} of it, or keep fewer days",
            )
