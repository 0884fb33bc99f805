"""One-line mistakes in the collector's core, and the first seed whose day notices each.

`python -m tests.simulation.mutants [SEEDS]` copies the core, makes one mistake at a time and lives through days until
one breaks an invariant; it prints the table and fails when more than one mistake goes unnoticed.
"""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
COLLECTOR, CONNECTIONS, REPAIR, LEDGER, BACKOFF = (
    f"trading/stream/{name}.py" for name in ("collector", "connections", "repair", "contiguity", "backoff")
)

MUTANTS = (
    ("connects alone without asking for the end", COLLECTOR, "        if alone:\n", "        if False:\n"),
    (
        "takes every trade as new",
        REPAIR,
        "not self.relisted and not self.ledger.holds(trade.agg_trade_id):\n",
        "not self.relisted:\n",
    ),
    (
        "stalled streams are not replaced",
        COLLECTOR,
        "asked_ms - stream.missed_ms > STALLED_MS",
        "False",
    ),
    ("silence is never noticed", REPAIR, "> limit\n", "> 1e9 * limit\n"),
    ("closes the old connection too early", CONNECTIONS, "if new.delivered_s is not None:", "if True:"),
    ("believes the first empty end", REPAIR, ">= SETTLE_S:\n", ">= 0 or True:\n"),
    (
        "believes an end at the second question's time",
        REPAIR,
        "self.ledger.confirm(next_id, min(self._end[1], ",
        "self.ledger.confirm(next_id, min(asked_ms, ",
    ),
    (
        "believes an end of an exchange that counts anew",
        REPAIR,
        "self._end, self._end_at_s = None, now_s + self._pause_s\n",
        "self.ledger.confirm(held_id + 1, asked_ms)\n",
    ),
    ("names a hole absent after one look", REPAIR, "left_out & self._doubted:", "left_out:"),
    (
        "an empty page means absent",
        REPAIR,
        "            self._not_before_s = now_s + SETTLE_S\n            return\n",
        "            self.ledger.mark_absent(last)\n            return\n",
    ),
    (
        "forgets to ask again after a refusal",
        REPAIR,
        "        self._asked = None\n        self._not_before_s = now_s + max",
        "        self._not_before_s = now_s + max",
    ),
    (
        "a page ends one id early",
        REPAIR,
        "if first <= t.agg_trade_id <= last]",
        "if first <= t.agg_trade_id < last]",
    ),
    (
        "proves the millisecond of the last trade",
        LEDGER,
        "held.proven_until_ms = max(held.proven_until_ms, time_ms)\n",
        "held.proven_until_ms = max(held.proven_until_ms, time_ms + 1)\n",
    ),
    (
        "proves the millisecond of the first trade",
        LEDGER,
        "held.first_id, held.proven_from_ms = number, time_ms + 1",
        "held.first_id, held.proven_from_ms = number, time_ms",
    ),
    (
        "joins ranges that do not touch",
        LEDGER,
        "if before.last_id + 1 >= after.first_id:",
        "if before.last_id + 3 >= after.first_id:",
    ),
    (
        "begins where the stream began",
        REPAIR,
        "self.ledger.begin(trades[0].agg_trade_id, self._since_ms)",
        "self.ledger.begin(self.ledger.ranges[-1].first_id, self._since_ms)",
    ),
    ("believes the first beginning", REPAIR, "if trades[0].agg_trade_id == self._first_id:", "if True:"),
    (
        "stores the ledger of the moment and not its trades",
        COLLECTOR,
        "return Pending(trades, {",
        "return Pending({k: v[1:] for k, v in trades.items()}, {",
    ),
    ("connects without a pause", CONNECTIONS, "again_s = now_s + self._backoff.pause_s(lived_s)", "again_s = now_s"),
    ("pauses never grow", BACKOFF, "ceiling = min(LONGEST_S, FIRST_S * 2**self._attempt)", "ceiling = FIRST_S"),
    (
        "never connects again after the store was behind",
        CONNECTIONS,
        "            self._connect_at_s = 0.0\n        return",
        "            pass\n        return",
    ),
    (
        "drops what comes while the store is behind",
        COLLECTOR,
        '                self.statistics["overflows"] += self._connections.give_up("the store is behind")\n',
        "                pass\n",
    ),
    (
        "an announced end is not prepared for",
        CONNECTIONS,
        "if only.ending or (",
        "if (",
    ),
    (
        "does not note what came over REST",
        REPAIR,
        "                self.fills.append(Fill(",
        "                (Fill(",
    ),
    ("a hole at the end of a hole is forgotten", LEDGER, "if not b.absent_before]", "if not a.absent_before]"),
)


def first_broken_seed(tree: Path, seeds: int) -> str:
    """Live through days in a changed tree; return what noticed, or nothing."""
    code = (
        "import sys\nfrom tests.simulation.world import World\n"
        f"for seed in range({seeds}):\n"
        "    try:\n        World(seed).run()\n"
        "    except Exception as error:\n        print(seed, type(error).__name__, str(error)[:60]); sys.exit(0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tree, capture_output=True, text=True, check=False, timeout=3600
    )
    return done.stdout.strip() or done.stderr.strip()[-80:]


def main(seeds: int = 100) -> int:
    """Try every mistake; return whether more than one goes unnoticed."""
    unnoticed = 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for part in ("trading", "tests"):
            shutil.copytree(ROOT / part, tree / part)
        for name, file, right, wrong in MUTANTS:
            text = (ROOT / file).read_text(encoding="utf-8")
            assert text.count(right) == 1, f"{name}: {text.count(right)} places in {file}"
            (tree / file).write_text(text.replace(right, wrong), encoding="utf-8")
            started = time.monotonic()
            noticed = first_broken_seed(tree, seeds)
            unnoticed += not noticed
            print(
                f"{name:<55} {noticed or f'NOT NOTICED in {seeds} days':<70} {time.monotonic() - started:5.1f} s",
                flush=True,
            )
            (tree / file).write_text(text, encoding="utf-8")
    print(f"{len(MUTANTS) - unnoticed} of {len(MUTANTS)} noticed")
    return unnoticed > 1


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:2])))
