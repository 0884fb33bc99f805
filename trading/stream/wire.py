"""Aggregate trades off a websocket frame; every frame that is not one is refused with the reason."""

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from trading.errors import TradingError
from trading.market.instrument import LARGEST, InexactNumber, Instrument
from trading.market.timeframe import MINUTE_MS
from trading.market.trade import AggTrade

MAX_AHEAD_MS: Final = 5 * MINUTE_MS
MILLISECONDS: Final = range(10**12, 10**13)


class BadFrame(TradingError):
    """A frame is no event that is understood; `reason` is a word to count it by."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"bad frame, {reason}: {detail}" if detail else f"bad frame, {reason}")
        self.reason = reason


class _Event(msgspec.Struct, gc=False):
    e: str = ""
    s: str = ""
    a: int = -1
    p: str = ""
    q: str = ""
    f: int = -1
    l: int = -1  # noqa: E741
    T: int = -1
    m: bool | None = None


class _Frame(msgspec.Struct, gc=False):
    stream: str = ""
    data: _Event | None = None
    result: Any = msgspec.UNSET
    error: Any = msgspec.UNSET


_FRAMES: Final = msgspec.json.Decoder(_Frame)
_PAGES: Final = msgspec.json.Decoder(list[_Event])


def decode(frame: str | bytes, instruments: Mapping[str, Instrument], newest_ms: int) -> tuple[str, AggTrade] | None:
    """Return (symbol, trade) of a combined-stream frame, or None for the answer to an accepted command.

    Args:
        frame: As received; text, or bytes of a text frame.
        instruments: Subscribed instruments by name.
        newest_ms: Newest exchange time seen; a trade far ahead of it is refused. Zero: none seen yet.

    Raises:
        BadFrame: The frame is no such event.
    """
    try:
        envelope = _FRAMES.decode(frame)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadFrame("not_json", str(error)[:120]) from None
    if envelope.data is None:
        if envelope.error is not msgspec.UNSET:
            raise BadFrame("command_refused", str(envelope.error)[:120])
        if envelope.result is msgspec.UNSET:
            raise BadFrame("no_event")
        return None
    event = envelope.data
    if event.e != "aggTrade":
        raise BadFrame("unknown_event", event.e[:40])
    if event.s not in instruments:
        raise BadFrame("unknown_symbol", event.s[:40])
    return event.s, _trade(event, instruments[event.s], newest_ms)


def far_ahead(time_ms: int, newest_ms: int) -> bool:
    """Return whether a trade lies so far ahead of the newest exchange time seen (zero: none yet) that it is refused."""
    return newest_ms != 0 and newest_ms + MAX_AHEAD_MS < time_ms


def decode_page(body: bytes, instrument: Instrument) -> list[AggTrade]:
    """Return the aggregate trades of a REST answer.

    Raises:
        BadFrame: The body is no such answer, or one of its trades is none.
    """
    try:
        page = _PAGES.decode(body)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadFrame("not_json", str(error)[:120]) from None
    return [_trade(event, instrument, 0) for event in page]


def _trade(event: _Event, instrument: Instrument, newest_ms: int) -> AggTrade:
    if not 0 <= event.a < LARGEST or not 0 <= event.f <= event.l < LARGEST or event.m is None:
        raise BadFrame("bad_ids", f"a={event.a} f={event.f} l={event.l}")
    if event.T not in MILLISECONDS:
        raise BadFrame("bad_time", f"T={event.T} is not in milliseconds")
    if far_ahead(event.T, newest_ms):
        raise BadFrame("future_time", f"T={event.T} after {newest_ms}")
    try:
        price, quantity = instrument.ticks(event.p), instrument.lots(event.q)
    except InexactNumber as error:
        raise BadFrame("bad_number", error.message) from None
    if price <= 0:
        raise BadFrame("bad_number", f"p={event.p}")
    return AggTrade(event.a, price, quantity, event.f, event.l, event.T, event.m)
