"""Market reports: what is known with its data, what is not with its reason."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trading.microstructure.captured import Capture, capture
from tests.trading.microstructure.made import BTC, END, T0, book, trades
from trading.market.timeframe import DAY_MS, HOUR_MS, MINUTE_MS
from trading.microstructure.anomalies import absorptions, flash_crashes
from trading.microstructure.diff_anomalies import icebergs, quote_stuffing, updates_per_s
from trading.microstructure.health import microstructure_health
from trading.microstructure.l1 import l1_metrics, spread_bps
from trading.microstructure.order_flow import order_flow
from trading.microstructure.report import (
    SECTIONS,
    Basis,
    Known,
    MarketReport,
    Missing,
    UnknownSection,
    both,
    markdown,
    measured,
)
from trading.microstructure.vacuums import stop_advice, vacuums_in_book, vacuums_in_profile
from trading.microstructure.volume_profile import volume_profile

NOTHING = Missing("nobody collects this market", "start its collector")
UNKNOWN: dict[str, Missing] = dict.fromkeys(SECTIONS, NOTHING)


def report(**sections: Known | Missing) -> MarketReport:
    return MarketReport(instrument=BTC, as_of_ms=END, **{**UNKNOWN, **sections})


def basis(source: str = "aggregate trades", newest_ms: int | None = END - 400, covered: float | None = 1.0) -> Basis:
    return Basis(source, T0, END, newest_ms, covered)


def section(text: str, title: str) -> str:
    return text.partition(f"## {title}\n\n")[2].partition("\n\n## ")[0].rstrip("\n")


def test_a_report_of_two_sections_word_for_word() -> None:
    flow = order_flow(trades((0, 1, 300_000, False), (500, 1, 100_000, True)), BTC, T0, END)
    text = markdown(report(order_flow=Known(flow, (basis(covered=0.9999),))), ("health", "order_flow"))
    assert (
        text
        == """# BTCUSDT

BTC/USDT, sim spot, as of 2023-11-15 00:10:00 UTC.

## Order flow

2 trades; direction strong buy, ratio 3.000.

| takers | volume | a second |
| --- | --- | --- |
| bought | 3.00000 BTC | 0.0050 |
| sold | 1.00000 BTC | 0.0017 |
| delta | 2.00000 BTC | 0.0033 |

- aggregate trades: newest 0.4 s old, 99.9 % proven of 10 min to 2023-11-15 00:10:00 UTC

## Health

**Not known:** nobody collects this market; start its collector.
"""
    )


def test_a_section_without_data_says_why_and_stays() -> None:
    text = markdown(report())
    assert text.count("## ") == len(SECTIONS)
    assert text.count("**Not known:** nobody collects this market; start its collector.") == len(SECTIONS)


def test_too_few_trades_are_a_reason_and_still_have_an_age() -> None:
    made = trades(*[(1_000 + i * 599, 1_000, 1, False) for i in range(999)])
    source = Known(made, (basis(),))
    text = markdown(report(volume_profile=measured(source, lambda known: volume_profile(known, BTC, T0, END))))
    assert section(text, "Volume profile") == (
        "**Not known:** BTCUSDT: 999 trades are in the window, a profile needs 1000; "
        "wait about 1 s, or ask for a longer window.\n\n"
        "- aggregate trades: newest 0.4 s old, 100 % proven of 10 min to 2023-11-15 00:10:00 UTC"
    )


def test_what_snapshots_cannot_carry_is_refused_by_name() -> None:
    source = both(Known([book([(1, 1)], [(2, 1)])], (basis("book snapshots"),)), Known(trades(), (basis(),)))
    found = measured(source, lambda known: icebergs(known[0][0], known[0], known[1], BTC))
    text = section(markdown(report(icebergs=found)), "Icebergs")
    assert "an iceberg cannot be seen in book snapshots" in text
    assert "pass the raw depth diffs" in text
    assert "- book snapshots: newest" in text
    assert "- aggregate trades: newest" in text


def test_a_source_that_is_missing_is_the_reason_of_all_that_needs_it() -> None:
    known = Known(1, (basis(),))
    assert measured(NOTHING, lambda _: 1) is NOTHING
    assert both(known, NOTHING) is NOTHING
    assert both(NOTHING, known) is NOTHING
    assert both(known, Known(2, (basis(), basis("book snapshots")))) == Known(
        (1, 2), (basis(), basis("book snapshots"))
    )


def test_an_error_that_is_no_refusal_is_not_swallowed() -> None:
    with pytest.raises(ZeroDivisionError):
        measured(Known(0, ()), lambda zero: 1 / zero)


@pytest.mark.parametrize(
    ("newest_ms", "age"),
    [
        (END, "newest 0.0 s old"),
        (END + 1_270, "newest 1.3 s after the report's moment"),
        (END - 119_900, "newest 119.9 s old"),
        (END - 2 * MINUTE_MS, "newest 2 min old"),
        (END - 2 * HOUR_MS, "newest 2 h old"),
        (END - 50 * HOUR_MS, "newest 2 days old"),
        (None, "none there"),
    ],
)
def test_data_has_an_age(newest_ms: int | None, age: str) -> None:
    found = section(markdown(report(icebergs=Known((), (basis(newest_ms=newest_ms),)))), "Icebergs")
    assert found.startswith(f"None found.\n\n- aggregate trades: {age}, 100 % proven")


@pytest.mark.parametrize(
    ("covered", "words"),
    [(1.0, "100 % proven"), (0.99999, "99.9 % proven"), (0.0, "0 % proven"), (None, "completeness not proven")],
)
def test_coverage_is_never_rounded_up_and_never_assumed(covered: float | None, words: str) -> None:
    assert f", {words} of 10 min" in markdown(report(icebergs=Known((), (basis(covered=covered),))))


@pytest.mark.parametrize(("length_ms", "words"), [(DAY_MS, "24 h"), (90 * MINUTE_MS, "90 min"), (2_500, "2.5 s")])
def test_a_window_has_a_length(length_ms: int, words: str) -> None:
    window = Basis("aggregate trades", END - length_ms, END, END, 1.0)
    assert f"proven of {words} to" in markdown(report(icebergs=Known((), (window,))))


def test_an_unknown_section_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(UnknownSection, match="'weather'") as refusal:
        markdown(report(), ("health", "weather"))
    assert "order_flow" in refusal.value.hint


@given(st.sets(st.sampled_from(SECTIONS)))
def test_sections_stand_in_one_order_whatever_is_asked(names: set[str]) -> None:
    text = markdown(report(), names)
    assert text == markdown(report(), sorted(names, reverse=True))
    assert text.count("## ") == len(names)
    titles = [line for line in markdown(report()).splitlines() if line.startswith("## ")]
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        title for name, title in zip(SECTIONS, titles, strict=True) if name in names
    ]


def test_what_is_null_reads_unknown_and_never_zero() -> None:
    empty = report(
        top_of_book=Known(l1_metrics(book([], []), BTC), ()),
        order_flow=Known(order_flow(trades(), BTC, T0, END), ()),
        health=Known(microstructure_health(updates_per_s=50), ()),
    )
    text = markdown(empty, ("top_of_book", "order_flow", "health"))
    assert "Spread unknown bps, microprice unknown." in text
    assert "| buy 10,000 | unknown | unknown | 0 % |" in text
    assert "direction unknown, ratio unknown" in text
    assert "No score: components of 15 % of the weight are known." in text
    assert "| depth | unknown | 35 % |" in text


def genuine_report(made: Capture) -> MarketReport:
    """Return all sections of a capture, as a caller composes them."""
    instrument, (lo_ms, hi_ms) = made.instrument, made.window
    prints = Known(made.trades, (Basis("trades", lo_ms, hi_ms, made.trades["time_ms"].max(), 1.0),))
    books = Known(made.snapshots, (Basis("book snapshots", lo_ms, hi_ms, made.snapshots[-1].time_ms, None),))
    diffs = Known(made.diffs, (Basis("depth diffs", lo_ms, hi_ms, made.diffs[-1].time_ms, 1.0),))
    profile = measured(prints, lambda rows: volume_profile(rows, instrument, lo_ms, hi_ms))
    thin = measured(profile, vacuums_in_profile)
    flow = measured(prints, lambda rows: order_flow(rows, instrument, lo_ms, hi_ms))
    top = measured(books, lambda seen: l1_metrics(seen[-1], instrument))
    return MarketReport(
        instrument=instrument,
        as_of_ms=hi_ms,
        top_of_book=top,
        volume_profile=profile,
        vacuums_in_trades=thin,
        vacuums_in_book=measured(books, lambda seen: vacuums_in_book(seen[-1], instrument)),
        stops=measured(
            both(thin, top),
            lambda known: tuple(
                stop_advice(known[0], position, known[1].mid_price, instrument) for position in ("long", "short")
            ),
        ),
        order_flow=flow,
        absorption=measured(both(books, prints), lambda known: absorptions(*known, instrument)),
        flash_crashes=measured(both(books, prints), lambda known: flash_crashes(*known, None)),
        icebergs=measured(both(diffs, prints), lambda known: icebergs(made.book, *known, instrument)),
        quote_stuffing=measured(both(diffs, prints), lambda known: quote_stuffing(*known, lo_ms, hi_ms)),
        health=measured(
            both(both(books, diffs), flow),
            lambda known: microstructure_health(
                spreads_bps=[spread_bps(b) for b in known[0][0]],
                buy_volume=known[1].buy_volume,
                sell_volume=known[1].sell_volume,
                updates_per_s=updates_per_s(known[0][1], lo_ms, hi_ms),
            ),
        ),
    )


def test_a_report_of_genuine_minutes_knows_every_section() -> None:
    made = capture("raw/binance_usdm/btcusdt_20240808.gz")
    text = markdown(genuine_report(made))
    assert text == markdown(genuine_report(made))
    assert "Not known" not in text
    assert f"{len(made.trades.filter(made.trades['time_ms'] >= made.window[0])):,} trades; direction" in text
    assert "Point of control 61,641.2" in text
    assert "| bid | 61,670.4 | 0.171 BTC | 3 | accumulation |" in text.replace("61,670.40", "61,670.4")
    assert "1,286 levels changed a second while 4.8 % filled: severity critical." in text
    for title, rows in itertools.pairwise(text.split("## ")[1:]):
        assert title.count("\n- ") >= 1, rows
    for line in text.splitlines():
        assert not line.startswith("|") or line.endswith("|")
