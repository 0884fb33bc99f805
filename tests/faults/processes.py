"""The real collector process and the simulated exchange in its own, and what must hold of the journal between them."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TextIO

from resources.journal import TradeJournal
from resources.rocksdb import control_socket
from resources.simulator.synthetic import SyntheticMarket

START_MS = 1_760_000_040_000
END_MS = START_MS + 2 * 3_600_000
LATE_MS = START_MS + 24 * 3_600_000
"""So late that a paced exchange never runs out of trades to acknowledge."""
SYMBOLS = ("BTCUSDT", "ETHUSDT")
SEED = 11
SOAK = bool(os.environ.get("SOAK"))
BUSY = 500
"""Trades a second and symbol of a busy market."""


class Exchange(int):
    """The port of a simulated exchange that runs in a process of its own."""

    process: subprocess.Popen[bytes]

    def set_faults(self, **plan: Any) -> None:
        """Put another plan of faults in force; see `resources.simulator.faults`."""
        body = json.dumps(plan).encode()
        with urllib.request.urlopen(f"http://127.0.0.1:{self}/sim/faults", body, 5) as answer:
            assert answer.status == 200

    def show(self, what: str) -> dict[str, Any]:
        """Return `clock` or `counts`."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self}/sim/{what}", timeout=5) as answer:
            return json.load(answer)


@contextmanager
def exchange(folder: Path, *options: str, start_ms: int = START_MS, end_ms: int = END_MS) -> Iterator[Exchange]:
    port_file = folder / "port.json"
    port_file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "resources.simulator", "--seed", str(SEED), "--symbols", ",".join(SYMBOLS)]
    command += ["--start-ms", str(start_ms), "--end-ms", str(end_ms), "--port-file", str(port_file)]
    with subprocess.Popen([*command, "--parent", str(os.getpid()), *options]) as process:
        try:
            until(port_file.exists, process)
            serving = Exchange(json.loads(port_file.read_text())["port"])
            serving.process = process
            yield serving
        finally:
            process.terminate()


@contextmanager
def busy_exchange(folder: Path, *options: str, end_ms: int = LATE_MS) -> Iterator[Exchange]:
    """Run beside the wall clock with `BUSY` trades a second and symbol."""
    with exchange(folder, "--speed", "1", "--trades-per-second", str(BUSY), *options, end_ms=end_ms) as serving:
        yield serving


class Collecting(subprocess.Popen[str]):
    """A collector's process, which a test that fails does not wait for."""

    def __exit__(self, kind: type[BaseException] | None, *rest: Any) -> None:
        if kind is not None:
            self.kill()
        super().__exit__(kind, *rest)


def collector(
    journal: Path,
    port: int,
    *options: str,
    since_ms: int = START_MS,
    ws: int | None = None,
    log: Path | None = None,
    program: Sequence[str] = ("resources.collector",),
    tls: str = "",
    **popen: Any,
) -> Collecting:
    command = [sys.executable, "-m", *program, "--journal", str(journal), "--venue", "sim"]
    command += ["--rest", f"http{tls}://127.0.0.1:{port}", "--ws", f"ws{tls}://127.0.0.1:{ws or port}"]
    command += ["--symbols", ",".join(SYMBOLS), "--since-ms", str(since_ms), *options]
    with log.open("w") if log else nullcontext() as errors:
        return Collecting(command, stdout=subprocess.PIPE, stderr=errors, text=True, **popen)


@contextmanager
def acknowledging(journal: Path, port: int, *options: str, **keywords: Any) -> Iterator[tuple[Collecting, TextIO]]:
    """Run a collector with the pipe to which it writes symbol and last id after each batch that the journal took."""
    reading, writing = os.pipe()
    with (
        os.fdopen(reading) as acks,
        collector(journal, port, "--ack-fd", str(writing), *options, pass_fds=[writing], **keywords) as process,
    ):
        os.close(writing)
        yield process, acks


def collected(journal: Path, port: int, *options: str, end_ms: int = END_MS) -> dict[str, Any]:
    with collector(journal, port, "--until-ms", str(end_ms), *options) as process:
        return ended(process)


def ended(process: subprocess.Popen[str], timeout_s: float = 90) -> dict[str, Any]:
    """Return the status that a collector prints at its end."""
    output, _ = process.communicate(timeout=timeout_s)
    assert process.returncode == 0
    return json.loads(output.splitlines()[-1])


def status(journal: Path) -> dict[str, Any]:
    """Ask a running collector how it is."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(str(control_socket(journal)))
        client.sendall(b"status\n")
        with client.makefile() as answer:
            return json.loads(answer.readline())


def until(
    holds: Callable[[], bool],
    process: "subprocess.Popen[Any] | None" = None,
    timeout_s: float = 30,
    pause_s: float = 0.02,
) -> None:
    """Wait until something holds; fail when the process ends before, or time does."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert process is None or process.poll() is None, "the process has ended"
        assert time.monotonic() < deadline, "it does not come to hold"
        time.sleep(pause_s)


def settled(journal: Path) -> bool:
    """Return whether a collector runs, streams and lacks nothing."""
    try:
        symbols = status(journal)["symbols"]
    except OSError:
        return False
    return bool(symbols) and all(symbol["settled"] for symbol in symbols.values())


def assert_exactly_the_market(
    folder: Path, until_ms: int | None = END_MS, trades_per_second: int = 0, kind: str = "spot"
) -> int:
    """Compare with the source until `until_ms`, or as far as each ledger says that nothing is missing.

    Returns:
        How many trades that were.
    """
    market, compared = SyntheticMarket(SEED, SYMBOLS, kind, trades_per_second), 0
    with TradeJournal.read(folder) as journal:
        for symbol in SYMBOLS:
            (proof,) = journal.ledger(symbol)
            hi_ms = until_ms or proof.proven_until_ms
            expected = market.trades(symbol, START_MS, hi_ms)
            stored = journal.trades(symbol, START_MS, hi_ms)
            assert len(stored)
            assert stored["agg_trade_id"].is_unique().all()
            assert stored.equals(expected.select(stored.columns).sort("agg_trade_id"))
            assert journal.verify(symbol) == []
            assert proof.proven_from_ms == START_MS
            assert proof.proven_until_ms >= int(expected["time_ms"][-1])
            compared += len(stored)
    return compared
