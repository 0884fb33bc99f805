"""`trading replay`: what lies in dead letters, and what becomes of it when it is sent again."""

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resources.home import Home
    from resources.stores import Stores


def waiting(home: "Home") -> list[dict[str, Any]]:
    """Return what lies in dead letters by table, timeframe, symbol and reason, the oldest first.

    `since` is the exchange's time when the first of the rows came; `age_s` is for how long the first letter has lain there.
    """
    from resources.timescale.dead_letters import DeadLetters

    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for letter in DeadLetters(home.dead_letters_dir).letters():
        table, symbol, timeframe = letter.series
        reason = _first_line(letter.reason)
        since = datetime.fromtimestamp(letter.recorded_at_ms / 1000, UTC).isoformat(timespec="seconds")
        named = {"table": table, "timeframe": timeframe.value if timeframe else "", "symbol": symbol, "reason": reason}
        age_s = round(time.time() - letter.path.stat().st_mtime, 1)
        row = found.setdefault(
            tuple(named.values()),
            {**named, "letters": 0, "rows": 0, "since": since.replace("+00:00", "Z"), "age_s": age_s},
        )
        row["letters"] += 1
        row["rows"] += letter.rows
    return list(found.values())


def impossible(home: "Home") -> dict[str, int]:
    """Return how many rows were refused of late that cannot have happened, by kind, symbol and reason."""
    from resources.timescale.dead_letters import DeadLetters
    from resources.timescale.quarantine import RefusedRows

    return dict(RefusedRows(DeadLetters(home.dead_letters_dir).refused_file).counts())


def replay(stores: "Stores", quiet: bool) -> dict[str, Any]:
    """Send all dead letters again; return what became of their rows, and the last refusal of each table and symbol."""
    from resources.timescale.dead_letters import DeadLetters
    from resources.timescale.dead_letters import replay as send
    from trading_assets.cli.progress import letter_bar

    letters = DeadLetters(stores.home.dead_letters_dir)
    counts = dict.fromkeys(("letters", "rows", "inserted", "updated", "not_needed", "left"), 0)
    refused: dict[str, str] = {}
    with letter_bar(sum(1 for _ in letters.letters()), quiet) as show:
        for sent in send(stores.market, letters):
            counts["letters"] += 1
            counts["rows"] += sent.letter.rows
            counts["inserted"] += sent.written.inserted
            counts["updated"] += sent.written.updated
            counts["not_needed"] += sent.letter.rows - sent.left - sent.written.changed
            counts["left"] += sent.left
            name = f"{sent.letter.series.table} {sent.letter.series.symbol}"
            if sent.left:
                refused[name] = _first_line(sent.reason)
            show(name)
    return {**counts, "refused": refused}


def _first_line(reason: str) -> str:
    """Return what is the same for all rows that are refused for one reason; the rest names the row."""
    return next(iter(reason.splitlines()), "")


def print_replayed(counts: dict[str, Any]) -> None:
    """Print what became of the rows of dead letters."""
    print(
        f"{counts['rows']:,} rows of {counts['letters']:,} letters: {counts['inserted']:,} inserted, "
        f"{counts['updated']:,} updated, {counts['not_needed']:,} not needed any more, {counts['left']:,} refused again"
    )
    for name, reason in counts["refused"].items():
        print(f"{name}: {reason}")


def print_waiting(rows: Sequence[dict[str, Any]], refused: Mapping[str, int]) -> None:
    """Print what lies in dead letters, and what was refused since it cannot have happened."""
    from rich.console import Console
    from rich.table import Table

    for name, count in refused.items():
        print(f"{count:,} rows cannot have happened and are not sent: {name}")
    if not rows:
        print("There are no dead letters.")
        return
    table = Table(
        "table", "symbol", "letters", "rows", "since (UTC)", "age", "why", title="Rows the database did not take"
    )
    for row in rows:
        name = f"{row['table']} {row['timeframe']}".strip()
        numbers = f"{row['letters']:,}", f"{row['rows']:,}"
        table.add_row(name, row["symbol"], *numbers, row["since"], f"{row['age_s'] / 3600:.1f} h", row["reason"])
    Console(soft_wrap=True).print(table)
