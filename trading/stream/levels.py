"""Levels of an order book off the wire: pairs of decimal texts that become integer ticks and lots.

A busy book brings 100,000 levels a second. The exchange writes all numbers of a column with the same decimals, so a
column is checked and read as one text; a column that is not so is first written that way.
"""

import re
from collections.abc import Sequence
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from trading.market.instrument import InexactNumber, Instrument

SAFE_DIGITS: Final = 18
"""Any integer of this many decimal digits fits 64 bits."""

_DECIMAL: Final = re.compile(r"[0-9]{1,18}(\.[0-9]{1,18})?")


def read_levels(texts: Sequence[tuple[str, str]], instrument: Instrument) -> NDArray[np.int64]:
    """Return (price, quantity) texts as ticks and lots, shape (n, 2), in the order given.

    A price is a whole number of ticks. A quantity sums resting orders, of which some are older than today's step: it
    becomes the nearest number of lots, half of one upwards and never 0, which would say that the level is gone.

    Raises:
        InexactNumber: A number is not plain or has more than 18 digits, or a price is 0 or between two ticks.
    """
    levels = np.empty((len(texts), 2), np.int64)
    if texts:
        prices, quantities = zip(*texts, strict=True)
        ticks, rest, _step = _scaled(prices, instrument.price_decimals)
        if rest.any() or ticks.min() <= 0:
            raise InexactNumber(f"{instrument.name}: the price of a level is 0 or between two ticks")
        levels[:, 0] = ticks
        lots, rest, step = _scaled(quantities, instrument.quantity_decimals)
        levels[:, 1] = lots + ((2 * rest >= step) | ((lots == 0) & (rest > 0)))
    return levels


def _scaled(texts: Sequence[str], decimals: int) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Return numbers in units of `decimals` decimals, what is left over, and how many leftovers make a unit."""
    written = len(texts[0].partition(".")[2])
    joined = ",".join(texts)
    pattern = _column(written, SAFE_DIGITS - max(written, decimals))
    # A comma inside a text would make two numbers of one.
    if joined.count(",") != len(texts) - 1 or not pattern.fullmatch(joined):
        joined, written = _aligned(texts)
        if not _column(written, SAFE_DIGITS - max(written, decimals)).fullmatch(joined):
            raise InexactNumber(f"a number beside {texts[0][:40]!r} has more than {SAFE_DIGITS} digits")
    step = 10 ** max(written - decimals, 0)
    units, rest = np.divmod(np.fromstring(joined.replace(".", ""), np.int64, sep=","), step)
    return units * 10 ** max(decimals - written, 0), rest, step


def _aligned(texts: Sequence[str]) -> tuple[str, int]:
    """Return numbers joined by commas, all with as many decimals as the longest needs, and how many that is."""
    for text in texts:
        if not _DECIMAL.fullmatch(text):
            raise InexactNumber(f"{text[:40]!r} is not a plain decimal number")
    parts = [
        (whole.lstrip("0") or "0", fraction.rstrip("0")) for whole, _, fraction in (t.partition(".") for t in texts)
    ]
    written = max(len(fraction) for _, fraction in parts)
    dot = "." if written else ""
    return ",".join(whole + dot + fraction.ljust(written, "0") for whole, fraction in parts), written


@cache
def _column(written: int, whole: int) -> re.Pattern[str]:
    """Return what matches numbers joined by commas, all with `written` decimals and up to `whole` digits before."""
    if whole < 1:
        return re.compile(r"(?!)")
    number = rf"[0-9]{{1,{whole}}}" + (rf"\.[0-9]{{{written}}}" if written else "")
    return re.compile(rf"(?:{number},)*{number}")
