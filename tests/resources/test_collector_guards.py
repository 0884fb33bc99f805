"""What must end a collector, or be refused by it, so that nothing is claimed that is not held."""

import asyncio
import json
import time
from pathlib import Path

import pytest

from resources import identity_collector
from resources.binance import BinanceRest
from resources.collector import Collector
from resources.identity_collector import IdentityCollector
from resources.identity_journal import IdentityJournal
from resources.journal import TradeJournal
from resources.journal_entries import key_of
from resources.rocksdb import JournalDamaged, control_socket
from resources.simulator.faults import FaultPlan
from resources.simulator.synthetic import SyntheticMarket
from tests.loopback import Asked, loopback
from tests.resources.simulated import exchange
from trading.market.identified import IdentifiedTrade
from trading.market.instrument import Instrument
from trading.market.timeframe import DAY_MS, HOUR_MS
from trading.market.trade import AggTrade
from trading.stream import bybit
from trading.stream.collector import DOUBTED, CollectorCore
from trading.stream.repair import FOREVER_MS, Fetch

NOW_MS = 1_760_000_040_000
FAR_MS = 9_999_999_999_999
NAME = "BTCUSDT"
INSTRUMENTS = {NAME: Instrument("sim", NAME, "BTC", "USDT", 2, 5)}


def event(number: int, time_ms: int) -> dict[str, object]:
    return {
        "e": "aggTrade",
        "s": NAME,
        "a": number,
        "p": "1.0",
        "q": "1",
        "f": number,
        "l": number,
        "T": time_ms,
        "m": True,
    }


def frame(number: int, time_ms: int) -> bytes:
    return json.dumps({"stream": f"{NAME.lower()}@aggTrade", "data": event(number, time_ms)}).encode()


def collector(journal: TradeJournal, root: str, acks: list[int], clock_ms: int = 0) -> Collector:
    rest, wanted = BinanceRest(root), {NAME: (NOW_MS, FOREVER_MS)}
    return Collector(
        journal, rest, "ws://127.0.0.1:1", INSTRUMENTS, wanted, lambda _, last: acks.append(last), clock_ms=clock_ms
    )


def test_trades_that_a_command_could_not_store_are_never_claimed_and_end_the_collector(tmp_path: Path) -> None:
    """A reader asks for a checkpoint while a batch of the same second is damaged."""
    acks: list[int] = []

    async def collect() -> bytes:
        with TradeJournal.write(tmp_path / "journal") as journal:
            one = collector(journal, "http://127.0.0.1:1", acks)
            running = asyncio.create_task(one.run())
            await asyncio.sleep(0.1)
            one._core.received(1, [frame(5, NOW_MS)], 0.0)
            one.flush()
            key, changes = key_of("trades", NAME, NOW_MS), journal._db.changes()
            damaged = bytearray(journal._db.get("trades", key) or b"")
            damaged[-1] ^= 1
            changes.put("trades", key, bytes(damaged))
            journal._db.commit(changes)
            reader, writer = await asyncio.open_unix_connection(str(control_socket(tmp_path / "journal")))
            one._core.received(1, [frame(6, NOW_MS + 100), frame(7, NOW_MS + 5000)], 0.0)
            writer.write(b"checkpoint\n")
            answer = await reader.readline()
            one._core.received(1, [frame(8, NOW_MS + 9000)], 0.0)
            with pytest.raises(JournalDamaged):
                await asyncio.wait_for(running, 10)
            writer.close()
            await one._rest.close()
            assert [(held.first_id, held.last_id) for held in journal.ledger(NAME)] == [(5, 5)]
            return answer

    assert asyncio.run(collect()).startswith(b"error ")
    assert acks == [5]


def test_no_first_event_is_believed_that_lies_far_ahead_of_the_exchange_s_clock() -> None:
    core = CollectorCore(INSTRUMENTS, {}, {NAME: (NOW_MS, FOREVER_MS)}, lambda lo, _: lo, clock_ms=NOW_MS)
    core.received(1, [frame(1, FAR_MS)], 0.0)
    assert core.newest_ms == NOW_MS and not core.pending


def test_doubtful_frames_of_any_number_are_kept_aside_and_the_collector_goes_on() -> None:
    core = CollectorCore(INSTRUMENTS, {}, {NAME: (NOW_MS, FOREVER_MS)}, lambda lo, _: lo, clock_ms=NOW_MS)
    for now_s in (0.0, 600.0, 1_200.0):
        core.received(1, [frame(number, FAR_MS) for number in range(DOUBTED)], now_s)
        core.tick(now_s)
        for fetch in [command for command in core.commands() if isinstance(command, Fetch)]:
            core.fetched(fetch, NOW_MS, [], now_s)
    assert core.bad_frames == {"future_time": 3 * DOUBTED}


def test_a_page_with_a_trade_far_ahead_of_the_exchange_s_clock_proves_nothing(tmp_path: Path) -> None:
    asked: list[str] = []

    def rest(call: Asked) -> tuple[int, str, dict[str, str]]:
        asked.append(call.path)
        body = {"serverTime": NOW_MS} if call.path.endswith("time") else [event(1, NOW_MS), event(2, FAR_MS)]
        return 200, json.dumps(body), {}

    async def fetch(root: str) -> None:
        with TradeJournal.write(tmp_path / "journal") as journal:
            one = collector(journal, root, [])
            await one._fetch(Fetch(NAME, None, NOW_MS))
            await one._rest.close()
            assert one.status()["refused"] == 1
            assert one._core.streams[NAME].ledger.ranges == []

    with loopback(rest) as server:
        asyncio.run(fetch(server.root))
    assert len(asked) == 3, "the clock was asked for again before the page was refused"


def test_a_collector_with_many_holes_says_how_it_is_within_a_beat(tmp_path: Path) -> None:
    """While REST refuses, holes pile up by the thousand, and one that gives no sign of life is killed."""
    trades = [AggTrade(2 * number, 1, 1, number, number, NOW_MS + number, False) for number in range(10_000)]
    with TradeJournal.write(tmp_path / "journal") as journal:
        one = collector(journal, "http://127.0.0.1:1", [])
        stream = one._core.streams[NAME]
        stream.take(trades)
        stream.ledger.mark_absent(5)
        started = time.perf_counter()
        said = one.status()
        assert time.perf_counter() - started < 1
    assert (said["absent"], said["symbols"][NAME]["holes"]) == ([(NAME, 5, 5)], 9_998)


def test_one_wrong_answer_of_the_exchange_s_clock_drops_nothing(tmp_path: Path) -> None:
    now_ms = int(time.time() * 1000)

    def rest(call: Asked) -> tuple[int, str, dict[str, str]]:
        return 200, json.dumps({"serverTime": FAR_MS} if call.path.endswith("time") else [event(1, now_ms)]), {}

    async def fetch(root: str, journal: TradeJournal) -> None:
        wanted = {NAME: (now_ms, FOREVER_MS)}
        one = Collector(journal, BinanceRest(root), "ws://127.0.0.1:1", INSTRUMENTS, wanted, by_age=True)
        await one._fetch(Fetch(NAME, None, now_ms))
        one.flush()
        one._tidy()
        await one._rest.close()

    with loopback(rest) as server, TradeJournal.write(tmp_path / "journal") as journal:
        asyncio.run(fetch(server.root, journal))
        assert len(journal.trades(NAME, 0, FAR_MS)) == 1


def test_a_list_with_a_trade_far_ahead_of_the_clock_bridges_nothing(tmp_path: Path) -> None:
    class Rest:
        async def trades(self, _: Instrument) -> list[IdentifiedTrade]:
            return [IdentifiedTrade(str(time_ms), 1, 1, time_ms, True) for time_ms in (NOW_MS, FAR_MS)]

    with IdentityJournal.write(tmp_path / "journal", 1) as journal:
        one = IdentityCollector(journal, Rest(), bybit.DIALECT, "ws://127.0.0.1:1", INSTRUMENTS)
        assert not asyncio.run(one._listed(NAME))
        one.flush()
        assert one.status()["refused"] == 1
        assert journal.stretches(NAME) == []


def test_a_collector_that_is_to_end_stores_and_stops_while_rest_answers_nobody(tmp_path: Path) -> None:
    market, end_ms = SyntheticMarket(11, [NAME], trades_per_second=20), NOW_MS + HOUR_MS

    async def collect(journal: TradeJournal) -> None:
        async with exchange([market], NOW_MS, end_ms, speed=1.0) as one:
            rest, wanted = BinanceRest(one.http), {NAME: (NOW_MS, end_ms)}
            collector = Collector(journal, rest, one.ws, {NAME: market.instrument(NAME)}, wanted)
            running = asyncio.create_task(collector.run())
            async with asyncio.timeout(20):
                while not collector.statistics["trades"]:
                    await asyncio.sleep(0.05)
                one.server.faults = FaultPlan(rest_418=1.0, retry_after_s=DAY_MS // 1000)
                await asyncio.sleep(2)
                before = collector.statistics["trades"]
                while collector.statistics["trades"] == before:
                    await asyncio.sleep(0.05)
                collector.stop()
                await running
            await rest.close()

    with TradeJournal.write(tmp_path / "journal") as journal:
        asyncio.run(collect(journal))


def test_a_list_is_taken_though_the_host_s_clock_is_an_hour_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    came = [IdentifiedTrade(str(number), 1, 1, NOW_MS + number, True) for number in range(3)]

    class Rest:
        async def trades(self, _: Instrument) -> list[IdentifiedTrade]:
            return came

    with IdentityJournal.write(tmp_path / "journal", 1) as journal:
        one = IdentityCollector(journal, Rest(), bybit.DIALECT, "ws://127.0.0.1:1", INSTRUMENTS)
        monkeypatch.setattr(identity_collector.time, "time", lambda: NOW_MS / 1000 - 3600)
        one._core._keep(NAME, came[2:], came[2:], 0.0)  # as off the stream
        asyncio.run(one._listed(NAME))
        one.flush()
        assert "refused" not in one.status()
        assert [trade.trade_id for trade in journal.trades(NAME, 0, FAR_MS)] == ["0", "1", "2"]
