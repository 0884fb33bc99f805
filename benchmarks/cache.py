"""The last 300 bars of a symbol from memory: as they lie there, as a frame, and the way one writes it first."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import count, islice
from typing import Any

import numpy as np
import pandas as pd
import polars as pl

from benchmarks.comparison import OURS, Comparison, Measure, compare
from trading.market.candle import CANDLE_SCHEMA
from trading.market.timeframe import SECOND_MS, Timeframe
from trading.provider.cache import DataCacheManager

START_MS = 1_760_054_400_000
SYMBOLS = tuple(f"S{number}" for number in range(10))
ROWS = 300
HELD = 330
WRITES_S = 4_000
COLUMNS = ("open_time", "open", "high", "low", "close", "volume")
READ = SYMBOLS[1]

Put = Callable[[str, dict[str, Any]], None]


def bar(second: int) -> dict[str, Any]:
    """Return the bar of one second."""
    rest = {"source": "trades", "complete": True, "n_present": 1, "n_expected": 1}
    values = (START_MS + second * SECOND_MS, 1.0, 2.0, 0.5, 1.5, 10.0 + second)
    return dict.fromkeys(CANDLE_SCHEMA) | dict(zip(COLUMNS, values, strict=True)) | rest


class Deques:
    """A queue of rows for each symbol behind one lock; six columns, as nobody would keep more."""

    def __init__(self) -> None:
        self._rows: dict[str, deque[tuple[Any, ...]]] = {symbol: deque(maxlen=HELD) for symbol in SYMBOLS}
        self._lock = threading.Lock()

    def put(self, symbol: str, row: dict[str, Any]) -> None:
        """Add a row."""
        with self._lock:
            self._rows[symbol].append(tuple(row[name] for name in COLUMNS))

    def latest(self, symbol: str, limit: int) -> list[tuple[Any, ...]]:
        """Return the last rows."""
        with self._lock:
            return list(self._rows[symbol])[-limit:]

    def pandas(self, symbol: str, limit: int) -> pd.DataFrame:
        """Return them as a frame."""
        return pd.DataFrame(self.latest(symbol, limit), columns=list(COLUMNS))


def comparisons(reads: int = 2_000) -> Iterator[Comparison | Measure]:
    """Yield each comparison as it is done: reads while nobody writes, then their latency while one does."""
    ours, deques = DataCacheManager(lambda: 0), Deques()

    def put(symbol: str, row: dict[str, Any]) -> None:
        ours.put("candle_1s", symbol, row)
        deques.put(symbol, row)

    rows = map(bar, count())
    for row in islice(rows, HELD):
        for symbol in SYMBOLS:
            put(symbol, row)
    ways: dict[str, Callable[[], Any]] = {
        OURS: lambda: ours.view("candle", READ, ROWS, Timeframe.S1),
        "frame": lambda: ours.get_latest_ohlcv(READ, Timeframe.S1, ROWS),
        "list": lambda: deques.latest(READ, ROWS),
        "pandas": lambda: deques.pandas(READ, ROWS),
    }
    repeated = {way: _repeated(call, 50) for way, call in ways.items()}
    yield compare("cache", 50, "reads", repeated, _same)
    yield compare(
        "cache_write",
        len(SYMBOLS) * 100,
        "rows",
        {
            OURS: lambda: _write(lambda symbol, row: ours.put("candle_1s", symbol, row), rows),
            "deque": lambda: _write(deques.put, rows),
        },
        lambda *_: True,
    )
    for name, way in (("cache_read", OURS), ("cache_frame", "frame"), ("cache_pandas", "pandas")):
        p50, p99, writes_s = _beside_writes(ways[way], put, rows, reads)
        note = f"{ROWS} rows beside {writes_s:,.0f} writes a second; p50 {p50:.4f} ms"
        yield Measure(f"{name}_p99_ms", round(p99, 4), "ms", note)


def _repeated(call: Callable[[], Any], times: int) -> Callable[[], Any]:
    def calls() -> Any:
        for _ in range(times - 1):
            call()
        return call()

    return calls


def _write(put: Put, rows: Iterator[dict[str, Any]]) -> None:
    for row in islice(rows, 100):
        for symbol in SYMBOLS:
            put(symbol, row)


def _beside_writes(
    read: Callable[[], Any], put: Put, rows: Iterator[dict[str, Any]], reads: int
) -> tuple[float, float, float]:
    """Return p50 and p99 (ms) of a read while a thread writes, and how many rows a second it wrote."""
    stop, written = threading.Event(), [0]

    def write() -> None:
        began = time.perf_counter()
        while not stop.is_set():
            row = next(rows)
            for symbol in SYMBOLS:
                put(symbol, row)
            written[0] += len(SYMBOLS)
            time.sleep(max(0.0, began + written[0] / WRITES_S - time.perf_counter()))

    writer = threading.Thread(target=write)
    writer.start()
    began, taken = time.perf_counter(), list[float]()
    try:
        for _ in range(reads):
            start = time.perf_counter()
            read()
            taken.append(1_000 * (time.perf_counter() - start))
            time.sleep(0.0005)
    finally:
        stop.set()
        writer.join()
    p50, p99 = np.percentile(taken, (50, 99)).tolist()
    return p50, p99, written[0] / (time.perf_counter() - began)


def _same(ours: np.ndarray, other: Any) -> bool:
    columns = [ours[name].tolist() for name in COLUMNS]
    if isinstance(other, list):
        return columns == [list(column) for column in zip(*other, strict=True)]
    if isinstance(other, np.ndarray):
        return ours.tobytes() == other.tobytes()
    frame = pl.DataFrame(other) if isinstance(other, pl.DataFrame) else pl.from_pandas(other)
    return columns == [frame[name].to_list() for name in COLUMNS]
