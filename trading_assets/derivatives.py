"""Derivatives data of one symbol and day: open interest, funding and mark prices of its perpetual.

One row is one version of one value, keyed by kind, exchange time and the moment since which it is known. Open interest
is kept every five minutes for thirty days by the exchange, fundings for ever, mark prices not at all: they are taken off the
wire, the last of each minute, where contracts are collected, and as they were when asked for. So a day is asked for again
for as long as it can change, and what it lacks is said as its coverage. An exchange without a futures root writes nothing.
"""

from typing import TYPE_CHECKING, Any

import dagster as dg

from resources.wiring import ExchangeClient, MarketDatabase, TradeJournalReader
from trading.errors import TradingError
from trading_assets.catalogue import daily
from trading_assets.materialized import column_schema, draws, finish, record_days
from trading_assets.partitions import SymbolWindow, symbol_window
from trading_assets.trades import contract_batches, instruments

if TYPE_CHECKING:
    import polars as pl

    from resources.derivatives import Fetched
    from trading.market.derivative_coverage import DayCoverage
    from trading.stream.events import MarkPrice

DERIVATIVE_COLUMNS = {
    "kind": "open_interest | funding | mark",
    "time": "timestamptz, the exchange's",
    "known_at": "timestamptz, when this version was recorded",
    "open_interest": "float8, base coin",
    "open_interest_value": "float8, quote coin",
    "funding_rate": "float8, fraction of the notional for one interval",
    "mark_price": "float8, quote coin",
    "index_price": "float8, quote coin",
}


@dg.asset(
    **daily("derivatives", "postgres", "binance"),
    deps=[instruments, contract_batches],
    metadata=column_schema(DERIVATIVE_COLUMNS),
    description=__doc__,
)
def derivatives(
    context: dg.AssetExecutionContext, market: MarketDatabase, exchange: ExchangeClient, journal: TradeJournalReader
) -> None:
    """Open interest, funding and mark prices; the description above is the asset's page."""
    from resources.timescale.derivatives import add_versions, derivatives_as_of, set_coverage
    from resources.timescale.tables import DERIVATIVE
    from trading.market.derivatives import mark_rows
    from trading.stream.usdm import minute_marks

    window = symbol_window(context)
    fetched = exchange.futures.fetch(window.symbol, window.lo_ms, window.hi_ms)
    if fetched.absent:
        noted = {day: rows for day, (rows, _) in market.store.noted_days("derivatives", window.symbol).items()}
        finish(context, window, noted, {"postgres": 0}, absent=fetched.absent)
        return
    marks = minute_marks(_collected_marks(context, journal, window), fetched.now_ms)
    found = fetched.rows.vstack(mark_rows(marks, fetched.now_ms))
    written = add_versions(market.store, window.symbol, found, window.lo_ms, window.hi_ms)
    held = derivatives_as_of(market.store, window.symbol, window.lo_ms, window.hi_ms)
    days = covered(held, fetched, window)
    set_coverage(market.store, window.symbol, days)
    plot = _plot(held, window.symbol) if draws(context) else {}
    record_days(context, market.store, DERIVATIVE, window, written, **_states(days), **plot)


def _collected_marks(
    context: dg.AssetExecutionContext, journal: TradeJournalReader, window: SymbolWindow
) -> "list[MarkPrice]":
    """Return the mark prices that the collector of contracts holds; none, and why, where its journal cannot be read."""
    try:
        marks, warnings = journal.marks(window.symbol, window.lo_ms, window.hi_ms)
    except TradingError as error:  # the exchange keeps open interest for thirty days only, so that it cannot wait
        context.log.error("no mark prices off the wire: %s", error)
        return []
    for warning in warnings:
        context.log.warning(warning)
    return marks


def covered(held: "pl.DataFrame", fetched: "Fetched", window: SymbolWindow) -> "list[DayCoverage]":
    """Return what is held of each day and kind of a window."""
    from trading.market.derivative_coverage import LONGEST_MS, day_coverage
    from trading.market.timeframe import DAY_MS

    times = {kind: held.filter(held["kind"] == kind)["time_ms"].to_list() for kind in LONGEST_MS}
    return [
        day_coverage(
            kind, day_ms, times[kind], fetched.now_ms, day_ms >= fetched.served_from_ms.get(kind, fetched.now_ms)
        )
        for day_ms in range(window.lo_ms, window.hi_ms, DAY_MS)
        for kind in LONGEST_MS
    ]


def _states(days: "list[DayCoverage]") -> dict[str, str]:
    """Return by kind how many days are in which state."""
    from collections import Counter

    states = {kind: Counter(d.state for d in days if d.kind == kind) for kind in dict.fromkeys(d.kind for d in days)}
    return {
        f"coverage_{kind}": ", ".join(f"{state} {n}" for state, n in sorted(counted.items()))
        for kind, counted in states.items()
    }


def _plot(held: "pl.DataFrame", symbol: str) -> dict[str, Any]:
    from trading_assets.derivatives_plot import derivatives_png, markdown_image

    return {} if held.is_empty() else {"plot": dg.MetadataValue.md(markdown_image(derivatives_png(held, symbol)))}
