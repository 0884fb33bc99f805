"""All processes of a home share one budget, and a refusal of one silences all."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resources.http_budget import FILE_BYTES, LONGEST_BAN_S, HttpBudget
from tests.loopback import Answer, Asked, loopback

ROOT = "https://api.example"


class Clock:
    def __init__(self, now_s: float = 1_700_000_040.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


def pair(tmp_path: Path, clock: Clock, most: int = 10) -> tuple[HttpBudget, HttpBudget]:
    file = tmp_path / "run" / "rest_budget.json"
    return HttpBudget(ROOT, most, file, clock), HttpBudget(ROOT, most, file, clock)


def test_what_one_uses_the_other_lacks_until_the_minute_is_over(tmp_path: Path) -> None:
    clock = Clock(1_700_000_050.0)
    one, other = pair(tmp_path, clock)
    assert (one.take(6), other.take(4)) == (0, 0)
    wait = one.take(1)
    assert wait == other.take(1) == 60 - 1_700_000_050 % 60
    clock.now_s += wait
    assert other.take(10) == 0


def test_a_ban_of_one_holds_for_the_other_and_the_longer_ban_stands(tmp_path: Path) -> None:
    clock = Clock()
    one, other = pair(tmp_path, clock)
    one.forbid(90)
    other.forbid(30)
    assert (one.take(1), other.take(1)) == (90, 90)
    clock.now_s += 90
    assert other.take(1) == 0


def test_another_root_has_its_own_budget(tmp_path: Path) -> None:
    clock = Clock()
    one, _ = pair(tmp_path, clock)
    futures = HttpBudget("https://fapi.example", 10, tmp_path / "run" / "rest_budget.json", clock)
    one.forbid(60)
    assert futures.take(10) == 0
    assert one.take(1) == 60


def test_what_the_exchange_counted_is_believed_within_its_minute(tmp_path: Path) -> None:
    clock = Clock()
    one, other = pair(tmp_path, clock)
    one.reported(10, clock.now_s)
    assert other.take(1) > 0
    clock.now_s += 60
    one.reported(10, clock.now_s - 60)  # the answer came in the next minute
    assert other.take(1) == 0


def test_a_call_heavier_than_the_budget_is_made_alone(tmp_path: Path) -> None:
    one, other = pair(tmp_path, Clock())
    assert one.take(11) == 0
    assert other.take(1) > 0


@pytest.mark.parametrize("rest", [b"", b"{", b"[1]", b'{"https://api.example": 7}', b"\xff\xff", b"\0" * 100])
def test_a_file_that_cannot_be_read_is_as_good_as_none(tmp_path: Path, rest: bytes) -> None:
    one, _ = pair(tmp_path, Clock())
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "rest_budget.json").write_bytes(rest)
    assert one.take(10) == 0
    assert one.take(1) > 0


def test_a_ban_written_under_another_clock_is_forgotten(tmp_path: Path) -> None:
    clock = Clock()
    one, other = pair(tmp_path, clock)
    one.forbid(10**9)
    assert 0 < other.take(1) <= LONGEST_BAN_S
    clock.now_s -= 30 * 86_400
    assert other.take(1) == 0


def test_a_short_ban_lasts_no_hour_when_the_clock_is_set_back_by_one(tmp_path: Path) -> None:
    clock = Clock()
    one, other = pair(tmp_path, clock)
    one.forbid(5)
    clock.now_s -= 1
    assert 0 < other.take(1) <= 6
    clock.now_s -= 3600
    assert other.take(1) == 0


def test_the_file_stays_small_however_many_roots_came_and_went(tmp_path: Path) -> None:
    file, clock = tmp_path / "rest_budget.json", Clock()
    for port in range(300):
        HttpBudget(f"http://127.0.0.1:{port}", 10, file, clock).take(1)
        clock.now_s += 30
    assert file.stat().st_size == FILE_BYTES
    assert len(json.loads(file.read_bytes())) <= 2


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 7), st.floats(0, 40)), max_size=40))
def test_no_minute_is_ever_overspent(
    tmp_path_factory: pytest.TempPathFactory, calls: list[tuple[int, int, float]]
) -> None:
    clock = Clock()
    both, used = pair(tmp_path_factory.mktemp("budget"), clock), dict[int, int]()
    for who, weight, pause in calls:
        clock.now_s += pause
        if not both[who].take(weight):
            minute = int(clock.now_s // 60)
            used[minute] = used.get(minute, 0) + weight
    assert all(weight <= 10 for weight in used.values())


ASK = """
import asyncio, sys, time
from pathlib import Path
from resources.binance import BinanceRest

async def main():
    rest = BinanceRest(sys.argv[1], budget_file=Path(sys.argv[2]))
    for line in sys.stdin:
        await rest.server_time()
        print("answered", flush=True)
    await rest.close()

asyncio.run(main())
"""


def test_two_processes_are_silent_as_long_as_one_of_them_was_told_to_be(tmp_path: Path) -> None:
    def answer(asked: Asked) -> Answer:
        return (429, "{}", {"Retry-After": "2"}) if len(server.asked) == 2 else (200, '{"serverTime":1}', {})

    file = tmp_path / "rest_budget.json"
    with loopback(answer) as server:
        command = [sys.executable, "-c", ASK, server.root, str(file)]
        askers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        try:
            told, other = askers
            assert ask(told).readline() == "answered\n"
            ask(told)
            while not json.loads(file.read_bytes())[server.root][2]:
                time.sleep(0.01)
            assert ask(other).readline() == "answered\n"
        finally:
            for asker in askers:
                asker.kill()
                asker.communicate()
        _, refused, *later = [asked.at_s for asked in server.asked]
    assert later
    assert min(later) - refused >= 1.9


def ask(asker: "subprocess.Popen[str]") -> IO[str]:
    """Let a process ask once more; its answers can be read from what is returned."""
    assert asker.stdin and asker.stdout
    asker.stdin.write("\n")
    asker.stdin.flush()
    return asker.stdout
