from pathlib import Path

import msgspec
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rocksdict import DBCompressionType, Options, Rdict, SliceTransform

from resources.journal import TradeJournal
from resources.rocksdb import JournalDamaged
from resources.seed_journal import CLOCK_ERROR_MS, NoSeedJournal, seed_trades
from tests.synthetic import MARKET, synthetic_trades
from trading.market.instrument import InexactNumber
from trading.market.timeframe import HOUR_MS
from trading.market.trade import AggTrade, trades_frame
from trading.stream.contiguity import IdRange, missing_ids

START_MS = 1_760_000_400_000
END_MS = START_MS + HOUR_MS
FOREVER = 10**13 - 1
BTC = synthetic_trades("BTCUSDT", START_MS, END_MS)
INSTRUMENT = MARKET.instrument("BTCUSDT")


def row(trade: AggTrade) -> list[object]:
    """Return the positional array `[p, q, T, a, m]` that a plain MessagePack encoder makes of the other program's struct."""
    price, quantity = INSTRUMENT.price_text(trade.price), INSTRUMENT.quantity_text(trade.quantity)
    return [price, quantity, trade.time_ms, trade.agg_trade_id, trade.buyer_is_maker]


def value(trades: list[AggTrade]) -> bytes:
    return msgspec.msgpack.encode([row(trade) for trade in trades])


def key(batch_ms: int, symbol: str = "BTCUSDT") -> bytes:
    return f"trades:{symbol}:{batch_ms}".encode()


def opened(folder: Path) -> Rdict:
    """Open a database with the other program's options: zstd, keys by their first ten bytes, one column family."""
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_compression_type(DBCompressionType.zstd())
    options.set_prefix_extractor(SliceTransform.create_fixed_prefix(10))
    return Rdict(str(folder), options)


def flushed_each_second(trades: list[AggTrade], late_ms: int = 0) -> dict[bytes, bytes]:
    batches: dict[int, list[AggTrade]] = {}
    for trade in trades:
        batches.setdefault(trade.time_ms // 1000 * 1000 + 1000 + late_ms, []).append(trade)
    return {key(batch_ms): value(batch) for batch_ms, batch in batches.items()}


def written(folder: Path, entries: dict[bytes, bytes]) -> Path:
    database = opened(folder)
    for name, content in entries.items():
        database[name] = content
    database.close()
    return folder


def expected(trades: list[AggTrade]) -> pl.DataFrame:
    nothing = pl.lit(None, pl.Int64)
    return trades_frame(trades).with_columns(first_trade_id=nothing, last_trade_id=nothing)


def read(folder: Path, lo_ms: int = START_MS, hi_ms: int = END_MS) -> pl.DataFrame:
    return seed_trades(folder, INSTRUMENT, lo_ms, hi_ms)


def test_trades_under_the_clock_of_another_program_are_read_by_their_own_time(tmp_path: Path) -> None:
    folder = written(tmp_path / "rust", flushed_each_second(BTC, late_ms=737))
    assert read(folder).equals(expected(BTC))
    lo_ms, hi_ms = START_MS + 600_500, START_MS + 1_200_250
    assert read(folder, lo_ms, hi_ms).equals(expected([t for t in BTC if lo_ms <= t.time_ms < hi_ms]))


def test_the_bytes_are_those_of_the_other_programs_encoder(tmp_path: Path) -> None:
    """Written out by hand: an array of one array of five; text, text, two integers, false."""
    batch = (
        b"\x91\x95\xa867650.12\xa30.5" + b"\xcf" + (1_760_000_400_123).to_bytes(8, "big") + b"\xce\x00\x0f\x42\x40\xc2"
    )
    trades = read(written(tmp_path / "rust", {key(1_760_000_401_000): batch}))
    assert trades.rows() == [(1_000_000, 6_765_012, 50_000, None, None, 1_760_000_400_123, False)]


@pytest.mark.parametrize("late_ms", [-CLOCK_ERROR_MS + 2_000, CLOCK_ERROR_MS - 2_000])
def test_a_clock_that_is_off_by_less_than_an_hour_hides_no_trade(tmp_path: Path, late_ms: int) -> None:
    assert read(written(tmp_path / "rust", flushed_each_second(BTC, late_ms))).equals(expected(BTC))


def test_books_other_symbols_and_foreign_keys_beside_the_trades_are_left_out(tmp_path: Path) -> None:
    foreign = {
        b"BTCUSDT:1760000400": b"\x94\x90\x90\x01\x02",
        key(START_MS + 1000, "BTCUSDTPERP"): value(BTC[:1]),
        key(START_MS + 1000, "BTCUSD"): value(BTC[:1]),
        key(START_MS + 1000, "BTCUSDT:X"): value(BTC[:1]),
        b"trades:BTCUSDT:": b"",
        b"trades:BTCUSDT:17600004x0000": b"\xff",
    }
    assert read(written(tmp_path / "rust", flushed_each_second(BTC[5:]) | foreign)).equals(expected(BTC[5:]))


def test_two_batches_in_one_millisecond_overwrite_each_other_there_and_what_was_lost_is_named(tmp_path: Path) -> None:
    first, second, after = BTC[:4], BTC[4:9], BTC[9:12]
    folder = tmp_path / "rust"
    database = opened(folder)
    for batch_ms, batch in ((START_MS + 1000, first), (START_MS + 1000, second), (START_MS + 2000, after)):
        database[key(batch_ms)] = value(batch)
    database.close()
    trades = read(folder)
    assert trades.equals(expected(second + after))
    claim = IdRange(BTC[0].agg_trade_id, BTC[11].agg_trade_id, START_MS, END_MS)
    assert missing_ids([claim], trades["agg_trade_id"].to_numpy()) == [(first[0].agg_trade_id, first[-1].agg_trade_id)]


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sets(st.integers(0, 30), min_size=1, max_size=6), max_size=8))
def test_batches_of_one_millisecond_join_each_other_in_our_journal(
    tmp_path_factory: pytest.TempPathFactory, batches: list[set[int]]
) -> None:
    """However a moment's trades are split, and in whatever order their parts come."""
    moment = [AggTrade(n, 6_000_000 + n, n + 1, n, n, START_MS + 5, n % 2 == 0) for n in range(31)]
    with TradeJournal.write(tmp_path_factory.mktemp("ours")) as journal:
        for batch in batches:
            journal.append({"BTCUSDT": [moment[n] for n in batch]}, {})
        kept = [moment[n] for n in sorted(set().union(*batches))]
        assert journal.trades("BTCUSDT", 0, FOREVER).equals(trades_frame(kept))


def test_the_first_of_two_trades_with_one_id_is_taken(tmp_path: Path) -> None:
    again = msgspec.structs.replace(BTC[0], price=1)
    folder = written(
        tmp_path / "rust", {key(START_MS + 1000): value(BTC[:1]), key(START_MS + 2000): value([again, BTC[1]])}
    )
    assert read(folder).equals(expected(BTC[:2]))


def test_reading_changes_nothing_in_the_other_programs_folder(tmp_path: Path) -> None:
    folder = written(tmp_path / "rust", flushed_each_second(BTC))
    before = {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()}
    read(folder)
    assert {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.iterdir()} == before


def test_a_database_that_its_program_has_open_is_read_with_what_is_only_in_its_log(tmp_path: Path) -> None:
    folder = tmp_path / "rust"
    database = opened(folder)
    for name, content in flushed_each_second(BTC[:500]).items():
        database[name] = content
    assert read(folder).equals(expected(BTC[:500]))
    database[key(END_MS)] = value(BTC[500:])
    database.close()


@pytest.mark.parametrize(
    "content",
    [b"", b"\xc1", value(BTC[:2])[:-1], msgspec.msgpack.encode([[1, 2]]), b"\x80\x04N.", b"\x91" * 10_000],
    ids=["empty", "reserved", "short", "not_trades", "pickle", "nested"],
)
def test_a_batch_that_is_no_list_of_trades_is_named(tmp_path: Path, content: bytes) -> None:
    folder = written(tmp_path / "rust", flushed_each_second(BTC[5:]) | {key(START_MS + 500): content})
    with pytest.raises(JournalDamaged, match=f"trades:BTCUSDT:{START_MS + 500}"):
        read(folder)


@pytest.mark.parametrize(("place", "wrong"), [(0, "67650.123"), (0, "NaN"), (0, "-1"), (1, "1e3"), (1, "0.000001")])
def test_a_number_that_is_no_multiple_of_the_step_is_refused(tmp_path: Path, place: int, wrong: str) -> None:
    bad = row(BTC[0])
    bad[place] = wrong
    folder = written(tmp_path / "rust", {key(START_MS + 1000): msgspec.msgpack.encode([bad])})
    with pytest.raises(InexactNumber, match=wrong):
        read(folder)


def test_a_folder_without_a_database_is_refused_and_not_made(tmp_path: Path) -> None:
    for folder in (tmp_path / "absent", tmp_path):
        with pytest.raises(NoSeedJournal, match="no RocksDB directory"):
            read(folder)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_database_is_refused(tmp_path: Path) -> None:
    folder = written(tmp_path / "rust", flushed_each_second(BTC))
    for manifest in folder.glob("MANIFEST-*"):
        manifest.write_bytes(bytes(100))
    with pytest.raises(NoSeedJournal, match="cannot be opened"):
        read(folder)
