"""What the scanner reads, `decode` reads as the same; what it leaves is read by `decode` alone."""

import gzip
import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.captures import feed
from tests.fuzz import ANYTHING, altered
from tests.recorded import recorded
from trading.market.instrument import Instrument
from trading.market.trade import AggTrade
from trading.stream.collector import WORTH_COMPILING, CollectorCore, Command, Compile
from trading.stream.connections import Disconnect
from trading.stream.repair import FOREVER_MS
from trading.stream.scanner import Scanner
from trading.stream.wire import BadFrame, decode

NOW_MS = 1_760_000_040_000
NAMES = ("BTCUSDT", "BTCUSDC", "币安人生USDT")
ODD = 'A"\\USDT'
INSTRUMENTS = {name: Instrument("sim", name, name[:-4], "USDT", 2, 5) for name in (*NAMES, ODD)} | {
    "XRPETH": Instrument("sim", "XRPETH", "XRP", "ETH", 8, 0)
}
SPOT = ("e", "E", "s", "a", "p", "q", "f", "l", "T", "m", "M")
FUTURES = ("e", "E", "a", "s", "p", "q", "nq", "f", "l", "T", "m", "st")
SCANNER = Scanner(INSTRUMENTS)


def written(event: dict[str, Any], stream: str | None = None) -> bytes:
    """Return an event as the exchange writes it."""
    body = {"stream": stream or f"{event['s'].lower()}@aggTrade", "data": event}
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def scanned(frames: Sequence[bytes]) -> list[tuple[str, AggTrade] | None]:
    return [None if symbol is None else (symbol, trade) for symbol, trade in SCANNER.read(frames)]


def decoded(frame: bytes) -> tuple[str, AggTrade] | None:
    try:
        return decode(frame, INSTRUMENTS, 0)
    except BadFrame:
        return None


def assert_nothing_is_read_otherwise(frames: Sequence[bytes]) -> None:
    for frame, found in zip(frames, scanned(frames), strict=True):
        assert found is None or found == decoded(frame), frame
        assert found is None or type(found[1].buyer_is_maker) is bool


@st.composite
def usual(draw: st.DrawFn, names: Sequence[str] = (*NAMES, "XRPETH")) -> bytes:
    """A frame that the exchange may send on an ordinary day."""
    name = draw(st.sampled_from(names))
    instrument = INSTRUMENTS[name]
    number = st.integers(0, 10**12)
    first = draw(number)
    price, lots = draw(st.integers(1, 10**9)), draw(st.integers(0, 10**9))
    zeros = st.integers(0, 8).map(lambda count: "0" * count)
    texts = [
        text if "." not in text else text + draw(zeros)
        for text in (instrument.price_text(price), instrument.quantity_text(lots))
    ]
    time_ms = draw(st.integers(10**12, 10**13 - 1))
    values = {"e": "aggTrade", "E": time_ms, "s": name, "a": draw(number), "p": texts[0], "q": texts[1], "nq": texts[1]}
    values |= {"f": first, "l": first + draw(st.integers(0, 100)), "T": time_ms, "m": draw(st.booleans()), "M": True}
    return written({key: (values | {"st": 1})[key] for key in draw(st.sampled_from([SPOT, FUTURES]))})


NUMBERS = [
    *(
        "0",
        "-1",
        "01",
        "1.0",
        "1e3",
        "1E3",
        "-0",
        "+1",
        "1.",
        ".5",
        "00.5",
        "1.5",
        "0.00",
        "0x1",
        "null",
        "true",
        "false",
        "",
    ),
    *(
        "NaN",
        "tru",
        "truee",
        "1.2.3",
        "1,2",
        "}",
        "1}",
        '\\"',
        "\\u0031",
        "１",
        "\x01",
        "\x7f",
        " 1",
        "1 ",
        "aggTrade",
        "BTCUSDC",
    ),
    *("1" * digits for digits in (12, 13, 14, 16, 17, 18, 19, 20, 40)),
    *("9" * digits for digits in (13, 18, 19, 20)),
    *("1.00000", "1.001", "1.0010000", "0." + "0" * 18, "0." + "0" * 19, "1." + "0" * 17, "1" + "0" * 15 + ".00"),
    *("1" + "0" * 15 + ".5", str(2**60 - 1), str(2**60), str(2**63), str(2**64 + 5), str(2**64 + NOW_MS)),
]


@st.composite
def unusual(draw: st.DrawFn) -> bytes:
    """A frame in which something is as it never is: a value, a key, a byte, its end."""
    frame = draw(usual(list(INSTRUMENTS)))
    match draw(st.sampled_from(["value", "bytes", "cut", "twice", "missing", "swap"])):
        case "value":
            return altered(frame.decode(), draw(st.data()))
        case "bytes":
            place = draw(st.integers(0, len(frame) - 1))
            put = draw(
                st.sampled_from([bytes([n]) for n in range(256)] + [b"", b'":', b',"', b"}}", b"\\u0061", b"\xff"])
            )
            return frame[:place] + put + frame[place + draw(st.integers(0, 2)) :]
        case "cut":
            return frame[: draw(st.integers(0, len(frame)))]
        case kind:
            fields = frame.partition(b'"data":{')[2][:-2].split(b",")
            place, other = (draw(st.integers(0, len(fields) - 1)) for _ in range(2))
            if kind == "twice":
                key = fields[place].partition(b":")[0]
                fields.insert(
                    other, draw(st.sampled_from([fields[place], key + b":7", key + b':"1.5"', key + b":false"]))
                )
            elif kind == "missing":
                del fields[place]
            else:
                fields[place], fields[other] = fields[other], fields[place]
            return frame.partition(b'"data":{')[0] + b'"data":{' + b",".join(fields) + b"}}"


@given(st.lists(usual(), min_size=1, max_size=20))
def test_usual_frames_are_all_read(frames: list[bytes]) -> None:
    assert scanned(frames) == [decoded(frame) for frame in frames]
    assert None not in scanned(frames)


@settings(max_examples=500)
@given(st.lists(st.one_of(unusual(), unusual(), usual(), ANYTHING), min_size=1, max_size=12))
def test_nothing_is_read_otherwise_than_alone(frames: list[bytes]) -> None:
    assert_nothing_is_read_otherwise(frames)


VALUES = {"e": '"aggTrade"', "E": str(NOW_MS), "s": '"BTCUSDT"', "a": "7", "p": '"60000.12"', "q": '"0.1"'}
VALUES |= {"f": "10", "l": "12", "T": str(NOW_MS), "m": "true", "M": "true", "nq": '"0.1"'}


def spelled(values: dict[str, str]) -> bytes:
    fields = ",".join(f'"{key}":{value}' for key, value in values.items())
    return f'{{"stream":"btcusdt@aggTrade","data":{{{fields}}}}}'.encode()


def test_each_value_may_be_any_text() -> None:
    texts = [form for text in NUMBERS for form in (text, f'"{text}"')]
    frames = [spelled(VALUES | {key: text}) for key in VALUES for text in texts]
    assert_nothing_is_read_otherwise(frames)
    assert sum(found is not None for found in scanned(frames)) > 150


def test_each_byte_of_a_frame_may_be_any_other() -> None:
    frame = spelled(VALUES)
    changed = [frame[:place] + bytes([byte]) + frame[place + 1 :] for place in range(len(frame)) for byte in range(256)]
    assert_nothing_is_read_otherwise(changed)
    assert sum(found is not None for found in scanned(changed)) > len(frame)


def test_every_genuine_trade_is_read() -> None:
    spot, futures = feed("raw/cryptofeed/BINANCE.ws.1.0.gz"), feed("raw/cryptofeed/BINANCE_FUTURES.ws.1.0.gz")
    frames = [frame for _, _, frame in (*spot, *futures) if b"@aggTrade" in frame]
    frames += [
        line
        for line in recorded("raw/binance_usdm_2026/frames_2026-08-08.jsonl").read_bytes().splitlines()
        if b"@aggTrade" in line
    ]
    names = {json.loads(frame)["data"]["s"] for frame in frames}
    instruments = {name: Instrument("binance", name, name[:-4], "USDT", 8, 8) for name in names}
    assert list(Scanner(instruments).read(frames)) == [decode(frame, instruments, 0) for frame in frames]
    assert len(frames) > 90 and len(names) > 4


def test_a_genuine_weekend_is_read() -> None:
    path = recorded("aggtrades/XRPETH_spot_20191011_20191013.rest.jsonl.gz")
    rows = [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    frames = [written({"e": "aggTrade", "E": row["T"], "s": "XRPETH"} | row) for row in rows]
    assert scanned(frames) == [decoded(frame) for frame in frames]
    assert len(frames) == 12_477


# -- in the core ---------------------------------------------------------------------------------------------------------


def state(core: CollectorCore) -> tuple[Any, ...]:
    streams = [(s.pending, s.fills, s.ledger.ranges, s.relisted) for s in core.streams.values()]
    return streams, core.statistics, core.bad_frames, core.waiting, core.pending, core.newest_ms


def trade_frame(number: int, time_ms: int, price: int, name: str) -> bytes:
    text = INSTRUMENTS[name].price_text(price)
    event = {"e": "aggTrade", "E": time_ms, "s": name, "a": number, "p": text, "q": "1", "f": number, "l": number}
    return written(event | {"T": time_ms, "m": False, "M": True})


SENT = st.builds(
    trade_frame,
    st.integers(100, 112),
    st.sampled_from([NOW_MS, NOW_MS + 5, NOW_MS + 70_000, NOW_MS + 86_400_000]),
    st.integers(0, 2),
    st.sampled_from(NAMES[:2]),
)
OTHERS = st.sampled_from([b"{", b'{"result":null,"id":1}', b'{"stream":"x","data":{"e":"serverShutdown","E":1}}'])


@given(st.lists(st.lists(st.one_of(SENT, SENT, SENT, OTHERS), max_size=12), max_size=5), st.integers(1, 30))
def test_frames_do_together_what_they_do_one_by_one(batches: list[list[bytes]], most_pending: int) -> None:
    wanted = dict.fromkeys(INSTRUMENTS, (NOW_MS, FOREVER_MS))
    alone, together = (
        CollectorCore(INSTRUMENTS, {}, wanted, lambda low, _high: low, most_pending, scan_from=least)
        for least in (10**9, 1)
    )
    together.scanner.compile()
    for core in (alone, together):
        core.tick(0.0)
        core.connected(1, 0.0)
    for now_s, frames in enumerate(batches):
        for frame in frames:
            alone.received(1, [frame], float(now_s))
        together.received(1, frames, float(now_s))
        assert state(together) == state(alone)


def test_frames_that_come_together_stop_at_the_most_that_may_wait() -> None:
    wanted = dict.fromkeys(INSTRUMENTS, (NOW_MS, FOREVER_MS))
    core = CollectorCore(INSTRUMENTS, {}, wanted, lambda low, _high: low, most_pending=5, scan_from=1)
    core.scanner.compile()
    core.tick(0.0)
    core.connected(1, 0.0)
    core.received(1, [trade_frame(number, NOW_MS, 1, "BTCUSDT") for number in range(100, 120)], 0.0)
    assert core.pending == 5
    assert Disconnect(1, "the store is behind") in core.commands()


@pytest.mark.parametrize("size", [1, 100])
def test_it_is_compiled_once_and_only_for_a_stream_that_is_worth_it(size: int) -> None:
    core = CollectorCore(INSTRUMENTS, {}, dict.fromkeys(INSTRUMENTS, (NOW_MS, FOREVER_MS)), lambda low, _high: low)
    frame, asked = trade_frame(100, NOW_MS, 1, "BTCUSDT"), list[Command]()
    for _ in range(3 * WORTH_COMPILING // size):
        core.received(1, [frame] * size, 0.0)
        asked += [command for command in core.commands() if isinstance(command, Compile)]
    assert asked == ([Compile()] if size > 1 else [])
