"""What `trading up` takes for a living collector, and what it says of one that was told to stop."""

import json
import os
import threading
import time
from pathlib import Path

import pytest

from resources.home import Home
from resources.settings import load_settings
from trading_assets.cli.doctor import RUNNING, STOPPED, _collectors
from trading_assets.cli.status import streams
from trading_assets.cli.up import _Up


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = Home(tmp_path / "home")
    made.create("simulated", {})
    for folder in ("heartbeat", "desired"):
        (made.run_dir / folder).mkdir()
    return made


def test_the_last_beat_of_a_former_collector_is_no_sign_of_life(home: Home) -> None:
    beat = home.run_dir / "heartbeat" / "spot.json"
    beat.write_text(json.dumps({"symbols": {"BTCUSDT": {}}}))
    os.utime(beat, (time.time() - 60, time.time() - 60))
    up = _Up(home, ("BTCUSDT",), {}, 1, threading.Event(), load_settings(home.path, {}))
    assert not up._collects()
    os.utime(beat, (time.time() + 1, time.time() + 1))
    assert up._collects()
    beat.write_text(json.dumps({"symbols": {}}))
    assert not up._collects()


def test_a_terminated_collector_is_named_with_how_to_resume_and_not_waited_for(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    (home.run_dir / "desired" / "spot.json").write_text(json.dumps({"desired": "stopped"}))
    began = time.monotonic()
    _Up(home, ("BTCUSDT",), {}, 1, threading.Event(), load_settings(home.path, {}))._await_trades()
    assert time.monotonic() - began < 5
    said = capsys.readouterr().out
    assert "terminated" in said and "collect_spot" in said and "resume" in said


def test_each_collector_is_found_by_its_last_beat_and_a_silent_one_is_told_from_a_living(home: Home) -> None:
    spot, usdm = (home.run_dir / "heartbeat" / f"{kind}.json" for kind in ("spot", "usdm"))
    spot.write_text(json.dumps({"pid": 5, "trades": 9, "klines_agree": 2, "symbols": {}}))
    usdm.write_text(json.dumps({"pid": 6, "started": 1.0}))
    os.utime(usdm, (time.time() - 60, time.time() - 60))
    found = streams(home)
    assert {name: said["pid"] for name, said in found.items()} == {"spot": 5, "usdm": 6}
    assert (found["spot"]["trades"], found["spot"]["klines_agree"]) == (9, 2) and "trades" not in found["usdm"]
    assert found["spot"]["beat_age_s"] < 30 < found["usdm"]["beat_age_s"]
    states = {finding.what: (finding.state, finding.advice) for finding in _collectors(home)}
    assert states["collector spot"] == (RUNNING, "")
    (home.run_dir / "heartbeat" / "spot.json").write_text("")  # by a loss of power
    assert set(streams(home)) == {"usdm"}
    assert states["collector usdm"][0] == STOPPED and "collect_usdm" in states["collector usdm"][1]
