"""`trading up` as a user runs it: start, collect, terminate, kill, stop."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from resources.dagster_graphql import DagsterUi

UP = (sys.executable, "-m", "trading_assets.cli.main", "up")
RUNS = '{ runsOrError(filter: {pipelineName: "collect_spot"}) { ... on Runs { results { runId status } } } }'


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def until(holds: Callable[[], object], longest_s: float, what: str) -> None:
    deadline = time.monotonic() + longest_s
    while not holds():
        assert time.monotonic() < deadline, f"{what} not within {longest_s} s"
        time.sleep(0.2)


class Running:
    """One `trading up`."""

    def __init__(self, home: Path) -> None:
        self.home, self.port = home, free_port()
        self.ui = DagsterUi(f"http://127.0.0.1:{self.port}")
        self.log = home.parent / f"up-{self.port}.log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [*UP, "--home", str(home), "--days", "1", "--port", str(self.port)],
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        until(self.said("Dagster UI on"), 90, "the UI")

    def said(self, text: str) -> Callable[[], bool]:
        return lambda: text in self.log.read_text()

    def runs(self) -> list[tuple[str, str]]:
        return [(run["runId"], run["status"]) for run in self.ui.ask(RUNS)["runsOrError"]["results"]]

    def beat(self) -> dict:
        file = self.home / "run" / "heartbeat" / "spot.json"
        return json.loads(file.read_text()) if file.exists() else {}

    def collects(self) -> bool:
        runs = self.runs()
        return bool(runs) and runs[0][1] == "STARTED" and bool(self.beat().get("symbols"))

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(60) == 0, self.log.read_text()


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = Running(tmp_path_factory.mktemp("up") / "home")
    yield running
    running.process.kill()
    running.process.wait()


def test_the_collector_starts_by_itself(up: Running) -> None:
    until(up.collects, 60, "trades")


def test_a_second_up_on_the_home_is_refused_by_name(up: Running) -> None:
    command = [
        sys.executable,
        "-m",
        "trading_assets.cli.main",
        "up",
        "--home",
        str(up.home),
        "--port",
        str(free_port()),
    ]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert f"as process {up.process.pid}" in refused.stderr


def test_a_taken_port_is_refused_naming_the_setting(up: Running, tmp_path: Path) -> None:
    command = [*UP, "--home", str(tmp_path), "--port", str(up.port)]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 1
    assert "TRADING_PORT" in refused.stderr and "Traceback" not in refused.stderr


def test_a_killed_collector_comes_back(up: Running) -> None:
    until(up.collects, 60, "trades")
    killed, pid = up.runs()[0][0], up.beat()["pid"]
    os.kill(pid, signal.SIGKILL)
    until(lambda: up.ui.status(killed) == "FAILURE", 10, "the failure")
    until(lambda: up.collects() and up.beat()["pid"] != pid, 60, "trades again")


def test_terminate_in_the_ui_stops_for_good_and_a_launch_resumes(up: Running) -> None:
    until(up.collects, 60, "trades")
    (run_id, _) = up.runs()[0]
    up.ui.terminate(run_id)
    until(lambda: up.ui.status(run_id) == "CANCELED", 10, "the end")
    time.sleep(11)  # two ticks of the supervisor
    assert up.runs()[0] == (run_id, "CANCELED")
    resumed = up.ui.launch("collect_spot")
    until(lambda: up.ui.status(resumed) == "STARTED" and up.collects(), 60, "trades again")


def test_after_kill_9_of_up_another_one_takes_over_and_stops_everything(up: Running) -> None:
    up.process.kill()
    up.process.wait()
    again = Running(up.home)
    until(again.collects, 60, "trades")
    again.stop()
    assert "all stopped" in again.log.read_text()
    left = [p.cmdline() for p in psutil.process_iter() if str(up.home) in " ".join(_words(p))]
    assert not left


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
