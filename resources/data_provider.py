"""The data provider for those who ask: plain calls, and the same as coroutines of any loop.

What is asked and answered is `trading.provider.provider`'s; here it meets the database. One thread a process runs all
questions (`resources.timescale.loop`).
"""

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, Final, ParamSpec, TypeVar

import polars as pl

from resources.timescale.loop import elsewhere, wait
from trading.market.timeframe import Timeframe
from trading.provider.frames import InferenceDataFrame
from trading.provider.moments import Moment
from trading.provider.provider import UnifiedDataProvider
from trading.provider.question import BARS

if TYPE_CHECKING:
    import pandas as pd

P = ParamSpec("P")
T = TypeVar("T")
FORMER_COLUMNS: Final = ("open", "high", "low", "close", "volume")
"""Columns of `get_data`, beside its index `timestamp`."""


class DataProvider:
    """Answers what was known of a symbol at a moment; its questions are `UnifiedDataProvider`'s, asked by plain calls.

    Attributes:
        asynchronous: The same questions as coroutines of any loop.
    """

    def __init__(self, unified: UnifiedDataProvider) -> None:
        self.asynchronous = AsyncDataProvider(unified)
        self.get_inference_data = _waiting(unified.get_inference_data)
        self.get_multi_timeframe_data = _waiting(unified.get_multi_timeframe_data)
        self.get_order_book_data = _waiting(unified.get_order_book_data)

    def get_data(self, symbol: str, timeframe: str = "1m", limit: int = BARS) -> "pd.DataFrame":
        """Return the last closed bars as the former provider did: `FORMER_COLUMNS` by `timestamp` (UTC), oldest first.

        New code asks `get_multi_timeframe_data`, whose bars say whether they are complete and since when they are known.
        """
        import pandas as pd

        bars = self.get_multi_timeframe_data(symbol, [timeframe], limit=limit)[Timeframe(timeframe)]
        index = pd.to_datetime(bars["open_time"].to_numpy(), unit="ms", utc=True).rename("timestamp")
        return pd.DataFrame({name: bars[name].to_numpy() for name in FORMER_COLUMNS}, index)


class AsyncDataProvider:
    """The questions of `UnifiedDataProvider` for a loop that is not the databases' own."""

    def __init__(self, unified: UnifiedDataProvider) -> None:
        self.get_inference_data = _elsewhere(unified.get_inference_data)
        self.get_multi_timeframe_data = _elsewhere(unified.get_multi_timeframe_data)
        self.get_order_book_data = _elsewhere(unified.get_order_book_data)


@dataclass(frozen=True)
class Annotation:
    """A moment of a chart, what was known then, and what a person who judges it may see beside.

    Attributes:
        known: All that was known at the moment; what a model may be shown.
        before: Bars of `1s` and `1m`, and `book_1s`, that were over by the moment.
        after: The same of what came later; for the judgement only.
    """

    known: InferenceDataFrame
    before: dict[str, pl.DataFrame]
    after: dict[str, pl.DataFrame]


class AnnotationLoader:
    """Loads moments to be annotated.

    Args:
        provider: Where from.
    """

    def __init__(self, provider: DataProvider) -> None:
        self._provider = provider

    def load(self, symbol: str, moment: Moment, minutes: int = 30, known_by: Moment | None = None) -> Annotation:
        """Return a moment with `minutes` before and after it."""
        known = self._provider.get_inference_data(symbol, moment, minutes, known_by=known_by, after=True)
        before: dict[str, pl.DataFrame] = {}
        after: dict[str, pl.DataFrame] = {}
        for name, rows in known.context.items():
            length_ms = Timeframe(name.removeprefix("book_")).ms
            over = rows[rows.columns[0]] + length_ms <= known.as_of_ms
            before[name], after[name] = rows.filter(over), rows.filter(~over)
        return Annotation(known, before, after)


def _waiting(question: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, T]:
    @wraps(question)
    def ask(*arguments: P.args, **named: P.kwargs) -> T:
        return wait(question(*arguments, **named))

    return ask


def _elsewhere(question: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    @wraps(question)
    async def ask(*arguments: P.args, **named: P.kwargs) -> T:
        return await elsewhere(question(*arguments, **named))

    return ask
