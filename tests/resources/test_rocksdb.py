import os
import re
import shutil
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from resources import checkpoints, rocksdb
from resources.disk_reserve import LOOK_S, RESERVED_BYTES, JournalFull
from resources.journal import FORMAT, TradeJournal
from resources.rocksdb import (
    JournalFailed,
    JournalFormat,
    control_socket,
)
from resources.writer_lock import JournalFenced, JournalHeld, WriterLock
from tests.synthetic import synthetic_trades
from trading.market.timeframe import HOUR_MS
from trading.market.trade import AggTrade, trades_frame

START_MS = 1_760_000_400_000
FOREVER = 10**13 - 1
BTC = synthetic_trades("BTCUSDT", START_MS, START_MS + HOUR_MS)
MIB = 2**20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def stored(folder: Path) -> list[AggTrade]:
    with TradeJournal.read(folder) as journal:
        return [AggTrade(*row) for row in journal.trades("BTCUSDT", 0, FOREVER).rows()]


def pairs() -> Iterator[list[AggTrade]]:
    """Yield the hour's trades two at a time."""
    return (BTC[n : n + 2] for n in range(0, len(BTC), 2))


# -- fencing -------------------------------------------------------------------------------------------------------------


def changes_of(journal: TradeJournal) -> list[tuple[str, object]]:
    return [
        ("append", lambda: journal.append({"BTCUSDT": BTC[2:4]}, {})),
        ("quarantine", lambda: journal.quarantine(1, "bad", b"{}")),
        ("seal", lambda: journal.seal("BTCUSDT", START_MS)),
        ("retire", lambda: journal.retire("BTCUSDT", START_MS + HOUR_MS)),
        ("delete", lambda: journal.delete_batch("BTCUSDT", BTC[0].time_ms // 1000 * 1000)),
        ("checkpoint", journal.checkpoint),
    ]


@pytest.mark.parametrize("taken", ["deleted", "replaced", "written_over"])
@pytest.mark.parametrize("change", ["append", "quarantine", "seal", "retire", "delete", "checkpoint"])
def test_a_writer_whose_lock_was_taken_changes_nothing_more(folder: Path, taken: str, change: str) -> None:
    lock = folder / "writer.lock"
    with TradeJournal.write(folder) as journal:
        journal.append({"BTCUSDT": BTC[:2]}, {})
        if taken == "written_over":  # what a second writer does where file locks do not hold
            process, epoch = lock.read_text().split()
            lock.write_text(f"{process} {int(epoch) + 1}\n")
        else:
            lock.unlink()
        if taken == "replaced":
            lock.write_text("1 1\n")
        with pytest.raises(JournalFenced, match="epoch 1"):
            dict(changes_of(journal))[change]()
    assert stored(folder) == BTC[:2]


def test_the_second_of_two_writers_goes_on_and_the_first_is_fenced(tmp_path: Path) -> None:
    path = tmp_path / "writer.lock"
    with WriterLock.held(path, 0) as first:
        path.unlink()
        with WriterLock.held(path, 0) as second:
            second.require()
            with pytest.raises(JournalFenced):
                first.require()
            second.require()


def test_each_writer_has_a_higher_epoch_than_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "writer.lock"
    epochs = []
    for _ in range(3):
        with WriterLock.held(path, 0) as lock:
            epochs.append(lock.epoch)
            with pytest.raises(JournalHeld, match=f"process {os.getpid()}"), WriterLock.held(path, 0.1):
                pass
    assert epochs == [1, 2, 3]
    path.write_text("what nobody wrote")
    with WriterLock.held(path, 0) as lock:
        assert lock.epoch == 1


# -- format --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stamp", ["trade journal 1", "trade journal 4", "", None])
def test_a_journal_of_another_format_is_refused_by_name_and_not_touched(folder: Path, stamp: str | None) -> None:
    with TradeJournal.write(folder) as journal:
        journal.checkpoint()
    if stamp is None:
        (folder / "FORMAT").unlink()
    else:
        (folder / "FORMAT").write_text(stamp)
    before = sorted((entry, entry.stat().st_mtime_ns) for entry in (folder / "live").iterdir())
    for opening in (TradeJournal.write, TradeJournal.read):
        with pytest.raises(JournalFormat, match="unknown" if stamp is None else repr(stamp)), opening(folder):
            pass
    with (
        WriterLock.held(folder / "writer.lock", 0),  # as while its own writer lives
        pytest.raises(JournalFormat),
        TradeJournal.read(folder),
    ):
        pass
    assert sorted((entry, entry.stat().st_mtime_ns) for entry in (folder / "live").iterdir()) == before


@pytest.mark.parametrize(
    ("stamp", "lost"),
    [
        ("trade journal 4", "its order books and mark prices cannot"),
        ("identity journal 1", "nothing in it can be fetched again"),
        ("a diary", "what it holds is not known"),
    ],
)
def test_of_a_journal_of_another_format_it_is_said_what_is_lost_with_it(folder: Path, stamp: str, lost: str) -> None:
    folder.mkdir()
    (folder / "FORMAT").write_text(stamp)
    with pytest.raises(JournalFormat) as refused, TradeJournal.read(folder):
        pass
    assert "keep the folder" in refused.value.hint and lost in refused.value.hint


def test_a_writer_killed_before_it_wrote_anything_leaves_a_journal_that_opens(folder: Path) -> None:
    folder.mkdir()
    (folder / "FORMAT").write_text(FORMAT)
    (folder / "FORMAT.unfinished").write_text("trade jou")
    with TradeJournal.write(folder) as journal:
        journal.append({"BTCUSDT": BTC[:2]}, {})
    assert stored(folder) == BTC[:2]


# -- a full disk ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that is 40 MiB larger than the reserve."""
    disk = tmp_path / "disk"
    disk.mkdir()
    size = RESERVED_BYTES // MIB + 40
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("a file system of its own needs root")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def fill(disk: Path, left: int) -> Path:
    """Take all room but `left` bytes, as another program does; tmpfs reserves pages without writing them out."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(disk).free - left)
    return ballast


def test_the_journal_stops_before_the_disk_is_full_and_goes_on_by_itself(small_disk: Path) -> None:
    folder = small_disk / "journal"
    with TradeJournal.write(folder) as journal:
        journal.append({"BTCUSDT": BTC[:2]}, {})
        ballast = fill(small_disk, RESERVED_BYTES - MIB)
        time.sleep(LOOK_S)
        for _ in range(3):
            with pytest.raises(JournalFull, match="up to the reserve") as refused:
                journal.append({"BTCUSDT": BTC[2:4]}, {})
        assert "256 MiB" in refused.value.hint
        with pytest.raises(JournalFull):
            journal.quarantine(1, "bad", b"{}")
        journal.seal("BTCUSDT", START_MS)  # what makes room is allowed
        journal.checkpoint()
        ballast.unlink()
        time.sleep(LOOK_S)
        journal.append({"BTCUSDT": BTC[4:6]}, {})
        assert journal.trades("BTCUSDT", 0, FOREVER).equals(trades_frame([*BTC[:2], *BTC[4:6]]))


def test_a_disk_that_fills_up_between_two_looks_loses_nothing_that_was_acknowledged(small_disk: Path) -> None:
    folder = small_disk / "journal"
    acknowledged: list[AggTrade] = []
    with pytest.raises(JournalFailed) as failed, TradeJournal.write(folder) as journal:
        journal.append({"BTCUSDT": BTC[:2]}, {})
        acknowledged += BTC[:2]
        ballast = fill(small_disk, 16 * 2**10)
        for two in pairs():  # the first of them again, which is no matter
            journal.append({"BTCUSDT": two}, {})
            acknowledged += two
    assert "No space left" in failed.value.message
    assert "start the collector again" in failed.value.hint
    assert 2 <= len(acknowledged) < len(BTC)
    ballast.unlink()
    kept = stored(folder)
    assert kept == BTC[: len(kept)]
    assert len(kept) >= len(dict.fromkeys(acknowledged))


def test_after_a_failed_write_the_writer_refuses_until_it_is_opened_again(small_disk: Path) -> None:
    folder = small_disk / "journal"
    with TradeJournal.write(folder) as journal:
        journal.append({"BTCUSDT": BTC[:2]}, {})
        ballast = fill(small_disk, 16 * 2**10)
        with pytest.raises(JournalFailed):
            for two in pairs():
                journal.append({"BTCUSDT": two}, {})
        ballast.unlink()
        for _, change in changes_of(journal):
            with pytest.raises(JournalFailed, match="No space left"):
                change()
    before = stored(folder)
    with TradeJournal.write(folder) as journal:
        journal.append({"BTCUSDT": BTC}, {})
    assert before == BTC[: len(before)]
    assert stored(folder) == BTC


def test_a_write_that_the_system_refuses_is_a_typed_error_and_loses_nothing_before_it(folder: Path) -> None:
    """The limit on a file's size needs no privileges; the system answers as it does on a full disk."""
    program = f"""
        import os, pathlib, resource, signal, sys
        from resources.journal import TradeJournal
        from resources.rocksdb import JournalFailed
        from tests.resources.test_rocksdb import pairs

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        first, *others = pairs()
        with TradeJournal.write(pathlib.Path({str(folder)!r})) as journal:
            journal.append({{"BTCUSDT": first}}, {{}})  # what this compiles is kept in files too
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
            try:
                for two in others:
                    journal.append({{"BTCUSDT": two}}, {{}})
                    os.write(1, f"{{two[-1].agg_trade_id}}\\n".encode())
            except JournalFailed as error:
                sys.exit(f"refused: {{error.message}}")
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and "refused: " in done.stderr and "File too large" in done.stderr
    last_acknowledged = int(done.stdout.split()[-1])
    kept = stored(folder)
    assert kept == BTC[: len(kept)]
    assert kept[-1].agg_trade_id >= last_acknowledged


# -- checkpoints ---------------------------------------------------------------------------------------------------------


def test_a_reader_whose_checkpoint_was_replaced_before_it_opened_it_takes_the_next(folder: Path) -> None:
    with TradeJournal.write(folder) as journal:
        journal.append({"BTCUSDT": BTC}, {})
        gone = journal.checkpoint()
        journal.checkpoint()
        newest = journal.checkpoint()
        assert not gone.exists()
        with socket.socket(socket.AF_UNIX) as collector:
            collector.bind(str(control_socket(folder)))
            collector.listen()
            collector.settimeout(10)
            answers = iter([gone.name, newest.name])

            def answer() -> None:
                for name in answers:
                    asking, _ = collector.accept()
                    with asking:
                        assert asking.recv(100) == b"checkpoint\n"
                        asking.sendall(f"ok {name}\n".encode())

            thread = threading.Thread(target=answer, daemon=True)
            thread.start()
            assert stored(folder) == BTC
            thread.join(10)
        assert next(answers, None) is None


def test_readers_at_once_and_no_writer_all_see_everything(folder: Path) -> None:
    with TradeJournal.write(folder) as journal:
        journal.append({"BTCUSDT": BTC}, {})
    seen: list[list[AggTrade]] = []
    readers = [threading.Thread(target=lambda: seen.append(stored(folder))) for _ in range(6)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert seen == [BTC] * len(readers)


def test_a_reader_of_a_collector_that_does_not_answer_says_how_old_is_what_it_reads(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with TradeJournal.write(folder) as journal:
        journal.append({"BTCUSDT": BTC}, {})
        made = journal.checkpoint()
        long_ago = time.time() - 90
        os.utime(made.parent / "CURRENT", (long_ago, long_ago))
        with TradeJournal.read(folder) as reader:  # nobody listens on the control socket
            assert reader.trades("BTCUSDT", 0, FOREVER).equals(trades_frame(BTC))
            (warning,) = reader.warnings
    assert re.search(r"does not answer: what is read is 9\d s old", warning)
    assert re.search(r"does not answer; its checkpoint of 9\d s ago is read", caplog.text)
    with TradeJournal.read(folder) as reader:
        assert reader.warnings == [], "with the writer gone the reader makes a checkpoint itself"


def test_a_reader_waits_no_longer_than_it_says_for_a_collector_that_hangs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "CONTROL_TIMEOUT_S", 0.5)
    with TradeJournal.write(folder) as journal, socket.socket(socket.AF_UNIX) as hanging:
        journal.append({"BTCUSDT": BTC}, {})
        journal.checkpoint()
        hanging.bind(str(control_socket(folder)))
        hanging.listen()  # the kernel accepts for it, as for a process that was stopped
        began = time.monotonic()
        with TradeJournal.read(folder) as reader:
            assert reader.warnings
        assert time.monotonic() - began < 5


# -- growth --------------------------------------------------------------------------------------------------------------


def test_what_rocksdb_logs_of_its_own_doings_does_not_grow_for_ever(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rocksdb, "LOG_BYTES", 32 * 2**10)
    with TradeJournal.write(folder) as journal:
        for _ in range(200):
            journal.checkpoint()
        logs = [file.stat().st_size for file in (folder / "live").glob("LOG*")]
    assert len(logs) == 2 and sum(logs) < 256 * 2**10  # each begins with all options


def test_a_journal_that_was_opened_very_often_keeps_few_files_open(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rocksdb, "OPEN_FILES", 30)
    starts, made = 60, BTC[:60]
    for n in range(starts):
        with TradeJournal.write(folder) as journal:
            journal.append({"BTCUSDT": made[n : n + 1]}, {})
    with TradeJournal.write(folder) as journal:
        assert journal.trades("BTCUSDT", 0, FOREVER).equals(trades_frame(made))
        links = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
        tables = [link for link in links if link.startswith(str(folder)) and link.endswith(".sst")]
        assert len(list((folder / "live").glob("*.sst"))) >= starts > 40 > len(tables)
