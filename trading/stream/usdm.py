"""Answers of Binance USDⓈ-M's REST interface about open interest, funding and mark prices; the rest is refused.

The streams of USDⓈ-M are read by `trading.stream.events`; which of their mark prices become rows is said here.
"""

from collections.abc import Sequence
from typing import Final

import msgspec

from trading.market.derivatives import AssetContext, Funding, OpenInterest
from trading.market.timeframe import MINUTE_MS, SECOND_MS
from trading.stream.events import MarkPrice
from trading.stream.fields import event_time, plain_number, read
from trading.stream.venue import above_zero, exact, not_negative, optional
from trading.stream.wire import BadFrame


class _Open(msgspec.Struct):
    symbol: str
    openInterest: str
    time: int


class _OpenThen(msgspec.Struct):
    symbol: str
    sumOpenInterest: str
    sumOpenInterestValue: str
    timestamp: int


class _Funding(msgspec.Struct):
    symbol: str
    fundingRate: str
    fundingTime: int
    markPrice: str | None = None


class _Premium(msgspec.Struct):
    symbol: str
    markPrice: str
    indexPrice: str
    time: int
    lastFundingRate: str = ""
    nextFundingTime: int = 0


_OPEN: Final = msgspec.json.Decoder(_Open)
_OPEN_THEN: Final = msgspec.json.Decoder(list[_OpenThen])
_FUNDINGS: Final = msgspec.json.Decoder(list[_Funding])
_PREMIUM: Final = msgspec.json.Decoder(_Premium)


def decode_open_interest(body: str | bytes, symbol: str) -> OpenInterest:
    """Return what an `openInterest` answer says is open now."""
    answer = read(_OPEN, body)
    _about(symbol, answer.symbol)
    return exact(lambda: OpenInterest(event_time(answer.time, 0), not_negative(answer.openInterest) or 0.0))


def decode_open_interest_history(body: str | bytes, symbol: str) -> list[OpenInterest]:
    """Return the entries of an `openInterestHist` answer, oldest first."""
    rows = read(_OPEN_THEN, body)
    _about(symbol, *(row.symbol for row in rows))

    def made(row: _OpenThen) -> OpenInterest:
        amount, value = not_negative(row.sumOpenInterest) or 0.0, not_negative(row.sumOpenInterestValue)
        return OpenInterest(event_time(row.timestamp, 0), amount, value)

    return exact(lambda: [made(row) for row in rows])


def decode_fundings(body: str | bytes, symbol: str) -> list[Funding]:
    """Return the entries of a `fundingRate` answer, oldest first; old ones have no mark price."""
    rows = read(_FUNDINGS, body)
    _about(symbol, *(row.symbol for row in rows))
    return exact(
        lambda: [
            Funding(event_time(row.fundingTime, 0), plain_number(row.fundingRate), above_zero(row.markPrice))
            for row in rows
        ]
    )


def decode_premium_index(body: str | bytes, symbol: str) -> AssetContext:
    """Return mark and index price of a `premiumIndex` answer, with the funding that comes next."""
    answer = read(_PREMIUM, body)
    _about(symbol, answer.symbol)
    # A contract with a delivery date has no funding, and says so by 0.
    funded = answer.nextFundingTime != 0
    return exact(
        lambda: AssetContext(
            event_time(answer.time, 0),
            funding_rate=optional(answer.lastFundingRate) if funded else None,
            next_funding_time_ms=event_time(answer.nextFundingTime, 0) if funded else None,
            mark_price=above_zero(answer.markPrice),
            index_price=above_zero(answer.indexPrice),
        )
    )


LATE_MS: Final = 5 * SECOND_MS
"""How late a mark price may come: the last of a minute is known when the minute is over for so long."""


def minute_marks(marks: Sequence[MarkPrice], now_ms: int) -> list[AssetContext]:
    """Return the last mark price of each minute that is over.

    Args:
        marks: In order of time, as they came every second; a minute without one has none.
        now_ms: The exchange's clock.
    """
    last = {mark.time_ms // MINUTE_MS: mark for mark in marks}
    return [
        AssetContext(
            time_ms=mark.time_ms,
            funding_rate=mark.funding_rate,
            next_funding_time_ms=mark.next_funding_time_ms,
            mark_price=mark.mark_price,
            index_price=mark.index_price,
        )
        for minute, mark in last.items()
        if (minute + 1) * MINUTE_MS + LATE_MS <= now_ms
    ]


def _about(symbol: str, *names: str) -> None:
    """Refuse an answer about another symbol."""
    for name in names:
        if name != symbol:
            raise BadFrame("unknown_symbol", f"{name[:40]} instead of {symbol}")
