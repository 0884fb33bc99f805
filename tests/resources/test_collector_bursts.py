"""Frames that come in bursts, into the real process and its journal."""

import asyncio
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from websockets.asyncio.server import ServerConnection, serve

from resources.binance import BinanceRest
from resources.collector import Collector
from resources.journal import TradeJournal
from tests.loopback import Asked, loopback
from trading.market.instrument import Instrument
from trading.market.trade import AggTrade
from trading.stream.collector import SCAN_FROM, WORTH_COMPILING
from trading.stream.repair import FOREVER_MS
from trading.stream.scanner import Scanner

NOW_MS = 1_760_000_040_000
NAME = "BTCUSDT"
BURST = 500
LAST = 2 * WORTH_COMPILING


def event(number: int) -> dict[str, object]:
    trade = {"e": "aggTrade", "E": NOW_MS, "s": NAME, "a": number, "p": "60000.12", "q": "0.00100000", "f": number}
    return trade | {"l": number, "T": NOW_MS + number // 100, "m": number % 2 == 0, "M": True}


def frame(number: int) -> bytes:
    body = {"stream": f"{NAME.lower()}@aggTrade", "data": event(number)}
    return json.dumps(body, separators=(",", ":")).encode()


def test_bursts_are_read_together_as_soon_as_that_is_compiled_and_none_of_their_trades_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = Counter[str]()
    read = Scanner.read

    def counted(scanner: Scanner, frames: Sequence[bytes]) -> Iterator[tuple[str | None, AggTrade]]:
        for symbol, trade in read(scanner, frames):
            together["left" if symbol is None else "read"] += 1
            yield symbol, trade

    monkeypatch.setattr(Scanner, "read", counted)

    def rest(asked: Asked) -> tuple[int, str, dict[str, str]]:
        if asked.path.endswith("time"):
            return 200, json.dumps({"serverTime": NOW_MS}), {}
        return 200, json.dumps([] if "fromId" in asked.parameters else [event(0)]), {}

    async def collect(root: str) -> None:
        compiled = asyncio.Event()

        async def send(socket: ServerConnection) -> None:
            for first in range(1, LAST, BURST):
                if first > WORTH_COMPILING + 3 * BURST:
                    await compiled.wait()
                for number in range(first, first + BURST):
                    await socket.send(frame(number), text=True)
                await socket.send(b"{", text=True)
            # The connection ends with the last burst: what it brought counts.

        client = BinanceRest(root)
        async with serve(send, "127.0.0.1", 0, compression=None) as server:
            ws = f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            instrument = Instrument("sim", NAME, "BTC", "USDT", 2, 5)
            with TradeJournal.write(tmp_path / "journal") as journal:
                collector = Collector(journal, client, ws, {NAME: instrument}, {NAME: (NOW_MS, FOREVER_MS)})
                running = asyncio.create_task(collector.run())
                while collector.status()["symbols"][NAME]["last_id"] < LAST:
                    assert not running.done()
                    await asyncio.sleep(0.05)
                    if together:
                        compiled.set()
                collector.stop()
                await running
                status = collector.status()
        await client.close()
        assert status["bad_frames"]["not_json"] >= LAST // BURST
        assert status["holes"] == 0 and status["repaired"] == 1

    with loopback(rest) as server:
        asyncio.run(asyncio.wait_for(collect(server.root), 60))
    assert together["read"] > SCAN_FROM and together["left"] > 0
    with TradeJournal.read(tmp_path / "journal") as journal:
        assert journal.trades(NAME, 0, 10**13 - 1)["agg_trade_id"].to_list() == list(range(LAST + 1))
