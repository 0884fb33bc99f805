"""Benchmarks of the checkout, by subject."""

from importlib import import_module
from typing import Any

from trading.errors import TradingError

SUBJECTS = {
    "trades": ("trades", "candles", "profile", "collector"),
    "candles": ("candles",),
    "profile": ("profile",),
    "collector": ("collector",),
    "indicators": ("indicators",),
    "store": ("store", "store_queries", "cache"),
    "live": ("live",),
}
"""Benchmark modules by subject; trades are followed from the wire to what is made of them."""


class UnknownBenchmark(TradingError):
    """There is no benchmark of that name."""


def bench(subject: str, quiet: bool) -> dict[str, Any]:
    """Run the comparisons of one subject, or of all.

    Returns:
        The rates of each comparison by its name, and how many times as fast ours is by `<name>_vs_<way>`.

    Raises:
        UnknownBenchmark: Neither a subject nor `all`.
    """
    if subject not in (*SUBJECTS, "all"):
        raise UnknownBenchmark(f"there is no benchmark {subject!r}", f"one of {', '.join(SUBJECTS)}, or all")
    from rich.console import Console

    console = Console(stderr=True)
    answer: dict[str, Any] = {}
    wanted = SUBJECTS.values() if subject == "all" else (SUBJECTS[subject],)
    for name in dict.fromkeys(name for names in wanted for name in names):
        with console.status(f"measuring {name}"):
            for comparison in import_module(f"benchmarks.{name}").comparisons():
                answer |= {comparison.name: comparison.describe(), **comparison.ratios()}
                if not quiet:
                    _print(comparison)
    return answer


def _print(comparison: Any) -> None:
    from rich.console import Console
    from rich.table import Table

    if not hasattr(comparison, "seconds"):
        Console().print(f"{comparison.name}: {comparison.value} {comparison.unit} ({comparison.note})")
        return
    table = Table("way", f"{comparison.unit}/s", "ours is … × as fast", title=comparison.name)
    for way in comparison.seconds:
        table.add_row(way, f"{comparison.rate(way):,.0f}", f"{comparison.against(way):.2f}")
    Console().print(table)
