import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.captures import feed, frames
from tests.recorded import recorded
from trading.market.instrument import InexactNumber, Instrument
from trading.market.trade import AggTrade
from trading.stream.events import (
    BookTicker,
    DepthDiff,
    Kline,
    MarkPrice,
    ServerShutdown,
    Trade,
    decode_depth_snapshot,
    decode_event,
)
from trading.stream.levels import read_levels
from trading.stream.wire import BadFrame, decode

NOW_MS = 1_700_000_000_000
NAMES = ("BTCUSDT", "币安人生USDT")
INSTRUMENTS = {name: Instrument("sim", name, name[:-4], "USDT", 2, 5) for name in NAMES}

AGG_TRADE = {"e": "aggTrade", "E": NOW_MS, "s": "BTCUSDT", "a": 7, "p": "60000.12000000", "q": "0.00100000"}
AGG_TRADE |= {"f": 10, "l": 12, "T": NOW_MS, "m": True, "M": True}
DEPTH = {"e": "depthUpdate", "E": NOW_MS, "s": "BTCUSDT", "U": 5, "u": 9}
DEPTH |= {"b": [["60000.10000000", "1.50000000"], ["59999.00000000", "0.00000000"]], "a": [["60000.20", "2.00"]]}
FUTURES_DEPTH = DEPTH | {"T": NOW_MS - 1, "pu": 3, "b": [], "a": []}
TICKER = {"u": 9, "s": "BTCUSDT", "b": "60000.10000000", "B": "1.50000000", "a": "60000.20000000", "A": "2.00000000"}
FUTURES_TICKER = TICKER | {"e": "bookTicker", "E": NOW_MS, "T": NOW_MS - 1}
TRADE = {"e": "trade", "E": NOW_MS, "s": "BTCUSDT", "t": 77, "p": "60000.12000000", "q": "0.00100000"}
TRADE |= {"T": NOW_MS - 2, "m": False, "M": True}
CANDLE = {"t": NOW_MS - 60_000, "T": NOW_MS - 1, "s": "BTCUSDT", "i": "1m", "f": 100, "L": 200, "o": "100.00"}
CANDLE |= {"h": "110.00", "l": "90.00", "c": "105.00", "v": "9.00000", "n": 3, "x": True, "q": "900", "V": "4.00000"}
KLINE = {"e": "kline", "E": NOW_MS, "s": "BTCUSDT", "k": CANDLE}
MARK = {"e": "markPriceUpdate", "E": NOW_MS, "s": "BTCUSDT", "p": "64991.37858696", "i": "65016.05673913"}
MARK |= {"P": "64980.01344384", "r": "-0.00003936", "T": NOW_MS + 3_600_000}
SNAPSHOT = {"lastUpdateId": 7, "bids": [["100.00", "1"]], "asks": [["101.00", "2"]]}
EVENTS = [AGG_TRADE, DEPTH, FUTURES_DEPTH, TICKER, FUTURES_TICKER, TRADE, KLINE, MARK]


def raw(event: dict[str, Any], **changes: Any) -> str:
    return json.dumps({k: v for k, v in (event | changes).items() if v is not ...}, ensure_ascii=False)


def combined(event: dict[str, Any], **changes: Any) -> str:
    return f'{{"stream":"x","data":{raw(event, **changes)}}}'


def kline(**changes: Any) -> str:
    return combined(KLINE, k={k: v for k, v in (CANDLE | changes).items() if v is not ...})


def read(frame: str | bytes) -> Any:
    decoded = decode_event(frame, INSTRUMENTS, NOW_MS)
    assert isinstance(decoded, tuple)
    return decoded[1]


def comparable(event: Any) -> Any:
    fields = {name: getattr(event, name) for name in event.__struct_fields__}
    return type(event), {name: value.tolist() if hasattr(value, "tolist") else value for name, value in fields.items()}


# -- what is read ------------------------------------------------------------------------------------------------------


def test_a_depth_diff_is_read_exactly_and_a_futures_one_names_its_predecessor() -> None:
    diff = read(combined(DEPTH))
    assert (diff.time_ms, diff.first_update_id, diff.last_update_id, diff.previous_update_id) == (NOW_MS, 5, 9, None)
    assert diff.bids.tolist() == [[6_000_010, 150_000], [5_999_900, 0]]
    assert diff.asks.tolist() == [[6_000_020, 200_000]]
    futures = read(combined(FUTURES_DEPTH))
    assert (futures.previous_update_id, futures.bids.shape, futures.asks.shape) == (3, (0, 2), (0, 2))


def test_the_best_bid_and_ask_are_read_with_and_without_an_event_name() -> None:
    best = (6_000_010, 150_000, 6_000_020, 200_000)
    assert read(combined(TICKER)) == BookTicker(9, None, *best)
    assert read(combined(FUTURES_TICKER)) == BookTicker(9, NOW_MS, *best)


def test_a_trade_is_read_exactly_and_keeps_an_order_type_nobody_knows() -> None:
    assert read(combined(TRADE)) == Trade(77, 6_000_012, 100, NOW_MS - 2, False, "")
    assert read(combined(TRADE, X="INSURANCE_FUND")).order_type == "INSURANCE_FUND"


@pytest.mark.parametrize("closed", [True, False])
def test_a_kline_says_whether_it_is_final_row_31(closed: bool) -> None:
    expected = Kline("1m", NOW_MS - 60_000, NOW_MS - 1, 10_000, 11_000, 9_000, 10_500, 900_000, 400_000, 3, closed)
    assert read(kline(x=closed)) == expected


def test_a_contract_without_funding_has_none_rather_than_zero() -> None:
    assert read(combined(MARK)) == MarkPrice(NOW_MS, 64991.37858696, 65016.05673913, -0.00003936, NOW_MS + 3_600_000)
    delivery = read(combined(MARK, r="", T=0))
    assert (delivery.funding_rate, delivery.next_funding_time_ms) == (None, None)


def test_an_aggregate_trade_is_what_the_collector_reads() -> None:
    assert decode_event(combined(AGG_TRADE), INSTRUMENTS, 0) == decode(combined(AGG_TRADE), INSTRUMENTS, 0)
    assert isinstance(read(raw(AGG_TRADE).encode()), AggTrade)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.get("e", "bookTicker"))
def test_an_event_is_the_same_bare_or_combined_as_text_or_bytes(event: dict[str, Any]) -> None:
    forms = [raw(event), combined(event), raw(event).encode(), combined(event).encode()]
    assert all(comparable(read(form)) == comparable(read(forms[0])) for form in forms)


def test_the_answer_to_a_command_and_events_ignored_by_name_are_nothing() -> None:
    for frame in ('{"result":null,"id":1}', '{"result":["btcusdt@trade"],"id":2}', raw({"e": "forceOrder", "o": {}})):
        assert decode_event(frame, INSTRUMENTS, 0) is None


def test_a_shutdown_is_told_bare_and_combined() -> None:
    for form in (raw, combined):
        assert decode_event(form({"e": "serverShutdown", "E": NOW_MS}), INSTRUMENTS, 0) == ServerShutdown(NOW_MS)


def test_a_snapshot_is_read_with_and_without_a_time() -> None:
    spot = decode_depth_snapshot(raw(SNAPSHOT), INSTRUMENTS["BTCUSDT"])
    assert (spot.last_update_id, spot.time_ms, spot.bids.tolist()) == (7, None, [[10_000, 100_000]])
    assert decode_depth_snapshot(raw(SNAPSHOT, E=NOW_MS, T=NOW_MS), INSTRUMENTS["BTCUSDT"]).time_ms == NOW_MS


# -- levels ------------------------------------------------------------------------------------------------------------

decimals = st.integers(0, 10)
numbers = st.builds("{}.{}".format, st.integers(0, 10**7), st.text("0123456789", min_size=1, max_size=10))


@given(st.lists(st.one_of(numbers, st.integers(0, 10**7).map(str)), min_size=1, max_size=8), decimals)
@example(["1.0", "1.00000001"], 8)
@example(["1", "2"], 0)
@example(["123456789012.00000000", "1.50000000"], 2)
def test_columns_and_single_numbers_are_read_alike(texts: list[str], places: int) -> None:
    instrument = Instrument("sim", "X", "X", "Y", places, places)
    try:
        alone: list[int] | None = [instrument.ticks(text) for text in texts]
    except InexactNumber:
        alone = None
    if alone is None or min(alone) == 0:
        with pytest.raises(InexactNumber):
            read_levels([(text, "1") for text in texts], instrument)
    else:
        assert read_levels([(text, text) for text in texts], instrument).tolist() == [[n, n] for n in alone]


def test_a_resting_quantity_older_than_the_lot_step_becomes_the_nearest_lot_and_never_none() -> None:
    texts = ["25.42618900", "0.00000100", "0.00000000", "1.000005", "1.00000499"]
    levels = read_levels([("1.00", text) for text in texts], INSTRUMENTS["BTCUSDT"])
    assert levels[:, 1].tolist() == [2_542_619, 1, 0, 100_001, 100_000]


@pytest.mark.parametrize("text", ["1.00,2.00", "1,2", "", "1.", ".5", "1e3", "+1", " 1", "1_0", "٣", "9" * 18, "1\n"])
def test_a_level_that_is_no_plain_number_is_refused_wherever_it_stands(text: str) -> None:
    for column in ([text], ["1.00", text], [text, "1.00"]):
        with pytest.raises(InexactNumber):
            read_levels([(price, "1") for price in column], INSTRUMENTS["BTCUSDT"])
        with pytest.raises(InexactNumber):
            read_levels([("1", quantity) for quantity in column], INSTRUMENTS["BTCUSDT"])


# -- what is refused ---------------------------------------------------------------------------------------------------

AHEAD_MS = NOW_MS + 86_400_000
BAD: list[tuple[int, str, str | bytes]] = [
    (1, "not_json", b"\xff\xfe"),
    (1, "not_utf8", combined(DEPTH).encode().replace(b"BTCUSDT", b"BTC\xff")),
    (2, "not_json", ""),
    (2, "not_json", b""),
    (3, "not_object", "[]"),
    (3, "not_object", "null"),
    (3, "not_object", "3"),
    (3, "not_object", '{"stream":"x","data":[1]}'),
    (3, "no_event", "{}"),
    (3, "no_event", '{"stream":"x","data":{}}'),
    *((4, "not_json", combined(event)[:60]) for event in EVENTS),
    (5, "not_object", "[" * 100_000),
    (5, "not_json", '{"data":' + "[" * 100_000),
    (5, "not_json", combined(DEPTH, new=...)[:-2] + ',"new":' + "[" * 100_000),
    (7, "not_json", bytes(range(128))),
    (8, "unknown_event", combined({"e": "blockTrade", "s": "BTCUSDT"})),
    (8, "unknown_event", raw({"e": "x" * 10_000})),
    (10, "bad_field", combined(DEPTH, u=...)),
    (10, "bad_field", combined(TICKER, A=...)),
    (10, "bad_field", combined(TRADE, t=...)),
    (10, "bad_field", kline(x=...)),
    (10, "bad_field", combined(MARK, r=...)),
    *((11, "bad_ids", combined(TRADE, t=value)) for value in (-1, 2**63, 10**40)),
    *((11, "bad_field", combined(TRADE, t=value)) for value in (1.5, "7", None)),
    *((11, "bad_ids", combined(DEPTH, U=value)) for value in (-1, 10, 2**63)),
    *((11, "bad_ids", combined(FUTURES_DEPTH, pu=value)) for value in (-1, 10, 2**63)),
    (11, "bad_ids", combined(TICKER, u=-1)),
    *((12, "bad_number", combined(TRADE, p=value)) for value in ("NaN", "Infinity", "1e999", "", "abc", "1.001")),
    *((12, "bad_number", combined(TICKER, b=value)) for value in ("NaN", "Infinity", "1e999", "", "abc", "1.001")),
    *((12, "bad_number", combined(DEPTH, b=[[value, "1"]])) for value in ("NaN", "Infinity", "1e999", "", "abc")),
    *((12, "bad_number", combined(DEPTH, a=[["1", value]])) for value in ("NaN", "-1", "1e999", "", "abc")),
    *((12, "bad_number", combined(MARK, p=value)) for value in ("NaN", "Infinity", "1e999", "", "abc")),
    (12, "bad_number", kline(v="NaN")),
    *((12, "bad_field", combined(DEPTH, b=value)) for value in ([["1"]], [[1, 2]], [1], {}, None, [["1", "1", "1"]])),
    *((13, "bad_number", combined(TRADE, p=value)) for value in ("0", "0.00", "-1")),
    *((13, "bad_number", combined(DEPTH, a=[[value, "1"]])) for value in ("0", "0.00", "-1")),
    (13, "bad_number", combined(TICKER, a="0.00000000")),
    *((13, "bad_number", combined(MARK, p=value)) for value in ("0", "-1")),
    *((15, "bad_number", combined(event)) for event in (TRADE | {"p": "1" * 30}, DEPTH | {"b": [["1" * 30, "1"]]})),
    *((17, "bad_time", combined(TRADE, T=value)) for value in (0, 86_400_000)),
    (17, "future_time", combined(TRADE, T=AHEAD_MS)),
    *((17, "future_time", combined(event, E=AHEAD_MS)) for event in (DEPTH, FUTURES_TICKER, KLINE, MARK)),
    *((18, "bad_time", combined(TRADE, T=value)) for value in (NOW_MS // 1000, NOW_MS * 1000)),
    *((18, "bad_time", combined(DEPTH, E=value)) for value in (NOW_MS // 1000, NOW_MS * 1000)),
    (20, "bad_ids", combined(DEPTH, U=10, u=9)),
    *((25, "unknown_symbol", combined(event, s=s)) for event in EVENTS for s in ("ETHUSDT", "btcusdt")),
    *((27, "unknown_symbol", combined(DEPTH, s=s)) for s in ("../../etc", "A:B", "\0", "X" * 10_000, "")),
    (29, "command_refused", '{"error":{"code":2,"msg":"Invalid request"},"id":1}'),
    (29, "command_refused", '{"code":-1121,"msg":"Invalid symbol."}'),
    (32, "bad_candle", kline(h="104.00")),
    (32, "bad_candle", kline(l="101.00")),
    (32, "bad_candle", kline(V="9.00001")),
    (32, "bad_candle", kline(n=-1)),
    (32, "bad_candle", kline(t=NOW_MS)),
]


@pytest.mark.parametrize(("row", "reason", "bad"), BAD, ids=[f"row{row}-{n}" for n, (row, _, _) in enumerate(BAD)])
def test_a_bad_frame_is_counted_by_its_reason_and_the_stream_goes_on(row: int, reason: str, bad: str | bytes) -> None:
    refused: Counter[str] = Counter()
    kept = 0
    for frame in (combined(DEPTH), bad, combined(TRADE)):
        try:
            kept += decode_event(frame, INSTRUMENTS, NOW_MS) is not None
        except BadFrame as error:
            refused[error.reason] += 1
            assert len(str(error)) < 300
    assert (kept, refused) == (2, {reason: 1})


ODD: list[tuple[int, str]] = [
    *((9, combined(event, new={"deep": [1, None]})) for event in EVENTS),
    (9, kline(new=1)),
    (14, combined(TRADE, q="0.00000000")),
    (16, combined(TRADE, p="30000.00")),
    (17, combined(TRADE, T=NOW_MS + 200_000)),
    (19, combined(TRADE, T=NOW_MS - 3_600_000)),
    *((26, combined(event, s=NAMES[1])) for event in EVENTS),
]


@pytest.mark.parametrize(("row", "odd"), ODD, ids=[f"row{row}-{n}" for n, (row, _) in enumerate(ODD)])
def test_what_is_odd_and_not_wrong_is_kept(row: int, odd: str) -> None:
    decoded = decode_event(odd, INSTRUMENTS, NOW_MS)
    assert isinstance(decoded, tuple)
    assert decoded[0] == (NAMES[1] if row == 26 else NAMES[0])


BAD_SNAPSHOTS: list[tuple[int, str, str]] = [
    (36, "not_json", "<html><body>403 Forbidden</body></html>"),
    (4, "not_json", raw(SNAPSHOT)[:40]),
    (3, "not_object", "[]"),
    (10, "bad_field", raw(SNAPSHOT, bids=...)),
    (10, "bad_field", '{"code":-1003,"msg":"Too many requests."}'),
    (11, "bad_ids", raw(SNAPSHOT, lastUpdateId=-1)),
    (12, "bad_number", raw(SNAPSHOT, asks=[["NaN", "1"]])),
    (18, "bad_time", raw(SNAPSHOT, E=NOW_MS * 1000)),
]


@pytest.mark.parametrize(
    ("row", "reason", "body"), BAD_SNAPSHOTS, ids=[f"row{row}-{n}" for n, (row, _, _) in enumerate(BAD_SNAPSHOTS)]
)
def test_a_bad_snapshot_is_refused_with_a_reason(row: int, reason: str, body: str) -> None:
    with pytest.raises(BadFrame) as refused:
        decode_depth_snapshot(body, INSTRUMENTS["BTCUSDT"])
    assert refused.value.reason == reason


# -- anything at all ---------------------------------------------------------------------------------------------------

DECODERS: list[Callable[[str | bytes], Any]] = [
    lambda frame: decode_event(frame, INSTRUMENTS, NOW_MS),
    lambda frame: decode(frame, INSTRUMENTS, NOW_MS),
    lambda frame: decode_depth_snapshot(frame, INSTRUMENTS["BTCUSDT"]),
]
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=8,
)


def only_a_value_or_a_refusal(frame: str | bytes) -> None:
    for decoder in DECODERS:
        try:
            decoder(frame)
        except BadFrame as error:
            assert error.reason.isidentifier()


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200), st.text(st.characters(), max_size=50)))
@example("\ud800")
@example('{"e":"\ud800"}')
@example(b'{"e":"\\ud800"}')
def test_any_bytes_or_text_give_a_value_or_a_refusal(frame: str | bytes) -> None:
    only_a_value_or_a_refusal(frame)


@given(st.sampled_from([*EVENTS, SNAPSHOT]), st.data())
def test_any_value_in_any_field_gives_a_value_or_a_refusal(event: dict[str, Any], data: st.DataObject) -> None:
    field = data.draw(st.sampled_from([name for name in event if name not in ("e", "s")]))
    frame = raw(event, **{field: data.draw(json_values)})
    only_a_value_or_a_refusal(frame)
    only_a_value_or_a_refusal(f'{{"data":{frame}}}')


def mutated(frame: bytes, edits: list[tuple[int, int, bytes]]) -> bytes:
    for place, length, put in edits:
        place %= len(frame) + 1
        frame = frame[:place] + put + frame[place + length :]
    return frame


edits = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 5), st.binary(max_size=4)), min_size=1, max_size=4)


@given(st.sampled_from([combined(event).encode() for event in [*EVENTS, SNAPSHOT]]), edits)
def test_a_damaged_frame_gives_a_value_or_a_refusal(frame: bytes, damage: list[tuple[int, int, bytes]]) -> None:
    only_a_value_or_a_refusal(mutated(frame, damage))


def test_a_damaged_recorded_frame_gives_a_value_or_a_refusal() -> None:
    genuine = [frame for _, frame in frames("raw/binance_usdm/btcusdt_20240808.gz")][40:60]
    genuine += [frame for _, frame in frames("raw/binance_spot/btcusdt_20240808.gz")][:20]

    @given(st.sampled_from(genuine), edits)
    def damage(frame: bytes, changes: list[tuple[int, int, bytes]]) -> None:
        only_a_value_or_a_refusal(mutated(frame, changes))

    damage()


# -- recorded ----------------------------------------------------------------------------------------------------------


def test_the_newest_wire_form_is_read_with_its_new_fields() -> None:
    lines = recorded("raw/binance_usdm_2026/frames_2026-08-08.jsonl").read_bytes().splitlines()
    instruments = {"BTCUSDT": Instrument("binance", "BTCUSDT", "BTC", "USDT", 2, 3, "usdm")}
    decoded = [decode_event(line, instruments, 0) for line in lines]
    kinds = [type(one[1]) if isinstance(one, tuple) else one for one in decoded]
    assert kinds == [AggTrade, MarkPrice, Kline, None]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("BINANCE.ws.1.0", {AggTrade: 2, Kline: 2, DepthDiff: 177, BookTicker: 84}),
        ("BINANCE_FUTURES.ws.1.0", {AggTrade: 91, Kline: 67, DepthDiff: 764, BookTicker: 613}),
        ("BINANCE_US.ws.1.0", {AggTrade: 11, Kline: 5, DepthDiff: 336, BookTicker: 128}),
    ],
)
def test_every_frame_of_a_recorded_feed_is_read(name: str, expected: dict[type, int]) -> None:
    found: Counter[type] = Counter()
    for _, _, frame in feed(f"raw/cryptofeed/{name}.gz"):
        symbol = json.loads(frame)["data"]["s"]
        decoded = decode_event(frame, {symbol: Instrument("binance", symbol, symbol, "?", 8, 8)}, 0)
        assert isinstance(decoded, tuple)
        found[type(decoded[1])] += 1
    print(name, {kind.__name__: count for kind, count in found.items()})
    assert found == expected
