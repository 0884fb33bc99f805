"""A market report is what is known of one market at one moment, as Markdown, each section with what it rests on.

The measures are made elsewhere; here they are only written down. A section says which data it rests on, how old the
newest of it is at the moment of the report and how much of its window is proven to be there. One without a measure says
why, and what to do, in its place: it is never left out and never filled with zeros.
"""

from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Generic, TypeVar

import msgspec

from trading.errors import TradingError
from trading.market.instrument import Instrument
from trading.market.timeframe import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS
from trading.microstructure import report_sections
from trading.microstructure.anomalies import Absorption, FlashCrash
from trading.microstructure.diff_anomalies import Iceberg, QuoteStuffing
from trading.microstructure.health import MicrostructureHealth
from trading.microstructure.l1 import L1Metrics
from trading.microstructure.order_flow import OrderFlow
from trading.microstructure.vacuums import LiquidityVacuum, StopAdvice
from trading.microstructure.volume_profile import VolumeProfile

T = TypeVar("T")
R = TypeVar("R")


class UnknownSection(TradingError):
    """A report has no section of that name."""


class Basis(msgspec.Struct, frozen=True):
    """Data of one kind that something rests on.

    Attributes:
        source: What it is, in the plural: `aggregate trades`.
        lo_ms: First moment of the window that was asked for.
        hi_ms: End of that window.
        newest_ms: Exchange time of the newest of it; None where there is none.
        covered: Share of the window, 0 … 1, in which all of it is proven to be there; None where nothing proves it.
    """

    source: str
    lo_ms: int
    hi_ms: int
    newest_ms: int | None
    covered: float | None


class Known(msgspec.Struct, Generic[T], frozen=True, tag="known"):
    """Something, and the data it rests on."""

    value: T
    basis: tuple[Basis, ...]


class Missing(msgspec.Struct, frozen=True, tag="missing"):
    """Something that is not known: why, what to do about it, and the data that did not suffice."""

    reason: str
    hint: str = ""
    basis: tuple[Basis, ...] = ()


class MarketReport(msgspec.Struct, frozen=True, kw_only=True):
    """The sections of a report, in the order in which they are written.

    Attributes:
        instrument: The market.
        as_of_ms: The moment of the report, exchange time.
    """

    instrument: Instrument
    as_of_ms: int
    top_of_book: Known[L1Metrics] | Missing
    volume_profile: Known[VolumeProfile] | Missing
    vacuums_in_trades: Known[tuple[LiquidityVacuum, ...]] | Missing
    vacuums_in_book: Known[tuple[LiquidityVacuum, ...]] | Missing
    stops: Known[tuple[StopAdvice, ...]] | Missing
    order_flow: Known[OrderFlow] | Missing
    absorption: Known[tuple[Absorption, ...]] | Missing
    flash_crashes: Known[tuple[FlashCrash, ...]] | Missing
    icebergs: Known[tuple[Iceberg, ...]] | Missing
    quote_stuffing: Known[QuoteStuffing | None] | Missing
    health: Known[MicrostructureHealth] | Missing


_WRITERS: Final[dict[str, tuple[str, Callable[[Any, Instrument], list[str]]]]] = {
    "top_of_book": ("Top of book", report_sections.top_of_book),
    "volume_profile": ("Volume profile", report_sections.volume_profile),
    "vacuums_in_trades": ("Liquidity vacuums in trades", report_sections.vacuums),
    "vacuums_in_book": ("Liquidity vacuums in the book", report_sections.vacuums),
    "stops": ("Stops", report_sections.stops),
    "order_flow": ("Order flow", report_sections.order_flow),
    "absorption": ("Absorption", report_sections.absorption),
    "flash_crashes": ("Flash crashes", report_sections.flash_crashes),
    "icebergs": ("Icebergs", report_sections.icebergs),
    "quote_stuffing": ("Quote stuffing", report_sections.quote_stuffing),
    "health": ("Health", report_sections.health),
}
SECTIONS: Final = tuple(_WRITERS)


def measured(source: Known[T] | Missing, measure: Callable[[T], R]) -> Known[R] | Missing:
    """Return what `measure` makes of a source, or why there is nothing: the source's reason or the measure's refusal."""
    if isinstance(source, Missing):
        return source
    try:
        return Known(measure(source.value), source.basis)
    except TradingError as refusal:
        return Missing(refusal.message, refusal.hint, source.basis)


def both(one: Known[T] | Missing, other: Known[R] | Missing) -> Known[tuple[T, R]] | Missing:
    """Return two sources as one that rests on the data of both; the first that is missing says why."""
    if isinstance(one, Missing):
        return one
    if isinstance(other, Missing):
        return other
    return Known((one.value, other.value), one.basis + tuple(b for b in other.basis if b not in one.basis))


def markdown(report: MarketReport, sections: Collection[str] = SECTIONS) -> str:
    """Return a report as Markdown.

    Args:
        report: What to write.
        sections: Names out of `SECTIONS`; their order does not matter.

    Raises:
        UnknownSection: A name is none of `SECTIONS`.
    """
    unknown = sorted(set(sections) - set(SECTIONS))
    if unknown:
        raise UnknownSection(f"a report has no section {unknown[0]!r}", f"sections are {', '.join(SECTIONS)}")
    instrument = report.instrument
    lines = [
        f"# {instrument.name}",
        "",
        f"{instrument.canonical}, {instrument.venue} {instrument.kind}, as of {_moment(report.as_of_ms)}.",
    ]
    for name, (title, write) in _WRITERS.items():
        if name in sections:
            section: Known[Any] | Missing = getattr(report, name)
            lines += ["", f"## {title}", "", *_body(section, instrument, write)]
            lines += ["", *(_rests_on(basis, report.as_of_ms) for basis in section.basis)] if section.basis else []
    return "\n".join(lines) + "\n"


def _body(
    section: Known[Any] | Missing, instrument: Instrument, write: Callable[[Any, Instrument], Sequence[str]]
) -> Sequence[str]:
    if isinstance(section, Missing):
        return [f"**Not known:** {section.reason}{'; ' * bool(section.hint)}{section.hint}."]
    return write(section.value, instrument)


def _rests_on(basis: Basis, as_of_ms: int) -> str:
    age = "none there" if basis.newest_ms is None else f"newest {_age(as_of_ms - basis.newest_ms)}"
    # Rounded down: what is not all there must not read 100 %.
    proven = "completeness not proven" if basis.covered is None else f"{int(1_000 * basis.covered) / 10:g} % proven"
    return f"- {basis.source}: {age}, {proven} of {_span(basis.hi_ms - basis.lo_ms)} to {_moment(basis.hi_ms)}"


def _age(age_ms: int) -> str:
    if age_ms < 0:
        return f"{-age_ms / SECOND_MS:.1f} s after the report's moment"
    if age_ms < 2 * MINUTE_MS:
        return f"{age_ms / SECOND_MS:.1f} s old"
    if age_ms < 2 * HOUR_MS:
        return f"{age_ms // MINUTE_MS} min old"
    return f"{age_ms // HOUR_MS} h old" if age_ms < 2 * DAY_MS else f"{age_ms // DAY_MS} days old"


def _span(length_ms: int) -> str:
    for unit_ms, unit in ((HOUR_MS, "h"), (MINUTE_MS, "min")):
        if length_ms % unit_ms == 0:
            return f"{length_ms // unit_ms} {unit}"
    return f"{length_ms / SECOND_MS:g} s"


def _moment(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / SECOND_MS, UTC):%Y-%m-%d %H:%M:%S} UTC"
