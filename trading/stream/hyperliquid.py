"""Events of Hyperliquid off a websocket frame and answers of its info interface; the rest is refused with the reason.

A trade's id is a number without order, so trades are `IdentifiedTrade`s: what is between two of them cannot be proven.
The first frame of a subscription repeats recent trades. An asset context does not say when it was true, and a candle not
that it is closed.

Steps follow from an asset's `szDecimals`: a quantity has as many decimals; a price has 6 less these on perpetuals and 8
less these on spot, and no more than five significant figures unless it is whole (Hyperliquid, Tick and lot size).
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, cast

import msgspec

from trading.market.derivatives import AssetContext, Funding
from trading.market.identified import IdentifiedTrade
from trading.market.instrument import InexactNumber, Instrument
from trading.stream.events import Kline
from trading.stream.fields import check_ids, event_time, plain_number, price_ticks, read, subscribed
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

FIGURES: Final = 5
PRICE_DECIMALS: Final = {"perpetual": 6, "spot": 8}
QUIET: Final = frozenset({"subscriptionResponse", "pong"})


class _Envelope(msgspec.Struct):
    channel: str = ""
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Trade(msgspec.Struct):
    coin: str
    side: str
    px: str
    sz: str
    time: int
    tid: int


class _Candle(msgspec.Struct):
    t: int
    T: int
    s: str
    i: str
    o: str
    h: str
    l: str  # noqa: E741
    c: str
    v: str
    n: int


class _Context(msgspec.Struct):
    funding: str | None = None
    openInterest: str | None = None
    oraclePx: str | None = None
    markPx: str | None = None


class _ActiveContext(msgspec.Struct):
    coin: str
    ctx: _Context


class _AllContexts(msgspec.Struct):
    ctxs: list[tuple[str, list[_Context]]]


class _Asset(msgspec.Struct):
    name: str
    szDecimals: int


class _Meta(msgspec.Struct):
    universe: list[_Asset]


class _Funding(msgspec.Struct):
    coin: str
    fundingRate: str
    time: int


_ENVELOPES: Final = msgspec.json.Decoder(_Envelope)
_TRADES: Final = msgspec.json.Decoder(list[_Trade])
_CANDLE: Final = msgspec.json.Decoder(_Candle)
_CANDLES: Final = msgspec.json.Decoder(list[_Candle])
_ACTIVE: Final = msgspec.json.Decoder(_ActiveContext)
_ALL: Final = msgspec.json.Decoder(_AllContexts)
_META: Final = msgspec.json.Decoder(_Meta)
_META_AND_CONTEXTS: Final = msgspec.json.Decoder(tuple[_Meta, list[_Context]])
_FUNDINGS: Final = msgspec.json.Decoder(list[_Funding])
_TEXT: Final = msgspec.json.Decoder(str)


def perpetual(name: str, quantity_decimals: int) -> Instrument:
    """Return the perpetual of a coin, paid in USDC; raises `BadFrame` `bad_field` for steps that cannot be."""
    if not 0 <= quantity_decimals <= PRICE_DECIMALS["perpetual"]:
        raise BadFrame("bad_field", f"{name[:40]} has szDecimals {quantity_decimals}")
    decimals = PRICE_DECIMALS["perpetual"] - quantity_decimals
    return Instrument("hyperliquid", name, name, "USDC", decimals, quantity_decimals, "perpetual")


def decode_event(frame: str | bytes, instruments: Mapping[str, Instrument], newest_ms: int) -> Named | None:
    """Return (coin, event) of each event of a frame, or None for a pong and the answer to an accepted command.

    A frame is taken whole or not at all. Arguments are those of `trading.stream.events.decode_event`.

    Raises:
        BadFrame: As there, and for `bad_side` and `bad_interval`.
    """
    envelope = read(_ENVELOPES, frame)
    if not envelope.channel:
        raise BadFrame("no_event")
    if envelope.channel in QUIET:
        return None
    body = content(envelope.data)
    if envelope.channel == "error":
        raise BadFrame("command_refused", read(_TEXT, body)[:120])
    reader = _READERS.get(envelope.channel)
    if reader is None:
        raise BadFrame("unknown_event", envelope.channel[:40])
    return exact(lambda: reader(body, instruments, newest_ms))


def subscribe(coins: Sequence[str]) -> list[str]:
    """Return the messages that ask for trades, one-minute candles and asset contexts, one a coin and kind."""
    kinds = ({"type": "trades"}, {"type": "candle", "interval": "1m"}, {"type": "activeAssetCtx"})
    return [
        msgspec.json.encode({"method": "subscribe", "subscription": {**kind, "coin": coin}}).decode()
        for coin in coins
        for kind in kinds
    ]


def trades_of(frame: str | bytes, coins: Collection[str]) -> set[str]:
    """Return which of some coins may have trades in a frame that was refused: all, unless it is about something else."""
    try:
        channel = read(_ENVELOPES, frame).channel
    except BadFrame:
        channel = ""
    return set(coins) if channel in ("", "trades") else set()


DIALECT: Final = Dialect(decode_event, subscribe, '{"method":"ping"}', 30.0, trades_of)


def decode_all_contexts(frame: str | bytes, universes: Mapping[str, Sequence[str]]) -> dict[str, AssetContext]:
    """Return contexts by name of an `allDexsAssetCtxs` frame, which names no coin: their order is the universe's.

    Args:
        frame: As received.
        universes: Names of the coins of each exchange, the main one being `""`.
    """
    envelope = read(_ENVELOPES, frame)
    if envelope.channel != "allDexsAssetCtxs":
        raise BadFrame("unknown_event", envelope.channel[:40])
    found: dict[str, AssetContext] = {}
    for exchange, contexts in read(_ALL, content(envelope.data)).ctxs:
        found |= _named(universes.get(exchange, ()), contexts)
    return found


def decode_instruments(body: str | bytes) -> dict[str, Instrument]:
    """Return the perpetuals of a `meta` answer by name."""
    return {asset.name: perpetual(asset.name, asset.szDecimals) for asset in read(_META, body).universe}


def decode_contexts(body: str | bytes) -> dict[str, AssetContext]:
    """Return the contexts of a `metaAndAssetCtxs` answer by name."""
    meta, contexts = read(_META_AND_CONTEXTS, body)
    return _named([asset.name for asset in meta.universe], contexts)


def decode_trades(body: str | bytes, instrument: Instrument) -> list[IdentifiedTrade]:
    """Return the trades of a `recentTrades` answer, oldest first: all there were from the first to the last."""
    taken = exact(lambda: _trades(body, {instrument.name: instrument}, 0))
    return [cast(IdentifiedTrade, trade) for _, trade in reversed(taken)]


def decode_klines(body: str | bytes, instrument: Instrument, now_ms: int) -> list[Kline]:
    """Return the candles of a `candleSnapshot` answer, oldest first; those that end after `now_ms` are not closed."""
    rows = read(_CANDLES, body)
    bars = exact(lambda: [_kline(row, {instrument.name: instrument}, 0) for row in rows])
    return [closed_by(bar, now_ms) for bar in bars]


def decode_fundings(body: str | bytes, coin: str) -> list[Funding]:
    """Return the fundings of a `fundingHistory` answer, oldest first."""
    rows = read(_FUNDINGS, body)
    about(coin, (row.coin for row in rows))
    return exact(lambda: [Funding(event_time(row.time, 0), plain_number(row.fundingRate)) for row in rows])


def _trades(body: str | bytes, instruments: Mapping[str, Instrument], newest_ms: int) -> Named:
    found: Named = []
    for t in read(_TRADES, body):
        instrument = subscribed(t.coin, instruments)
        check_ids(t.tid)
        if t.side not in ("A", "B"):
            raise BadFrame("bad_side", t.side[:20])
        price, quantity = price_ticks(t.px, instrument), instrument.lots(t.sz)
        if not _within_figures(price, instrument.price_decimals):
            raise InexactNumber(f"{t.coin}: the price {t.px} has more than {FIGURES} significant figures")
        # The side is the taker's: A sold, B bought.
        time_ms = event_time(t.time, newest_ms)
        found.append((t.coin, IdentifiedTrade(str(t.tid), price, quantity, time_ms, t.side == "A")))
    return found


def _candle(body: str | bytes, instruments: Mapping[str, Instrument], newest_ms: int) -> Named:
    row = read(_CANDLE, body)
    return [(row.s, _kline(row, instruments, newest_ms))]


def _kline(row: _Candle, instruments: Mapping[str, Instrument], newest_ms: int) -> Kline:
    instrument = subscribed(row.s, instruments)
    bar = candle(instrument, row.i, row.t, (row.o, row.h, row.l, row.c), row.v, row.n, False, newest_ms)
    return ending(bar, row.T)


def _active(body: str | bytes, instruments: Mapping[str, Instrument], _: int) -> Named:
    active = read(_ACTIVE, body)
    subscribed(active.coin, instruments)
    return [(active.coin, _context(active.ctx))]


def _context(context: _Context) -> AssetContext:
    return AssetContext(
        open_interest=not_negative(context.openInterest),
        funding_rate=optional(context.funding),
        funding_interval_h=1 if context.funding else None,
        mark_price=above_zero(context.markPx),
        index_price=above_zero(context.oraclePx),
    )


def _named(names: Sequence[str], contexts: Sequence[_Context]) -> dict[str, AssetContext]:
    """Return contexts by name; a universe of another length is another universe."""
    if len(names) != len(contexts):
        raise BadFrame("bad_field", f"{len(contexts)} contexts of {len(names)} coins")
    return exact(lambda: {name: _context(context) for name, context in zip(names, contexts, strict=True)})


def _within_figures(ticks: int, decimals: int) -> bool:
    """Tell whether a price is whole or has at most five significant figures."""
    return ticks % 10**decimals == 0 or len(str(ticks).rstrip("0")) <= FIGURES


_Reader = Callable[[str | bytes, Mapping[str, Instrument], int], Named]
_READERS: Final[Mapping[str, _Reader]] = {
    "trades": _trades,
    "candle": _candle,
    "activeAssetCtx": _active,
    "activeSpotAssetCtx": _active,
}
