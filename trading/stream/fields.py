"""Fields off the wire: JSON by type, names, ids, times and numbers, each refused with the word that counts it.

What every venue's decoder shares. Nothing here knows what a frame means.
"""

import re
from collections.abc import Mapping
from typing import Final, TypeVar

import msgspec

from trading.market.instrument import LARGEST, InexactNumber, Instrument
from trading.stream.wire import MAX_AHEAD_MS, MILLISECONDS, BadFrame

_DECIMAL: Final = re.compile(r"-?[0-9]{1,18}(\.[0-9]{1,18})?")
_Read = TypeVar("_Read")


def read(decoder: msgspec.json.Decoder[_Read], body: str | bytes) -> _Read:
    """Return JSON as the decoder's type; raises `BadFrame` `not_json`, `not_utf8`, `not_object` or `bad_field`."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        whole = "`$" not in str(error) and str(error).startswith("Expected `object`")
        raise BadFrame("not_object" if whole else "bad_field", str(error)[:120]) from None
    except UnicodeError as error:
        raise BadFrame("not_utf8", str(error)[:120]) from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadFrame("not_json", str(error)[:120]) from None


def subscribed(symbol: str, instruments: Mapping[str, Instrument]) -> Instrument:
    """Return the instrument of a name; raises `BadFrame` `unknown_symbol`."""
    if symbol not in instruments:
        raise BadFrame("unknown_symbol", symbol[:40])
    return instruments[symbol]


def check_ids(*ids: int) -> None:
    """Refuse ids that are negative, fall, or do not fit 64 bits, as `bad_ids`."""
    if list(ids) != sorted(ids) or ids[0] < 0 or ids[-1] >= LARGEST:
        raise BadFrame("bad_ids", ", ".join(str(number)[:24] for number in ids))


def event_time(time_ms: int, newest_ms: int) -> int:
    """Return a time (ms); raises `BadFrame` `bad_time`, or `future_time` far ahead of `newest_ms` (0: none seen yet)."""
    if time_ms not in MILLISECONDS:
        raise BadFrame("bad_time", f"{str(time_ms)[:24]} is not in milliseconds")
    if newest_ms and newest_ms + MAX_AHEAD_MS < time_ms:
        raise BadFrame("future_time", f"{time_ms} after {newest_ms}")
    return time_ms


def price_ticks(text: str, instrument: Instrument) -> int:
    """Return a price above zero as ticks; raises `InexactNumber`."""
    ticks = instrument.ticks(text)
    if ticks <= 0:
        raise InexactNumber(f"{instrument.name}: the price {text[:40]!r} is not above zero")
    return ticks


def plain_number(text: str) -> float:
    """Return the float nearest to a plain decimal number, as finer than any tick; raises `InexactNumber`."""
    if not _DECIMAL.fullmatch(text):
        raise InexactNumber(f"{text[:40]!r} is not a plain decimal number")
    return float(text)
