"""Progress bars over assets, with rate and time to go."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

ASSETS_A_SYMBOL = 16


def _bar() -> Progress:
    return Progress(
        TextColumn("{task.description:<42}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


@contextmanager
def showing(quiet: bool, plan: Any) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield a function that takes the lines of workers; nothing is shown when `quiet`."""
    if quiet:
        yield lambda _: None
        return
    with _bar() as bar:
        task = bar.add_task("starting PostgreSQL, Redis and Qdrant", total=ASSETS_A_SYMBOL * len(plan.symbols) + 2)

        def show(line: dict[str, Any]) -> None:
            if "stage" in line:
                bar.update(task, description=line["stage"])
            elif "asset" in line:
                bar.update(task, advance=1, description=f"{line['asset']} {line['symbol']}")

        yield show


@contextmanager
def run_bars(names: Sequence[str]) -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function that takes a run's name, how many of its steps are done, and how many there are."""
    with _bar() as bar:
        tasks = {name: bar.add_task(name, total=None) for name in names}
        yield lambda name, done, total: bar.update(tasks[name], completed=done, total=total or None)
