"""An event is one new fact of one symbol: a trade, a bar that closed, a book at the end of a second, a gap or its repair.

History and the live stream speak of facts in this one form. Events travel by the batch, as they came, in MessagePack.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
import polars as pl

from trading.errors import TradingError
from trading.indicators.columns import INDICATOR_SCHEMA
from trading.market.book import BOOK_SNAPSHOT_SCHEMA
from trading.market.candle import CANDLE_SCHEMA
from trading.market.timeframe import CANDLE_TIMEFRAMES, Timeframe
from trading.market.trade import TRADE_SCHEMA, AggTrade
from trading.provider.book_seconds import BOOK_1S_SCHEMA

_BARS: Final = tuple(CANDLE_SCHEMA)
_INDICATORS: Final = tuple(INDICATOR_SCHEMA)

FIELDS: Final[Mapping[str, Sequence[str]]] = {
    "trade": tuple(TRADE_SCHEMA),
    **{f"bar:{timeframe}": _BARS for timeframe in (Timeframe.S1, *CANDLE_TIMEFRAMES)},
    **{f"revision:{timeframe}": _BARS for timeframe in (Timeframe.S1, *CANDLE_TIMEFRAMES)},
    **{f"indicator:{timeframe}": _INDICATORS for timeframe in (Timeframe.M3, Timeframe.H4)},
    "book": tuple(BOOK_SNAPSHOT_SCHEMA),
    "book:1s": tuple(BOOK_1S_SCHEMA),
    "gap": ("first_id", "last_id"),
    "repair": ("first_id", "last_id", "waited_ms"),
    "missed": (),
}
"""Names of an event's values, by its kind."""

KINDS: Final = tuple(kind for kind in FIELDS if not kind.startswith("revision:") and kind != "missed")
"""What can be asked for. A bar that is made anew, as when missing trades came, is told as its `revision`; `missed` says that
some events of up to its moment could not be told, and is for whoever passes events on."""


class UnknownKind(TradingError):
    """Nobody tells events of such a kind."""


class LiveEvent(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One new fact.

    Attributes:
        kind: One of `FIELDS`.
        symbol: Exchange name.
        time_ms: Exchange time at which it was so: of a trade its moment, of a bar its close.
        id: Of a trade its aggregate trade id, of a bar its open time, of a book its moment, of a gap the first id.
        payload: Its values, in the order of `FIELDS`.
    """

    kind: str
    symbol: str
    time_ms: int
    id: int
    payload: tuple[Any, ...]

    def named(self) -> dict[str, Any]:
        """Return the event as names and values."""
        head = {"kind": self.kind, "symbol": self.symbol, "time_ms": self.time_ms, "id": self.id}
        return head | dict(zip(FIELDS[self.kind], self.payload, strict=True))


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(list[LiveEvent]).decode


def packed(events: Sequence[LiveEvent]) -> bytes:
    """Return events as bytes."""
    return _encode(events)


def unpacked(content: bytes) -> list[LiveEvent]:
    """Return the events of `packed`, but for those that another version of the program has told, which have other values."""
    return [event for event in _decode(content) if len(event.payload) == len(FIELDS.get(event.kind, ()))]


def trade_events(symbol: str, trades: Iterable[AggTrade]) -> list[LiveEvent]:
    """Return trades as events."""
    return [LiveEvent("trade", symbol, t.time_ms, t.agg_trade_id, msgspec.structs.astuple(t)) for t in trades]


def row_events(kind: str, symbol: str, frame: pl.DataFrame) -> list[LiveEvent]:
    """Return the rows of a frame as events of a kind; the frame has the columns of `FIELDS`."""
    length_ms, rows = _length_ms(kind), frame.select(FIELDS[kind]).rows()
    if kind == "trade":
        return [LiveEvent(kind, symbol, row[5], row[0], row) for row in rows]
    return [LiveEvent(kind, symbol, row[0] + length_ms, row[0], row) for row in rows]


def frame_of(events: Sequence[LiveEvent], schema: Mapping[str, Any]) -> pl.DataFrame:
    """Return events of one kind as a frame."""
    return pl.DataFrame([event.payload for event in events], schema=dict(schema), orient="row")


def require_kinds(kinds: Iterable[str]) -> tuple[str, ...]:
    """Return kinds that can be asked for, each once.

    Raises:
        UnknownKind: One is none.
    """
    wanted = tuple(dict.fromkeys(kinds))
    for kind in wanted:
        if kind not in KINDS:
            raise UnknownKind(f"{kind[:40]!r} is no kind of event", f"there are {', '.join(KINDS)}")
    return wanted


def _length_ms(kind: str) -> int:
    """Return how long after its id an event of a kind is over."""
    name, _, timeframe = kind.partition(":")
    return 0 if name == "trade" or not timeframe else Timeframe(timeframe).ms
