"""Writers that start at one moment on one journal: exactly one of them writes."""

import subprocess
import sys
import textwrap
from contextlib import ExitStack
from pathlib import Path

from resources.journal import TradeJournal
from tests.faults.processes import (
    SOAK,
    SYMBOLS,
    assert_exactly_the_market,
    collector,
    ended,
    exchange,
    until,
)

RACES = 100 if SOAK else 25
COLLECTOR_RACES = 10 if SOAK else 1
RIVALS = 3
FOREVER = 10**13 - 1

RIVAL = """
    import pathlib, sys
    from resources.journal import TradeJournal
    from resources.writer_lock import JournalHeld
    from trading.market.trade import AggTrade

    with TradeJournal.write(pathlib.Path(sys.argv[1]) / sys.argv[2]):
        print("ready", flush=True)
    for line in sys.stdin:
        number = int(line) * 10 + int(sys.argv[2])
        try:
            with TradeJournal.write(pathlib.Path(sys.argv[1]) / "journal") as journal:
                journal.append({"BTCUSDT": [AggTrade(number, 1, 1, number, number, 1000 * number, True)]}, {})
                print("wrote", number, flush=True)
                sys.stdin.readline()
        except JournalHeld as error:
            print("held", error.message.split()[-1], flush=True)
            sys.stdin.readline()
        print("done", flush=True)
"""


def test_of_writers_that_start_at_once_exactly_one_writes_r_21(tmp_path: Path) -> None:
    wrote = list[int]()
    with ExitStack() as stack:
        rivals = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", textwrap.dedent(RIVAL), str(tmp_path), str(number)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for number in range(RIVALS)
        ]

        def all_say(line: str) -> list[list[str]]:
            for rival in rivals:
                assert rival.stdin is not None
                rival.stdin.write(line)
                rival.stdin.flush()
            return heard()

        def heard() -> list[list[str]]:
            return [rival.stdout.readline().split() for rival in rivals if rival.stdout is not None]

        assert heard() == [["ready"]] * RIVALS
        for race in range(RACES):
            rivals.append(rivals.pop(0))  # so that each is the first to be told once
            said = all_say(f"{race}\n")
            winners = [n for n, (what, _) in enumerate(said) if what == "wrote"]
            assert len(winners) == 1, said
            # One that looks in the moment before the winner has put its name there reads the name before.
            assert all(
                who in {"unknown", *(str(rival.pid) for rival in rivals)} for what, who in said if what == "held"
            )
            wrote.append(int(said[winners[0]][1]))
            assert all_say("\n") == [["done"]] * RIVALS
        for rival in rivals:
            assert rival.stdin is not None
            rival.stdin.close()
    with TradeJournal.read(tmp_path / "journal") as journal:
        assert journal.trades("BTCUSDT", 0, FOREVER)["agg_trade_id"].to_list() == wrote
    won = [sum(number % 10 == rival for number in wrote) for rival in range(RIVALS)]
    print(f"{RACES} races of {RIVALS}: one writer each; they won {won}")


def test_of_two_collectors_that_start_at_once_one_collects_and_the_other_ends_by_name(tmp_path: Path) -> None:
    for race in range(COLLECTOR_RACES):
        folder, logs = tmp_path / f"journal{race}", [tmp_path / "one", tmp_path / "other"]
        with exchange(tmp_path, "--speed", "1") as port, ExitStack() as stack:
            both = [stack.enter_context(collector(folder, port, log=log)) for log in logs]
            until(lambda both=both: any(process.poll() is not None for process in both))
            (loser,) = [n for n, process in enumerate(both) if process.poll() is not None]
            assert ended(both[loser]).keys() == {"held"}
            assert "JournalHeld" in logs[loser].read_text() and str(both[1 - loser].pid) in logs[loser].read_text()
            both[1 - loser].terminate()
            assert ended(both[1 - loser])["symbols"].keys() == set(SYMBOLS)
            assert_exactly_the_market(folder, None)
