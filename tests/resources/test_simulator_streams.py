"""The events of a market do not depend on the stretches in which they are asked for."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from resources.simulator.market import Event
from resources.simulator.streams import Streams
from resources.simulator.synthetic import SyntheticMarket

SYMBOL, START_MS, LONG_MS = "BTCUSDT", 1_760_000_040_000 - 1_250, 4_000
MARKETS = {kind: SyntheticMarket(7, [SYMBOL], kind, trades_per_second=20) for kind in ("spot", "usdm")}
KINDS = ("aggTrade", "trade", "bookTicker", "kline_1m", "depth@100ms", "depth5@100ms")
WANTED = {
    "spot": [f"{SYMBOL.lower()}@{kind}" for kind in KINDS],
    "usdm": [f"{SYMBOL.lower()}@{kind}" for kind in (*KINDS, "markPrice@1s")],
}


@pytest.mark.parametrize("kind", ["spot", "usdm"])
@settings(max_examples=15)
@given(cuts=st.lists(st.integers(0, LONG_MS)))
def test_short_stretches_have_the_events_of_the_long_one_that_they_are_parts_of(kind: str, cuts: list[int]) -> None:
    whole = Streams(MARKETS[kind]).events(WANTED[kind], START_MS, START_MS + LONG_MS)
    streams, found = Streams(MARKETS[kind]), list[Event]()
    edges = [0, *sorted(cuts), LONG_MS]
    for lo_ms, hi_ms in pairwise(edges):
        found += streams.events(WANTED[kind], START_MS + lo_ms, START_MS + hi_ms)
    assert {event.stream for event in whole} == set(WANTED[kind])
    for stream in WANTED[kind]:
        assert [event for event in found if event.stream == stream] == [e for e in whole if e.stream == stream]
