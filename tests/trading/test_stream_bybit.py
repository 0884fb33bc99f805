"""Bybit's frames and answers, against recordings that others made and against everything that is none."""

import gzip
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import ANYTHING, altered, read_or_refused
from tests.recorded import recorded
from trading.market.derivatives import AssetContext, Funding, OpenInterest
from trading.market.identified import IdentifiedTrade
from trading.market.instrument import Instrument
from trading.stream.bybit import (
    BybitRefused,
    answered_at,
    decode_event,
    decode_fundings,
    decode_instruments,
    decode_klines,
    decode_open_interest,
    decode_trades,
    refusal,
    subscribe,
    trades_of,
)
from trading.stream.events import Kline
from trading.stream.wire import BadFrame

NOW_MS = 1_700_000_040_000
BTC = Instrument("bybit", "BTCUSDT", "BTC", "USDT", 2, 3, "linear")
KNOWN = {"BTCUSDT": BTC}
FIXTURES = "raw/bybit_fixtures_nautilus"

TRADE = {"T": NOW_MS, "s": "BTCUSDT", "S": "Buy", "v": "0.010", "p": "27451.00", "i": "9dc75fca-4bdd", "BT": False}
CANDLE = {"start": NOW_MS - 240_000, "end": NOW_MS + 59_999, "interval": "5", "open": "100", "close": "105.5"}
CANDLE |= {"high": "110", "low": "99.99", "volume": "2.081", "turnover": "1", "confirm": False, "timestamp": NOW_MS}
TICKER = {"symbol": "BTCUSDT", "markPrice": "17217.33", "indexPrice": "17227.365", "openInterest": "68744.761"}
TICKER |= {"openInterestValue": "1183601235.91", "nextFundingTime": "1700006400000", "fundingRate": "-0.000212"}
TICKER |= {"fundingIntervalHour": "8", "somethingNew": [1]}


def trades(*changes: dict[str, Any], **more: Any) -> str:
    rows = [{k: v for k, v in (TRADE | change).items() if v is not ...} for change in changes or ({},)]
    return json.dumps({"topic": "publicTrade.BTCUSDT", "type": "snapshot", "ts": NOW_MS, "data": rows} | more)


def kline(**changes: Any) -> str:
    row = {k: v for k, v in (CANDLE | changes).items() if v is not ...}
    return json.dumps({"topic": "kline.5.BTCUSDT", "data": [row], "ts": NOW_MS, "type": "snapshot"})


def ticker(kind: str = "snapshot", fields: dict[str, Any] = TICKER, **changes: Any) -> str:
    row = {k: v for k, v in (fields | changes).items() if v is not ...}
    return json.dumps({"topic": "tickers.BTCUSDT", "type": kind, "data": row, "cs": 24987956059, "ts": NOW_MS})


def answer(rows: list[Any], **more: Any) -> str:
    return json.dumps({"retCode": 0, "retMsg": "OK", "result": {"list": rows} | more, "time": NOW_MS})


def read(frame: str) -> Any:
    ((symbol, event),) = decode_event(frame, KNOWN, NOW_MS) or []
    assert symbol == "BTCUSDT"
    return event


def test_a_trade_is_read_exactly_under_its_identity() -> None:
    assert read(trades()) == IdentifiedTrade("9dc75fca-4bdd", 2_745_100, 10, NOW_MS, False)
    assert read(trades({"S": "Sell", "BT": True})) == IdentifiedTrade(
        "9dc75fca-4bdd", 2_745_100, 10, NOW_MS, True, True
    )
    assert len(decode_event(trades({}, {"i": "b"}), KNOWN, 0) or []) == 2


def test_a_candle_says_whether_it_is_closed_and_counts_no_trades() -> None:
    expected = Kline("5m", NOW_MS - 240_000, NOW_MS + 59_999, 10_000, 11_000, 9_999, 10_550, 2081, None, None, False)
    assert read(kline()) == expected
    assert read(kline(confirm=True)).closed


def test_what_a_ticker_leaves_out_is_as_it_was() -> None:
    whole = read(ticker())
    assert whole == AssetContext(
        NOW_MS, 68744.761, 1183601235.91, -0.000212, 8, 1_700_006_400_000, 17217.33, 17227.365, False
    )
    change = read(ticker("delta", {"symbol": "BTCUSDT", "markPrice": "17000.5", "fundingRate": ""}))
    assert change.after(whole) == AssetContext(
        NOW_MS, 68744.761, 1183601235.91, -0.000212, 8, 1_700_006_400_000, 17000.5, 17227.365, False
    )
    assert change.after(None) == change and change.partial
    assert whole.after(change) == whole


def test_a_contract_with_a_delivery_date_has_no_funding() -> None:
    dated = read(ticker(nextFundingTime="0", fundingRate="", fundingIntervalHour=...))
    assert (dated.funding_rate, dated.next_funding_time_ms, dated.funding_interval_h) == (None, None, None)


def test_answers_to_commands_are_nothing_and_a_refusal_is_one() -> None:
    for frame in ('{"success":true,"ret_msg":"pong","op":"ping"}', '{"op":"pong","args":["1"]}'):
        assert decode_event(frame, KNOWN, 0) is None
    with pytest.raises(BadFrame) as caught:
        decode_event('{"success":false,"ret_msg":"Invalid topic","op":"subscribe"}', KNOWN, 0)
    assert caught.value.reason == "command_refused"


BAD: list[tuple[str, str]] = [
    ("[1]", "not_object"),
    ("nonsense", "not_json"),
    ("{}", "no_event"),
    ('{"topic":"publicTrade.BTCUSDT"}', "bad_field"),
    ('{"topic":"orderbook.50.BTCUSDT","data":{}}', "unknown_event"),
    (trades({"s": "NOPEUSDT"}), "unknown_symbol"),
    (trades({"i": 7}), "bad_field"),
    (trades({"i": ...}), "bad_field"),
    (trades({"i": ""}), "bad_ids"),
    (trades({"i": "x" * 65}), "bad_ids"),
    (trades({"S": "buy"}), "bad_side"),
    (trades({"p": "0"}), "bad_number"),
    (trades({"p": "-1.0"}), "bad_number"),
    (trades({"p": "1.005"}), "bad_number"),
    (trades({"p": "1e3"}), "bad_number"),
    (trades({"p": "NaN"}), "bad_number"),
    (trades({"v": "0.0001"}), "bad_number"),
    (trades({"T": NOW_MS // 1000}), "bad_time"),
    (trades({"T": NOW_MS + 10**9}), "future_time"),
    (trades({}, {"p": "x"}), "bad_number"),
    (trades(topic="kline.5.NOPEUSDT"), "unknown_symbol"),
    (kline(interval="7"), "bad_interval"),
    (kline(interval="W"), "bad_interval"),
    (kline(high="99"), "bad_candle"),
    (kline(low="100.5"), "bad_candle"),
    (kline(start=NOW_MS - 239_000), "bad_candle"),
    (kline(end=NOW_MS), "bad_candle"),
    (kline(volume="-1"), "bad_number"),
    (kline(close=...), "bad_field"),
    (ticker(markPrice="0"), "bad_number"),
    (ticker(openInterest="-1"), "bad_number"),
    (ticker(fundingRate="inf"), "bad_number"),
    (ticker(fundingIntervalHour="8h"), "bad_number"),
    (ticker(nextFundingTime="soon"), "bad_time"),
    (ticker(symbol="NOPEUSDT"), "unknown_symbol"),
    (ticker("whole"), "bad_field"),
]


@pytest.mark.parametrize(("frame", "reason"), BAD)
def test_a_bad_frame_is_refused_by_reason(frame: str, reason: str) -> None:
    with pytest.raises(BadFrame) as caught:
        decode_event(frame, KNOWN, NOW_MS)
    assert caught.value.reason == reason


def test_a_refused_frame_says_whose_trades_it_may_have_held() -> None:
    symbols = ("BTCUSDT", "ETHUSDT")
    assert trades_of(trades({"p": "0"}), symbols) == {"BTCUSDT"}
    assert trades_of(trades(topic="publicTrade.NOPEUSDT"), symbols) == set()
    for other in (kline(high="99"), ticker("whole"), '{"topic":"orderbook.50.BTCUSDT","data":{}}'):
        assert trades_of(other, symbols) == set()
    for unread in (trades()[:-9], "{}", b"\xff", "[]"):
        assert trades_of(unread, symbols) == set(symbols)


def test_trades_candles_and_contexts_are_asked_for_one_message_a_symbol() -> None:
    asked = [json.loads(message) for message in subscribe(["BTCUSDT", "币安人生USDT"])]
    assert [message["op"] for message in asked] == ["subscribe", "subscribe"]
    assert asked[1]["args"] == ["publicTrade.币安人生USDT", "kline.1.币安人生USDT", "tickers.币安人生USDT"]


def test_lists_begin_with_the_oldest() -> None:
    rows = [{"openInterest": str(n), "timestamp": str(NOW_MS - n)} for n in range(3)]
    entries = decode_open_interest(answer(rows, nextPageCursor="c"))
    assert entries == [OpenInterest(NOW_MS - n, float(n)) for n in (2, 1, 0)]
    bars = [[str(NOW_MS + n * 60_000), "1", "2", "1", "2", "3", "9"] for n in (1, 0, -1)]
    klines = decode_klines(answer(bars, symbol="BTCUSDT"), BTC, "1", NOW_MS + 60_000)
    assert [(k.open_time_ms, k.closed) for k in klines] == [
        (NOW_MS - 60_000, True),
        (NOW_MS, True),
        (NOW_MS + 60_000, False),
    ]
    assert answered_at(answer([])) == NOW_MS


def test_an_answer_that_refuses_or_is_about_something_else_is_refused() -> None:
    refused = '{"retCode":10006,"retMsg":"Too many visits!","result":{},"time":1}'
    assert refusal(refused) == (10006, "Too many visits!")
    assert (refusal("<html>"), refusal(answer([]))) == ((0, ""), (0, "OK"))
    with pytest.raises(BybitRefused) as caught:
        decode_fundings(refused)
    assert caught.value.code == 10006
    for make in (
        lambda: decode_klines(answer([], symbol="ETHUSDT"), BTC, "1", NOW_MS),
        lambda: decode_trades(answer([{"execId": "1", "symbol": "X", "price": "1"} | REST_TRADE]), BTC),
    ):
        with pytest.raises(BadFrame) as wrong:
            make()
        assert wrong.value.reason == "unknown_symbol"


REST_TRADE = {"size": "1", "side": "Buy", "time": str(NOW_MS)}


# -- recorded by others ------------------------------------------------------------------------------------------------


def fixture(name: str) -> tuple[bytes, Any]:
    body = recorded(f"{FIXTURES}/{name}.json").read_bytes()
    return body, json.loads(body)


def units(text: str, decimals: int) -> int:
    return int(Decimal(text).scaleb(decimals))


def test_recorded_frames_are_read_as_they_were_written() -> None:
    frame, plain = fixture("ws_public_trade")
    ((symbol, trade),) = decode_event(frame, KNOWN, 0) or []
    (row,) = plain["data"]
    assert symbol == row["s"]
    assert trade == IdentifiedTrade(row["i"], units(row["p"], 2), units(row["v"], 3), row["T"], False)

    frame, plain = fixture("ws_kline")
    ((_, bar),) = decode_event(frame, KNOWN, 0) or []
    (row,) = plain["data"]
    assert isinstance(bar, Kline)
    assert (bar.open_time_ms, bar.close_time_ms, bar.closed) == (row["start"], row["end"], row["confirm"])
    written = [units(row[name], 2) for name in ("open", "high", "low", "close")]
    assert [bar.open, bar.high, bar.low, bar.close] == written

    frame, plain = fixture("ws_ticker_linear")
    ((_, context),) = decode_event(frame, KNOWN, 0) or []
    row = plain["data"]
    assert isinstance(context, AssetContext)
    assert (context.mark_price, context.index_price) == (float(row["markPrice"]), float(row["indexPrice"]))
    assert (context.open_interest, context.funding_rate) == (float(row["openInterest"]), float(row["fundingRate"]))
    assert (context.time_ms, context.next_funding_time_ms) == (plain["ts"], int(row["nextFundingTime"]))


def test_recorded_answers_are_read_as_they_were_written() -> None:
    body, plain = fixture("http_get_funding_history")
    rows = plain["result"]["list"][::-1]
    assert decode_fundings(body) == [Funding(int(r["fundingRateTimestamp"]), float(r["fundingRate"])) for r in rows]
    body, plain = fixture("http_get_trades_recent")
    (row,) = plain["result"]["list"]
    assert decode_trades(body, BTC) == [
        IdentifiedTrade(row["execId"], units(row["price"], 2), units(row["size"], 3), int(row["time"]), False)
    ]


def test_steps_of_recorded_instruments_become_decimals() -> None:
    body, plain = fixture("http_get_instruments_linear")
    assert decode_instruments(body, "linear")["BTCUSDT"] == Instrument(
        "bybit", "BTCUSDT", "BTC", "USDT", 1, 3, "linear"
    )
    assert set(decode_instruments(body, "linear")) == {row["symbol"] for row in plain["result"]["list"]}
    body, _ = fixture("http_get_instruments_spot")
    assert decode_instruments(body, "spot")["BTCUSDT"] == Instrument("bybit", "BTCUSDT", "BTC", "USDT", 1, 4, "spot")
    for step in (b"0", b"0.0", b"-1", b"1e-3", b""):
        with pytest.raises(BadFrame):
            decode_instruments(body.replace(b'"0.0001"', b'"%s"' % step), "spot")


def test_a_written_up_candle_off_its_grid_is_refused_and_on_it_is_read() -> None:
    body, plain = fixture("http_get_klines_linear")
    ((start, *_),) = plain["result"]["list"]
    with pytest.raises(BadFrame) as caught:
        decode_klines(body, BTC, "1", NOW_MS)
    assert caught.value.reason == "bad_candle"  # nobody's exchange opened this minute at second 39
    minute = int(start) // 60_000 * 60_000
    (bar,) = decode_klines(body.replace(start.encode(), str(minute).encode()), BTC, "1", minute + 60_000)
    assert (bar.open_time_ms, bar.close, bar.volume, bar.closed) == (minute, 2_745_500, 123_450, True)


def test_every_recorded_file_is_read_or_refused_with_a_word() -> None:
    reasons = set[str]()
    for path in sorted(recorded(FIXTURES).glob("*.json")):
        reasons |= read_or_refused(DECODERS, path.read_bytes())
    assert {"no_event", "unknown_event", "command_refused", "bad_field"} <= reasons


def test_frames_of_the_older_interface_are_refused_and_stop_nothing() -> None:
    taken = 0
    lines = gzip.decompress(recorded("raw/cryptofeed/BYBIT.ws.25.0.gz").read_bytes()).splitlines()
    for line in lines:
        try:
            taken += len(decode_event(line.partition(b": ")[2], KNOWN, 0) or [])
        except BadFrame as refused:
            assert refused.reason
    assert (taken, len(lines)) == (0, 3361)


# -- anything ----------------------------------------------------------------------------------------------------------

DECODERS: list[Callable[[bytes], Any]] = [
    lambda body: decode_event(body, KNOWN, 0),
    lambda body: decode_trades(body, BTC),
    lambda body: decode_klines(body, BTC, "1", NOW_MS),
    decode_open_interest,
    decode_fundings,
    lambda body: decode_instruments(body, "linear"),
    lambda body: trades_of(body, ("BTCUSDT",)),
]
GOOD = [trades({}, {"i": "b"}), kline(), ticker(), ticker("delta")]
GOOD += [answer([{"openInterest": "1", "timestamp": str(NOW_MS)}], nextPageCursor="c")]
GOOD += [answer([["1700000040000", "1", "2", "1", "2", "3", "9"]], symbol="BTCUSDT")]
GOOD += [answer([{"execId": "1", "symbol": "BTCUSDT", "price": "1"} | REST_TRADE])]


@given(ANYTHING)
def test_anything_is_read_or_refused(body: bytes) -> None:
    read_or_refused(DECODERS, body)


@given(st.sampled_from(GOOD), st.data())
def test_a_good_frame_with_one_field_replaced_is_read_or_refused(frame: str, data: st.DataObject) -> None:
    read_or_refused(DECODERS, altered(frame, data))
