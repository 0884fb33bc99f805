"""The unified provider: one question, live or historical, and one answer.

The question is what was known of a symbol at a moment. Without a moment it is asked now, and the cache answers what it can,
the history the rest; with one, or with a moment of knowledge, the history answers alone, as what the cache holds has been
corrected since. Every answer says where its parts came from, how old and how complete they are. Nothing here reads a
clock, a socket or a file: who builds a provider gives it a clock, a cache and a history.
"""

from collections.abc import Callable, Collection, Sequence

import polars as pl

from trading.market.instrument import UnknownInstrument
from trading.market.timeframe import CANDLE_TIMEFRAMES, MINUTE_MS, Timeframe
from trading.provider.answer import answer_of
from trading.provider.book_seconds import imbalances_at
from trading.provider.cached import CachedSide
from trading.provider.floor import Floor
from trading.provider.frames import Aggregation, InferenceDataFrame, OrderBookDataFrame
from trading.provider.moments import Moment, moment_ms, timeframe_of
from trading.provider.parts import Parts
from trading.provider.ports import Cache, History
from trading.provider.question import BARS, BadQuestion, Question
from trading.provider.stored import StoredSide


class UnifiedDataProvider:
    """Answers what was known of a symbol at a moment.

    Moments are aware datetimes in UTC or epoch milliseconds. `known_by` gives the versions that were recorded by then; by
    default what is known today. Bars that lack trades, or finer bars, are left out unless `incomplete` is true.

    Args:
        history: What is stored.
        clock: The exchange's clock, epoch ms.
        symbols: Those that may be asked for; None: all that the history knows.
        timeframes: Those that are answered when none are named.
        cache: The newest of each symbol; None: the history answers everything.

    Raises:
        UnknownInstrument: From every question, of a symbol that is not known.
        UnknownTimeframe: Of a timeframe that does not exist.
        BadMoment: Of a moment without a zone, of another zone than UTC, in another unit, or in the future.
    """

    def __init__(
        self,
        history: History,
        clock: Callable[[], int],
        symbols: Collection[str] | None = None,
        timeframes: Sequence[Timeframe] = CANDLE_TIMEFRAMES,
        cache: Cache | None = None,
    ) -> None:
        self._history = history
        self._clock = clock
        self._symbols = symbols
        self._timeframes = tuple(timeframes)
        self._cache = cache

    async def get_inference_data(
        self,
        symbol: str,
        timestamp: Moment | None = None,
        context_window_minutes: int = 5,
        timeframes: Sequence[str] | None = None,
        *,
        known_by: Moment | None = None,
        floor: Floor | None = None,
        limit: int = BARS,
        incomplete: bool = False,
        after: bool = False,
    ) -> InferenceDataFrame:
        """Return bars, indicators, book, imbalances and what surrounds a moment.

        Args:
            symbol: Exchange name.
            timestamp: The moment; None: now, from the cache as far as it goes.
            context_window_minutes: How far the context reaches back; 0: no context.
            timeframes: Names of timeframes; None: the provider's.
            known_by: Whose knowledge answers.
            floor: The least that the answer must be.
            limit: Bars of each timeframe.
            incomplete: Whether bars that lack something are wanted.
            after: Whether the context also reaches as far past the moment, for annotation; everything else does not.

        Raises:
            StaleData, IncompleteData, InsufficientHistory: The answer is below the floor.
        """
        minutes = context_window_minutes
        question = self._question(symbol, timestamp, known_by, timeframes, limit, incomplete, minutes, after)
        parts, cached = Parts(), self._cached(question)
        lacking = question.parts if cached is None else cached.add_bars(parts) + cached.add_rest(parts)
        if lacking:
            stored = await self._history.together(lambda history: StoredSide(history, question).parts(lacking))
            for name, rows in stored.frames.items():
                parts.add(name, rows, stored.sources[name])
                if not name.startswith(("context.", "seconds")):
                    parts.frames[name] = parts.frames[name].tail(1 if name == "book" else limit)
        made, absence = StoredSide(self._history, question), None if cached is None else cached.absence
        answer = answer_of(question, parts, await made.generated(parts), await made.empty(parts, absence))
        if floor is not None:
            floor.check(answer)
        return answer

    async def get_multi_timeframe_data(
        self,
        symbol: str,
        timeframes: Sequence[str] | None = None,
        timestamp: Moment | None = None,
        limit: int = BARS,
        *,
        known_by: Moment | None = None,
        incomplete: bool = False,
    ) -> dict[Timeframe, pl.DataFrame]:
        """Return the last `limit` bars of each timeframe that close by one moment, `CANDLE_SCHEMA`."""
        question = self._question(symbol, timestamp, known_by, timeframes, limit, incomplete)
        parts, cached = Parts(), self._cached(question)
        lacking = set(question.parts if cached is None else cached.add_bars(parts))
        short = [timeframe for timeframe in question.timeframes if f"ohlcv.{timeframe}" in lacking]
        if short:
            stored = await self._history.together(lambda history: StoredSide(history, question).bars(short))
            for timeframe, rows in stored.items():
                parts.add(f"ohlcv.{timeframe}", rows, "database")
        return {timeframe: parts.bars(timeframe).tail(limit) for timeframe in question.timeframes}

    async def get_order_book_data(
        self,
        symbol: str,
        timestamp: Moment | None = None,
        aggregation: Aggregation = "raw",
        limit: int = 60,
        *,
        known_by: Moment | None = None,
    ) -> OrderBookDataFrame:
        """Return the last `limit` books (`raw`), seconds (`1s`) or minutes (`1m`) of the book up to a moment.

        Books are read from the history, but for the newest one alone (`raw`, `limit` 1) of now.
        """
        question = self._question(symbol, timestamp, known_by, (), limit, False)
        if aggregation not in ("raw", "1s", "1m"):
            raise BadQuestion(f"books are not kept by {str(aggregation)[:20]!r}", "ask for raw, 1s or 1m")
        cached = self._cached(question)
        if cached is not None and (aggregation, limit) == ("raw", 1) and (book := cached.book()) is not None:
            return book
        at = {"as_of_ms": question.as_of_ms, "known_by_ms": question.known_by_ms}

        async def ask(history: History) -> tuple[pl.DataFrame, pl.DataFrame]:
            seconds = await history.query_orderbook_aggregated(symbol, "1s", question.seconds_ms, **at)
            if aggregation == "raw":
                return seconds, await history.query_orderbook_snapshots(symbol, limit=limit, **at)
            return seconds, await history.query_orderbook_aggregated(symbol, aggregation, limit=limit, **at)

        seconds, rows = await self._history.together(ask)
        imbalances = imbalances_at(seconds, question.as_of_ms)
        return OrderBookDataFrame(symbol, question.as_of_ms, question.known_by_ms, aggregation, rows, imbalances)

    def _question(
        self,
        symbol: str,
        timestamp: Moment | None,
        known_by: Moment | None,
        timeframes: Sequence[str] | None,
        limit: int,
        incomplete: bool,
        context_minutes: int = 0,
        after: bool = False,
    ) -> Question:
        if self._symbols is not None and symbol not in self._symbols:
            raise UnknownInstrument(f"{str(symbol)[:40]} is not provided", f"known: {', '.join(sorted(self._symbols))}")
        now_ms = self._clock()
        known = moment_ms(known_by, now_ms) if known_by is not None else None
        as_of = now_ms if timestamp is None else moment_ms(timestamp, now_ms)
        return Question(
            symbol=symbol,
            as_of_ms=as_of,
            known_by_ms=known,
            timeframes=self._timeframes if timeframes is None else tuple(dict.fromkeys(map(timeframe_of, timeframes))),
            limit=limit,
            incomplete=incomplete,
            live=timestamp is None and known is None,
            context_minutes=context_minutes,
            until_ms=min(as_of + context_minutes * MINUTE_MS, now_ms) if after else as_of,
        )

    def _cached(self, question: Question) -> CachedSide | None:
        return CachedSide(self._cache, question) if self._cache is not None and question.live else None
