"""However connections end, the exchange sees no more new ones than it allows."""

import json
from bisect import bisect_left

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trading.market.instrument import Instrument
from trading.stream.backoff import Backoff
from trading.stream.collector import TICK_S, CollectorCore
from trading.stream.connections import Connect
from trading.stream.repair import FOREVER_MS

ALLOWED, WINDOW_S = 300, 300.0
NOW_MS = 1_760_000_040_000
BTC = Instrument("sim", "BTCUSDT", "BTC", "USDT", 2, 5)
FATES = ("refused", "cut", "cut after a trade", "ends", "ends after a trade", "lives")


def frame(number: int) -> bytes:
    trade = {"e": "aggTrade", "E": NOW_MS, "s": "BTCUSDT", "a": number, "p": "1.00", "q": "1", "f": 1, "l": 1}
    return json.dumps({"stream": "btcusdt@aggTrade", "data": trade | {"T": NOW_MS, "m": True}}).encode()


def connects(fates: list[str], seconds: float, low: bool) -> list[float]:
    """Return when a core connects whose connections, one after the other and again, end so."""
    wanted = {"BTCUSDT": (NOW_MS, FOREVER_MS)}
    core = CollectorCore({"BTCUSDT": BTC}, {}, wanted, lambda least, most: least if low else most)
    moments = list[float]()
    for turn in range(round(seconds / TICK_S)):
        now_s = turn * TICK_S
        core.tick(now_s)
        while opening := [command for command in core.commands() if isinstance(command, Connect)]:
            for command in opening:
                fate = fates[len(moments) % len(fates)]
                moments.append(now_s)
                assert len(moments) <= 10 * ALLOWED
                if fate != "refused":
                    core.connected(command.connection, now_s)
                if "trade" in fate:
                    core.received(command.connection, [frame(len(moments))], now_s)
                if fate.startswith("ends"):
                    core.shutting_down(command.connection, now_s)
                elif fate != "lives":
                    core.disconnected(command.connection, now_s)
                core.tick(now_s)
    return moments


def most_in_a_window(moments: list[float]) -> int:
    return max(bisect_left(moments, start + WINDOW_S) - place for place, start in enumerate(moments))


def book_connects() -> list[float]:
    """Return when a feed of books connects that is cut at once each time, and is as quick as chance lets it be."""
    pauses, now_s, moments = Backoff(lambda least, _most: least), 0.0, list[float]()
    while now_s < 2 * WINDOW_S:
        moments.append(now_s)
        now_s += pauses.pause_s(0.0)
    return moments


@pytest.mark.parametrize("fate", FATES)
def test_a_storm_of_one_kind_stays_within_what_the_exchange_allows_both_connections(fate: str) -> None:
    of_trades, of_books = most_in_a_window(connects([fate], 2 * WINDOW_S, low=True)), most_in_a_window(book_connects())
    assert of_trades + of_books <= ALLOWED


@settings(max_examples=30)
@given(st.lists(st.sampled_from(FATES), min_size=1, max_size=8), st.booleans())
def test_a_storm_of_any_kinds_stays_within_it_too(fates: list[str], low: bool) -> None:
    moments = connects(fates, 1.2 * WINDOW_S, low)
    assert most_in_a_window(moments) + most_in_a_window(book_connects()) <= ALLOWED


def test_ends_that_are_announced_one_after_the_other_are_prepared_for_at_once() -> None:
    assert connects(["ends after a trade"], 1.0, low=False)[:20] == [0.0] * 20
