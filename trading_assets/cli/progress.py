"""Progress bars over assets, with rate and time to go."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


def _bar(*more: ProgressColumn) -> Progress:
    return Progress(
        TextColumn("{task.description:<42}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        *more,
        console=Console(stderr=True),
    )


@contextmanager
def showing(quiet: bool, plan: Any) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield a function that takes the lines of workers; nothing is shown when `quiet`."""
    if quiet:
        yield lambda _: None
        return
    with _bar() as bar:
        task = bar.add_task("starting PostgreSQL, Redis and Qdrant", total=None)

        def show(line: dict[str, Any]) -> None:
            if "assets_a_symbol" in line:
                bar.update(task, total=line["assets_a_symbol"] * len(plan.symbols) + 2)  # instruments and hot values
            elif "stage" in line:
                bar.update(task, description=line["stage"])
            elif "asset" in line:
                bar.update(task, advance=1, description=f"{line['asset']} {line['symbol']}")

        yield show


@contextmanager
def day_bar(name: str, days: int, quiet: bool) -> Iterator[Callable[[str, float, int], None]]:
    """Yield a function that takes what is done now, how many days are, and how many trades; shows rate and time to go."""
    if quiet:
        yield lambda *_: None
        return
    started = time.monotonic()
    with _bar(TextColumn("{task.fields[rate]}")) as bar:
        task = bar.add_task(name, total=days, rate="")

        def show(what: str, done: float, trades: int) -> None:
            rate = f"{trades / max(time.monotonic() - started, 0.001):,.0f} trades/s"
            bar.update(task, completed=done, description=f"{name} {what}", rate=rate)

        yield show


@contextmanager
def letter_bar(letters: int, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Yield a function that takes what the letter was of that has just been sent again."""
    if quiet:
        yield lambda _: None
        return
    with _bar() as bar:
        task = bar.add_task("sending again", total=letters)
        yield lambda what: bar.update(task, advance=1, description=what)


@contextmanager
def run_bars(names: Sequence[str]) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function that takes a run's name, how many of its steps are done, and how many there are."""
    with _bar() as bar:
        tasks = {name: bar.add_task(name, total=None) for name in names}
        yield lambda name, done, total: bar.update(tasks[name], completed=done, total=total or None)
