"""A disk that refuses or dawdles: nothing is acknowledged that is not stored, and the collector says so and ends.

strace makes the kernel's answers, on the living process; where it is not there or may not trace, these tests are skipped.
"""

import shutil
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.faults.processes import (
    SOAK,
    SYMBOLS,
    Collecting,
    acknowledging,
    busy_exchange,
    collector,
    ended,
    settled,
    status,
    until,
)
from tests.faults.test_deaths import collected_whole, held, noted

SLOW_S = 60 if SOAK else 12
SYNC = ("fdatasync,fsync", False)
WRITE = ("write,pwrite64", True)
"""System calls, and whether only those on the journal's log are meant."""

MIB = 2**20


@contextmanager
def injected(process: Collecting, fault: str, path: Path | None = None) -> Iterator[None]:
    """Let the system calls of a process end otherwise until the end of the block; `path` leaves others alone."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    calls = fault.partition(":")[0]
    command = [
        "strace",
        "-f",
        "-o",
        "/dev/null",
        "-e",
        f"trace={calls}",
        "-e",
        f"inject={fault}",
        "-p",
        str(process.pid),
    ]
    command += [] if path is None else ["-P", str(path.resolve())]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracing:
        assert tracing.stderr is not None
        first = tracing.stderr.readline()
        while "attached" not in first and tracing.poll() is None:
            first = tracing.stderr.readline()
        if tracing.poll() is not None and process.poll() is None:
            pytest.skip(f"strace may not trace here: {first}")
        try:
            yield
        finally:
            tracing.terminate()
            tracing.stderr.read()


def log_of(folder: Path) -> Path:
    return max((folder / "live").glob("*.log"), key=lambda file: int(file.stem))


@pytest.mark.parametrize(
    ("durability", "fault", "on_the_log"),
    [("second", *SYNC), ("fsync", *WRITE), *([("second", *WRITE), ("fsync", *SYNC)] if SOAK else [])],
)
def test_a_disk_that_answers_with_an_error_ends_the_collector_by_name_r_04(
    tmp_path: Path, durability: str, fault: str, on_the_log: bool
) -> None:
    fault = f"{fault}:error=EIO"
    folder, log, acknowledged = tmp_path / "journal", tmp_path / "log", {name: set[int]() for name in SYMBOLS}
    options = ["--durability", durability]
    with busy_exchange(tmp_path) as port:
        with acknowledging(folder, port, *options, log=log) as (process, acks):
            first = acks.readline()
            until(lambda: settled(folder), process)
            with injected(process, fault, log_of(folder) if on_the_log else None):
                struck = time.monotonic()
                assert process.wait(20) == 1
                ended_s = time.monotonic() - struck
            noted([first, *acks], acknowledged)
        alarm = log.read_text().splitlines()[-1]
        assert alarm.startswith("JournalFailed") and "Input/output error" in alarm
        found = held(folder)
        assert all(acknowledged[symbol] <= found[symbol] for symbol in SYMBOLS)
        collected_whole(folder, port)
    print(
        f"{durability}, {fault}: ended {ended_s:.1f} s later; {sum(map(len, acknowledged.values()))} acknowledged, absent 0"
    )


@pytest.mark.parametrize(("fault", "on_the_log"), [WRITE, SYNC] if SOAK else [WRITE])
def test_a_disk_that_dawdles_costs_no_memory_and_nothing_is_lost_r_14(
    tmp_path: Path, fault: str, on_the_log: bool
) -> None:
    """Each call takes four seconds: the sockets are read no more, so the exchange waits or is left, and ids are repaired."""
    folder = tmp_path / "journal"
    with busy_exchange(tmp_path) as port, collector(folder, port, log=tmp_path / "log") as process:
        until(lambda: settled(folder), process)
        watched, memory = psutil.Process(process.pid), list[int]()
        with injected(process, f"{fault}:delay_enter=4000000", log_of(folder) if on_the_log else None):
            for _ in range(SLOW_S):
                memory.append(watched.memory_info().rss)
                time.sleep(1)
        until(lambda: settled(folder), process, 60, pause_s=0.5)
        final = status(folder)
        process.terminate()
        ended(process)
        collected_whole(folder, port)
    grown = (max(memory) - memory[0]) / MIB
    print(
        f"{fault}: {grown:.0f} MiB more in {SLOW_S} s, a write took {final['write_ms']['max'] / 1000:.1f} s at most, "
        f"{final.get('reconnects', 0)} reconnects, {final['repaired']} trades repaired"
    )
    assert final["write_ms"]["max"] >= 2_000
    assert grown < 64


@pytest.mark.parametrize(("durability", "waits"), [("second", False), ("fsync", True)])
def test_a_write_waits_for_a_sync_only_where_each_write_is_synced(tmp_path: Path, durability: str, waits: bool) -> None:
    """Each sync takes 0.7 s, so that one has ended when the next is due."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    program = f"""
        import pathlib, time
        from resources.journal import TradeJournal
        from tests.resources.test_rocksdb import pairs

        with TradeJournal.write(pathlib.Path({str(tmp_path / "journal")!r}), 0, {durability!r}) as journal:
            slowest, until = 0.0, time.monotonic() + 4
            for two in pairs():
                began = time.monotonic()
                if began > until:
                    break
                journal.append({{"BTCUSDT": two}}, {{}})
                slowest = max(slowest, time.monotonic() - began)
                time.sleep(0.02)
            print(slowest)
    """
    command = ["strace", "-f", "-o", "/dev/null", "-e", "trace=fdatasync", "-e", "inject=fdatasync:delay_enter=700000"]
    command += [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    if "ptrace" in done.stderr.lower():
        pytest.skip(f"strace may not trace here: {done.stderr[:100]}")
    slowest_s = float(done.stdout)
    print(f"{durability}: the slowest write took {slowest_s:.3f} s beside syncs of 0.7 s")
    assert (slowest_s >= 0.7) == waits
