"""The REST clients page through spans as each venue's rules are, over answers that others recorded."""

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from resources.binance import UnknownSymbol
from resources.binance_usdm import HISTORY_PAGE, PERIOD_MS, NoFuturesRoot, UsdmRest, oldest_kept_ms
from resources.bybit import BybitRest
from resources.hyperliquid import HyperliquidRest
from resources.rest_root import ExchangeAnswer, ExchangeRefused
from resources.venue_rest import forward
from tests.loopback import Answer, Asked, loopback
from tests.recorded import recorded
from trading.market.derivatives import AssetContext, Funding, OpenInterest
from trading.market.instrument import Instrument
from trading.market.timeframe import DAY_MS, HOUR_MS, MINUTE_MS
from trading.stream.hyperliquid import perpetual

NOW_MS = 1_700_006_400_000
BTC = Instrument("bybit", "BTCUSDT", "BTC", "USDT", 2, 3, "linear")
Client = TypeVar("Client", UsdmRest, BybitRest, HyperliquidRest)
Found = TypeVar("Found")


def asking(rest: Client, question: Callable[[Client], Awaitable[Found]]) -> Found:
    async def ask() -> Found:
        try:
            return await question(rest)
        finally:
            await rest.close()

    return asyncio.run(ask())


def said(value: Any) -> Answer:
    return 200, json.dumps(value), {}


def bybit_says(rows: list[Any], **more: Any) -> Answer:
    return said({"retCode": 0, "retMsg": "OK", "result": {"list": rows} | more, "time": NOW_MS})


def span(asked: Asked, lo: str = "startTime", hi: str = "endTime") -> tuple[int, int]:
    return int(asked.parameters[lo]), int(asked.parameters[hi])


@example(times=[0, 0, 1, 1], lo=0, length=2, page=3)
@given(
    times=st.lists(st.integers(0, 30), max_size=40).map(sorted),
    lo=st.integers(0, 30),
    length=st.integers(0, 31),
    page=st.integers(3, 9),
)
def test_paging_onwards_finds_each_row_once_wherever_a_page_parts_a_millisecond(
    times: list[int], lo: int, length: int, page: int
) -> None:
    rows = [Funding(time, float(number)) for number, time in enumerate(times)]
    busiest = max((times.count(time) for time in times), default=0)

    async def ask(at_ms: int) -> list[Funding]:
        return [row for row in rows if row.time_ms >= at_ms][:page]

    found = asyncio.run(forward(ask, lo, lo + length, page))
    expected = [row for row in rows if lo <= row.time_ms < lo + length]
    assert len(set(found)) == len(found)
    assert found == expected if busiest < page else set(found) <= set(expected)


def test_recorded_fundings_are_paged_through_with_nothing_lost_at_the_edges() -> None:
    answers = json.loads(gzip.decompress(recorded("raw/binance_rest/recorded_rest.json.gz").read_bytes()))
    (rows,) = [a["data"] for a in answers if a["path"] == "/dapi/v1/fundingRate" and len(a["data"] or ()) == 50]

    def answer(asked: Asked) -> Answer:
        lo, hi = span(asked)
        assert int(asked.parameters["limit"]) == 1000
        return said([row for row in rows if lo <= row["fundingTime"] <= hi][:1000])

    with loopback(answer) as server:
        lo, hi = rows[0]["fundingTime"], rows[-1]["fundingTime"]
        found = asking(UsdmRest(server.root), lambda rest: rest.fundings("BTCUSD_PERP", lo, hi))
    assert found == [Funding(row["fundingTime"], float(row["fundingRate"])) for row in rows[:-1]]
    assert server.paths == ["/fapi/v1/fundingRate"]


def test_open_interest_is_asked_for_in_pages_and_never_beyond_thirty_days() -> None:
    def answer(asked: Asked) -> Answer:
        lo, hi = span(asked)
        if lo < NOW_MS - 30 * DAY_MS:
            return 400, '{"code":-1130,"msg":"parameter \'startTime\' is invalid."}', {}
        times = range(-(-lo // PERIOD_MS) * PERIOD_MS, hi + 1, PERIOD_MS)
        rows = [
            {"symbol": "BTCUSDT", "sumOpenInterest": "1.5", "sumOpenInterestValue": "9", "timestamp": t} for t in times
        ]
        assert len(rows) <= HISTORY_PAGE
        return said(rows)

    with loopback(answer) as server:
        found = asking(
            UsdmRest(server.root), lambda r: r.open_interest_history("BTCUSDT", NOW_MS - 40 * DAY_MS, NOW_MS, NOW_MS)
        )
    assert [row.time_ms for row in found] == list(
        range(-(-oldest_kept_ms(NOW_MS) // PERIOD_MS) * PERIOD_MS, NOW_MS, PERIOD_MS)
    )
    assert found[0] == OpenInterest(found[0].time_ms, 1.5, 9.0)


def test_a_premium_index_is_read_and_an_answer_about_another_symbol_is_refused() -> None:
    written = {"symbol": "BTCUSDT", "markPrice": "11793.63104562", "indexPrice": "11781.80495970", "time": NOW_MS}
    written |= {"lastFundingRate": "0.00038246", "nextFundingTime": NOW_MS + HOUR_MS, "interestRate": "0.0001"}
    with loopback(lambda _: said(written)) as server:
        context = asking(UsdmRest(server.root), lambda rest: rest.premium_index("BTCUSDT"))
        with pytest.raises(ExchangeAnswer, match="BTCUSDT instead of ETHUSDT"):
            asking(UsdmRest(server.root), lambda rest: rest.premium_index("ETHUSDT"))
    assert context == AssetContext(
        NOW_MS, None, None, 0.00038246, None, NOW_MS + HOUR_MS, 11793.63104562, 11781.8049597
    )


def test_a_spot_root_is_no_futures_root_and_an_unknown_symbol_is_one() -> None:
    with loopback(lambda _: (404, "404: Not Found", {})) as server, pytest.raises(NoFuturesRoot, match="fundingRate"):
        asking(UsdmRest(server.root), lambda rest: rest.fundings("BTCUSDT", 0, 10))
    refused = (400, '{"code":-1121,"msg":"Invalid symbol."}', {})
    with loopback(lambda _: refused) as server, pytest.raises(UnknownSymbol):
        asking(UsdmRest(server.root), lambda rest: rest.open_interest("NOPEUSDT"))


def test_bybit_is_asked_for_spans_that_its_pages_hold() -> None:
    def answer(asked: Asked) -> Answer:
        call = asked.path.removeprefix("/v5/market/")
        assert asked.parameters["category"] == "linear"
        if call == "kline":
            lo, hi = span(asked, "start", "end")
            bars = [[str(t), "1", "2", "1", "2", "3", "9"] for t in range(lo, hi + 1, MINUTE_MS)]
            assert len(bars) <= int(asked.parameters["limit"])
            return bybit_says(bars[::-1], symbol="BTCUSDT")
        lo, hi = span(asked)
        step = PERIOD_MS if call == "open-interest" else HOUR_MS
        times = list(range(-(-lo // step) * step, hi + 1, step))
        assert len(times) <= int(asked.parameters["limit"])
        if call == "open-interest":
            return bybit_says([{"openInterest": "1", "timestamp": str(t)} for t in times[::-1]], nextPageCursor="x")
        return bybit_says(
            [{"symbol": "BTCUSDT", "fundingRate": "0.1", "fundingRateTimestamp": str(t)} for t in times[::-1]]
        )

    lo = NOW_MS - 20 * DAY_MS
    with loopback(answer) as server:
        bars = asking(BybitRest(server.root), lambda rest: rest.klines(BTC, "1", NOW_MS - DAY_MS, NOW_MS + MINUTE_MS))
        interest = asking(BybitRest(server.root), lambda rest: rest.open_interest("BTCUSDT", lo, NOW_MS))
        fundings = asking(BybitRest(server.root), lambda rest: rest.fundings("BTCUSDT", lo, NOW_MS))
    assert [bar.open_time_ms for bar in bars] == list(range(NOW_MS - DAY_MS, NOW_MS + MINUTE_MS, MINUTE_MS))
    assert [bar.closed for bar in bars[-2:]] == [True, False]
    assert [row.time_ms for row in interest] == list(range(lo, NOW_MS, PERIOD_MS))
    assert [row.time_ms for row in fundings] == list(range(lo, NOW_MS, HOUR_MS))


def test_bybit_serves_recorded_trades_and_says_by_code_what_it_refuses() -> None:
    trades = recorded("raw/bybit_fixtures_nautilus/http_get_trades_recent.json").read_text()
    with loopback(lambda _: (200, trades, {})) as server:
        (trade,) = asking(BybitRest(server.root), lambda rest: rest.trades(BTC))
        assert trade.trade_id == "a905d5c3-1ed0-4f37-83e4-9c73a2fe2f01"
    refused = {"retCode": 10001, "retMsg": "params error: symbol invalid", "result": {}, "time": NOW_MS}
    with loopback(lambda _: said(refused)) as server:
        with pytest.raises(ExchangeRefused, match="symbol invalid"):
            asking(BybitRest(server.root), lambda rest: rest.trades(BTC))
        assert len(server.asked) == 1


@pytest.mark.parametrize(("category", "most"), [("linear", 1000), ("inverse", 1000), ("spot", 60)])
def test_bybit_is_asked_for_no_more_recent_trades_than_it_serves_of_a_category(category: str, most: int) -> None:
    with loopback(lambda _: bybit_says([])) as server:
        assert asking(BybitRest(server.root, category), lambda rest: rest.trades(BTC)) == []
        (asked,) = server.asked
    assert (asked.parameters["category"], asked.parameters["limit"]) == (category, str(most))


def test_a_forbidden_bybit_is_left_alone_for_ten_minutes() -> None:
    async def ask() -> float:
        rest = BybitRest(server.root)
        try:
            await asyncio.wait_for(rest.trades(BTC), 1)
        except TimeoutError:
            return rest._rest.budget.take(1)
        finally:
            await rest.close()
        return 0.0

    with loopback(lambda _: (403, "access too frequent", {})) as server:
        assert asyncio.run(ask()) > 590
        assert len(server.asked) == 1


def recorded_info(name: str, kind: str) -> tuple[Any, Any]:
    (exchange,) = [
        e
        for e in json.loads(recorded(f"raw/hyperliquid_info/{name}.json").read_bytes())
        if e["request"]["type"] == kind
    ]
    return exchange["request"], exchange["response"]


def test_hyperliquid_serves_recorded_fundings_in_pages_of_five_hundred() -> None:
    _, rows = recorded_info("get_funding_history_None", "fundingHistory")

    def answer(asked: Asked) -> Answer:
        assert asked.path == "/info"
        lo, hi = span(asked)
        return said([row for row in rows if lo <= row["time"] <= hi][:500])

    with loopback(answer) as server:
        hi = rows[-1]["time"] + 1
        found = asking(HyperliquidRest(server.root), lambda rest: rest.fundings("BTC", rows[0]["time"], hi))
    assert found == [Funding(row["time"], float(row["fundingRate"])) for row in rows]
    assert len(server.asked) == 1 + (len(rows) - 1) // 499


def test_hyperliquid_serves_recorded_candles_and_instruments() -> None:
    request, rows = recorded_info("get_candles_snapshot", "candleSnapshot")
    _, meta = recorded_info("get_candles_snapshot", "meta")
    asked_for, now_ms = request["req"], request["req"]["endTime"]

    def answer(asked: Asked) -> Answer:
        if asked.parameters["type"] == "meta":
            return said(meta)
        lo, hi = span(Asked(0, "", asked.parameters["req"]))
        return said([row for row in rows if row["T"] >= lo and row["t"] <= hi])

    with loopback(answer) as server:
        known = asking(HyperliquidRest(server.root), lambda rest: rest.instruments())
        assert known["BTC"] == perpetual("BTC", 5)
        pepe = known[asked_for["coin"]]
        bars = asking(
            HyperliquidRest(server.root), lambda r: r.klines(pepe, "1h", asked_for["startTime"], now_ms, now_ms)
        )
    assert [bar.open_time_ms for bar in bars] == [row["t"] for row in rows if row["t"] >= asked_for["startTime"]]


def test_hyperliquid_refuses_in_words() -> None:
    with loopback(lambda _: (422, "Failed to deserialize", {})) as server, pytest.raises(ExchangeRefused, match="422"):
        asking(HyperliquidRest(server.root), lambda rest: rest.contexts())
