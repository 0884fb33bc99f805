"""One `trading up` as a user runs it, for tests to watch, ask and disturb."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from resources.dagster_graphql import DagsterUi
from resources.dagster_processes import CODE_SERVER
from resources.servers import process

UP = (sys.executable, "-m", "trading_assets.cli.main", "up")
RUNS = '{ runsOrError(filter: {pipelineName: "collect_spot"}) { ... on Runs { results { runId status } } } }'


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def unset_environment() -> dict[str, str]:
    """Return this process's environment without the settings of `trading`."""
    return {name: value for name, value in os.environ.items() if not name.startswith("TRADING_")}


def until(holds: Callable[[], object], longest_s: float, what: str) -> None:
    deadline = time.monotonic() + longest_s
    while not holds():
        assert time.monotonic() < deadline, f"{what} not within {longest_s} s"
        time.sleep(0.2)


def trading(home: Path, *arguments: str, **settings: str) -> dict[str, Any]:
    """Run the command line with `--json`, with these settings alone, and return its answer and exit status."""
    command = [sys.executable, "-m", "trading_assets.cli.main", *arguments, "--home", str(home), "--json"]
    environment = unset_environment() | settings
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.stdout, done.stderr
    return json.loads(done.stdout.splitlines()[-1]) | {"status": done.returncode}


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
                env=unset_environment(),
                start_new_session=True,
            )
        until(self.said("Dagster UI on"), 90, "the UI")

    def said(self, text: str) -> Callable[[], bool]:
        return lambda: text in self.log.read_text()

    def runs(self) -> list[tuple[str, str]]:
        return [(run["runId"], run["status"]) for run in self.ui.ask(RUNS)["runsOrError"]["results"]]

    def beat(self, kind: str = "spot") -> dict:
        file = self.home / "run" / "heartbeat" / f"{kind}.json"
        return json.loads(file.read_text()) if file.exists() else {}

    def collects(self) -> bool:
        runs = self.runs()
        return bool(runs) and runs[0][1] == "STARTED" and bool(self.beat().get("symbols"))

    def command(self, *words: str) -> dict:
        """Run one command of `trading` on this home and return its answer, an error included."""
        return trading(self.home, *words)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(60) == 0, self.log.read_text()
        assert not self.left()

    def code_server(self) -> int:
        """Return the pid of Dagster's code server."""
        record = process.recorded(CODE_SERVER, self.home / "run")
        assert record is not None
        return record[0]

    def left(self) -> list[list[str]]:
        """Return the command lines of all processes of this home."""
        return [words for candidate in psutil.process_iter() if (words := _of(self.home, candidate))]


def _of(home: Path, candidate: psutil.Process) -> list[str]:
    try:
        words = candidate.cmdline()
        return words if str(home) in " ".join(words) or candidate.environ().get("TRADING_HOME") == str(home) else []
    except psutil.Error:
        return []
