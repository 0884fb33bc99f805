"""Plots for the pages of assets: small PNG pictures of one day of one market, times in UTC.

Drawn straight onto a canvas, without pyplot: nothing is kept between two pictures, and no window system is asked for.
"""

import base64
import io
from typing import TYPE_CHECKING, Any, Final

import dagster as dg

if TYPE_CHECKING:
    import polars as pl
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from trading.market.instrument import Instrument
    from trading.microstructure.volume_profile import VolumeProfile

WIDTH_IN, DPI = 9.0, 100
LARGEST: Final = 60_000
"""Bytes of a picture: it is kept in Dagster's event log, once a run and asset."""

COLOURS: Final = (128, 64, 32, 16)
"""Most colours first; fewer make a restless picture smaller, and it has only a few but for the edges of lines."""

UNEVEN: Final = 20
"""Where the widest spread of a day is as many times its median, or more, the scale is one of multiples."""

LONGEST_BRIDGE_MIN: Final = 5
"""A line goes on over as many minutes without a row, as in a market that trades seldom, and breaks over more."""

INK, FAINT, GRID = "#1f2937", "#6b7280", "#e5e7eb"
BUY, SELL, PRICE, VACUUM = "#0d9488", "#dc6b4f", "#1d4ed8", "#f59e0b"
STYLE: Final = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": GRID,
    "axes.labelcolor": INK,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "text.color": INK,
}


def embedded(png: bytes, title: str) -> dg.MarkdownMetadataValue:
    """Return a picture as metadata that carries it."""
    return dg.MetadataValue.md(f"![{title}](data:image/png;base64,{base64.b64encode(png).decode()})")


def profile_plot(profile: "VolumeProfile", instrument: "Instrument") -> bytes:
    """Return volume by price as PNG, with point of control, value area, and vacuums shaded."""
    import matplotlib as mpl
    from matplotlib.patches import Patch

    from trading.microstructure.vacuums import vacuums_in_profile

    with mpl.rc_context(STYLE):
        figure = figure_of(5.2)
        axes = figure.subplots()
        low, high = profile.bins[0].price_low, profile.bins[-1].price_high
        axes.axhspan(profile.value_area_low, profile.value_area_high, color=PRICE, alpha=0.07, lw=0)
        for vacuum in vacuums_in_profile(profile):
            axes.axhspan(vacuum.price_low, vacuum.price_high, color=VACUUM, alpha=0.35, lw=0)
        for level in profile.bins:
            inside = profile.value_area_low <= level.price_low < profile.value_area_high
            axes.barh(
                [level.price_low] * 2,
                (level.buy_volume, level.sell_volume),
                height=0.9 * profile.bin_size,
                left=(0, level.buy_volume),
                align="edge",
                color=(BUY, SELL),
                alpha=1.0 if inside else 0.5,
            )
        axes.axhline(profile.point_of_control, color=INK, lw=1.2)
        apart = 0.035 * (high - low)
        labels = {
            max(profile.value_area_high, profile.point_of_control + apart): (
                "value area high",
                profile.value_area_high,
            ),
            profile.point_of_control: ("point of control", profile.point_of_control),
            min(profile.value_area_low, profile.point_of_control - apart): ("value area low", profile.value_area_low),
        }
        for at, (name, price) in labels.items():
            text = f"{name}\n{price:,.{instrument.price_decimals}f}"
            axes.text(1.01, at, text, transform=axes.get_yaxis_transform(), va="center", fontsize=8, linespacing=1.1)
        axes.set_ylim(low, high)
        axes.set_xlabel(f"volume, {instrument.base} in bins of {profile.bin_size:,.10g} {instrument.quote}")
        axes.set_ylabel(f"price, {instrument.quote}")
        axes.yaxis.set_major_formatter("{x:,.10g}")
        axes.grid(axis="y", visible=False)
        axes.set_title(
            f"{instrument.canonical}  volume by price, {_day(profile.lo_ms)}, {profile.trade_count:,} trades"
        )
        keys = {"bought": BUY, "sold": SELL, f"value area, {profile.value_area_pct:.0f} %": PRICE, "vacuum": VACUUM}
        shades = {BUY: 1.0, SELL: 1.0, PRICE: 0.15, VACUUM: 0.5}
        handles = [Patch(color=colour, alpha=shades[colour], lw=0, label=name) for name, colour in keys.items()]
        figure.legend(handles=handles, loc="outside lower right", frameon=False, ncols=4, fontsize=8)
        return png_of(figure)


def flow_plot(flow: "pl.DataFrame", instrument: "Instrument") -> bytes:
    """Return price and cumulative delta over a day as PNG.

    Args:
        flow: `MINUTE_FLOW_SCHEMA` and `close` of one UTC day, one row or more.
        instrument: Names units.
    """
    import matplotlib as mpl

    with mpl.rc_context(STYLE):
        figure = figure_of(4.8)
        upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 2))
        at, (price, delta) = _columns(flow, "close", "cumulative_delta")
        upper.plot(at, price, color=PRICE, lw=1.1, **_points(price))
        upper.set_ylabel(f"price, {instrument.quote}")
        upper.yaxis.set_major_formatter("{x:,.10g}")
        upper.set_title(f"{instrument.canonical}  price and cumulative delta of {_day(flow['minute'][0])}")
        lower.fill_between(at, delta, 0, where=delta >= 0, color=BUY, alpha=0.75, lw=0, interpolate=True)
        lower.fill_between(at, delta, 0, where=delta < 0, color=SELL, alpha=0.75, lw=0, interpolate=True)
        lower.plot(at, delta, color=INK, lw=0.7, **_points(delta))
        lower.axhline(0, color=FAINT, lw=0.8)
        lower.set_ylabel(f"bought less sold, {instrument.base}")
        _time_axis(lower, at)
        return png_of(figure)


def book_plot(books: "pl.DataFrame", instrument: "Instrument") -> bytes:
    """Return spread and imbalance over a day as PNG.

    Args:
        books: `BOOK_MINUTE_SCHEMA` of one UTC day, one row or more.
        instrument: Names the market.
    """
    import matplotlib as mpl
    import numpy as np

    with mpl.rc_context(STYLE):
        figure = figure_of(4.8)
        upper, lower = figure.subplots(2, sharex=True, height_ratios=(3, 2))
        at, (mean, widest, balance) = _columns(books, "spread_bps", "spread_bps_max", "imbalance")
        upper.fill_between(at, mean, widest, color=PRICE, alpha=0.25, lw=0, label="up to the widest second")
        upper.plot(at, mean, color=PRICE, lw=1.1, label="mean of the minute", **_points(mean))
        usual: Any = books["spread_bps"].median()
        if usual and np.nanmax(widest) > UNEVEN * usual:
            # A spread of one tick and one of hundreds on the same day: both are seen on a scale of multiples alone.
            upper.set_yscale("log")
            upper.yaxis.set_major_formatter("{x:g}")
        else:
            upper.set_ylim(bottom=0)
        upper.set_ylabel("spread, basis points")
        upper.set_title(f"{instrument.canonical}  spread and imbalance of {_day(books['minute'][0])}")
        upper.legend(loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2, frameon=False, ncols=2)
        lower.fill_between(at, balance, 0, where=balance >= 0, color=BUY, alpha=0.75, lw=0, interpolate=True)
        lower.fill_between(at, balance, 0, where=balance < 0, color=SELL, alpha=0.75, lw=0, interpolate=True)
        lower.plot(at, balance, color=FAINT, lw=0.3, **_points(balance))
        lower.axhline(0, color=FAINT, lw=0.8)
        lower.set_ylim(-1, 1)
        lower.set_yticks((-1, 0, 1), ("asks only", "even", "bids only"))
        lower.set_ylabel("imbalance, top 20")
        _time_axis(lower, at)
        return png_of(figure)


def figure_of(height_in: float) -> "Figure":
    """Return an empty figure as wide as the pictures of assets are."""
    from matplotlib.figure import Figure

    return Figure((WIDTH_IN, height_in), dpi=DPI, layout="constrained")


def _columns(rows: "pl.DataFrame", *names: str) -> tuple[Any, list[Any]]:
    """Return the moments of rows, and columns with NaN for null and where a line is to break."""
    import numpy as np

    from trading.market.timeframe import MINUTE_MS

    minutes = rows["minute"].to_numpy()
    breaks = np.flatnonzero(np.diff(minutes) > (LONGEST_BRIDGE_MIN + 1) * MINUTE_MS) + 1
    at = np.insert(minutes, breaks, minutes[breaks - 1] + MINUTE_MS)
    values = [rows[name].cast(float).fill_null(float("nan")).to_numpy() for name in names]
    return at.astype("datetime64[ms]"), [np.insert(column, breaks, np.nan) for column in values]


def _points(values: Any) -> dict[str, Any]:
    """Return a marker where a line would show nothing: at values without a neighbour."""
    import numpy as np

    known = np.pad(np.isfinite(values), 1)
    alone = np.flatnonzero(known[1:-1] & ~known[:-2] & ~known[2:])
    return {"marker": ".", "markersize": 5, "markevery": alone.tolist()} if len(alone) else {}


def _time_axis(axes: "Axes", at: Any) -> None:
    import numpy as np
    from matplotlib.dates import AutoDateLocator, DateFormatter

    minute = np.timedelta64(1, "m")
    axes.set_xlim(at[0] - minute, max(at[-1] + minute, at[0] + 10 * minute))
    axes.xaxis.set_major_locator(AutoDateLocator(minticks=4, maxticks=12))
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M"))
    axes.set_xlabel("time, UTC")


def _day(time_ms: int) -> str:
    from trading_assets.partitions import day_key

    return day_key(time_ms)


def png_of(figure: "Figure") -> bytes:
    """Return a figure as a PNG of at most `LARGEST` bytes where that can be."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawn = Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba()).convert("RGB")
    png = b""
    for colours in COLOURS:
        out = io.BytesIO()
        # By coverage: the usual median cut would merge the colour of a thin line or a single point into grey.
        few = drawn.quantize(colours, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few.save(out, "png", optimize=True)
        png = out.getvalue()
        if len(png) <= LARGEST:
            break
    return png
