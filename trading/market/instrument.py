"""An instrument is what one exchange trades under one name, with the decimals of its prices and quantities.

Prices are kept as integer ticks and quantities as integer lots, so that sums are exact and in any order the same.
Floats appear at the edge, by one correctly rounded division.
"""

from decimal import Decimal, InvalidOperation

import msgspec

from trading.errors import TradingError


class InexactNumber(TradingError):
    """A price or quantity is no finite multiple of the instrument's step."""


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


def _scaled(text: str, decimals: int, name: str) -> int:
    whole, _, fraction = text.partition(".")
    if len(text) <= 30 and whole.isascii() and whole.isdigit() and (not fraction or fraction.isdigit()):
        kept, rest = fraction[:decimals], fraction[decimals:]
        if not rest.strip("0") and fraction.isascii():
            return int(whole + kept.ljust(decimals, "0"))
    try:
        scaled = Decimal(text).scaleb(decimals)
    except InvalidOperation:
        raise InexactNumber(f"{name}: {text[:40]!r} is not a decimal number") from None
    if not scaled.is_finite() or len(text) > 40 or scaled != scaled.to_integral_value():
        raise InexactNumber(f"{name}: {text[:40]!r} is not a multiple of 10^-{decimals}")
    return int(scaled)


def _text(units: int, decimals: int) -> str:
    digits = str(units).rjust(decimals + 1, "0")
    return f"{digits[:-decimals]}.{digits[-decimals:]}" if decimals else digits
