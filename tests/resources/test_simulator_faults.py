"""What goes wrong on request: every fault of the simulated exchange as its client meets it, the same for one seed."""

import asyncio
import json
import os
import ssl
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from resources.simulator.faults import FaultPlan
from tests.resources.simulated import START_MS, SYMBOL, Exchange, exchange, get, set_faults, synthetic
from trading.market.timeframe import HOUR_MS, MINUTE_MS

NAME = SYMBOL.lower()
TRADES = f"/ws/{NAME}@aggTrade"
LONG = START_MS + 24 * HOUR_MS


def ids_of(frames: list[str]) -> list[int]:
    return [json.loads(frame)["a"] for frame in frames]


def sent(**plan: Any) -> list[str]:
    """Return the frames of half an hour of trades under a plan."""

    async def run() -> list[str]:
        async with exchange(end_ms=START_MS + 30 * MINUTE_MS, faults=FaultPlan(**plan)) as one:
            return await one.received(TRADES)

    return asyncio.run(run())


def expected() -> list[int]:
    return synthetic()[0].trades(SYMBOL, START_MS, START_MS + 30 * MINUTE_MS)["agg_trade_id"].to_list()


# -- frames ------------------------------------------------------------------------------------------------------------


def test_a_dropped_frame_is_not_sent_and_a_seed_is_a_history() -> None:
    ids = ids_of(sent(drop=0.2, seed=1))
    assert 0.5 < len(ids) / len(expected()) < 0.95
    assert set(ids) < set(expected())
    assert ids == ids_of(sent(drop=0.2, seed=1))
    assert ids != ids_of(sent(drop=0.2, seed=2))


def test_a_doubled_frame_comes_twice() -> None:
    ids = ids_of(sent(duplicate=0.2))
    assert len(ids) > len(expected())
    assert sorted(set(ids)) == expected()


def test_a_reordered_frame_comes_after_the_one_behind_it_and_none_is_lost() -> None:
    ids = ids_of(sent(reorder=0.2))
    assert ids != expected()
    assert sorted(ids) == expected()
    assert max(abs(at - ids.index(number)) for at, number in enumerate(expected())) == 1


def test_a_malformed_frame_is_cut_and_the_others_are_whole() -> None:
    whole = []
    frames = sent(malformed=0.2)
    for frame in frames:
        try:
            whole.append(json.loads(frame)["a"])
        except json.JSONDecodeError:
            continue
    assert len(frames) == len(expected()) > len(whole)
    assert set(whole) < set(expected())


def test_one_stream_stalls_while_the_others_go_on_and_comes_back_when_it_is_told_to() -> None:
    async def run() -> None:
        tickers = f"{NAME}@bookTicker"
        async with (
            exchange(end_ms=LONG, speed=60) as one,
            connect(f"{one.ws}/stream?streams={NAME}@aggTrade/{tickers}", close_timeout=1) as socket,
        ):

            async def streams(count: int) -> set[str]:
                return {json.loads(await asyncio.wait_for(socket.recv(), 5))["stream"] for _ in range(count)}

            assert len(await streams(200)) == 2
            await set_faults(one, stalled=[f"{NAME}@aggTrade"])
            await streams(100)  # what was on its way
            assert await streams(200) == {tickers}
            await set_faults(one)
            assert len(await streams(300)) == 2

    asyncio.run(run())


def test_a_half_open_socket_stays_open_is_silent_and_answers_no_ping() -> None:
    async def run() -> None:
        async with exchange(end_ms=LONG, speed=60) as one:
            socket = await connect(one.ws + TRADES, ping_interval=None, close_timeout=0.2)
            await socket.recv()
            await asyncio.wait_for(await socket.ping(), 2)
            await set_faults(one, half_open=1.0)
            with pytest.raises(TimeoutError):
                while True:
                    await asyncio.wait_for(socket.recv(), 1.5)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(await socket.ping(), 0.5)
            assert (await get(f"{one.http}/sim/counts"))["open"] == 1
            await socket.close()
            # Another connection is none the wiser once the fault is over.
            await set_faults(one)
            assert len(await one.received(TRADES, until=3)) == 3

    asyncio.run(run())


def test_keepalive_finds_a_half_open_socket() -> None:
    async def run() -> float:
        async with exchange(end_ms=LONG, speed=60, faults=FaultPlan(half_open=1.0)) as one:
            started = time.monotonic()
            with pytest.raises(ConnectionClosed):
                async with connect(one.ws + TRADES, ping_interval=0.3, ping_timeout=0.3, close_timeout=0.3) as socket:
                    await socket.recv()
            return time.monotonic() - started

    assert asyncio.run(run()) < 5


def test_a_storm_cuts_every_connection_soon() -> None:
    async def run() -> int:
        cuts = 0
        async with exchange(end_ms=LONG, speed=60, faults=FaultPlan(storm_s=0.3)) as one:
            for _ in range(5):
                try:
                    async with connect(one.ws + TRADES, close_timeout=0.2) as socket:
                        while True:
                            await asyncio.wait_for(socket.recv(), 2)
                except (ConnectionClosed, OSError):
                    cuts += 1
            await set_faults(one)
            assert len(await one.received(TRADES, until=20)) == 20
        return cuts

    assert asyncio.run(run()) == 5


@pytest.mark.parametrize("combined", [True, False])
def test_a_shutdown_is_announced_in_the_exchanges_form_before_the_cut(combined: bool) -> None:
    path = f"/stream?streams={NAME}@aggTrade" if combined else TRADES

    async def run() -> list[str]:
        plan = FaultPlan(shutdown=1.0, shutdown_lead_s=0.3)
        async with exchange(end_ms=LONG, speed=60, faults=plan) as one:
            return await one.received(path)

    frames = [json.loads(frame) for frame in asyncio.run(run())]
    events = [frame for frame in frames if (frame["data"] if combined else frame)["e"] == "serverShutdown"]
    assert len(events) == 1
    if combined:
        assert list(events[0]) == ["stream", "data"] and events[0]["stream"] == "!serverShutdown"
    assert list(events[0]["data"] if combined else events[0]) == ["e", "E"]
    assert len(frames) > frames.index(events[0]) + 1


def test_a_disconnect_closes_the_socket_after_a_frame() -> None:
    assert 0 < len(sent(disconnect=0.02)) < len(expected())


# -- calls -------------------------------------------------------------------------------------------------------------


async def answered(one: Exchange, count: int = 1) -> list[tuple[int, Any, str]]:
    async with aiohttp.ClientSession() as session:
        found = []
        for _ in range(count):
            async with session.get(f"{one.http}/api/v3/aggTrades?symbol={SYMBOL}") as answer:
                found.append((answer.status, answer.headers, await answer.text()))
        return found


def struck(use: Callable[[Exchange], Awaitable[Any]], **plan: Any) -> Any:
    async def run() -> Any:
        async with exchange(faults=FaultPlan(**plan)) as one:
            return await use(one)

    return asyncio.run(run())


@pytest.mark.parametrize("status", [429, 418])
@pytest.mark.parametrize("wait", [7, 259_200, None])
def test_a_ban_says_how_long_unless_it_does_not(status: int, wait: int | None) -> None:
    ((code, headers, body),) = struck(answered, retry_after_s=wait, **{f"rest_{status}": 1.0})
    assert (code, json.loads(body)["code"]) == (status, -1003)
    assert headers.get("Retry-After") == (None if wait is None else str(wait))


def test_server_errors_come_in_their_kinds() -> None:
    async def many(one: Exchange) -> list[tuple[int, Any, str]]:
        return await answered(one, 60)

    assert {status for status, _, _ in struck(many, rest_5xx=1.0)} == {500, 502, 503, 504}


def test_a_page_comes_with_200_or_with_403() -> None:
    for fault, status in (("rest_html", 200), ("rest_403", 403)):
        ((code, headers, body),) = struck(answered, **{fault: 1.0})
        assert (code, headers["Content-Type"].split(";")[0]) == (status, "text/html")
        assert body.startswith("<!DOCTYPE html>")


def test_a_truncated_answer_is_no_json() -> None:
    ((code, headers, body),) = struck(answered, rest_truncated=1.0)
    assert (code, headers["Content-Type"].split(";")[0]) == (200, "application/json")
    with pytest.raises(json.JSONDecodeError):
        json.loads(body)


def test_a_refused_call_has_no_answer() -> None:
    with pytest.raises(aiohttp.ClientConnectionError):
        struck(answered, rest_refused=1.0)


def test_a_hanging_call_lasts_until_its_caller_gives_up() -> None:
    async def patient(one: Exchange) -> Any:
        return await asyncio.wait_for(answered(one), 0.7)

    with pytest.raises(TimeoutError):
        struck(patient, rest_hang=1.0)


def test_calls_are_struck_as_often_as_asked_and_counted() -> None:
    async def many(one: Exchange) -> tuple[list[int], int]:
        statuses = [status for status, _, _ in await answered(one, 100)]
        return statuses, (await get(f"{one.http}/sim/counts"))["calls"]

    statuses, calls = struck(many, rest_429=0.3, seed=4)
    assert calls == 100
    assert 15 < statuses.count(429) < 45
    assert statuses.count(200) == 100 - statuses.count(429)
    assert (statuses, calls) == struck(many, rest_429=0.3, seed=4)


def test_the_plan_in_force_is_shown_and_a_wrong_one_is_refused() -> None:
    async def use(one: Exchange) -> None:
        await set_faults(one, drop=0.5, stalled=["btcusdt@trade"])
        plan = await get(f"{one.http}/sim/faults")
        assert (plan["drop"], plan["stalled"], plan["duplicate"]) == (0.5, ["btcusdt@trade"], 0.0)
        with pytest.raises(AssertionError, match="unknown field"):
            await set_faults(one, dorp=0.5)
        assert (await get(f"{one.http}/sim/faults"))["drop"] == 0.5

    struck(use)


# -- limits ------------------------------------------------------------------------------------------------------------


def limited(use: Callable[[Exchange], Awaitable[Any]], limit: bool = True) -> Any:
    async def run() -> Any:
        async with exchange(end_ms=LONG, speed=1, limit=limit) as one:
            return await use(one)

    return asyncio.run(run())


async def commands(socket: ClientConnection, count: int) -> int:
    """Return how many of so many commands at once are answered."""
    answers = 0
    try:
        for number in range(count):
            await socket.send(json.dumps({"method": "LIST_SUBSCRIPTIONS", "id": number}))
        while answers < count:
            await asyncio.wait_for(socket.recv(), 2)
            answers += 1
    except ConnectionClosed:
        pass
    return answers


@pytest.mark.parametrize(("path", "most"), [("/ws", 5), ("/market/ws", 10)])
def test_more_messages_a_second_than_allowed_end_the_connection(path: str, most: int) -> None:
    async def use(one: Exchange) -> tuple[int, int]:
        async with connect(one.ws + path, close_timeout=1) as socket:
            first = await commands(socket, most)
        async with connect(one.ws + path, close_timeout=1) as socket:
            second = await commands(socket, most + 1)
            assert socket.close_code == (1008 if second == most else None)
        return first, second

    assert limited(use) == (most, most)
    assert limited(use, limit=False) == (most, most + 1)


def test_pings_count_as_messages() -> None:
    async def use(one: Exchange) -> int | None:
        async with connect(f"{one.ws}/ws", close_timeout=1) as socket:
            for _ in range(6):
                await socket.ping()
            await asyncio.wait_for(socket.wait_closed(), 3)
            return socket.close_code

    assert limited(use) == 1008


def test_a_connection_has_at_most_1024_streams() -> None:
    async def use(one: Exchange) -> None:
        async with connect(f"{one.ws}/ws", close_timeout=1) as socket:
            for count, refused in ((1024, False), (1, True)):
                names = [f"x{count}{n}@trade" for n in range(count)]
                await socket.send(json.dumps({"method": "SUBSCRIBE", "params": names, "id": count}))
                assert ("error" in json.loads(await socket.recv())) is refused

    limited(use)


def test_the_301st_connection_within_five_minutes_is_refused() -> None:
    async def use(one: Exchange) -> list[int]:
        statuses = []
        async with aiohttp.ClientSession() as session:
            for _ in range(301):
                async with session.get(f"{one.http}/ws", headers={"Connection": "close"}) as answer:
                    statuses.append(answer.status)
        with pytest.raises(InvalidStatus):
            await connect(f"{one.ws}/ws")
        return statuses

    statuses = limited(use)
    assert statuses.index(429) == 300


def test_more_request_weight_than_allowed_is_429_with_a_time_to_wait() -> None:
    async def use(one: Exchange) -> None:
        async with aiohttp.ClientSession() as session:
            for number in range(1, 26):
                async with session.get(f"{one.http}/api/v3/depth?symbol={SYMBOL}&limit=5000") as answer:
                    if answer.headers["X-MBX-USED-WEIGHT-1M"] == "250" and number > 1:
                        pytest.skip("a minute ended in the middle")
                    assert answer.status == (429 if number > 24 else 200)
            assert 0 < int(answer.headers["Retry-After"]) <= 60
            # Futures have a host, and a weight, of their own.
            async with session.get(f"{one.http}/fapi/v1/time") as answer:
                assert (answer.status, answer.headers["X-MBX-USED-WEIGHT-1M"]) == (200, "1")

    limited(use)


# -- TLS ---------------------------------------------------------------------------------------------------------------


def test_wss_and_https_are_trusted_by_who_trusts_the_ca_and_by_nobody_else() -> None:
    ca = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    ca.issue_cert("127.0.0.1").configure_cert(server)
    ca.configure_trust(client)

    async def run() -> None:
        async with exchange(tls=server) as one:
            async with connect(f"wss://127.0.0.1:{one.port}{TRADES}", ssl=client, close_timeout=1) as socket:
                assert json.loads(await socket.recv())["e"] == "aggTrade"
            async with aiohttp.ClientSession() as session:
                url = f"https://127.0.0.1:{one.port}/api/v3/time"
                async with session.get(url, ssl=client) as answer:
                    assert "serverTime" in await answer.json()
                with pytest.raises(aiohttp.ClientConnectorCertificateError):
                    await session.get(url)

    asyncio.run(run())


def test_the_program_serves_a_recording_of_frames_over_tls(tmp_path: Path) -> None:
    ca, client, ready = trustme.CA(), ssl.create_default_context(), tmp_path / "ready.json"
    issued, certificate, key = ca.issue_cert("127.0.0.1"), tmp_path / "certificate.pem", tmp_path / "key.pem"
    issued.cert_chain_pems[0].write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)
    ca.configure_trust(client)
    (tmp_path / "wire").mkdir()
    body = {"e": "trade", "E": START_MS, "s": SYMBOL, "t": 7, "p": "1.5", "q": "2", "T": START_MS, "m": True, "M": True}
    frame = json.dumps({"stream": f"{NAME}@trade", "data": body}, separators=(",", ":"))
    (tmp_path / "wire" / "one.jsonl").write_text(f"{START_MS * 10**6} {frame}\n")
    command = [sys.executable, "-m", "resources.simulator", "--recording", str(tmp_path), "--port-file", str(ready)]
    command += ["--start-ms", str(START_MS), "--end-ms", str(START_MS + 1), "--parent", str(os.getpid())]

    async def first(port: int) -> str | bytes:
        url = f"wss://127.0.0.1:{port}/stream?streams={NAME}@trade"
        async with connect(url, ssl=client, close_timeout=1) as socket:
            return await asyncio.wait_for(socket.recv(), 10)

    with subprocess.Popen([*command, "--tls-certificate", str(certificate), "--tls-key", str(key)]) as process:
        try:
            deadline = time.monotonic() + 30
            while not ready.exists():
                assert process.poll() is None and time.monotonic() < deadline
                time.sleep(0.02)
            assert asyncio.run(first(json.loads(ready.read_text())["port"])) == frame
        finally:
            process.terminate()
