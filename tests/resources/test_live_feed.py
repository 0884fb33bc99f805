"""A day that was streamed is the day that is rebuilt from the journal, row for row."""

import asyncio
import math
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg
import numpy as np
import polars as pl
import pytest

from resources import live_tap, live_writer
from resources.binance import BinanceRest
from resources.book_feed import BookFeed
from resources.collector import Collector
from resources.journal import TradeJournal
from resources.live import LiveStreams, Teller
from resources.live_feed import LiveFeed
from resources.live_store import Gathered, Outcome
from resources.live_tap import Batch, BookBatch, LiveTap
from resources.rebuild import compared
from resources.simulator.clock import Clock
from resources.simulator.faults import FaultPlan
from resources.simulator.server import SimulatedExchange
from resources.stores import Exchange
from resources.timescale.dead_letters import DeadLetters
from resources.timescale.loop import wait
from resources.timescale.store import MarketStore
from resources.timescale.tables import BOOK_1S, BOOK_SNAPSHOT, CANDLE, CANDLE_1S, INDICATOR, TRADE
from tests.databases import beside
from tests.faults.proxy import Proxy, proxy
from tests.resources.live_home import differing, rebuild, redis
from tests.resources.simulated import Exchange as Served
from tests.resources.simulated import exchange, synthetic
from trading.market.book import BookSnapshot
from trading.market.timeframe import DAY_MS, HOUR_MS, SECOND_MS, Timeframe
from trading.market.trade import AggTrade, trades_frame
from trading.stream.book_recorder import BookRecord
from trading.stream.collector import Pending
from trading.stream.contiguity import IdRange, Ledger, united

SOAK = bool(os.environ.get("SOAK"))
NAME = "BTCUSDT"
MIDNIGHT = 1_760_000_040_000 // DAY_MS * DAY_MS + DAY_MS
DAY = MIDNIGHT - DAY_MS
BEGIN = MIDNIGHT - (24 if SOAK else 1) * HOUR_MS
END = MIDNIGHT + HOUR_MS // 2 + 10 * SECOND_MS
SPEED = 400.0 if SOAK else 1_800.0
"""Fast, and yet every bar closes in a batch of its own or nearly so."""

FAULTS = FaultPlan(seed=5, drop=0.01, duplicate=0.02, reorder=0.02, disconnect=0.0005)


@pytest.fixture
def redis_url(tmp_path: Path) -> Iterator[str]:
    with redis(tmp_path / "redis") as url:
        yield url


async def streamed(
    journal: TradeJournal,
    trades: Served,
    books: Served,
    dsn: str,
    url: str,
    folder: Path,
    **patience: float,
) -> dict[str, object]:
    """Collect the market with the live path beside, until both are done."""
    rest, of_books = BinanceRest(trades.http), BinanceRest(books.http)
    try:
        instruments = await rest.instruments((NAME,), "sim")
        tap = LiveTap(journal, instruments)
        collector = Collector(journal, rest, trades.ws, instruments, {NAME: (BEGIN, END)}, tap=tap, clock_ms=BEGIN)
        collector.beside(BookFeed(journal, of_books, books.ws, instruments, every_ms=1_000, tap=tap))
        letters = DeadLetters(folder)
        feed = LiveFeed(
            tap, instruments, lambda: MarketStore(dsn, "sim", **patience), url, journal.ledger, letters, reach_ms=DAY_MS
        )
        feed.start()
        await collector.run()
        await feed.stop(30)
        return feed.status() | {"books": collector.status()["books"]}
    finally:
        await rest.close()
        await of_books.close()


@contextmanager
def stores(market: MarketStore, folder: Path) -> Iterator[tuple[str, MarketStore, TradeJournal]]:
    """Yield the URL of an empty database, the database, and an empty journal."""
    with beside(market) as dsn, MarketStore(dsn, "sim") as store, TradeJournal.write(folder / "journal") as journal:
        yield dsn, store, journal


@contextmanager
def standing_at(moment_ms: int) -> Iterator[Exchange]:
    """Yield the same market at a moment that does not pass."""
    server = SimulatedExchange(synthetic(), Clock(moment_ms, moment_ms, math.inf))
    asked = Exchange(f"http://127.0.0.1:{wait(server.start())}", "sim")
    yield asked
    asked.close()
    wait(server.stop())


async def close_for_a_while(market: MarketStore, dsn: str) -> None:
    """Cut all connections to a database and let none in for a second."""
    name = dsn.split("/")[3].partition("?")[0]
    await asyncio.sleep(1.5)
    await asyncio.to_thread(market.execute, f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
    cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = $1"
    await asyncio.to_thread(market.fetch, cut, name)
    await asyncio.sleep(1.0)
    await asyncio.to_thread(market.execute, f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')


LAST_BAR = datetime.fromtimestamp(MIDNIGHT / 1000, UTC) - timedelta(minutes=3)
SUPERSEDED = (
    "SELECT count(*) AS rows, count(*) FILTER (WHERE superseded_at < known_at) AS backwards FROM md.{table}_revision"
)
CASES = {"holes": (FAULTS, False), "calm": (None, False), "a database that is away": (None, True)}


@pytest.mark.timeout(1_800 if SOAK else 300)
@pytest.mark.parametrize("case", CASES if SOAK else ["holes"])
def test_a_streamed_day_is_the_rebuilt_one_in_every_table(
    case: str, tmp_path: Path, market: MarketStore, redis_url: str
) -> None:
    faults, away = CASES[case]

    async def play(dsn: str, journal: TradeJournal) -> dict[str, object]:
        # Books come as fast as they are read, and without faults: each would cost them minutes, as time passes here.
        async with (
            exchange(synthetic(), BEGIN, END, SPEED, faults) as trades,
            exchange(synthetic(), BEGIN, END) as books,
        ):
            closing = asyncio.create_task(close_for_a_while(market, dsn)) if away else None
            status = await streamed(journal, trades, books, dsn, redis_url, tmp_path / "dead")
            if closing is not None:
                await closing
            return status

    instrument = synthetic()[0].instrument(NAME)
    with (
        beside(market) as live_dsn,
        beside(market) as rebuilt_dsn,
        MarketStore(live_dsn, "sim") as live,
        MarketStore(rebuilt_dsn, "sim") as rebuilt,
        TradeJournal.write(tmp_path / "journal") as journal,
    ):
        with standing_at(BEGIN) as asked:
            rebuild(live, journal, asked, instrument, DAY, BEGIN)
        status = asyncio.run(asyncio.wait_for(play(live_dsn, journal), 1_200 if SOAK else 280))
        assert not status["not_in_database"] and not status.get("refused"), status
        assert status["checks"]["checked"] and not status["checks"]["refused"], status
        with standing_at(END) as asked:
            assert rebuild(rebuilt, journal, asked, instrument, DAY, MIDNIGHT + DAY_MS) > 500
            found = differing(live, rebuilt)
            print(case, {relation: rows for relation, (rows, _) in found.items()}, status)
            different = {relation: only for relation, (_, only) in found.items() if only}
            print(*(f"{relation}: {row}" for relation, only in different.items() for row in only), sep="\n")
            assert not different, list(different)
            assert all(rows for rows, _ in found.values()), "each relation has rows"
            for table in (CANDLE, CANDLE_1S, INDICATOR, BOOK_SNAPSHOT, BOOK_1S):
                # A rebuild has nothing to correct; live, what a hole made of a bar is kept beside what became of it.
                kept, none = (market.fetch(SUPERSEDED.format(table=table.name)) for market in (live, rebuilt))
                assert none[0]["rows"] == 0, table.name
                assert kept[0]["rows"] == 0 or case != "calm", table.name
                assert kept[0]["backwards"] == 0, table.name
            assert not [found for found in compared(live, journal, NAME, DAY) if found.differing]
            live.execute("UPDATE md.candle SET high = high + 1 WHERE timeframe = '3m' AND open_time = $1", LAST_BAR)
            (wrong,) = [found for found in compared(live, journal, NAME, DAY) if found.differing]
            assert (wrong.asset, wrong.differing, wrong.first_ms) == ("candles_3m", 1, LAST_BAR.timestamp() * 1000)
            live.execute("UPDATE md.candle SET high = high - 1 WHERE timeframe = '3m' AND open_time = $1", LAST_BAR)
            assert rebuild(live, journal, asked, instrument, DAY, MIDNIGHT + DAY_MS) == 0, (
                "assets find nothing to change"
            )


def test_a_trade_that_is_not_stored_is_counted_and_from_then_on_nothing_is_claimed(
    tmp_path: Path, market: MarketStore
) -> None:
    instrument, began = synthetic()[0].instrument(NAME), MIDNIGHT

    def trades(first: int, price: int) -> pl.DataFrame:
        return trades_frame([AggTrade(n, price, 1, n, n, began + n, False) for n in range(first, first + 10)])

    async def test(store: MarketStore, journal: TradeJournal) -> None:
        tap, came = LiveTap(journal, [NAME]), trades(0, 5)
        feed = LiveFeed(
            tap,
            {NAME: instrument},
            lambda: store,
            "redis://127.0.0.1:1",
            lambda _: [],
            DeadLetters(tmp_path / "dead"),
        )
        feed._loop.close()  # it is not started
        writer = feed._writer
        writer._market = store
        for frame in (came, trades(10, 0), trades(20, 5)):
            came = pl.concat([came, frame]).unique("agg_trade_id", keep="first", maintain_order=True)
            writer._gathered[NAME].add(TRADE, frame, began + 1_000)
            writer._gathered[NAME].prove([IdRange(0, came["agg_trade_id"][-1], began, began + len(came))], came, began)
            await writer._store()
        status = feed.status()
        assert (status["refused"], status["checks"]["refused"]) == (10, {"trade not_positive": 10})
        assert store.trade_coverage(NAME) == [IdRange(0, 9, began, began + 10)]
        assert store.counts(TRADE) == {"": 20}

    with stores(market, tmp_path) as (_, store, journal):
        store.register([instrument])
        asyncio.run(test(store, journal))


def test_books_that_find_no_room_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_tap, "MOST_WAITING", 7)
    monkeypatch.setattr(live_writer, "MOST_BOOKS", 5)
    instrument = synthetic()[0].instrument(NAME)

    def books(first: int, count: int) -> list[BookRecord]:
        sides = np.array([[99, 5]]), np.array([[120, 5]])
        return [BookRecord(True, BookSnapshot(BEGIN + SECOND_MS * n, n, *sides)) for n in range(first, first + count)]

    async def test(journal: TradeJournal) -> None:
        tap = LiveTap(journal, [NAME])
        tap.wake = lambda: None
        nowhere, letters = "redis://127.0.0.1:1", DeadLetters(tmp_path / "dead")
        feed = LiveFeed(tap, {NAME: instrument}, lambda: MarketStore("", "sim"), nowhere, lambda _: [], letters)
        feed._loop.close()  # it is not started
        teller = Teller(LiveStreams(nowhere), feed.statistics)
        tap.books({NAME: books(0, 6)}, BEGIN)
        for batch in tap.take():
            assert isinstance(batch, BookBatch)
            await feed._take_books(teller, batch)
        assert feed.status()["books_left"] == 0
        await feed._take_books(teller, BookBatch(NAME, books(6, 3), BEGIN))
        assert feed.status()["books_left"] == 3
        tap.books({NAME: books(9, 4)}, BEGIN)
        tap.books({NAME: books(13, 4)}, BEGIN)
        assert tap.take() == []
        assert (feed.status()["books_left"], feed.status()["overflows"]) == (3 + 8, 1)
        await teller.close()

    with TradeJournal.write(tmp_path / "journal") as journal:
        asyncio.run(test(journal))


def test_a_redis_that_accepts_and_is_silent_keeps_nothing_from_the_database(
    tmp_path: Path, market: MarketStore, redis_url: str
) -> None:
    instrument, count = synthetic()[0].instrument(NAME), 40

    def book(n: int) -> BookRecord:
        sides = np.array([[99, 5]]), np.array([[120, 5]])
        return BookRecord(True, BookSnapshot(BEGIN + SECOND_MS * n, n, *sides))

    async def test(dsn: str, journal: TradeJournal, way: Proxy, store: MarketStore) -> dict[str, object]:
        tap, url = LiveTap(journal, [NAME]), f"redis://127.0.0.1:{way.port}"
        letters = DeadLetters(tmp_path / "dead")
        feed = LiveFeed(tap, {NAME: instrument}, lambda: MarketStore(dsn, "sim"), url, lambda _: [], letters)
        feed.start()
        try:
            for n in range(count):
                tap.books({NAME: [book(n)]}, BEGIN + SECOND_MS * n)
            async with asyncio.timeout(20):
                while store.counts(BOOK_SNAPSHOT) != {"": count}:
                    await asyncio.sleep(0.1)
            way.healthy()
            async with asyncio.timeout(10):
                while not feed.statistics["told"]:
                    await asyncio.sleep(0.1)
            streams = LiveStreams(url)
            kept = [event for _, _, events in await streams.read({NAME: "0"}, 1) for event in events]
            assert {event.id for event in kept if event.kind == "book"} == {BEGIN + SECOND_MS * n for n in range(count)}
            await streams.close()
        finally:
            await feed.stop(30)
        return feed.status()

    with (
        beside(market) as dsn,
        MarketStore(dsn, "sim") as store,
        TradeJournal.write(tmp_path / "journal") as journal,
        proxy(Path(redis_url.removeprefix("unix://"))) as way,
    ):
        store.register([instrument])
        way.half_open()
        print(asyncio.run(test(dsn, journal, way, store)))


def test_a_database_that_goes_away_while_it_is_opened_is_opened_again_from_the_beginning(
    tmp_path: Path, market: MarketStore
) -> None:
    instrument = synthetic()[0].instrument(NAME)
    made = [AggTrade(n, 5, 1, n, n, BEGIN + n, False) for n in range(10)]

    async def test(dsn: str, journal: TradeJournal, store: MarketStore) -> None:
        tap, letters = LiveTap(journal, [NAME]), DeadLetters(tmp_path / "dead")
        held = await asyncpg.connect(dsn)
        await held.execute("BEGIN; LOCK TABLE md.symbol")

        def opened() -> MarketStore:
            return MarketStore(dsn, "sim", statement_s=0.3, patience_s=0.3)

        feed = LiveFeed(tap, {NAME: instrument}, opened, "redis://127.0.0.1:1", journal.ledger, letters)
        feed.start()
        await asyncio.sleep(3)
        await held.close()
        try:
            async with asyncio.timeout(20):
                while store.counts(TRADE) != {"": len(made)}:
                    await asyncio.sleep(0.1)
        finally:
            await feed.stop(30)

    with stores(market, tmp_path) as (dsn, store, journal):
        journal.append({NAME: made}, {NAME: [IdRange(0, 9, BEGIN, BEGIN + 10)]})
        asyncio.run(test(dsn, journal, store))


def test_a_bar_in_which_a_collector_was_started_anew_is_told_whole(
    tmp_path: Path, market: MarketStore, redis_url: str
) -> None:
    instrument = synthetic()[0].instrument(NAME)
    made = [AggTrade(n, 5, 1, n, n, MIDNIGHT + 10 * SECOND_MS * n, False) for n in range(8)]

    async def test(dsn: str, journal: TradeJournal) -> list[tuple[str, int]]:
        tap, streams = LiveTap(journal, [NAME]), LiveStreams(redis_url)
        letters = DeadLetters(tmp_path / "dead")
        feed = LiveFeed(tap, {NAME: instrument}, lambda: MarketStore(dsn, "sim"), redis_url, journal.ledger, letters)
        feed.start()
        arrived, ledger = {NAME: made[4:]}, {NAME: [IdRange(0, 7, MIDNIGHT, made[-1].time_ms)]}
        journal.append(arrived, ledger)
        tap.stored(Pending(arrived, ledger, {}, {}), made[-1].time_ms)
        try:
            async with asyncio.timeout(20):
                minutes = list[tuple[str, int]]()
                while not minutes:
                    for _, _, events in await streams.read({NAME: "0"}, 100):
                        bars = [event.named() for event in events if event.kind == "bar:1m"]
                        minutes += [(bar["source"], bar["trade_count"]) for bar in bars]
        finally:
            await feed.stop(30)
            await streams.close()
        return minutes

    with beside(market) as dsn, TradeJournal.write(tmp_path / "journal") as journal:
        journal.append({NAME: made[:4]}, {NAME: [IdRange(0, 3, MIDNIGHT, made[3].time_ms)]})
        assert set(asyncio.run(test(dsn, journal))) == {("trades", 6)}


UNFOUNDED = """
SELECT c.first_id, c.last_id FROM md.trade_coverage c WHERE c.last_id - c.first_id + 1 > (
    SELECT count(*) FROM md.trade t WHERE t.symbol_id = c.symbol_id AND t.agg_trade_id BETWEEN c.first_id AND c.last_id
)
"""
BETWEEN = """
SELECT first_id, last_id FROM (
    SELECT lag(last_id) OVER (PARTITION BY symbol_id ORDER BY first_id) + 1 AS first_id, first_id - 1 AS last_id
    FROM md.trade_coverage WHERE first_id <= last_id
) AS between_proofs WHERE first_id <= last_id
"""
CUT_SPEED = 300.0
CUT = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'
"""


@pytest.mark.timeout(600 if SOAK else 120)
def test_however_often_the_database_goes_away_nothing_is_proven_that_it_does_not_hold(
    tmp_path: Path, market: MarketStore, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_writer, "STORE_S", 0.05)
    monkeypatch.setattr(live_writer, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(live_writer, "LONGEST_PAUSE_S", 0.1)
    until_s = time.monotonic() + 0.6 * (END - BEGIN) / CUT_SPEED / 1000  # later on the rest can be written
    writes, write = count(1), Gathered.write

    def written(gathered: Gathered, *arguments: Any) -> Outcome:
        # On a busy machine few cuts find a write under way, so some are made here: before it, or when all is there.
        number = next(writes) if time.monotonic() < until_s else 1
        if number % 5 == 0:
            raise ConnectionResetError
        outcome = write(gathered, *arguments)
        if number % 7 == 0:
            raise ConnectionResetError
        return outcome

    monkeypatch.setattr(Gathered, "write", written)

    async def watch(dsn: str) -> None:
        watching, turn = await asyncpg.connect(dsn), 0
        try:
            while True:
                assert not await watching.fetch(UNFOUNDED)
                assert not await watching.fetch(BETWEEN)
                turn += 1
                if turn % 3 == 0 and time.monotonic() < until_s:
                    await watching.fetch(CUT)
                await asyncio.sleep(0.005)
        finally:
            await watching.close()

    async def play(dsn: str, journal: TradeJournal) -> dict[str, object]:
        async with exchange(synthetic(), BEGIN, END, CUT_SPEED) as trades, exchange(synthetic(), BEGIN, END) as books:
            watching = asyncio.create_task(watch(dsn))
            status = await streamed(journal, trades, books, dsn, redis_url, tmp_path / "dead", patience_s=0.0)
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
            return status

    with stores(market, tmp_path) as (dsn, store, journal):
        status = asyncio.run(play(dsn, journal))
        print(status)
        assert not status["not_in_database"]
        assert status["read_again"] > 2  # type: ignore[operator]
        proven = [(r.first_id, r.last_id) for r in united(store.trade_coverage(NAME))]
        assert proven == [(r.first_id, r.last_id) for r in journal.ledger(NAME)]


def test_what_gathered_after_a_loss_is_let_go_of_when_the_journal_is_read_again(
    tmp_path: Path, market: MarketStore
) -> None:
    instrument = synthetic()[0].instrument(NAME)
    made = trades_frame([AggTrade(n, 5, 1, n, n, MIDNIGHT + n, False) for n in range(20)])

    async def test(store: MarketStore, journal: TradeJournal) -> None:
        tap, letters = LiveTap(journal, [NAME]), DeadLetters(tmp_path / "dead")
        feed = LiveFeed(tap, {NAME: instrument}, lambda: store, "redis://127.0.0.1:1", lambda _: [], letters)
        feed._loop.close()  # it is not started
        writer = feed._writer
        writer._market = store
        writer.lose(NAME, MIDNIGHT)  # the first ten could not be written
        writer._asked.add(NAME)
        writer._gathered[NAME].add(TRADE, made[10:], MIDNIGHT + 20)
        writer._gathered[NAME].prove([IdRange(0, 19, MIDNIGHT, MIDNIGHT + 19)], made, MIDNIGHT)
        writer.begin(NAME, MIDNIGHT)
        writer._gathered[NAME].add(TRADE, made[:5], MIDNIGHT + 20)
        writer._gathered[NAME].prove([IdRange(0, 19, MIDNIGHT, MIDNIGHT + 5)], made[:5], MIDNIGHT)
        await writer._store()
        assert store.counts(TRADE) == {"": 5}
        assert store.trade_coverage(NAME) == [IdRange(0, 3, MIDNIGHT, MIDNIGHT + 4)]

    with stores(market, tmp_path) as (_, store, journal):
        store.register([instrument])
        asyncio.run(test(store, journal))


def test_no_bar_is_made_of_less_than_its_trades_while_the_journal_is_to_be_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instrument, ledger, asked = synthetic()[0].instrument(NAME), Ledger(), list[int]()
    made = [AggTrade(n, 5, 1, n, n, MIDNIGHT + 500 * n, False) for n in range(1_446)]
    ledger.begin(0, MIDNIGHT)

    def batch(ids: Iterable[int], since_ms: int | None = None) -> Batch:
        trades = [made[number] for number in ids]
        for trade in trades:
            ledger.take(trade)
        ranges = Ledger(ledger.ranges).ranges
        return Batch(NAME, trades, ranges, (), max(r.proven_until_ms for r in ranges), since_ms)

    async def test(journal: TradeJournal) -> None:
        tap, letters = LiveTap(journal, [NAME]), DeadLetters(tmp_path / "dead")
        nowhere = "redis://127.0.0.1:1"
        feed = LiveFeed(tap, {NAME: instrument}, lambda: MarketStore("", "sim"), nowhere, lambda _: [], letters)
        feed._loop.close()  # it is not started
        monkeypatch.setattr(feed, "_read_again", lambda _, since_ms: asked.append(since_ms))

        def given(of: Batch) -> list[int]:
            tap.clock_ms = of.clock_ms
            closed = feed._make(of, of.frame)
            return [n for c in closed if c.timeframe is Timeframe.S1 for n in c.bars["trade_count"].to_list()]

        for first in range(0, 1_440, 10):
            given(batch(n for n in range(first, first + 10) if not 19 <= n < 24))
        assert given(batch([19, 1_440])) == [], "of ten minutes ago, together with a new one"
        assert asked == [MIDNIGHT + 500 * 19]
        assert given(batch([1_441, 1_442])) == []
        again = given(batch([*range(19), 19, *range(24, 1_443)], MIDNIGHT))
        assert set(again[-10:]) == {2}
        assert given(batch(range(1_443, 1_446))) == [2, 2]

    with TradeJournal.write(tmp_path / "journal") as journal:
        asyncio.run(test(journal))
