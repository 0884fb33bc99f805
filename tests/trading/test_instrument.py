"""Instruments: exact decimals in, exact integers kept, the same decimals out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trading.market.instrument import InexactNumber, Instrument

BTC = Instrument("sim", "BTCUSDT", "BTC", "USDT", 2, 5)


@given(st.integers(min_value=1, max_value=10**14))
def test_ticks_survive_their_text(ticks: int) -> None:
    assert BTC.ticks(BTC.price_text(ticks)) == ticks
    assert BTC.ticks(BTC.price_text(ticks) + "000000") == ticks


@given(st.integers(min_value=1, max_value=10**14))
def test_the_float_at_the_edge_is_the_one_that_the_text_means(ticks: int) -> None:
    assert BTC.price(ticks) == float(BTC.price_text(ticks))


@pytest.mark.parametrize("text", ["0.001", "NaN", "Infinity", "", "abc", "1e999", "1e-5", "1.2.3", "٣", "1" * 41, "-"])
def test_a_number_that_is_no_multiple_of_the_step_is_refused(text: str) -> None:
    with pytest.raises(InexactNumber):
        BTC.ticks(text)


def test_whole_numbers_need_no_decimals() -> None:
    coin = Instrument("sim", "SHIBUSDT", "SHIB", "USDT", 8, 0)
    assert coin.lots("120.00") == 120
    assert coin.quantity_text(120) == "120"
    assert coin.price_text(1234) == "0.00001234"
