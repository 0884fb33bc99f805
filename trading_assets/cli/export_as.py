"""What the stores hold, for backtests in freqtrade, nautilus_trader and hftbacktest.

A bar that is not complete is left out and counted, as none of the three can tell it from a whole one.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from trading.errors import TradingError
from trading.market.timeframe import Timeframe

if TYPE_CHECKING:
    import polars as pl

    from resources.timescale.store import MarketStore

FORMATS: Final = {
    "freqtrade": ("candles", "agg_trades"),
    "freqtrade-json": ("candles", "agg_trades"),
    "nautilus": ("candles", "agg_trades"),
    "hftbacktest": ("agg_trades",),
}
"""By name: the datasets that a format holds; hftbacktest's trades come with the order books held beside them."""


class BadFormat(TradingError):
    """A format was asked for that cannot be written."""


def export_as(
    form: str, market: "MarketStore", dataset: str, symbol: str, timeframe: str, window: tuple[int, int], out: Path
) -> dict[str, Any]:
    """Write one dataset of one symbol for another program; return `rows`, those `left_out`, and the `file`.

    Args:
        form: One of `FORMATS`.
        market: Open store.
        dataset: One that the format holds.
        symbol: Exchange name.
        timeframe: Of candles.
        window: Half-open range of epoch milliseconds.
        out: freqtrade's data folder, nautilus_trader's catalog folder, or the `.npz` file for hftbacktest.

    Raises:
        BadFormat: There is no such form, or it does not hold the dataset, or there is nothing to write.
        FileNotWritten: `out` cannot be written.
        CatalogHolds: The catalog has part of the same time.
    """
    from resources.formats import freqtrade, hftbacktest, nautilus

    if form not in FORMATS:
        raise BadFormat(f"{form} is no format", f"choose one of {', '.join(FORMATS)}")
    if dataset not in FORMATS[form]:
        raise BadFormat(f"{form} cannot hold {dataset}", f"it holds {' and '.join(FORMATS[form])}")
    instrument = market.instrument(symbol)
    kind = "json" if form == "freqtrade-json" else "feather"
    if dataset == "candles":
        bars, left_out = _bars(market, symbol, timeframe, window)
        of = Timeframe(timeframe)
        if form == "nautilus":
            file = nautilus.write_bars(out, instrument, bars, of)
        else:
            file = freqtrade.write_candles(out, instrument, bars, of, kind)
        return {"rows": len(bars), "left_out": left_out, "file": str(file)}
    trades = _trades(market, symbol, window)
    told: dict[str, Any] = {"rows": len(trades), "left_out": 0}
    if form == "nautilus":
        return told | {"file": str(nautilus.write_trades(out, instrument, trades))}
    if form != "hftbacktest":
        return told | {"file": str(freqtrade.write_trades(out, instrument, trades, kind))}
    from resources.timescale.tables import BOOK_SNAPSHOT

    books = market.read(BOOK_SNAPSHOT, symbol, *window)
    events = hftbacktest.events(trades, books, instrument)
    return told | {"books": len(books), "events": len(events), "file": str(hftbacktest.write(out, events))}


def _bars(market: "MarketStore", symbol: str, timeframe: str, window: tuple[int, int]) -> "tuple[pl.DataFrame, int]":
    """Return complete bars, and how many more there are."""
    from resources.timescale.tables import CANDLE
    from trading_assets.cli.export import require_timeframe

    require_timeframe(market, CANDLE, "candles", timeframe)
    bars = market.read(CANDLE, symbol, *window, Timeframe(timeframe))
    complete = bars.filter("complete")
    if complete.is_empty():
        raise BadFormat(f"{symbol}: no complete {timeframe} candle is held in this time", "ask for another")
    return complete, len(bars) - len(complete)


def _trades(market: "MarketStore", symbol: str, window: tuple[int, int]) -> "pl.DataFrame":
    """Return trades by time, those of one moment by id; one without a quantity changed nothing."""
    import polars as pl

    from resources.timescale.tables import TRADE

    trades = market.read(TRADE, symbol, *window).filter(pl.col("quantity") > 0)
    if trades.is_empty():
        raise BadFormat(f"{symbol}: no trade is held in this time", "ask for another")
    return trades.sort("time_ms", maintain_order=True)
