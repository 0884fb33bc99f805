"""Events of Bybit v5 off a websocket frame and answers of its REST interface; the rest is refused with the reason.

A trade's id is a text without order, so trades are `IdentifiedTrade`s: what is between two of them cannot be proven. Of
a perpetual's ticker the stream sends one whole state and then only what changed. Lists of the REST interface begin with
the newest entry; here all begin with the oldest.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import msgspec

from trading.market.derivatives import AssetContext, Funding, OpenInterest
from trading.market.identified import IdentifiedTrade
from trading.market.instrument import Instrument
from trading.stream.events import Kline
from trading.stream.fields import event_time, plain_number, price_ticks, read, subscribed
from trading.stream.venue import (
    Dialect,
    Named,
    about,
    above_zero,
    candle,
    closed_by,
    content,
    ending,
    exact,
    not_negative,
    optional,
)
from trading.stream.wire import BadFrame

INTERVALS: Final = {
    **{str(n): f"{n}m" for n in (1, 3, 5, 15, 30)},
    **{str(n * 60): f"{n}h" for n in (1, 2, 4, 6, 12)},
    "D": "1d",
}
"""Our name of an interval by Bybit's."""

TOO_MANY_VISITS: Final = 10006
QUANTITY_STEPS: Final = {"linear": "qtyStep", "inverse": "qtyStep", "spot": "basePrecision"}
"""Where a category writes the step of a quantity."""


class BybitRefused(BadFrame):
    """An answer whose `retCode` is not 0.

    Attributes:
        code: Bybit's code.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__("refused", f"{message[:120]} ({code})")
        self.code = code


class _Envelope(msgspec.Struct):
    topic: str = ""
    type: str = ""
    ts: int = 0
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    op: str = ""
    success: bool | None = None
    ret_msg: str = ""


class _Trade(msgspec.Struct):
    T: int
    s: str
    S: str
    v: str
    p: str
    i: str
    BT: bool = False


class _Candle(msgspec.Struct):
    start: int
    end: int
    interval: str
    open: str
    high: str
    low: str
    close: str
    volume: str
    confirm: bool


class _Ticker(msgspec.Struct):
    symbol: str
    openInterest: str | None = None
    openInterestValue: str | None = None
    fundingRate: str | None = None
    fundingIntervalHour: str | None = None
    nextFundingTime: str | None = None
    markPrice: str | None = None
    indexPrice: str | None = None


class _Listed(msgspec.Struct):
    execId: str
    symbol: str
    price: str
    size: str
    side: str
    time: str
    isBlockTrade: bool = False


class _Open(msgspec.Struct):
    openInterest: str
    timestamp: str


class _Funding(msgspec.Struct):
    symbol: str
    fundingRate: str
    fundingRateTimestamp: str


class _PriceFilter(msgspec.Struct):
    tickSize: str


class _LotSizeFilter(msgspec.Struct):
    qtyStep: str = ""
    basePrecision: str = ""


class _Instrument(msgspec.Struct):
    symbol: str
    baseCoin: str
    quoteCoin: str
    priceFilter: _PriceFilter
    lotSizeFilter: _LotSizeFilter


class _Result(msgspec.Struct):
    list: msgspec.Raw
    symbol: str = ""


class _Answer(msgspec.Struct):
    retCode: int
    retMsg: str = ""
    result: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    time: int = 0


_STEP: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,18})?")
_ENVELOPES: Final = msgspec.json.Decoder(_Envelope)
_TRADES: Final = msgspec.json.Decoder(list[_Trade])
_CANDLES: Final = msgspec.json.Decoder(list[_Candle])
_TICKERS: Final = msgspec.json.Decoder(_Ticker)
_ANSWERS: Final = msgspec.json.Decoder(_Answer)
_RESULTS: Final = msgspec.json.Decoder(_Result)
_LISTED: Final = msgspec.json.Decoder(list[_Listed])
_INSTRUMENTS: Final = msgspec.json.Decoder(list[_Instrument])
_OPEN: Final = msgspec.json.Decoder(list[_Open])
_FUNDINGS: Final = msgspec.json.Decoder(list[_Funding])
_KLINES: Final = msgspec.json.Decoder(list[tuple[str, str, str, str, str, str, str]])


def decode_event(frame: str | bytes, instruments: Mapping[str, Instrument], newest_ms: int) -> Named | None:
    """Return (symbol, event) of each event of a frame, or None for a pong and the answer to an accepted command.

    A frame is taken whole or not at all. Arguments are those of `trading.stream.events.decode_event`.

    Raises:
        BadFrame: As there, and for `bad_side` and `bad_interval`.
    """
    envelope = read(_ENVELOPES, frame)
    if not envelope.topic:
        if envelope.success is False:
            raise BadFrame("command_refused", envelope.ret_msg[:120])
        if not envelope.op:
            raise BadFrame("no_event")
        return None
    name, symbol = _subject(envelope.topic)
    reader = _READERS.get(name)
    if reader is None:
        raise BadFrame("unknown_event", name[:40])
    # A candle does not name its symbol, the other events repeat it.
    return exact(lambda: reader(envelope, symbol, instruments, newest_ms))


def subscribe(symbols: Sequence[str]) -> list[str]:
    """Return the messages that ask for trades, one-minute candles and asset contexts."""
    # One message a symbol, as the spot market takes ten topics in one at most.
    topics = ([f"{topic}.{symbol}" for topic in ("publicTrade", "kline.1", "tickers")] for symbol in symbols)
    return [msgspec.json.encode({"op": "subscribe", "args": args}).decode() for args in topics]


def trades_of(frame: str | bytes, symbols: Collection[str]) -> set[str]:
    """Return which of some symbols may have trades in a frame that was refused: all, where it does not say."""
    try:
        topic = read(_ENVELOPES, frame).topic
    except BadFrame:
        topic = ""
    name, symbol = _subject(topic)
    if not topic:
        return set(symbols)
    return {symbol} & set(symbols) if _READERS.get(name) is _trades else set()


DIALECT: Final = Dialect(decode_event, subscribe, '{"op":"ping"}', 20.0, trades_of)


def decode_instruments(body: str | bytes, category: str) -> dict[str, Instrument]:
    """Return the instruments of an `instruments-info` answer by symbol.

    Args:
        body: The answer.
        category: `linear`, `inverse` or `spot`.
    """
    step = QUANTITY_STEPS[category]
    return {
        row.symbol: Instrument(
            "bybit",
            row.symbol,
            row.baseCoin,
            row.quoteCoin,
            _decimals(row.priceFilter.tickSize),
            _decimals(getattr(row.lotSizeFilter, step)),
            category,
        )
        for row in read(_INSTRUMENTS, _result(body).list)
    }


def decode_trades(body: str | bytes, instrument: Instrument) -> list[IdentifiedTrade]:
    """Return the trades of a `recent-trade` answer, oldest first: all there were from the first of them to the last."""
    rows = read(_LISTED, _result(body).list)
    about(instrument.name, (row.symbol for row in rows))

    def trades() -> list[IdentifiedTrade]:
        return [
            _identified(instrument, r.execId, r.price, r.size, r.side, _stamp(r.time), r.isBlockTrade)
            for r in reversed(rows)
        ]

    return exact(trades)


def decode_klines(body: str | bytes, instrument: Instrument, interval: str, now_ms: int) -> list[Kline]:
    """Return the candles of a `kline` answer, oldest first; those that end after `now_ms` are not closed.

    Args:
        body: The answer.
        instrument: What was asked for.
        interval: As Bybit writes it: `1`, `60`, `D`.
        now_ms: Exchange time of the answer.
    """
    result = _result(body)
    about(instrument.name, [result.symbol])
    ours = _interval(interval)

    def klines() -> list[Kline]:
        made: list[Kline] = []
        for start, first, high, low, last, volume, _ in reversed(read(_KLINES, result.list)):
            bar = candle(instrument, ours, _stamp(start), (first, high, low, last), volume, None, True, 0)
            made.append(closed_by(bar, now_ms))
        return made

    return exact(klines)


def decode_open_interest(body: str | bytes) -> list[OpenInterest]:
    """Return the entries of an `open-interest` answer, oldest first."""
    rows = read(_OPEN, _result(body).list)
    return exact(
        lambda: [OpenInterest(_stamp(r.timestamp), not_negative(r.openInterest) or 0.0) for r in reversed(rows)]
    )


def decode_fundings(body: str | bytes) -> list[Funding]:
    """Return the fundings of a `funding/history` answer, oldest first."""
    rows = read(_FUNDINGS, _result(body).list)
    return exact(lambda: [Funding(_stamp(r.fundingRateTimestamp), plain_number(r.fundingRate)) for r in reversed(rows)])


def refusal(body: str | bytes) -> tuple[int, str]:
    """Return `retCode` and `retMsg` of an answer; 0 where all is well or the body is no answer."""
    try:
        answer = read(_ANSWERS, body)
    except BadFrame:
        return 0, ""
    return answer.retCode, answer.retMsg[:120]


def answered_at(body: str | bytes) -> int:
    """Return Bybit's clock in an answer, epoch milliseconds."""
    return event_time(read(_ANSWERS, body).time, 0)


def _result(body: str | bytes) -> _Result:
    answer = read(_ANSWERS, body)
    if answer.retCode:
        raise BybitRefused(answer.retCode, answer.retMsg)
    if not isinstance(answer.result, msgspec.Raw):
        raise BadFrame("bad_field", "result is missing")
    return read(_RESULTS, bytes(answer.result))


def _trades(envelope: _Envelope, _: str, instruments: Mapping[str, Instrument], newest_ms: int) -> Named:
    found: Named = []
    for t in read(_TRADES, content(envelope.data)):
        time_ms = event_time(t.T, newest_ms)
        found.append((t.s, _identified(subscribed(t.s, instruments), t.i, t.p, t.v, t.S, time_ms, t.BT)))
    return found


def _klines(envelope: _Envelope, symbol: str, instruments: Mapping[str, Instrument], newest_ms: int) -> Named:
    instrument = subscribed(symbol, instruments)
    found: Named = []
    for c in read(_CANDLES, content(envelope.data)):
        prices = (c.open, c.high, c.low, c.close)
        bar = candle(instrument, _interval(c.interval), c.start, prices, c.volume, None, c.confirm, newest_ms)
        found.append((symbol, ending(bar, c.end)))
    return found


def _ticker(envelope: _Envelope, _: str, instruments: Mapping[str, Instrument], newest_ms: int) -> Named:
    ticker = read(_TICKERS, content(envelope.data))
    subscribed(ticker.symbol, instruments)
    if envelope.type not in ("snapshot", "delta"):
        raise BadFrame("bad_field", f"type {envelope.type[:20]!r}")
    hours = ticker.fundingIntervalHour
    if hours and not hours.isdecimal():
        raise BadFrame("bad_number", f"fundingIntervalHour {hours[:20]!r}")
    following = ticker.nextFundingTime
    return [
        (
            ticker.symbol,
            AssetContext(
                event_time(envelope.ts, newest_ms),
                not_negative(ticker.openInterest),
                not_negative(ticker.openInterestValue),
                optional(ticker.fundingRate),
                int(hours[:4]) if hours else None,
                # A contract with a delivery date has no funding, and says so by 0.
                _stamp(following) if following and following != "0" else None,
                above_zero(ticker.markPrice),
                above_zero(ticker.indexPrice),
                partial=envelope.type == "delta",
            ),
        )
    ]


_Reader = Callable[[_Envelope, str, Mapping[str, Instrument], int], Named]
_READERS: Final[Mapping[str, _Reader]] = {
    "publicTrade": _trades,
    "trade": _trades,
    "kline": _klines,
    "tickers": _ticker,
}


def _identified(
    instrument: Instrument, name: str, price: str, quantity: str, side: str, time_ms: int, block: bool
) -> IdentifiedTrade:
    if not 0 < len(name) <= 64:
        raise BadFrame("bad_ids", name[:40])
    if side not in ("Buy", "Sell"):
        raise BadFrame("bad_side", side[:20])
    return IdentifiedTrade(
        name, price_ticks(price, instrument), instrument.lots(quantity), time_ms, side == "Sell", block
    )


def _subject(topic: str) -> tuple[str, str]:
    """Return what a topic is about and whose it is; the rest of it is the length of a candle or the category."""
    # The documentation says publicTrade.BTCUSDT; recordings with trade.linear.BTCUSDT exist.
    name, _, rest = topic.partition(".")
    return name, rest.rpartition(".")[2]


def _decimals(step: str) -> int:
    """Return the decimals of a step; of 0.5 one, as its multiples are multiples of 0.1."""
    if not _STEP.fullmatch(step) or not step.strip("0."):
        raise BadFrame("bad_number", f"the step {step[:20]!r}")
    return len(step.partition(".")[2].rstrip("0"))


def _interval(name: str) -> str:
    if name not in INTERVALS:
        raise BadFrame("bad_interval", name[:20])
    return INTERVALS[name]


def _stamp(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) == 13):
        raise BadFrame("bad_time", f"{text[:24]!r} is not in milliseconds")
    return event_time(int(text), 0)
