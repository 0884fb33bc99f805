"""A collector that dies, stands still or has no room, at a thousand trades a second: nothing acknowledged is lost."""

import os
import random
import resource
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from resources.disk_reserve import RESERVED_BYTES
from resources.journal import TradeJournal
from tests.faults.killed_at import POINTS
from tests.faults.processes import (
    BUSY,
    LATE_MS,
    SOAK,
    START_MS,
    SYMBOLS,
    Exchange,
    acknowledging,
    assert_exactly_the_market,
    busy_exchange,
    collected,
    collector,
    ended,
    settled,
    status,
    until,
)

KILLS = 500 if SOAK else 30
TIME_BOX_S = 3600 if SOAK else 45
MIB = 2**20


def held(folder: Path) -> dict[str, set[int]]:
    """Return the ids that the journal holds, of which none is there twice."""
    found: dict[str, set[int]] = {}
    with TradeJournal.read(folder) as journal:
        for symbol in SYMBOLS:
            assert journal.verify(symbol) == []
            ids = journal.trades(symbol, START_MS, LATE_MS)["agg_trade_id"]
            assert ids.is_unique().all()
            found[symbol] = set(ids.to_list())
    return found


def noted(lines: list[str], acknowledged: dict[str, set[int]]) -> None:
    """Take whole lines of acknowledgements; one that the collector died in the middle of does not count."""
    for symbol, last_id in (line.split() for line in lines if line.endswith("\n")):
        acknowledged[symbol].add(int(last_id))


def collected_whole(folder: Path, port: Exchange) -> None:
    """Let a last collector complete the journal up to now, and compare it with the market."""
    end_ms = port.show("clock")["now_ms"]
    collected(folder, port, end_ms=end_ms)
    assert_exactly_the_market(folder, end_ms, BUSY)


def test_nothing_acknowledged_is_absent_after_any_kill_while_rest_refuses(tmp_path: Path) -> None:
    """Some kills come at any moment, some at named points; REST answers again only when the journal was looked at."""
    folder, chance, began = tmp_path / "journal", random.Random(41), time.monotonic()
    acknowledged, known = {name: set[int]() for name in SYMBOLS}, {name: set[int]() for name in SYMBOLS}
    recoveries, kills = list[float](), 0
    with busy_exchange(tmp_path) as port:
        collected(folder, port, end_ms=START_MS + 1)
        for kill in range(KILLS):
            named = POINTS[kill * 2 // 5 % len(POINTS)] if kill % 5 in (0, 3) else None
            nth = chance.randrange(300, 2000) if named and named.endswith("frame") else 1 + chance.randrange(2)
            program = ("tests.faults.killed_at", named, str(nth)) if named else ("resources.collector",)
            port.set_faults()
            started = time.monotonic()
            with acknowledging(folder, port, program=program, log=tmp_path / "log") as (process, acks):
                first = acks.readline()
                port.set_faults(rest_refused=1.0)
                recoveries += [time.monotonic() - started] if first else []
                time.sleep(chance.uniform(0.0, 0.4))
                if named:
                    process.terminate()  # those that kill themselves at the end do so now
                    assert process.wait(20) in (0, -signal.SIGKILL)
                process.kill()
                noted([first, *acks], acknowledged)
            kills += 1
            found = held(folder)
            for symbol in SYMBOLS:
                assert acknowledged[symbol] <= found[symbol]
                assert known[symbol] <= found[symbol]
            known = found
            if time.monotonic() - began > TIME_BOX_S:
                break
        port.set_faults()
        collected_whole(folder, port)
    with TradeJournal.read(folder) as journal:
        repaired = sum(fill.last_id - fill.first_id + 1 for symbol in SYMBOLS for fill in journal.fills(symbol))
    count = sum(map(len, acknowledged.values()))
    print(
        f"{kills} kills: {count} acknowledgements, absent 0; {repaired} trades repaired, then contiguous, twice 0; start to "
        f"first acknowledgement {statistics.median(recoveries):.2f} s (median), {max(recoveries):.2f} s (longest)"
    )
    assert kills >= 15 and count > kills


def test_a_collector_and_an_exchange_that_stand_still_lose_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    with busy_exchange(tmp_path) as port, collector(folder, port, log=tmp_path / "log") as process:
        until(lambda: settled(folder), process)
        process.send_signal(signal.SIGSTOP)
        time.sleep(3)
        process.send_signal(signal.SIGCONT)
        until(lambda: settled(folder), process)
        port.process.send_signal(signal.SIGSTOP)
        stopped = time.monotonic()
        try:
            until(lambda: status(folder).get("reconnects", 0) >= 1, process)
            noticed_s = time.monotonic() - stopped
        finally:
            port.process.send_signal(signal.SIGCONT)
        connects = port.show("counts")["connects"]
        until(lambda: port.show("counts")["connects"] > connects, process)
        until(lambda: settled(folder), process)
        process.terminate()
        ended(process)
        collected_whole(folder, port)
    print(f"an exchange that stands still was noticed after {noticed_s:.1f} s")
    assert noticed_s <= 10


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that is 40 MiB larger than what the journal leaves free."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={RESERVED_BYTES // MIB + 40}m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("a file system of its own needs root")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_collector_whose_disk_fills_up_ends_by_name_and_goes_on_later(small_disk: Path) -> None:
    folder, log, acknowledged = (
        small_disk / "journal",
        small_disk.parent / "log",
        {name: set[int]() for name in SYMBOLS},
    )
    with busy_exchange(small_disk.parent) as port:
        with acknowledging(folder, port, log=log) as (process, acks):
            first = acks.readline()
            until(lambda: settled(folder), process)
            ballast = small_disk / "ballast"
            with ballast.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(small_disk).free - RESERVED_BYTES + MIB)
            assert process.wait(20) == 1
            noted([first, *acks], acknowledged)
        assert log.read_text().splitlines()[-1].startswith("JournalFull")
        ballast.unlink()
        found = held(folder)
        assert all(acknowledged[symbol] <= found[symbol] for symbol in SYMBOLS)
        collected_whole(folder, port)


def test_a_collector_that_may_not_write_on_ends_by_name_and_goes_on_later(tmp_path: Path) -> None:
    """The limit on a file's size is set on the living process; the system answers a write as on a full disk."""
    folder, log, acknowledged = tmp_path / "journal", tmp_path / "log", {name: set[int]() for name in SYMBOLS}
    with busy_exchange(tmp_path) as port:
        with acknowledging(folder, port, log=log) as (process, acks):
            first = acks.readline()
            until(lambda: settled(folder), process)
            size = max(file.stat().st_size for file in (folder / "live").glob("*.log"))
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, size))
            assert process.wait(20) == 1
            noted([first, *acks], acknowledged)
        assert log.read_text().splitlines()[-1].startswith("JournalFailed")
        found = held(folder)
        assert all(acknowledged[symbol] <= found[symbol] for symbol in SYMBOLS)
        collected_whole(folder, port)
