"""`trading up` as a user runs it: start, collect, terminate, kill, stop."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from resources.servers import process
from tests.end_to_end.running import UP, Running, free_port, until


def test_the_collector_starts_by_itself(up: Running) -> None:
    until(up.collects, 60, "trades")


def test_contracts_are_collected_beside_spot_with_their_mark_prices(up: Running) -> None:
    until(lambda: up.beat("usdm").get("symbols") and up.beat("usdm").get("marks"), 60, "mark prices")
    assert all(not symbol["holes"] for symbol in up.beat("usdm")["symbols"].values())
    assert up.command("status")["streams"]["usdm"]["marks"]


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
    start = time.monotonic()
    until(lambda: up.ui.status(killed) == "FAILURE", 10, "the failure")
    until(lambda: up.collects() and up.beat()["pid"] != pid, 60, "trades again")
    print(f"collecting again {time.monotonic() - start:.1f} s after kill -9")
    assert up.command("status")["trade_gaps"] == 0


def test_terminate_in_the_ui_stops_for_good_and_a_launch_resumes(up: Running) -> None:
    until(up.collects, 60, "trades")
    (run_id, _), pid = up.runs()[0], up.beat()["pid"]
    up.ui.terminate(run_id)
    until(lambda: up.ui.status(run_id) == "CANCELED", 10, "the end")
    time.sleep(11)  # two ticks of the supervisor
    assert up.runs()[0] == (run_id, "CANCELED")
    resumed = up.ui.launch("collect_spot")
    # The heartbeat that was left behind still lies there, and a run that has only just started has resumed nothing yet.
    until(lambda: up.ui.status(resumed) == "STARTED" and up.collects() and up.beat()["pid"] != pid, 60, "trades again")


def test_a_killed_code_server_comes_back_and_leaves_no_collector_behind(up: Running) -> None:
    until(up.collects, 60, "trades")
    pid = up.beat()["pid"]
    os.kill(up.code_server(), signal.SIGKILL)
    until(up.said("code-server had ended and was started again"), 60, "the code server")
    assert not psutil.pid_exists(pid)
    until(lambda: up.collects() and up.beat()["pid"] != pid, 60, "trades again")


def test_killed_servers_come_back_and_collecting_goes_on(up: Running) -> None:
    until(up.collects, 60, "trades")
    for name in ("postgres", "redis"):
        record = process.recorded(name, up.home / "run")
        assert record is not None
        os.kill(record[0], signal.SIGKILL)
    for name in ("postgres", "redis"):
        until(up.said(f"{name} had ended and was started again"), 60, name)
    collected = up.beat()["trades"]
    until(lambda: up.beat()["trades"] > collected and not up.beat()["live"]["not_in_database"], 60, "trades again")


def test_after_kill_9_of_up_another_one_takes_over_and_stops_everything(up: Running) -> None:
    code_server = up.code_server()
    up.process.kill()
    up.process.wait()
    until(lambda: not psutil.pid_exists(code_server), 10, "the end of the code server")
    again = Running(up.home)
    until(again.collects, 60, "trades")
    again.stop()
    assert "all stopped" in again.log.read_text()
