"""L1 metrics are what the top of one order book says: spread, fair price, balance, walls and the cost of a market order.

A book that lacks a side has no spread, no balance and no price between; those are null. A book whose bid reaches its ask
is none and is refused.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from trading.errors import TradingError
from trading.market.book import BookSnapshot
from trading.market.instrument import Instrument
from trading.microstructure.terms import SIDES, BookSide, top

WALL_MEDIANS: Final = 2
"""A wall is a level with more than this many times the median quantity of the top levels of both sides (seed 003)."""

NOTIONALS: Final = (10_000, 25_000, 50_000)


class CrossedBook(TradingError):
    """The best bid is not below the best ask: updates were lost, or applied out of turn."""


class NoOrder(TradingError):
    """A market order of nothing, or less, has no price."""


class Wall(msgspec.Struct, frozen=True):
    """One large level; quantity in base currency."""

    side: BookSide
    price: float
    quantity: float
    medians: float


class Slippage(msgspec.Struct, frozen=True):
    """What a market order of one notional would get from the levels of a book.

    Attributes:
        taker: The taker's side; a buyer takes asks.
        notional: Wanted, in quote currency.
        filled_notional: What the levels hold of it, quote currency.
        filled_quantity: Base currency.
        average_price: Notional by quantity; None where the book is too thin to fill it whole.
        slippage_bps: How much worse that is than the best price, in basis points of it; None likewise.
    """

    taker: Literal["buy", "sell"]
    notional: float
    filled_notional: float
    filled_quantity: float
    average_price: float | None
    slippage_bps: float | None


class L1Metrics(msgspec.Struct, frozen=True):
    """The top of one book; prices in quote currency, quantities in base currency.

    Attributes:
        symbol: The exchange's name.
        time_ms: Of the book.
        last_update_id: Of the book.
        best_bid: None where there are no bids, as all that needs them.
        best_bid_quantity: At that price.
        best_ask: None where there are no asks, as all that needs them.
        best_ask_quantity: At that price.
        mid_price: Middle between bid and ask.
        spread_bps: Ask less bid, in basis points of the bid (seed 003).
        microprice: Mean of bid and ask, each weighted by the quantity on the other side.
        bid_volume: Sum of the top 20 bids.
        ask_volume: Sum of the top 20 asks.
        imbalance: Difference of those sums by their total, -1 … 1.
        imbalance_ratio: Bids by asks.
        walls: Bids, then asks, each from the best on.
        slippage: By notional, buys before sells.
    """

    symbol: str
    time_ms: int
    last_update_id: int
    best_bid: float | None
    best_bid_quantity: float | None
    best_ask: float | None
    best_ask_quantity: float | None
    mid_price: float | None
    spread_bps: float | None
    microprice: float | None
    bid_volume: float | None
    ask_volume: float | None
    imbalance: float | None
    imbalance_ratio: float | None
    walls: tuple[Wall, ...]
    slippage: tuple[Slippage, ...]


def l1_metrics(book: BookSnapshot, instrument: Instrument, notionals: Sequence[float] = NOTIONALS) -> L1Metrics:
    """Return the metrics of one book.

    Args:
        book: Volumes, balance and walls are of its top 20 levels a side; slippage uses all it has.
        instrument: Gives the size of a tick and a lot.
        notionals: Sizes of market orders in quote currency.

    Raises:
        CrossedBook: The best bid is not below the best ask.
        NoOrder: A notional is not above zero.
    """
    bid, ask = best_level(book, "bid"), best_level(book, "ask")
    depth = {side: int(top(book, side)[:, 1].sum()) or None for side in SIDES}
    bids, asks = depth["bid"], depth["ask"]
    spread, mid, micro = _between(bid, ask, book, instrument)
    return L1Metrics(
        instrument.name,
        book.time_ms,
        book.last_update_id,
        best_bid=instrument.price(bid[0]) if bid else None,
        best_bid_quantity=instrument.quantity(bid[1]) if bid else None,
        best_ask=instrument.price(ask[0]) if ask else None,
        best_ask_quantity=instrument.quantity(ask[1]) if ask else None,
        mid_price=mid,
        spread_bps=spread,
        microprice=micro,
        bid_volume=instrument.quantity(bids) if bids else None,
        ask_volume=instrument.quantity(asks) if asks else None,
        imbalance=(bids - asks) / (bids + asks) if bids and asks else None,
        imbalance_ratio=bids / asks if bids and asks else None,
        walls=tuple(_walls(book, instrument)),
        slippage=tuple(
            slippage(book, instrument, taker, notional) for notional in notionals for taker in ("buy", "sell")
        ),
    )


def best_level(book: BookSnapshot, side: BookSide) -> tuple[int, int] | None:
    """Return ticks and lots of the best level of one side, or None where it has none."""
    levels = top(book, side)
    return (int(levels[0, 0]), int(levels[0, 1])) if len(levels) else None


def spread_bps(book: BookSnapshot) -> float | None:
    """Return ask less bid in basis points of the bid; None where a side is empty.

    Raises:
        CrossedBook: The best bid is not below the best ask.
    """
    bid, ask = best_level(book, "bid"), best_level(book, "ask")
    if bid is None or ask is None:
        return None
    if bid[0] >= ask[0]:
        raise CrossedBook(
            f"at update {book.last_update_id} the bid of {bid[0]} ticks reaches the ask of {ask[0]} ticks",
            "synchronise the book again from a snapshot",
        )
    return 10_000 * (ask[0] - bid[0]) / bid[0]


def slippage(book: BookSnapshot, instrument: Instrument, taker: Literal["buy", "sell"], notional: float) -> Slippage:
    """Return what a market order of `notional` quote currency would get, level by level from the best on.

    Raises:
        NoOrder: `notional` is not above zero.
    """
    if not notional > 0:
        raise NoOrder(f"a market order of {notional} has no price", "ask for a notional above zero")
    levels: NDArray[np.int64] = book.asks if taker == "buy" else book.bids
    unit = 10 ** (instrument.price_decimals + instrument.quantity_decimals)
    wanted = round(notional * unit)
    money, lots = 0, 0
    for ticks, available in levels.tolist():
        if money + ticks * available >= wanted:
            # In fractions: floats would charge for an order that the best level fills whole.
            filled = lots + Fraction(wanted - money, ticks)
            average, best = wanted / filled, int(levels[0, 0])
            return Slippage(
                taker,
                notional,
                notional,
                filled_quantity=float(filled / 10**instrument.quantity_decimals),
                average_price=float(average / 10**instrument.price_decimals),
                slippage_bps=float(10_000 * abs(average - best) / best),
            )
        money += ticks * available
        lots += available
    return Slippage(taker, notional, money / unit, instrument.quantity(lots), None, None)


def _between(
    bid: tuple[int, int] | None, ask: tuple[int, int] | None, book: BookSnapshot, instrument: Instrument
) -> tuple[float | None, float | None, float | None]:
    """Return spread (bps), mid price and microprice."""
    spread = spread_bps(book)
    if bid is None or ask is None:
        return None, None, None
    mid = instrument.price(bid[0] + ask[0]) / 2
    weight = (bid[1] + ask[1]) * 10**instrument.price_decimals
    return spread, mid, (bid[0] * ask[1] + ask[0] * bid[1]) / weight


def _walls(book: BookSnapshot, instrument: Instrument) -> list[Wall]:
    lots = np.concatenate([top(book, side)[:, 1] for side in SIDES])
    if not len(lots):
        return []
    median = float(np.median(lots))
    return [
        Wall(side, instrument.price(ticks), instrument.quantity(held), held / median)
        for side in SIDES
        for ticks, held in top(book, side).tolist()
        if held > WALL_MEDIANS * median
    ]
