"""What a demo says when it cannot run, before or while it does."""

import os
import subprocess
from pathlib import Path

import pytest

from resources.dagster_home import dagster_environment
from resources.home import Home, HomeBusy
from resources.journal import TradeJournal
from resources.settings import load_settings
from resources.stores import open_stores
from trading_assets.cli.demo import DemoRequest, Plan, Progress, StepFailed, Worker, _collect, plan_demo, run_demo


def test_a_demo_on_a_home_where_up_runs_is_refused_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRADING_SYMBOLS", "BTCUSDT")
    home = Home(tmp_path / "home")
    request = DemoRequest(1, None, ("BTCUSDT",), 7, None)
    home.create("simulated", {"source": "synthetic"})
    with home.worked_on("up"), pytest.raises(HomeBusy, match=f"'trading up' .* as process {os.getpid()}"):
        run_demo(home.path, request, quiet=True)
    assert not home.postgres_dir.exists()


def test_a_collector_that_ends_badly_says_why_in_the_error_itself(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create("simulated", {})
    (home.logs_dir / "collector.log").write_text("a line of an earlier run\n")
    plan = Plan(("BTCUSDT",), "2026-11-01", "2026-11-01", 1, {"BTCUSDT": (0, 1)}, ())
    with open_stores(home.path) as stores, TradeJournal.write(home.rocksdb_dir):
        with pytest.raises(StepFailed, match=f"is held by process {os.getpid()}; one collector") as failure:
            _collect(stores, plan, dict(os.environ), "http://127.0.0.1:1")
        assert "collector.log" in failure.value.hint


def test_a_worker_waits_until_the_servers_answer_and_says_which_one_does_not(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create("simulated", {})
    environment = dagster_environment(home, "postgresql+psycopg2://postgres@/dagster?host=/nowhere")
    worker = Worker(environment, home.logs_dir / "worker-0.log")
    try:
        assert worker._process.stdout is not None
        assert "assets_a_symbol" in worker._process.stdout.readline()
        with pytest.raises(subprocess.TimeoutExpired):
            worker._process.wait(1)
        worker.start("begin")
        with pytest.raises(StepFailed, match=r"connection to server on socket \"/nowhere"):
            worker.finish(Progress(), lambda _: None)
    finally:
        worker.close()


def test_what_is_neither_asked_for_nor_fixed_is_as_it_is_set(tmp_path: Path) -> None:
    settings = load_settings(tmp_path, {"TRADING_SEED": "11", "TRADING_SYMBOLS": "ADAUSDT,XRPUSDT"})
    plan, clock = plan_demo(DemoRequest(1, None, (), None, None), {}, settings)
    assert (plan.symbols, clock["seed"]) == (("ADAUSDT", "XRPUSDT"), 11)
    plan, clock = plan_demo(DemoRequest(1, None, (), None, None), {"seed": 3, "symbols": ["ETHUSDT"]}, settings)
    assert (plan.symbols, clock["seed"]) == (("ETHUSDT",), 3)
    plan, clock = plan_demo(DemoRequest(1, None, ("BTCUSDT",), 0, None), {"seed": 3, "symbols": ["ETHUSDT"]}, settings)
    assert (plan.symbols, clock["seed"]) == (("BTCUSDT",), 0)
