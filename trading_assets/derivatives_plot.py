"""A picture of derivatives data: open interest, funding and mark price of one symbol, one above the other in UTC."""

import base64
import io
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import polars as pl

PANELS: Final = (
    ("open_interest", "open_interest", "open interest\n(base coin)"),
    ("funding", "funding_rate", "funding\n(fraction)"),
    ("mark", "mark_price", "mark price\n(quote coin)"),
)
"""Kind, column and label, from top to bottom."""


def derivatives_png(rows: "pl.DataFrame", symbol: str) -> bytes:
    """Return rows of `DERIVATIVE_SCHEMA`, each value once, as a PNG of some 30 KB."""
    import polars as pl
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), dpi=80, layout="constrained")
    panels = figure.subplots(len(PANELS), sharex=True)
    for panel, (kind, column, label) in zip(panels, PANELS, strict=True):
        part = rows.filter(pl.col("kind") == kind).sort("time_ms")
        times = pl.from_epoch(part["time_ms"], time_unit="ms").to_numpy()
        panel.plot(times, part[column].to_numpy(), linewidth=1, marker="." if len(part) < 100 else "", markersize=4)
        panel.set_ylabel(label, fontsize=8)
        panel.tick_params(labelsize=7)
        panel.grid(alpha=0.3)
    panels[0].set_title(f"{symbol}, UTC", fontsize=9)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


def markdown_image(png: bytes) -> str:
    """Return a PNG as Markdown that shows it."""
    return f"![plot](data:image/png;base64,{base64.b64encode(png).decode()})"
