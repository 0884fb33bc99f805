"""History, then live: every trade once and in order across the handover, and what happens to a reader that is too slow."""

import asyncio
import os
import time
from collections.abc import Iterator

import pytest

from resources.live import LiveStreams
from resources.subscription import SlowReader, Subscription
from resources.timescale.store import MarketStore
from resources.timescale.tables import CANDLE, TRADE
from tests.databases import beside
from tests.resources.live_home import redis
from trading.market.candle import candles_from_trades
from trading.market.instrument import Instrument
from trading.market.timeframe import MINUTE_MS, Timeframe
from trading.market.trade import AggTrade, trades_frame
from trading.provider.events import LiveEvent, row_events, trade_events

SOAK = bool(os.environ.get("SOAK"))
NAME = "BTCUSDT"
PAIR = Instrument("sim", NAME, "BTC", "USDT", 2, 5)
A_SECOND = 1_000
STORED_S, LIVE_S = (60, 600) if SOAK else (3, 3)


def trades(first: int, last: int, began_ms: int) -> list[AggTrade]:
    """Return the trades of some ids; a thousand come a second."""
    return [AggTrade(n, 6_000_000 + n % 97, 1 + n % 5, n, n, began_ms + n, n % 2 == 0) for n in range(first, last)]


@pytest.fixture(scope="module")
def live_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis(tmp_path_factory.mktemp("live") / "home") as url:
        yield url


@pytest.fixture
def store(market: MarketStore) -> Iterator[MarketStore]:
    with beside(market) as dsn, MarketStore(dsn, "sim") as opened:
        opened.register([PAIR])
        yield opened


async def forget(streams: LiveStreams) -> None:
    await streams._client.flushdb()


@pytest.mark.timeout(120 + 5 * LIVE_S)
def test_across_the_handover_every_trade_comes_once_and_in_order(store: MarketStore, live_redis: str) -> None:
    """A thousand trades a second; the database is two seconds behind, and some trades are repaired a second late."""
    began_ms = int(time.time() * 1000) - STORED_S * 1000
    total = (STORED_S + LIVE_S) * A_SECOND

    async def publish(streams: LiveStreams) -> None:
        late: list[AggTrade] = []
        started_s, written = time.monotonic(), STORED_S * A_SECOND
        for first in range((STORED_S - 2) * A_SECOND, total, 25):
            batch = trades(first, first + 25, began_ms)
            if first % 1_000 == 0:
                late, batch = [*late, *batch[5:9]], batch[:5] + batch[9:]
            elif first % 1_000 == 975:
                late, batch = [], [*late, *batch]
            await streams.publish({NAME: trade_events(NAME, batch)})
            ahead_s = (first - (STORED_S - 2) * A_SECOND) / A_SECOND - (time.monotonic() - started_s)
            if first % 1_000 == 0 and first - 2 * A_SECOND > written:
                frame = trades_frame(trades(written, first - 2 * A_SECOND, began_ms))
                await asyncio.to_thread(store.write, TRADE, NAME, frame, began_ms, began_ms + total)
                written = first - 2 * A_SECOND
            await asyncio.sleep(max(0.0, ahead_s))

    async def follow() -> list[int]:
        streams, writing, delivered = LiveStreams(live_redis), LiveStreams(live_redis), list[int]()
        await forget(streams)
        store.write(TRADE, NAME, trades_frame(trades(0, STORED_S * A_SECOND, began_ms)), began_ms, began_ms + total)
        publishing = asyncio.create_task(publish(writing))
        await asyncio.sleep(1.0)
        async for event in Subscription(store, streams, [NAME], ["trade"], began_ms).events():
            delivered.append(event.id)
            if len(delivered) == total:
                break
        await publishing
        await streams.close()
        await writing.close()
        return delivered

    assert asyncio.run(asyncio.wait_for(follow(), 60 + 4 * LIVE_S)) == list(range(total))


def test_trades_that_redis_lost_come_from_the_database_and_a_stream_goes_on_where_one_ended(
    store: MarketStore, live_redis: str
) -> None:
    began_ms = int(time.time() * 1000) - 10_000

    async def follow() -> tuple[list[LiveEvent], list[LiveEvent]]:
        streams = LiveStreams(live_redis)
        await forget(streams)
        store.write(TRADE, NAME, trades_frame(trades(0, 100, began_ms)), began_ms, began_ms + 1_000)
        await streams.publish({NAME: trade_events(NAME, trades(150, 200, began_ms))})
        subscription, delivered = Subscription(store, streams, [NAME], ["trade"], began_ms), list[LiveEvent]()
        async for event in subscription.events():
            delivered.append(event)
            if event.id == 99:
                store.write(TRADE, NAME, trades_frame(trades(100, 150, began_ms)), began_ms, began_ms + 1_000)
            if event.id == 180:
                break
        again, resumed = Subscription(store, streams, [NAME], ["trade"], 0, subscription.position), list[LiveEvent]()
        async for event in again.events():
            resumed.append(event)
            if event.id == 199:
                break
        await streams.close()
        return delivered, resumed

    delivered, resumed = asyncio.run(asyncio.wait_for(follow(), 30))
    assert [event.id for event in delivered] == list(range(181))
    assert [event.id for event in resumed] == list(range(181, 200))


def test_bars_of_history_and_of_the_stream_are_one_series_and_a_bar_made_anew_is_told(
    store: MarketStore, live_redis: str
) -> None:
    began_ms = int(time.time() * 1000) // MINUTE_MS * MINUTE_MS - 10 * MINUTE_MS
    made = [AggTrade(n, 600 + n, 1, n, n, began_ms + n * 10_000, False) for n in range(6 * 8)]
    bars = candles_from_trades(trades_frame(made), PAIR, Timeframe.M1, [(began_ms, began_ms + 8 * MINUTE_MS)])
    events = row_events("bar:1m", NAME, bars)

    async def follow() -> list[LiveEvent]:
        streams = LiveStreams(live_redis)
        await forget(streams)
        store.write(CANDLE, NAME, bars[:5], began_ms, began_ms + 5 * MINUTE_MS, Timeframe.M1)
        revised = row_events("bar:1m", NAME, bars[6:7].with_columns(volume=9.0))
        await streams.publish({NAME: events[3:]})
        await streams.publish({NAME: revised})
        told = list[LiveEvent]()
        async for event in Subscription(store, streams, [NAME], ["bar:1m"], began_ms).events():
            told.append(event)
            if event.kind == "revision:1m":
                break
        await streams.close()
        return told

    *told, revision = asyncio.run(asyncio.wait_for(follow(), 30))
    assert [event.id for event in told] == bars["open_time"].to_list()
    assert (revision.id, revision.payload[5]) == (bars["open_time"][6], 9.0)


def test_a_slow_reader_is_told_so_with_the_place_to_go_on_from(store: MarketStore, live_redis: str) -> None:
    began_ms = int(time.time() * 1000)

    async def follow() -> str:
        streams = LiveStreams(live_redis)
        await forget(streams)
        await streams.publish({NAME: trade_events(NAME, trades(0, 10, began_ms))})
        with pytest.raises(SlowReader, match="behind the live stream of BTCUSDT") as slow:
            async for event in Subscription(store, streams, [NAME], ["trade"], began_ms, most_lag_s=1.0).events():
                if event.id == 0:
                    await asyncio.sleep(1.5)
                    await streams.publish({NAME: trade_events(NAME, trades(10, 20, began_ms))})
        await streams.close()
        return slow.value.resume

    assert asyncio.run(asyncio.wait_for(follow(), 30)) == "BTCUSDT/trade=9"
