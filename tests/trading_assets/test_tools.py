"""The tools as an MCP client meets them: over standard input and output, and over HTTP with its guards."""

import asyncio
import gzip
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from resources.home import Home
from resources.journal import TradeJournal
from resources.stores import open_stores
from tests.recorded import recorded
from trading.market.book import BookSnapshot
from trading.market.instrument import Instrument
from trading.market.trade import AggTrade
from trading.stream.book_recorder import BookRecord
from trading.stream.contiguity import IdRange
from trading_assets.tools.answers import TOOLS
from trading_assets.tools.server import BURST, LARGEST_REQUEST, token_of

BTC = Instrument("sim", "BTCUSDT", "BTC", "USDT", 2, 6)
END_MS = 1_577_978_340_000
"""A second after the last of the recorded trades."""


def genuine_trades() -> list[AggTrade]:
    with gzip.open(recorded("aggtrades/BTCUSDT_spot_rest_202790190_1000.json.gz")) as file:
        rows = json.load(file)
    return [AggTrade(r["a"], BTC.ticks(r["p"]), BTC.lots(r["q"]), r["f"], r["l"], r["T"], r["m"]) for r in rows]


def books(end_ms: int) -> list[BookRecord]:
    bids, asks = (np.array([[690_000 + sign * (5 + n), 1_000 + n] for n in range(20)]) for sign in (-1, 1))
    return [BookRecord(n > 0, BookSnapshot(end_ms - 60_000 + 1000 * n, n, bids, asks)) for n in range(60)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A home that holds a genuine answer of 1,000 trades, 999 of them under another name, and books beside them."""
    trades = genuine_trades()
    path = tmp_path_factory.mktemp("tools")
    path.chmod(0o755)
    made = Home(path)
    made.create("simulated", {"source": "synthetic", "seed": 1, "symbols": ["BTCUSDT"], "end_ms": 0})
    fewer = Instrument("sim", "BTCUSD999", "BTC", "USD999", 2, 6)
    with open_stores(path) as stores:
        stores.market.register([BTC, fewer])
        with TradeJournal.write(made.rocksdb_dir) as journal:
            for name, held in ((BTC.name, trades), (fewer.name, trades[1:])):
                claim = IdRange(held[0].agg_trade_id, held[-1].agg_trade_id, held[0].time_ms, held[-1].time_ms + 1)
                journal.append({name: held}, {name: [claim]})
            journal.append_books({BTC.name: books(trades[-1].time_ms // 1000 * 1000)})
        yield path


def stdio(home: Path) -> StdioServerParameters:
    return StdioServerParameters(
        command=sys.executable, args=["-m", "trading_assets.cli.main", "tools", "serve", "--home", str(home)]
    )


def answer_of(result: Any) -> dict[str, Any]:
    assert not result.is_error, result.content[0].text
    return json.loads(result.content[0].text)


def refusal_of(result: Any) -> dict[str, Any]:
    assert result.is_error
    text = result.content[0].text
    return json.loads(text[text.index("{") :])


def test_a_client_lists_and_calls_every_tool_over_standard_input_and_output(home: Path) -> None:
    async def talk() -> None:
        async with Client(stdio(home)) as client:
            listed = await client.list_tools()
            assert {tool.name for tool in listed.tools} == set(TOOLS)
            for tool in listed.tools:
                assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", tool.name)
                assert "symbol" in tool.input_schema["required"]
                answer = answer_of(await client.call_tool(tool.name, {"symbol": "BTCUSDT"}))
                told = {"as_of", "newest_event", "staleness_s", "completeness", "source", "warnings", "result"}
                assert told <= answer.keys()
                assert answer["newest_event"] <= answer["as_of"]
            dotted = answer_of(await client.call_tool("binance.get_order_flow", {"symbol": "BTCUSDT"}))
            assert dotted["result"]["symbol"] == "BTCUSDT"

    asyncio.run(talk())


def test_a_thousand_genuine_trades_give_a_profile_and_one_fewer_a_refusal_with_count_and_wait(home: Path) -> None:
    async def talk() -> None:
        async with Client(stdio(home)) as client:
            profile = answer_of(await client.call_tool("binance_get_volume_profile", {"symbol": "BTCUSDT"}))["result"]
            assert profile["trade_count"] == 1000
            assert sum(level["trade_count"] for level in profile["bins"]) == 1000
            assert profile["value_area_low"] <= profile["point_of_control"] <= profile["value_area_high"]
            refused = refusal_of(await client.call_tool("binance_get_volume_profile", {"symbol": "BTCUSD999"}))
            assert refused["error"].startswith("InsufficientTrades")
            assert (refused["trade_count"], refused["required"]) == (999, 1000)
            assert refused["wait_s"] >= 1
            for arguments in ({"symbol": "NOUSDT"}, {"symbol": "BTCUSDT", "duration_hours": 169}):
                assert refusal_of(await client.call_tool("binance_get_volume_profile", arguments))["hint"]

    asyncio.run(talk())


@pytest.fixture(scope="module")
def served(home: Path) -> Iterator[tuple[str, str]]:
    """Address and token of a server over HTTP."""
    command = [sys.executable, "-m", "trading_assets.cli.main", "tools", "serve", "--http", "--port", "0"]
    with subprocess.Popen([*command, "--home", str(home)], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "http://127.0.0.1" in line, line
        yield line.split()[-1], token_of(Home(home).run_dir)
        process.terminate()


CALL = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}


def post(url: str, token: str | None, body: bytes = json.dumps(CALL).encode(), **headers: str) -> int:
    import httpx2

    headers = {"content-type": "application/json", "accept": "application/json, text/event-stream"} | headers
    headers |= {} if token is None else {"authorization": f"Bearer {token}"}
    with httpx2.Client() as client:
        return client.post(url, content=body, headers=headers).status_code


def test_a_client_with_the_token_is_served_over_http(served: tuple[str, str]) -> None:
    import httpx2

    async def talk() -> None:
        url, token = served
        async with (
            httpx2.AsyncClient(headers={"authorization": f"Bearer {token}"}) as http,
            Client(streamable_http_client(url, http_client=http)) as client,
        ):
            assert {tool.name for tool in (await client.list_tools()).tools} == set(TOOLS)
            flow = answer_of(await client.call_tool("binance_get_order_flow", {"symbol": "BTCUSDT"}))
            assert flow["result"]["trade_count"] > 0

    asyncio.run(talk())


def test_whoever_has_no_token_or_comes_from_elsewhere_is_refused(served: tuple[str, str]) -> None:
    url, token = served
    assert post(url, token) == 200
    assert post(url, None) == 401
    assert post(url, token[:-1]) == 401
    assert post(url, token, origin="https://example.org") == 403
    assert post(url, token, host="example.org") == 421
    assert post(url, token, body=b"{" + b" " * LARGEST_REQUEST) == 413


def test_too_many_requests_are_refused_and_later_ones_are_not(served: tuple[str, str]) -> None:
    import httpx2

    url, token = served

    async def many() -> list[int]:
        async with httpx2.AsyncClient(headers={"authorization": f"Bearer {token}"}) as http:
            return [
                answer.status_code
                for answer in await asyncio.gather(*[http.post(url, content=b"{}") for _ in range(10 * BURST)])
            ]

    statuses = asyncio.run(many())
    assert 429 in statuses  # how many depends on how fast this machine asks
    time.sleep(1)
    assert post(url, token) == 200


def test_the_command_line_gives_the_same_answer(home: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "trading_assets.cli.main",
        "tools",
        "ask",
        "binance_orderbook_l2",
        "BTCUSDT",
        "levels=2",
    ]
    done = subprocess.run([*command, "--home", str(home), "--json"], capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["result"]["bids"] == [["6899.95", "0.001000"], ["6899.94", "0.001001"]]
    assert (home / "run" / "tools.token").stat().st_mode & 0o777 == 0o600


def test_answers_out_of_an_old_checkpoint_say_how_old_it_is(home: Path) -> None:
    with TradeJournal.write(Home(home).rocksdb_dir) as journal:
        journal.checkpoint()  # as a collector that answers nobody any more
        for asked in (["tools", "ask", "binance_get_order_flow", "BTCUSDT"], ["gaps"]):
            command = [sys.executable, "-m", "trading_assets.cli.main", *asked, "--home", str(home), "--json"]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            answer = json.loads(done.stdout.splitlines()[-1])
            assert "does not answer: what is read is" in answer["warnings"][0]
