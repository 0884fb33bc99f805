"""What an asset says of what it wrote: rows by day, changes, columns, and the record that its check compares with.

Nothing here decides what is written; an asset hands over its frame and gets its rows back as metadata.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import dagster as dg

from trading_assets.partitions import SymbolWindow, partition_key

if TYPE_CHECKING:
    from resources.timescale.store import MarketStore
    from resources.timescale.tables import Table
    from resources.timescale.writing import Written

STARTED = time.monotonic()


def column_schema(columns: dict[str, str]) -> dict[str, Any]:
    """Return definition metadata for a table with these columns and types."""
    table = dg.TableSchema([dg.TableColumn(name, kind) for name, kind in columns.items()])
    return {"dagster/column_schema": table}


def report(asset: str, symbol: str, changed: dict[str, int]) -> None:
    """Tell whoever started this process that an asset is done (one JSON line), where it asked for that."""
    if os.environ.get("TRADING_PROGRESS"):
        line = {"asset": asset, "symbol": symbol, "at_s": round(time.monotonic() - STARTED, 2), "changed": changed}
        print(json.dumps(line), file=sys.stdout, flush=True)


def draws(context: dg.AssetExecutionContext) -> bool:
    """Return whether a run is to draw pictures; see `trading_assets.automation`."""
    return context.run.tags.get("plots") != "no"


def record_days(
    context: dg.AssetExecutionContext,
    market: "MarketStore",
    table: "Table",
    window: SymbolWindow,
    written: "Written",
    store: str = "postgres",
    timeframe: Any = None,
    told: Mapping[str, Mapping[str, Any]] | None = None,
    **metadata: Any,
) -> None:
    """Record each day of a write for the asset's check and emit its rows, and what is `told` of it, as metadata."""
    asset = context.asset_key.to_user_string()
    rows = market.record_days(table, asset, window.symbol, window.lo_ms, window.hi_ms, timeframe)
    finish(context, window, rows, {store: written.changed}, told, **metadata)


def finish(
    context: dg.AssetExecutionContext,
    window: SymbolWindow,
    rows_by_day: dict[str, int],
    changed: dict[str, int],
    told: Mapping[str, Mapping[str, Any]] | None = None,
    **metadata: Any,
) -> None:
    """Emit one materialization's metadata for each day of the window."""
    last = window.days()[-1]
    for day in window.days():
        values: dict[str, Any] = {"dagster/partition_row_count": rows_by_day.get(day, 0)}
        values |= (told or {}).get(day, {})
        if day == last:
            # What concerns the whole run stands once, on its last day: 360 copies would say no more.
            values |= {f"changed_{store}": rows for store, rows in changed.items()} | metadata
        context.add_asset_metadata(values, partition_key=partition_key(window.symbol, day))
    report(context.asset_key.to_user_string(), window.symbol, changed)
