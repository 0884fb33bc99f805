"""The way of rows into a real database: what was acknowledged is there or in a dead letter, and nothing else is lost."""

import asyncio
import json
import resource
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import numpy as np
import polars as pl
import pytest

from resources.live_store import Gathered, Outcome
from resources.timescale.backend import Partitions
from resources.timescale.dead_letters import DeadLetters, LetterDamaged, replay
from resources.timescale.ingestion import DataIngestionPipeline
from resources.timescale.quarantine import RefusedRows
from resources.timescale.store import MarketStore
from resources.timescale.tables import BOOK_1S, BOOK_SNAPSHOT, CANDLE, CANDLE_1S, TRADE
from tests.databases import beside
from trading.market.book import BookSnapshot
from trading.market.candle import CANDLE_SCHEMA
from trading.market.instrument import Instrument
from trading.market.timeframe import MINUTE_MS, Timeframe
from trading.market.trade import AggTrade, trades_frame
from trading.provider.book_seconds import book_seconds, book_snapshots
from trading.provider.book_tops import VOLUMES
from trading.provider.cache import DataCacheManager
from trading.provider.pipeline import Batch, Buffers, PipelineFull, PipelineStopped, Series
from trading.provider.validation import DataValidator, RefusedRow
from trading.stream.book_recorder import BookRecord
from trading.stream.contiguity import IdRange

T0 = 1_760_000_040_000
NOW = T0 + 10**9
SYMBOLS = ("BTCUSDT", "ETHUSDT")


@pytest.fixture(scope="module")
def server(market: MarketStore) -> Iterator[str]:
    """A database of its own, whose bars of volume 13 its server refuses and no validator does."""
    with beside(market) as dsn:
        with MarketStore(dsn, "sim") as store:
            store.register([Instrument("sim", name, name[:3], "USDT", 2, 5) for name in SYMBOLS])
            store.execute("ALTER TABLE md.candle ADD CONSTRAINT unlucky CHECK (volume <> 13)")
            # The stream proves trades since 1970, so that what comes is known since it came.
            store.execute(
                "INSERT INTO md.trade_range SELECT symbol_id, 1, 2, 'complete', 'websocket', to_timestamp(0), "
                "to_timestamp(1) FROM md.symbol"
            )
        yield dsn


@pytest.fixture
def store(server: str) -> Iterator[MarketStore]:
    with MarketStore(server, "sim") as opened:
        names = "candle, candle_revision, candle_1s, candle_1s_revision, trade, book, book_second, trade_coverage, day"
        if isinstance(opened._storage, Partitions):
            opened.execute("TRUNCATE md.candle_rollup")
        opened.execute("TRUNCATE " + ", ".join(f"md.{name}" for name in names.split(", ")))
        yield opened


@pytest.fixture
def letters(tmp_path: Path) -> DeadLetters:
    return DeadLetters(tmp_path / "dead")


def bars(count: int, first: int = 0, **columns: Any) -> pl.DataFrame:
    numbers = np.arange(first, first + count)
    values = {
        "open_time": T0 + MINUTE_MS * numbers,
        **dict.fromkeys(("open", "high", "low", "close"), 100.0 + numbers % 7),
        "volume": 1.0 + numbers % 5,
        **dict.fromkeys(("quote_volume", "trade_count", "first_agg_trade_id", "last_agg_trade_id"), None),
        "source": "kline",
        "complete": True,
        "n_present": 1,
        "n_expected": 1,
        "known_at_ms": None,
    }
    return pl.DataFrame(values | columns, schema_overrides=CANDLE_SCHEMA, strict=False).select(list(CANDLE_SCHEMA))


def trades(count: int) -> list[AggTrade]:
    return [AggTrade(n, 5_000_000 + n, 10, n, n, T0 + 10 * n, n % 2 == 0) for n in range(count)]


@asynccontextmanager
async def ingesting(
    store: MarketStore, letters: DeadLetters, clock: Callable[[], int] = lambda: NOW, **options: Any
) -> AsyncIterator[DataIngestionPipeline]:
    checks = DataValidator((*SYMBOLS, "NEWUSDT"), clock)
    async with DataIngestionPipeline(store, letters, clock, checks, **options) as pipeline:
        yield pipeline


def run(test: Coroutine[Any, Any, Any]) -> None:
    asyncio.run(asyncio.wait_for(test, 60))


def read(store: MarketStore, symbol: str = "BTCUSDT", known_by_ms: int | None = None) -> pl.DataFrame:
    return store.read(CANDLE, symbol, T0, NOW, Timeframe.M1, known_by_ms=known_by_ms)


def sent_again(store: MarketStore, letters: DeadLetters) -> tuple[int, int]:
    """Send all dead letters again; return how many letters lost rows, and rows that are left."""
    done = list(replay(store, letters))
    return sum(one.left < one.letter.rows for one in done), sum(one.left for one in done)


def same(found: pl.DataFrame, wanted: pl.DataFrame) -> bool:
    return found.drop("known_at_ms").equals(wanted.drop("known_at_ms"))


def test_rows_of_each_kind_are_seen_at_once_and_stored_when_acknowledged(
    store: MarketStore, letters: DeadLetters
) -> None:
    cache = DataCacheManager(lambda: NOW)
    books = [
        {
            "time_ms": T0 + 1000 * n,
            "last_update_id": n,
            "bid_price": [99.0 - level for level in range(n % 3)],
            "bid_quantity": [1.0] * (n % 3),
            "ask_price": [100.0],
            "ask_quantity": [2.0],
        }
        for n in range(10)
    ]

    async def test() -> None:
        async with ingesting(store, letters, cache=cache) as pipeline:
            for trade in trades(50):
                taken = await pipeline.ingest_trade("BTCUSDT", trade)
            assert cache.get_latest_trades("BTCUSDT", 9).equals(trades_frame(trades(50)[-9:]))
            await pipeline.acknowledged(taken)
            assert len(store.read(TRADE, "BTCUSDT", T0, NOW)) == 50
            for book in books:
                await pipeline.ingest_orderbook_snapshot("ETHUSDT", book)
            for bar in bars(3).iter_rows(named=True):
                await pipeline.ingest_ohlcv_candle("BTCUSDT", Timeframe.M1, bar)
                await pipeline.ingest_ohlcv_candle("BTCUSDT", Timeframe.S1, bar)
            await pipeline.ingest(CANDLE, "ETHUSDT", bars(6_000), Timeframe.M1)
            assert cache.get_latest_ohlcv("ETHUSDT", Timeframe.M1, 5).equals(bars(5, 5_995))
            second = {"time_ms": T0, **dict.fromkeys(VOLUMES, 1.0), "snapshots": 3}
            told = pl.DataFrame([second, second | {"imbalance_1": 0.0}], schema=BOOK_1S.schema)
            await pipeline.ingest(BOOK_1S, "ETHUSDT", told)  # without a side there is no balance: the other is refused
        assert pipeline.statistics.waiting == 0
        assert pipeline.statistics.taken == pipeline.statistics.inserted == 50 + 10 + 3 + 3 + 6_000 + 1

    run(test())
    assert same(read(store, "ETHUSDT"), bars(6_000))
    assert same(store.read(CANDLE_1S, "BTCUSDT", T0, NOW), bars(3))
    found = store.read(BOOK_SNAPSHOT, "ETHUSDT", T0, NOW)
    assert found["bid_price"].to_list() == [book["bid_price"] for book in books]
    assert found["known_at_ms"].unique().to_list() == [NOW]
    assert not list(letters.letters())


def test_the_seconds_of_books_are_stored_with_them_as_if_made_of_all_at_once(
    store: MarketStore, letters: DeadLetters
) -> None:
    instruments = store.instruments()
    records = [
        BookRecord(
            n % 5 != 0, BookSnapshot(T0 + 900 * n, n, *(np.array([[side + n, 5 + n % 3]]) for side in (99, 120)))
        )
        for n in range(20)
    ]

    async def test() -> None:
        async with ingesting(store, letters, instruments=instruments) as pipeline:
            for record in records:
                await pipeline.ingest_orderbook_snapshot("BTCUSDT", record)
            late = book_snapshots(records[:1], instruments["BTCUSDT"]).row(0, named=True)
            await pipeline.ingest_orderbook_snapshot("BTCUSDT", late)

    run(test())
    found = store.read(BOOK_1S, "BTCUSDT", T0, NOW)
    wanted = book_seconds(records, instruments["BTCUSDT"]).unique("time_ms", keep="last").sort("time_ms")
    assert found.drop("known_at_ms").equals(wanted.drop("known_at_ms"))
    assert len(store.read(BOOK_SNAPSHOT, "BTCUSDT", T0, NOW)) == 20


def test_a_row_that_cannot_have_happened_is_refused_and_one_that_the_server_refuses_stands_alone(
    store: MarketStore, letters: DeadLetters
) -> None:
    unlucky = {37, 38, 4_999, 5_000}
    frame = bars(6_000, volume=[13.0 if n in unlucky else 1.0 for n in range(6_000)])

    async def test() -> None:
        async with ingesting(store, letters) as pipeline:
            with pytest.raises(RefusedRow, match="high_below_low"):
                await pipeline.ingest_ohlcv_candle("BTCUSDT", Timeframe.M1, bars(1).row(0, named=True) | {"high": 1.0})
            taken = await pipeline.ingest(CANDLE, "BTCUSDT", frame, Timeframe.M1)
            await pipeline.acknowledged(taken)
            assert (pipeline.statistics.inserted, pipeline.statistics.dead) == (5_996, 4)
            assert pipeline.statistics.troubles.keys() == {"refused_row"}

    run(test())
    assert same(read(store), frame.filter(pl.col("volume") != 13))
    kept = list(letters.letters())
    assert {letter.batch().frame["open_time"].item() for letter in kept} == {T0 + MINUTE_MS * n for n in unlucky}
    assert all("unlucky" in letter.reason and letter.recorded_at_ms == NOW for letter in kept)
    assert sent_again(store, letters) == (0, 4)
    store.execute("ALTER TABLE md.candle DROP CONSTRAINT unlucky")
    assert sent_again(store, letters) == (4, 0)
    store.execute("ALTER TABLE md.candle ADD CONSTRAINT unlucky CHECK (volume <> 13) NOT VALID")
    assert same(read(store), frame)
    assert not list(letters.letters())
    assert not store.damaged_days(CANDLE, "candles_1m", ["BTCUSDT"], Timeframe.M1), "the days' records follow"


def test_of_a_letter_that_the_server_still_refuses_in_part_only_that_part_is_left(
    store: MarketStore, letters: DeadLetters
) -> None:
    frame = bars(50, volume=[13.0 if n == 20 else 1.0 for n in range(50)])
    letters.write(Batch(Series("candle", "BTCUSDT", Timeframe.M1), frame, NOW), "not written before the stop")
    (done,) = replay(store, letters)
    assert (done.written.inserted, done.left) == (49, 1) and "unlucky" in done.reason
    (left,) = letters.letters()
    assert left.batch().frame.equals(frame[20:21]) and left.recorded_at_ms == NOW
    assert sent_again(store, letters) == (0, 1)
    assert list(letters.letters()) == [left]


def test_letters_of_one_moment_are_all_kept_in_order_whoever_writes_them(letters: DeadLetters, tmp_path: Path) -> None:
    symbols = [f"{name}USDT" for name in ("BTC", "ETH", "SOL")]
    for symbol in symbols:
        DeadLetters(tmp_path / "dead").write(Batch(Series("candle", symbol, Timeframe.M1), bars(3), NOW), "away")
    assert [letter.series.symbol for letter in letters.letters()] == symbols

    def write(number: int) -> Path:
        frame = trades_frame(trades(1)).with_columns(price=pl.lit(number + 1, pl.Int64))
        return letters.write(Batch(Series("trade", "BTCUSDT"), frame, NOW), "away")

    with ThreadPoolExecutor(4) as threads:
        assert len({*threads.map(write, range(200))}) == 200
    assert sum(1 for _ in letters.letters()) == 3 + 200


def test_rows_that_are_refused_again_and_again_lie_in_one_letter_of_when_they_last_were(letters: DeadLetters) -> None:
    series, frame = Series("candle", "BTCUSDT", Timeframe.M1), bars(3)
    for at_ms in (NOW, NOW, NOW + 5):
        letters.write(Batch(series, pl.concat([frame[:2], frame[2:]]), at_ms), "refused")
    letters.write(Batch(series, frame[:2], NOW), "refused")
    letters.write(Batch(Series("candle", "ETHUSDT", Timeframe.M1), frame, NOW), "refused")
    kept = [(letter.series.symbol, letter.rows, letter.recorded_at_ms) for letter in letters.letters()]
    assert kept == [("BTCUSDT", 2, NOW), ("ETHUSDT", 3, NOW), ("BTCUSDT", 3, NOW + 5)]


def test_a_letter_that_finds_no_room_leaves_nothing_behind(letters: DeadLetters, tmp_path: Path) -> None:
    """The rows wait, and a full disk must not fill further with each time that they are set aside in vain."""
    batch = Batch(Series("trade", "BTCUSDT"), trades_frame(trades(5_000)), 1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            letters.write(batch, "refused")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list((tmp_path / "dead").iterdir())


def test_what_is_refused_again_is_not_lost_with_the_letter_that_it_came_from(
    store: MarketStore, letters: DeadLetters, tmp_path: Path
) -> None:
    frame = bars(50, volume=[13.0 if n == 20 else 1.0 for n in range(50)])
    letters.write(Batch(Series("candle", "BTCUSDT", Timeframe.M1), frame, NOW), "not written before the stop")
    assert sent_again(store, DeadLetters(tmp_path / "dead")) == (1, 1)
    (left,) = letters.letters()
    assert left.batch().frame.equals(frame[20:21])


def test_a_file_that_is_no_letter_is_named(store: MarketStore, letters: DeadLetters, tmp_path: Path) -> None:
    (tmp_path / "dead").mkdir()
    stranger = tmp_path / "dead" / "stranger.parquet"
    bars(1).write_parquet(stranger)
    with pytest.raises(LetterDamaged, match=str(stranger)):
        list(replay(store, letters))
    stranger.write_bytes(b"PAR1")
    with pytest.raises(LetterDamaged, match=str(stranger)):
        list(replay(store, letters))


def test_what_comes_live_goes_the_same_way_and_claims_nothing_that_is_not_stored(
    store: MarketStore, letters: DeadLetters
) -> None:
    checks, ids = DataValidator(SYMBOLS, lambda: NOW), IdRange(0, 99, T0, T0 + 1_000)
    frame = bars(9, volume=[13.0 if n == 4 else 1.0 for n in range(9)])

    def write(came: pl.DataFrame, claiming: bool = True) -> Outcome:
        gathered = Gathered("BTCUSDT")
        gathered.add(TRADE, came, NOW)
        gathered.add(CANDLE, frame, NOW, Timeframe.M1)
        gathered.prove([ids], came, T0)
        return gathered.write(store, checks, letters.write, claiming)

    came = trades_frame(trades(100))
    impossible = came.with_columns(price=pl.when(pl.col("agg_trade_id") == 50).then(0).otherwise("price"))
    assert write(impossible) == (99 + 8, 2, True)
    assert same(read(store), frame.filter(pl.col("volume") != 13))
    (letter,) = letters.letters()
    assert same(letter.batch().frame, frame[4:5])
    assert checks.told["refused"] == {"trade not_positive": 1}
    assert store.trade_coverage("BTCUSDT") == []
    assert write(came, claiming=False) == (1, 1, False)
    assert store.trade_coverage("BTCUSDT") == []
    assert write(came) == (0, 1, False)
    assert store.trade_coverage("BTCUSDT") == [ids]
    assert sum(1 for _ in letters.letters()) == 1, "what is refused again lies in one letter"
    assert not store.damaged_days(TRADE, "agg_trades", ["BTCUSDT"])


def test_refused_rows_lie_in_a_file_of_bounded_size_with_their_reasons(tmp_path: Path) -> None:
    file = tmp_path / "refused" / "rows.jsonl"
    checks = DataValidator(SYMBOLS, lambda: NOW, RefusedRows(file, most_bytes=5_000))
    wrong = bars(4, high=[1.0, 200.0, float("nan"), 1.0])
    assert len(checks.candles("BTCUSDT", Timeframe.M1, wrong)) == 1
    told = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["reason"] for line in told] == ["high_below_low", "not_finite", "high_below_low"]
    assert told[0]["row"]["open_time"] == T0 and told[0]["symbol"] == "BTCUSDT"
    assert RefusedRows(file).counts() == {"candle BTCUSDT high_below_low": 2, "candle BTCUSDT not_finite": 1}
    for _ in range(30):
        checks.candles("BTCUSDT", Timeframe.M1, wrong)
    assert sum(path.stat().st_size for path in file.parent.iterdir()) < 2 * 5_000 + 2_000
    assert len(list(file.parent.iterdir())) <= 2


def test_of_refused_rows_a_torn_line_is_counted_and_hides_no_other(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    rows = RefusedRows(file)
    rows.keep("trade", "BTCUSDT", [("not_positive", {"note": "one\u2028line, \x85 too"})])
    line = file.read_bytes()
    for torn in (b'{"kind": "tra', line[: line.index(b"\xe2") + 1], bytes(10), b"12"):
        with file.open("ab") as raw:
            raw.write(torn + b"\n")
    rows.keep("trade", "BTCUSDT", [("not_positive", {})])
    assert rows.counts() == {"trade BTCUSDT not_positive": 2, "unreadable": 4}


def test_refused_rows_of_several_writers_do_not_lie_within_each_other(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"

    def of_one() -> Iterator[tuple[str, dict[str, str]]]:
        for _ in range(100):
            yield "not_finite", {"note": "x" * 1_000}
            RefusedRows(file).keep("trade", "ETHUSDT", [("not_positive", {})])

    RefusedRows(file).keep("trade", "BTCUSDT", of_one())
    told = [json.loads(line)["symbol"] for line in file.read_text().splitlines()]
    assert told == ["BTCUSDT", "ETHUSDT"] * 100


def test_of_several_writers_who_find_the_file_full_one_puts_it_away(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"

    def keep(_: int) -> None:
        RefusedRows(file, most_bytes=20_000).keep("trade", "BTCUSDT", [("not_positive", {"note": "x" * 1_000})])

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(keep, range(600)))
    # Whatever was put away twice would have taken a full file along, and left a short one before it.
    assert 20_000 < file.with_suffix(".before.jsonl").stat().st_size < 20_000 + 9 * 1_100


def test_a_batch_that_is_wrong_as_a_whole_is_not_halved_to_the_last_row(
    store: MarketStore, letters: DeadLetters
) -> None:
    frame = bars(2_000, volume=13.0)

    async def test() -> None:
        async with ingesting(store, letters) as pipeline:
            await pipeline.acknowledged(await pipeline.ingest(CANDLE, "BTCUSDT", frame, Timeframe.M1))
            assert pipeline.statistics.dead == 2_000
            assert pipeline.statistics.attempts < 300

    run(test())
    kept = pl.concat([letter.batch().frame for letter in letters.letters()])
    assert kept.equals(frame)


def test_rows_of_an_instrument_that_the_database_lacks_wait_in_a_dead_letter(
    store: MarketStore, letters: DeadLetters
) -> None:
    async def test() -> None:
        async with ingesting(store, letters) as pipeline:
            await pipeline.acknowledged(await pipeline.ingest(CANDLE, "NEWUSDT", bars(9), Timeframe.M1))
            assert pipeline.statistics.dead == 9

    run(test())
    assert sent_again(store, letters) == (0, 9)
    store.register([Instrument("sim", "NEWUSDT", "NEW", "USDT", 2, 5)])
    assert sent_again(store, letters) == (1, 0)
    assert same(read(store, "NEWUSDT"), bars(9))


def test_of_a_bar_that_is_corrected_at_once_both_versions_are_kept(store: MarketStore, letters: DeadLetters) -> None:
    clock = iter(range(NOW, NOW + 100))
    wrong, right = bars(5, volume=3.0), bars(5, volume=4.0)

    async def test() -> None:
        async with ingesting(store, letters, lambda: next(clock)) as pipeline:
            for frame in (wrong, right, right):
                for bar in frame.iter_rows(named=True):
                    await pipeline.ingest_ohlcv_candle("BTCUSDT", Timeframe.M1, bar)
        assert (pipeline.statistics.inserted, pipeline.statistics.updated) == (5, 5)

    run(test())
    assert same(read(store), right)
    corrected_ms = read(store)["known_at_ms"].max()
    assert NOW < corrected_ms < NOW + 100
    assert same(read(store, known_by_ms=corrected_ms - 1).head(5), wrong)


def test_a_dead_letter_does_not_undo_what_became_known_after_it(store: MarketStore, letters: DeadLetters) -> None:
    store.write(CANDLE, "BTCUSDT", bars(4, known_at_ms=NOW), T0, NOW, Timeframe.M1, recorded_at_ms=NOW)

    async def test() -> None:
        async with ingesting(store, letters, lambda: NOW - 1) as pipeline:
            store.execute("ALTER TABLE md.candle ADD CONSTRAINT few CHECK (volume < 5)")
            frame = bars(6, volume=9.0, known_at_ms=NOW - 1)
            await pipeline.acknowledged(await pipeline.ingest(CANDLE, "BTCUSDT", frame, Timeframe.M1))

    run(test())
    assert len(list(letters.letters())) == 6
    store.execute("ALTER TABLE md.candle DROP CONSTRAINT few")
    assert sent_again(store, letters) == (6, 0)
    assert read(store)["volume"].to_list() == [*bars(4)["volume"], 9.0, 9.0]


def test_rows_wait_out_what_nobody_foresaw(store: MarketStore, letters: DeadLetters) -> None:
    async def test() -> None:
        async with ingesting(store, letters) as pipeline:
            store.execute("ALTER TABLE md.candle RENAME TO away")
            try:
                taken = await pipeline.ingest(CANDLE, "BTCUSDT", bars(9), Timeframe.M1)
                while not pipeline.statistics.troubles:
                    await asyncio.sleep(0.02)
            finally:
                store.execute("ALTER TABLE md.away RENAME TO candle")
            await pipeline.acknowledged(taken)
            assert pipeline.statistics.troubles.keys() == {"other"}
            assert "candle" in pipeline.statistics.last_error

    run(test())
    assert same(read(store), bars(9))
    assert not list(letters.letters())


@asynccontextmanager
async def locked(dsn: str) -> AsyncIterator[None]:
    """Keep all writers waiting."""
    holder = await asyncpg.connect(dsn)
    await holder.execute("BEGIN; LOCK TABLE md.candle IN EXCLUSIVE MODE")
    try:
        yield
    finally:
        await holder.close()


def test_who_brings_more_than_may_wait_waits_or_is_refused_as_he_chose(
    store: MarketStore, letters: DeadLetters, server: str
) -> None:
    async def test() -> None:
        buffers = Buffers(most_rows=1_000, flush_rows=200)
        async with ingesting(store, letters, buffers=buffers) as pipeline:
            async with locked(server):
                await pipeline.ingest(CANDLE, "BTCUSDT", bars(900), Timeframe.M1)
                with pytest.raises(PipelineFull, match="900 rows wait"):
                    await pipeline.ingest(CANDLE, "BTCUSDT", bars(200, 900), Timeframe.M1, wait=False)
                waiting = asyncio.create_task(pipeline.ingest(CANDLE, "BTCUSDT", bars(4_000, 900), Timeframe.M1))
                await asyncio.sleep(0.5)
                assert not waiting.done()
            await pipeline.acknowledged(await waiting)
            assert pipeline.statistics.held_up > 0
            assert pipeline.statistics.most_waiting <= 1_000

    run(test())
    assert same(read(store), bars(4_900))


def test_a_stop_sets_aside_what_the_database_does_not_take_in_time(
    store: MarketStore, letters: DeadLetters, server: str
) -> None:
    frame = bars(700)

    async def test() -> None:
        async with ingesting(store, letters, buffers=Buffers(flush_rows=300)) as pipeline, locked(server):
            taken = await pipeline.ingest(CANDLE, "BTCUSDT", frame, Timeframe.M1)
            await pipeline.stop(drain_s=0.5)
            await pipeline.acknowledged(taken)
            assert pipeline.statistics.dead == 700
            with pytest.raises(PipelineStopped):
                await pipeline.ingest(CANDLE, "BTCUSDT", frame, Timeframe.M1)

    run(test())
    assert pl.concat([letter.batch().frame for letter in letters.letters()]).equals(frame)
    assert sent_again(store, letters) == (3, 0)
    assert same(read(store), frame)
    store.write(CANDLE, "BTCUSDT", frame, T0, NOW, Timeframe.M1)
    (revisions,) = store.fetch("SELECT count(*) FROM md.candle_revision")
    assert revisions[0] == 0
