"""What the decoders of Bybit and Hyperliquid share: numbers that may be absent, and candles on their grid."""

from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from trading.market.instrument import LARGEST, InexactNumber, Instrument
from trading.market.timeframe import DAY_MS, HOUR_MS, MINUTE_MS
from trading.stream.events import Kline
from trading.stream.fields import event_time, plain_number, price_ticks
from trading.stream.wire import BadFrame

LENGTHS: Final[Mapping[str, int]] = {
    **{f"{n}m": n * MINUTE_MS for n in (1, 3, 5, 15, 30)},
    **{f"{n}h": n * HOUR_MS for n in (1, 2, 4, 6, 8, 12)},
    "1d": DAY_MS,
    "3d": 3 * DAY_MS,
}
"""Length of a candle by its interval; weeks and months are left out, as their edges are the venue's own."""

_Made = TypeVar("_Made")


def exact(make: Callable[[], _Made]) -> _Made:
    """Return what `make` reads; a number that is inexact is a `BadFrame` `bad_number`."""
    try:
        return make()
    except InexactNumber as error:
        raise BadFrame("bad_number", error.message) from None


def optional(text: str | None) -> float | None:
    """Return a number that may be absent or empty; raises `InexactNumber`."""
    return plain_number(text) if text else None


def above_zero(text: str | None) -> float | None:
    """Return a price that may be absent or empty; raises `InexactNumber`."""
    number = optional(text)
    if number is not None and number <= 0:
        raise InexactNumber(f"the price {text!r} is not above zero")
    return number


def not_negative(text: str | None) -> float | None:
    """Return an amount that may be absent or empty; raises `InexactNumber`."""
    number = optional(text)
    if number is not None and number < 0:
        raise InexactNumber(f"the amount {text!r} is below zero")
    return number


def candle(
    instrument: Instrument,
    interval: str,
    open_time_ms: int,
    prices: tuple[str, str, str, str],
    volume: str,
    trades: int | None,
    closed: bool,
    newest_ms: int,
) -> Kline:
    """Return a candle of a venue: open, high, low, close in that order.

    Raises:
        BadFrame: The interval is unknown (`bad_interval`), the times or numbers do not fit together (`bad_candle`).
        InexactNumber: A number is no multiple of its step.
    """
    if interval not in LENGTHS:
        raise BadFrame("bad_interval", interval[:20])
    length = LENGTHS[interval]
    event_time(open_time_ms, newest_ms)
    first, high, low, last = (price_ticks(text, instrument) for text in prices)
    lots = instrument.lots(volume)
    in_order = low <= min(first, last) and max(first, last) <= high
    if open_time_ms % length or not in_order or (trades is not None and not 0 <= trades < LARGEST):
        raise BadFrame("bad_candle", f"{interval} at {open_time_ms}: {' '.join(prices)}"[:200])
    close_time_ms = open_time_ms + length - 1
    return Kline(interval, open_time_ms, close_time_ms, first, high, low, last, lots, None, trades, closed)
