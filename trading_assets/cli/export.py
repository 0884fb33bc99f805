"""What the stores hold, as a file for other programs."""

from pathlib import Path
from typing import TYPE_CHECKING

from resources.whole_file import whole_file
from trading.errors import TradingError
from trading.market.timeframe import CANDLE_TIMEFRAMES, Timeframe

if TYPE_CHECKING:
    import polars as pl

    from resources.timescale.store import MarketStore
    from resources.timescale.tables import Table

DATASETS = {
    "agg_trades": "TRADE",
    "candles": "CANDLE",
    "indicators": "INDICATOR",
    "snapshots": "SNAPSHOT",
    "outcomes": "OUTCOME",
    "features": "FEATURE",
    "profile_minutes": "PROFILE_MINUTE",
    "volume_profiles": "VOLUME_PROFILE",
    "liquidity_vacuums": "LIQUIDITY_VACUUM",
    "order_flow": "ORDER_FLOW",
    "order_books": "ORDER_BOOK",
    "market_reports": "MARKET_REPORT",
}
"""By name: the table, in `resources.timescale.tables`."""


class BadExport(TradingError):
    """An export was asked for that cannot be made."""


def export(market: "MarketStore", dataset: str, symbol: str, timeframe: str, lo_ms: int, hi_ms: int, out: Path) -> int:
    """Write one dataset of one symbol to `out` (`.csv` or `.parquet`) and return its rows.

    The file appears whole or not at all. A list is JSON text in CSV, which has no lists.
    """
    if dataset not in DATASETS:
        raise BadExport(f"{dataset} is no dataset", f"choose one of {', '.join(DATASETS)}")
    if out.suffix not in {".csv", ".parquet"}:
        raise BadExport(f"--out {out} is neither .csv nor .parquet", "name the file accordingly")
    if lo_ms >= hi_ms:
        raise BadExport("--start is not before --end", "swap them")
    frame = rows(market, dataset, symbol, timeframe, lo_ms, hi_ms)
    with whole_file(out) as unfinished:
        if out.suffix == ".parquet":
            frame.write_parquet(unfinished, compression="zstd")
        else:
            _without_lists(frame).write_csv(unfinished, datetime_format="%Y-%m-%dT%H:%M:%S%.3fZ")
    return len(frame)


def _without_lists(frame: "pl.DataFrame") -> "pl.DataFrame":
    import polars as pl

    lists = [name for name, kind in frame.schema.items() if isinstance(kind, pl.List)]
    text = pl.element().cast(pl.String).fill_null("null")
    return frame.with_columns(pl.format("[{}]", pl.col(name).list.eval(text).list.join(",")) for name in lists)


def rows(market: "MarketStore", dataset: str, symbol: str, timeframe: str, lo_ms: int, hi_ms: int) -> "pl.DataFrame":
    """Return one dataset with times in UTC and trades in exact decimals' nearest floats."""
    import polars as pl

    from resources.timescale import tables
    from trading.market.instrument import exact_quotient

    table = getattr(tables, DATASETS[dataset])
    if table.by_timeframe:
        require_timeframe(market, table, dataset, timeframe)
    frame = market.read(table, symbol, lo_ms, hi_ms, Timeframe(timeframe) if table.by_timeframe else None)
    instrument = market.instrument(symbol)
    name = table.time_column
    frame = frame.with_columns(
        pl.from_epoch(pl.col(table.time), time_unit="ms").dt.replace_time_zone("UTC").alias(table.time)
    ).rename({table.time: name})
    if table is tables.TRADE:
        frame = frame.with_columns(
            exact_quotient(frame["price"], instrument.price_decimals),
            exact_quotient(frame["quantity"], instrument.quantity_decimals),
        )
    moments = [column for column in frame.columns if column.endswith("_ms")]
    frame = frame.with_columns(
        pl.from_epoch(column, time_unit="ms").dt.replace_time_zone("UTC") for column in moments
    ).rename({column: column.removesuffix("_ms") for column in moments})
    return frame.select(name, *(column for column in frame.columns if column != name))


def require_timeframe(market: "MarketStore", table: "Table", dataset: str, timeframe: str) -> None:
    """Raise `BadExport` unless rows of a timeframe are kept."""
    if timeframe not in (kept := market.counts(table)):
        listed = ", ".join(name for name in CANDLE_TIMEFRAMES if name in kept)
        hint = f"choose one of {listed}" if listed else "materialize them first"
        raise BadExport(f"--timeframe {timeframe or '(none)'}: no such {dataset} are kept", hint)
