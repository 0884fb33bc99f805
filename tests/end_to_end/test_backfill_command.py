"""`trading backfill --from-trades` as a user runs it: offline, again, with a bad file, and without anything to ask."""

from pathlib import Path
from typing import Any

import pytest

from resources.home import Home
from resources.simulator.archive import zipped
from resources.simulator.synthetic import SyntheticMarket
from tests.archives import publish, publish_bytes
from tests.end_to_end.running import trading
from trading.market.archive import ArchiveFile
from trading.market.timeframe import DAY_MS

SYMBOL, END = "BTCUSDT", "2026-03-04"
MARKET = SyntheticMarket(7, [SYMBOL])


def backfill(home: Path, start: str, end: str, **settings: str) -> dict[str, Any]:
    return trading(home, "backfill", SYMBOL, "--start", start, "--end", end, "--from-trades", **settings)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    tmp_path.chmod(0o755)  # PostgreSQL runs as another user where the tests run as root
    path = tmp_path / "home"
    Home(path).create("simulated", {"source": "synthetic", "seed": 7, "symbols": [SYMBOL], "end_ms": 0})
    return path


def test_days_are_brought_offline_proven_and_brought_again_without_a_change(home: Path) -> None:
    first = backfill(home, "2026-03-01", "2026-03-03")
    lo_ms = ArchiveFile(SYMBOL, "2026-03-01").span_ms()[0]
    expected = [len(MARKET.trades(SYMBOL, lo_ms + n * DAY_MS, lo_ms + (n + 1) * DAY_MS)) for n in range(2)]
    assert (first["status"], first["proven"], first["degraded"], first["missing"]) == (0, 2, 0, 0)
    assert [day["trades"] for day in first["days"]] == [day["inserted"] for day in first["days"]] == expected
    assert [day["archive"]["version"] for day in first["days"]] == [1, 1]
    second = backfill(home, "2026-03-01", "2026-03-03")
    assert [(day["inserted"], day["updated"], day["verdict"]) for day in second["days"]] == [(0, 0, "proven")] * 2
    status = trading(home, "status")
    assert (status["trades"], status["trade_gaps"]) == (sum(expected), 0)


def test_a_bad_file_is_named_with_its_day_and_the_other_days_go_on(home: Path, tmp_path: Path) -> None:
    root, days = tmp_path / "archive", ("2026-03-01", "2026-03-02", "2026-03-03")
    for day in days[::2]:
        file = ArchiveFile(SYMBOL, day)
        publish(root, file, MARKET.trades(SYMBOL, *file.span_ms()), MARKET.instrument(SYMBOL))
    bad = ArchiveFile(SYMBOL, days[1])
    publish_bytes(root, bad, zipped(b"1,2\n", f"{bad.name}.csv"))
    backfill(home, days[0], days[1])  # with the exchange beside it, which makes the instrument known
    report = backfill(home, days[0], END, TRADING_ARCHIVE_URL=str(root))
    assert (report["status"], report["refused"]) == (1, 1)
    assert [day["verdict"] for day in report["days"]] == ["proven", "missing", "degraded"]
    assert report["days"][1]["refused"].startswith("UnknownColumns: BTCUSDT-aggTrades-2026-03-02 has 2 columns")
    assert report["days"][2]["unproven"][0][0] == "2026-03-03T00:00:00+00:00"
    mended = backfill(home, days[0], END)
    assert (mended["status"], mended["proven"]) == (0, 3)


@pytest.mark.parametrize(
    ("start", "end", "said"),
    [
        ("2026-03-02", "2026-03-01", "BadDays: 2026-03-02"),
        ("2026-03-02", "2026-03-02", "BadDays: 2026-03-02"),
        ("2026-03-01T01:00Z", "2026-03-02", "BadDays"),
        ("yesterday", "2026-03-02", "BadMoment: --start 'yesterday'"),
    ],
)
def test_days_that_cannot_be_are_refused_before_anything_starts(
    tmp_path: Path, start: str, end: str, said: str
) -> None:
    answer = backfill(tmp_path / "home", start, end)
    assert answer["status"] == 1 and answer["error"].startswith(said)
    assert not (tmp_path / "home").exists()


def test_a_home_without_any_source_says_what_to_set(tmp_path: Path) -> None:
    answer = backfill(tmp_path / "home", "2026-03-01", "2026-03-02")
    assert answer["status"] == 1 and "NoSource" in answer["error"]
    assert "TRADING_ARCHIVE_URL" in answer["hint"]
