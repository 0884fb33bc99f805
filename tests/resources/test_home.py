import json
import os
import threading
from pathlib import Path

import pytest

from resources import home as home_module
from resources.home import Home, HomeBusy, HomeNotWritable, WrongHome

CLOCK = {"source": "synthetic", "seed": 7, "end_ms": 1_763_596_800_000}


def test_a_home_keeps_what_its_first_run_fixed(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    assert (home.kind, home.clock) == ("simulated", {})
    home.create("simulated", CLOCK)
    home.create("simulated", CLOCK)
    assert (Home(home.path).kind, Home(home.path).clock) == ("simulated", CLOCK)


@pytest.mark.parametrize(
    ("kind", "clock"),
    [
        ("live", {}),
        ("simulated", {**CLOCK, "seed": 8}),
        ("simulated", {**CLOCK, "end_ms": 0}),
        ("simulated", {"source": "recording"}),
        ("simulated", {}),
    ],
)
def test_another_kind_or_clock_is_refused(tmp_path: Path, kind: str, clock: dict[str, object]) -> None:
    home = Home(tmp_path)
    home.create("simulated", CLOCK)
    with pytest.raises(WrongHome):
        home.create(kind, clock)
    assert home.clock == CLOCK


@pytest.mark.parametrize("stamp", ["", "{", "[]", "{}", '{"schema": 1}', '{"schema": 2, "kind": "live", "clock": {}}'])
def test_a_damaged_or_foreign_stamp_is_refused_and_not_overwritten(tmp_path: Path, stamp: str) -> None:
    (tmp_path / "home.json").write_text(stamp, encoding="utf-8")
    with pytest.raises(WrongHome):
        Home(tmp_path).create("live", {})
    assert (tmp_path / "home.json").read_text(encoding="utf-8") == stamp


def test_a_home_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    for path in (tmp_path / "file", tmp_path / "file" / "home", Path("/proc/home")):
        with pytest.raises(HomeNotWritable, match="cannot be written"):
            Home(path).create("simulated", CLOCK)


def test_a_full_disk_is_refused_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home_module, "RESERVE_BYTES", 2**62)
    with pytest.raises(HomeNotWritable, match="MiB free"):
        Home(tmp_path).create("simulated", CLOCK)
    assert not (tmp_path / "home.json").exists()


def test_of_two_first_runs_at_once_one_fixes_the_home(tmp_path: Path) -> None:
    refused: list[WrongHome] = []
    barrier = threading.Barrier(8)

    def first_run(seed: int) -> None:
        barrier.wait()
        try:
            Home(tmp_path).create("simulated", {**CLOCK, "seed": seed})
        except WrongHome as error:
            refused.append(error)

    runs = [threading.Thread(target=first_run, args=(seed,)) for seed in range(8)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert len(refused) == 7
    assert json.loads((tmp_path / "home.json").read_text(encoding="utf-8"))["clock"]["seed"] in range(8)


def test_socket_paths_stay_short_and_differ_by_home(tmp_path: Path) -> None:
    deep = Home(tmp_path / ("x" * 200) / ("y" * 200))
    assert len(os.fsencode(deep.socket_dir / ".s.PGSQL.5432.lock")) < 100
    assert deep.socket_dir != Home(tmp_path).socket_dir
    assert Home(tmp_path / "a" / "..").socket_dir == Home(tmp_path).socket_dir


def test_one_command_at_a_time_works_on_a_home(tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.create("simulated", {})
    refused = pytest.raises(HomeBusy, match=f"'trading demo' runs on {tmp_path} already, as process {os.getpid()}")
    with home.worked_on("demo"), refused, home.worked_on("up"):
        pass
    with home.worked_on("up"):
        pass
