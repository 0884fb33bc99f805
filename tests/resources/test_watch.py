"""What a collector says of itself: lines, figures, and the same figures over HTTP."""

import json
import logging
import socket
import urllib.request
from typing import Any

import pytest

from resources import watch
from resources.collecting_program import metrics
from resources.watch import JsonLines, Watch, serve_metrics


def test_a_minute_is_told_by_symbol_and_a_minute_without_a_trade_is_a_warning(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    said = Watch(["BTCUSDT", "ETHUSDT"])
    said.stored({"BTCUSDT": (3, 1_760_000_000_500)}, 0.001, [])
    assert caplog.records == []
    monkeypatch.setattr(watch, "LOG_EVERY_S", 0.0)
    said.stored({"BTCUSDT": (2, 1_760_000_001_000)}, 0.003, [700])
    stored, none = caplog.records
    assert stored.getMessage() == "Stored 5 trades for BTCUSDT at 2025-10-09T08:53:21.000+00:00"
    assert (none.levelname, none.getMessage()[:20]) == ("WARNING", "No trade for ETHUSDT")
    line = json.loads(JsonLines().format(stored))
    assert (line["level"], line["symbol"], line["trades"]) == ("info", "BTCUSDT", 5)
    status = said.status()
    assert status["write_ms"] == {"p50": 3.0, "p99": 3.0, "max": 3.0}
    assert status["hole_repair_ms"] == {"p50": 700, "p99": 700, "max": 700}
    assert list(status["lag_s"]) == ["BTCUSDT"]


def test_metrics_are_served_on_loopback_until_they_are_ended() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    status = {
        "trades": 12,
        "bad_frames": {"not_json": 2},
        "lag_s": {"BTCUSDT": 0.25},
        "symbols": {"BTCUSDT": {"holes": 1}},
        "write_ms": {"p50": 0.2, "p99": 0.9, "max": 4.0},
        "hole_repair_ms": None,
    }
    end = serve_metrics(port, lambda: status)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
    finally:
        end()
    assert "trading_collector_trades_total 12.0" in lines
    assert 'trading_collector_bad_frames_total{reason="not_json"} 2.0' in lines
    assert 'trading_collector_lag_seconds{symbol="BTCUSDT"} 0.25' in lines
    assert 'trading_collector_open_holes{symbol="BTCUSDT"} 1.0' in lines
    assert 'trading_collector_write_ms{quantile="p99"} 0.9' in lines
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5)


class Idle:
    """A collector that has nothing to do."""

    async def run(self) -> None:
        return

    def stop(self) -> None:
        return

    def status(self) -> dict[str, Any]:
        return {}


def test_a_collector_whose_metrics_port_is_taken_says_so_and_collects(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port, collected = taken.getsockname()[1], False
        with metrics(port, Idle()):
            collected = True
    assert collected
    (said,) = caplog.records
    assert said.levelname == "ERROR" and f"127.0.0.1:{port}" in said.getMessage()


def test_what_ends_a_collector_is_not_taken_for_a_port_in_use() -> None:
    with pytest.raises(OSError, match="the disk"), metrics(0, Idle()):
        raise OSError("the disk")
