"""Market reports: what is known with its data, what is not with its reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.trading.microstructure.made import BTC, END, T0, book, trades
from trading.market.timeframe import DAY_MS, HOUR_MS, MINUTE_MS
from trading.microstructure.diff_anomalies import icebergs
from trading.microstructure.health import microstructure_health
from trading.microstructure.l1 import l1_metrics
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
