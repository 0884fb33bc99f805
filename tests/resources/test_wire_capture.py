"""Frames recorded off the wire, served again as they came."""

import asyncio
import gzip
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from resources.simulator.recording import BadRecording, Recording, recordings
from tests.captures import feed, frames
from tests.recorded import recorded
from tests.resources.simulated import exchange, get
from trading.market.instrument import Instrument
from trading.market.timeframe import Timeframe
from trading.stream.book_sync import BookSync
from trading.stream.events import DepthDiff, decode_depth_snapshot, decode_event

START_MS = 1_760_000_000_000
DEPTH, TICKER, TRADE = ("btcusdt@depth@100ms", "btcusdt@bookTicker", "btcusdt@trade")


def line(at_ms: float, stream: str, **data: Any) -> bytes:
    frame = json.dumps({"stream": stream, "data": data}, separators=(",", ":"))
    return f"{round(at_ms * 10**6)} {frame}\n".encode()


def fill(at_ms: int, number: int, price: str, quantity: str, sold: bool, sent_ms: int | None = None) -> bytes:
    data = {"e": "trade", "E": at_ms, "s": "BTCUSDT", "t": number, "p": price, "q": quantity, "T": at_ms, "m": sold}
    return line(sent_ms or at_ms, TRADE, **data, M=True)


def diff(at_ms: int, first: int, last: int, bids: list[list[str]], asks: list[list[str]]) -> bytes:
    return line(at_ms, DEPTH, e="depthUpdate", E=at_ms, s="BTCUSDT", U=first, u=last, b=bids, a=asks)


def snapshot(at_ms: int, last: int, bids: list[list[str]], asks: list[list[str]]) -> bytes:
    return f"{at_ms * 10**6} {json.dumps({'lastUpdateId': last, 'bids': bids, 'asks': asks})}\n".encode()


FILLS = [
    fill(START_MS + 10, 700, "100.50", "1.00000000", True),
    fill(START_MS + 10, 701, "100.50", "0.50000000", True),
    fill(START_MS + 10, 702, "100.50", "0.25000000", False),
    fill(START_MS + 20, 703, "100.50", "2.00000000", False),
    fill(START_MS + 20, 705, "100.50", "2.00000000", False),
]
BOOK = [
    diff(START_MS + 100, 11, 12, [["99.00", "1.0"]], []),
    snapshot(START_MS + 150, 12, [["99.00", "1.0"], ["98.00", "2.0"]], [["101.00", "3.0"]]),
    diff(START_MS + 200, 13, 15, [["99.00", "0.0"]], [["100.00", "4.0"]]),
]


def captured(folder: Path, *lines: bytes, name: str = "one.gz") -> Path:
    file = folder / "wire" / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(gzip.compress(b"".join(lines)) if name.endswith(".gz") else b"".join(lines))
    return folder


def linked(folder: Path, *names: str) -> Path:
    (folder / "wire").mkdir()
    for name in names:
        path = recorded(name)
        (folder / "wire" / path.name).symlink_to(path)
    return folder


def served(markets: Sequence[Recording], path: str, speed: float = math.inf) -> list[str]:
    first, last = (edge(m.capture.span[side] for m in markets) for side, edge in ((0, min), (1, max)))
    if not math.isinf(speed):
        first -= 500  # time for the client to connect

    async def run() -> list[str]:
        async with exchange(markets, first, last + 1, speed) as one:
            return await one.received(path)

    return asyncio.run(run())


def test_fills_of_one_moment_price_and_side_are_one_trade(tmp_path: Path) -> None:
    recording = Recording(captured(tmp_path, *FILLS))
    trades = recording.trades_by_id("BTCUSDT", 0, 100)
    assert trades["agg_trade_id"].to_list() == [1, 2, 3, 4]
    assert trades.select("first_trade_id", "last_trade_id").rows() == [(700, 701), (702, 702), (703, 703), (705, 705)]
    assert [recording.instrument("BTCUSDT").quantity(lots) for lots in trades["quantity"]] == [1.5, 0.25, 2.0, 2.0]
    assert recording.fills("BTCUSDT", 0, 2 * START_MS)["trade_id"].to_list() == [700, 701, 702, 703, 705]


def test_trades_that_were_recorded_whole_keep_their_numbers(tmp_path: Path) -> None:
    whole = {
        "e": "aggTrade",
        "E": START_MS,
        "s": "BTCUSDT",
        "a": 41,
        "p": "1.5",
        "q": "2",
        "f": 7,
        "l": 9,
        "T": START_MS,
    }
    recording = Recording(captured(tmp_path, *FILLS, line(START_MS, "btcusdt@aggTrade", **whole, m=True, M=True)))
    assert recording.trades_by_id("BTCUSDT", 0, 100)["agg_trade_id"].to_list() == [41]


def test_a_stream_that_was_not_recorded_is_made_of_the_fills_that_were(tmp_path: Path) -> None:
    sent = served(recordings(captured(tmp_path, *FILLS)), "/stream?streams=btcusdt@aggTrade/btcusdt@depth@100ms")
    assert [json.loads(text)["data"]["a"] for text in sent] == [1, 2, 3, 4]
    bars = Recording(tmp_path).klines("BTCUSDT", Timeframe.M1, 0, 2 * START_MS)
    assert bars["trade_count"].to_list() == [5]


def test_each_stream_goes_to_who_asked_for_it_in_order_and_byte_for_byte(tmp_path: Path) -> None:
    folder = captured(tmp_path, *FILLS, *BOOK)
    for stream, lines in ((TRADE, FILLS), (DEPTH, [BOOK[0], BOOK[2]])):
        expected = [one.partition(b" ")[2].strip().decode() for one in lines]
        assert served(recordings(folder), f"/stream?streams={stream}") == expected
        assert served(recordings(folder), f"/ws/{stream}") == [
            json.dumps(json.loads(e)["data"], separators=(",", ":")) for e in expected
        ]


def test_frames_come_at_the_recorders_pace_and_none_before_its_own_moment(tmp_path: Path) -> None:
    # A recorder whose clock is 1.3 s behind.
    lines = [fill(START_MS + at, 700 + at, "1.5", "1", True, START_MS + at - 1300 + at // 100) for at in (0, 500, 900)]
    recording = Recording(captured(tmp_path, *lines))
    events = recording.capture.frames[TRADE]
    assert [event.time_ms - START_MS for event in events] == [0, 505, 909]
    started = time.monotonic()
    assert len(served([recording], f"/ws/{TRADE}", speed=1)) == 3
    assert 0.8 < time.monotonic() - started < 5


def test_a_snapshot_is_answered_as_the_book_stands_and_not_before_one_was_recorded(tmp_path: Path) -> None:
    book = Recording(captured(tmp_path, *FILLS, *BOOK)).book("BTCUSDT")
    instrument = book.instrument
    with pytest.raises(Exception, match="no snapshot of BTCUSDT") as refused:
        book.depth(START_MS + 149, 10)
    assert refused.value.later  # pyright: ignore[reportAttributeAccessIssue]
    depth = book.depth(START_MS + 150, 10)
    assert (depth.update_id, len(depth.bids), len(depth.asks)) == (12, 2, 1)
    depth = book.depth(START_MS + 200, 1)
    assert (depth.update_id, depth.bids, depth.asks) == (
        15,
        [(instrument.ticks("98.00"), instrument.lots("2.0"))],
        [(instrument.ticks("100.00"), instrument.lots("4.0"))],
    )


def test_after_a_hole_in_the_recorded_diffs_no_book_is_made_up(tmp_path: Path) -> None:
    book = Recording(captured(tmp_path, *BOOK, diff(START_MS + 300, 17, 18, [], []))).book("BTCUSDT")
    assert book.depth(START_MS + 299, 10).update_id == 15
    with pytest.raises(Exception, match="no snapshot"):
        book.depth(START_MS + 300, 10)


def test_the_rest_side_refuses_what_was_not_recorded(tmp_path: Path) -> None:
    folder = captured(tmp_path, *FILLS, *BOOK)

    async def run() -> list[int]:
        async with (
            exchange(recordings(folder), START_MS, START_MS + 1000, 1) as one,
            aiohttp.ClientSession() as session,
        ):
            fills = await get(f"{one.http}/api/v3/trades", symbol="BTCUSDT")
            assert fills == []
            found = []
            for path in ("/api/v3/depth?symbol=BTCUSDT", "/fapi/v1/depth?symbol=BTCUSDT"):
                async with session.get(one.http + path) as answer:
                    found.append(answer.status)
            return found

    # A snapshot was recorded a little later; futures were not at all.
    assert asyncio.run(run()) == [503, 404]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"".join(FILLS[:2]) + FILLS[2][:-20] + b"\n", "line 3"),
        (b"12345 [1,2]\n", "line 1"),
        (b"<html>\n", "line 1"),
        (FILLS[0].replace(b'"stream":', b'"stream":7,"x":'), "line 1"),
        (FILLS[0].replace(b'"q":"1.0', b'"q":"one'), "BTCUSDT"),
    ],
    ids=["cut", "no object", "a page", "wrong type", "no number"],
)
def test_a_damaged_capture_is_refused_by_its_line(tmp_path: Path, content: bytes, said: str) -> None:
    with pytest.raises(BadRecording, match=said):
        Recording(captured(tmp_path, content))


def test_a_truncated_capture_is_refused_by_its_name(tmp_path: Path) -> None:
    captured(tmp_path, *(fill(START_MS + n, 700 + n, "1.5", "1", True) for n in range(500)))
    file = tmp_path / "wire" / "one.gz"
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(BadRecording, match=r"one.gz is damaged"):
        recordings(tmp_path)


# -- real captures -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "root", "streams", "instrument"),
    [
        (
            ("raw/binance_spot/btcusdt_20240808.gz", "raw/binance_spot/btcusdt_20240809.gz"),
            "",
            (DEPTH, TICKER, TRADE),
            Instrument("sim", "BTCUSDT", "BTC", "USDT", 2, 5),
        ),
        (
            ("raw/binance_usdm/btcusdt_20240808.gz",),
            "/public",
            ("btcusdt@depth@0ms", TICKER),
            Instrument("sim", "BTCUSDT", "BTC", "USDT", 1, 3, "usdm"),
        ),
    ],
    ids=["spot", "usdm"],
)
def test_a_real_capture_is_sent_whole_and_keeps_a_book_in_step(
    tmp_path: Path, names: tuple[str, ...], root: str, streams: tuple[str, ...], instrument: Instrument
) -> None:
    (recording,) = recordings(linked(tmp_path, *names))
    asked = tuple(f'{{"stream":"{stream}",'.encode() for stream in streams)
    expected = [frame for _, frame in frames(*names) if frame.startswith(asked)]
    sent = served([recording], f"{root}/stream?streams={'/'.join(streams)}")
    assert [text.encode() for text in sent] == expected
    # What REST answers at the end of the capture is the book of its frames.
    answered = recording.book("BTCUSDT").depth(recording.capture.span[1], 20)
    sync = BookSync()
    for _, frame in frames(*names):
        if not frame.startswith(b'{"stream"'):
            sync.snapshot(decode_depth_snapshot(frame, instrument))
        elif frame.startswith(asked[0]):
            decoded = decode_event(frame, {"BTCUSDT": instrument}, 0)
            assert isinstance(decoded, tuple) and isinstance(decoded[1], DepthDiff)
            sync.diff(decoded[1])
    top = sync.top(20)
    assert top is not None
    assert answered.update_id == top.last_update_id
    written = recording.book("BTCUSDT").instrument
    for ours, theirs in ((answered.bids, top.bids), (answered.asks, top.asks)):
        assert [written.price(price) for price, _ in ours] == [instrument.price(price) for price, _ in theirs.tolist()]


def test_real_fills_become_the_trades_that_others_made_of_them(tmp_path: Path) -> None:
    names = ("raw/binance_spot/btcusdt_20240808.gz", "raw/binance_spot/btcusdt_20240809.gz")
    recording = Recording(linked(tmp_path, *names))
    assert len(recording.fills("BTCUSDT", 0, 2**50)) == 19_904
    other = tmp_path / "derived"
    (other / "aggTrades").mkdir(parents=True)
    derived = recorded("aggtrades/BTCUSDT_spot_20240808_20240809_derived.csv.gz")
    (other / "aggTrades" / "BTCUSDT.csv.gz").symlink_to(derived)
    columns = ["price", "quantity", "first_trade_id", "last_trade_id", "time_ms", "buyer_is_maker"]
    ours, theirs = (r.trades("BTCUSDT", 0, 2**50).select(columns) for r in (recording, Recording(other)))
    assert ours.equals(theirs)


def test_captures_of_other_recorders_are_read_with_their_snapshots(tmp_path: Path) -> None:
    names = [f"raw/cryptofeed/BINANCE{kind}" for kind in (".ws.1.0.gz", ".http.0.0.gz")]
    names += [f"raw/cryptofeed/BINANCE_FUTURES{kind}" for kind in (".ws.1.0.gz", ".http.0.0.gz")]
    spot, usdm = recordings(linked(tmp_path, *names, "raw/binance_usdm_2026/frames_2026-08-08.jsonl"))
    assert (spot.kind, usdm.kind) == ("spot", "usdm")
    assert spot.symbols == ("BLZETH", "LRCBTC", "NKNUSDT", "RUNEEUR")
    assert len(usdm.trades("SUSHIUSDT", 0, 2**50)) == 40
    count = sum(b'"nknusdt@depth@100ms"' in frame[:40] for _, _, frame in feed(names[0]))
    assert len(spot.capture.frames["nknusdt@depth@100ms"]) == count
    assert spot.book("NKNUSDT").depth(spot.capture.span[1], 5).bids
    assert [event.stream for event in usdm.frames("btcusdt@markPrice", 0, 2**50) or []] == ["btcusdt@markPrice"]
