"""Aggregate trades off many frames at once, read by compiled code.

It knows one form of a frame, the one that the exchange writes: no space, no sign, no escape, no number of more than 18
digits. An event's fields may come in any order, and other plain ones between them. Every other frame is left to
`trading.stream.wire.decode`, which alone says what is right and what is refused, and which is faster for a few.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from numba import njit

from trading.market.instrument import Instrument
from trading.market.trade import AggTrade
from trading.stream.batch import Bytes, Integers, Number
from trading.stream.wire import MILLISECONDS

_MOST_DIGITS: Final = 18
"""Whatever has no more is smaller than `trading.market.instrument.LARGEST`."""

_QUOTE, _POINT, _COMMA, _COLON, _BACKSLASH, _BRACE, _ZERO = (np.uint8(ord(sign)) for sign in '".,:\\}0')
_TRUE, _FALSE = (int.from_bytes(text, "big") for text in (b"true", b"false"))
_TENS: Final = 10 ** np.arange(_MOST_DIGITS + 1)
_FIELDS: Final = b"apqflTmse"
"""Keys of what is needed: a trade's fields in their order, the symbol, the kind of event."""

_OTHER: Final = len(_FIELDS)
_PRICE, _QUANTITY, _FIRST, _LAST, _TIME, _MAKER, _SYMBOL, _EVENT = range(1, _OTHER)
_FIELD_OF: Final = np.array([_FIELDS.find(key) % (_OTHER + 1) for key in range(256)])
_AT_FIRST: Final = 1 << _EVENT | 1 << _OTHER
_ALL: Final = (2 << _OTHER) - 1
_EARLIEST_MS, _LATEST_MS = MILLISECONDS[0], MILLISECONDS[-1]


@njit(cache=True)
def _units(digits: Number, length: Number, point: Number, decimals: Number) -> Number:
    """Return a decimal as units of 10 to the power of minus `decimals`, or -1.

    Args:
        digits: All of its digits as one number.
        length: How many characters it has.
        point: After how many the point comes, or -1.
        decimals: Of a unit.
    """
    whole = length if point < 0 else point
    places = length - whole - (point >= 0)
    if whole < 1 or (point >= 0 and places < 1) or whole + max(places, decimals) > _MOST_DIGITS:
        return -1
    if places <= decimals:
        return digits * _TENS[decimals - places]
    step = _TENS[places - decimals]
    return digits // step if digits % step == 0 else -1


@njit(cache=True)
def _meant(
    field: Number, quoted: bool, digits: Number, letters: Number, length: Number, point: Number, decimals: Number
) -> Number:
    """Return the number that a field's value stands for, or -1 where it is none or unusual; 0 where none is needed."""
    if field == _PRICE or field == _QUANTITY:  # noqa: SIM109
        return _units(digits, length, point, decimals) if quoted and letters == 0 else -1
    if quoted:
        return 0 if field in (_SYMBOL, _OTHER) else -1
    if (length == 4 and letters == _TRUE) or (length == 5 and letters == _FALSE):
        return np.int64(length == 4) if field in (_MAKER, _OTHER) else -1
    usual = letters == 0 and point < 0 and 0 < length <= _MOST_DIGITS and (length == 1 or digits >= _TENS[length - 1])
    return digits if usual and field not in (_MAKER, _SYMBOL) else -1


# Arrays that are handed on are counted, which takes longer than to read a number: each of these reads all frames.


@njit(cache=True)
def _heads(
    content: Bytes, ends: Integers, texts: Bytes, edges: Integers, market_of: Integers, events: Integers
) -> None:
    """Find each frame's market, -1 where it is of none, and the place where its event goes on."""
    market, start, markets = 0, 0, len(edges) // 2
    for row in range(len(ends)):
        end = ends[row]
        market_of[row] = -1
        for _ in range(markets):
            lo, hi = edges[2 * market], edges[2 * market + 1]
            event = start + hi - lo
            unlike = event + 2 > end or content[end - 1] != _BRACE or content[end - 2] != _BRACE
            for index in range(0 if unlike else hi - lo):  # without a way out it becomes vector instructions
                unlike |= content[np.uint64(start + index)] != texts[np.uint64(lo + index)]
            if not unlike:
                market_of[row], events[row] = market, event
                break
            market = (market + 1) % markets
        start = end


@njit(cache=True)
def _events(
    content: Bytes,
    ends: Integers,
    events: Integers,
    texts: Bytes,
    edges: Integers,
    decimals: Integers,
    market_of: Integers,
    values: Integers,
) -> None:
    """Read each event into a column of `values`; the market of one that is written in an unusual way becomes -1."""
    for row in range(len(ends)):
        market, place, stop, seen = market_of[row], events[row], ends[row] - 2, _AT_FIRST
        while market >= 0 and place < stop:
            key = place = place + 1
            while np.uint8((content[np.uint64(place)] | 32) - 97) < 26:  # letters; a brace ends them
                place += 1
            if content[key - 1] != _QUOTE or content[place] != _QUOTE or content[place + 1] != _COLON:
                break
            field = _FIELD_OF[content[key]] if place == key + 1 else _OTHER
            quoted = content[place + 2] == _QUOTE
            closing = _QUOTE if quoted else _COMMA
            first = place = place + 2 + quoted
            digits, letters, point, unusual = 0, 0, -1, False
            while True:
                sign = content[np.uint64(place)]  # a place without a sign cannot count from the end
                digit = np.uint8(sign - _ZERO)
                if digit < 10:
                    digits = digits * 10 + np.int64(digit)
                elif sign == closing or place == stop:
                    break
                elif sign == _POINT and point < 0:
                    point = place - first
                else:
                    letters = letters << 8 | np.int64(sign)
                    unusual |= sign < 32 or sign > 126 or sign == _BACKSLASH
                place += 1
            length = place - first
            step = decimals[market, 1 if field == _QUANTITY else 0]
            value = _meant(field, quoted, digits, letters, length, point, step)
            if field == _SYMBOL:
                lo, hi = edges[2 * market + 1], edges[2 * market + 2]
                unusual = length != hi - lo
                for index in range(0 if unusual else length):
                    unusual |= content[np.uint64(first + index)] != texts[np.uint64(lo + index)]
            place += quoted
            goes_on = place <= stop and content[place] == (_COMMA if place < stop else _BRACE)
            if unusual or value < 0 or not goes_on or (field != _OTHER and seen >> field & 1):
                market = -1
            values[field, row], seen, place = value, seen | 1 << field, place + 1
        whole = place > stop and seen == _ALL and values[_PRICE, row] > 0
        ordered = values[_FIRST, row] <= values[_LAST, row] and _EARLIEST_MS <= values[_TIME, row] <= _LATEST_MS
        market_of[row] = market if whole and ordered else -1


class Scanner:
    """Reads the frames of some markets.

    Args:
        instruments: Subscribed instruments by name.
    """

    def __init__(self, instruments: Mapping[str, Instrument]) -> None:
        self._names = np.array([*instruments, None], object)
        texts = list[bytes]()
        for name in instruments:
            stream, symbol = msgspec.json.encode(f"{name.lower()}@aggTrade"), msgspec.json.encode(name)
            texts += [b'{"stream":%b,"data":{"e":"aggTrade",' % stream, symbol[1:-1]]
        self._texts = np.frombuffer(b"".join(texts), np.uint8)
        self._edges = np.cumsum([0, *map(len, texts)])
        steps = [(one.price_decimals, one.quantity_decimals) for one in instruments.values()]
        self._decimals = np.array(steps, np.int64).reshape(-1, 2)
        self.compiled = False

    def compile(self) -> None:
        """Load the compiled code, or compile it where that was never done; may run on another thread."""
        next(self.read([b"{}"]))
        self.compiled = True

    def read(self, frames: Sequence[bytes]) -> Iterator[tuple[str | None, AggTrade]]:
        """Return an iterator over (symbol, trade) of each frame; where the symbol is None, `decode` is to read the frame.

        A trade is right in itself; whether its time lies ahead of the exchange's clock is not looked at.
        """
        content = np.frombuffer(b"".join(frames), np.uint8)
        ends = np.cumsum(np.fromiter(map(len, frames), np.int64, len(frames)))
        market_of, events = np.empty((2, len(frames)), np.int64)
        values = np.empty((_OTHER + 1, len(frames)), np.int64)
        _heads(content, ends, self._texts, self._edges, market_of, events)
        _events(content, ends, events, self._texts, self._edges, self._decimals, market_of, values)
        symbols = self._names[market_of].tolist()
        return zip(symbols, map(AggTrade, *values[:_MAKER].tolist(), (values[_MAKER] != 0).tolist()), strict=True)
