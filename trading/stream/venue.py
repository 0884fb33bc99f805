"""What Bybit and Hyperliquid share: what a frame may hold, numbers that may be absent, candles on their grid.

A `Dialect` is what a connection to either of them must know of it.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Final, TypeVar

import msgspec

from trading.market.derivatives import AssetContext
from trading.market.identified import IdentifiedTrade
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

Event = IdentifiedTrade | Kline | AssetContext
Named = list[tuple[str, Event]]
"""Events, each with the name of its market."""

_Made = TypeVar("_Made")


class Dialect(msgspec.Struct, frozen=True):
    """How a venue is spoken to on a socket, and how its frames are read.

    Attributes:
        decode: The venue's `decode_event`.
        subscribe: Returns the messages that ask for trades, one-minute candles and asset contexts of some markets.
        ping: The message that keeps a connection open; the venue answers it with a message.
        ping_s: Seconds from one to the next.
        trades_of: Returns which of some markets may have trades in a frame that was refused.
    """

    decode: Callable[[str | bytes, Mapping[str, Instrument], int], Named | None]
    subscribe: Callable[[Sequence[str]], list[str]]
    ping: str
    ping_s: float
    trades_of: Callable[[str | bytes, Collection[str]], set[str]]


def content(data: msgspec.Raw | msgspec.UnsetType) -> bytes:
    """Return what an envelope carries; raises `BadFrame` `bad_field` where it is empty."""
    if not isinstance(data, msgspec.Raw):
        raise BadFrame("bad_field", "data is missing")
    return bytes(data)


def about(name: str, names: Iterable[str]) -> None:
    """Refuse an answer in which another name stands than the one asked for, as `unknown_symbol`."""
    if others := [other for other in names if other != name]:
        raise BadFrame("unknown_symbol", f"asked for {name}, answered {others[0][:40]}")


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


def ending(bar: Kline, close_time_ms: int) -> Kline:
    """Return a candle that ends where the venue says; raises `BadFrame` `bad_candle` for another."""
    if bar.close_time_ms != close_time_ms:
        raise BadFrame("bad_candle", f"{bar.interval} from {bar.open_time_ms} to {close_time_ms}")
    return bar


def closed_by(bar: Kline, now_ms: int) -> Kline:
    """Return a candle that is closed when it ends before a moment (ms)."""
    return msgspec.structs.replace(bar, closed=bar.close_time_ms < now_ms)
