"""A progress bar over the assets of a demo, with rate and time to go."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

ASSETS_A_SYMBOL = 16


@contextmanager
def showing(quiet: bool, plan: Any) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Yield a function that takes the lines of workers; nothing is shown when `quiet`."""
    if quiet:
        yield lambda _: None
        return
    bar = Progress(
        TextColumn("{task.description:<42}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    with bar:
        task = bar.add_task("starting PostgreSQL, Redis and Qdrant", total=ASSETS_A_SYMBOL * len(plan.symbols) + 2)

        def show(line: dict[str, Any]) -> None:
            if "stage" in line:
                bar.update(task, description=line["stage"])
            elif "asset" in line:
                bar.update(task, advance=1, description=f"{line['asset']} {line['symbol']}")

        yield show
