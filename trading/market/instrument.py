"""An instrument is what one exchange trades under one name, with the decimals of its prices and quantities.

Prices are kept as integer ticks and quantities as integer lots, so that sums are exact and in any order the same.
Floats appear at the edge, by one correctly rounded division.
"""

import re
from functools import lru_cache
from typing import Final

import msgspec
import numpy as np
import polars as pl

from trading.errors import TradingError

LARGEST: Final = 2**60
"""Ids, ticks and lots stay below it, so that the difference of any two fits into 64 bits with room for a flag."""

_DECIMAL: Final = re.compile(r"[0-9]{1,18}(\.[0-9]{1,18})?")


class InexactNumber(TradingError):
    """A price or quantity is no multiple of the instrument's step, or beyond any market."""


class UnknownInstrument(TradingError):
    """A symbol is not known here."""


class Instrument(msgspec.Struct, frozen=True):
    """One market of one venue.

    Attributes:
        venue: Where it trades: `binance`, or `sim` for simulated markets.
        name: The exchange's own name, e.g. `BTCUSDT`.
        base: What is bought and sold.
        quote: What it is paid in.
        price_decimals: Decimals of a price; one tick is 10 to the power of minus this.
        quantity_decimals: Decimals of a quantity; one lot is 10 to the power of minus this.
        kind: Market kind, `spot`.
    """

    venue: str
    name: str
    base: str
    quote: str
    price_decimals: int
    quantity_decimals: int
    kind: str = "spot"

    @property
    def canonical(self) -> str:
        """`BASE/QUOTE`, the same on every venue."""
        return f"{self.base}/{self.quote}"

    def ticks(self, text: str) -> int:
        """Return a decimal price as ticks; raises `InexactNumber`."""
        return _scaled(text, self.price_decimals, self.name)

    def lots(self, text: str) -> int:
        """Return a decimal quantity as lots; raises `InexactNumber`."""
        return _scaled(text, self.quantity_decimals, self.name)

    def price(self, ticks: int) -> float:
        """Return ticks as the nearest float price."""
        return ticks / 10**self.price_decimals

    def quantity(self, lots: int) -> float:
        """Return lots as the nearest float quantity."""
        return lots / 10**self.quantity_decimals

    def price_text(self, ticks: int) -> str:
        """Return ticks as exact decimal text."""
        return _text(ticks, self.price_decimals)

    def quantity_text(self, lots: int) -> str:
        """Return lots as exact decimal text."""
        return _text(lots, self.quantity_decimals)


def exact_quotient(units: pl.Series, decimals: int) -> pl.Series:
    """Return integers divided by 10 to the power of `decimals`, each the float nearest to the true quotient.

    Polars divides by a literal through its reciprocal, which is off by one unit in the last place (3 / 100000).
    """
    return pl.Series(units.name, np.true_divide(units.to_numpy(), float(10**decimals)))


@lru_cache(2**14)
def _scaled(text: str, decimals: int, name: str) -> int:
    # A market trades at few prices at a time, and often in round lots: most numbers have just been read.
    if not _DECIMAL.fullmatch(text):
        raise InexactNumber(f"{name}: {text[:40]!r} is not a plain decimal number")
    whole, _, fraction = text.partition(".")
    if fraction[decimals:].strip("0"):
        raise InexactNumber(f"{name}: {text!r} is not a multiple of 10^-{decimals}")
    units = int(whole + fraction[:decimals].ljust(decimals, "0"))
    if units >= LARGEST:
        raise InexactNumber(f"{name}: {text!r} is beyond {LARGEST} steps of 10^-{decimals}")
    return units


def _text(units: int, decimals: int) -> str:
    digits = str(units).rjust(decimals + 1, "0")
    return f"{digits[:-decimals]}.{digits[-decimals:]}" if decimals else digits
