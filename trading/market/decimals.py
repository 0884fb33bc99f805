"""A decimal number is an integer of units of its last decimal; a float that says one becomes it and is itself again."""

from typing import Final

import numpy as np
from numba import njit
from numpy.typing import NDArray

from trading.compiled import read_only

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

MOST_DECIMALS: Final = 12
LARGEST: Final = 2.0**53
"""Floats tell all integers below it apart."""
POWERS: Final = 10.0 ** np.arange(MOST_DECIMALS + 1)


def fewest_decimals(values: Floats, counts: Integers) -> Integers:
    """Return for each row the fewest decimals in which all of its numbers can be written, at most `MOST_DECIMALS`.

    Args:
        values: The numbers of all rows, one row after the other.
        counts: How many each row has.
    """
    return _fewest(read_only(values), read_only(counts))


def in_units(values: Floats, decimals: Integers) -> tuple[Integers, NDArray[np.bool_]]:
    """Return numbers as integers of so many decimals each, and whether they say the same; an integer that does not is 0."""
    return _in_units(read_only(values), read_only(decimals))


@njit(cache=True)
def _fewest(values: Floats, counts: Integers) -> Integers:
    found, end = np.zeros(len(counts), np.int64), 0
    for row in range(len(counts)):
        start, end, decimals = end, end + counts[row], 0
        for place in range(start, end):
            value = values[place]
            while decimals < MOST_DECIMALS and np.rint(value * POWERS[decimals]) / POWERS[decimals] != value:
                decimals += 1
        found[row] = decimals
    return found


@njit(cache=True)
def _in_units(values: Floats, decimals: Integers) -> tuple[Integers, NDArray[np.bool_]]:
    units, exact = np.zeros(len(values), np.int64), np.zeros(len(values), np.bool_)
    for place in range(len(values)):
        value, power = values[place], POWERS[decimals[place]]
        scaled = np.rint(value * power)
        # No integer says -0.0.
        if abs(scaled) < LARGEST and scaled / power == value and (scaled != 0 or not np.signbit(value)):
            units[place], exact[place] = np.int64(scaled), True
    return units, exact
