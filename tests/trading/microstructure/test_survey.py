"""Surveys: every measure of what was observed, and of what was not the reason."""

import msgspec
import pytest

from tests.trading.microstructure.captured import Capture, capture
from tests.trading.microstructure.made import BTC, END, T0, book, trades
from trading.microstructure.diff_anomalies import icebergs, updates_per_s
from trading.microstructure.health import microstructure_health
from trading.microstructure.l1 import l1_metrics, spread_bps
from trading.microstructure.report import SECTIONS, Basis, Known, MarketReport, Missing, markdown
from trading.microstructure.survey import Observed, RawDepth, survey
from trading.microstructure.vacuums import vacuums_in_profile
from trading.microstructure.volume_profile import volume_profile

BOOKLESS = Missing("the book is not in step", "wait for its snapshot")
NOTHING = Missing("nobody collects this market", "start its collector")
FROM_BOOKS = {"top_of_book", "vacuums_in_book", "stops", "absorption", "flash_crashes"}
FROM_DIFFS = {"icebergs", "quote_stuffing"}


@pytest.fixture
def usdm() -> Observed:
    return observed(capture("raw/binance_usdm/btcusdt_20240808.gz"))


def observed(made: Capture) -> Observed:
    lo_ms, hi_ms = made.window
    prints = Known(made.trades, (Basis("trades", lo_ms, hi_ms, made.trades["time_ms"].max(), 1.0),))
    return Observed(
        instrument=made.instrument,
        as_of_ms=hi_ms,
        trades=prints,
        recent_trades=prints,
        books=Known(made.snapshots, (Basis("book snapshots", lo_ms, hi_ms, made.snapshots[-1].time_ms, None),)),
        depth=Known(
            RawDepth(made.book, made.diffs), (Basis("depth diffs", lo_ms, hi_ms, made.diffs[-1].time_ms, 1.0),)
        ),
    )


def missing(seen: Observed) -> dict[str, str]:
    report = survey(seen)
    return {name: s.reason for name in SECTIONS if isinstance(s := getattr(report, name), Missing)}


def test_a_survey_of_genuine_minutes_is_each_measure_by_itself(usdm: Observed) -> None:
    made, report = capture("raw/binance_usdm/btcusdt_20240808.gz"), survey(usdm)
    instrument, (lo_ms, hi_ms) = made.instrument, made.window
    assert missing(usdm) == {}
    profile = volume_profile(made.trades, instrument, lo_ms, hi_ms)
    assert report.volume_profile.value == profile
    assert report.vacuums_in_trades.value == vacuums_in_profile(profile)
    assert report.top_of_book.value == l1_metrics(made.snapshots[-1], instrument)
    assert report.icebergs.value == icebergs(made.book, made.diffs, made.trades, instrument)
    depths = [b.bids[:20, 1].sum() + b.asks[:20, 1].sum() for b in made.snapshots]
    assert report.health.value == microstructure_health(
        spreads_bps=[spread_bps(b) for b in made.snapshots],
        depth_now=depths[-1],
        depth_mean=sum(depths) / len(depths),
        buy_volume=report.order_flow.value.buy_volume,
        sell_volume=report.order_flow.value.sell_volume,
        updates_per_s=updates_per_s(made.diffs, lo_ms, hi_ms),
    )
    assert [basis.source for basis in report.health.basis] == ["book snapshots", "trades", "depth diffs"]


def test_the_report_of_genuine_minutes_shows_what_was_found(usdm: Observed) -> None:
    text = markdown(survey(usdm))
    assert text == markdown(survey(usdm))
    assert "Not known" not in text
    assert "21,308 trades; direction neutral, ratio 1.062." in text
    assert "Point of control 61,641.25" in text
    assert "| bid | 61,670.40 | 0.171 BTC | 3 | accumulation |" in text
    assert "1,286 levels changed a second while 4.8 % filled: severity critical." in text
    assert all(part.count("\n- ") >= 1 for part in text.split("## ")[1:])


def test_a_survey_is_one_json_object_whether_known_or_missing(usdm: Observed) -> None:
    report = survey(msgspec.structs.replace(usdm, depth=NOTHING))
    assert msgspec.json.decode(msgspec.json.encode(report), type=MarketReport) == report


def test_what_is_missing_takes_only_what_needs_it_along(usdm: Observed) -> None:
    assert missing(msgspec.structs.replace(usdm, books=BOOKLESS)) == dict.fromkeys(FROM_BOOKS, BOOKLESS.reason)
    assert missing(msgspec.structs.replace(usdm, depth=NOTHING)) == dict.fromkeys(FROM_DIFFS, NOTHING.reason)
    assert missing(msgspec.structs.replace(usdm, trades=NOTHING)) == dict.fromkeys(
        {"volume_profile", "vacuums_in_trades", "stops"}, NOTHING.reason
    )
    assert missing(msgspec.structs.replace(usdm, recent_trades=NOTHING)) == dict.fromkeys(
        {"order_flow", "absorption", *FROM_DIFFS} | {"flash_crashes"}, NOTHING.reason
    )


def test_health_is_of_the_sources_that_are_known(usdm: Observed) -> None:
    of_books = survey(msgspec.structs.replace(usdm, depth=NOTHING, recent_trades=NOTHING)).health
    assert of_books.value.known_weight == pytest.approx(0.6)
    assert [basis.source for basis in of_books.basis] == ["book snapshots"]
    of_flow = survey(msgspec.structs.replace(usdm, depth=NOTHING, books=BOOKLESS)).health
    assert (of_flow.value.overall, of_flow.value.spread_stability, of_flow.value.depth) == (None, None, None)


def test_snapshots_in_the_place_of_diffs_are_refused_by_name_and_nothing_else_suffers(usdm: Observed) -> None:
    made = capture("raw/binance_usdm/btcusdt_20240808.gz")
    refused = msgspec.structs.replace(usdm, depth=Known(RawDepth(made.book, made.snapshots), usdm.depth.basis))
    assert missing(refused) == {
        "icebergs": "an iceberg cannot be seen in book snapshots: it happens between two of them",
        "quote_stuffing": "quote stuffing cannot be seen in book snapshots: it happens between two of them",
    }
    health = survey(refused).health
    assert health.value.update_rate is None
    assert [basis.source for basis in health.basis] == ["book snapshots", "trades"]


def test_nothing_observed_is_a_report_of_reasons() -> None:
    nothing = Observed(
        instrument=BTC, as_of_ms=END, trades=NOTHING, recent_trades=NOTHING, books=NOTHING, depth=NOTHING
    )
    assert missing(nothing) == {
        **dict.fromkeys(SECTIONS, NOTHING.reason),
        "health": "neither books nor trades nor diffs are known",
    }
    assert markdown(survey(nothing)).count("**Not known:**") == len(SECTIONS)


def test_a_window_without_a_trade_or_a_book_says_so() -> None:
    window = (Basis("anything", T0, END, None, 1.0),)
    empty = Observed(
        instrument=BTC,
        as_of_ms=END,
        trades=Known(trades(), window),
        recent_trades=Known(trades(), window),
        books=Known((), window),
        depth=Known(RawDepth(book([], []), ()), window),
    )
    assert missing(empty) == {
        "top_of_book": "no snapshot of the book is in the window",
        "vacuums_in_book": "no snapshot of the book is in the window",
        "volume_profile": "BTCUSDT: 0 trades are in the window, a profile needs 1000",
        "vacuums_in_trades": "BTCUSDT: 0 trades are in the window, a profile needs 1000",
        "stops": "BTCUSDT: 0 trades are in the window, a profile needs 1000",
    }
    assert survey(empty).order_flow.value.direction is None
    assert survey(empty).health.value.overall is None


def test_a_book_without_a_side_has_no_place_for_a_stop() -> None:
    window = (Basis("anything", T0, END, T0, 1.0),)
    thousand = trades(*[(0, 1_000, 1, False)] * 1_000)
    half = Observed(
        instrument=BTC,
        as_of_ms=END,
        trades=Known(thousand, window),
        recent_trades=Known(thousand, window),
        books=Known((book([(1_000, 5)], []),), window),
        depth=NOTHING,
    )
    assert missing(half)["stops"] == "the book lacks a side, so that there is no price to open a position at"
