"""A number that was written as a decimal is an integer of so many decimals, the fewest, and comes back bit for bit."""

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trading.market.decimals import MOST_DECIMALS, POWERS, fewest_decimals, in_units

WRITTEN = st.builds(
    lambda units, decimals: Decimal(units).scaleb(-decimals), st.integers(0, 10**15), st.integers(0, 12)
)


@given(st.lists(st.lists(WRITTEN, max_size=5), max_size=5))
def test_rows_of_decimals_count_in_the_fewest_that_hold_them(rows: list[list[Decimal]]) -> None:
    counts = np.array([len(row) for row in rows], np.int64)
    values = np.array([float(number) for row in rows for number in row])
    decimals = fewest_decimals(values, counts)
    units, exact = in_units(values, np.repeat(decimals, counts))
    assert (units / POWERS[np.repeat(decimals, counts)])[exact].tobytes() == values[exact].tobytes()
    end = 0
    for row, found in zip(rows, decimals, strict=True):
        start, end = end, end + len(row)
        fewest = max((_places(number) for number in row), default=0)
        wanted = [int(number.scaleb(fewest)) for number in row]
        if max(wanted, default=0) < 10**15:  # as many digits as any float tells apart
            assert (found, units[start:end].tolist(), exact[start:end].all()) == (fewest, wanted, True)


def _places(number: Decimal) -> int:
    return max(0, -int(number.normalize().as_tuple().exponent)) if number else 0


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.0, 1 / 3, 1e-13, 2.0**53, -(2.0**60), 1e300])
def test_what_is_no_decimal_is_told_and_its_neighbours_stay(value: float) -> None:
    values = np.array([0.5, value, -1.25])
    decimals = fewest_decimals(values, np.array([1, 1, 1]))
    assert decimals[[0, 2]].tolist() == [1, 2] and decimals[1] <= MOST_DECIMALS
    units, exact = in_units(values, decimals)
    assert (units.tolist(), exact.tolist()) == ([5, 0, -125], [True, False, True])
