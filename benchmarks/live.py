"""From the exchange's event to the answer of `get_inference_data` in another process, at a thousand trades a second.

The simulated exchange, the collector with its live path, PostgreSQL, Redis and the reader are processes of their own, as in
`trading up`. The exchange's day ends within the run, so that bars of every length close in it, with a history before them.
An event is visible when an answer has been returned that holds it, and its age is told by the exchange's clock. The exchange
sends what happened every `TICK_S`, as its own `sent` ages show: they are part of all others.
"""

import asyncio
import json
import os
import queue
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import polars as pl
from websockets.asyncio.client import connect

from benchmarks.comparison import Measure
from benchmarks.store import candles
from resources.home import Home
from resources.simulator.synthetic import SyntheticMarket
from resources.stores import Stores, open_stores
from resources.timescale.tables import CANDLE, INDICATOR
from trading.indicators.recursion import WINDOW_BARS, indicators_of_days
from trading.market.instrument import Instrument
from trading.market.timeframe import CANDLE_TIMEFRAMES, DAY_MS, MINUTE_MS, SECOND_MS
from trading.provider.events import LiveEvent
from trading.provider.frames import InferenceDataFrame
from trading.provider.question import BARS, INDICATED

SYMBOLS: Final = ("BTCUSDT", "ETHUSDT")
RATE: Final = 500
"""Trades a second and symbol."""

SEED: Final = 11
MIDNIGHT: Final = 1_767_225_600_000
BEFORE_S: Final = 20
"""So long before the day's end measuring begins; the exchange, a minute."""

COLLECT: Final = (
    "import sys\nfrom resources.collection import collection\n"
    "with collection('spot') as collecting:\n    for beat in collecting.beats():\n        pass\n"
)


class Ages:
    """How old events were when they could be seen, by kind."""

    def __init__(self, offset_ms: float, since_ms: int, until_ms: int) -> None:
        self._offset_ms, self._since_ms, self._until_ms = offset_ms, since_ms, until_ms
        self._ages: dict[str, list[float]] = {}

    def now_ms(self) -> float:
        """Return the exchange's clock."""
        return time.time() * 1000 + self._offset_ms

    def note(self, kind: str, time_ms: int, now_ms: float) -> None:
        """Note an event of the time that is measured."""
        if self._since_ms <= time_ms < self._until_ms:
            self._ages.setdefault(kind, []).append(now_ms - time_ms)

    def summary(self) -> dict[str, dict[str, float]]:
        """Return how many there were of each kind, the median, the 99th percentile and the oldest, in milliseconds."""
        return {
            kind: {
                "events": len(ages),
                "p50_ms": round(float(np.median(ages)), 1),
                "p99_ms": round(float(np.quantile(ages, 0.99)), 1),
                "max_ms": round(max(ages), 1),
            }
            for kind, ages in sorted(self._ages.items())
        }


class Asking:
    """Asks for each symbol of which something was told, and notes what the answer holds.

    Args:
        stores: Of the home whose live provider is asked.
        ages: Where it is noted.
    """

    def __init__(self, stores: Stores, ages: Ages) -> None:
        self._provider, self._follower, self._ages = stores.live_provider, stores.follower, ages
        self._told = queue.SimpleQueue[tuple[str, Sequence[LiveEvent]] | None]()
        self._thread = threading.Thread(target=self._ask, name="asking", daemon=True)
        self.answers = 0

    def start(self) -> None:
        """Begin to ask."""
        self._follower.heard = lambda symbol, events: self._told.put((symbol, events))
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._told.put(None)
        self._thread.join()

    def _ask(self) -> None:
        unseen: dict[str, list[LiveEvent]] = {}
        while (told := self._told.get()) is not None:
            waiting = [told]
            while not self._told.empty():
                waiting += [more] if (more := self._told.get()) else []
            for symbol, events in waiting:
                unseen.setdefault(symbol, []).extend(events)
            for symbol in dict.fromkeys(symbol for symbol, _ in waiting):
                answer, now_ms = self._provider.get_inference_data(symbol), self._ages.now_ms()
                self.answers += 1
                seen, unseen[symbol] = _seen(answer, unseen[symbol])
                for event in seen:
                    self._ages.note(event.kind, event.time_ms, now_ms)


def _seen(answer: InferenceDataFrame, events: Sequence[LiveEvent]) -> tuple[list[LiveEvent], list[LiveEvent]]:
    """Return the events that an answer holds, or has gone past, and the others."""
    frames: dict[str, pl.DataFrame] = {"bar:1s": answer.context["1s"], "book:1s": answer.context["book_1s"]}
    frames |= {f"bar:{timeframe}": rows for timeframe, rows in answer.ohlcv.items()}
    frames |= {f"indicator:{timeframe}": rows for timeframe, rows in answer.indicators.items()}
    if answer.book is not None:
        frames["book"] = answer.book.rows
    newest = {kind: rows[rows.columns[0]][-1] for kind, rows in frames.items() if len(rows)}
    seen: list[LiveEvent] = []
    unseen: list[LiveEvent] = []
    for event in events:
        # Trades are in the second that they belong to; until it is over the answer's moment tells that they were taken.
        there = answer.as_of_ms >= event.time_ms if event.kind == "trade" else newest.get(event.kind, 0) >= event.id
        (seen if there else unseen).append(event)
    return seen, unseen


# -- the market and its history ------------------------------------------------------------------------------------------


def _history(stores: Stores, instrument: Instrument, until_ms: int) -> None:
    """Store bars and indicators of before a moment, as many as are asked for or rested on."""
    for timeframe in CANDLE_TIMEFRAMES:
        count = WINDOW_BARS + DAY_MS // timeframe.ms + 1 if timeframe in INDICATED else 2 * BARS
        bars = candles(count, timeframe)
        moved_ms = timeframe.floor(until_ms) - timeframe.ms - int(bars["open_time"][-1])
        bars = bars.with_columns(
            pl.col("open_time") + moved_ms, pl.col("known_at_ms") + moved_ms, source=pl.lit("kline")
        )
        lo_ms, hi_ms = int(bars["open_time"][0]), int(bars["open_time"][-1]) + 1
        stores.market.write(CANDLE, instrument.name, bars, lo_ms, hi_ms, timeframe)
        if timeframe in INDICATED:
            since_ms = hi_ms - 2 * BARS * timeframe.ms
            rows = indicators_of_days(bars, timeframe, since_ms, hi_ms)
            stores.market.write(INDICATOR, instrument.name, rows, since_ms, hi_ms, timeframe)


@contextmanager
def _exchange(folder: Path, start_ms: int) -> Iterator[int]:
    """Run the simulated exchange and yield its port."""
    ready = folder / "port.json"
    command = [sys.executable, "-m", "resources.simulator", "--seed", str(SEED), "--symbols", ",".join(SYMBOLS)]
    command += ["--start-ms", str(start_ms), "--end-ms", str(start_ms + DAY_MS), "--speed", "1"]
    command += ["--trades-per-second", str(RATE), "--port-file", str(ready), "--parent", str(os.getpid())]
    exchange = subprocess.Popen(command)
    try:
        while not ready.exists():
            time.sleep(0.05)
        yield json.loads(ready.read_text())["port"]
    finally:
        exchange.terminate()
        exchange.wait()


def _offset_ms(port: int) -> float:
    """Return what is to be added to this machine's clock for the exchange's, by the quickest of some answers."""
    tries: list[tuple[float, float]] = []
    for _ in range(20):
        asked = time.time() * 1000
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/sim/clock", timeout=5) as answer:
            there = json.load(answer)["now_ms"]
        took = time.time() * 1000 - asked
        tries.append((took, there - asked - took / 2))
    return min(tries)[1]


def listen(port: int, offset_ms: float, since_ms: int, until_ms: int) -> None:
    """Print the ages at which trades of one symbol come to a reader that does nothing else."""
    ages = Ages(offset_ms, since_ms, until_ms)

    async def hear() -> None:
        async with connect(f"ws://127.0.0.1:{port}/ws/{SYMBOLS[0].lower()}@aggTrade") as socket:
            while ages.now_ms() < until_ms:
                trade = json.loads(await socket.recv())
                ages.note("sent", trade["T"], ages.now_ms())

    asyncio.run(hear())
    print(json.dumps(ages.summary()))


# -- measuring -----------------------------------------------------------------------------------------------------------


def measure(seconds: float = 60.0) -> dict[str, Any]:
    """Return the ages in milliseconds at which events were visible, by kind, and the collector's share of a core."""
    start_ms = MIDNIGHT - MINUTE_MS
    market = SyntheticMarket(SEED, list(SYMBOLS), "spot", RATE)
    with TemporaryDirectory() as folder:
        home = Home(Path(folder) / "home")
        home.create("simulated", {})
        with open_stores(home.path) as stores:
            stores.market.register([market.instrument(symbol) for symbol in SYMBOLS])
            for symbol in SYMBOLS:
                _history(stores, market.instrument(symbol), start_ms)
            _say("history is stored")
            with _exchange(Path(folder), start_ms) as port:
                return _measured(stores, port, start_ms, seconds)


def _measured(stores: Stores, port: int, start_ms: int, seconds: float) -> dict[str, Any]:
    rest, ws = f"http://127.0.0.1:{port}", f"ws://127.0.0.1:{port}"
    environment: Mapping[str, str] = os.environ | {
        "TRADING_HOME": str(stores.home.path),
        "TRADING_EXCHANGE_REST_URL": rest,
        "TRADING_EXCHANGE_WS_URL": ws,
        "TRADING_SYMBOLS": ",".join(SYMBOLS),
        "TRADING_LIVE": "on",
    }
    # From the first moment of a minute on, so that all bars at the day's end are whole.
    first = [sys.executable, "-m", "resources.collector", "--journal", str(stores.home.journal_dir("spot"))]
    first += ["--rest", rest, "--ws", ws, "--symbols", ",".join(SYMBOLS), "--venue", "sim"]
    first += ["--since-ms", str(start_ms), "--until-ms", str(start_ms + 2 * SECOND_MS)]
    subprocess.run(first, env=environment, check=True, capture_output=True)
    collector = subprocess.Popen([sys.executable, "-c", COLLECT], env=environment)
    since_ms = MIDNIGHT - BEFORE_S * SECOND_MS
    window = _offset_ms(port), since_ms, since_ms + int(seconds * 1000)
    ages = Ages(*window)
    listening = [sys.executable, "-c", f"from benchmarks.live import listen; listen{(port, *window)}"]
    listener = subprocess.Popen(listening, stdout=subprocess.PIPE)
    asking = Asking(stores, ages)
    asking.start()
    try:
        _say(f"the collector runs; {(since_ms - ages.now_ms()) / 1000:.0f} s to warm up")
        _sleep_until(ages, since_ms)
        used_s = _cpu_s(collector.pid)
        for second in range(0, int(seconds), 10):
            _say(f"{second} of {seconds:.0f} s")
            _sleep_until(ages, min(since_ms + (second + 10) * SECOND_MS, window[2]))
        used_s = _cpu_s(collector.pid) - used_s
        _sleep_until(ages, window[2] + SECOND_MS)
    finally:
        collector.terminate()
        collector.wait(60)
        asking.stop()
        sent, _ = listener.communicate(timeout=10)
    return {
        **json.loads(sent),
        **ages.summary(),
        "answers": asking.answers,
        "collector_cores": round(used_s / seconds, 3),
    }


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _sleep_until(ages: Ages, moment_ms: float) -> None:
    time.sleep(max(0.0, (moment_ms - ages.now_ms()) / 1000))


def _say(what: str) -> None:
    print(f"live: {what}", file=sys.stderr, flush=True)


def comparisons(seconds: float = 60.0) -> Iterator[Measure]:
    """Yield how old events are when they are visible, of so many seconds around midnight."""
    found = measure(seconds)
    yield Measure("live_collector_cores", found.pop("collector_cores"), "cores", f"at {RATE * len(SYMBOLS):,} trades/s")
    yield Measure("live_answers", found.pop("answers"), "", "of get_inference_data that were waited for")
    for kind, ages in found.items():
        name = f"live_{kind.replace(':', '_')}"
        for figure in ("p50_ms", "p99_ms", "max_ms"):
            yield Measure(f"{name}_{figure}", ages[figure], "ms", f"of {ages['events']:,} until visible")


if __name__ == "__main__":
    print(json.dumps(measure(*map(float, sys.argv[1:]))))
