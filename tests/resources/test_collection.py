"""The collector of a home as Dagster runs it."""

import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from resources import collection
from resources.home import Home
from resources.servers.redis import binary
from tests.end_to_end.running import free_port
from tests.faults.processes import SYMBOLS, busy_exchange


def test_a_store_that_does_not_answer_when_a_collector_starts_is_used_once_it_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home, port = Home(tmp_path / "home"), free_port()
    home.create("simulated", {})
    monkeypatch.setattr(collection, "AGAIN_S", 1.0)
    monkeypatch.setattr(collection, "FIRST_S", 0.1)
    running, errors = collection.running, [OSError("no room on the disk")]

    def failing(*arguments: Any) -> Any:
        if errors:
            raise errors.pop()
        return running(*arguments)

    monkeypatch.setattr(collection, "running", failing)
    with busy_exchange(tmp_path) as exchange:
        for name, value in {
            "HOME": home.path,
            "EXCHANGE_REST_URL": f"http://127.0.0.1:{exchange}",
            "EXCHANGE_WS_URL": f"ws://127.0.0.1:{exchange}",
            "SYMBOLS": ",".join(SYMBOLS),
            "REDIS_URL": f"redis://127.0.0.1:{port}",
        }.items():
            monkeypatch.setenv(f"TRADING_{name}", str(value))
        command = [binary(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", tmp_path]
        with collection.collection("spot") as collecting:
            server, deadline = None, time.monotonic() + 100
            try:
                for status in collecting.beats():
                    assert time.monotonic() < deadline, status
                    if server is None and status.get("trades"):
                        assert "live" not in status
                        server = subprocess.Popen([str(word) for word in command], stdout=subprocess.DEVNULL)
                    if status.get("live", {}).get("told"):
                        break
            finally:
                if server is not None:
                    server.kill()
                    server.wait()
