"""Pictures of how the market database is doing: how long questions take, which tables are large, how all of it grows."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Final

from trading_assets.plots import BUY, FAINT, PRICE, SELL, STYLE, figure_of, png_of

if TYPE_CHECKING:
    from resources.timescale.monitor import Latency, Size

SHOWN: Final = 12
"""Tables; the others are small."""


def latency_plot(found: "Sequence[Latency]", most_ms: Mapping[str, float]) -> bytes:
    """Return median, 99th percentile and first call of each question as a PNG, on a scale of multiples."""
    from matplotlib import rc_context

    with rc_context(STYLE):
        figure = figure_of(0.34 * len(found) + 1.6)
        axes = figure.subplots()
        places = range(len(found))
        axes.barh(places, [latency.p99_ms for latency in found], 0.62, color=PRICE, alpha=0.35, label="p99, warm")
        axes.barh(places, [latency.p50_ms for latency in found], 0.62, color=PRICE, label="median, warm")
        axes.plot([latency.first_ms for latency in found], places, "o", color=SELL, label="first on a connection")
        axes.plot(
            [most_ms[latency.shape] for latency in found], places, "|", color=FAINT, markersize=14, label="the most"
        )
        axes.set_yticks(places, [latency.shape for latency in found])
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.set_xlabel("ms")
        axes.set_title("How long questions take")
        figure.legend(loc="outside lower center", frameon=False, ncols=4, fontsize=8)
        return png_of(figure)


def growth_plot(found: "Sequence[Size]", grown: Sequence[tuple[datetime, float]]) -> bytes:
    """Return the largest tables, and all bytes over time, as a PNG."""
    from matplotlib import rc_context
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    with rc_context(STYLE):
        figure = figure_of(4.2)
        left, right = figure.subplots(1, 2)
        largest = found[:SHOWN]
        left.barh(range(len(largest)), [size.total_bytes / 2**20 for size in largest], 0.62, color=BUY)
        left.set_yticks(range(len(largest)), [size.table for size in largest])
        left.invert_yaxis()
        left.set_xlabel("MiB, indexes included")
        left.set_title("Largest tables")
        if len(grown) > 1:
            right.plot([at for at, _ in grown], [value / 2**20 for _, value in grown], color=PRICE)
            locator = AutoDateLocator(minticks=3, maxticks=8)
            right.xaxis.set_major_locator(locator)
            right.xaxis.set_major_formatter(ConciseDateFormatter(locator))
        else:
            right.set_xticks([])
            right.set_yticks([])
            right.text(0.5, 0.5, "one sample; a line needs two", ha="center", color=FAINT, transform=right.transAxes)
        right.set_ylabel("MiB")
        right.set_title("All tables, UTC")
        return png_of(figure)
