"""Hyperliquid's frames and answers, against recordings that others made and against everything that is none."""

import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.captures import frames
from tests.fuzz import ANYTHING, altered, read_or_refused
from tests.recorded import recorded
from trading.market.derivatives import AssetContext, Funding
from trading.market.identified import IdentifiedTrade
from trading.stream.events import Kline
from trading.stream.hyperliquid import (
    decode_all_contexts,
    decode_contexts,
    decode_event,
    decode_fundings,
    decode_instruments,
    decode_klines,
    decode_trades,
    perpetual,
    subscribe,
    trades_of,
)
from trading.stream.identities import Identities
from trading.stream.wire import BadFrame

NOW_MS = 1_700_000_040_000
BTC, PEPE = perpetual("BTC", 5), perpetual("kPEPE", 0)
KNOWN = {"BTC": BTC, "kPEPE": PEPE}
FIXTURES = "raw/hyperliquid_fixtures_nautilus"

TRADE = {"coin": "BTC", "side": "A", "px": "104320.0", "sz": "0.01500", "hash": "0x0", "time": NOW_MS, "tid": 300003}
CANDLE = {"t": NOW_MS, "T": NOW_MS + 59_999, "s": "BTC", "i": "1m", "o": "100.5", "c": "101.0", "h": "102.0"}
CANDLE |= {"l": "99.0", "v": "1.25", "n": 7}
CONTEXT = {"funding": "-0.0000015186", "openInterest": "27353.17682", "oraclePx": "77605.0", "markPx": "77562.0"}
CONTEXT |= {"midPx": None, "premium": None, "impactPxs": None}


def frame(channel: str, data: Any) -> str:
    return json.dumps({"channel": channel, "data": data})


def changed(fields: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {k: v for k, v in (fields | changes).items() if v is not ...}


def trades(*changes: dict[str, Any]) -> str:
    return frame("trades", [changed(TRADE, **change) for change in changes or ({},)])


def active(**changes: Any) -> str:
    return frame("activeAssetCtx", {"coin": "BTC", "ctx": changed(CONTEXT, **changes)})


def read(text: str) -> Any:
    ((coin, event),) = decode_event(text, KNOWN, NOW_MS) or []
    assert coin == "BTC"
    return event


def test_steps_follow_from_the_decimals_of_a_quantity() -> None:
    assert (BTC.price_decimals, BTC.quantity_decimals, PEPE.price_decimals) == (1, 5, 6)
    for decimals in (-1, 7):
        with pytest.raises(BadFrame):
            perpetual("X", decimals)


def test_a_trade_is_read_exactly_under_its_identity() -> None:
    assert read(trades()) == IdentifiedTrade("300003", 1_043_200, 1500, NOW_MS, True)
    assert read(trades({"side": "B"})).buyer_is_maker is False


@pytest.mark.parametrize("price", ["12345", "104321.0", "1234567", "1.2", "9999.9"])
def test_a_price_is_whole_or_has_five_significant_figures(price: str) -> None:
    assert read(trades({"px": price})).price == int(Decimal(price) * 10)


@pytest.mark.parametrize("price", ["12345.6", "104310.5", "100000.1"])
def test_a_price_with_more_figures_is_no_price_of_a_trade(price: str) -> None:
    with pytest.raises(BadFrame, match="significant"):
        decode_event(trades({"px": price}), KNOWN, 0)


def test_a_candle_does_not_say_that_it_is_closed() -> None:
    expected = Kline("1m", NOW_MS, NOW_MS + 59_999, 1005, 1020, 990, 1010, 125_000, None, 7, False)
    assert read(frame("candle", CANDLE)) == expected
    rows = [changed(CANDLE, t=NOW_MS + n * 60_000, T=NOW_MS + (n + 1) * 60_000 - 1) for n in (0, 1)]
    assert [bar.closed for bar in decode_klines(json.dumps(rows), BTC, NOW_MS + 60_000)] == [True, False]


def test_an_asset_context_does_not_say_when() -> None:
    expected = AssetContext(None, 27353.17682, None, -0.0000015186, 1, None, 77562.0, 77605.0)
    assert read(active()) == expected
    assert read(active(funding=None, markPx=None)).funding_interval_h is None
    answer = json.dumps([{"universe": [{"name": "BTC", "szDecimals": 5}]}, [CONTEXT]])
    assert decode_contexts(answer) == {"BTC": expected}


BAD: list[tuple[str, str]] = [
    ("[1]", "not_object"),
    ("nonsense", "not_json"),
    ("{}", "no_event"),
    ('{"channel":"trades"}', "bad_field"),
    (frame("l2Book", {}), "unknown_event"),
    (frame("error", "Invalid subscription"), "command_refused"),
    (trades({"coin": "NOPE"}), "unknown_symbol"),
    (trades({"tid": "7"}), "bad_field"),
    (trades({"tid": -1}), "bad_ids"),
    (trades({"tid": 2**60}), "bad_ids"),
    (trades({"side": "Buy"}), "bad_side"),
    (trades({"px": "0"}), "bad_number"),
    (trades({"px": "1.25"}), "bad_number"),
    (trades({"px": 5}), "bad_field"),
    (trades({"sz": "0.000001"}), "bad_number"),
    (trades({"time": NOW_MS * 1000}), "bad_time"),
    (trades({"time": NOW_MS + 10**9}), "future_time"),
    (trades({}, {"sz": ...}), "bad_field"),
    (frame("candle", changed(CANDLE, i="7m")), "bad_interval"),
    (frame("candle", changed(CANDLE, h="100.0")), "bad_candle"),
    (frame("candle", changed(CANDLE, T=NOW_MS)), "bad_candle"),
    (frame("candle", changed(CANDLE, t=NOW_MS + 1)), "bad_candle"),
    (frame("candle", changed(CANDLE, n=-1)), "bad_candle"),
    (active(markPx="0.0"), "bad_number"),
    (active(openInterest="-1"), "bad_number"),
    (active(funding="NaN"), "bad_number"),
]


@pytest.mark.parametrize(("text", "reason"), BAD)
def test_a_bad_frame_is_refused_by_reason(text: str, reason: str) -> None:
    with pytest.raises(BadFrame) as caught:
        decode_event(text, KNOWN, NOW_MS)
    assert caught.value.reason == reason


def test_a_refused_frame_says_whether_it_may_have_held_trades() -> None:
    for unread in (trades({"px": "0"}), trades()[:-9], "{}", b"\xff"):
        assert trades_of(unread, KNOWN) == set(KNOWN)
    for other in (frame("candle", {}), active(markPx="0.0"), frame("error", "x")):
        assert trades_of(other, KNOWN) == set()


def test_trades_candles_and_contexts_are_asked_for_one_by_one() -> None:
    asked = [json.loads(message)["subscription"] for message in subscribe(["BTC", "kPEPE"])]
    assert asked[3:] == [
        {"type": "trades", "coin": "kPEPE"},
        {"type": "candle", "interval": "1m", "coin": "kPEPE"},
        {"type": "activeAssetCtx", "coin": "kPEPE"},
    ]
    assert {one["coin"] for one in asked[:3]} == {"BTC"}


def test_a_universe_of_another_length_names_nothing() -> None:
    answer = json.dumps([{"universe": [{"name": "BTC", "szDecimals": 5}]}, [CONTEXT, CONTEXT]])
    with pytest.raises(BadFrame, match="2 contexts of 1 coins"):
        decode_contexts(answer)


# -- recorded by others ------------------------------------------------------------------------------------------------


def fixture(name: str) -> tuple[bytes, Any]:
    body = recorded(f"{FIXTURES}/{name}.json").read_bytes()
    return body, json.loads(body)


def info(name: str, kind: str) -> list[tuple[Any, bytes]]:
    """Return (request, response) of the recorded answers of one kind."""
    exchanges = json.loads(recorded(f"raw/hyperliquid_info/{name}.json").read_bytes())
    return [(e["request"], json.dumps(e["response"]).encode()) for e in exchanges if e["request"]["type"] == kind]


def test_recorded_trades_are_read_exactly_and_each_once() -> None:
    held, read_back, written = Identities(), list[IdentifiedTrade](), list[IdentifiedTrade]()
    for _, line in frames("raw/hyperliquid/btcusd_20250126.gz"):
        plain = json.loads(line)
        if plain["channel"] != "trades":
            with pytest.raises(BadFrame, match="unknown_event"):
                decode_event(line, KNOWN, 0)
            continue
        for row in plain["data"]:
            price, quantity = int(Decimal(row["px"]) * 10), int(Decimal(row["sz"]) * 10**5)
            written.append(IdentifiedTrade(str(row["tid"]), price, quantity, row["time"], row["side"] == "A"))
        for again in (line, line):  # as two sockets bring it
            taken = [event for _, event in decode_event(again, KNOWN, 0) or [] if isinstance(event, IdentifiedTrade)]
            read_back += held.take(taken)
    assert len(written) == 64
    assert read_back == written
    assert [stretch.state for stretch in held.stretches()] == ["unproven"]


def test_recorded_contexts_are_read_as_they_were_written() -> None:
    body, plain = fixture("ws_all_dexs_asset_ctxs")
    universes = {dex: [f"{dex}:{n}" for n in range(len(rows))] for dex, rows in plain["data"]["ctxs"]}
    contexts = decode_all_contexts(body, universes)
    rows = [row for _, rows in plain["data"]["ctxs"] for row in rows]
    assert len(contexts) == len(rows) == 412
    for context, row in zip(contexts.values(), rows, strict=True):
        written = (float(row["openInterest"]), float(row["funding"]), float(row["markPx"]), float(row["oraclePx"]))
        assert (context.open_interest, context.funding_rate, context.mark_price, context.index_price) == written
    with pytest.raises(BadFrame):
        decode_all_contexts(body, universes | {"": ["BTC"]})


@pytest.mark.parametrize("name", ["get_funding_history_1684811870000", "get_funding_history_None"])
def test_recorded_fundings_are_read_as_they_were_written(name: str) -> None:
    ((request, body),) = info(name, "fundingHistory")
    rows = json.loads(body)
    fundings = decode_fundings(body, request["coin"])
    assert fundings == [Funding(row["time"], float(row["fundingRate"])) for row in rows]
    assert [funding.time_ms for funding in fundings] == sorted(funding.time_ms for funding in fundings)
    body, rows = fixture("http_funding_history")
    assert decode_fundings(body, "BTC") == [Funding(row["time"], float(row["fundingRate"])) for row in rows]
    with pytest.raises(BadFrame):
        decode_fundings(body, "ETH")


def test_recorded_candles_are_read_as_they_were_written() -> None:
    ((request, body),) = info("get_candles_snapshot", "candleSnapshot")
    ((_, meta),) = info("get_candles_snapshot", "meta")
    pepe = decode_instruments(meta)[request["req"]["coin"]]
    bars = decode_klines(body, pepe, request["req"]["endTime"])
    rows = json.loads(body)
    assert [(b.open_time_ms, b.close_time_ms, b.trades) for b in bars] == [(r["t"], r["T"], r["n"]) for r in rows]
    assert [b.close for b in bars] == [int(Decimal(r["c"]) * 10**6) for r in rows]
    assert [b.closed for b in bars] == [r["T"] < request["req"]["endTime"] for r in rows]


def test_a_made_up_list_of_trades_breaks_the_rule_of_figures_and_is_refused_whole() -> None:
    body, rows = fixture("http_recent_trades_btc")
    with pytest.raises(BadFrame, match=r"104310\.5"):
        decode_trades(body, BTC)
    mended = decode_trades(body.replace(b"104310.5", b"104310.0"), BTC)
    assert [trade.trade_id for trade in mended] == [str(row["tid"]) for row in rows[::-1]]


def test_every_recorded_file_is_read_or_refused_with_a_word() -> None:
    bodies = [path.read_bytes() for path in sorted(recorded(FIXTURES).glob("*.json"))]
    for path in sorted(recorded("raw/hyperliquid_info").glob("*.json")):
        bodies += [json.dumps(exchange["response"]).encode() for exchange in json.loads(path.read_bytes())]
    for body in bodies:
        read_or_refused(DECODERS, body)


# -- anything ----------------------------------------------------------------------------------------------------------

DECODERS: list[Callable[[bytes], Any]] = [
    lambda body: decode_event(body, KNOWN, 0),
    lambda body: decode_all_contexts(body, {"": ["BTC"]}),
    lambda body: decode_trades(body, BTC),
    lambda body: decode_klines(body, BTC, NOW_MS),
    lambda body: decode_fundings(body, "BTC"),
    decode_contexts,
    decode_instruments,
    lambda body: trades_of(body, KNOWN),
]
GOOD = [
    trades({}, {"tid": 5}),
    frame("candle", CANDLE),
    active(),
    frame("allDexsAssetCtxs", {"ctxs": [["", [CONTEXT]]]}),
]
GOOD += [json.dumps([{"universe": [{"name": "BTC", "szDecimals": 5}]}, [CONTEXT]]), json.dumps([TRADE])]
GOOD += [json.dumps([CANDLE]), json.dumps([{"coin": "BTC", "fundingRate": "0.1", "premium": "0", "time": NOW_MS}])]


@given(ANYTHING)
def test_anything_is_read_or_refused(body: bytes) -> None:
    read_or_refused(DECODERS, body)


@given(st.sampled_from(GOOD), st.data())
def test_a_good_frame_with_one_field_replaced_is_read_or_refused(text: str, data: st.DataObject) -> None:
    read_or_refused(DECODERS, altered(text, data))
