"""What is told live is seen at once in an answer about the present, without the database."""

import asyncio
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from resources import live
from resources.data_provider import DataProvider
from resources.home import Home
from resources.live import LiveStreams
from resources.live_follower import LiveFollower
from resources.servers import Urls, process
from resources.settings import load_settings
from resources.stores import Stores
from resources.timescale.store import MarketStore
from tests.databases import beside
from tests.oracle import MINUTE, T0, TABLES, Write, bar, put, register
from tests.resources.live_home import redis, wait_for
from trading.indicators.columns import INDICATOR_SCHEMA
from trading.market.book import BookSnapshot
from trading.market.candle import candles_from_trades
from trading.market.instrument import Instrument
from trading.market.timeframe import DAY_MS, MINUTE_MS, Timeframe
from trading.market.trade import AggTrade, trades_frame
from trading.provider.book_seconds import book_seconds, book_snapshots
from trading.provider.events import LiveEvent, row_events, trade_events
from trading.provider.floor import Floor, StaleData
from trading.provider.provider import UnifiedDataProvider
from trading.stream.book_recorder import BookRecord

NAME = "BTCUSDT"
PAIR = Instrument("sim", NAME, "BTC", "USDT", 2, 5)


def test_a_follower_sees_what_was_told_before_it_came_and_each_trade_soon_after_it_is_told(tmp_path: Path) -> None:
    began_ms = int(time.time() * 1000) // MINUTE_MS * MINUTE_MS
    made = [AggTrade(n, 600 + n, 1, n, n, began_ms - 2 * MINUTE_MS + n * 1_000, False) for n in range(120)]
    bars = candles_from_trades(trades_frame(made), PAIR, Timeframe.M1, [(began_ms - 2 * MINUTE_MS, began_ms)])

    async def told(url: str) -> list[float]:
        streams, waits = LiveStreams(url), list[float]()
        await streams.publish({NAME: trade_events(NAME, made)})
        await streams.publish({NAME: row_events("bar:1m", NAME, bars.with_columns(known_at_ms=began_ms))})
        follower = LiveFollower(url, [NAME])
        follower.start()
        while len(follower.cache.get_latest_ohlcv(NAME, Timeframe.M1, 9)) < 2:
            await asyncio.sleep(0.01)
        assert follower.cache.get_latest_trades(NAME, 500)["agg_trade_id"].to_list() == list(range(120))
        for number in range(120, 320):
            trade = AggTrade(number, 700, 1, number, number, int(time.time() * 1000), False)
            sent_s = time.monotonic()
            await streams.publish({NAME: trade_events(NAME, [trade])})
            while follower.cache.get_latest_trades(NAME, 1)["agg_trade_id"].to_list() != [number]:
                await asyncio.sleep(0)
            waits.append(time.monotonic() - sent_s)
        await asyncio.to_thread(follower.stop)
        await streams.close()
        return waits

    with redis(tmp_path / "home") as url:
        waits = asyncio.run(asyncio.wait_for(told(url), 60))
    print(f"told to seen: p50 {1000 * np.median(waits):.1f} ms, p99 {1000 * np.quantile(waits, 0.99):.1f} ms")
    assert np.median(waits) < 0.1


def test_the_cache_has_what_is_stored_too_and_then_answers_the_present_alone(
    market: MarketStore, tmp_path: Path
) -> None:
    symbol, end_ms = "FOLLOWUSDT", T0 + 20 * MINUTE_MS
    register(market, symbol)
    put(market, symbol, Write(end_ms, MINUTE, {at: bar(at) for at in range(T0, end_ms, MINUTE_MS)}))
    told = bar(end_ms - MINUTE_MS, volume=7.0) | {"known_at_ms": end_ms + 1}
    corrected = pl.DataFrame([told], TABLES["candle"].schema)

    with redis(tmp_path / "home") as url:
        follower = LiveFollower(url, [symbol], market.queries())
        follower.start()
        provider = DataProvider(UnifiedDataProvider(market.queries(), lambda: end_ms + 1, cache=follower.cache))
        asyncio.run(publish(url, {symbol: row_events("bar:1m", symbol, corrected)}))
        wait_for(lambda: follower.cache.covered_from("candle", symbol, Timeframe.M1) == 0)
        answer = provider.get_inference_data(symbol, None, 0, ["1m"], limit=20)
        assert (answer.sources["ohlcv.1m"], len(answer.ohlcv[Timeframe.M1])) == ("cache", 20)
        assert answer.ohlcv[Timeframe.M1]["volume"].to_list()[-2:] == [1.0, 7.0]  # what was told is not in the database
        follower.stop()


def test_an_answer_about_the_present_grows_old_when_nothing_is_told_any_more_but_not_past_the_end_of_a_market(
    market: MarketStore, tmp_path: Path
) -> None:
    symbol, kept_ms, passed_s = "SILENTUSDT", T0 + 3 * MINUTE_MS, [1_000.0]
    bars = [bar(at) | {"known_at_ms": at + MINUTE_MS} for at in range(T0, T0 + 6 * MINUTE_MS, MINUTE_MS)]
    frame, home = pl.DataFrame(bars, TABLES["candle"].schema), Home(tmp_path / "home")

    def told(place: int) -> None:
        asyncio.run(publish(url, {symbol: row_events("bar:1m", symbol, frame[place : place + 1])}))
        deadline = time.monotonic() + 20
        while follower.clock_ms < T0 + (place + 1) * MINUTE_MS and time.monotonic() < deadline:
            time.sleep(0.01)

    def ask(stores: Stores, moment: int | None = None, floor: Floor | None = None) -> int:
        return stores.live_provider.get_inference_data(symbol, moment, 0, ["1m"], limit=3, floor=floor).as_of_ms

    with beside(market) as dsn, ExitStack() as stack:
        with redis(home.path) as url:
            going, ended = (Stores(home, load_settings(home.path, {}), stack) for _ in range(2))
            going.urls = ended.urls = Urls(dsn, "", url, "")
            register(going.market, symbol)
            put(going.market, symbol, Write(kept_ms, MINUTE, {at: bar(at) for at in range(T0, kept_ms, MINUTE_MS)}))
            follower = LiveFollower(url, [symbol], going.market.queries(), lambda: passed_s[0])
            going.follower = ended.follower = follower
            follower.start()
            stack.callback(follower.stop)
            assert ask(ended) == kept_ms
            process.launch("exchange", home.run_dir, tmp_path / "log", ["sleep", "60"], lambda: True)
            stack.callback(process.end, "exchange", home.run_dir)
            told(4)
            assert ask(going, floor=Floor(late_ms=0)) == T0 + 5 * MINUTE_MS
            passed_s[0] += 90
            assert ask(going) == T0 + 5 * MINUTE_MS + 90_000
            told(5)  # half a minute late
            assert ask(going, floor=Floor(late_ms=0)) == T0 + 5 * MINUTE_MS + 90_000
        passed_s[0] += 180
        assert ask(going, T0 + 8 * MINUTE_MS) == T0 + 8 * MINUTE_MS
        assert ask(going) == T0 + 9 * MINUTE_MS
        with pytest.raises(StaleData):
            ask(going, floor=Floor(late_ms=MINUTE_MS))
        assert ask(ended, floor=Floor(late_ms=0)) == T0 + 6 * MINUTE_MS


def test_rows_of_every_kind_come_to_the_cache_as_they_were_told_and_those_of_another_version_do_not(
    tmp_path: Path,
) -> None:
    sides = np.array([[99, 5], [98, 7]]), np.array([[120, 5]])
    records = [BookRecord(True, BookSnapshot(T0 + 100 + n * 1_000, n, *sides)) for n in range(3)]
    known = pl.lit(T0 + MINUTE_MS, pl.Int64).alias("known_at_ms")
    names = [name for name in INDICATOR_SCHEMA if name not in ("open_time", "warm", "known_at_ms")]
    measured = {"open_time": T0, **dict.fromkeys(names, 0.5), "warm": True, "known_at_ms": T0 + MINUTE_MS}
    rows: dict[str, pl.DataFrame] = {
        "book": book_snapshots(records, PAIR).with_columns(known),
        "book:1s": book_seconds(records, PAIR).with_columns(known),
        "indicator:3m": pl.DataFrame([measured], INDICATOR_SCHEMA),
        "bar:1s": pl.DataFrame([bar(T0) | {"known_at_ms": T0 + MINUTE_MS}], TABLES["candle"].schema),
        "trade": trades_frame([AggTrade(1, 700, 1, 1, 1, T0, False)]),
    }
    events = [event for kind, frame in rows.items() for event in row_events(kind, NAME, frame)]
    older = [LiveEvent("book:1s", NAME, T0, T0, (T0, 1.0)), LiveEvent("rumour", NAME, T0, T0, (1,))]
    with redis(tmp_path / "home") as url:
        follower = LiveFollower(url, [NAME])
        follower.start()
        asyncio.run(publish(url, {NAME: [*older, *events]}))
        wait_for(lambda: follower.clock_ms == max(event.time_ms for event in events))
        held = {
            "book": follower.cache.frame("book_snapshot", NAME),
            "book:1s": follower.cache.frame("book_1s", NAME),
            "indicator:3m": follower.cache.frame("indicator", NAME, Timeframe.M3),
            "bar:1s": follower.cache.frame("candle_1s", NAME),
            "trade": follower.cache.frame("trade", NAME),
        }
        follower.stop()
    for kind, frame in rows.items():
        assert held[kind].equals(frame), kind


def test_what_was_told_long_before_a_follower_came_is_old_to_it(tmp_path: Path) -> None:
    with redis(tmp_path / "home") as url:
        trade = AggTrade(1, 700, 1, 1, 1, T0, False)
        asyncio.run(publish(url, {NAME: trade_events(NAME, [trade])}))
        time.sleep(0.5)
        follower = LiveFollower(url, [NAME], monotonic=lambda: 0.0)
        assert follower.present_ms() == 0
        follower.start()
        while not follower.clock_ms:
            time.sleep(0.01)
        assert T0 + 400 < follower.present_ms() < T0 + 20_000
        follower.stop()


def test_a_stream_stays_short_while_redis_s_clock_is_behind_its_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "MOST_ENTRIES", 200)
    monkeypatch.setattr(live, "BOUND_S", 0.0)

    async def told(url: str) -> int:
        streams = LiveStreams(url)
        tomorrow_ms = int(time.time() * 1000) + DAY_MS  # told before the clock was set back
        await streams._client.xadd(live.PREFIX + NAME, {live.FIELD: b"\x90"}, f"{tomorrow_ms}-0")
        for number in range(1_000):
            trade = AggTrade(number, 700, 1, number, number, T0, False)
            await streams.publish({NAME: trade_events(NAME, [trade])})
        length = await streams._client.xlen(live.PREFIX + NAME)
        await streams.close()
        return length

    with redis(tmp_path / "home") as url:
        assert 200 <= asyncio.run(told(url)) <= 400


async def publish(url: str, events: dict[str, list[LiveEvent]]) -> None:
    streams = LiveStreams(url)
    await streams.publish(events)
    await streams.close()
