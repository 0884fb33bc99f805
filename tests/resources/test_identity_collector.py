"""What Bybit's and Hyperliquid's streams bring is kept once, and what they do not bring is named and never called whole."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rocksdict import Options, Rdict

from resources import identity_collector
from resources.bybit import BybitRest
from resources.hyperliquid import HyperliquidRest
from resources.identity_collector import IdentityCollector
from resources.identity_journal import IdentityJournal
from resources.rocksdb import JournalFormat, control_socket
from tests.identity_venue import VENUES, Bybit, Hyperliquid, Print, Venue
from tests.recorded import recorded
from trading.market.instrument import Instrument
from trading.stream import bybit, hyperliquid
from trading.stream.identities import Stretch

FOREVER_MS = 10**13 - 1
Names = ("bybit", "hyperliquid")


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("BATCH_S", 0.05), ("FIRST_LIST_S", 0.05), ("GRACE_S", 0.3)):
        monkeypatch.setattr(identity_collector, name, seconds)
    monkeypatch.setattr("trading.stream.backoff.FIRST_S", 0.1)


@asynccontextmanager
async def collecting(folder: Path, venue: Venue, **options: Any) -> AsyncIterator[IdentityCollector]:
    """Collect all markets of the venue's recording in this process until the end of the block."""
    names = sorted({p.name for p in prints_of(venue)})
    one = isinstance(venue.form, Bybit)
    rest = BybitRest(venue.rest_url) if one else HyperliquidRest(venue.rest_url)
    dialect = bybit.DIALECT if one else hyperliquid.DIALECT
    dialect = msgspec.structs.replace(dialect, ping_s=options.pop("ping_s", dialect.ping_s))
    with IdentityJournal.write(folder, 5) as journal:
        instruments = await rest.instruments(names)
        collector = IdentityCollector(journal, rest, dialect, venue.ws_url, instruments, **options)
        running = asyncio.create_task(collector.run())
        try:
            await until(lambda: venue.subscribed(*names) or venue.socket_refuses or running.done())
            yield collector
        finally:
            collector.stop()
            await running
            await rest.close()


async def until(holds: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.02)


def prints_of(venue: Venue) -> list[Print]:
    return VENUES["bybit" if isinstance(venue.form, Bybit) else "hyperliquid"][1]()


def listening(collector: IdentityCollector) -> set[str]:
    return {name for name, symbol in collector.status()["symbols"].items() if symbol["listening"]}


def assert_true(folder: Path, happened: list[Print]) -> int:
    """Check that the journal has each trade once and as it was, and names where one lacks; return how many lack."""
    absent = 0
    with IdentityJournal.read(folder) as journal:
        for name, instrument in journal.instruments().items():
            market = {p.trade_id: p for p in happened if p.name == name}
            trades = journal.trades(name, 0, FOREVER_MS)
            assert len({t.trade_id for t in trades}) == len(trades)
            for trade in trades:
                said = market[trade.trade_id]
                assert (trade.price, trade.quantity) == (instrument.ticks(said.price), instrument.lots(said.quantity))
                assert (trade.time_ms, trade.buyer_is_maker) == (said.time_ms, said.taker_sold)
            stretches = journal.stretches(name)
            assert {stretch.state for stretch in stretches} <= {"unproven", "missing"}
            held = {trade.trade_id for trade in trades}
            for lacking in (p for p in market.values() if p.trade_id not in held):
                absent += 1
                (found,) = [s for s in stretches if s.from_ms <= lacking.time_ms < s.until_ms] or [None]
                edge = stretches and lacking.time_ms in (stretches[0].from_ms, stretches[-1].until_ms - 1)
                assert found is None or found.state == "missing" or edge
    return absent


@pytest.mark.parametrize("name", Names)
def test_recorded_trades_are_kept_once_through_cuts_and_repeats(tmp_path: Path, name: Any) -> None:
    form, prints = VENUES[name]
    chance = random.Random(7)

    async def collect() -> None:
        async with collecting(tmp_path, venue) as collector:
            left = list(recording)
            while left:
                part = chance.randrange(1, 9)
                venue.bring(left[:part], chance.randrange(1, 3))
                del left[:part]
                if chance.random() < 0.4:
                    venue.cut()
                    venue.bring(left[:4])  # nobody hears these
                    del left[:4]
                    await until(lambda: venue.subscribed(recording[0].name))
            await until(lambda: collector.status()["trades"] == len(recording))
        assert collector.statistics["reconnects"] > 3

    recording = prints()
    with Venue(form()).serving() as venue:
        asyncio.run(collect())
        assert assert_true(tmp_path, venue.happened) == 0


@pytest.mark.parametrize("name", Names)
def test_a_break_that_no_list_bridges_is_named_and_stays_named(tmp_path: Path, name: Any) -> None:
    form, prints = VENUES[name]

    async def collect() -> None:
        async with collecting(tmp_path, venue) as collector:
            venue.bring(recording[:30])
            await until(lambda: collector.status().get("trades") == 30)
            venue.reach, venue.socket_refuses = 1, True
            venue.cut()
            venue.bring(recording[30:60])
            venue.socket_refuses = False
            await until(lambda: venue.subscribed(market))
            venue.bring(recording[60:])
            await until(lambda: collector.status()["symbols"][market]["newest_ms"] == last_ms)

    async def listen_again() -> None:
        async with collecting(tmp_path, venue):
            pass

    with Venue(form()).serving() as venue:
        recording = prints()
        market = recording[-1].name
        last_ms = recording[-1].time_ms
        asyncio.run(collect())
        lacking = assert_true(tmp_path, venue.happened)
        assert lacking > 5
        with IdentityJournal.read(tmp_path) as journal:
            before = journal.stretches(market)
        assert [s.state for s in before].count("missing") >= 1
        asyncio.run(listen_again())
        assert assert_true(tmp_path, venue.happened) == lacking


def test_a_stream_that_leaves_out_one_market_costs_the_connection_and_the_list_brings_it(tmp_path: Path) -> None:
    async def collect() -> None:
        async with collecting(tmp_path, venue, look_s=0.2) as collector:
            venue.bring(recording[:40], 1)
            await until(lambda: collector.status().get("trades") == 40)
            venue.stalled = {"LTCUSDT"}
            venue.bring(recording[40:80])
            await until(lambda: collector.status().get("unheard", 0) > 0)
            venue.stalled = set()
            await until(lambda: venue.subscribed("LTCUSDT"))
            venue.bring(recording[80:])
            await until(lambda: collector.status()["trades"] == len(recording))
            assert collector.statistics["reconnects"] >= 1

    with Venue(Bybit()).serving() as venue:
        recording = prints_of(venue)
        asyncio.run(collect())
        assert assert_true(tmp_path, venue.happened) == 0


@pytest.mark.parametrize("name", Names)
def test_a_damaged_frame_interrupts_until_a_list_brings_what_it_held(tmp_path: Path, name: Any) -> None:
    form, prints = VENUES[name]

    async def collect() -> None:
        async with collecting(tmp_path, venue) as collector:
            venue.bring(recording[:40])
            await until(lambda: collector.status().get("trades") == 40)
            venue.mute = True
            venue.bring(recording[40:45])
            venue.mute = False
            venue.say(venue.form.frame(recording[40:45])[:-20])
            await until(lambda: collector.status()["trades"] == 45)
            venue.bring(recording[45:])
            await until(lambda: collector.status()["trades"] == len(recording))
            assert collector.status()["bad_frames"] == {"not_json": 1}
            before = listening(collector)
            venue.say('{"topic":"orderbook.1.X","data":{},"channel":"l2Book"}')
            await until(lambda: collector.status()["bad_frames"].get("unknown_event"))
            assert before and listening(collector) == before

    with Venue(form()).serving() as venue:
        recording = prints()
        asyncio.run(collect())
        assert assert_true(tmp_path, venue.happened) == 0
    with IdentityJournal.read(tmp_path) as journal:
        assert sorted(reason.split(":")[0] for reason, _ in journal.quarantined()) == [
            "bad frame, not_json",
            "bad frame, unknown_event",
        ]


@pytest.mark.parametrize("name", Names)
def test_a_binary_message_is_kept_aside_and_a_list_brings_what_it_held(tmp_path: Path, name: Any) -> None:
    form, prints = VENUES[name]

    async def collect() -> None:
        async with collecting(tmp_path, venue) as collector:
            venue.bring(recording[:40])
            await until(lambda: collector.status().get("trades") == 40)
            venue.mute = True
            venue.bring(recording[40:41])
            venue.mute = False
            venue.say(frame)
            await until(lambda: collector.status()["bad_frames"] == {"unexpected_binary": 1})
            await until(lambda: collector.status()["trades"] == 41)
            venue.bring(recording[41:])
            await until(lambda: collector.status()["trades"] == len(recording))
            assert collector.statistics["reconnects"] == 0

    with Venue(form()).serving() as venue:
        recording = prints()
        frame = venue.form.frame(recording[40:41]).encode()
        asyncio.run(collect())
        assert assert_true(tmp_path, venue.happened) == 0
    with IdentityJournal.read(tmp_path) as journal:
        assert journal.quarantined() == [(f"bad frame, unexpected_binary: {len(frame)} bytes", frame)]


def test_told_to_stop_a_collector_answers_and_ends(tmp_path: Path) -> None:
    async def collect() -> None:
        async with collecting(tmp_path, venue):
            reader, writer = await asyncio.open_unix_connection(str(control_socket(tmp_path)))
            writer.write(b"stop\n")
            assert await reader.readline() == b"ok\n"
            writer.close()

    with Venue(Hyperliquid()).serving() as venue:
        asyncio.run(collect())


def test_pings_keep_a_quiet_connection_and_without_an_answer_it_is_lost(tmp_path: Path) -> None:
    async def collect() -> None:
        async with collecting(tmp_path, venue, ping_s=0.1) as collector:
            await until(lambda: venue.pings > 5)
            assert (venue.connections, collector.status().get("stalls", 0)) == (1, 0)
            venue.mute = True
            await until(lambda: collector.status().get("stalls", 0) > 0)
            venue.mute = False
            await until(lambda: venue.connections > 1)
            connections = venue.connections
            await asyncio.sleep(0.5)
            assert venue.connections <= connections + 1

    with Venue(Hyperliquid()).serving() as venue:
        asyncio.run(collect())


@pytest.mark.parametrize("reach", [1, 1000])
@pytest.mark.parametrize("damaged", ["one", "all"])
def test_a_damaged_batch_is_set_aside_and_its_second_is_missing_until_a_list_brings_it(
    tmp_path: Path, reach: int, damaged: str
) -> None:
    async def collect(prints: list[Print]) -> None:
        async with collecting(tmp_path, venue):
            venue.bring(prints)
            await asyncio.sleep(0.5)

    with Venue(Hyperliquid()).serving() as venue:
        recording = prints_of(venue)
        asyncio.run(collect(recording[:80]))
        live = Rdict(str(tmp_path / "live"), Options(raw_mode=True))
        batches = live.get_column_family("trades")
        keys = list(batches.keys())
        for key in keys[1:2] if damaged == "one" else keys:
            batches[key] = batches[key][:-1] + b"?"
        batches.close()
        live.close()
        venue.reach = reach
        asyncio.run(collect(recording[80:]))
        assert (assert_true(tmp_path, venue.happened) > 0) == (reach == 1)
    with IdentityJournal.read(tmp_path) as journal:
        assert len(journal.quarantined()) == (1 if damaged == "one" else len(keys))
        stretches = journal.stretches("BTC")
    assert all(before.until_ms == after.from_ms for before, after in pairwise(stretches))
    assert stretches[0].from_ms == recording[0].time_ms
    missing_ms = sum(stretch.until_ms - stretch.from_ms for stretch in stretches if stretch.state == "missing")
    assert (missing_ms > 2) == (reach == 1)  # of its first and last millisecond a list may hold a part


@pytest.mark.parametrize("name", Names)
def test_an_old_connection_is_given_up_and_the_break_is_bridged(tmp_path: Path, name: Any) -> None:
    form, prints = VENUES[name]

    async def collect() -> None:
        async with collecting(tmp_path, venue, lifetime_s=0.5) as collector:
            for at in range(0, len(recording), 4):
                venue.bring(recording[at : at + 4])
                await asyncio.sleep(0.05)
            await until(lambda: collector.status()["trades"] == len(recording))
            assert collector.statistics["reconnects"] > 0

    with Venue(form()).serving() as venue:
        recording = prints()
        asyncio.run(collect())
        assert assert_true(tmp_path, venue.happened) == 0


def test_a_refused_subscription_ends_the_connection_and_is_tried_again(tmp_path: Path) -> None:
    async def collect() -> None:
        async with collecting(tmp_path, venue) as collector:
            venue.say(recorded("raw/bybit_fixtures_nautilus/ws_subscription_failure.json").read_bytes().decode())
            await until(lambda: venue.connections > 1)
            assert collector.status()["bad_frames"] == {"command_refused": 1}

    with Venue(Bybit()).serving() as venue:
        asyncio.run(collect())


def test_recorded_candles_and_contexts_are_kept_beside_the_trades(tmp_path: Path) -> None:
    """The recorder's symbol is none of those whose trades were recorded."""
    frames = [recorded(f"raw/bybit_fixtures_nautilus/{n}.json").read_text() for n in ("ws_kline", "ws_ticker_linear")]
    change = '{"topic":"tickers.LTCUSDT","type":"delta","ts":1673272862000,"data":'
    change += '{"symbol":"LTCUSDT","markPrice":"17000.5"}}'

    async def collect() -> None:
        async with collecting(tmp_path, venue):
            venue.say(change)  # of nothing that is known
            for frame in frames:
                venue.say(frame.replace("BTCUSDT", "LTCUSDT"))
            venue.say(change)
            await asyncio.sleep(0.3)

    with Venue(Bybit()).serving() as venue:
        asyncio.run(collect())
    with IdentityJournal.read(tmp_path) as journal:
        (bar,) = journal.candles("LTCUSDT", 0, FOREVER_MS)
        ((known_at_ms, context),) = journal.contexts("LTCUSDT", 0, FOREVER_MS)
        assert journal.stretches("LTCUSDT") == []
    assert (bar.open_time_ms, bar.close, bar.closed) == (1672324800000, 166_770_000, False)
    assert (context.open_interest, context.mark_price, context.funding_rate) == (68744.761, 17000.5, -0.000212)
    assert known_at_ms > 1_700_000_000_000


def test_a_market_is_kept_in_its_first_steps_and_finer_ones_are_refused(tmp_path: Path) -> None:
    first = Instrument("bybit", "BTCUSDT", "BTC", "USDT", 2, 3, "linear")
    with IdentityJournal.write(tmp_path) as journal:
        assert journal.keep(first) == first
        assert journal.keep(msgspec.structs.replace(first, price_decimals=1)) == first
        for change in ({"price_decimals": 3}, {"quantity_decimals": 4}, {"kind": "spot"}):
            with pytest.raises(JournalFormat, match="BTCUSDT"):
                journal.keep(msgspec.structs.replace(first, **change))


def test_a_connection_that_never_opens_leaves_what_is_known_as_it_is(tmp_path: Path) -> None:
    async def collect() -> None:
        async with collecting(tmp_path, venue) as collector:
            await until(lambda: collector.statistics["reconnects"] > 1)
            assert collector.status()["symbols"]["BTC"] == {
                "newest_ms": 0,
                "listening": False,
                "holes": 0,
                "missing_ms": 0,
            }

    with Venue(Hyperliquid()).serving() as venue:
        venue.socket_refuses = True
        asyncio.run(collect())
    with IdentityJournal.read(tmp_path) as journal:
        assert journal.stretches("BTC") == list[Stretch]()
