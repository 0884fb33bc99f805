"""What a chart shows: candles with where each came from, a volume profile, and what is there of each day."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, Final

from trading.errors import TradingError
from trading.market.timeframe import DAY_MS, MINUTE_MS, Timeframe
from trading_assets.cli.charts import (
    LEFT,
    RIGHT,
    Page,
    Scale,
    as_script,
    line,
    number,
    page,
    rect,
    text,
    time_axis,
    utc,
    value_axis,
)

if TYPE_CHECKING:
    import polars as pl

    from resources.timescale.store import MarketStore
    from trading.market.instrument import Instrument
    from trading.microstructure.volume_profile import VolumeProfile

MOST_BARS: Final = 2_000
"""More are narrower than a line on any screen."""

ORIGINS: Final = {
    "trades": "made from trades, proven by ids",
    "rollup": "rolled up, complete",
    "kline": "the exchange's kline",
    "incomplete": "incomplete: a part or a trade is missing",
    "empty": "no bar: proven that nothing traded",
    "missing": "no bar: nothing is known",
}
"""Where a bar came from, in words."""

READOUT: Final = """
const [svg, out, cross] = ['chart', 'readout', 'cross'].map(name => document.getElementById(name));
const point = svg.createSVGPoint();
function show(event) {
  point.x = event.clientX; point.y = event.clientY;
  const x = point.matrixTransform(svg.getScreenCTM().inverse()).x;
  const at = DATA.lo + (x - DATA.left) / (DATA.right - DATA.left) * (DATA.hi - DATA.lo);
  let low = 0, high = DATA.bars.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (DATA.bars[middle][0] <= at) low = middle + 1; else high = middle;
  }
  const bar = DATA.bars[low - 1];
  cross.setAttribute('x1', x); cross.setAttribute('x2', x);
  cross.style.visibility = at >= DATA.lo && at < DATA.hi ? 'visible' : 'hidden';
  out.textContent = bar && at < bar[0] + DATA.step ? bar[1] : at >= DATA.lo && at < DATA.hi ? 'no bar here' : '';
}
svg.addEventListener('pointermove', show);
"""


class BadPlot(TradingError):
    """A chart was asked for that cannot be drawn."""


def candles(
    market: "MarketStore", symbol: str, timeframe: Timeframe, lo_ms: int | None, hi_ms: int | None, bars: int
) -> tuple[Page, dict[str, Any]]:
    """Return a page of candles, and what it shows in numbers.

    Args:
        market: Open store.
        symbol: Exchange name.
        timeframe: Of the bars.
        lo_ms: First moment; None: `bars` bars before the end.
        hi_ms: Moment before which it ends; None: the end of the last bar that is held.
        bars: How many bars, where no first moment is given.
    """
    from resources.timescale.tables import CANDLE

    instrument, span = market.instrument(symbol), market.span(CANDLE, symbol, timeframe)
    if span is None:
        raise BadPlot(f"{symbol}: no {timeframe} candles are held", "materialize them first")
    hi_ms = timeframe.ceil(span[1] + 1 if hi_ms is None else hi_ms)
    lo_ms = hi_ms - bars * timeframe.ms if lo_ms is None else timeframe.floor(lo_ms)
    if not 0 < (hi_ms - lo_ms) // timeframe.ms <= MOST_BARS:
        asked = (hi_ms - lo_ms) // timeframe.ms
        raise BadPlot(
            f"{asked} bars of {timeframe} were asked for, 1 to {MOST_BARS} can be told apart", "ask for others"
        )
    frame = market.read(CANDLE, symbol, lo_ms, hi_ms, timeframe)
    if frame.is_empty():
        raise BadPlot(f"{symbol}: no {timeframe} candles in {utc(lo_ms)} … {utc(hi_ms)}", "ask for another time")
    holes = _holes(frame, timeframe, lo_ms, hi_ms, market.proven(symbol))
    return candle_page(frame, instrument, timeframe, (lo_ms, hi_ms), holes)


def _holes(
    frame: "pl.DataFrame", timeframe: Timeframe, lo_ms: int, hi_ms: int, proven: Sequence[tuple[int, int]]
) -> list[tuple[int, int, str]]:
    """Return the half-open ranges without a bar: `missing`, or `empty` where ids prove that nothing traded."""
    from trading.market.candle import missing_bars, unproven

    found: list[tuple[int, int, str]] = []
    for lo, hi in missing_bars(frame, timeframe, lo_ms, hi_ms):
        unknown = unproven(lo, hi, proven, timeframe)
        found += [(a, b, "missing") for a, b in unknown]
        edges = [lo, *(edge for part in unknown for edge in part), hi]
        found += [(a, b, "empty") for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b]
    return sorted(found)


def origin(source: str, complete: bool) -> str:
    """Return which of `ORIGINS` a bar has."""
    return source if complete and source in ("trades", "kline", "rollup") else "incomplete"


def candle_page(
    frame: "pl.DataFrame",
    instrument: "Instrument",
    timeframe: Timeframe,
    window: tuple[int, int],
    holes: Sequence[tuple[int, int, str]],
) -> tuple[Page, dict[str, Any]]:
    """Return the page of bars of `CANDLE_SCHEMA` in a window with its holes, and how many bars of each origin it shows."""
    lo_ms, hi_ms = window
    low, high = float(frame["low"].min()), float(frame["high"].max())  # pyright: ignore
    room = (high - low) * 0.04 or high * 0.001
    time = Scale(lo_ms, hi_ms, LEFT, RIGHT)
    price = Scale(low - room, high + room, 440, 24)
    volume = Scale(0, float(frame["volume"].max()) * 1.08 or 1, 580, 490)  # pyright: ignore
    wide = time(lo_ms + timeframe.ms) - LEFT
    parts = [value_axis(price, f"{instrument.quote}"), value_axis(volume, instrument.base, 3), time_axis(time, 580, 24)]
    counts = dict.fromkeys(ORIGINS, 0)
    for lo, hi, kind in holes:
        counts[kind] += (hi - lo) // timeframe.ms
        parts.append(rect(kind, time(lo), 24, time(hi) - time(lo), 556, f"{utc(lo)} … {utc(hi)}: {ORIGINS[kind]}"))
    told: list[tuple[int, str]] = []
    strip: list[tuple[int, str]] = []
    for row in frame.iter_rows(named=True):
        kind = origin(row["source"], row["complete"])
        counts[kind] += 1
        strip.append((row["open_time"], kind))
        parts.append(_bar(row, kind, time(row["open_time"]), wide, price, volume))
        told.append((row["open_time"], _in_words(row, kind, instrument)))
    parts += _strip(strip, time, timeframe)
    last = float(frame["close"][-1])
    parts.append(line("frame last", LEFT, price(last), RIGHT, price(last)))
    parts.append(text(RIGHT + 8, price(last) - 6, number(last, 10.0**-instrument.price_decimals), name="strong"))
    parts.append('<line id="cross" y1="24" y2="580" style="visibility:hidden"/>')
    data = {"lo": lo_ms, "hi": hi_ms, "left": LEFT, "right": RIGHT, "step": timeframe.ms, "bars": told}
    title = f"{instrument.name} · {timeframe} candles · {instrument.venue}"
    shown = "; ".join(f"{n} {ORIGINS[kind]}" for kind, n in counts.items() if n)
    facts = [f"{utc(lo_ms)} … {utc(hi_ms)} UTC. Bars: {shown}."]
    legend = [(kind, words) for kind, words in ORIGINS.items() if counts[kind]]
    html = page(title, facts, "".join(parts), 610, legend, f"const DATA = {as_script(data)};{READOUT}")
    return html, {"bars": len(frame), "start_ms": lo_ms, "end_ms": hi_ms} | counts


def _bar(row: Mapping[str, Any], kind: str, left: float, wide: float, price: Scale, volume: Scale) -> str:
    direction = "up" if row["close"] >= row["open"] else "down"
    name = f"{direction} partial" if kind == "incomplete" else direction
    middle, body = left + wide / 2, max(wide * 0.7, 1)
    top, bottom = price(max(row["open"], row["close"])), price(min(row["open"], row["close"]))
    return (
        line(name, middle, price(row["high"]), middle, price(row["low"]))
        + rect(name, middle - body / 2, top, body, max(bottom - top, 1))
        + rect(f"{direction} volume", middle - body / 2, volume(row["volume"]), body, 580 - volume(row["volume"]))
    )


def _strip(bars: Sequence[tuple[int, str]], time: Scale, timeframe: Timeframe) -> list[str]:
    """Return a band between prices and volumes that tells by colour where each bar came from."""
    parts = [text(LEFT, 458, "origin")]
    for (_, kind), run in groupby(enumerate(bars), key=lambda one: (one[1][0] - one[0] * timeframe.ms, one[1][1])):
        opens = [open_time for _, (open_time, _) in run]
        lo, hi = opens[0], opens[-1] + timeframe.ms
        parts.append(rect(kind, time(lo), 464, time(hi) - time(lo), 9, f"{utc(lo)} … {utc(hi)}: {ORIGINS[kind]}"))
    return parts


def _in_words(row: Mapping[str, Any], kind: str, instrument: "Instrument") -> str:
    tick, lot = 10.0**-instrument.price_decimals, 10.0**-instrument.quantity_decimals
    prices = "  ".join(f"{name} {number(row[name], tick)}" for name in ("open", "high", "low", "close"))
    trades = "" if row["trade_count"] is None else f"  {row['trade_count']} trades"
    partly = (
        f" ({row['n_present']} of {row['n_expected']} parts)" if kind == "incomplete" and row["n_expected"] > 1 else ""
    )
    amount = f"volume {number(row['volume'], lot)} {instrument.base}"
    return f"{utc(row['open_time'])} UTC  {prices}  {amount}{trades}  {ORIGINS[kind]}{partly}"


def profile(market: "MarketStore", symbol: str, lo_ms: int | None, hi_ms: int | None) -> tuple[Page, dict[str, Any]]:
    """Return a page with the volume profile of a window, by default the last 24 hours that are held, and its figures."""
    from resources.timescale.tables import PROFILE_MINUTE
    from trading.microstructure.volume_profile import volume_profile_of_minutes

    instrument, span = market.instrument(symbol), market.span(PROFILE_MINUTE, symbol)
    if span is None:
        raise BadPlot(f"{symbol}: no profile minutes are held", "materialize profile_minutes first")
    hi_ms = Timeframe.M1.ceil(span[1] + MINUTE_MS if hi_ms is None else hi_ms)
    lo_ms = hi_ms - DAY_MS if lo_ms is None else Timeframe.M1.floor(lo_ms)
    minutes = market.read(PROFILE_MINUTE, symbol, lo_ms, hi_ms)
    found = volume_profile_of_minutes(minutes, instrument, lo_ms, hi_ms)
    proven_ms = sum(max(0, min(b, hi_ms) - max(a, lo_ms)) for a, b in market.proven(symbol))
    return profile_page(found, instrument, proven_ms / (hi_ms - lo_ms))


def profile_page(found: "VolumeProfile", instrument: "Instrument", proven: float) -> tuple[Page, dict[str, Any]]:
    """Return the page of a profile whose window ids prove to a share of `proven`."""
    price = Scale(found.bins[0].price_low, found.bins[-1].price_high, 560, 24)
    volume = Scale(0, max(one.volume for one in found.bins) * 1.04, LEFT, RIGHT)
    parts = [value_axis(price, instrument.quote, 12)]
    parts.append(
        rect(
            "area",
            LEFT,
            price(found.value_area_high),
            RIGHT - LEFT,
            price(found.value_area_low) - price(found.value_area_high),
        )
    )
    for one in found.bins:
        top, high = price(one.price_high), price(one.price_low) - price(one.price_high)
        sides = f"bought {one.buy_volume:g}, sold {one.sell_volume:g} {instrument.base}"
        tip = f"{one.price_low:g} … {one.price_high:g}: {sides}, {one.trade_count} trades"
        split = volume(one.buy_volume)
        parts.append(rect("up", LEFT, top, split - LEFT, max(high - 1, 1), tip))
        parts.append(rect("down", split, top, volume(one.volume) - split, max(high - 1, 1), tip))
    poc = price(found.point_of_control)
    tick = 10.0**-instrument.price_decimals
    parts.append(line("poc", LEFT, poc, RIGHT, poc))
    parts.append(text(RIGHT + 8, poc - 6, number(found.point_of_control, tick), name="strong"))
    parts += _volume_axis(volume, instrument.base)
    amount = f"{found.total_volume:,.6g} {instrument.base}"
    told = [
        f"{utc(found.lo_ms)} … {utc(found.hi_ms)} UTC, {found.trade_count:,} trades, {amount}; "
        f"ids prove {proven:.0%} of this time.",
        f"Value area {number(found.value_area_low, tick)} … {number(found.value_area_high, tick)} {instrument.quote} "
        f"with {found.value_area_pct:.0f} % of the volume.",
    ]
    legend = [
        ("up", "takers bought"),
        ("down", "takers sold"),
        ("area", "value area"),
        ("incomplete", "point of control"),
    ]
    title = f"{instrument.name} · volume profile · {instrument.venue}"
    figures = {"trades": found.trade_count, "start_ms": found.lo_ms, "end_ms": found.hi_ms, "proven": proven}
    return page(title, told, "".join(parts), 600, legend), figures | {"point_of_control": found.point_of_control}


def _volume_axis(volume: Scale, unit: str) -> list[str]:
    from trading_assets.cli.charts import round_steps

    steps = round_steps(volume.lo, volume.hi, 8)
    parts = [line("frame", LEFT, 560, RIGHT, 560), text(RIGHT + 8, 577, unit, name="strong")]
    for value in steps[1:]:
        parts.append(text(volume(value), 577, number(value, steps[1]), "middle"))
    return parts


def coverage(rows: Sequence[Mapping[str, Any]], venue: str) -> tuple[Page, dict[str, Any]]:
    """Return a page with a row for each dataset and a cell for each day, as `trading_assets.coverage.coverage` says."""
    from collections import Counter

    from trading_assets.cli.gaps import SIGNS

    if not rows:
        raise BadPlot("nothing is recorded of any day", "materialize some days first")
    days = sorted({row["day"] for row in rows})
    left, top, high = 190, 40, 22
    wide = (RIGHT - left) / len(days)
    parts: list[str] = []
    y = top
    for symbol, of_symbol in groupby(rows, key=lambda row: row["symbol"]):
        parts.append(text(LEFT, y + 14, symbol, name="strong"))
        entries = list(of_symbol)
        for dataset in dict.fromkeys(row["dataset"] for row in entries):
            y += high
            parts.append(text(LEFT + 12, y + 14, dataset))
            for row in (row for row in entries if row["dataset"] == dataset):
                x = left + days.index(row["day"]) * wide
                tip = f"{symbol} {dataset} {row['day']}: {row['state']}, {row['rows']} rows"
                parts.append(rect(f"cell-{row['state']}", x + 0.5, y + 1, wide - 1, high - 2, tip))
        y += high + 14
    every = max(1, -(-len(days) // 10))
    for place in range(0, len(days), every):
        parts.append(text(left + place * wide, top - 12, days[place]))
    parts.append(text(RIGHT + 8, top - 12, "UTC days"))
    counts = Counter(row["state"] for row in rows)
    told = [f"{days[0]} … {days[-1]}. " + ", ".join(f"{counts[name]} {name}" for name in SIGNS if counts[name]) + "."]
    legend = [(f"cell-{name}", name) for name in SIGNS]
    return page(f"What is there · {venue}", told, "".join(parts), int(y), legend), dict(counts)
