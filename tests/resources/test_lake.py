"""A day comes out of the lake as it is in the database, now and as it was known before, or it is refused by name."""

import os
import random
import re
import shutil
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources import lake_export
from resources.lake import (
    DATASETS,
    MANIFEST,
    LakeFileDamaged,
    LakeFileMissing,
    LakeReader,
    NotInLake,
    Proof,
    UnknownDataset,
    slug,
)
from resources.lake_export import DayNotOver, NotVerified, export_day, verified_until
from resources.timescale.store import MarketStore
from resources.timescale.tables import BOOK_1S, BOOK_SNAPSHOT, CANDLE, CANDLE_1S, TRADE
from trading.market.instrument import Instrument
from trading.market.timeframe import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, Timeframe
from trading.provider.book_tops import VOLUMES, completed
from trading.stream.contiguity import IdRange

SYMBOL = "湖人USDT"
DAY = 1_700_006_400_000 // DAY_MS * DAY_MS
DAYS = ("2023-11-15", "2023-11-16", "2023-11-17")
NOW = DAY + 4 * DAY_MS
REPAIRED = NOW - HOUR_MS


def bars(timeframe_ms: int, every_ms: int, close: float = 0.1) -> pl.DataFrame:
    """Three days of bars, with a null in some columns of every other."""
    opens = range(DAY, DAY + 3 * DAY_MS, every_ms)
    rows = [
        (at, 0.1, 0.3, 0.1, close, 1e-9 * n, 0.7 if n % 2 else None, n, None, None, "kline", bool(n % 3), 1, 1, None)
        for n, at in enumerate(opens)
    ]
    return pl.DataFrame(rows, schema=CANDLE.schema, orient="row")


def trades() -> pl.DataFrame:
    """A trade a minute, of which one pair came with its times the wrong way round."""
    times = [DAY + n * MINUTE_MS for n in range(3 * 1440)]
    times[700], times[701] = times[701], times[700]
    rows = [(9_000 + n, 2**50 + n % 7, n, 2 * n, 2 * n + 1, at, n % 3 == 0) for n, at in enumerate(times)]
    return pl.DataFrame(rows, schema=TRADE.schema, orient="row")


def books() -> tuple[pl.DataFrame, pl.DataFrame]:
    seconds = [DAY + n * 600 * SECOND_MS for n in range(3 * 144)]
    snapshots = [(at, n, [0.1, 0.05], [1.5, 0.00001], [0.11], [2.0], at + 7) for n, at in enumerate(seconds)]
    rows = {"best_bid": 0.1, "best_ask": [0.2, None] * (len(seconds) // 2), **dict.fromkeys(VOLUMES, 1.5)}
    rows |= {"time_ms": seconds, "ask_volume": 2.0, "snapshots": 1, "known_at_ms": None}
    return (
        pl.DataFrame(snapshots, schema=BOOK_SNAPSHOT.schema, orient="row"),
        completed(pl.DataFrame(rows)).select(pl.col(name).cast(kind) for name, kind in BOOK_1S.schema.items()),
    )


@pytest.fixture(scope="module")
def held(market: MarketStore) -> MarketStore:
    """Three days of everything; one bar of the second day was repaired and one was taken out, after the days."""
    market.register([Instrument("sim", SYMBOL, "湖人", "USDT", 2, 5)])
    window = (DAY, DAY + 3 * DAY_MS)
    market.write(TRADE, SYMBOL, trades(), *window)
    market.set_trade_coverage(SYMBOL, DAY, [IdRange(9_000, 10_439, DAY, DAY + DAY_MS)])
    snapshots, seconds = books()
    market.write(BOOK_SNAPSHOT, SYMBOL, snapshots, *window)
    market.write(BOOK_1S, SYMBOL, seconds, *window)
    market.write(CANDLE_1S, SYMBOL, bars(SECOND_MS, 600 * SECOND_MS), *window)
    for timeframe in (Timeframe.M1, Timeframe.H4):
        market.write(CANDLE, SYMBOL, bars(timeframe.ms, timeframe.ms), *window, timeframe)
        repaired = bars(timeframe.ms, timeframe.ms, close=0.2)[timeframe_place(timeframe)]
        market.write(CANDLE, SYMBOL, repaired, *window, timeframe, recorded_at_ms=REPAIRED)
        market.drop(CANDLE, SYMBOL, [DAY + DAY_MS], timeframe, recorded_at_ms=REPAIRED)
    return market


def timeframe_place(timeframe: Timeframe) -> slice:
    place = (DAY_MS + 8 * HOUR_MS) // timeframe.ms
    return slice(place, place + 1)


@pytest.fixture(scope="module")
def lake(held: MarketStore, tmp_path_factory: pytest.TempPathFactory) -> LakeReader:
    reader = LakeReader(tmp_path_factory.mktemp("lake"), "sim")
    for dataset in DATASETS:
        for day in DAYS:
            assert export_day(held, reader, dataset, SYMBOL, day, NOW)[1]
    return reader


RANGES = ((0, 2**45), (DAY + 5 * HOUR_MS, DAY + DAY_MS + 1), (DAY + DAY_MS, DAY + 2 * DAY_MS), (DAY, DAY))


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize(("lo_ms", "hi_ms"), RANGES)
@pytest.mark.parametrize("known_by_ms", [None, REPAIRED, REPAIRED - 1, DAY + DAY_MS + 8 * HOUR_MS])
def test_the_lake_gives_what_the_database_gives(
    held: MarketStore, lake: LakeReader, dataset: str, lo_ms: int, hi_ms: int, known_by_ms: int | None
) -> None:
    table = DATASETS[dataset]
    if known_by_ms is not None and not table.revised:
        with pytest.raises(ValueError, match="keeps no versions"):
            lake.read(dataset, SYMBOL, lo_ms, hi_ms, known_by_ms=known_by_ms)
        return
    for timeframe in (Timeframe.M1, Timeframe.H4) if table.by_timeframe else (None,):
        theirs = held.read(table, SYMBOL, max(lo_ms, DAY), min(hi_ms, NOW), timeframe, known_by_ms=known_by_ms)
        ours = lake.read(dataset, SYMBOL, lo_ms, hi_ms, timeframe, known_by_ms)
        for engine in ("in-memory", "streaming"):
            assert ours.collect(engine=engine).equals(theirs)
        assert ours.collect_schema() == theirs.schema
        late, columns = pl.col(table.time) >= DAY + 7 * HOUR_MS, [table.time, list(table.schema)[-1]]
        assert ours.filter(late).select(columns).head(9).collect().equals(theirs.filter(late).select(columns).head(9))
        assert ours.head(9).filter(late).collect().equals(theirs.head(9).filter(late))


def test_every_version_is_in_the_lake_with_the_time_in_which_it_was_known(lake: LakeReader) -> None:
    versions = lake.read("candle", SYMBOL, 0, 2**45, Timeframe.H4, versions=True).collect()
    replaced = versions.filter(pl.col("superseded_at_ms").is_not_null())
    assert replaced["open_time"].to_list() == [DAY + DAY_MS, DAY + DAY_MS + 8 * HOUR_MS]
    assert set(replaced["superseded_at_ms"]) == {REPAIRED}
    assert set(replaced["close"]) == {0.1}


def test_one_day_is_in_memory_at_a_time(lake: LakeReader) -> None:
    batches = lake.read("trade", SYMBOL, 0, 2**45).collect_batches(chunk_size=100_000, maintain_order=True)
    assert sum(len(batch) for batch in batches) == 3 * 1440


def test_an_unchanged_day_is_left_alone_and_a_changed_one_is_exported_anew(held: MarketStore, lake: LakeReader) -> None:
    folder = lake.day_dir("candle", SYMBOL, DAYS[2])
    before = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.iterdir()}
    manifest, written = export_day(held, lake, "candle", SYMBOL, DAYS[2], NOW + 1)
    assert not written and manifest.verified_at_ms == NOW
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in folder.iterdir()} == before
    reading = lake.read("candle", SYMBOL, DAY, NOW, Timeframe.M1)
    at_ms = DAY + 2 * DAY_MS
    held.drop(CANDLE, SYMBOL, [at_ms], Timeframe.M1, recorded_at_ms=NOW + 2)
    manifest, written = export_day(held, lake, "candle", SYMBOL, DAYS[2], NOW + 3)
    assert written and (manifest.superseded, manifest.verified_at_ms) == (1, NOW + 3)
    assert sorted(path.name for path in folder.iterdir()) == sorted([MANIFEST, manifest.file])
    assert at_ms not in reading.collect()["open_time"], "what was asked before is answered from what is there now"
    assert at_ms in lake.read("candle", SYMBOL, at_ms, NOW, Timeframe.M1, NOW + 1).collect()["open_time"]


def test_a_manifest_says_what_the_file_is_and_what_ids_prove(lake: LakeReader) -> None:
    first, second = (lake.manifest("trade", SYMBOL, day) for day in DAYS[:2])
    assert first is not None and second is not None
    assert first.proven == [Proof(9_000, 10_439, DAY, DAY + DAY_MS)] and second.proven == []
    assert (first.rows, first.superseded, first.columns["price"]) == (1440, 0, "Int64")
    file = pq.ParquetFile(lake.file(first))
    assert file.schema_arrow.metadata[b"trading.symbol"].decode() == SYMBOL
    assert lake.file(first).parent.relative_to(lake.root).as_posix().isascii()


def test_a_day_that_is_not_over_is_not_exported(held: MarketStore, lake: LakeReader) -> None:
    with pytest.raises(DayNotOver, match=DAYS[2]):
        export_day(held, lake, "trade", SYMBOL, DAYS[2], DAY + 3 * DAY_MS - 1)


def test_what_reads_back_otherwise_never_enters_the_lake(
    held: MarketStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest, lake = lake_export._write, LakeReader(tmp_path, "sim")
    for name, value in (("volume", pl.col("volume") * (1 + 2.3e-16)), ("known_at_ms", pl.col("known_at_ms") + 1)):
        monkeypatch.setattr(
            lake_export,
            "_write",
            lambda path, frame, about, n=name, v=value: honest(path, frame.with_columns(v.alias(n)), about),
        )
        with pytest.raises(NotVerified, match="unlike the"):
            export_day(held, lake, "candle_1s", SYMBOL, DAYS[0], NOW)
        assert lake.days("candle_1s", SYMBOL) == []
    monkeypatch.undo()
    assert export_day(held, lake, "candle_1s", SYMBOL, DAYS[0], NOW)[1]


@pytest.fixture
def copy(lake: LakeReader, tmp_path: Path) -> LakeReader:
    """A lake to damage."""
    shutil.copytree(lake.root, tmp_path / "lake")
    return LakeReader(tmp_path / "lake", "sim")


def whole(lake: LakeReader) -> pl.DataFrame:
    return lake.read("book_1s", SYMBOL, 0, 2**45).collect()


def test_a_flipped_bit_anywhere_is_refused_and_the_file_named(held: MarketStore, copy: LakeReader) -> None:
    manifest, rng = copy.manifest("book_1s", SYMBOL, DAYS[1]), random.Random(5)
    assert manifest is not None
    path, content = copy.file(manifest), copy.content(manifest)
    for place in [0, 4, len(content) - 1, *(rng.randrange(len(content)) for _ in range(200))]:
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        with pytest.raises(LakeFileDamaged, match=re.escape(str(path))):
            whole(copy)
    assert export_day(held, copy, "book_1s", SYMBOL, DAYS[1], NOW)[1], "the database still holds it"
    assert path.read_bytes() == content and len(whole(copy)) == 3 * 144


def test_a_page_that_fails_its_checksum_is_refused_by_the_checksum(copy: LakeReader) -> None:
    manifest = copy.manifest("trade", SYMBOL, DAYS[0])
    assert manifest is not None
    content = bytearray(copy.content(manifest))
    prices = pq.ParquetFile(copy.file(manifest)).metadata.row_group(0).column(1)
    content[prices.data_page_offset + prices.total_compressed_size - 1] ^= 1
    with pytest.raises(OSError, match="CRC"):
        pq.ParquetFile(pa.BufferReader(bytes(content)), page_checksum_verification=True).read()


def test_a_file_cut_short_or_gone_is_refused_before_anything_is_read(copy: LakeReader) -> None:
    manifest = copy.manifest("book_1s", SYMBOL, DAYS[2])
    assert manifest is not None
    path = copy.file(manifest)
    for size in (0, 4, manifest.bytes // 2, manifest.bytes - 1):
        os.truncate(path, size)
        with pytest.raises(LakeFileDamaged, match=re.escape(str(path))):
            copy.read("book_1s", SYMBOL, 0, 2**45)
    path.unlink()
    with pytest.raises(LakeFileMissing, match=re.escape(str(path))):
        copy.read("book_1s", SYMBOL, 0, 2**45)
    assert len(copy.read("book_1s", SYMBOL, 0, DAY + 2 * DAY_MS).collect()) == 2 * 144


def test_a_manifest_that_is_none_or_of_another_day_is_refused(copy: LakeReader) -> None:
    path = copy.day_dir("book_1s", SYMBOL, DAYS[0]) / MANIFEST
    for content in (b"", b"{}", path.read_bytes()[:-9], path.read_bytes().replace(b"11-15", b"11-16"), b"\xff"):
        path.write_bytes(content)
        with pytest.raises(LakeFileDamaged, match=MANIFEST):
            whole(copy)


def test_a_day_that_was_not_exported_is_no_empty_day(copy: LakeReader) -> None:
    shutil.rmtree(copy.day_dir("book_1s", SYMBOL, DAYS[1]))
    with pytest.raises(NotInLake, match=DAYS[1]):
        whole(copy)
    with pytest.raises(NotInLake, match="NOPEUSDT"):
        copy.read("trade", "NOPEUSDT", 0, 1)
    with pytest.raises(UnknownDataset, match="snapshot") as refusal:
        copy.days("snapshot", SYMBOL)
    assert "book_1s" in refusal.value.hint


def test_retention_may_rely_on_nothing_but_what_the_lake_gives_back_now(held: MarketStore, copy: LakeReader) -> None:
    def until(dataset: str, until_ms: int = NOW) -> int:
        return verified_until(held, copy, dataset, SYMBOL, until_ms)

    assert [until(name) for name in DATASETS if name != "candle"] == [NOW] * 4
    assert until("trade", DAY + DAY_MS + 1) == DAY + DAY_MS
    shutil.rmtree(copy.day_dir("trade", SYMBOL, DAYS[1]))
    assert until("trade") == DAY + DAY_MS
    manifest = copy.manifest("book_1s", SYMBOL, DAYS[0])
    assert manifest is not None
    os.truncate(copy.file(manifest), manifest.bytes - 1)
    assert until("book_1s") == DAY
    row = held.read(BOOK_SNAPSHOT, SYMBOL, DAY, NOW).filter(pl.col("time_ms") >= DAY + 2 * DAY_MS).head(1)
    at_ms = row["time_ms"][0]
    held.write(BOOK_SNAPSHOT, SYMBOL, row.with_columns(last_update_id=5), at_ms, at_ms + 1, recorded_at_ms=NOW)
    assert until("book_snapshot") == DAY + 2 * DAY_MS, "a row that changed since is not in the lake"
    export_day(held, copy, "book_snapshot", SYMBOL, DAYS[2], NOW)
    assert until("book_snapshot") == NOW


@given(st.text(min_size=1, max_size=32), st.text(min_size=1, max_size=32))
def test_a_symbol_has_a_path_of_its_own_that_any_file_system_takes(one: str, other: str) -> None:
    name = f"symbol={slug(one)}"
    assert name.isascii() and "/" not in name and len(name) < 255
    assert (slug(one) == slug(other)) == (one == other)
