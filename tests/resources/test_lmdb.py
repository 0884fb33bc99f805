"""The LMDB projection: exact ranges, the seed's keys and values, and a damaged file that ends no process."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import lmdb
import numpy as np
import polars as pl
import pytest

from resources.lmdb import FIELDS, BadEntry, LmdbDamaged, LmdbFull, LmdbMissing, LmdbNotOurs, LmdbStore

LO = 1_700_000_100_000
STEP = 180_000


def candles(bars: int, seed: int = 0) -> pl.DataFrame:
    values = np.random.default_rng(seed).random((bars, 5)) * 1000
    columns = dict(zip(FIELDS["candles_3m"], values.T, strict=True))
    return pl.DataFrame({"open_time": LO + np.arange(bars) * STEP, **columns})


def end(bars: int) -> int:
    return LO + bars * STEP


@pytest.fixture
def store(tmp_path: Path) -> LmdbStore:
    return LmdbStore(tmp_path / "lmdb", 1)


def raw(store: LmdbStore, database: str, entries: dict[bytes, bytes]) -> None:
    with lmdb.open(str(store.path), map_size=2**30, max_dbs=10) as environment:
        handle = environment.open_db(database.encode())
        with environment.begin(db=handle, write=True) as transaction:
            for key, value in entries.items():
                transaction.put(key, value)


def test_what_is_read_is_what_was_written_to_the_last_bit(store: LmdbStore) -> None:
    frame = candles(500)
    written = store.write("candles_3m", "BTCUSDT", frame, LO, end(500))
    assert (written.inserted, written.updated, written.deleted, written.unchanged) == (500, 0, 0, 0)
    assert store.read("candles_3m", "BTCUSDT", LO, end(500)).equals(frame)
    assert store.read("candles_3m", "BTCUSDT", LO + 1, end(499)).equals(frame[1:499])
    assert store.counts() == {"candles_3m": 500, "candles_4h": 0, "indicators_3m": 0, "indicators_4h": 0}


def test_writing_the_same_again_changes_nothing(store: LmdbStore) -> None:
    store.write("candles_3m", "BTCUSDT", candles(300), LO, end(300))
    before = store.digest("candles_3m")
    again = store.write("candles_3m", "BTCUSDT", candles(300), LO, end(300))
    assert (again.changed, again.unchanged) == (0, 300)
    assert store.digest("candles_3m") == before


def test_a_range_becomes_equal_to_its_frame_and_nothing_outside_it_moves(store: LmdbStore) -> None:
    store.write("candles_3m", "BTCUSDT", candles(100), LO, end(100))
    store.write("candles_3m", "BTCUSDTPERP", candles(100), LO, end(100))
    other = candles(100, seed=1)
    part = other[20:30].vstack(other[35:40])
    written = store.write("candles_3m", "BTCUSDT", part, end(20), end(40))
    assert (written.inserted, written.updated, written.deleted) == (0, 15, 5)
    expected = pl.concat([candles(100)[:20], part, candles(100)[40:]])
    assert store.read("candles_3m", "BTCUSDT", 0, 10**13).equals(expected)
    assert store.read("candles_3m", "BTCUSDTPERP", 0, 10**13).equals(candles(100))


def test_rows_outside_the_range_are_not_written(store: LmdbStore) -> None:
    written = store.write("candles_3m", "BTCUSDT", candles(10), end(2), end(5))
    assert written.inserted == store.counts()["candles_3m"] == 3


def test_a_foreign_reader_finds_the_documented_key_and_json(store: LmdbStore) -> None:
    store.write("candles_3m", "BTCUSDT", candles(1), LO, end(1))
    with lmdb.open(str(store.path), max_dbs=10, readonly=True) as environment:
        handle = environment.open_db(b"candles_3m", create=False)
        with environment.begin(db=handle) as transaction:
            value = json.loads(transaction.get(f"BTCUSDT:{LO}".encode()))
    assert value == candles(1).drop("open_time").row(0, named=True)


@pytest.mark.parametrize("unknown", [None, float("nan"), float("inf")])
def test_a_row_with_an_unknown_value_has_no_entry(store: LmdbStore, unknown: float | None) -> None:
    frame = candles(3).with_columns(close=pl.Series([1.0, unknown, 3.0], dtype=pl.Float64))
    assert store.write("candles_3m", "BTCUSDT", frame, LO, end(3)).inserted == 2
    assert store.read("candles_3m", "BTCUSDT", LO, end(3))["open_time"].to_list() == [LO, LO + 2 * STEP]


def test_a_value_that_became_unknown_loses_its_entry(store: LmdbStore) -> None:
    store.write("candles_3m", "BTCUSDT", candles(3), LO, end(3))
    frame = candles(3).with_columns(close=pl.Series([None, 2.0, 3.0]))
    assert store.write("candles_3m", "BTCUSDT", frame, LO, end(3)).deleted == 1


@pytest.mark.parametrize("symbol", ["", "A:B", "A\0B", "X" * 401, "A\nB"])
def test_a_symbol_that_would_break_a_key_is_refused(store: LmdbStore, symbol: str) -> None:
    with pytest.raises(BadEntry):
        store.write("candles_3m", symbol, candles(1), LO, end(1))
    with pytest.raises(BadEntry):
        store.read("candles_3m", symbol, LO, end(1))


def test_a_symbol_in_chinese_is_a_symbol(store: LmdbStore) -> None:
    store.write("candles_3m", "币安人生USDT", candles(5), LO, end(5))
    assert store.read("candles_3m", "币安人生USDT", LO, end(5)).equals(candles(5))


def test_an_open_time_in_seconds_is_refused(store: LmdbStore) -> None:
    frame = candles(2).with_columns(pl.col("open_time") // 1000)
    with pytest.raises(BadEntry, match="13 digits"):
        store.write("candles_3m", "BTCUSDT", frame, 0, end(2))


def test_an_unknown_database_is_refused_by_name(store: LmdbStore) -> None:
    with pytest.raises(BadEntry, match="candles_5m"):
        store.read("candles_5m", "BTCUSDT", LO, end(1))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"BTCUSDT:1700000100001", b'{"open": 1}'),
        (b"BTCUSDT:1700000100001", b"\xff\xfe"),
        (b"BTCUSDT:1700000100001", b'{"open":1,"high":1,"low":1,"close":null,"volume":1}'),
        (b"BTCUSDT:1700000100001", b'{"open":1,"high":1,"low":1,"close":1,"volume":1},{}'),
        (b"BTCUSDT:17000001000011", b'{"open":1,"high":1,"low":1,"close":1,"volume":1}'),
        (b"BTCUSDT:17000001000zz", b'{"open":1,"high":1,"low":1,"close":1,"volume":1}'),
    ],
)
def test_a_foreign_entry_is_named_and_counted(store: LmdbStore, key: bytes, value: bytes) -> None:
    store.write("candles_3m", "BTCUSDT", candles(3), LO, end(3))
    raw(store, "candles_3m", {key: value})
    with pytest.raises(LmdbDamaged, match=f"1 of 4 entries.*{key.decode()}"):
        store.read("candles_3m", "BTCUSDT", LO, end(3))


def test_an_external_producers_files_are_never_written(tmp_path: Path) -> None:
    LmdbStore(tmp_path, 1).write("candles_3m", "BTCUSDT", candles(3), LO, end(3))
    theirs = LmdbStore(tmp_path, 1, ours=False)
    with pytest.raises(LmdbNotOurs):
        theirs.write("candles_3m", "BTCUSDT", candles(1), LO, end(1))
    before = (tmp_path / "data.mdb").read_bytes()
    assert len(theirs.read("candles_3m", "BTCUSDT", LO, end(3))) == 3
    assert (tmp_path / "data.mdb").read_bytes() == before
    with pytest.raises(LmdbMissing, match="indicators_4h"):
        theirs.read("indicators_4h", "BTCUSDT", LO, end(3))
    with pytest.raises(LmdbMissing, match="no LMDB"):
        LmdbStore(tmp_path / "absent", 1, ours=False).read("candles_3m", "BTCUSDT", LO, end(3))
    assert not (tmp_path / "absent").exists()


def test_a_lock_file_that_cannot_be_written_is_refused(store: LmdbStore, monkeypatch: pytest.MonkeyPatch) -> None:
    store.write("candles_3m", "BTCUSDT", candles(3), LO, end(3))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(LmdbNotOurs, match=r"lock\.mdb"):
        store.read("candles_3m", "BTCUSDT", LO, end(3))


def test_a_full_map_is_a_typed_error_and_keeps_what_was_there(tmp_path: Path) -> None:
    store = LmdbStore(tmp_path, 1)
    store.write("candles_3m", "BTCUSDT", candles(10), LO, end(10))
    store._map_size = 256 * 1024
    with pytest.raises(LmdbFull, match="no room"):
        store.write("candles_3m", "BTCUSDT", candles(20_000, seed=2), LO, end(20_000))
    assert store.read("candles_3m", "BTCUSDT", LO, end(20_000)).equals(candles(10))


def test_threads_of_one_process_may_use_one_path(store: LmdbStore) -> None:
    store.write("candles_3m", "BTCUSDT", candles(200), LO, end(200))
    seen: list[int] = []

    def read() -> None:
        seen.extend(len(LmdbStore(store.path, 1).read("candles_3m", "BTCUSDT", LO, end(200))) for _ in range(5))

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seen == [200] * 30


WRITER = """
import sys
from pathlib import Path
from resources.lmdb import LmdbStore
from tests.resources.test_lmdb import LO, candles, end
store = LmdbStore(Path(sys.argv[1]), 1)
for turn in range(10**6):
    store.write("candles_3m", "BTCUSDT", candles(400, seed=turn % 2), LO, end(400))
    print(turn, flush=True)
"""


def test_a_reader_beside_a_writer_that_is_killed_sees_only_whole_writes(store: LmdbStore) -> None:
    store.write("candles_3m", "BTCUSDT", candles(400), LO, end(400))
    whole = [candles(400), candles(400, seed=1)]
    seen: set[int] = set()
    with subprocess.Popen([sys.executable, "-c", WRITER, str(store.path)], stdout=subprocess.PIPE, text=True) as writer:
        try:
            assert writer.stdout is not None
            for _ in range(60):
                writer.stdout.readline()
                frame = store.read("candles_3m", "BTCUSDT", LO, end(400))
                seen.add([frame.equals(one) for one in whole].index(True))
        finally:
            writer.kill()
    assert seen == {0, 1}
    assert any(store.read("candles_3m", "BTCUSDT", LO, end(400)).equals(one) for one in whole)
    assert store.write("candles_3m", "BTCUSDT", candles(400, seed=2), LO, end(400)).updated == 400


DAMAGE = """
import sys
from pathlib import Path
from resources.lmdb import LmdbDamaged, LmdbStore
for folder in sys.argv[1:]:
    try:
        LmdbStore(Path(folder), 1).read("candles_3m", "BTCUSDT", 0, 10**13)
    except LmdbDamaged as error:
        print("refused", error.hint)
"""


def test_a_truncated_file_is_refused_and_ends_no_process(store: LmdbStore, tmp_path: Path) -> None:
    store.write("candles_3m", "BTCUSDT", candles(3000), LO, end(3000))
    whole = (store.path / "data.mdb").read_bytes()
    folders = []
    for place, size in enumerate(
        [0, 1, 100, 4096, 5000, 8192, 20_000, len(whole) // 2, len(whole) - 4096, len(whole) - 1]
    ):
        folder = tmp_path / f"cut{place}"
        folder.mkdir()
        (folder / "data.mdb").write_bytes(whole[:size])
        folders.append(str(folder))
    garbage = tmp_path / "garbage"
    garbage.mkdir()
    (garbage / "data.mdb").write_bytes(os.urandom(len(whole)))
    folders.append(str(garbage))
    child = subprocess.run(
        [sys.executable, "-c", DAMAGE, *folders], capture_output=True, text=True, timeout=60, check=False
    )
    assert child.returncode == 0, child.stderr
    assert child.stdout.count("refused") == len(folders)
