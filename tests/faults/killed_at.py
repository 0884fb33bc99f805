"""`python -m tests.faults.killed_at POINT NTH …`: a collector that kills itself the nth time that it comes to a point."""

import functools
import os
import signal
import sys
from typing import Any, Final

from resources import collector, identity_collector
from resources.journal import TradeJournal
from resources.rocksdb import Database
from trading.stream.collector import CollectorCore

PLACES: Final[dict[str, tuple[type, str]]] = {
    "frame": (CollectorCore, "received"),
    "page": (CollectorCore, "fetched"),
    "pending": (CollectorCore, "take_pending"),
    "append": (TradeJournal, "append"),
    "commit": (Database, "commit"),
    "checkpoint": (Database, "checkpoint"),
}
POINTS: Final = tuple(f"{when} {place}" for place in PLACES for when in ("before", "after"))


def prepare(point: str, nth: int) -> None:
    """Let the nth call of a place end the process, before it does anything or before it returns."""
    when, place = point.split()
    owner, name = PLACES[place]
    called, left = getattr(owner, name), nth

    @functools.wraps(called)
    def deadly(*args: Any, **keywords: Any) -> Any:
        nonlocal left
        left -= 1
        if not left and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = called(*args, **keywords)
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, deadly)


if __name__ == "__main__":
    prepare(sys.argv.pop(1), int(sys.argv.pop(1)))
    identities = not identity_collector.VENUES.keys().isdisjoint(sys.argv)
    sys.exit(identity_collector.main() if identities else collector.main())
