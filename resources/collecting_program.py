"""What the programs that collect have in common: options, what ends them, what they show, and how they end."""

import argparse
import asyncio
import json
import logging
import signal
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from resources.watch import log_to_stderr, serve_metrics
from resources.writer_lock import JournalHeld
from trading.errors import TradingError

_log = logging.getLogger(__name__)


class Collecting(Protocol):
    """Something that collects."""

    async def run(self) -> None:
        """Collect until `stop`, or until all that is wanted is there."""
        ...

    def stop(self) -> None:
        """Ask for the end."""
        ...

    def status(self) -> dict[str, Any]:
        """Return figures and what is known of each symbol."""
        ...


def common_options(description: str | None) -> argparse.ArgumentParser:
    """Return the options that every such program has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--journal", type=Path, required=True, help="folder; in a home it shares the home's budget")
    parser.add_argument("--symbols", required=True, help="as the venue names them, separated by commas")
    parser.add_argument("--durability", choices=["second", "fsync"], default="second")
    parser.add_argument("--ack-fd", type=int, help="file descriptor to which what is stored is told")
    parser.add_argument("--log", choices=["text", "json"], default="text")
    parser.add_argument("--metrics-port", type=int, default=0, help="serve Prometheus metrics on loopback; 0: do not")
    return parser


@contextmanager
def metrics(port: int, collector: Collecting) -> Iterator[None]:
    """Serve a collector's figures on a port of loopback; on none where it is 0, or taken, which is logged."""
    end = None
    try:
        end = serve_metrics(port, collector.status) if port else None
    except (
        OSError,
        OverflowError,
    ) as error:  # trades that are not collected are lost, figures that are not served are not
        _log.error("no metrics are served on 127.0.0.1:%d: %s; free the port, or set another one", port, error)
    try:
        yield
    finally:
        if end is not None:
            end()


async def collected(collector: Collecting, metrics_port: int) -> dict[str, Any]:
    """Run a collector until a signal or until it ends by itself, and return its status."""
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, collector.stop)
    with metrics(metrics_port, collector):
        await collector.run()
    return collector.status()


def program(collect: Coroutine[Any, Any, dict[str, Any]], log: str) -> int:
    """Run a program, print its status as the last line, and return its exit status.

    A second collector of a journal has nothing to do: it says by whom it is `held`, and ends well.
    """
    log_to_stderr(log)
    try:
        print(json.dumps(asyncio.run(collect)), flush=True)
    except JournalHeld as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        print(json.dumps({"held": error.message}), flush=True)
    except TradingError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0
