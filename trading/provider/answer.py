"""An answer is put together of its parts, and says of each how old and how complete it is."""

from collections.abc import Mapping

import polars as pl

from trading.market.timeframe import SECOND_MS, Timeframe
from trading.provider.book_seconds import imbalances_at
from trading.provider.frames import Completeness, InferenceDataFrame, OrderBookDataFrame
from trading.provider.parts import Parts, before, since, whole_since
from trading.provider.question import Question


def answer_of(
    question: Question,
    parts: Parts,
    generated: Mapping[Timeframe, tuple[int, ...]],
    empty: Mapping[Timeframe, tuple[int, ...]],
) -> InferenceDataFrame:
    """Return the answer to a question.

    Args:
        question: What was asked.
        parts: What was found.
        generated: Open times of the bars that were made for this answer.
        empty: Open times of the absent bars of the window that are proven to hold no trade.
    """
    frames, sources = dict(parts.frames), dict(parts.sources)
    seconds, book = frames.pop("seconds"), frames.pop("book")
    imbalances = imbalances_at(seconds, question.as_of_ms)
    sources["imbalances"] = sources.pop("seconds")
    if question.context_minutes:
        frames["context.book_1s"] = since(seconds, question.context_ms)
        sources["context.book_1s"] = sources["imbalances"]
    groups: dict[str, dict[str, pl.DataFrame]] = {"ohlcv": {}, "indicators": {}, "context": {}}
    for name, frame in frames.items():
        group, _, key = name.partition(".")
        groups[group][key] = frame
    ohlcv = {timeframe: groups["ohlcv"][timeframe.value] for timeframe in question.timeframes}
    indicators = {Timeframe(name): rows for name, rows in groups["indicators"].items()}
    freshness = {f"ohlcv.{timeframe}": question.age_ms(rows, timeframe.ms) for timeframe, rows in ohlcv.items()}
    freshness |= {f"indicators.{t}": question.age_ms(rows, t.ms) for t, rows in indicators.items()}
    freshness["book"] = question.age_ms(book, 0)
    freshness["imbalances"] = question.age_ms(before(seconds, question.as_of_ms - SECOND_MS + 1), SECOND_MS)
    return InferenceDataFrame(
        symbol=question.symbol,
        as_of_ms=question.as_of_ms,
        known_by_ms=question.known_by_ms,
        ohlcv=ohlcv,
        indicators=indicators,
        book=None
        if book.is_empty()
        else OrderBookDataFrame(question.symbol, question.as_of_ms, question.known_by_ms, "raw", book, imbalances),
        imbalances=imbalances,
        context=groups["context"],
        sources=sources,
        freshness=freshness,
        completeness={
            timeframe: Completeness(
                question.limit - len(empty.get(timeframe, ())),
                len(whole_since(rows, question.window(timeframe)[0])),
                generated.get(timeframe, ()),
            )
            for timeframe, rows in ohlcv.items()
        },
    )
