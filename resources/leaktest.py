"""A leak is an answer that changes with what happened, or became known, after its moment.

Noise is written after a moment, the moment's questions are asked again, and nothing may have changed. All of it happens on
the user's own database inside one transaction that is rolled back, so nobody else ever sees the noise; writers of the same
symbol wait while it lasts.
"""

import io
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from resources.timescale.binary_copy import decode, select
from resources.timescale.loop import wait
from resources.timescale.queries import MarketQueries
from resources.timescale.store import MarketStore
from resources.timescale.tables import BOOK_1S, BOOK_SNAPSHOT, CANDLE, CANDLE_1S, INDICATOR, Table
from resources.timescale.writing import Rows, Target, write_rows
from trading.errors import TradingError
from trading.market.timeframe import CANDLE_TIMEFRAMES, HOUR_MS, MINUTE_MS, Timeframe
from trading.provider.book_tops import BEST, VOLUMES, completed
from trading.provider.frames import KnowsTooMuch
from trading.provider.provider import UnifiedDataProvider
from trading.provider.question import INDICATED

SERIES: tuple[tuple[Table, Timeframe | None], ...] = (
    *((CANDLE, timeframe) for timeframe in CANDLE_TIMEFRAMES),
    *((INDICATOR, timeframe) for timeframe in INDICATED),
    (CANDLE_1S, None),
    (BOOK_SNAPSHOT, None),
    (BOOK_1S, None),
)
FACTORS = {
    **dict.fromkeys(("open", "high", "low", "close"), 1.5),
    # Twice a number has no more decimals, which a book would not hold.
    **dict.fromkeys(("volume", "bid_price", "ask_price", *BEST), 2.0),
    **{name: 4.0 if name.startswith("bid") else 2.0 for name in VOLUMES},
}


class NothingToTest(TradingError):
    """A symbol has no bars to choose moments from."""


@dataclass(frozen=True)
class Tested:
    """What a test found.

    Attributes:
        moments: Moments at which questions were asked.
        answers: Answers that were compared.
        noise: Rows of noise that were written, and rolled back.
        leaks: What changed, in words.
    """

    moments: int
    answers: int
    noise: int
    leaks: tuple[str, ...]


def leaktest(market: MarketStore, symbol: str, moments: int, seed: int = 0) -> Tested:
    """Ask the provider about random moments of a symbol before and after noise that comes later.

    Raises:
        NothingToTest: There are no bars.
        UnknownInstrument: There is no such symbol.
    """
    bars = [span for timeframe in CANDLE_TIMEFRAMES if (span := market.span(CANDLE, symbol, timeframe))]
    if not bars:
        raise NothingToTest(f"{symbol} has no bars", "materialize its candles first")
    first_ms, last_ms = min(lo for lo, _ in bars), max(hi for _, hi in bars)
    choose = random.Random(seed)  # noqa: S311 - no secret
    chosen = [choose.randint(first_ms, last_ms + MINUTE_MS) for _ in range(moments)]
    noise, leaks = 0, list[str]()
    for at_ms in chosen:
        test = _Moment(market, symbol, at_ms)
        wait(market.connections.run(test.run))
        noise += test.noise
        leaks += test.leaks
    return Tested(moments, 3 * moments, noise, tuple(leaks))


class _RolledBack(Exception):
    pass


class _Moment:
    """The test of one moment; it may be run again from the first on."""

    def __init__(self, market: MarketStore, symbol: str, at_ms: int) -> None:
        self._market, self._symbol, self._at_ms = market, symbol, at_ms
        self.noise = 0
        self.leaks: list[str] = []

    async def run(self, connection: Any) -> None:
        self.noise, self.leaks = 0, []
        try:
            async with connection.transaction(isolation="repeatable_read"):
                await self._ask_again(connection)
                raise _RolledBack
        except _RolledBack:
            pass

    async def _ask_again(self, connection: Any) -> None:
        at_ms = self._at_ms

        async def lent(call: Callable[[Any], Awaitable[Any]], **_: Any) -> Any:
            return await call(connection)

        queries = MarketQueries(lent, self._market.venue, self._market.lake)
        provider = UnifiedDataProvider(queries, lambda: at_ms)

        async def ask(known_by: int | None) -> bytes:
            try:
                answer = await provider.get_inference_data(self._symbol, at_ms, known_by=known_by, incomplete=True)
            except KnowsTooMuch as error:
                self.leaks.append(f"{self._symbol} at {at_ms}: {error}")
                return b""
            return answer.to_json()

        today, then = await ask(None), await ask(at_ms)
        for table, timeframe in SERIES:
            length_ms = timeframe.ms if timeframe else table.length_ms
            reach_ms = max(2 * length_ms, HOUR_MS)
            await self._write(connection, table, timeframe, (at_ms - length_ms + 1, at_ms + reach_ms), exact=True)
        if await ask(None) != today:
            self.leaks.append(f"{self._symbol} at {at_ms}: what happened later changes the answer")
        if await ask(at_ms) != then:
            self.leaks.append(f"{self._symbol} at {at_ms}: what happened later changes what was known")
        for table, timeframe in SERIES:
            length_ms = timeframe.ms if timeframe else table.length_ms
            reach_ms = max(100 * length_ms, HOUR_MS)
            await self._write(connection, table, timeframe, (at_ms - reach_ms, at_ms - length_ms + 1), exact=False)
        if await ask(at_ms) != then:
            self.leaks.append(f"{self._symbol} at {at_ms}: what became known later changes what was known")

    async def _write(
        self, connection: Any, table: Table, timeframe: Timeframe | None, window: Sequence[int], exact: bool
    ) -> None:
        """Change the rows of a window, and drop every third of them where `exact`, recorded just after the moment."""
        scope = self._market._scope(table, self._symbol, timeframe)
        target = Target(table, scope, window[0], window[1], self._at_ms + 1)
        held = await self._held(connection, target)
        if held.is_empty():
            return
        factors = {name: factor for name, factor in FACTORS.items() if name in held.columns}
        noisy = held.with_columns(
            *(_times(name, factor, held.schema[name]) for name, factor in factors.items()),
            known_at_ms=pl.max_horizontal("known_at_ms", pl.lit(self._at_ms + 1)),
        )
        if table is BOOK_1S:
            noisy = completed(noisy)
        if exact:
            noisy = noisy.filter(pl.int_range(pl.len()) % 3 != 1)
        written = await write_rows(connection, self._market._storage, target, Rows.of(noisy, target), exact)
        if timeframe is Timeframe.M1 and table is CANDLE:
            await self._market._storage.roll_up(connection, int(scope[0]), window[0], window[1])
        self.noise += written.changed

    async def _held(self, connection: Any, target: Target) -> pl.DataFrame:
        sink, table = io.BytesIO(), target.table
        rows = f"md.{table.relation} AS t WHERE {target.inside('t')} ORDER BY t.{table.time_column}"
        await connection.copy_from_query(f"SELECT {select(table)} FROM {rows}", output=sink, format="binary")  # noqa: S608
        return decode(table, sink.getbuffer())


def _times(name: str, factor: float, kind: Any) -> pl.Expr:
    return pl.col(name).list.eval(pl.element() * factor) if isinstance(kind, pl.List) else pl.col(name) * factor
