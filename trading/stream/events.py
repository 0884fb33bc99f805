"""Events of Binance streams off a websocket frame, spot and USDⓈ-M; a frame that is none is refused with the reason.

A frame is a bare event or a combined-stream envelope around one. Fields that are not named here pass, so a field that
the exchange adds breaks nothing. Aggregate trades are read by `trading.stream.wire`; whether ids follow one another is
judged by `trading.stream.contiguity` and `trading.stream.book_sync`.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from trading.market.instrument import LARGEST, InexactNumber, Instrument
from trading.market.trade import AggTrade
from trading.stream.fields import check_ids, event_time, plain_number, price_ticks, read, subscribed
from trading.stream.levels import read_levels
from trading.stream.wire import BadFrame, decode

IGNORED: Final = frozenset({"forceOrder"})
"""Events that are known and not wanted: liquidation orders arrive at most one a second and are no record of all."""


class DepthDiff(msgspec.Struct, frozen=True, eq=False):
    """The levels of a book that changed, each with its new quantity.

    Attributes:
        time_ms: Exchange time of the event.
        first_update_id: First change it sums (`U`).
        last_update_id: Last change it sums (`u`).
        previous_update_id: `last_update_id` of the diff before (`pu`); futures only.
        bids: Ticks and lots, shape (n, 2); a quantity of 0 removes the level.
        asks: Likewise.
    """

    time_ms: int
    first_update_id: int
    last_update_id: int
    previous_update_id: int | None
    bids: NDArray[np.int64]
    asks: NDArray[np.int64]


class DepthSnapshot(msgspec.Struct, frozen=True, eq=False):
    """A book as the exchange's REST interface gives it, down to some depth.

    Attributes:
        last_update_id: The last change in it.
        time_ms: Exchange time; None on spot, which does not say.
        bids: Ticks and lots, shape (n, 2).
        asks: Likewise.
    """

    last_update_id: int
    time_ms: int | None
    bids: NDArray[np.int64]
    asks: NDArray[np.int64]


class BookTicker(msgspec.Struct, frozen=True):
    """The best bid and ask after one change of the book, in ticks and lots; spot does not say when."""

    update_id: int
    time_ms: int | None
    bid_price: int
    bid_quantity: int
    ask_price: int
    ask_quantity: int


class Trade(msgspec.Struct, frozen=True):
    """One fill, in ticks and lots.

    Attributes:
        order_type: As futures write it (`MARKET`, `INSURANCE_FUND`, …), whatever it is; empty on spot.
    """

    trade_id: int
    price: int
    quantity: int
    time_ms: int
    buyer_is_maker: bool
    order_type: str


class Kline(msgspec.Struct, frozen=True):
    """A candle as the exchange computes it, to check ours against; final only when `closed`.

    Prices are ticks, volumes lots. The close time is the last millisecond that belongs to the candle. What a venue does
    not count is None.
    """

    interval: str
    open_time_ms: int
    close_time_ms: int
    open: int
    high: int
    low: int
    close: int
    volume: int
    taker_buy_volume: int | None
    trades: int | None
    closed: bool


class MarkPrice(msgspec.Struct, frozen=True, array_like=True):
    """Mark and index price of a perpetual or delivery contract.

    Both are finer than a tick and therefore floats. A delivery contract has no funding rate and no funding time.
    """

    time_ms: int
    mark_price: float
    index_price: float
    funding_rate: float | None
    next_funding_time_ms: int | None


class ServerShutdown(msgspec.Struct, frozen=True):
    """The exchange will close this connection soon."""

    time_ms: int


Event = AggTrade | DepthDiff | BookTicker | Trade | Kline | MarkPrice


class _Envelope(msgspec.Struct):
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    e: str = ""
    B: Any = msgspec.UNSET
    result: Any = msgspec.UNSET
    error: Any = msgspec.UNSET
    code: Any = msgspec.UNSET


class _Depth(msgspec.Struct):
    E: int
    s: str
    U: int
    u: int
    b: list[tuple[str, str]]
    a: list[tuple[str, str]]
    pu: int | None = None


class _BookTicker(msgspec.Struct):
    s: str
    u: int
    b: str
    B: str
    a: str
    A: str
    E: int | None = None


class _Trade(msgspec.Struct):
    s: str
    t: int
    p: str
    q: str
    T: int
    m: bool
    X: str = ""


class _Candle(msgspec.Struct):
    t: int
    T: int
    i: str
    o: str
    h: str
    l: str  # noqa: E741
    c: str
    v: str
    V: str
    n: int
    x: bool


class _Kline(msgspec.Struct):
    E: int
    s: str
    k: _Candle


class _MarkPrice(msgspec.Struct):
    E: int
    s: str
    p: str
    i: str
    r: str
    T: int


class _Shutdown(msgspec.Struct):
    E: int


class _Snapshot(msgspec.Struct):
    lastUpdateId: int
    bids: list[tuple[str, str]]
    asks: list[tuple[str, str]]
    E: int | None = None


_ENVELOPES: Final = msgspec.json.Decoder(_Envelope)
_DEPTHS: Final = msgspec.json.Decoder(_Depth)
_BOOK_TICKERS: Final = msgspec.json.Decoder(_BookTicker)
_TRADES: Final = msgspec.json.Decoder(_Trade)
_KLINES: Final = msgspec.json.Decoder(_Kline)
_MARK_PRICES: Final = msgspec.json.Decoder(_MarkPrice)
_SHUTDOWNS: Final = msgspec.json.Decoder(_Shutdown)
_SNAPSHOTS: Final = msgspec.json.Decoder(_Snapshot)


def decode_event(
    frame: str | bytes, instruments: Mapping[str, Instrument], newest_ms: int
) -> tuple[str, Event] | ServerShutdown | None:
    """Return (symbol, event) of a frame, or None for an event of `IGNORED` and the answer to an accepted command.

    Args:
        frame: As received; text, or bytes of a text frame.
        instruments: Subscribed instruments by name.
        newest_ms: Newest exchange time seen; an event far ahead of it is refused. Zero: none seen yet.

    Raises:
        BadFrame: The frame is no event that is understood, or the refusal of a command. Reasons: `not_json`,
            `not_utf8`, `not_object`, `no_event`, `unknown_event`, `unknown_symbol`, `bad_field`, `bad_ids`, `bad_time`,
            `future_time`, `bad_number`, `bad_candle`, `command_refused`; those of an aggregate trade are `decode`'s.
    """
    envelope = read(_ENVELOPES, frame)
    combined = isinstance(envelope.data, msgspec.Raw)
    body = bytes(envelope.data) if isinstance(envelope.data, msgspec.Raw) else frame
    event = read(_ENVELOPES, body) if combined else envelope
    # Spot sends the best bid and ask without a name.
    name = event.e or ("" if event.B is msgspec.UNSET else "bookTicker")
    if not name:
        return _answer(envelope)
    if name in IGNORED:
        return None
    if name == "serverShutdown":
        return ServerShutdown(event_time(read(_SHUTDOWNS, body).E, 0))
    if name == "aggTrade":
        return decode(frame if combined else _combined(frame), instruments, newest_ms)
    reader = _READERS.get(name)
    if reader is None:
        raise BadFrame("unknown_event", name[:40])
    try:
        return reader(body, instruments, newest_ms)
    except InexactNumber as error:
        raise BadFrame("bad_number", error.message) from None


def decode_depth_snapshot(body: str | bytes, instrument: Instrument) -> DepthSnapshot:
    """Return the book of a REST answer.

    Raises:
        BadFrame: The body is no such answer.
    """
    answer = read(_SNAPSHOTS, body)
    check_ids(answer.lastUpdateId)
    try:
        bids, asks = read_levels(answer.bids, instrument), read_levels(answer.asks, instrument)
    except InexactNumber as error:
        raise BadFrame("bad_number", error.message) from None
    return DepthSnapshot(answer.lastUpdateId, None if answer.E is None else event_time(answer.E, 0), bids, asks)


def _answer(envelope: _Envelope) -> None:
    """Tell the answer to a command from a frame without meaning."""
    for refusal in (envelope.error, envelope.code):
        if refusal is not msgspec.UNSET:
            raise BadFrame("command_refused", str(refusal)[:120])
    if envelope.result is msgspec.UNSET:
        raise BadFrame("no_event")


def _depth(body: str | bytes, instruments: Mapping[str, Instrument], newest_ms: int) -> tuple[str, DepthDiff]:
    event = read(_DEPTHS, body)
    instrument = subscribed(event.s, instruments)
    check_ids(event.U, event.u)
    if event.pu is not None:
        check_ids(event.pu, event.u)
    time_ms = event_time(event.E, newest_ms)
    # Both sides at once: what a call costs before its first level is half of a usual diff.
    levels, bids = read_levels(event.b + event.a, instrument), len(event.b)
    return event.s, DepthDiff(time_ms, event.U, event.u, event.pu, levels[:bids], levels[bids:])


def _book_ticker(body: str | bytes, instruments: Mapping[str, Instrument], newest_ms: int) -> tuple[str, BookTicker]:
    event = read(_BOOK_TICKERS, body)
    instrument = subscribed(event.s, instruments)
    check_ids(event.u)
    time_ms = None if event.E is None else event_time(event.E, newest_ms)
    best: list[list[int]] = read_levels([(event.b, event.B), (event.a, event.A)], instrument).tolist()
    return event.s, BookTicker(event.u, time_ms, *best[0], *best[1])


def _trade(body: str | bytes, instruments: Mapping[str, Instrument], newest_ms: int) -> tuple[str, Trade]:
    event = read(_TRADES, body)
    instrument = subscribed(event.s, instruments)
    check_ids(event.t)
    time_ms = event_time(event.T, newest_ms)
    price, quantity = price_ticks(event.p, instrument), instrument.lots(event.q)
    return event.s, Trade(event.t, price, quantity, time_ms, event.m, event.X)


def _kline(body: str | bytes, instruments: Mapping[str, Instrument], newest_ms: int) -> tuple[str, Kline]:
    event = read(_KLINES, body)
    instrument, candle = subscribed(event.s, instruments), event.k
    event_time(event.E, newest_ms)
    opened_ms, closes_ms = event_time(candle.t, newest_ms), event_time(candle.T, 0)
    first, high, low, last = (price_ticks(text, instrument) for text in (candle.o, candle.h, candle.l, candle.c))
    volume, bought = instrument.lots(candle.v), instrument.lots(candle.V)
    in_order = opened_ms <= closes_ms and low <= min(first, last) and max(first, last) <= high
    if not in_order or bought > volume or not 0 <= candle.n < LARGEST:
        raise BadFrame("bad_candle", msgspec.json.encode(candle).decode()[:200])
    return event.s, Kline(candle.i, opened_ms, closes_ms, first, high, low, last, volume, bought, candle.n, candle.x)


def _mark_price(body: str | bytes, instruments: Mapping[str, Instrument], newest_ms: int) -> tuple[str, MarkPrice]:
    event = read(_MARK_PRICES, body)
    subscribed(event.s, instruments)
    time_ms = event_time(event.E, newest_ms)
    mark, index = plain_number(event.p), plain_number(event.i)
    if mark <= 0 or index <= 0:
        raise BadFrame("bad_number", f"p={event.p} i={event.i}")
    funding = plain_number(event.r) if event.r else None
    return event.s, MarkPrice(time_ms, mark, index, funding, event_time(event.T, 0) if event.T else None)


_READERS: Final[Mapping[str, Callable[[str | bytes, Mapping[str, Instrument], int], tuple[str, Event]]]] = {
    "depthUpdate": _depth,
    "bookTicker": _book_ticker,
    "trade": _trade,
    "kline": _kline,
    "markPriceUpdate": _mark_price,
}


def _combined(frame: str | bytes) -> str | bytes:
    return f'{{"data":{frame}}}' if isinstance(frame, str) else b'{"data":' + frame + b"}"
