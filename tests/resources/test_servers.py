"""Homes and their servers: side by side, shared, taken over after a kill, and refused where they do not fit."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from resources.home import Home, HomeNotWritable, WrongHome
from resources.qdrant import Point, SnapshotIndex, WrongCollection
from resources.redis import HotValues
from resources.servers import in_use, running
from resources.settings import load_settings
from resources.timescale.store import DatabaseUnavailable, MarketStore
from trading.market.instrument import Instrument
from trading.rag.point import point_id

ALL = ("postgres", "redis", "qdrant")


def new_home(folder: Path, name: str) -> Home:
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(parent.stat().st_mode | 0o011)
    home = Home(folder / name)
    home.create("simulated", {"seed": 7})
    return home


def pids(home: Home) -> dict[str, int]:
    files = {name: home.run_dir / f"{name}.pid.json" for name in ALL}
    return {name: json.loads(file.read_text())["pid"] for name, file in files.items() if file.exists()}


def test_two_homes_run_side_by_side_and_the_last_one_out_stops_its_servers(tmp_path: Path) -> None:
    one, two = new_home(tmp_path, "one"), new_home(tmp_path, "two")
    settings = load_settings(one.path, {})
    with running(one, settings, ALL) as first, running(two, settings, ALL) as second:
        assert first.postgres != second.postgres
        assert first.qdrant != second.qdrant
        started = pids(one)
        with running(one, settings, ALL) as again:
            assert again == first
        assert pids(one) == started, "one user left, another one is still there"
        with MarketStore(first.postgres, "sim") as market, MarketStore(second.postgres, "sim") as other:
            market.register([Instrument("sim", "BTCUSDT", "BTC", "USDT", 2, 5)])
            assert list(market.instruments()) == ["BTCUSDT"]
            assert other.instruments() == {}
    assert not in_use(one)
    assert not any(psutil.pid_exists(pid) for pid in started.values())


def test_what_a_killed_user_left_running_is_taken_over_and_stopped(tmp_path: Path) -> None:
    home = new_home(tmp_path, "home")
    program = (
        "import sys, time; from pathlib import Path; from resources.home import Home; from resources.servers import running;"
        "from resources.settings import load_settings; home = Home(Path(sys.argv[1]))\n"
        "with running(home, load_settings(home.path, {})): print('up', flush=True); time.sleep(60)"
    )
    user = subprocess.Popen([sys.executable, "-c", program, str(home.path)], stdout=subprocess.PIPE, text=True)
    assert user.stdout is not None
    assert user.stdout.readline() == "up\n"
    left = pids(home)
    user.send_signal(signal.SIGKILL)
    user.wait(10)
    user.stdout.close()
    server = psutil.Process(left["redis"])
    server.kill()  # and one of the servers died with it
    psutil.wait_procs([server], timeout=5)
    with running(home, load_settings(home.path, {}), ALL) as urls:
        assert pids(home)["postgres"] == left["postgres"]
        assert pids(home)["redis"] != left["redis"]
        assert HotValues(urls.redis).rebuild({"BTCUSDT": {"close": "1"}}) == 1
    assert pids(home) == {}


def test_the_index_keeps_what_it_took_and_refuses_another_shape(tmp_path: Path) -> None:
    home = new_home(tmp_path, "home")
    settings = load_settings(home.path, {})
    points = [
        Point(point_id("sim", "BTC", n, "v"), [float(n), 0.0], {"symbol": "BTC", "ts_ms": n, "matures_at_ms": n + 10})
        for n in range(30)
    ]
    with running(home, settings, ("qdrant",)) as urls:
        index = SnapshotIndex(urls.qdrant, "states", 2)
        index.ensure()
        index.upsert(points)
        index.upsert(points)
        assert index.count() == 30
        found = index.query([20.0, 0.0], symbol="BTC", as_of_ms=25, k=3)
        assert [n.ts_ms for n in found] == [15, 14, 13], "states that mature after 25 are not known"
        assert index.query([0.0, 0.0], symbol="ETH", as_of_ms=99, k=3) == []
        os.kill(pids(home)["qdrant"], signal.SIGKILL)
        index.close()
    with running(home, settings, ("qdrant",)) as urls:
        index = SnapshotIndex(urls.qdrant, "states", 2)
        index.ensure()
        assert index.count("BTC") == 30, "points survive kill -9 of their owner"
        with pytest.raises(WrongCollection):
            SnapshotIndex(urls.qdrant, "states", 3).ensure()
        index.close()


def test_hot_values_change_only_where_they_differ(tmp_path: Path) -> None:
    home = new_home(tmp_path, "home")
    with running(home, load_settings(home.path, {}), ("redis",)) as urls:
        hot = HotValues(urls.redis)
        rows = {"BTCUSDT": {"close": "1"}, "ETHUSDT": {"close": "2"}}
        assert hot.rebuild(rows) == 2
        assert hot.rebuild(rows) == 0
        assert hot.rebuild({"BTCUSDT": {"close": "3"}}) == 2
        assert hot.get("BTCUSDT") == {"close": "3"}
        assert hot.get("ETHUSDT") == {}
        hot.close()


@pytest.mark.parametrize(
    ("kind", "clock", "named"), [("live", {"seed": 7}, "live"), ("simulated", {"seed": 8}, "seed")]
)
def test_a_home_of_another_kind_or_clock_is_refused(tmp_path: Path, kind: str, clock: dict, named: str) -> None:
    new_home(tmp_path, "home")
    with pytest.raises(WrongHome, match=named):
        Home(tmp_path / "home").create(kind, clock)


def test_a_home_that_cannot_be_made_is_one_clear_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeNotWritable, match="TRADING_HOME"):
        Home(tmp_path / "file" / "home").create("simulated", {})


def test_a_database_that_does_not_answer_names_its_setting() -> None:
    with (
        pytest.raises(DatabaseUnavailable, match="TRADING_POSTGRES_URL"),
        MarketStore("postgresql://127.0.0.1:1/x", "sim"),
    ):
        pass
