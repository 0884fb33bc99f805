"""A comparison runs several ways to do one thing in turns, so that a noisy neighbour hits all of them alike."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from trading.errors import TradingError

ROUNDS: Final = 7
OURS: Final = "ours"

most_rounds = 1_000
"""Of any comparison: a test wants equal results and no times, and sets 1."""


class UnequalResults(TradingError):
    """Two ways to do one thing gave two results; their times say nothing."""


@dataclass(frozen=True)
class Comparison:
    """Median seconds of each way to do one thing.

    Attributes:
        name: What is done.
        items: How many things one call handles.
        unit: What an item is.
        seconds: Median of one call, by way; `ours` is one of them.
    """

    name: str
    items: int
    unit: str
    seconds: Mapping[str, float]

    def rate(self, way: str) -> float:
        """Return items a second."""
        return self.items / self.seconds[way]

    def against(self, way: str) -> float:
        """Return how many times as fast ours is."""
        return self.seconds[way] / self.seconds[OURS]

    def ratios(self) -> dict[str, float]:
        """Return how many times as fast ours is as each other way, by `<name>_vs_<way>`."""
        return {f"{self.name}_vs_{way}": round(self.against(way), 2) for way in self.seconds if way != OURS}

    def describe(self) -> dict[str, Any]:
        """Return the rates for a machine."""
        return {"unit": self.unit, "rates": {way: round(self.rate(way)) for way in self.seconds}}


@dataclass(frozen=True)
class Measure:
    """One number, such as a size or the time of one thing, and what it was measured on."""

    name: str
    value: float
    unit: str
    note: str

    def ratios(self) -> dict[str, float]:
        """Return none: it is beside nothing."""
        return {}

    def describe(self) -> float | str:
        """Return the number or the word."""
        return self.value


def compare(
    name: str,
    items: int,
    unit: str,
    ways: Mapping[str, Callable[[], Any]],
    equal: Callable[[Any, Any], bool],
    rounds: int = ROUNDS,
) -> Comparison:
    """Check that all ways give one result, then time them in turns.

    Args:
        name: What is done.
        items: How many things one call handles.
        unit: What an item is.
        ways: Calls without arguments; `ours` is one of them. Each runs once before it is timed.
        equal: Whether our result (first) and another one are the same.
        rounds: How often each is timed.

    Raises:
        UnequalResults: A way differs from ours.
    """
    ours = ways[OURS]()
    for way, call in ways.items():
        if not equal(ours, call()):
            raise UnequalResults(f"{name}: {way} and ours give different results")
    times: dict[str, list[float]] = {way: [] for way in ways}
    gc.collect()
    gc.freeze()  # to look through all that is there before each call would empty the processor's caches
    for _ in range(min(rounds, most_rounds)):
        for way, call in ways.items():
            gc.collect()
            start = time.perf_counter()
            call()
            times[way].append(time.perf_counter() - start)
    gc.unfreeze()
    return Comparison(name, items, unit, {way: statistics.median(taken) for way, taken in times.items()})
