"""Millions of damaged frames, pages, batches and journal values: each is read or refused by name, and memory stays flat."""

import json
import os
import random
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest
from rocksdict import Options, Rdict

from resources.journal import TradeJournal
from resources.rocksdb import JournalDamaged
from resources.simulator.synthetic import SyntheticMarket
from tests.faults.test_bad_input import BAD, INSTRUMENTS, NOW_MS, event, frame
from trading.errors import TradingError
from trading.market.trade import AggTrade
from trading.stream.batch import BatchDamaged, decode_columns, encode
from trading.stream.contiguity import IdRange
from trading.stream.events import decode_depth_snapshot, decode_event
from trading.stream.repair import Fill
from trading.stream.wire import BadFrame, decode, decode_page

TIME_BOX_S = 300 if os.environ.get("SOAK") else 3
SECOND_MS = NOW_MS // 1000 * 1000
"""Of the stored batch."""

LEVELS = [["60000.12", "0.001"], ["60000.11", "2.5"]]
DEPTH = {"e": "depthUpdate", "E": NOW_MS, "s": BAD, "U": 5, "u": 9, "b": LEVELS, "a": [["60000.13", "0"]]}
KLINE = {"t": NOW_MS, "T": NOW_MS + 59_999, "s": BAD, "i": "1m", "o": "1", "c": "2", "h": "3", "l": "0.5", "v": "7"}
KLINE |= {"n": 3, "x": True, "q": "9", "V": "3", "Q": "4", "f": 1, "L": 3}
EVENTS = [DEPTH, {"e": "kline", "E": NOW_MS, "s": BAD, "k": KLINE}, {"e": "serverShutdown", "E": NOW_MS}]
EVENTS += [{"u": 7, "s": BAD, "b": "60000.12", "B": "1", "a": "60000.13", "A": "2"}]


def damaged(chance: random.Random, genuine: bytes, other: bytes) -> bytes:
    """Return bytes with one to three edits: a byte changed, some cut out, some put in, or another's end."""
    content = bytearray(genuine)
    for _ in range(chance.randint(1, 3)):
        place, length = chance.randrange(len(content) + 1), chance.randint(1, 8)
        edit = chance.randrange(4)
        if edit == 0 and place < len(content):
            content[place] = chance.randrange(256)
        elif edit == 1:
            del content[place : place + length]
        elif edit == 2:
            content[place:place] = chance.randbytes(length)
        else:
            content[place:] = other[chance.randrange(len(other) + 1) :]
    return bytes(content)


def fuzzed(genuine: list[bytes], read: Callable[[bytes], Any], refusal: type[TradingError], seed: int) -> Counter[str]:
    """Give damaged bytes to a decoder until time is up; anything but a value or its refusal fails with the seed."""
    chance, counts, until_s = random.Random(seed), Counter[str](), time.monotonic() + TIME_BOX_S
    memory = psutil.Process().memory_info
    for content in genuine:
        read(content)
    for _ in range(2_000):  # until whatever grows once has grown
        _outcome(read, damaged(chance, *chance.choices(genuine, k=2)), refusal)
    before = memory().rss
    while time.monotonic() < until_s:
        for _ in range(500):
            counts[_outcome(read, damaged(chance, *chance.choices(genuine, k=2)), refusal)] += 1
    grown = memory().rss - before
    assert grown < 8 * 2**20, f"{grown} bytes more after {counts.total()}"
    return counts


def _outcome(read: Callable[[bytes], Any], content: bytes, refusal: type[TradingError]) -> str:
    try:
        read(content)
    except TradingError as error:
        assert isinstance(error, refusal), content
        return error.reason if isinstance(error, BadFrame) else "refused"
    except BaseException as error:
        raise AssertionError(f"{type(error).__name__} at {content!r}") from error
    return "read"


WIRE: dict[str, tuple[list[bytes], Callable[[bytes], Any]]] = {
    "trades off the wire": ([frame(n) for n in range(1, 20)], lambda b: decode(b, INSTRUMENTS, NOW_MS)),
    "other events": (
        [json.dumps(one).encode() for one in EVENTS] + [frame(1)],
        lambda b: decode_event(b, INSTRUMENTS, NOW_MS),
    ),
    "pages of trades": (
        [json.dumps([event(n), event(n + 1)]).encode() for n in range(5)],
        lambda b: decode_page(b, INSTRUMENTS[BAD]),
    ),
    "snapshots of a book": (
        [json.dumps({"lastUpdateId": n, "bids": LEVELS, "asks": LEVELS}).encode() for n in range(5)],
        lambda b: decode_depth_snapshot(b, INSTRUMENTS[BAD]),
    ),
}


@pytest.mark.parametrize("name", WIRE)
def test_damaged_bytes_off_the_wire_are_read_or_refused_with_a_reason(name: str) -> None:
    genuine, read = WIRE[name]
    counts = fuzzed(genuine, read, BadFrame, seed=len(name))
    print(f"{name}: {counts.total()} damaged, {dict(counts)}")
    assert counts["not_json"]


def test_damaged_batches_are_refused() -> None:
    market = SyntheticMarket(3, [BAD], trades_per_second=20)
    batches: list[bytes] = []
    for number in range(10):
        trades = market.trades(BAD, SECOND_MS + 1000 * number, SECOND_MS + 1000 * (number + 1))
        batches += encode(trades, np.array([0, len(trades)]), np.array([SECOND_MS]), [b"key"])

    def read(content: bytes) -> None:
        decode_columns([content], np.array([SECOND_MS]), [b"key"])
        assert content in batches, "an edit may put back what was there, and nothing else passes the checksum"

    counts = fuzzed(batches, read, BatchDamaged, seed=5)
    print(f"batches: {counts.total()} damaged, {dict(counts)}")


def test_damaged_values_of_a_journal_are_refused_by_name(tmp_path: Path) -> None:
    """Ledger, fills, books and batches, each damaged on disk; what a reader returns is what was written, or an error."""
    folder, chance = tmp_path / "journal", random.Random(9)
    trade = AggTrade(7, 1, 1, 7, 7, SECOND_MS, False)
    with TradeJournal.write(folder) as journal:
        journal.append({BAD: [trade]}, {BAD: [IdRange(7, 7, 0, SECOND_MS)]}, {BAD: [Fill(7, 7, 0, 1, True, 5)]})
    reads: dict[str, Callable[[TradeJournal], Any]] = {
        "trades": lambda j: j.trades(BAD, 0, 10**13 - 1).rows(),
        "ledger": lambda j: msgspec.to_builtins(j.ledger(BAD)),
        "fills": lambda j: msgspec.to_builtins(j.fills(BAD)),
    }
    keys = {"trades": f"trades:{BAD}:{SECOND_MS:013d}", "ledger": f"ledger:{BAD}", "fills": f"fill:{BAD}:{7:020d}"}
    until_s, counts = time.monotonic() + TIME_BOX_S, Counter[str]()
    with TradeJournal.read(folder) as journal:
        whole = {name: read(journal) for name, read in reads.items()}
    while time.monotonic() < until_s:
        name = chance.choice(list(keys))
        live = Rdict(str(folder / "live"), Options(raw_mode=True))
        values, key = live.get_column_family("trades" if name == "trades" else "ledger"), keys[name].encode()
        genuine = values[key]
        values[key] = damaged(chance, genuine, genuine)
        values.close()
        live.close()
        with TradeJournal.write(folder) as journal:
            try:
                assert reads[name](journal) == whole[name]
                counts["as it was"] += 1
            except JournalDamaged:
                counts["refused"] += 1
        live = Rdict(str(folder / "live"), Options(raw_mode=True))
        values = live.get_column_family("trades" if name == "trades" else "ledger")
        values[key] = genuine
        values.close()
        live.close()
    print(f"values on disk: {dict(counts)}")
    assert counts["refused"]
