"""A damaged MANIFEST is refused before RocksDB, which can loop over it for ever, sees it."""

import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resources.journal import FORMAT, TradeJournal
from resources.manifest import damage_in
from resources.rocksdb import JournalDamaged
from tests.resources.test_rocksdb import BTC, stored

DEADLINE_S = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal with tables, a log and a checkpoint, as its dead writer left it."""
    left = tmp_path_factory.mktemp("manifest") / "journal"
    with TradeJournal.write(left) as journal:
        journal.append({"BTCUSDT": BTC[:-2]}, {})
        journal.checkpoint()
    with TradeJournal.write(left) as journal:
        journal.append({"BTCUSDT": BTC[-2:]}, {})
    return left


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "journal"))


def manifest_of(folder: Path) -> Path:
    live = folder / "live"
    return live / (live / "CURRENT").read_text().strip()


def test_an_undamaged_directory_and_a_new_one_are_whole(folder: Path, tmp_path: Path) -> None:
    assert damage_in(folder / "live") is None
    assert damage_in(folder / "checkpoints" / "1") is None
    assert damage_in(tmp_path) is None


def test_the_one_bit_over_which_rocksdb_loops_is_an_error_at_once_that_names_the_checkpoint(copy: Path) -> None:
    content = bytearray(manifest_of(copy).read_bytes())
    second = 7 + int.from_bytes(content[4:6], "little")
    content[second + 6] ^= 4  # the kind of a record becomes one of recycled logs
    manifest_of(copy).write_bytes(content)
    program = f"""
        import pathlib, sys
        from resources.journal import TradeJournal
        from resources.rocksdb import JournalDamaged

        for opening in (TradeJournal.write, TradeJournal.read):
            try:
                with opening(pathlib.Path({str(copy)!r})):
                    sys.exit("opened")
            except JournalDamaged as error:
                print(error.message, error.hint, sep="|")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=DEADLINE_S
    )
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        message, hint = line.split("|")
        assert f"{manifest_of(copy).name} is damaged at byte {second}" in message
        assert str(copy / "checkpoints" / "1") in hint
    assert len(done.stdout.splitlines()) == 2


def test_what_the_hint_says_restores_the_checkpoint(copy: Path) -> None:
    manifest_of(copy).write_bytes(b"what nobody wrote")
    with pytest.raises(JournalDamaged, match="MANIFEST") as refused, TradeJournal.write(copy):
        pass
    assert f"put a copy of {copy / 'checkpoints' / '1'} in the place of {copy / 'live'}" in refused.value.hint
    shutil.rmtree(copy / "live")
    shutil.copytree(copy / "checkpoints" / "1", copy / "live")
    assert stored(copy) == BTC[:-2]
    with TradeJournal.write(copy) as journal:
        journal.append({"BTCUSDT": BTC[-2:]}, {})
    assert stored(copy) == BTC


def test_a_directory_that_lost_its_current_is_not_taken_for_a_new_one(copy: Path) -> None:
    (copy / "live" / "CURRENT").unlink()
    tables = sorted(file.name for file in (copy / "live").glob("*.sst"))
    with pytest.raises(JournalDamaged, match="CURRENT is missing"), TradeJournal.write(copy):
        pass
    assert sorted(file.name for file in (copy / "live").glob("*.sst")) == tables


def test_one_whose_first_writer_was_killed_before_it_named_a_manifest_opens(tmp_path: Path) -> None:
    (tmp_path / "live").mkdir()
    (tmp_path / "FORMAT").write_text(FORMAT)
    (tmp_path / "live" / "MANIFEST-000001").write_bytes(b"")
    with TradeJournal.write(tmp_path) as journal:
        journal.append({"BTCUSDT": BTC}, {})
    assert stored(tmp_path) == BTC


@pytest.mark.parametrize("current", [b"", b"MANIFEST-999999\n", b"\xff\x00\n", b"../live/MANIFEST-000001\n", b"."])
def test_a_current_that_names_no_manifest_is_an_error(copy: Path, current: bytes) -> None:
    (copy / "live" / "CURRENT").write_bytes(current)
    with pytest.raises(JournalDamaged, match="CURRENT names"), TradeJournal.write(copy):
        pass


def test_a_last_record_that_power_cut_off_is_no_damage(copy: Path) -> None:
    content = manifest_of(copy).read_bytes()
    for end in (content[:-1], content[:-12], content + bytes(4096)):
        manifest_of(copy).write_bytes(end)
        assert damage_in(copy / "live") is None


@settings(max_examples=300, deadline=None)
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_each_bit_counts_but_in_the_last_record(folder: Path, place: float, bit: int) -> None:
    content = bytearray(manifest_of(folder).read_bytes())
    last = 0
    while last + 7 + int.from_bytes(content[last + 4 : last + 6], "little") < len(content):
        last += 7 + int.from_bytes(content[last + 4 : last + 6], "little")
    content[int(place * last)] ^= 1 << bit
    other = folder.parent / "damaged"
    other.mkdir(exist_ok=True)
    (other / "CURRENT").write_text("MANIFEST-000001\n")
    (other / "MANIFEST-000001").write_bytes(content)
    assert damage_in(other) is not None
