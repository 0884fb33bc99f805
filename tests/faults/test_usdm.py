"""The real collector process on perpetual contracts: split roots, mark prices, books by `pu`, klines as a check."""

import asyncio
import gzip
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from resources import book_feed
from resources.binance import BinanceRest
from resources.binance_usdm import UsdmRest
from resources.book_feed import BookFeed
from resources.journal import TradeJournal
from resources.simulator.faults import FaultPlan
from resources.simulator.recording import recordings
from resources.simulator.synthetic import SyntheticMarket
from tests.captures import frames
from tests.faults.processes import (
    BUSY,
    LATE_MS,
    SEED,
    SOAK,
    START_MS,
    SYMBOLS,
    assert_exactly_the_market,
    busy_exchange,
    collected,
    collector,
    ended,
    exchange,
    settled,
    status,
    until,
)
from tests.recorded import recorded
from tests.resources.simulated import exchange as loop_exchange
from trading.market.instrument import Instrument
from trading.market.timeframe import MINUTE_MS, SECOND_MS, Timeframe
from trading.stream.book_sync import BookSync
from trading.stream.collector import CollectorCore, Quarantine
from trading.stream.events import DepthDiff, Kline, MarkPrice, decode_depth_snapshot, decode_event
from trading.stream.repair import FOREVER_MS, Fetch

USDM = ("--venue", "binance_usdm")
MINUTES = 120 if SOAK else 20


def marks_of(journal: TradeJournal, symbol: str, lo_ms: int, hi_ms: int) -> list[int]:
    """Return the moments of the mark prices that are kept, each compared with the market's."""
    kept = journal.marks(symbol, lo_ms, hi_ms)
    contract = SyntheticMarket(SEED, SYMBOLS, "usdm").derivatives(symbol)
    times = pl.Series([mark.time_ms for mark in kept], dtype=pl.Int64).to_numpy()
    told = (contract.mark_prices(times), contract.index_prices(times), contract.funding_rates(times))
    said = [(mark.mark_price, mark.index_price, mark.funding_rate) for mark in kept]
    assert said == [tuple(value / 1e8 for value in row) for row in zip(*(c.tolist() for c in told), strict=True)]
    return times.tolist()


def test_contracts_are_kept_with_their_mark_prices_and_books_and_klines_agree(tmp_path: Path) -> None:
    folder, end_ms = tmp_path / "journal", START_MS + MINUTES * MINUTE_MS
    with exchange(tmp_path, end_ms=end_ms) as port:
        final = collected(folder, port, *USDM, "--check-klines", "--books", "100", end_ms=end_ms)
    assert_exactly_the_market(folder, end_ms, kind="usdm")
    assert final["bad_frames"] == {} and "stalls" not in final and "mark_stalls" not in final
    # The last kline closes with the market, so that no later trade proves its time.
    assert final["klines_agree"] >= (MINUTES - 2) * len(SYMBOLS) and "klines_differ" not in final
    with TradeJournal.read(folder) as journal:
        for symbol in SYMBOLS:
            expected = range(START_MS + SECOND_MS, end_ms + 1, SECOND_MS)
            assert set(marks_of(journal, symbol, START_MS, end_ms + 1)) >= set(expected[5:-5])
            assert journal.books(symbol, START_MS, end_ms)


def test_klines_of_spot_are_checked_too_and_nothing_else_changes(tmp_path: Path) -> None:
    with exchange(tmp_path) as port:
        final = collected(tmp_path / "journal", port, "--check-klines")
    assert_exactly_the_market(tmp_path / "journal")
    assert final["klines_agree"] > 200 and "klines_differ" not in final and "marks" not in final


def test_a_kline_that_lies_is_counted_and_named_once(tmp_path: Path) -> None:
    """Recorded trades of a real market, and klines of theirs in which the volume of some is one lot more."""
    folder = tmp_path / "recording"
    (folder / "aggTrades").mkdir(parents=True)
    (folder / "wire").mkdir()
    name = "XRPETH_spot_20191011_20191013.rest.jsonl.gz"
    (folder / "aggTrades" / name).symlink_to(recorded(f"aggtrades/{name}"))
    (market,) = recordings(folder)
    klines = market.klines("XRPETH", Timeframe.M1, 0, 2**50).head(600)
    first_ms, steps = int(klines["open_time"][0]), market.instrument("XRPETH")
    lines = []
    for place, bar in enumerate(klines.iter_rows(named=True)):
        text = {name[0]: steps.price_text(bar[name]) for name in ("open", "high", "low", "close")}
        text["v"] = steps.quantity_text(bar["volume"] + (place in (100, 200, 300)))
        closes_ms = bar["open_time"] + MINUTE_MS
        k = text | {"t": bar["open_time"], "T": closes_ms - 1, "i": "1m", "V": steps.quantity_text(bar["taker_volume"])}
        body = {"e": "kline", "E": closes_ms, "s": "XRPETH", "k": k | {"n": bar["trade_count"], "x": True}}
        lines.append(f"{closes_ms * 10**6} {json.dumps({'stream': 'xrpeth@kline_1m', 'data': body})}\n")
    (folder / "wire" / "klines.gz").write_bytes(gzip.compress("".join(lines).encode()))
    end_ms, log = int(klines["open_time"][-1]), tmp_path / "log"
    options = ["--symbols", "XRPETH", "--check-klines", "--until-ms", str(end_ms)]
    with (
        exchange(tmp_path, "--recording", str(folder), start_ms=first_ms, end_ms=end_ms + MINUTE_MS) as port,
        collector(tmp_path / "journal", port, *options, since_ms=first_ms, log=log) as process,
    ):
        final = ended(process)
    assert final["klines_differ"] == 3
    # At this speed minutes pass while REST tells the time, and klines of a quiet market seem to come from the future.
    assert final["klines_agree"] > len(klines) / 2
    warnings = [line for line in log.read_text().splitlines() if "unlike its trades" in line]
    assert len(warnings) == 1 and "XRPETH" in warnings[0] and "volume" in warnings[0]


def test_a_root_that_is_silent_is_replaced_and_its_trades_come_from_rest(tmp_path: Path) -> None:
    folder, seconds = tmp_path / "journal", 10
    faults = json.dumps({"stalled": [f"{name.lower()}@aggTrade" for name in SYMBOLS]})
    with busy_exchange(tmp_path, "--faults", faults) as port:
        options = [*USDM, "--until-ms", str(START_MS + 1000 * seconds)]
        with collector(folder, port, *options, log=tmp_path / "log") as process:
            final = ended(process)
    assert final["stalls"] >= 1 and final["replacements"] >= 1
    assert_exactly_the_market(folder, START_MS + 1000 * seconds, BUSY, "usdm")


def test_mark_prices_that_stop_have_their_connection_replaced_and_trades_go_on(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    with (
        exchange(tmp_path, "--speed", "1", "--trades-per-second", "20", end_ms=LATE_MS) as port,
        collector(folder, port, *USDM, log=tmp_path / "log") as process,
    ):
        until(lambda: settled(folder) and status(folder).get("marks", 0) > 2, process)
        port.set_faults(stalled=[f"{SYMBOLS[0].lower()}@markPrice@1s"])
        stopped_ms = port.show("clock")["now_ms"]
        until(lambda: status(folder).get("mark_stalls", 0) >= 1, process)
        port.set_faults()
        back_ms = port.show("clock")["now_ms"]
        until(lambda: port.show("clock")["now_ms"] > back_ms + 3_000, process)
        process.terminate()
        final = ended(process)
    assert final["replacements"] >= 1 and "stalls" not in final
    assert_exactly_the_market(folder, None, 20, "usdm")
    with TradeJournal.read(folder) as journal:
        silent, well = (marks_of(journal, name, stopped_ms + 1_000, back_ms + 3_000) for name in SYMBOLS)
    # What did not come is missing: neither the last value nor 0 stands for it.
    assert not [at for at in silent if at < back_ms - 1_000] and [at for at in silent if at > back_ms]
    assert len([at for at in well if at < back_ms]) >= (back_ms - stopped_ms) // SECOND_MS - 3


@pytest.mark.parametrize(("kind", "root", "client"), [("spot", "", BinanceRest), ("usdm", "/public", UsdmRest)])
def test_a_book_root_that_is_silent_from_the_start_is_noticed_and_nothing_is_recorded_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, root: str, client: type[BinanceRest]
) -> None:
    monkeypatch.setattr(book_feed, "SILENT_S", 1.0)  # a minute
    market, silence = SyntheticMarket(SEED, SYMBOLS[:1], kind, 20), FaultPlan(stalled=("btcusdt@depth@100ms",))

    async def record(journal: TradeJournal) -> list[dict[str, Any]]:
        async with loop_exchange([market], START_MS, LATE_MS, speed=1.0, faults=silence) as one:
            rest = client(one.http)
            feed = BookFeed(journal, rest, one.ws + root, {SYMBOLS[0]: market.instrument(SYMBOLS[0])})
            keeping, shown = asyncio.create_task(feed.run()), []
            for holds in (lambda: feed.statistics["reconnects"] >= 2, lambda: feed.statistics["records"] >= 2):
                while not holds():
                    assert not keeping.done()
                    await asyncio.sleep(0.1)
                shown.append(feed.status())
                one.server.faults = FaultPlan()
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            await rest.close()
            return shown

    with TradeJournal.write(tmp_path / "journal") as journal:
        silent, well = asyncio.run(asyncio.wait_for(record(journal), 60))
    assert silent.get("records", 0) == 0 and well["symbols"][SYMBOLS[0]]["in_step"]


def test_contracts_survive_kill_9(tmp_path: Path) -> None:
    folder = tmp_path / "journal"
    with exchange(tmp_path, "--speed", "1", "--trades-per-second", "50", end_ms=LATE_MS) as port:
        for _ in range(3):
            with collector(folder, port, *USDM, "--books", "100") as process:
                until(lambda: settled(folder) and status(folder).get("marks", 0) > 2, process)
                kept = status(folder)["marks"]
                os.kill(process.pid, signal.SIGKILL)
            with TradeJournal.read(folder) as journal:
                assert sum(len(journal.marks(name, 0, LATE_MS)) for name in SYMBOLS) >= kept
        with collector(folder, port, *USDM) as process:
            until(lambda: settled(folder), process)
            time.sleep(2)
            process.terminate()
            ended(process)
    assert_exactly_the_market(folder, None, 50, "usdm")


# -- real frames -------------------------------------------------------------------------------------------------------


def test_the_newest_frames_of_the_market_root_are_taken_each_for_what_it_is() -> None:
    contract = Instrument("binance", "BTCUSDT", "BTC", "USDT", 1, 3, "usdm")
    core = CollectorCore({"BTCUSDT": contract}, {}, {"BTCUSDT": (0, FOREVER_MS)}, lambda low, _: low, marks=True)
    core.tick(0.0)
    core.connected(1, 0.0)
    for line in recorded("raw/binance_usdm_2026/frames_2026-08-08.jsonl").read_bytes().splitlines():
        core.received(1, [line], 1.0)
    # The kline is half an hour later than the trade, which only the exchange's clock can say.
    (fetch,) = [command for command in core.commands() if isinstance(command, Fetch)]
    core.fetched(fetch, 1786173361000, [], 2.0)
    pending = core.take_pending()
    assert [trade.agg_trade_id for trade in pending.trades["BTCUSDT"]] == [3404749954]
    (_, mark), (_, kline) = pending.beside
    assert mark == MarkPrice(1786171884000, 64991.37858696, 65016.05673913, 0.00003936, 1786176000000)
    assert isinstance(kline, Kline) and kline.closed and kline.trades == 194
    # Liquidations are known and not wanted.
    assert not core.bad_frames and not any(isinstance(command, Quarantine) for command in core.commands())


def test_a_real_capture_of_contracts_is_collected_whole(tmp_path: Path) -> None:
    folder, name = tmp_path / "recording", "raw/binance_usdm/btcusdt_20240808.gz"
    (folder / "wire").mkdir(parents=True)
    (folder / "wire" / "one.gz").symlink_to(recorded(name))
    (market,) = recordings(folder)
    trades = market.trades("BTCUSDT", 0, 2**50)
    lo_ms, hi_ms = market.capture.span
    options = [*USDM, "--symbols", "BTCUSDT", "--until-ms", str(hi_ms)]
    with (
        exchange(tmp_path, "--recording", str(folder), start_ms=lo_ms, end_ms=hi_ms + 1_000) as port,
        collector(tmp_path / "journal", port, *options, since_ms=lo_ms, log=tmp_path / "log") as process,
    ):
        final = ended(process)
    with TradeJournal.read(tmp_path / "journal") as journal:
        stored = journal.trades("BTCUSDT", 0, 2**50)
        assert journal.verify("BTCUSDT") == []
    assert stored.equals(trades.select(stored.columns)) and len(stored) > 5_000
    assert final["bad_frames"] == {}


def test_a_real_book_of_contracts_is_recorded_as_it_stood(tmp_path: Path) -> None:
    """Each record equals the book that a second reader of the same frames has at the end of that second."""
    folder, name = tmp_path / "recording", "raw/binance_usdm/btcusdt_20240808.gz"
    (folder / "wire").mkdir(parents=True)
    (folder / "wire" / "one.gz").symlink_to(recorded(name))
    (market,) = recordings(folder)
    contract = market.book("BTCUSDT").instrument
    lo_ms, hi_ms = market.capture.span

    async def record(journal: TradeJournal) -> dict:
        async with loop_exchange([market], lo_ms, hi_ms + 1, speed=20.0) as one:
            rest = UsdmRest(one.http)
            feed = BookFeed(journal, rest, f"{one.ws}/public", {"BTCUSDT": contract}, every_ms=0)
            keeping = asyncio.create_task(feed.run())
            while not one.server.finished:
                await asyncio.sleep(0.1)
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            await rest.close()
            return feed.status()

    with TradeJournal.write(tmp_path / "journal") as journal:
        shown = asyncio.run(record(journal))
        records = {record.book.last_update_id: record for record in journal.books("BTCUSDT", 0, 2**50)}
    sync, compared = BookSync(), 0
    for _, frame in frames(name):
        if not frame.startswith(b'{"stream"'):
            sync.snapshot(decode_depth_snapshot(frame, contract))
            continue
        decoded = decode_event(frame, {"BTCUSDT": contract}, 0)
        if not isinstance(decoded, tuple) or not isinstance(decoded[1], DepthDiff):
            continue
        sync.diff(decoded[1])
        top = sync.top(20)
        if top is not None and (record := records.get(top.last_update_id)) is not None:
            assert (record.book.bids.tolist(), record.book.asks.tolist()) == (top.bids.tolist(), top.asks.tolist())
            compared += 1
    assert compared == len(records) > 200
    assert shown["symbols"]["BTCUSDT"].get("gap", 0) == 0
