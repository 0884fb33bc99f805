"""A collector of trades with identities dies at any moment: what it acknowledged is there once, its absence is named."""

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE
from typing import TextIO

from resources.identity_journal import IdentityJournal
from tests.faults.processes import SOAK, Collecting, ended, status, until
from tests.identity_venue import Bybit, Hyperliquid, Print, Venue, busy_prints, hyperliquid_prints
from tests.resources.test_identity_collector import FOREVER_MS, assert_true

KILLS = 100 if SOAK else 5
PROGRAM = ("resources.identity_collector",)
POINTS = ("after commit", "before commit")
A_STEP = 20
STEP_S = 0.04
"""Five hundred trades a second."""


class Acknowledged(set[str]):
    """Ids that a collector has written after the journal took them; a line that it died in the middle of does not count."""

    before = 0

    def grown(self) -> bool:
        """Tell whether anything came since the last time that something had."""
        before, self.before = self.before, len(self)
        return self.before > before

    def read(self, acks: TextIO) -> None:
        """Take lines until the writer is gone: nobody may let the pipe become full, as the collector would wait."""
        for line in acks:
            if line.endswith("\n"):
                self.add(line.split()[1])


@contextmanager
def collecting(
    folder: Path,
    venue: Venue,
    name: str,
    acknowledged: Acknowledged,
    program: Sequence[str] = PROGRAM,
) -> Iterator[Collecting]:
    """Run a collector, and take what it acknowledges until its end."""
    reading, writing = os.pipe()
    kind = "bybit" if isinstance(venue.form, Bybit) else "hyperliquid"
    command = [sys.executable, "-m", *program, "--venue", kind, "--symbols", name]
    command += ["--journal", str(folder), "--rest", venue.rest_url, "--ws", venue.ws_url, "--ack-fd", str(writing)]
    with folder.with_suffix(".log").open("a") as log, os.fdopen(reading) as acks:
        thread = threading.Thread(target=acknowledged.read, args=[acks])
        with Collecting(command, stdout=PIPE, stderr=log, text=True, pass_fds=[writing]) as process:
            os.close(writing)
            thread.start()
            yield process
        thread.join(20)


@contextmanager
def market(venue: Venue, prints: list[Print]) -> Iterator[None]:
    """Let trades happen at a steady pace, over and over with new ids and later times, until the end of the block."""
    over = threading.Event()

    def bring() -> None:
        span_ms, turn = prints[-1].time_ms - prints[0].time_ms + 1, 0
        while not over.is_set():
            again = [
                Print(p.name, f"{p.trade_id}-{turn}", p.price, p.quantity, p.time_ms + turn * span_ms, p.taker_sold)
                for p in prints
            ]
            for at in range(0, len(again), A_STEP):
                venue.bring(again[at : at + A_STEP])
                if over.wait(STEP_S):
                    return
            turn += 1

    thread = threading.Thread(target=bring)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(30)


def held(folder: Path, name: str) -> set[str]:
    with IdentityJournal.read(folder) as journal:
        return {trade.trade_id for trade in journal.trades(name, 0, FOREVER_MS)}


def test_nothing_acknowledged_is_absent_after_any_kill_and_the_time_of_the_absence_is_named(tmp_path: Path) -> None:
    folder, chance, seen = tmp_path / "journal", random.Random(5), Acknowledged()
    with Venue(Bybit()).serving() as venue, market(venue, busy_prints()):
        for kill in range(KILLS):
            venue.rest_refuses = kill % 3 > 0
            named = POINTS[kill // 2 % len(POINTS)] if kill % 2 else None
            program = ("tests.faults.killed_at", named, str(chance.randrange(3, 5))) if named else PROGRAM
            with collecting(folder, venue, "BTCUSDT", seen, program) as process:
                if named:
                    assert process.wait(30) == -signal.SIGKILL
                else:
                    until(seen.grown, process)
                    time.sleep(chance.uniform(0.0, 1.5))
                    process.kill()
            seen.grown()
            assert seen <= held(folder, "BTCUSDT")
        happened = list(venue.happened)
        lacking = assert_true(folder, happened)
        with IdentityJournal.read(folder) as journal:
            states = [stretch.state for stretch in journal.stretches("BTCUSDT")]
        assert states.count("missing") >= KILLS // 4
        assert lacking > 0
        # A list that reaches back to the first trade leaves nothing missing, and still nothing proven.
        venue.rest_refuses, venue.reach = False, 10**6
        with collecting(folder, venue, "BTCUSDT", seen) as process:
            until(seen.grown, process)
            until(lambda: status(folder)["symbols"]["BTCUSDT"]["holes"] == 0, process)
            process.send_signal(signal.SIGTERM)
            said = ended(process)
    assert said["symbols"]["BTCUSDT"]["missing_ms"] <= 1 and said["trades"] > 0
    assert seen <= held(folder, "BTCUSDT")
    assert_true(folder, venue.happened)
    assert {p.trade_id for p in happened} <= held(folder, "BTCUSDT")
    print(f"{KILLS} kills: {len(seen)} trades acknowledged, absent 0, twice 0; {lacking} lacked in named time")


def test_what_a_subscription_begins_with_bridges_a_death(tmp_path: Path) -> None:
    folder, prints = tmp_path / "journal", hyperliquid_prints()
    seen = Acknowledged()
    with Venue(Hyperliquid()).serving() as venue:
        venue.rest_refuses = True
        with collecting(folder, venue, "BTC", seen) as process:
            until(lambda: venue.subscribed("BTC"), process)
            venue.bring(prints[:20])
            until(lambda: len(seen) == 20, process)
            process.kill()
        assert seen == {p.trade_id for p in prints[:20]} == held(folder, "BTC")
        venue.bring(prints[20:40])
        with collecting(folder, venue, "BTC", seen) as process:
            until(lambda: venue.subscribed("BTC"), process)
            venue.bring(prints[40:])
            until(lambda: len(seen) == len(prints), process)
            process.send_signal(signal.SIGTERM)
            said = ended(process)
    assert seen == {p.trade_id for p in prints} == held(folder, "BTC")
    assert assert_true(folder, prints) == 0
    assert said["trades"] == len(prints) - 20
    with IdentityJournal.read(folder) as journal:
        states = [s.state for s in journal.stretches("BTC") if s.until_ms - s.from_ms > 1]
    assert states == ["unproven"]
