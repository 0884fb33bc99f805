"""The collector under kill -9 and a faulty exchange: nothing acknowledged is lost, nothing is stored twice."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from resources.rocksdb import TradeJournal
from resources.simulator.synthetic import SyntheticMarket
from trading.market.timeframe import DAY_MS, HOUR_MS

END = 1_790_000_000_000 - 1_790_000_000_000 % DAY_MS
KILLS = int(os.environ.get("KILLS", "6"))
MARKET = SyntheticMarket(7, ["BTCUSDT"])


@contextmanager
def exchange(folder: Path, hours: int, **faults: float) -> Iterator[str]:
    ready = folder / "exchange.json"
    ready.unlink(missing_ok=True)
    command = [sys.executable, "-m", "resources.simulator", "--symbols", "BTCUSDT", "--port-file", str(ready)]
    command += ["--start-ms", str(END - hours * HOUR_MS), "--end-ms", str(END), "--faults", json.dumps(faults)]
    process = subprocess.Popen(command)
    try:
        while not ready.exists():
            time.sleep(0.02)
        yield f"127.0.0.1:{json.loads(ready.read_text())['port']}"
    finally:
        process.terminate()
        process.wait(10)


def collector(journal: Path, root: str, hours: int, *more: str) -> list[str]:
    command = [sys.executable, "-m", "resources.collector", "--journal", str(journal), "--rest", f"http://{root}"]
    command += ["--ws", f"ws://{root}", "--symbols", "BTCUSDT", "--venue", "sim", "--until-ms", str(END)]
    return [*command, "--since-ms", str(END - hours * HOUR_MS), *more]


@pytest.mark.parametrize(
    "faults",
    [
        {},
        {"seed": 1, "drop": 0.02, "duplicate": 0.02, "malformed": 0.02},
        {"seed": 2, "rest_refused": 0.2, "drop": 0.02},
        {"seed": 3, "disconnect": 0.0005},
    ],
)
def test_every_trade_is_held_once_whatever_the_exchange_does(tmp_path: Path, faults: dict[str, float]) -> None:
    with exchange(tmp_path, 6, **faults) as root:
        done = subprocess.run(collector(tmp_path / "journal", root, 6), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with TradeJournal.read(tmp_path / "journal") as journal:
        assert journal.trades("BTCUSDT", 0, 2**45).equals(MARKET.trades("BTCUSDT", END - 6 * HOUR_MS, END))
        (held,) = journal.ledger("BTCUSDT")
        assert (held.proven_from_ms, held.proven_until_ms) == (END - 6 * HOUR_MS, END)
        assert journal.verify("BTCUSDT") == []


def test_kill_9_loses_no_acknowledged_trade_and_stores_none_twice(tmp_path: Path) -> None:
    chance, journal_path, hours = random.Random(5), tmp_path / "journal", 120
    for _ in range(KILLS):
        with exchange(tmp_path, hours) as root:
            reading, writing = os.pipe()
            command = collector(journal_path, root, hours, "--ack-fd", str(writing))
            process = subprocess.Popen(
                command, pass_fds=[writing], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            os.close(writing)
            acknowledged = os.read(reading, 2**16)
            time.sleep(chance.uniform(0, 0.4))
            process.send_signal(signal.SIGKILL)
            process.wait(10)
            while chunk := os.read(reading, 2**16):
                acknowledged += chunk
            os.close(reading)
        last = max((int(line.split()[1]) for line in acknowledged.decode().splitlines()), default=None)
        # The exchange is gone: what is found now was on disk when the process died.
        with TradeJournal.read(journal_path) as journal:
            ids = journal.trades("BTCUSDT", 0, 2**45)["agg_trade_id"]
            assert last is None or last in ids
            assert not ids.is_duplicated().any()
            assert journal.verify("BTCUSDT") == []
    with exchange(tmp_path, hours) as root:
        subprocess.run(collector(journal_path, root, hours), capture_output=True, check=True)
    with TradeJournal.read(journal_path) as journal:
        assert journal.trades("BTCUSDT", 0, 2**45).equals(MARKET.trades("BTCUSDT", END - hours * HOUR_MS, END))


def test_a_second_collector_steps_aside_and_says_who_writes(tmp_path: Path) -> None:
    with TradeJournal.write(tmp_path / "journal"), exchange(tmp_path, 1) as root:
        second = subprocess.run(collector(tmp_path / "journal", root, 1), capture_output=True, text=True, check=False)
    assert second.returncode == 0
    assert f"held by process {os.getpid()}" in second.stderr
