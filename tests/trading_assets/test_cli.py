"""What the command line says when it is asked for what it cannot do."""

import json
import os
import sys
from pathlib import Path

import pytest

from trading.errors import TradingError
from trading_assets.cli import main as cli
from trading_assets.cli.output import speaking_plainly


def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, dict, str]:
    """Run one command of `trading` with `--json` and return its status, its JSON line and what it told people."""
    monkeypatch.setattr(sys, "argv", ["trading", *words, "--json"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    output = capsys.readouterr()
    return int(str(end.value.code or 0)), json.loads(output.out.splitlines()[-1]), output.err


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["demo", "--days", "abc"], "--days"),
        (["similar"], "symbol"),
        (["similar", "BTCUSDT", "--k", "0"], "--k"),
        (["export", "candles", "--symbol", "BTCUSDT"], "--out"),
        (["config", "show", "--hme", "x"], "--hme"),
        (["no-such-command"], "no-such-command"),
        ([], "--json"),
    ],
    ids=lambda words: " ".join(words) if isinstance(words, list) else "",
)
def test_wrong_usage_is_one_json_object_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], named: str
) -> None:
    status, answer, told = said(capsys, monkeypatch, *words)
    assert status == 2
    assert named in answer["error"] and "--help" in answer["hint"]
    assert named in told and "Traceback" not in told


@pytest.mark.parametrize("error", [RuntimeError("a bolt is loose"), OSError("a bolt is loose"), KeyError("bolt")])
def test_an_error_that_nobody_expected_is_one_object_and_its_traceback_is_in_a_log(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: Exception
) -> None:
    def fail(home: object) -> Path:
        raise error

    (tmp_path / "logs").mkdir()
    monkeypatch.setenv("TRADING_HOME", str(tmp_path))
    monkeypatch.setattr(cli, "home_path", fail)
    status, answer, told = said(capsys, monkeypatch, "status")
    log = tmp_path / "logs" / "trading.log"
    assert (status, answer["error"]) == (1, f"{type(error).__name__}: {error}")
    assert str(log) in answer["hint"] and str(log) in told
    assert "Traceback" in log.read_text() and "Traceback" not in told


def test_an_interrupted_command_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(home: object) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "home_path", fail)
    status, answer, _ = said(capsys, monkeypatch, "status")
    assert status == 130
    assert answer["error"].startswith("Interrupted")


def test_nothing_is_said_twice(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Exception, match="1"), speaking_plainly(True):
        raise TradingError("a bolt is loose", "tighten it")
    output = capsys.readouterr()
    assert json.loads(output.out) == {"error": "TradingError: a bolt is loose", "hint": "tighten it"}
    assert output.err == "TradingError: a bolt is loose; tighten it\n"


@pytest.mark.parametrize(
    "words",
    [["status"], ["similar", "BTCUSDT"], ["export", "agg_trades", "--symbol", "BTCUSDT", "--out", "x.csv"]],
    ids=lambda words: words[0],
)
def test_a_folder_that_is_no_home_is_refused_and_left_as_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: list[str]
) -> None:
    monkeypatch.setattr("os.environ", os.environ.copy())
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "absent", tmp_path / "empty"):
        status, answer, _ = said(capsys, monkeypatch, *words, "--home", str(folder))
        assert status == 1
        assert str(folder) in answer["error"] and "trading demo" in answer["hint"]
    assert not (tmp_path / "absent").exists()
    assert list((tmp_path / "empty").iterdir()) == []
