"""Everything at once, until Ctrl-C: servers, exchange, collectors, the Dagster UI, and the graph materialized.

What is started here ends with this process, also when it is killed: children are told by the kernel, and what a killed
one left behind is found by the next start. Servers of the home stop last, when nobody uses them any more.
"""

import ctypes
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

import psutil

from trading.errors import TradingError
from trading.market.timeframe import DAY_MS

if TYPE_CHECKING:
    from resources.home import Home
    from resources.stores import Stores

READY_S: Final = 120
FLUSH_S: Final = 25
FAR_MS: Final = 20 * 365 * DAY_MS
PR_SET_PDEATHSIG: Final = 1


class AlreadyUp(TradingError):
    """This home is up already."""


class PortInUse(TradingError):
    """Another program listens on the UI's port."""


class NotReady(TradingError):
    """A process of the UI did not come up."""


def up(home_path: Path, port: int | None, days: int) -> None:
    """Start everything, materialize the last `days` days, and stay until SIGINT or SIGTERM."""
    from resources.home import Home
    from resources.settings import load_settings
    from resources.stores import open_stores

    home = Home(home_path)
    settings = load_settings(home.path)
    port = port or settings.port
    live = bool(settings.exchange_rest_url)
    seed = home.clock.get("seed", settings.seed)
    symbols = tuple(home.clock.get("symbols", ())) or settings.symbols
    clock = {"source": "exchange" if live else "synthetic", "seed": seed, "symbols": list(symbols)}
    home.create("live" if live else "simulated", clock)
    os.environ["TRADING_SYMBOLS"] = ",".join(symbols)
    stopped = _until_told()
    with ExitStack() as stack:
        stack.enter_context(_alone(home))
        _check_port(port)
        _end_run_workers(home)
        say(f"home {home.path}: starting PostgreSQL, Redis and Qdrant")
        stores = stack.enter_context(open_stores(home_path))
        environment = _environment(stores)
        if not live:
            say("starting the simulated exchange")
            rest = stack.enter_context(_exchange(stores, environment, seed, symbols))
            environment |= {"TRADING_EXCHANGE_REST_URL": rest, "TRADING_EXCHANGE_WS_URL": rest.replace("http", "ws", 1)}
        stack.callback(_end_run_workers, home)  # they flush while exchange and stores are still there
        say("starting the Dagster UI and daemon")
        bin_folder = Path(sys.executable).parent
        workspace = ["-w", "workspace.yaml"]
        server = [bin_folder / "dagster-webserver", "-h", "127.0.0.1", "-p", str(port), *workspace]
        stack.enter_context(_child(server, home.logs_dir / "webserver.log", environment))
        stack.enter_context(
            _child([bin_folder / "dagster-daemon", "run", *workspace], home.logs_dir / "daemon.log", environment)
        )
        _wait_until_ready(port, home, stopped)
        say(f"the UI answers on http://127.0.0.1:{port}")
        _materialize(stores, environment, symbols, days, stopped)
        say("up; Ctrl-C stops everything")
        while not stopped:
            time.sleep(0.2)
        say("stopping: the UI, then run workers with their flush, then the servers")


def say(text: str) -> None:
    """Tell the person at the terminal what happens."""
    print(text, flush=True)


def _until_told() -> list[int]:
    """Return a list that a SIGINT or SIGTERM puts its number into; a second one ends at once."""
    told: list[int] = []

    def tell(number: int, _: Any) -> None:
        if told:
            raise SystemExit(128 + number)
        told.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, tell)
    return told


@contextmanager
def _alone(home: "Home") -> Iterator[IO[str]]:
    with (home.run_dir / "up.lock").open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.seek(0)
            raise AlreadyUp(
                f"home {home.path} is up already, by process {lock.read().strip()}", "stop it first"
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield lock


def _check_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise PortInUse(f"port {port} is in use", "set TRADING_PORT or --port to a free one") from None


def _environment(stores: "Stores") -> dict[str, str]:
    from resources.dagster_home import dagster_environment

    return dagster_environment(stores.home, stores.urls)


def _die_with_parent() -> None:
    """Ask the kernel to send SIGTERM when the parent ends, however it ends; undo an inherited ignored SIGINT."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def _child(command: list[Any], log: Path, environment: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    from resources.dagster_home import CHECKOUT

    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=CHECKOUT,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def _exchange(stores: "Stores", environment: dict[str, str], seed: int, symbols: tuple[str, ...]) -> Iterator[str]:
    """Run the simulated exchange beside the wall clock; yield the root of its REST interface."""
    ready = stores.home.run_dir / "exchange.json"
    ready.unlink(missing_ok=True)
    now = time.time_ns() // 1_000_000
    command = [
        sys.executable,
        "-m",
        "resources.simulator",
        "--speed",
        "1",
        "--seed",
        seed,
        "--symbols",
        ",".join(symbols),
    ]
    command += ["--start-ms", now, "--end-ms", now + FAR_MS, "--port-file", ready, "--parent", os.getpid()]
    with _child(command, stores.home.logs_dir / "exchange.log", environment) as process:
        deadline = time.monotonic() + READY_S
        while not ready.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise NotReady("the simulated exchange did not start", f"see {stores.home.logs_dir / 'exchange.log'}")
            time.sleep(0.05)
        yield f"http://127.0.0.1:{json.loads(ready.read_text(encoding='utf-8'))['port']}"


def _wait_until_ready(port: int, home: "Home", stopped: list[int]) -> None:
    deadline = time.monotonic() + READY_S
    while not stopped:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/server_info", timeout=2) as answer:
                if answer.status == 200:
                    return
        except OSError:
            time.sleep(0.3)
        if time.monotonic() > deadline:
            raise NotReady(f"the UI did not answer within {READY_S} s", f"see {home.logs_dir / 'webserver.log'}")


def _materialize(
    stores: "Stores", environment: dict[str, str], symbols: tuple[str, ...], days: int, stopped: list[int]
) -> None:
    """Materialize the graph up to today with progress bars."""
    from trading_assets.cli.demo import Plan, Progress, Worker, day_of, materialize
    from trading_assets.cli.progress import showing

    if stopped:
        return
    now = time.time_ns() // 1_000_000
    plan = Plan(symbols, day_of(now - days * DAY_MS), day_of(now), now, now, ())
    with showing(False, plan) as show:
        workers = [
            Worker(environment | {"TRADING_PROGRESS": "1"}, stores.home.logs_dir / f"worker-{n}.log")
            for n in range(min(2, len(symbols)))
        ]
        progress = Progress()
        try:
            materialize(workers, plan, progress, show)
        finally:
            for worker in workers:
                worker.close()
    for failure in progress.failures:
        say(f"failed: {failure}")
    say(f"{progress.passed} checks passed, {progress.failed} failed; changed rows: {dict(progress.changed)}")


def _end_run_workers(home: "Home") -> None:
    """Send SIGINT to Dagster's run workers of this home and wait until they have flushed."""
    ended = []
    for process in psutil.process_iter():
        try:
            words = process.cmdline()
            if "dagster" in " ".join(words[:4]) and process.environ().get("TRADING_HOME") == str(home.path):
                process.send_signal(signal.SIGINT)
                ended.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    _, alive = psutil.wait_procs(ended, timeout=FLUSH_S)
    for process in alive:
        process.kill()
