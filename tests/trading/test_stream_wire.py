import json
from typing import Any

import pytest

from trading.market.instrument import Instrument
from trading.stream.backoff import Backoff
from trading.stream.wire import BadFrame, decode

NOW_MS = 1_700_000_000_000
NAMES = ("BTCUSDT", "币安人生USDT")
INSTRUMENTS = {name: Instrument("sim", name, name[:-4], "USDT", 2, 5) for name in NAMES}
GOOD = {"e": "aggTrade", "E": NOW_MS, "s": "BTCUSDT", "a": 7, "p": "60000.12000000", "q": "0.00100000"}
GOOD |= {"f": 10, "l": 12, "T": NOW_MS, "m": True, "M": True}


def frame(**changes: Any) -> str:
    event = {key: value for key, value in (GOOD | changes).items() if value is not ...}
    return json.dumps({"stream": "btcusdt@aggTrade", "data": event}, ensure_ascii=False)


def test_a_trade_is_read_exactly() -> None:
    symbol, trade = decode(frame(), INSTRUMENTS, NOW_MS) or ("", None)
    assert (symbol, trade.agg_trade_id, trade.price, trade.quantity) == ("BTCUSDT", 7, 6_000_012, 100)
    assert (trade.first_trade_id, trade.last_trade_id, trade.time_ms, trade.buyer_is_maker) == (10, 12, NOW_MS, True)


def test_unknown_fields_and_names_outside_ascii_are_accepted() -> None:
    assert decode(frame(new={"x": [1]}), INSTRUMENTS, NOW_MS) is not None
    assert (decode(frame(s=NAMES[1]), INSTRUMENTS, NOW_MS) or ("",))[0] == NAMES[1]


def test_the_answer_to_a_command_is_no_trade() -> None:
    assert decode('{"result":null,"id":1}', INSTRUMENTS, 0) is None


BAD = [
    b"\xff\xfe",
    "",
    "[]",
    "null",
    "3",
    frame()[:60],
    "[" * 100_000,
    "{}",
    frame(e="depthUpdate"),
    frame(a=...),
    *(frame(a=value) for value in (-1, 1.5, "7", 2**60, 2**63)),
    *(frame(p=value) for value in ("NaN", "Infinity", "1e999", "", "abc", "0", "-1", "1" * 30, "1.001", 5)),
    *(frame(q=value) for value in ("NaN", "-1", "0.000001")),
    *(frame(T=value) for value in (0, NOW_MS // 1000, NOW_MS * 1000, NOW_MS + 86_400_000)),
    frame(f=13),
    frame(m=...),
    *(frame(s=value) for value in ("ETHUSDT", "btcusdt", "../../etc", "A:B", "\0", "X" * 10_000)),
]


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
def test_a_frame_that_is_no_trade_is_refused_with_a_reason(bad: str | bytes) -> None:
    with pytest.raises(BadFrame) as refused:
        decode(bad, INSTRUMENTS, NOW_MS)
    assert refused.value.reason.isidentifier()
    assert len(str(refused.value)) < 300


def test_pauses_grow_to_a_minute_and_a_healthy_connection_starts_them_anew() -> None:
    longest = Backoff(lambda _low, high: high)
    assert [longest.pause_s(0) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert longest.pause_s(30) == 1
    shortest = Backoff(lambda low, _high: low)
    assert shortest.pause_s(0) > 0
