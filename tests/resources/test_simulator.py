"""Each stream and call of the simulated exchange, as a client over loopback sees it."""

import asyncio
import gzip
import json
from typing import Any

import aiohttp
import pytest
from websockets.asyncio.client import connect

from resources.simulator.synthetic import SyntheticMarket
from tests.captures import feed, frames
from tests.recorded import recorded
from tests.resources.simulated import SEED, START_MS, SYMBOL, Exchange, exchange, get, synthetic
from trading.market.instrument import Instrument
from trading.market.timeframe import DAY_MS, HOUR_MS, MINUTE_MS
from trading.market.trade import AggTrade
from trading.stream.book_sync import BookSync
from trading.stream.events import BookTicker, DepthDiff, MarkPrice, decode_depth_snapshot, decode_event

SPOT = Instrument("sim", SYMBOL, "BTC", "USDT", 2, 5)
USDM = Instrument("sim", SYMBOL, "BTC", "USDT", 2, 5, "usdm")
NAME = SYMBOL.lower()


def shape(value: Any) -> Any:
    """Return names in their order and kinds of values; texts of numbers are numbers."""
    if isinstance(value, dict):
        return [(name, shape(part)) for name, part in value.items()]
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    if isinstance(value, str) and value.lstrip("-").replace(".", "", 1).isdigit():
        return "number"
    return type(value).__name__


async def streamed(root: str, *streams: str, **options: Any) -> list[dict[str, Any]]:
    async with exchange(**options) as one:
        texts = await one.received(f"{root}/stream?streams={'/'.join(streams)}")
    return [json.loads(text) for text in texts]


def of(events: list[dict[str, Any]], stream: str) -> list[dict[str, Any]]:
    return [event["data"] for event in events if event["stream"] == stream]


# -- shapes ------------------------------------------------------------------------------------------------------------


def recorded_shapes() -> dict[tuple[str, str], Any]:
    """Return the shape of one recorded frame of each kind of market and event."""
    found: dict[tuple[str, str], Any] = {}
    for kind, file in (
        ("spot", "raw/binance_spot/btcusdt_20240808.gz"),
        ("usdm", "raw/binance_usdm/btcusdt_20240808.gz"),
    ):
        for _, frame in frames(file):
            body = json.loads(frame)
            stream = body.get("stream", "@snapshot").partition("@")[2].partition("@")[0]
            body = body.get("data", body)
            if all(body.get(side, True) for side in ("a", "b")):
                found.setdefault((kind, stream), shape(body))
            if sum(of == kind for of, _ in found) == 4:
                break
    for _, _, frame in feed("raw/cryptofeed/BINANCE.ws.1.0.gz"):
        stream, body = (json.loads(frame)[name] for name in ("stream", "data"))
        found.setdefault(("spot", stream.partition("@")[2]), shape(body))
    for line in recorded("raw/binance_usdm_2026/frames_2026-08-08.jsonl").read_bytes().splitlines():
        stream, body = (json.loads(line)[name] for name in ("stream", "data"))
        found.setdefault(("usdm", stream.partition("@")[2]), shape(body))
    return found


def test_every_event_has_the_names_in_the_order_and_the_types_of_a_recorded_one() -> None:
    expected = recorded_shapes()
    kinds = ("aggTrade", "trade", "bookTicker", "kline_1m", "depth")

    async def run() -> dict[tuple[str, str], Any]:
        seen: dict[tuple[str, str], Any] = {}
        streams = [f"{NAME}@{name}" for name in (*kinds, "markPrice")]
        for kind, root in (("spot", ""), ("usdm", "/market"), ("usdm", "/public")):
            async with exchange() as one:
                for text in await one.received(f"{root}/stream?streams={'/'.join(streams)}", until=200):
                    event = json.loads(text)
                    if all(event["data"].get(side, True) for side in ("a", "b")):
                        seen.setdefault((kind, event["stream"].partition("@")[2]), shape(event["data"]))
        async with exchange() as one:
            for kind, path in (("spot", "/api/v3/depth"), ("usdm", "/fapi/v1/depth")):
                seen[kind, "snapshot"] = shape(await get(one.http + path, symbol=SYMBOL, limit=5))
        return seen

    seen = asyncio.run(run())
    assert {("spot", name) for name in (*kinds, "snapshot")} <= seen.keys()
    assert {("usdm", name) for name in (*kinds, "snapshot", "markPrice")} <= seen.keys()
    for which, found in seen.items():
        assert found == expected[which], which


def test_every_answer_has_the_names_and_types_of_a_recorded_one() -> None:
    answers = json.loads(gzip.decompress(recorded("raw/binance_rest/recorded_rest.json.gz").read_bytes()))
    expected: dict[str, Any] = {}
    for answer in answers:
        body = answer["data"][0] if isinstance(answer["data"], list) and answer["data"] else answer["data"]
        if body and "code" not in body and "" not in body:
            expected.setdefault(answer["path"], body)
    query: dict[str, dict[str, Any]] = {
        "/api/v3/aggTrades": {},
        "/api/v3/klines": {"interval": "5m"},
        "/api/v3/depth": {},
        "/api/v3/trades": {},
        "/fapi/v1/aggTrades": {},
        "/fapi/v1/klines": {"interval": "5m"},
        "/fapi/v1/depth": {"limit": 5},
        "/fapi/v1/trades": {},
        "/fapi/v1/time": {},
        "/fapi/v1/premiumIndex": {},
        "/fapi/v1/fundingRate": {},
        "/fapi/v1/openInterest": {},
        "/futures/data/openInterestHist": {"period": "1d"},
    }
    later = {"/fapi/v1/fundingRate": "markPrice"}  # names that the exchange has added since

    async def run() -> None:
        async with exchange() as one:
            for path, asked in query.items():
                answer = await get(one.http + path, symbol=SYMBOL, **asked)
                body = answer[0] if isinstance(answer, list) else answer
                if isinstance(body, dict):
                    body = {name: value for name, value in body.items() if name != later.get(path)}
                    # The recorder sorted its names.
                    assert shape(dict(sorted(body.items()))) == shape(dict(sorted(expected[path].items()))), path
                else:
                    assert [shape(value) for value in body] == [shape(value) for value in expected[path]], path

    asyncio.run(run())


# -- streams -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("root", "kind"), [("", 0), ("/market", 1)])
def test_trades_and_their_fills_are_the_markets(root: str, kind: int) -> None:
    events = asyncio.run(streamed(root, f"{NAME}@aggTrade", f"{NAME}@trade"))
    market = synthetic()[kind]
    trades = market.trades(SYMBOL, START_MS, START_MS + 2 * MINUTE_MS)
    assert [e["a"] for e in of(events, f"{NAME}@aggTrade")] == trades["agg_trade_id"].to_list()
    fills = of(events, f"{NAME}@trade")
    assert [e["t"] for e in fills] == list(range(trades["first_trade_id"][0], trades["last_trade_id"][-1] + 1))
    instrument = market.instrument(SYMBOL)
    assert sum(instrument.lots(e["q"]) for e in fills) == trades["quantity"].sum()


@pytest.mark.parametrize(("root", "calls", "instrument"), [("", "/api/v3", SPOT), ("/public", "/fapi/v1", USDM)])
@pytest.mark.parametrize("speed", ["@100ms", ""])
def test_a_book_kept_from_the_stream_is_never_lost_and_shows_the_best_prices_that_were_sent(
    root: str, calls: str, instrument: Instrument, speed: str
) -> None:
    async def run(one: Exchange) -> tuple[BookSync, int]:
        sync, agreed, newest = BookSync(), 0, dict[int, BookTicker]()
        asking: asyncio.Task[str] | None = None
        async with (
            aiohttp.ClientSession() as session,
            connect(f"{one.ws}{root}/stream?streams={NAME}@depth{speed}/{NAME}@bookTicker", close_timeout=1) as socket,
        ):

            async def ask() -> str:
                async with session.get(f"{one.http}{calls}/depth?symbol={SYMBOL}&limit=1000") as answer:
                    return await answer.text()

            while True:
                try:
                    frame = await asyncio.wait_for(socket.recv(), 0.2)
                except TimeoutError:
                    if one.server.finished:
                        return sync, agreed
                    continue
                decoded = decode_event(frame, {SYMBOL: instrument}, 0)
                assert isinstance(decoded, tuple)
                if isinstance(decoded[1], BookTicker):
                    newest[decoded[1].update_id] = decoded[1]
                    continue
                assert isinstance(decoded[1], DepthDiff)
                if sync.diff(decoded[1]) and asking is None:
                    asking = asyncio.create_task(ask())
                if asking and asking.done():
                    sync.snapshot(decode_depth_snapshot(asking.result(), instrument))
                    asking = None
                top = sync.top(1)
                ticker = newest.get(top.last_update_id) if top else None
                if top and ticker:
                    assert top.bids[0].tolist() == [ticker.bid_price, ticker.bid_quantity]
                    assert top.asks[0].tolist() == [ticker.ask_price, ticker.ask_quantity]
                    agreed += 1

    async def whole() -> tuple[BookSync, int]:
        async with exchange(end_ms=START_MS + 3 * MINUTE_MS, speed=100) as one:
            return await run(one)

    sync, agreed = asyncio.run(whole())
    assert sync.needs is None
    assert sync.counts["first"] + sync.counts["stale"] + sync.counts["gap"] + sync.counts["crossed"] == 0
    assert sync.counts["applied"] > (1000 if speed else 100)
    assert agreed > 5


@pytest.mark.parametrize("root", ["", "/public"])
@pytest.mark.parametrize(("stream", "period_ms"), [("depth5@100ms", 100), ("depth10", 0), ("depth20@100ms", 100)])
def test_the_best_levels_are_those_of_the_whole_book(root: str, stream: str, period_ms: int) -> None:
    events = asyncio.run(streamed(root, f"{NAME}@{stream}", f"{NAME}@depth@100ms"))
    levels, period_ms = int(stream[5:7].rstrip("@")), period_ms or (250 if root else 1000)
    tops = of(events, f"{NAME}@{stream}")
    assert len(tops) == 2 * MINUTE_MS // period_ms
    bids = "b" if root else "bids"
    assert all(len(top[bids]) == levels for top in tops)
    book = synthetic()[1 if root else 0].book(SYMBOL)
    depth = book.depth(START_MS + 2 * MINUTE_MS - 1, levels)
    instrument = USDM if root else SPOT
    last = [(instrument.ticks(price), instrument.lots(quantity)) for price, quantity in tops[-1][bids]]
    assert (tops[-1]["u" if root else "lastUpdateId"], last) == (depth.update_id, depth.bids)


def test_mark_prices_come_each_second_or_each_third() -> None:
    events = asyncio.run(streamed("/market", f"{NAME}@markPrice", f"{NAME}@markPrice@1s"))
    for stream, period_ms in (("markPrice", 3000), ("markPrice@1s", 1000)):
        found = [e["E"] for e in of(events, f"{NAME}@{stream}")]
        assert found == list(range(START_MS + period_ms, START_MS + 2 * MINUTE_MS + 1, period_ms))
    decoded = decode_event(json.dumps(events[0]["data"]), {SYMBOL: USDM}, 0)
    assert isinstance(decoded, tuple) and isinstance(decoded[1], MarkPrice)


def test_a_best_price_moves_before_the_trade_that_it_moves_for_and_holds_less_after_it() -> None:
    events = asyncio.run(streamed("", f"{NAME}@aggTrade", f"{NAME}@bookTicker"))
    decoded = [decode_event(json.dumps(event), {SYMBOL: SPOT}, 0) for event in events]
    told = [one[1] for one in decoded if isinstance(one, tuple)]
    trades = [place for place, one in enumerate(told) if isinstance(one, AggTrade)]
    assert len(trades) > 10
    for place in trades:
        before, trade, after = told[place - 1 : place + 2]
        assert isinstance(before, BookTicker) and isinstance(trade, AggTrade) and isinstance(after, BookTicker)
        if trade.buyer_is_maker:
            assert before.bid_price == after.bid_price == trade.price
            assert before.bid_quantity - after.bid_quantity == trade.quantity
        else:
            assert before.ask_price == after.ask_price == trade.price
            assert before.ask_quantity - after.ask_quantity == trade.quantity


@pytest.mark.parametrize(
    ("root", "silent"),
    [
        ("/market", "depth@100ms"),
        ("/market", "bookTicker"),
        ("/public", "aggTrade"),
        ("/public", "markPrice"),
        ("/fstream", "aggTrade"),
    ],
)
def test_a_root_of_futures_accepts_what_it_does_not_carry_and_is_silent(root: str, silent: str) -> None:
    async def run() -> list[str]:
        async with exchange(speed=200) as one:
            return await one.received(f"{root}/ws/{NAME}@{silent}")

    assert asyncio.run(run()) == []


def test_the_same_seed_sends_the_same_bytes_and_another_does_not() -> None:
    streams = [f"{NAME}@{kind}" for kind in ("aggTrade", "trade", "depth@100ms", "bookTicker", "depth5", "kline_1m")]

    async def run(seed: int) -> list[str]:
        async with exchange(synthetic(SYMBOL, seed)) as one:
            return await one.received(f"/stream?streams={'/'.join(streams)}")

    first, again, other = (asyncio.run(run(seed)) for seed in (SEED, SEED, SEED + 1))
    assert len(first) > 1500
    assert first == again
    assert first != other


# -- calls -------------------------------------------------------------------------------------------------------------


def test_a_snapshot_costs_what_its_depth_costs() -> None:
    async def run() -> None:
        async with exchange() as one, aiohttp.ClientSession() as session:
            used = {"api/v3": 0, "fapi/v1": 0}
            for root, limit, weight in (
                ("api/v3", None, 5),
                ("api/v3", 500, 25),
                ("api/v3", 1000, 50),
                ("api/v3", 5000, 250),
                ("fapi/v1", None, 10),
                ("fapi/v1", 5, 2),
                ("fapi/v1", 1000, 20),
            ):
                query = {"symbol": SYMBOL} | ({"limit": str(limit)} if limit else {})
                async with session.get(f"{one.http}/{root}/depth", params=query) as answer:
                    used[root] += weight
                    assert int(answer.headers["X-MBX-USED-WEIGHT-1M"]) == used[root]
                    body = await answer.json()
                    assert 0 < len(body["bids"]) <= (limit or (100 if root == "api/v3" else 500))
            async with session.get(f"{one.http}/fapi/v1/depth?symbol={SYMBOL}&limit=7") as answer:
                assert (answer.status, (await answer.json())["code"]) == (400, -4021)

    asyncio.run(run())


def test_a_busy_market_trades_so_often_in_every_second_and_is_its_seeds_own() -> None:
    busy, again = (SyntheticMarket(SEED, [SYMBOL], trades_per_second=100) for _ in range(2))
    trades = busy.trades(SYMBOL, START_MS, START_MS + 2 * MINUTE_MS)
    assert trades.equals(again.trades(SYMBOL, START_MS, START_MS + 2 * MINUTE_MS))
    assert trades["time_ms"].is_sorted() and trades["agg_trade_id"].diff().drop_nulls().eq(1).all()
    a_second = trades.group_by(trades["time_ms"] // 1000).len()["len"]
    assert len(a_second) == 120 and a_second.min() >= 99 and a_second.max() <= 101
    assert busy.trades_by_id(SYMBOL, trades["agg_trade_id"][5000], 1000).equals(trades[5000:6000])


def test_fundings_and_open_interest_come_by_time_and_never_from_the_future() -> None:
    start_ms = START_MS + 40 * DAY_MS

    async def run() -> None:
        async with exchange(start_ms=start_ms, end_ms=start_ms + HOUR_MS) as one:
            rates = await get(f"{one.http}/fapi/v1/fundingRate", symbol=SYMBOL, startTime=START_MS, limit=1000)
            assert len(rates) == 120
            assert [r["fundingTime"] for r in rates] == sorted(r["fundingTime"] for r in rates)
            newest = await get(f"{one.http}/fapi/v1/fundingRate", symbol=SYMBOL, limit=3)
            assert newest == rates[-3:]
            history = f"{one.http}/futures/data/openInterestHist"
            found = await get(history, symbol=SYMBOL, period="5m", limit=500)
            assert len(found) == 500
            assert found[-1]["timestamp"] == start_ms // 300_000 * 300_000
            since = await get(history, symbol=SYMBOL, period="5m", startTime=found[-10]["timestamp"])
            assert since == found[-10:]
            with pytest.raises(AssertionError, match="-1130"):
                await get(history, symbol=SYMBOL, period="5m", startTime=START_MS)

    asyncio.run(run())


def test_the_newest_fills_are_those_of_the_newest_trades() -> None:
    async def run() -> None:
        async with exchange() as one:
            fills = await get(f"{one.http}/api/v3/trades", symbol=SYMBOL, limit=10)
            trades = await get(f"{one.http}/api/v3/aggTrades", symbol=SYMBOL, limit=5)
            assert [f["id"] for f in fills] == [n for t in trades for n in (t["f"], t["l"])]

    asyncio.run(run())
