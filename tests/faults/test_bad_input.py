"""Rows 1 to 48 and 71 to 74 of the table of bad inputs: each is refused or kept by name, and the stream beside it goes on.

What the trades' wire and REST bring is fed here to the collector's core and to the real process; rows that are proven
elsewhere are named with their tests in `ELSEWHERE`.
"""

import ast
import asyncio
import json
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from rocksdict import Options, Rdict
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed

from resources.binance import BinanceRest, decoded
from resources.book_feed import BookFeed
from resources.collector import Collector
from resources.journal import TradeJournal
from resources.rest_root import ExchangeAnswer
from resources.rocksdb import JournalDamaged, JournalFormat
from tests.loopback import Asked, loopback
from trading.market.candle import candles_from_trades
from trading.market.instrument import Instrument
from trading.market.oddities import odd_trades
from trading.market.timeframe import Timeframe
from trading.market.trade import AggTrade, trades_frame
from trading.stream.collector import QUARANTINED, TICK_S, CollectorCore, Quarantine
from trading.stream.connections import Connect
from trading.stream.repair import FOREVER_MS, Fetch
from trading.stream.wire import BadFrame, decode_page

NOW_MS = 1_760_000_040_000
DAY_MS = 86_400_000
BAD, HEALTHY, CHINESE = "BTCUSDT", "ETHUSDT", "币安人生USDT"
INSTRUMENTS = {name: Instrument("sim", name, name[:-4], "USDT", 2, 5) for name in (BAD, HEALTHY, CHINESE)}


def event(number: int, symbol: str = BAD, **changes: Any) -> dict[str, Any]:
    trade = {"e": "aggTrade", "E": NOW_MS, "s": symbol, "a": number, "p": "60000.12", "q": "0.001", "f": number}
    trade |= {"l": number, "T": NOW_MS + number, "m": True, "M": True}
    return {name: value for name, value in (trade | changes).items() if value is not ...}


def frame(number: int, symbol: str = BAD, **changes: Any) -> bytes:
    body = {"stream": f"{symbol.lower()}@aggTrade", "data": event(number, symbol, **changes)}
    return json.dumps(body, ensure_ascii=False).encode()


class Fed:
    """A core that streams some symbols, of which REST knows one trade, and what it was fed."""

    def __init__(self, known: int = 0) -> None:
        self.known = AggTrade(known, 6_000_012, 100, known, known, NOW_MS, True)
        wanted = dict.fromkeys(INSTRUMENTS, (NOW_MS, FOREVER_MS))
        self.core = CollectorCore(INSTRUMENTS, {}, wanted, lambda low, _high: low)
        self.now_s = 100.0
        self.kept: list[Quarantine] = []
        self.asked: list[Fetch] = []
        self.core.tick(self.now_s)
        self.carry_out()
        self.core.connected(1, self.now_s)
        self.healthy = 0
        self.go_on()

    def carry_out(self) -> None:
        """Give each page that is asked for, and keep what is to be kept aside."""
        for command in self.core.commands():
            if isinstance(command, Quarantine):
                self.kept.append(command)
            elif isinstance(command, Fetch):
                self.asked.append(command)
                self.core.fetched(command, NOW_MS, self.page(command), self.now_s)
            else:
                assert isinstance(command, Connect)

    def page(self, fetch: Fetch) -> list[AggTrade]:
        """Return what REST knows: the first trade, and the last one that is held; what is missing it lacks too."""
        if fetch.from_id is None:
            return [self.known]
        return [trade for trade in self.core.streams[fetch.symbol].pending if trade.agg_trade_id == fetch.from_id]

    def go_on(self) -> None:
        """Let the healthy stream bring its next trade, which must be taken."""
        self.healthy += 1
        self.core.received(1, [frame(self.healthy, HEALTHY)], self.now_s)
        assert self.core.streams[HEALTHY].ledger.holds(self.healthy)

    def feed(self, *frames: bytes) -> "Fed":
        """Feed frames, each between two healthy trades."""
        for one in frames:
            self.core.received(1, [one], self.now_s)
            self.carry_out()
            self.go_on()
        self.wait(2.5)
        return self

    def wait(self, seconds: float) -> None:
        """Let time pass, in which nothing comes but pages."""
        for _ in range(round(seconds / TICK_S)):
            self.now_s += TICK_S
            self.core.tick(self.now_s)
            self.carry_out()


# -- frames ------------------------------------------------------------------------------------------------------------

REFUSED: list[tuple[int, str, bytes]] = [
    (1, "not_json", b"\xff\xfe"),
    (1, "not_json", frame(2).replace(b"60000", b"600\xff0")),
    (2, "not_json", b""),
    (3, "not_json", b"[]"),
    (3, "not_json", b"null"),
    (3, "not_json", b"3"),
    (3, "no_event", b"{}"),
    (4, "not_json", frame(2)[:60]),
    (5, "not_json", b"[" * 100_000),
    (5, "not_json", b'{"data":' + b'{"data":' * 100_000),
    (8, "unknown_event", frame(2, e="blockTrade")),
    (10, "bad_ids", frame(2, a=...)),
    *((11, "bad_ids", frame(2, a=value)) for value in (-1, 2**60, 2**63, 10**30)),
    *((11, "not_json", frame(2, a=value)) for value in (1.5, "7", None)),
    *((12, "bad_number", frame(2, p=value)) for value in ("NaN", "Infinity", "1e999", "", "abc")),
    *((13, "bad_number", frame(2, p=value)) for value in ("0", "0.00", "-1")),
    (15, "bad_number", frame(2, p="1" * 30)),
    (15, "bad_number", frame(2, p="1." + "1" * 30)),
    *((17, "bad_time", frame(2, T=value)) for value in (0, DAY_MS)),
    (17, "future_time", frame(2, T=NOW_MS + DAY_MS)),
    *((18, "bad_time", frame(2, T=value)) for value in (NOW_MS * 1000, NOW_MS // 1000)),
    (20, "bad_ids", frame(2, f=3, l=2)),
    (25, "unknown_symbol", frame(2, s="LTCUSDT")),
    (25, "unknown_symbol", frame(2, s="btcusdt")),
    *((27, "unknown_symbol", frame(2, s=value)) for value in ("../../etc", "A:B", "\0", "x" * 10_000)),
    (29, "command_refused", b'{"error":{"code":2,"msg":"Invalid request"},"id":1}'),
]
KEPT: list[tuple[int, bytes]] = [
    (9, frame(2, nq="7", X={"deep": [None]})),
    (14, frame(2, q="0.00000")),
    (16, frame(2, p="30000.00")),
    (16, frame(2, p="90000.00")),
    (17, frame(2, T=NOW_MS + 200_000)),
    (19, frame(2, T=NOW_MS - 3_600_000)),
]


@pytest.mark.parametrize(
    ("row", "reason", "bad"), REFUSED, ids=[f"row{row}-{n}" for n, (row, *_) in enumerate(REFUSED)]
)
def test_a_bad_frame_is_counted_and_kept_aside_and_the_next_ones_are_taken(row: int, reason: str, bad: bytes) -> None:
    fed = Fed().feed(frame(1), bad, frame(2))
    assert fed.core.bad_frames == {reason: 1}
    (kept,) = fed.kept
    assert kept.frame == bad[:4096] and reason in kept.reason and len(kept.reason) < 300
    assert fed.core.streams[BAD].ledger.open_holes() == [] and fed.core.streams[BAD].ledger.next_id == 3


@pytest.mark.parametrize(("row", "odd"), KEPT, ids=[f"row{row}-{n}" for n, (row, _) in enumerate(KEPT)])
def test_what_is_odd_and_not_wrong_is_taken(row: int, odd: bytes) -> None:
    fed = Fed().feed(frame(1), odd)
    assert fed.core.streams[BAD].ledger.holds(2)
    assert not fed.core.bad_frames


@pytest.mark.parametrize(
    ("row", "changes", "odd"),
    [
        (14, {"q": "0.00000"}, {"empty": [2]}),
        (16, {"p": "30000.00"}, {"far": [2, 3]}),
        (16, {"p": "90000.18"}, {"far": [2]}),
        (17, {"T": NOW_MS + 200_000}, {"out_of_order": [2, 3]}),
        (19, {"T": NOW_MS - 3_600_000}, {"out_of_order": [1, 2]}),
    ],
)
def test_what_is_odd_is_named_by_its_id_and_only_a_trade_without_quantity_makes_no_candle(
    row: int, changes: dict[str, Any], odd: dict[str, list[int]]
) -> None:
    fed = Fed().feed(frame(1), frame(2, **changes), frame(3))
    kept = trades_frame(sorted(fed.core.take_pending().trades[BAD], key=lambda trade: trade.agg_trade_id))
    assert kept["agg_trade_id"].to_list() == [0, 1, 2, 3]
    assert odd_trades(kept) == odd
    assert odd_trades(kept.filter(kept["agg_trade_id"] != 2)) == {}
    bars = candles_from_trades(kept, INSTRUMENTS[BAD], Timeframe.M1, ())
    assert bars["trade_count"].sum() == (3 if row == 14 else 4)


def test_a_trade_that_comes_twice_is_taken_once_and_another_one_under_its_id_is_kept_aside_rows_21_and_22() -> None:
    fed = Fed().feed(frame(1), frame(1))
    assert fed.core.statistics["duplicates"] == 1 and not fed.core.bad_frames
    fed.feed(frame(1, p="60000.13"))
    assert fed.core.bad_frames == {"revised": 1}
    assert [trade.price for trade in fed.core.take_pending().trades[BAD]] == [6_000_012] * 2
    fed.feed(frame(1), frame(1, q="0.002"))
    assert fed.core.bad_frames == {"revised": 2} and fed.core.statistics["duplicates"] == 2


def test_a_jump_of_ids_is_asked_for_within_a_second_row_23() -> None:
    fed = Fed().feed(frame(1))
    fed.core.received(1, [frame(1002)], fed.now_s)
    fed.wait(1.0)
    holes = [fetch for fetch in fed.asked if fetch.hole]
    assert holes[0] == Fetch(BAD, 2, 0, 1000, hole=True)


def test_ids_that_begin_anew_are_named_and_no_billion_ids_are_asked_for_row_24() -> None:
    fed = Fed(10**9).feed(frame(10**9 + 1, T=NOW_MS), frame(1, T=NOW_MS + 120_000), frame(2, T=NOW_MS + 120_001))
    assert fed.core.bad_frames == {"relisted": 2}
    assert fed.core.streams[BAD].relisted and fed.core.streams[BAD].settled
    assert not any(fetch.hole for fetch in fed.asked if fetch.symbol == BAD)


def test_a_name_outside_ascii_is_a_name_row_26() -> None:
    fed = Fed().feed(frame(1, CHINESE), frame(2, CHINESE))
    assert fed.core.streams[CHINESE].ledger.holds(2)
    assert len(fed.core.take_pending().trades[CHINESE]) == 3


def test_only_the_first_hundred_bad_frames_are_kept_and_all_are_counted() -> None:
    fed = Fed().feed(*[b"{"] * (QUARANTINED + 20))
    assert fed.core.bad_frames == {"not_json": QUARANTINED + 20}
    assert len(fed.kept) == QUARANTINED


# -- pages -------------------------------------------------------------------------------------------------------------

PAGES: list[tuple[int, bytes]] = [
    (36, b"<!DOCTYPE html><html></html>"),
    (4, json.dumps([event(1)]).encode()[:40]),
    (1, json.dumps([event(1)]).encode().replace(b"60000", b"600\xff0")),
    (3, b'{"a":1}'),
    (5, b'[{"x":' + b"[" * 100_000),
    *((11, json.dumps([event(1, a=value)]).encode()) for value in (-1, 2**63, 10**30, "7", 1.5)),
    (12, json.dumps([event(1, p="NaN")]).encode()),
    (13, json.dumps([event(1, p="0")]).encode()),
    *((18, json.dumps([event(1, T=value)]).encode()) for value in (NOW_MS * 1000, NOW_MS // 1000, 0)),
    (20, json.dumps([event(1, f=3, l=2)]).encode()),
]


@pytest.mark.parametrize(("row", "body"), PAGES, ids=[f"row{row}-{n}" for n, (row, _) in enumerate(PAGES)])
def test_a_page_that_is_none_is_refused_with_a_reason(row: int, body: bytes) -> None:
    with pytest.raises(BadFrame) as refused:
        decode_page(body, INSTRUMENTS[BAD])
    assert refused.value.reason.isidentifier()


@pytest.mark.parametrize("body", [b"<html></html>", b'{"serverTime":"\xff"}', b"[" * 100_000])
def test_an_answer_that_is_no_json_is_refused_by_its_beginning_row_36(body: bytes) -> None:
    with pytest.raises(ExchangeAnswer, match="not JSON"):
        decoded(body)


def page(text: str, from_id: int) -> list[AggTrade]:
    """Return what the client makes of an answer."""

    async def ask(root: str) -> list[AggTrade]:
        rest = BinanceRest(root)
        try:
            return await rest.agg_trades(INSTRUMENTS[BAD], from_id)
        finally:
            await rest.close()

    with loopback(lambda _asked: (200, text, {})) as server:
        return asyncio.run(ask(server.root))


def test_a_page_of_something_else_is_an_error_of_the_client_row_36() -> None:
    with pytest.raises(ExchangeAnswer, match=f"aggTrades of {BAD} is not in its form"):
        page("<!DOCTYPE html>", 1)


def test_trades_before_the_one_asked_for_are_left_out_row_40() -> None:
    assert [trade.agg_trade_id for trade in page(json.dumps([event(n) for n in (3, 4, 5, 6)]), from_id=5)] == [5, 6]
    assert page(json.dumps([event(n) for n in (3, 4)]), from_id=5) == []


# -- silence -----------------------------------------------------------------------------------------------------------


def test_a_market_that_is_traded_no_more_is_asked_after_ever_more_rarely_row_28() -> None:
    fed = Fed().feed(frame(1), frame(2))
    fed.asked.clear()
    fed.wait(3600)
    assert fed.core.statistics["replacements"] == fed.core.statistics["reconnects"] == 0
    assert 2 <= sum(fetch.symbol == BAD for fetch in fed.asked) <= 60


# -- the whole collector -----------------------------------------------------------------------------------------------


def test_a_collector_keeps_its_connection_over_bad_frames_and_replaces_it_after_an_oversized_one_rows_6_and_7(
    tmp_path: Path,
) -> None:
    bad = [(row, one) for row, reason, one in REFUSED if reason != "future_time"]
    bad += [(7, bytes(range(256))), (7, frame(10**6, HEALTHY))]
    last = len(bad) + 1
    connections, sent = list[int](), list[str | bytes]()

    def rest(asked: Asked) -> tuple[int, str, dict[str, str]]:
        if asked.path.endswith("time"):
            return 200, json.dumps({"serverTime": NOW_MS + last + 1}), {}
        first = int(asked.parameters.get("fromId", 0))
        return 200, json.dumps([event(number, asked.parameters["symbol"]) for number in range(first, last + 1)]), {}

    async def send(socket: ServerConnection) -> None:
        of_books = socket.request is not None and "@depth" in socket.request.path
        connections.extend([] if of_books else [len(connections)])
        if not of_books and len(connections) == 1:
            for number, (row, one) in enumerate(bad, 1):
                await socket.send(frame(number, HEALTHY), text=True)
                await socket.send([one[:9], one[9:]] if row == 7 else one, text=row != 7)
            await socket.send("x" * 2**21)
        with suppress(ConnectionClosed):
            async for message in socket:
                sent.append(message)

    async def collect(root: str) -> dict[str, Any]:
        client = BinanceRest(root)
        async with serve(send, "127.0.0.1", 0, max_size=None) as server:
            ws = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            wanted = dict.fromkeys((BAD, HEALTHY), (NOW_MS, FOREVER_MS))
            instruments = {name: INSTRUMENTS[name] for name in wanted}
            with TradeJournal.write(tmp_path / "journal") as journal:
                collector = Collector(journal, client, ws, instruments, wanted)
                collector.beside(BookFeed(journal, client, ws, instruments))
                running = asyncio.create_task(collector.run())
                while len(connections) < 2 or collector.status()["symbols"][HEALTHY]["last_id"] < last:
                    assert not running.done()
                    await asyncio.sleep(0.05)
                collector.stop()
                await running
        await client.close()
        return collector.status()

    with loopback(rest) as server:
        status = asyncio.run(asyncio.wait_for(collect(server.root), 30))
    assert status["reconnects"] == 1
    assert sent == [], "what is subscribed to stands in the URL"
    assert sum(status["bad_frames"].values()) == len(bad)
    assert status["bad_frames"]["unexpected_binary"] == 2
    with TradeJournal.read(tmp_path / "journal") as journal:
        assert sorted(content for _, _, content in journal.quarantined()) == sorted({one[:4096] for _, one in bad})
        assert journal.trades(HEALTHY, 0, 10**13 - 1)["agg_trade_id"].to_list() == list(range(last + 1))


# -- journals ----------------------------------------------------------------------------------------------------------


def test_a_folder_that_unpickles_what_it_reads_is_refused_by_name_row_73(tmp_path: Path) -> None:
    pickling = Rdict(str(tmp_path / "journal" / "live"))
    pickling["trades"] = {"a": 1}
    pickling.close()
    for opening in (TradeJournal.write, TradeJournal.read):
        with pytest.raises(JournalFormat, match="holds format 'unknown'"), opening(tmp_path / "journal"):
            pass


def test_four_stray_bytes_of_a_database_with_expiry_are_damage_row_74(tmp_path: Path) -> None:
    folder, trade = tmp_path / "journal", AggTrade(1, 1, 1, 1, 1, NOW_MS, True)
    with TradeJournal.write(folder) as journal:
        journal.append({BAD: [trade], HEALTHY: [trade]}, {})
    live = Rdict(str(folder / "live"), Options(raw_mode=True))
    batches, key = live.get_column_family("trades"), f"trades:{BAD}:{NOW_MS:013d}".encode()
    batches[key] += b"\x00\x01\x02\x03"
    batches.close()
    live.close()
    with TradeJournal.read(folder) as journal:
        with pytest.raises(JournalDamaged):
            journal.trades(BAD, 0, 10**13 - 1)
        assert len(journal.trades(HEALTHY, 0, 10**13 - 1)) == 1


# -- every row ---------------------------------------------------------------------------------------------------------

HERE = "faults/test_bad_input.py"
EVENTS = ["trading/test_stream_events.py::test_a_bad_frame_is_counted_by_its_reason_and_the_stream_goes_on"]
LINES = ["trading/test_archive.py::test_a_bad_file_is_refused_by_its_line"]
ELSEWHERE: dict[int, list[str]] = {
    30: ["faults/test_streams.py::test_a_stream_that_never_comes_is_noticed_and_taken_from_rest_rows_28_and_30"],
    31: ["trading/test_stream_events.py::test_a_kline_says_whether_it_is_final_row_31"],
    32: EVENTS,
    33: ["trading/test_book_sync.py::test_a_diff_must_follow_the_one_before_row_33"],
    34: ["trading/test_book_sync.py::test_a_crossed_book_is_dropped_and_fetched_again_row_34"],
    35: ["trading/test_book_sync.py::test_a_snapshot_older_than_the_first_diff_is_refused_again_and_again_row_35"],
    37: ["resources/test_rest_root.py::test_a_wait_is_kept_to_the_second"],
    38: [
        "resources/test_http_budget.py::test_two_processes_are_silent_as_long_as_one_of_them_was_told_to_be",
        "faults/test_deaths.py::test_nothing_acknowledged_is_absent_after_any_kill_while_rest_refuses",
    ],
    39: ["trading/test_stream_repair.py::test_a_page_that_ends_early_is_not_the_end"],
    41: ["resources/test_archive.py::test_what_is_not_there_yet_is_not_published"],
    42: ["resources/test_archive.py::test_a_wrong_checksum_is_fetched_thrice_and_nothing_is_kept"],
    43: ["resources/test_past_days.py::test_a_file_issued_anew_is_a_new_version_whose_changes_are_counted"],
    44: ["resources/test_archive.py::test_a_bad_zip_is_refused_by_what_is_wrong"],
    45: ["trading/test_archive.py::test_what_is_written_in_any_form_is_read_back", *LINES],
    46: LINES,
    47: LINES,
    48: ["resources/test_past_days.py::test_a_file_that_lacks_rows_is_loaded_and_the_hole_stays_unproven"],
    71: ["faults/test_collector.py::test_a_second_collector_leaves_the_journal_to_the_first"],
    72: [
        "resources/test_seed_journal.py::test_trades_under_the_clock_of_another_program_are_read_by_their_own_time",
        "resources/test_seed_journal.py::test_two_batches_in_one_millisecond_overwrite_each_other_there_and_what_was_lost_is_named",
    ],
}


def named_rows(names: set[str]) -> set[int]:
    """Return the rows that names of tests end with, such as `…_rows_21_and_22`."""
    found = (re.search(r"_rows?_([0-9]+)(?:_and_([0-9]+))?$", name) for name in names)
    return {int(number) for match in found if match for number in match.groups() if number}


def test_every_row_has_a_test() -> None:
    tests = Path(__file__).resolve().parents[1]

    def names(file: str) -> set[str]:
        tree = ast.parse((tests / file).read_text(encoding="utf-8"))
        return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}

    for file, _, name in (place.partition("::") for places in ELSEWHERE.values() for place in places):
        assert name in names(file), f"{file} has no {name}"
    rows = {row for row, *_ in (*REFUSED, *KEPT, *PAGES)} | named_rows(names(HERE)) | ELSEWHERE.keys()
    assert sorted({*range(1, 49), *range(71, 75)} - rows) == []
