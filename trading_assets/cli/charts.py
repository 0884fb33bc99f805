"""Charts as one HTML page that needs nothing else: drawn as SVG, in the reader's light or dark colours, times in UTC.

Time runs evenly, so that what is missing is seen as a hole of its own length and never closed up. Functions here know no
store; they take what is to be drawn.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from typing import Final

from trading.market.timeframe import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS

WIDTH: Final = 1200
LEFT: Final = 12
RIGHT: Final = 1100
"""Where the plot ends and the labels of its prices begin."""

STEPS_MS: Final = (
    *(n * SECOND_MS for n in (1, 5, 10, 30)),
    *(n * MINUTE_MS for n in (1, 2, 5, 10, 15, 30)),
    *(n * HOUR_MS for n in (1, 2, 4, 6, 12)),
    *(n * DAY_MS for n in (1, 2, 5, 10, 30, 90, 365)),
)

STYLE: Final = """
:root { color-scheme: light dark; --page: #ffffff; --text: #1b2330; --faint: #6b7482; --grid: #e6e9ee; --up: #12805c;
  --down: #c93a3a; --trades: #2f6fde; --rollup: #7a55d1; --kline: #8a93a0; --incomplete: #d98200; --missing: #d1243f;
  --empty: #b4bbc6; --pending: #7fa8e8; --area: #2f6fde1f; }
@media (prefers-color-scheme: dark) { :root { --page: #12161d; --text: #dfe5ee; --faint: #8d97a6; --grid: #262d38;
  --up: #2fb98a; --down: #f0645f; --trades: #5b94f5; --rollup: #a586f0; --kline: #7d8797; --incomplete: #f0a63a;
  --missing: #ff5a73; --empty: #4a5362; --pending: #3c5f96; --area: #5b94f52b; } }
body { margin: 24px auto; max-width: 1240px; padding: 0 16px; background: var(--page); color: var(--text);
  font: 14px/1.45 system-ui, sans-serif; }
h1 { font-size: 20px; margin: 0 0 4px; } p { margin: 0 0 6px; color: var(--faint); }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--faint); font-size: 12px; }
svg text.strong { fill: var(--text); font-weight: 600; } .grid { stroke: var(--grid); } .frame { stroke: var(--faint); }
.readout { font-variant-numeric: tabular-nums; color: var(--text); min-height: 1.5em; }
.key { display: inline-block; margin: 6px 18px 0 0; } .key svg { width: 22px; height: 12px; display: inline-block; }
.up { fill: var(--up); stroke: var(--up); } .down { fill: var(--down); stroke: var(--down); } .partial { opacity: .45; }
.volume { opacity: .5; } .trades { fill: var(--trades); } .rollup { fill: var(--rollup); } .kline { fill: var(--kline); }
.incomplete { fill: var(--incomplete); } .missing { fill: url(#hatch-missing); } .empty { fill: url(#hatch-empty); }
.area { fill: var(--area); } .poc { stroke: var(--incomplete); stroke-width: 2; } .last { stroke-dasharray: 4 4; }
.cell-available { fill: var(--up); } .cell-degraded { fill: var(--incomplete); } .cell-pending { fill: var(--pending); }
.cell-empty { fill: var(--empty); } .cell-missing { fill: url(#hatch-missing); } #cross { stroke: var(--faint); }
"""

HATCHES: Final = "".join(
    f'<pattern id="hatch-{name}" width="6" height="6" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    f'<rect width="6" height="6" fill="var(--{name})" opacity=".14"/>'
    f'<line y2="6" stroke="var(--{name})" stroke-width="2"/></pattern>'
    for name in ("missing", "empty")
)


@dataclass(frozen=True)
class Scale:
    """Maps values onto pixels, evenly."""

    lo: float
    hi: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the pixel of a value."""
        return round(self.start + (value - self.lo) / (self.hi - self.lo or 1) * (self.end - self.start), 2)


class Page(str):
    """A whole HTML page, which a notebook shows in a frame of its own."""

    def _repr_html_(self) -> str:
        return f'<iframe srcdoc="{escape(self)}" style="width: 100%; height: 780px; border: 0"></iframe>'


def page(
    title: str, told: Sequence[str], svg: str, height: int, legend: Iterable[tuple[str, str]], script: str = ""
) -> Page:
    """Return a whole page.

    Args:
        title: Heading, and title of the window.
        told: Sentences below it.
        svg: Content of the drawing.
        height: Of the drawing, in pixels of a width of `WIDTH`.
        legend: CSS class and meaning of each colour.
        script: JavaScript of the page.
    """
    keys = "".join(
        f'<span class="key"><svg viewBox="0 0 22 12"><rect class="{name}" width="22" height="12" rx="2"/></svg> '
        f"{escape(text)}</span>"
        for name, text in legend
    )
    return Page(
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body><h1>{escape(title)}</h1>'
        f"{''.join(f'<p>{escape(line)}</p>' for line in told)}"
        f'<div class="readout" id="readout"></div><svg id="chart" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="{escape(title)}"><defs>{HATCHES}</defs>{svg}</svg><div>{keys}</div>'
        f"{f'<script>{script}</script>' if script else ''}</body></html>\n"
    )


def rect(name: str, left: float, top: float, width: float, height: float, tip: str = "") -> str:
    """Return a rectangle, with a text that is shown while the pointer rests on it."""
    inner = f"<title>{escape(tip)}</title>" if tip else ""
    size = f'x="{left:.2f}" y="{top:.2f}" width="{max(width, 0):.2f}" height="{max(height, 0):.2f}"'
    return f'<rect class="{name}" {size}>{inner}</rect>'


def line(name: str, x1: float, y1: float, x2: float, y2: float) -> str:
    """Return a line."""
    return f'<line class="{name}" x1="{x1:.2f}" y1="{y1:.2f}" x2="{x2:.2f}" y2="{y2:.2f}"/>'


def text(x: float, y: float, words: str, anchor: str = "start", name: str = "") -> str:
    """Return a text."""
    return f'<text x="{x:.2f}" y="{y:.2f}" text-anchor="{anchor}" class="{name}">{escape(words)}</text>'


def round_steps(lo: float, hi: float, most: int) -> list[float]:
    """Return values of 1, 2 or 5 times a power of ten apart, at most so many, inside `[lo, hi]`."""
    if not hi > lo:
        return [lo]
    power = 10 ** math.floor(math.log10((hi - lo) / most))
    step = next(power * n for n in (1, 2, 5, 10, 20) if (hi - lo) / (power * n) <= most)
    return [n * step for n in range(math.ceil(lo / step), math.floor(hi / step) + 1)]


def number(value: float, step: float) -> str:
    """Return a value with as many decimals as its steps need."""
    return f"{value:,.{max(0, -math.floor(math.log10(step) + 1e-9)) if step > 0 else 0}f}"


def utc(time_ms: int, seconds: bool = False) -> str:
    """Return a moment as text."""
    return datetime.fromtimestamp(time_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S" if seconds else "%Y-%m-%d %H:%M")


def time_axis(scale: Scale, y: float, top: float) -> str:
    """Return lines and labels of round UTC times below a plot; a midnight is told by its date."""
    lo, hi = int(scale.lo), int(scale.hi)
    step = next((step for step in STEPS_MS if (hi - lo) / step <= 9), STEPS_MS[-1])
    parts = [line("frame", LEFT, y, RIGHT, y), text(RIGHT + 8, y + 17, "UTC")]
    for at_ms in range(-(-lo // step) * step, hi + 1, step):
        midnight, x = at_ms % DAY_MS == 0, scale(at_ms)
        words = utc(at_ms)[:10] if midnight else utc(at_ms, step < MINUTE_MS)[11:]
        parts.append(line("grid", x, top, x, y))
        parts.append(text(min(max(x, 36), RIGHT - 36), y + 17, words, "middle", "strong" if midnight else ""))
    return "".join(parts)


def value_axis(scale: Scale, unit: str, most: int = 8) -> str:
    """Return lines and labels of round values to the right of a plot, under its unit."""
    steps = round_steps(scale.lo, scale.hi, most)
    apart = steps[1] - steps[0] if len(steps) > 1 else abs(steps[0]) or 1
    parts = [text(RIGHT + 8, scale.end - 6, unit, name="strong")]
    for value in steps:
        parts.append(line("grid", LEFT, scale(value), RIGHT, scale(value)))
        parts.append(text(RIGHT + 8, scale(value) + 4, number(value, apart)))
    return "".join(parts)


def as_script(value: object) -> str:
    """Return a value as JavaScript that no text in it can leave."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")
