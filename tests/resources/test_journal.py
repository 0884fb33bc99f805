import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rocksdict import Options, Rdict

from resources.journal import FORMAT, TradeJournal, _families
from resources.journal_entries import key_of
from resources.rocksdb import Database, JournalDamaged
from resources.writer_lock import JournalHeld
from tests.trading.test_stream_batch import WRITTEN_BEFORE
from trading.market.timeframe import HOUR_MS
from trading.market.trade import TRADE_SCHEMA, AggTrade, trades_frame
from trading.stream.contiguity import IdRange, Ledger
from trading.stream.events import MarkPrice

START_MS = 1_700_000_000_000
FOREVER = 10**13 - 1


def trades_of(numbers: list[int], step_ms: int = 250) -> list[AggTrade]:
    return [AggTrade(n, 6_000_000 + n, n + 1, 2 * n, 2 * n + 1, START_MS + n * step_ms, n % 2 == 0) for n in numbers]


def claim(last_id: int) -> list[IdRange]:
    return [IdRange(0, last_id, START_MS, START_MS + last_id * 250)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def test_trades_come_back_as_they_were_stored(folder: Path) -> None:
    trades = trades_of(list(range(40)))
    with TradeJournal.write(folder) as journal:
        journal.append({"BTCUSDT": trades, "BTCUSDT2": trades[:1]}, {"BTCUSDT": claim(39)})
        assert journal.trades("BTCUSDT", 0, FOREVER).equals(trades_frame(trades))
        assert journal.trades("BTCUSDT", START_MS + 250, START_MS + 750)["agg_trade_id"].to_list() == [1, 2]
        assert journal.seconds("BTCUSDT") == [START_MS + 1000 * n for n in range(10)]
        assert journal.ledger("BTCUSDT") == claim(39)
        assert journal.ledger("ETHUSDT") == []
        assert journal.trades("ETHUSDT", 0, FOREVER).schema == trades_frame([]).schema == TRADE_SCHEMA


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(st.lists(st.integers(0, 30), max_size=10), max_size=6))
def test_late_and_repeated_trades_join_their_second(
    tmp_path_factory: pytest.TempPathFactory, parts: list[list[int]]
) -> None:
    with TradeJournal.write(tmp_path_factory.mktemp("merge")) as journal:
        for numbers in parts:
            journal.append({"BTCUSDT": trades_of(numbers)}, {})
        expected = sorted({n for numbers in parts for n in numbers})
        assert journal.trades("BTCUSDT", 0, FOREVER).equals(trades_frame(trades_of(expected)))


def test_the_first_of_two_trades_with_one_id_stays(folder: Path) -> None:
    first = trades_of([0])[0]
    with TradeJournal.write(folder) as journal:
        journal.append({"BTCUSDT": [first]}, {})
        journal.append({"BTCUSDT": [msgspec.structs.replace(first, price=1)]}, {})
        assert journal.trades("BTCUSDT", 0, FOREVER)["price"].to_list() == [first.price]


def test_mark_prices_are_kept_by_their_moment_and_dropped_with_the_trades(folder: Path) -> None:
    marks = [MarkPrice(START_MS + n, 60_000.123 + n, 60_000.5, None if n % 2 else 0.0001, n or None) for n in range(9)]
    with TradeJournal.write(folder) as journal:
        journal.append({"BTCUSDT": trades_of([0])}, {})
        journal.append_marks({"BTCUSDT": marks[4:], "ETHUSDT": marks[:1]})
        journal.append_marks({"BTCUSDT": marks[:6]})
        assert journal.marks("BTCUSDT", START_MS, START_MS + 9) == marks
        assert journal.marks("BTCUSDT", START_MS + 1, START_MS + 3) == marks[1:3]
        assert journal.marks("ETHUSDT", 0, FOREVER) == marks[:1]
        journal.retire("BTCUSDT", START_MS + HOUR_MS)
        assert (journal.marks("BTCUSDT", 0, FOREVER), journal.marks("ETHUSDT", 0, FOREVER)) == ([], marks[:1])


def test_a_journal_from_before_mark_prices_were_kept_takes_them_and_is_read(folder: Path) -> None:
    families = _families()
    with Database.write(folder, FORMAT, {name: families[name] for name in families if name != "marks"}) as database:
        database.checkpoint()
    with TradeJournal.read(folder) as journal:
        assert journal.marks("BTCUSDT", 0, FOREVER) == []
    with TradeJournal.write(folder) as journal:
        journal.append_marks({"BTCUSDT": [MarkPrice(START_MS, 1.5, 1.25, None, None)]})
        assert len(journal.marks("BTCUSDT", 0, FOREVER)) == 1


def test_a_deleted_batch_is_named_by_its_ids(folder: Path) -> None:
    with TradeJournal.write(folder) as journal:
        journal.append({"BTCUSDT": trades_of(list(range(12)))}, {"BTCUSDT": claim(11)})
        assert journal.verify("BTCUSDT") == []
        journal.delete_batch("BTCUSDT", START_MS + 1000)
        assert journal.verify("BTCUSDT") == [(4, 7)]


def test_a_second_writer_is_refused_and_told_who_writes(folder: Path) -> None:
    program = f"""
        import pathlib, sys
        from resources.journal import TradeJournal
        with TradeJournal.write(pathlib.Path({str(folder)!r})):
            print("open", flush=True)
            sys.stdin.read()
    """
    command = [sys.executable, "-c", textwrap.dedent(program)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(JournalHeld, match=str(other.pid)), TradeJournal.write(folder):
            pass
        other.kill()
    with TradeJournal.write(folder):
        pass  # the kernel has freed the lock of the killed process


def test_a_reader_sees_what_a_stopped_writer_stored_and_leaves_the_live_files_alone(folder: Path) -> None:
    trades = trades_of(list(range(8)))
    with TradeJournal.write(folder) as journal:
        journal.append({"BTCUSDT": trades}, {"BTCUSDT": claim(7)})
    with TradeJournal.read(folder) as reader:
        assert reader.trades("BTCUSDT", 0, FOREVER).equals(trades_frame(trades))
        assert reader.verify("BTCUSDT") == []
        with pytest.raises(Exception, match=r"(?i)read.?only"):
            reader.delete_batch("BTCUSDT", START_MS)


def test_two_checkpoints_are_kept(folder: Path) -> None:
    with TradeJournal.write(folder) as journal:
        made = [journal.checkpoint().name for _ in range(4)]
    checkpoints = folder / "checkpoints"
    assert sorted(entry.name for entry in checkpoints.iterdir() if entry.is_dir()) == made[-2:]
    assert (checkpoints / "CURRENT").read_text() == made[-1]


DAMAGES = [lambda v: v[:-1], lambda v: v[:-3] + bytes(3), lambda _: b"", lambda _: b"\x80\x04N."]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_value_is_named_and_never_returned(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    with TradeJournal.write(folder) as journal:
        journal.append({"BTCUSDT": trades_of([0])}, {})
    key = f"trades:BTCUSDT:{START_MS:013d}".encode()
    db = Rdict(str(folder / "live"), Options(raw_mode=True))
    batches = db.get_column_family("trades")
    assert msgspec.msgpack.decode(batches[key])  # any reader of MessagePack can open it
    batches[key] = damage(batches[key])
    batches.close()
    db.close()
    with TradeJournal.write(folder) as journal, pytest.raises(JournalDamaged, match=r"trades:BTCUSDT:17"):
        journal.trades("BTCUSDT", 0, FOREVER)


def test_a_damaged_block_is_an_error_and_not_a_short_answer(folder: Path) -> None:
    trades = trades_of(list(range(20_000)))
    with TradeJournal.write(folder) as journal:
        journal.append({"BTCUSDT": trades}, {})
    with TradeJournal.write(folder):
        pass  # opening moves the log into a table file
    table = max((folder / "live").glob("*.sst"), key=lambda file: file.stat().st_size)
    content = bytearray(table.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 32] = bytes(32)
    table.write_bytes(content)
    with TradeJournal.write(folder) as journal, pytest.raises(JournalDamaged):
        journal.trades("BTCUSDT", 0, FOREVER)


def test_a_ledger_survives_the_way_through_the_journal(folder: Path) -> None:
    ledger = Ledger()
    ledger.begin(5, START_MS)
    for trade in trades_of([5, 6, 9]):
        ledger.take(trade)
    with TradeJournal.write(folder) as journal:
        journal.append({}, {"BTCUSDT": ledger.ranges})
        assert Ledger(journal.ledger("BTCUSDT")).holes() == ledger.holes() == [(7, 8)]


def put(folder: Path, family: str, key: bytes, value: bytes) -> None:
    """Write a value past the journal."""
    db = Rdict(str(folder / "live"), Options(raw_mode=True))
    opened = db.get_column_family(family)
    opened[key] = value
    opened.close()
    db.close()


def value_of(folder: Path, family: str, key: bytes) -> bytes:
    db = Rdict(str(folder / "live"), Options(raw_mode=True))
    opened = db.get_column_family(family)
    value = opened[key]
    opened.close()
    db.close()
    return value


@pytest.mark.parametrize("family", ["trades", "sealed"])
def test_a_batch_copied_under_another_symbols_key_is_damage(folder: Path, family: str) -> None:
    hour_ms = START_MS // HOUR_MS * HOUR_MS
    with TradeJournal.write(folder) as journal:
        journal.append({"BTCUSDT": trades_of([0, 1])}, {})
        if family == "sealed":
            journal.seal("BTCUSDT", hour_ms)
    moment = hour_ms if family == "sealed" else START_MS
    put(folder, family, key_of(family, "ETHUSDT", moment), value_of(folder, family, key_of(family, "BTCUSDT", moment)))
    with TradeJournal.write(folder) as journal:
        assert journal.trades("BTCUSDT", 0, FOREVER).equals(trades_frame(trades_of([0, 1])))
        with pytest.raises(JournalDamaged, match=f"{family}:ETHUSDT"):
            journal.trades("ETHUSDT", 0, FOREVER)


def test_a_journal_of_the_format_before_is_read_and_goes_on_in_the_present_one(folder: Path) -> None:
    with TradeJournal.write(folder) as journal:
        journal.append({}, {"BTCUSDT": claim(2)})
    put(folder, "trades", key_of("trades", "BTCUSDT", START_MS), WRITTEN_BEFORE)
    (folder / "FORMAT").write_text("trade journal 2")
    with TradeJournal.read(folder) as journal:
        assert journal.trades("BTCUSDT", 0, FOREVER).equals(trades_frame(trades_of([0, 1, 2])))
        assert journal.verify("BTCUSDT") == []
    with TradeJournal.write(folder) as journal:
        journal.append({"BTCUSDT": trades_of([3, 4])}, {"BTCUSDT": claim(4)})
        assert (folder / "FORMAT").read_text() == FORMAT, (
            "who knows only the format before must not take ours for damage"
        )
        journal.seal("BTCUSDT", START_MS // HOUR_MS * HOUR_MS)
    with TradeJournal.read(folder) as journal:
        assert journal.trades("BTCUSDT", 0, FOREVER).equals(trades_frame(trades_of([0, 1, 2, 3, 4])))
        assert journal.verify("BTCUSDT") == []
