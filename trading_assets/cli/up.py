"""Everything running: servers, the simulated exchange, collectors, schedules and the Dagster UI, until Ctrl-C.

The order of starting and stopping is what this module is about: a collector that ends must still reach PostgreSQL and
the exchange, so Dagster's processes go first, then the exchange, then the servers.
"""

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from resources.dagster_graphql import FINISHED, DagsterRefused, DagsterUi
from resources.dagster_home import dagster_environment
from resources.dagster_processes import WEBSERVER, DagsterProcesses, end_all
from resources.heartbeat import heartbeat, last_said
from resources.home import Home
from resources.servers import StoreUnreachable, process, revive, running
from resources.settings import Settings, load_settings
from trading.errors import TradingError
from trading.market.timeframe import DAY_MS
from trading_assets.cli.progress import run_bars

ANSWER_S: Final = 120
FIRST_TRADES_S: Final = 60
LOOK_S: Final = 1.0
REVIVE_PAUSE_S: Final = 5.0
FOREVER_MS: Final = 3650 * DAY_MS
EXCHANGE: Final = "exchange"


class PortTaken(TradingError):
    """Another process listens where the UI should."""


class UiSilent(TradingError):
    """The webserver does not answer."""


class _Stopped(Exception):
    """Somebody asked for the end while something was being waited for."""


def up(home_path: Path, port: int | None = None, days: int = 30) -> dict[str, Any]:
    """Start everything, materialize the last days, and stay until SIGINT or SIGTERM; return where it was and how long.

    Raises:
        HomeBusy: Another one, or a demo, runs on this home.
        PortTaken: The port is taken.
        WrongHome: The home holds another market.
        ServerFailed: A process did not start.
    """
    settings, started = load_settings(home_path), time.monotonic()
    home = Home(home_path)
    port = port or settings.port
    kind, clock = _market(settings, home)
    home.create(kind, clock)
    stop = threading.Event()
    with home.worked_on("up"), _told_to_stop(stop):
        end_all(home)
        process.end(EXCHANGE, home.run_dir)
        _require_free(port)
        _say(f"starting PostgreSQL, Redis and Qdrant in {home.path}")
        with running(home, settings) as urls:
            environment = dagster_environment(home, urls.dagster)
            symbols = home.clock.get("symbols", settings.symbols)
            try:
                with _exchange(home, settings, kind, environment) as exchange:
                    _Up(home, symbols, environment | exchange, port, stop, settings).run(days)
            except _Stopped:
                pass
        _say("all stopped")
    return {
        "home": str(home.path),
        "url": f"http://127.0.0.1:{port}",
        "elapsed_s": round(time.monotonic() - started, 1),
    }


class _Up:
    """What runs between start and stop of the servers."""

    def __init__(
        self,
        home: Home,
        symbols: Sequence[str],
        environment: dict[str, str],
        port: int,
        stop: threading.Event,
        settings: Settings,
    ) -> None:
        self._home, self._symbols, self._stop, self._settings = home, symbols, stop, settings
        self._dagster = DagsterProcesses(home, environment, port)
        self._ui = DagsterUi(f"http://127.0.0.1:{port}")
        self._revived, self._began = time.monotonic(), time.time()

    def run(self, days: int) -> None:
        """Start Dagster, materialize, and keep it running until told to stop."""
        try:
            _say("loading the definitions")
            self._dagster.start(self._look)
            self._until(self._answers, ANSWER_S)
            if not self._ui.loaded():
                raise UiSilent(f"{self._ui.url} does not answer: {self._dagster.last_error(WEBSERVER)}", "see the logs")
            _say(f"Dagster UI on {self._ui.url}")
            self._materialize(days)
            _say("everything is running; Ctrl-C stops it")
            while True:
                self._pause()
        finally:
            _say("stopping: collectors flush first")
            end_all(self._home)

    def _materialize(self, days: int) -> None:
        """Run the graph once over the last days; a failure is reported, not fatal: the UI shows it."""
        today = int(time.time() * 1000)
        first, last = _day(today - (days - 1) * DAY_MS), _day(today)
        try:
            self._finish({"instruments": self._ui.launch("upkeep", ["instruments"])})
            self._await_trades()
            _say(f"materializing {first} to {last} of {', '.join(self._symbols)}")
            ranges = ("dagster/asset_partition_range_start", "dagster/asset_partition_range_end")
            runs = {
                symbol: self._ui.launch(
                    "market_chain", tags=dict(zip(ranges, (f"{first}|{symbol}", f"{last}|{symbol}"), strict=True))
                )
                for symbol in self._symbols
            }
            with run_bars(self._symbols) as show:
                self._finish(runs, show)
            self._finish({"hot values": self._ui.launch("upkeep", ["hot_values"])})
        except (DagsterRefused, OSError) as error:
            _say(f"not materialized: {error}")

    def _finish(self, runs: dict[str, str], show: Callable[[str, int, int], None] | None = None) -> None:
        """Wait for runs and say how each ended."""
        waiting = dict(runs)
        while waiting:
            self._pause()
            for name, run_id in list(waiting.items()):
                status = self._ui.status(run_id)
                if show is not None:
                    show(name, *self._ui.steps(run_id))
                if status in FINISHED:
                    del waiting[name]
                    failed = "" if status == "SUCCESS" else f", see {self._ui.url}/runs/{run_id}"
                    _say(f"{name}: {status.lower()}{failed}")

    def _answers(self) -> bool:
        return self._ui.loaded()

    def _await_trades(self) -> None:
        """Wait for the collector's first trades, or say why there will be none."""
        wish = _read(self._home.run_dir / "desired" / "spot.json")
        if wish.get("desired") == "stopped":
            _say(
                f"no trades are collected: the collector was terminated; launch collect_spot on {self._ui.url} to resume"
            )
            return
        self._until(self._collects, FIRST_TRADES_S)
        if not self._collects():
            _say(f"no trades within {FIRST_TRADES_S} s; see the runs of collect_spot on {self._ui.url}/runs")

    def _collects(self) -> bool:
        """Return whether a collector that beats now has seen its symbols; a former one's last beat is no sign of life."""
        file = heartbeat(self._home.run_dir, "spot")
        fresh = file.exists() and file.stat().st_mtime >= self._began
        return fresh and bool(last_said(self._home.run_dir, "spot").get("symbols"))

    def _until(self, holds: Callable[[], bool], longest_s: float) -> None:
        deadline = time.monotonic() + longest_s
        while not holds() and time.monotonic() < deadline:
            self._pause(0.2)

    def _pause(self, seconds: float = LOOK_S) -> None:
        """Wait, look after the processes, and leave when told to."""
        if self._stop.wait(seconds):
            raise _Stopped
        if time.monotonic() - self._revived > REVIVE_PAUSE_S:
            self._revived = time.monotonic()
            process.shorten_logs(self._home.logs_dir)
            for name in self._revived_servers() + self._dagster.revive(self._look):
                _say(f"{name} had ended and was started again")

    def _revived_servers(self) -> list[str]:
        """Start again what has died of the home's servers: without PostgreSQL no run can, and so nobody else would."""
        try:
            return revive(self._home, self._settings)
        except (process.ServerFailed, StoreUnreachable, OSError) as error:  # as on a full disk, which may be freed
            _say(f"{error}; tried again")
            return []

    def _look(self) -> None:
        if self._stop.is_set():
            raise _Stopped


def _market(settings: Settings, home: Home) -> tuple[str, dict[str, Any]]:
    """Return the home's kind and what it must hold fixed."""
    if settings.exchange_rest_url or settings.exchange_ws_url:
        return "live", {}
    fixed = home.clock
    # A demo on this home later ends where the home began, whichever came first.
    end_ms = fixed.get("end_ms", int(time.time() * 1000) // DAY_MS * DAY_MS)
    seed = fixed.get("seed", settings.seed)
    symbols = fixed.get("symbols", list(settings.symbols))
    return "simulated", {"source": "synthetic", "seed": seed, "symbols": symbols, "end_ms": end_ms}


@contextmanager
def _told_to_stop(stop: threading.Event) -> Iterator[None]:
    """Let SIGINT and SIGTERM ask for the end; a second one changes nothing, since the end must flush."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _require_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise PortTaken(
                f"port {port} on 127.0.0.1 cannot be used: {error.strerror}", "set TRADING_PORT or give --port"
            ) from None


@contextmanager
def _exchange(home: Home, settings: Settings, kind: str, environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """Yield where the exchange is; a simulated home has its own one, whose clock is this machine's."""
    if kind == "live":
        yield {}
        return
    seed, symbols = home.clock["seed"], home.clock["symbols"]
    ready = home.run_dir / "exchange-up.json"
    ready.unlink(missing_ok=True)
    now_ms = int(time.time() * 1000)
    command = [sys.executable, "-m", "resources.simulator", "--seed", str(seed), "--symbols", ",".join(symbols)]
    command += ["--speed", "1", "--start-ms", str(now_ms), "--end-ms", str(now_ms + FOREVER_MS)]
    command += ["--parent", str(os.getpid()), "--port-file", str(ready)]
    log = home.logs_dir / "exchange.log"
    _say("starting the simulated exchange")
    process.launch(EXCHANGE, home.run_dir, log, command, ready.exists, env=environment)
    try:
        port = json.loads(ready.read_text(encoding="utf-8"))["port"]
        yield {
            "TRADING_EXCHANGE_REST_URL": f"http://127.0.0.1:{port}",
            "TRADING_FUTURES_REST_URL": f"http://127.0.0.1:{port}",
            "TRADING_EXCHANGE_WS_URL": f"ws://127.0.0.1:{port}",
            "TRADING_FUTURES_WS_URL": f"ws://127.0.0.1:{port}",
            "TRADING_SYMBOLS": ",".join(symbols),
        }
    finally:
        process.end(EXCHANGE, home.run_dir)


def _read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def _say(line: str) -> None:
    print(line, flush=True)


def _day(time_ms: int) -> str:
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d")
