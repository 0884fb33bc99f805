"""What was not taken: rows that the database refused, rows that cannot have happened, frames that could not be read."""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Final

from resources.heartbeat import last_said
from resources.home import Home
from resources.journal import TradeJournal
from resources.timescale.dead_letters import DeadLetters
from resources.timescale.delivery import TABLES
from trading.market.timeframe import DAY_MS
from trading.provider.validation import ALARM_SHARE, FEWEST_ROWS

KINDS: Final = ("spot", "usdm")
MOST_FRAMES: Final = 1_000
"""So many frames of a day that cannot be read are an alarm: the exchange sends something new, or the line is bad."""


def refused(home: Home) -> dict[str, float]:
    """Return samples: dead letters by table, what the collector refused live of what it made since it began, frames aside.

    Of frames those of the day before the newest of them are counted apart.
    """
    letters = Counter(letter.series.table for letter in DeadLetters(home.dead_letters_dir).letters())
    samples = {f"{table}.dead_letters": letters[table] for table in TABLES}  # none is said too: it ends an alarm
    checks = _live(home).get("checks", {})
    samples |= {"live.checked": checks.get("checked", 0), "live.refused": sum(checks.get("refused", {}).values())}
    samples["live.refused_share"] = checks.get("refused_share", 0.0)
    for kind in KINDS:
        if home.journal_dir(kind).exists():
            with TradeJournal.read(home.journal_dir(kind)) as journal:
                times_ms = [time_ms for time_ms, _, _ in journal.quarantined()]
            recent = sum(time_ms > max(times_ms) - DAY_MS for time_ms in times_ms)
            samples |= {f"{kind}.frames": len(times_ms), f"{kind}.frames_of_a_day": recent}
    return {name: float(value) for name, value in samples.items()}


def _live(home: Home) -> dict[str, Any]:
    return last_said(home.run_dir, "spot").get("live", {})


def too_many(samples: Mapping[str, float]) -> list[str]:
    """Return what the newest samples of refusals say, in words."""
    waiting = {name: count for name, count in samples.items() if name.endswith(".dead_letters") and count}
    found = [
        f"{name.removesuffix('.dead_letters')}: {count:.0f} dead letters wait, see 'trading replay --dry-run'"
        for name, count in waiting.items()
    ]
    share = samples.get("live.refused_share", 0.0)
    if share > ALARM_SHARE and samples.get("live.checked", 0.0) >= FEWEST_ROWS:
        found.append(f"live: {share:.1%} of the last rows cannot have happened, see refused.jsonl by the dead letters")
    for kind in KINDS:
        count = samples.get(f"{kind}.frames_of_a_day", 0.0)
        if count > MOST_FRAMES:
            found.append(f"{kind}: {count:.0f} frames of a day could not be read, see 'trading gaps'")
    return found
