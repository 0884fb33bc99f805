"""A market whose ids prove nothing is unproven, degraded or missing on the command line, and never complete."""

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources import identity_collector
from resources.home import Home
from resources.identity_journal import IdentityJournal
from resources.writer_lock import WriterLock
from trading.market.identified import IdentifiedTrade
from trading.market.instrument import Instrument
from trading.market.timeframe import DAY_MS, HOUR_MS
from trading.stream.identities import Identities, Stretch
from trading.stream.identity_core import Seen
from trading_assets.cli import main as cli
from trading_assets.cli.venues import VENUES, days

DAY = 20_000 * DAY_MS


def said(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: str) -> tuple[int, Any, str]:
    monkeypatch.setattr(sys, "argv", ["trading", *words])
    with pytest.raises(SystemExit) as end:
        cli.main()
    output = capsys.readouterr()
    last = output.out.splitlines()[-1] if output.out.strip() else "{}"
    return int(str(end.value.code or 0)), json.loads(last) if "--json" in words else None, output.out


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home that has heard Bybit on three days, with an hour and a half of silence around the second midnight."""
    place, held = Home(tmp_path), Identities()
    place.create("live", {})
    moments = [DAY + HOUR_MS, DAY + 2 * DAY_MS - HOUR_MS, DAY + 2 * DAY_MS + HOUR_MS // 2, DAY + 2 * DAY_MS + HOUR_MS]
    trades = [IdentifiedTrade(str(n), 1, 1, at, False) for n, at in enumerate(moments)]
    held.take(trades[:2])
    held.interrupted()
    held.take(trades[2:3])
    held.take(trades[3:])
    with IdentityJournal.write(place.journal_dir("bybit")) as journal:
        journal.keep(Instrument("bybit", "BTCUSDT", "BTC", "USDT", 2, 3, "linear"))
        journal.append({"BTCUSDT": Seen(trades, stretches=held.stretches())}, 1)
    return tmp_path


def test_days_are_unproven_or_degraded_and_what_was_not_heard_counts(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status, answer, _ = said(capsys, monkeypatch, "coverage", "--venue", "bybit", "--home", str(home), "--json")
    assert status == 0
    assert [(row["state"], row["missing_ms"]) for row in answer["days"]] == [
        ("degraded", HOUR_MS),
        ("degraded", HOUR_MS),
        ("degraded", HOUR_MS // 2 + 1),
    ]
    assert answer["summary"] == {"unproven": 0, "degraded": 3, "missing": 0}
    assert answer["warnings"] == ["no collector of bybit runs: nothing is known since the newest trade"]
    _, _, shown = said(capsys, monkeypatch, "coverage", "BTCUSDT", "--venue", "bybit", "--home", str(home))
    assert "▒▒▒" in shown and "available" not in shown


def test_the_stretch_that_may_lack_trades_is_listed(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status, answer, _ = said(capsys, monkeypatch, "gaps", "--venue", "bybit", "--home", str(home), "--json")
    (gap,) = answer["gaps"]
    assert (status, gap["state"], gap["ms"]) == (0, "missing", 3 * HOUR_MS // 2 + 1)
    assert gap["until_time"].endswith("T00:30:00.001+00:00")
    _, _, shown = said(capsys, monkeypatch, "gaps", "BTCUSDT", "--venue", "bybit", "--home", str(home))
    assert "5400.001" in shown and "unproven" in shown


def test_it_is_said_until_when_something_is_known_and_that_no_collector_runs(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("gaps", "--venue", "bybit", "--home", str(home))
    _, answer, _ = said(capsys, monkeypatch, *words, "--json")
    assert datetime.fromisoformat(answer["until"]["BTCUSDT"]).timestamp() * 1000 == DAY + 2 * DAY_MS + HOUR_MS
    _, _, shown = said(capsys, monkeypatch, *words)
    assert f"BTCUSDT is known up to {answer['until']['BTCUSDT']}" in shown and "no collector of bybit runs" in shown
    with WriterLock.held(Home(home).journal_dir("bybit") / "writer.lock", 0):
        _, _, shown = said(capsys, monkeypatch, *words)
    assert "is known up to" in shown and "no collector" not in shown


def test_of_a_market_without_a_trade_nothing_is_known(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with IdentityJournal.write(Home(home).journal_dir("hyperliquid")) as journal:
        journal.keep(Instrument("hyperliquid", "BTC", "BTC", "USDC", 1, 5, "linear"))
    words = ("gaps", "--venue", "hyperliquid", "--home", str(home))
    _, answer, _ = said(capsys, monkeypatch, *words, "--json")
    assert answer["until"] == {"BTC": None}
    _, _, shown = said(capsys, monkeypatch, *words)
    assert "of BTC nothing is known" in shown


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["coverage", "--venue", "hyperliquid"], "hyperliquid is not collected"),
        (["gaps", "ETHUSDT", "--venue", "bybit"], "ETHUSDT of bybit"),
        (["gaps", "--venue", "usdm"], "'usdm' is no venue"),
        (["gaps", "--venue", "../x", "--explain", "1-2", "--note", "why"], "'../x' is no venue"),
        (["coverage", "--venue", "Bybit"], "'Bybit' is no venue"),
        (["gaps", "BTCUSDT", "--venue", "bybit", "--explain", "1-2", "--note", "why"], "prove nothing"),
    ],
)
def test_what_is_not_there_is_said(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], named: str
) -> None:
    status, answer, _ = said(capsys, monkeypatch, *words, "--home", str(home), "--json")
    assert status == 1 and named in answer["error"] and answer["hint"]


def test_the_venues_are_those_that_are_collected() -> None:
    assert set(VENUES) == set(identity_collector.VENUES)


@given(st.lists(st.tuples(st.integers(1, 2 * DAY_MS), st.booleans()), min_size=1, max_size=8), st.integers(0, DAY_MS))
def test_each_millisecond_of_a_day_is_unproven_or_missing(parts: list[tuple[int, bool]], begins: int) -> None:
    found, at = list[Stretch](), DAY + begins
    for length, missing in parts:
        found.append(Stretch(at, at + length, "missing" if missing else "unproven"))
        at += length
    rows = days(found)
    assert sum(row["unproven_ms"] for row in rows) == sum(length for length, missing in parts if not missing)
    assert sum(row["unproven_ms"] + row["missing_ms"] for row in rows) == at - found[0].from_ms // DAY_MS * DAY_MS
    assert {row["state"] for row in rows} <= {"unproven", "degraded", "missing"}
    assert all((row["missing_ms"] == 0) == (row["state"] == "unproven") for row in rows)
