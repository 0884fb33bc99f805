"""What is newest of each symbol, now and at an earlier moment."""

from resources.latest import latest_values
from resources.timescale.store import MarketStore
from tests.oracle import MEASURE, MINUTE, T0, Write, bar, put, register
from trading.indicators.columns import INDICATOR_SCHEMA
from trading.market.timeframe import MINUTE_MS

SYMBOL = "NEWESTUSDT"


def measures(open_time: int, value: float) -> dict[str, float | bool | int]:
    names = (name for name in INDICATOR_SCHEMA if name != "known_at_ms")
    return dict.fromkeys(names, value) | {"open_time": open_time, "warm": True}


def test_a_minute_that_closes_meanwhile_does_not_change_what_was_newest(market: MarketStore) -> None:
    register(market, SYMBOL)

    def closed(minutes: range, measured: dict[int, float]) -> None:
        bars = {T0 + at * MINUTE_MS: bar(T0 + at * MINUTE_MS, volume=float(at + 1)) for at in minutes}
        put(market, SYMBOL, Write(max(bars) + MINUTE_MS, MINUTE, bars))
        rows = {T0 + at * MINUTE_MS: measures(T0 + at * MINUTE_MS, value) for at, value in measured.items()}
        put(market, SYMBOL, Write(max(bars) + MINUTE_MS, MEASURE, rows))

    closed(range(8), {0: 1.0, 3: 2.0})
    told = latest_values(market)[SYMBOL]
    assert (told["open_time_ms"], told["volume"], told["ema_20"]) == (str(T0 + 7 * MINUTE_MS), "8.0", "2.0")
    closed(range(8, 10), {6: 3.0})
    assert latest_values(market)[SYMBOL]["ema_20"] == "3.0"
    assert latest_values(market, {SYMBOL: int(told["open_time_ms"])})[SYMBOL] == told
