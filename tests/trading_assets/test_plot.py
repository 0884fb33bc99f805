"""A chart shows every bar at its time, every hole as long as it was, and where each bar came from; it needs nothing else."""

import json
import re
from xml.etree import ElementTree

import polars as pl
import pytest

from resources.timescale.store import MarketStore
from resources.timescale.tables import CANDLE, PROFILE_MINUTE
from tests.synthetic import MARKET
from trading.market.instrument import Instrument
from trading.market.timeframe import DAY_MS, HOUR_MS, MINUTE_MS, Timeframe
from trading.microstructure.profile_minutes import profile_minutes
from trading.microstructure.volume_profile import InsufficientTrades
from trading.stream.contiguity import IdRange
from trading_assets.cli import plot
from trading_assets.cli.charts import LEFT, RIGHT, Scale, as_script, number, page, round_steps, time_axis
from trading_assets.coverage import DATASETS, STATES

SYMBOL = "PLOTUSDT"
LO = 1_760_054_400_000
HI = LO + 100 * HOUR_MS
SOURCES = ["trades"] * 30 + ["kline"] * 30 + ["rollup"] * 30 + ["incomplete_trades"] * 10
MISSING, EMPTY = range(40, 45), range(70, 72)


@pytest.fixture(scope="module")
def stored(market: MarketStore) -> MarketStore:
    """A hundred hours, of which five are missing, and two had no trade as ids prove."""
    market.register([Instrument("sim", SYMBOL, "PLOT", "USDT", 2, 5)])
    rows = [
        (LO + n * HOUR_MS, 10.0, 13.0, 9.0, 11.0 + n % 3, 5.0, 55.0, 7, None, None, source, n < 90, 60, 60, None)
        for n, source in enumerate(SOURCES)
        if n not in MISSING and n not in EMPTY
    ]
    bars = pl.DataFrame(rows, schema=CANDLE.schema, orient="row")
    market.write(CANDLE, SYMBOL, bars, LO, HI, Timeframe.H1)
    proof = IdRange(1, 9, LO + 70 * HOUR_MS, LO + 72 * HOUR_MS)
    market.set_trade_coverage(SYMBOL, LO + 70 * HOUR_MS // DAY_MS * DAY_MS, [proof])
    return market


def rects(html: str, name: str) -> list[tuple[float, float]]:
    """Return left edge and width of the rectangles of a class in the drawing."""
    drawing = re.search(r'<svg id="chart".*?</svg>', html, re.S)
    assert drawing
    found = ElementTree.fromstring(drawing[0]).iter("rect")
    return [(float(r.get("x", 0)), float(r.get("width", 0))) for r in found if r.get("class") == name]


def test_every_bar_stands_at_its_time_and_every_hole_is_as_long_as_it_was(stored: MarketStore) -> None:
    html, shown = plot.candles(stored, SYMBOL, Timeframe.H1, LO, HI, 0)
    assert shown == {"bars": 93, "start_ms": LO, "end_ms": HI} | {
        "trades": 30, "kline": 25, "rollup": 28, "incomplete": 10, "empty": 2, "missing": 5
    }  # fmt: skip
    hour = (RIGHT - LEFT) / 100
    assert rects(html, "missing") == [pytest.approx((LEFT + 40 * hour, 5 * hour), abs=0.02)]
    assert rects(html, "empty") == [pytest.approx((LEFT + 70 * hour, 2 * hour), abs=0.02)]
    assert rects(html, "kline")[0] == pytest.approx((LEFT + 30 * hour, 10 * hour), abs=0.02)
    assert len(rects(html, "up") + rects(html, "down")) == 83
    assert len(rects(html, "up partial") + rects(html, "down partial")) == 10
    data = json.loads(re.search(r"const DATA = (.*?);\n", html)[1])  # pyright: ignore
    assert len(data["bars"]) == 93 and "2025-10-10 00:00 UTC  open 10.00" in data["bars"][0][1]


def test_a_page_needs_nothing_from_elsewhere(stored: MarketStore) -> None:
    html, _ = plot.candles(stored, SYMBOL, Timeframe.H1, None, None, 50)
    assert not re.search(r"(src|href|@import|https?:)", html)
    assert "prefers-color-scheme: dark" in html and ">UTC<" in html and ">USDT<" in html


def test_without_a_window_the_last_bars_are_shown(stored: MarketStore) -> None:
    _, shown = plot.candles(stored, SYMBOL, Timeframe.H1, None, None, 20)
    assert (shown["start_ms"], shown["end_ms"], shown["bars"]) == (HI - 20 * HOUR_MS, HI, 20)


@pytest.mark.parametrize(
    ("timeframe", "lo_ms", "hi_ms", "bars", "said"),
    [
        (Timeframe.M1, None, None, 5, "no 1m candles"),
        (Timeframe.H1, None, None, 2_001, "2001 bars"),
        (Timeframe.H1, HI, LO, 5, "bars of 1h"),
        (Timeframe.H1, LO - 9 * HOUR_MS, LO, 5, "no 1h candles in"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    stored: MarketStore, timeframe: Timeframe, lo_ms: int | None, hi_ms: int | None, bars: int, said: str
) -> None:
    with pytest.raises(plot.BadPlot, match=said) as refusal:
        plot.candles(stored, SYMBOL, timeframe, lo_ms, hi_ms, bars)
    assert refusal.value.hint


def test_a_profile_shows_what_its_bins_hold(stored: MarketStore) -> None:
    trades = MARKET.trades("BTCUSDT", LO, LO + 6 * HOUR_MS)
    minutes = profile_minutes(trades)
    stored.write(PROFILE_MINUTE, SYMBOL, minutes, LO, LO + DAY_MS)
    html, shown = plot.profile(stored, SYMBOL, None, None)
    assert shown["trades"] == len(trades) and shown["end_ms"] == LO + 6 * HOUR_MS
    bought, sold = rects(html, "up"), rects(html, "down")
    assert all(a[0] + a[1] == pytest.approx(b[0], abs=0.02) for a, b in zip(bought, sold, strict=True))
    longest = max(a[1] + b[1] for a, b in zip(bought, sold, strict=True))
    assert longest == pytest.approx((RIGHT - LEFT) / 1.04, abs=0.1)
    with pytest.raises(InsufficientTrades):
        plot.profile(stored, SYMBOL, LO, LO + 5 * MINUTE_MS)


def test_coverage_has_a_cell_for_each_day_and_dataset() -> None:
    rows = [
        {"symbol": "A", "day": f"2026-10-{day:02}", "dataset": dataset, "state": STATES[day % 5], "rows": day}
        for day in range(1, 11)
        for dataset in DATASETS
    ]
    html, shown = plot.coverage(rows, "sim")
    assert shown == {state: 2 * len(DATASETS) for state in STATES}
    assert all(len(rects(html, f"cell-{state}")) == 2 * len(DATASETS) for state in STATES)
    with pytest.raises(plot.BadPlot, match="nothing is recorded"):
        plot.coverage([], "sim")


def test_no_name_can_leave_its_place_in_a_page() -> None:
    evil = "</script><script>alert(1)</script>"
    html = page(evil, [evil], "", 10, [("up", evil)], f"const a = {as_script(evil)};")
    assert html.count("<script>") == 1 and evil not in html


@pytest.mark.parametrize(("lo", "hi"), [(0.00001231, 0.0000131), (0.98, 1.03), (61_000.5, 71_999.0), (5, 5)])
def test_labels_of_an_axis_are_round_and_all_different(lo: float, hi: float) -> None:
    steps = round_steps(lo, hi, 8)
    assert 1 <= len(steps) <= 9 and all(lo <= step <= hi for step in steps)
    labels = [number(step, steps[1] - steps[0] if len(steps) > 1 else 1) for step in steps]
    assert len(set(labels)) == len(steps)


@pytest.mark.parametrize("length_ms", [30_000, HOUR_MS, 7 * HOUR_MS, DAY_MS, 40 * DAY_MS, 4_000 * DAY_MS])
def test_times_are_round_in_utc_and_a_midnight_has_its_date(length_ms: int) -> None:
    axis = time_axis(Scale(LO, LO + length_ms, LEFT, RIGHT), 100, 0)
    labels = re.findall(r">([^<]+)</text>", axis)
    assert labels[0] == "UTC" and 2 <= len(labels) <= 12
    assert labels[1] == "2025-10-10" if length_ms <= DAY_MS else all(re.match("20..-..-..$", one) for one in labels[1:])
