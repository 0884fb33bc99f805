"""Redis goes away and comes back, with or without what it held: whoever reads the streams misses nothing."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl
import pytest

from resources import live
from resources.live import LiveStreams, Teller
from resources.live_follower import LiveFollower
from resources.subscription import LOOK_S, Subscription
from resources.timescale.store import MarketStore
from resources.timescale.tables import CANDLE
from tests.databases import beside
from tests.faults.proxy import proxy
from tests.oracle import T0, TABLES, bar, register
from tests.resources.live_home import redis, wait_for
from trading.market.timeframe import MINUTE_MS, Timeframe
from trading.provider.events import LiveEvent, row_events
from trading.stream.contiguity import IdRange

NAME = "BTCUSDT"


def bars(first: int, last: int) -> pl.DataFrame:
    opens = range(T0 + first * MINUTE_MS, T0 + last * MINUTE_MS, MINUTE_MS)
    return pl.DataFrame([bar(at) | {"known_at_ms": at + MINUTE_MS} for at in opens], TABLES["candle"].schema)


def told(first: int, last: int | None = None) -> dict[str, list[LiveEvent]]:
    return {NAME: row_events("bar:1m", NAME, bars(first, first + 1 if last is None else last))}


def minutes(events: Sequence[LiveEvent]) -> list[int]:
    return [(event.id - T0) // MINUTE_MS for event in events]


def store_bars(store: MarketStore, first: int, last: int) -> None:
    store.write(CANDLE, NAME, bars(first, last), T0 + first * MINUTE_MS, T0 + last * MINUTE_MS, Timeframe.M1)


def test_what_was_to_be_told_while_redis_was_away_is_told_first_and_what_went_with_it_again(tmp_path: Path) -> None:
    async def test() -> tuple[list[int], Counter[str]]:
        counted = Counter[str]()
        with redis(tmp_path / "home") as url:
            teller = Teller(LiveStreams(url), counted)
            for minute in range(3):
                await teller.tell(told(minute))
        for minute in range(3, 6):
            await teller.tell(told(minute))
        with redis(tmp_path / "home") as again:
            assert again == url
            reading = LiveStreams(again)
            await reading._client.flushdb()
            for _ in range(100):  # nothing new comes, and it is told all the same
                await teller.tell({})
                await asyncio.sleep(0.02)
            await teller.tell(told(6))
            heard = [event for _, _, events in await reading.read({NAME: "0"}, 100) for event in events]
            await reading.close()
            await teller.close()
        return minutes(heard), counted

    heard, counted = asyncio.run(asyncio.wait_for(test(), 60))
    assert heard == list(range(7))
    assert (counted["told"], counted["late"], counted["not_told"]) == (10, 6, 0)


def test_a_redis_that_begins_anew_unseen_is_told_again_what_it_lost_and_that_something_was_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "MOST_WAITING", 4)

    async def heard(url: str, teller: Teller, minute: int) -> list[tuple[str, int]]:
        """Return what an empty Redis holds once one more minute was told."""
        reading = LiveStreams(url)
        await reading._client.flushdb()
        await teller.tell(told(minute))
        events = [event for _, _, events in await reading.read({NAME: "0"}, 100) for event in events]
        await reading.close()
        return [(event.kind, (event.id - T0) // MINUTE_MS) for event in events]

    async def test() -> list[list[tuple[str, int]]]:
        with redis(tmp_path / "home") as url:
            teller = Teller(LiveStreams(url), Counter())
            for minute in range(3):
                await teller.tell(told(minute))
        found = []
        for minutes in ((3,), (4, 5), (6,)):
            with redis(tmp_path / "home") as url:
                for minute in minutes:
                    found.append(await heard(url, teller, minute))
        await teller.close()
        return found

    first, second, again, third = asyncio.run(asyncio.wait_for(test(), 60))
    assert first == [("bar:1m", minute) for minute in range(4)]
    assert second == [("missed", 1), *(("bar:1m", minute) for minute in range(1, 5))]
    assert again == [("bar:1m", 5)]
    assert third[0][0] == "missed" and third[-1] == ("bar:1m", 6)


def test_a_reader_turns_to_the_database_for_what_found_no_room(
    tmp_path: Path, market: MarketStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "MOST_WAITING", 2)

    async def test(url: str, port: int, interrupt: Callable[[bool], None], store: MarketStore) -> list[int]:
        counted, delivered = Counter[str](), list[LiveEvent]()
        teller, streams = Teller(LiveStreams(f"redis://127.0.0.1:{port}"), counted), LiveStreams(url)

        async def follow() -> None:
            async for event in Subscription(store, streams, [NAME], ["bar:1m"], T0).events():
                delivered.append(event)

        async def until(count: int) -> None:
            while len(delivered) < count:
                assert not following.done(), following.result()
                await asyncio.sleep(0.02)

        store_bars(store, 0, 2)
        await teller.tell(told(1))
        following = asyncio.create_task(follow())
        await teller.tell(told(2))
        await until(3)
        interrupt(True)
        for minute in range(3, 7):
            await teller.tell(told(minute))
        interrupt(False)
        while not counted["late"]:
            await teller.tell({})
            await asyncio.sleep(0.02)
        assert counted["not_told"] == 4  # two of which had been told before
        await asyncio.sleep(2 * LOOK_S)
        assert 5 not in minutes(delivered), "what was told later waits for what the database does not have yet"
        store_bars(store, 2, 7)
        store.set_trade_coverage(NAME, T0, [IdRange(0, 9, T0, T0 + 7 * MINUTE_MS)])
        await until(7)
        await teller.tell(told(7))
        await until(8)
        while not following.done():  # the client of Redis may miss that it was cancelled as an answer came
            following.cancel()
            await asyncio.sleep(0.02)
        await streams.close()
        await teller.close()
        return minutes(delivered)

    with redis(tmp_path / "home") as url, beside(market) as dsn, MarketStore(dsn, "sim") as store:
        register(store, NAME)
        with proxy(Path(url.removeprefix("unix://"))) as way:

            def interrupt(away: bool) -> None:
                way.half_open() if away else way.healthy()

            delivered = asyncio.run(asyncio.wait_for(test(url, way.port, interrupt, store), 60))
    assert delivered == list(range(8))


def test_a_cache_is_not_believed_any_more_when_something_was_missed(market: MarketStore, tmp_path: Path) -> None:
    symbol = "MISSEDUSDT"
    register(market, symbol)
    market.write(CANDLE, symbol, bars(0, 5), T0, T0 + 5 * MINUTE_MS, Timeframe.M1)

    def covered() -> int | None:
        return follower.cache.covered_from("candle", symbol, Timeframe.M1)

    def publish(*events: LiveEvent) -> None:
        async def told() -> None:
            streams = LiveStreams(url)
            await streams.publish({symbol: events})
            await streams.close()

        asyncio.run(told())

    with redis(tmp_path / "home") as url:
        follower = LiveFollower(url, [symbol], market.queries())
        follower.start()
        publish(*row_events("bar:1m", symbol, bars(4, 5)))
        wait_for(lambda: covered() == 0)
        end_ms = T0 + 9 * MINUTE_MS
        publish(LiveEvent("missed", symbol, end_ms, end_ms, ()), *row_events("bar:1m", symbol, bars(9, 10)))
        wait_for(lambda: follower.clock_ms == T0 + 10 * MINUTE_MS)
        assert covered() is None
        follower.stop()
