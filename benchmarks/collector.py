"""The whole collector: its own process against the simulated exchange in another one, over loopback.

What it can take is trades by CPU second, so that neither the exchange nor a busy machine counts. How late it
acknowledges is measured on every trade: from the trade's exchange time until the line with its id left the collector.
"""

import bisect
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psutil

from benchmarks.comparison import Measure
from resources.journal import TradeJournal

SYMBOLS: Final = ("BTCUSDT", "ETHUSDT")
BUSY: Final = 10_000
"""Trades a second and symbol while the most is measured; the exchange plays them as fast as they are read."""

START_MS: Final = 1_760_000_040_000


def comparisons(seconds: float = 20.0) -> Iterator[Measure]:
    """Yield what the collector takes at most, how late it is at 1,000 trades a second, and what it costs at 40."""
    yield from _most(seconds)
    yield from _late(seconds)
    yield from _quiet(seconds)


def _most(seconds: float) -> Iterator[Measure]:
    end_ms = START_MS + int(seconds * 1000)
    with tempfile.TemporaryDirectory() as folder, _exchange(Path(folder), START_MS, end_ms, "max", BUSY) as port:
        command = [*_command(Path(folder), port, START_MS), "--until-ms", str(end_ms)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout is not None
            _, _, usage = os.wait4(process.pid, 0)
            status = json.loads(process.stdout.read().splitlines()[-1])
    cpu_s = usage.ru_utime + usage.ru_stime
    note = f"{status['trades']:,} trades in {cpu_s:.1f} CPU s, start included; {status['repaired']:,} came over REST"
    yield Measure("collector_trades_s", round(status["trades"] / cpu_s), "trades/CPU s", note)


def _late(seconds: float) -> Iterator[Measure]:
    now_ms = int(time.time() * 1000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with _exchange(folder, now_ms, now_ms + 3_600_000, "1", 1_000 // len(SYMBOLS)) as port:
            acknowledged, status = _acknowledged(folder, port, seconds + 5)
        late_ms: list[float] = []
        with TradeJournal.read(folder / "journal") as journal:
            for symbol in SYMBOLS:
                lines = acknowledged[symbol]
                last_ids = [last_id for last_id, _ in lines]
                trades = journal.trades(symbol, int(lines[0][1]) + 5_000, 10**13 - 1) if lines else None
                for number, at_ms in trades.select("agg_trade_id", "time_ms").iter_rows() if trades is not None else ():
                    place = bisect.bisect_left(last_ids, number)
                    if place < len(lines):
                        late_ms.append(lines[place][1] - at_ms)
    late_ms.sort()
    note = f"{len(late_ms):,} trades of 1,000 a second; half within {late_ms[len(late_ms) // 2]:.0f} ms"
    yield Measure("event_to_journal_p99_ms", round(late_ms[int(0.99 * len(late_ms))]), "ms", note)
    yield _written("write_busy_p99_ms", status, "at 1,000 trades a second")


def _written(name: str, status: dict[str, dict[str, float]], rate: str) -> Measure:
    """Return how long the journal took for all but one write of a hundred."""
    took = status["write_ms"]
    return Measure(name, took["p99"], "ms", f"{rate}, four writes a second; half in {took['p50']} ms")


def _quiet(seconds: float) -> Iterator[Measure]:
    now_ms = int(time.time() * 1000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with _exchange(folder, now_ms, now_ms + 3_600_000, "1", 20) as port:
            bare = _resident([sys.executable, "-c", "import resources.collector, sys; sys.stdin.read()"])
            command = _command(folder, port, now_ms)
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
                watched = psutil.Process(process.pid)
                time.sleep(8)
                before = sum(watched.cpu_times()[:2])
                time.sleep(seconds)
                share = (sum(watched.cpu_times()[:2]) - before) / seconds
                taken = watched.memory_info().rss
                process.terminate()
                output, _ = process.communicate()
    yield _written("write_p99_ms", json.loads(output.splitlines()[-1]), "at 20 trades a second of each of 2 symbols")
    yield Measure(
        "collector_cpu_pct", round(100 * share, 2), "% of a core", "at 20 trades a second of each of 2 symbols"
    )
    note = "resident, above an interpreter that has imported the collector"
    yield Measure("collector_memory_mb", round((taken - bare) / 2**20, 1), "MiB", note)


def _command(folder: Path, port: int, since_ms: int) -> list[str]:
    command = [sys.executable, "-m", "resources.collector", "--journal", str(folder / "journal"), "--venue", "sim"]
    command += ["--rest", f"http://127.0.0.1:{port}", "--ws", f"ws://127.0.0.1:{port}", "--symbols", ",".join(SYMBOLS)]
    return [*command, "--since-ms", str(since_ms)]


def _acknowledged(
    folder: Path, port: int, seconds: float
) -> tuple[dict[str, list[tuple[int, float]]], dict[str, dict[str, float]]]:
    """Return (last id, wall clock in ms) of each acknowledgement by symbol, and the collector's last status."""
    found: dict[str, list[tuple[int, float]]] = {symbol: [] for symbol in SYMBOLS}
    reading, writing = os.pipe()

    def read() -> None:
        with os.fdopen(reading) as lines:
            for line in lines:
                symbol, _, last_id = line.strip().partition(" ")
                found[symbol].append((int(last_id), time.time() * 1000))

    reader = threading.Thread(target=read)
    reader.start()
    command = [*_command(folder, port, int(time.time() * 1000)), "--ack-fd", str(writing)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, pass_fds=[writing], text=True
    ) as process:
        os.close(writing)
        time.sleep(seconds)
        process.terminate()
        output, _ = process.communicate()
    reader.join()
    return found, json.loads(output.splitlines()[-1])


def _resident(command: list[str]) -> int:
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        time.sleep(5)
        taken = psutil.Process(process.pid).memory_info().rss
        process.kill()
    return taken


@contextmanager
def _exchange(folder: Path, start_ms: int, end_ms: int, speed: str, rate: int) -> Iterator[int]:
    ready = folder / "port.json"
    ready.unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "resources.simulator",
        "--symbols",
        ",".join(SYMBOLS),
        "--parent",
        str(os.getpid()),
    ]
    command += ["--start-ms", str(start_ms), "--end-ms", str(end_ms), "--speed", speed, "--port-file", str(ready)]
    with subprocess.Popen([*command, "--trades-per-second", str(rate)]) as process:
        try:
            while not ready.exists():
                if process.poll() is not None:
                    raise RuntimeError("the simulated exchange ended")
                time.sleep(0.05)
            yield json.loads(ready.read_text(encoding="utf-8"))["port"]
        finally:
            process.terminate()
