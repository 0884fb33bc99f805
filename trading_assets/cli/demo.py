"""The whole way once, offline: a simulated exchange, a collector, one chain of assets a symbol, and a question at the end.

The demo ends at a moment that its first run fixes in the home, so that a second run asks for the same days and changes
nothing. Dagster runs in worker processes that are started first and import while trades are being collected.
"""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trading.errors import TradingError
from trading.market.timeframe import DAY_MS, HOUR_MS, Timeframe

if TYPE_CHECKING:
    from resources.home import Home
    from resources.settings import Settings
    from resources.simulator.recording import Recording
    from resources.stores import Stores

LIVE_MS = HOUR_MS
"""How much of the end arrives as trades over the websocket; the history before it comes as klines."""

MAX_DAYS = 1_000


class BadDemo(TradingError):
    """A demo was asked for that cannot be run."""


class StepFailed(TradingError):
    """A process of the demo ended badly."""


def failed(what: str, log: Path, began: int) -> StepFailed:
    """Return the error of a process, with the last one that it wrote into its log."""
    from resources.servers.process import last_error

    return StepFailed(f"{what}: {last_error(log, began)}", f"see {log}")


@dataclass(frozen=True)
class DemoRequest:
    """What was asked for; see `plan_demo` for what the rest falls back to."""

    days: int
    end_ms: int | None
    symbols: tuple[str, ...]
    seed: int | None
    recording: Path | None


@dataclass
class Progress:
    """What the workers have reported so far."""

    changed: Counter[str] = field(default_factory=Counter)
    passed: int = 0
    failed: int = 0
    runs: int = 0
    failures: list[str] = field(default_factory=list)

    def take(self, line: dict[str, Any]) -> None:
        """Add one line of a worker."""
        if "asset" in line:
            self.changed.update(line["changed"])
        elif "run" in line:
            self.runs += 1
            self.passed += line["checks"]["passed"]
            self.failed += line["checks"]["failed"]
            self.failures += line["failures"]


class Worker:
    """A process that runs Dagster jobs in the order in which it is told to."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self._log = log
        with log.open("ab") as errors:
            self._began = errors.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "trading_assets.chain"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=environment,
            )

    def start(self, *command: str) -> None:
        """Ask for one job; `finish` waits for it."""
        assert self._process.stdin is not None  # noqa: S101
        try:
            self._process.stdin.write(" ".join(command) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._ended() from None

    def finish(self, progress: Progress, show: Any) -> None:
        """Read the job's lines until its outcome."""
        assert self._process.stdout is not None  # noqa: S101
        for text in self._process.stdout:
            if not text.startswith("{"):
                continue
            line = json.loads(text)
            progress.take(line)
            show(line)
            if "run" in line:
                return
        raise self._ended()

    def _ended(self) -> StepFailed:
        return failed(f"a worker ended with status {self._process.wait()}", self._log, self._began)

    def close(self) -> None:
        """Let the process end."""
        assert self._process.stdin is not None  # noqa: S101
        assert self._process.stdout is not None  # noqa: S101
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()


def close(workers: Iterable[Worker]) -> None:
    """Let workers end."""
    for worker in workers:
        worker.close()


@dataclass(frozen=True)
class Plan:
    """What this demo covers: days and symbols, when each symbol's trades are played, how its exchange starts.

    `books` says whether depth was recorded. The synthetic market has it too; at full speed two runs would not begin their
    books at the same moment, and a second run is to change nothing.
    """

    symbols: tuple[str, ...]
    first_day: str
    last_day: str
    end_ms: int
    live_ms: dict[str, tuple[int, int]]
    exchange_arguments: tuple[str, ...]
    books: bool = False


def plan_demo(request: DemoRequest, fixed: dict[str, Any], settings: "Settings") -> tuple[Plan, dict[str, Any]]:
    """Return what to run and what the home must hold fixed: as asked, else as fixed already, else as set."""
    if not 1 <= request.days <= MAX_DAYS:
        raise BadDemo(f"--days {request.days} is not between 1 and {MAX_DAYS}", "choose fewer days")
    if request.recording is not None:
        return _plan_recording(request)
    today = time.time_ns() // 1_000_000 // DAY_MS * DAY_MS
    end_ms = request.end_ms or fixed.get("end_ms") or today
    if end_ms % DAY_MS or end_ms > today:
        raise BadDemo(f"--end {day_of(end_ms)} is no day that has begun", "give a UTC day up to today")
    seed = request.seed if request.seed is not None else fixed.get("seed", settings.seed)
    symbols = request.symbols or tuple(fixed.get("symbols", settings.symbols))
    start_ms = end_ms - request.days * DAY_MS
    arguments = ("--seed", str(seed), "--symbols", ",".join(symbols))
    clock = {"source": "synthetic", "seed": seed, "end_ms": end_ms, "symbols": list(symbols)}
    live_ms = dict.fromkeys(symbols, (end_ms - LIVE_MS, end_ms))
    return Plan(symbols, day_of(start_ms), day_of(end_ms - 1), end_ms, live_ms, arguments), clock


def _plan_recording(request: DemoRequest) -> tuple[Plan, dict[str, Any]]:
    from resources.simulator.recording import Recording

    folder = request.recording
    assert folder is not None  # noqa: S101
    recording = Recording(folder)
    symbols = request.symbols or tuple(recording.symbols)
    unknown = [name for name in symbols if name not in recording.symbols]
    if unknown:
        raise BadDemo(f"--symbols {unknown[0]} is not in {folder}", f"it holds {', '.join(recording.symbols)}")
    clock = {
        "source": "recording",
        "digest": recording.digest(),
        "symbols": sorted(symbols),
        "end_ms": recording.end_ms,
    }
    arguments = ("--recording", str(folder.resolve()), "--symbols", ",".join(symbols))
    start_ms, end_ms = recording.start_ms, recording.end_ms
    live_ms = {symbol: traded(recording, symbol) for symbol in symbols}
    books = (folder / "wire").is_dir()
    return Plan(symbols, day_of(start_ms), day_of(end_ms - 1), end_ms, live_ms, arguments, books), clock


def traded(recording: "Recording", symbol: str) -> tuple[int, int]:
    """Return the half-open exchange time (ms) in which a recording's trades are all there were of a symbol.

    That is from the minute of its first trade, whole, to the recording's end. Where klines reach further, the trades may
    have been recorded from inside that minute only, or no longer: then the trades themselves are all that is known.
    """
    start_ms, end_ms = recording.start_ms, recording.end_ms
    trades = recording.trades(symbol, start_ms, end_ms)
    if trades.is_empty():
        return end_ms, end_ms
    first_ms, last_ms = int(trades["time_ms"].min()), int(trades["time_ms"].max())  # pyright: ignore[reportArgumentType]
    minute_ms, next_ms = Timeframe.M1.floor(first_ms), Timeframe.M1.floor(last_ms) + Timeframe.M1.ms
    finest = recording.intervals(symbol)[0]
    earlier, later = (recording.klines(symbol, finest, *span) for span in ((start_ms, minute_ms), (next_ms, end_ms)))
    return first_ms if len(earlier) else minute_ms, last_ms if len(later) else end_ms


def run_demo(home_path: Path, request: DemoRequest, quiet: bool) -> dict[str, Any]:
    """Run the demo in a home and return its summary."""
    from resources.dagster_home import dagster_environment
    from resources.home import Home
    from resources.servers import dagster_url
    from resources.settings import load_settings
    from resources.stores import open_stores
    from trading_assets.cli.progress import showing

    started = time.monotonic()
    home, settings = Home(home_path), load_settings(home_path)
    plan, clock = plan_demo(request, home.clock, settings)
    home.create("simulated", clock)
    os.environ["TRADING_SYMBOLS"] = ",".join(plan.symbols)
    environment = dagster_environment(home, dagster_url(home, settings)) | {"TRADING_PROGRESS": "1"}
    clock_ms = min(plan.live_ms.values())[0], plan.end_ms
    with home.worked_on("demo"), showing(quiet, plan) as show, ExitStack() as stack:
        rest_url = stack.enter_context(simulated_exchange(home, clock_ms, plan.exchange_arguments, environment))
        environment["TRADING_EXCHANGE_REST_URL"] = environment["TRADING_FUTURES_REST_URL"] = rest_url
        # The workers import while the servers start, and end before these do, whatever happens.
        workers = [Worker(environment, home.logs_dir / f"worker-{n}.log") for n in range(min(2, len(plan.symbols)))]
        stack.callback(close, workers)
        stores = stack.enter_context(open_stores(home_path))
        stack.callback(close, workers)
        _ = stores.urls  # the servers start here, not with the first worker that asks for one
        for worker in workers:
            worker.start("begin")
        show({"stage": "collecting trades off the websocket"})
        progress = Progress(Counter({"rocksdb": _collect(stores, plan, environment, rest_url)}))
        materialize(workers, plan, progress, show)
        summary = _summary(stores, plan, progress)
    summary["elapsed_s"] = round(time.monotonic() - started, 1)
    if not quiet:
        from trading_assets.cli.render import table_of

        table_of("From the wire to a searchable memory", summary)
    return summary


@contextmanager
def simulated_exchange(
    home: "Home", clock_ms: tuple[int, int], arguments: Sequence[str], environment: dict[str, str]
) -> Iterator[str]:
    """Run the simulated exchange at the client's pace from one moment to another; yield the root of its REST interface."""
    ready = home.run_dir / f"exchange-{os.getpid()}.json"
    ready.unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "resources.simulator",
        "--port",
        "0",
        "--speed",
        "max",
        "--parent",
        str(os.getpid()),
    ]
    command += ["--start-ms", str(clock_ms[0]), "--end-ms", str(clock_ms[1]), "--port-file", str(ready)]
    log = home.logs_dir / "exchange.log"
    with log.open("ab") as output:
        began = output.tell()
        process = subprocess.Popen([*command, *arguments], stdout=output, stderr=output, env=environment)
    try:
        deadline = time.monotonic() + 60
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise failed("the simulated exchange did not start", log, began)
            time.sleep(0.02)
        yield f"http://127.0.0.1:{json.loads(ready.read_text(encoding='utf-8'))['port']}"
    finally:
        process.terminate()
        process.wait(10)
        ready.unlink(missing_ok=True)


def materialize(workers: list[Worker], plan: Plan, progress: Progress, show: Any) -> None:
    """Run the instruments, the chain of each symbol on as many workers as there are, and the hot values."""
    show({"stage": "materializing"})
    workers[0].start("instruments")
    workers[0].finish(progress, show)
    for first in range(0, len(plan.symbols), len(workers)):
        busy = list(zip(workers, plan.symbols[first : first + len(workers)], strict=False))
        for worker, symbol in busy:
            worker.start("memory", symbol, plan.first_day, plan.last_day)
            live = plan.live_ms[symbol]
            # Days of klines alone have no trades to measure; to go through all of them takes 5 s more a symbol.
            worker.start("measures", symbol, day_of(min(live[0], live[1] - 1)), day_of(live[1] - 1))
        for worker, _ in busy:
            worker.finish(progress, show)
            worker.finish(progress, show)
    workers[0].start("hot_values")
    workers[0].finish(progress, show)


def _collect(stores: "Stores", plan: Plan, environment: dict[str, str], rest_url: str) -> int:
    """Run the collector to the end of the exchange's clock; return how many batches are new."""
    command = [sys.executable, "-m", "resources.collector", "--journal", str(stores.home.rocksdb_dir)]
    command += ["--rest", rest_url, "--ws", rest_url.replace("http", "ws", 1), "--symbols", ",".join(plan.symbols)]
    since, until = zip(*(plan.live_ms[symbol] for symbol in plan.symbols), strict=True)
    command += ["--since-ms", *map(str, since), "--until-ms", *map(str, until), "--venue", stores.venue]
    command += ["--durability", stores.settings.journal_durability]
    if plan.books and not _has_books(stores, plan.symbols):
        command += ["--books", "100"]
    log = stores.home.logs_dir / "collector.log"
    with log.open("ab") as errors:
        began = errors.tell()
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    final = json.loads(lines[-1]) if lines else {}
    if done.returncode or "held" in final:
        raise failed(f"the collector ended with status {done.returncode}", log, began)
    return int(final.get("new_batches", 0))


def _has_books(stores: "Stores", symbols: Sequence[str]) -> bool:
    if not stores.home.rocksdb_dir.exists():
        return False
    from resources.journal import TradeJournal

    with TradeJournal.read(stores.home.rocksdb_dir) as journal:
        return any(journal.book_before(symbol, 10**13 - 1) is not None for symbol in symbols)


def _summary(stores: "Stores", plan: Plan, progress: Progress) -> dict[str, Any]:
    from trading_assets.cli.similar import NoState, similar
    from trading_assets.cli.status import counts

    neighbours = 0
    from resources.timescale.tables import FEATURE

    for symbol in plan.symbols:
        span = stores.market.span(FEATURE, symbol)
        if span:
            try:
                neighbours += len(similar(stores, symbol, span[1], 10)["neighbours"])
            except NoState:
                continue
    return {
        "elapsed_s": 0.0,
        **counts(stores),
        "neighbours": neighbours,
        "checks": {"passed": progress.passed, "failed": progress.failed},
        "runs": progress.runs,
        "changed": {name: progress.changed[name] for name in ("rocksdb", "postgres", "lmdb", "qdrant", "redis")},
        "failures": progress.failures,
        "home": str(stores.home.path),
    }


def day_of(time_ms: int) -> str:
    """Return the UTC day that holds a moment, `YYYY-MM-DD`."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d")
