"""nautilus_trader's Parquet catalog: bars and trade ticks of one instrument, in files named after the time they span.

The layout is that of releases 1.213 to 1.221: prices and sizes are 128-bit integers of 16 decimals, times are nanoseconds.
A bar's time is its close, before which a strategy may not see it.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from resources.whole_file import whole_file
from trading.errors import TradingError
from trading.market.instrument import Instrument
from trading.market.timeframe import Timeframe

DECIMALS: Final = 16
BUYER, SELLER = 1, 2
"""Who took."""

UNITS: Final = {"s": "SECOND", "m": "MINUTE", "h": "HOUR", "d": "DAY"}


class CatalogHolds(TradingError):
    """A catalog already holds part of the time that was to be written."""


def write_bars(catalog: Path, instrument: Instrument, bars: pl.DataFrame, timeframe: Timeframe) -> Path:
    """Write `data/bar/{instrument}-{n}-{unit}-LAST-EXTERNAL/{first}_{last}.parquet`.

    Raises:
        CatalogHolds: Another file there has bars of the same time, which would then be read twice.
    """
    bar_type = f"{_name(instrument)}-{timeframe.value[:-1]}-{UNITS[timeframe.value[-1]]}-LAST-EXTERNAL"
    closes = _nanoseconds(bars["open_time"] + timeframe.ms)
    columns = {
        **{side: _fixed_floats(bars[side], instrument.price_decimals) for side in ("open", "high", "low", "close")},
        "volume": _fixed_floats(bars["volume"], instrument.quantity_decimals),
        "ts_event": closes,
        "ts_init": closes,
    }
    return _write(catalog / "data" / "bar" / bar_type, columns, _about(instrument) | {"bar_type": bar_type})


def write_trades(catalog: Path, instrument: Instrument, trades: pl.DataFrame) -> Path:
    """Write `data/trade_tick/{instrument}/{first}_{last}.parquet`; `trades` are `TRADE_SCHEMA` by time.

    Raises:
        CatalogHolds: Another file there has trades of the same time, which would then be read twice.
    """
    times = _nanoseconds(trades["time_ms"])
    sold = trades["buyer_is_maker"].to_numpy()
    columns = {
        "price": _fixed(trades["price"], instrument.price_decimals),
        "size": _fixed(trades["quantity"], instrument.quantity_decimals),
        "aggressor_side": pa.array(sold * (SELLER - BUYER) + BUYER, pa.uint8()),
        "trade_id": trades["agg_trade_id"].cast(pl.String).to_arrow().cast(pa.string()),
        "ts_event": times,
        "ts_init": times,
    }
    return _write(catalog / "data" / "trade_tick" / _name(instrument), columns, _about(instrument))


def _name(instrument: Instrument) -> str:
    return f"{instrument.name}.{instrument.venue.upper()}"


def _about(instrument: Instrument) -> dict[str, str]:
    return {
        "instrument_id": _name(instrument),
        "price_precision": str(instrument.price_decimals),
        "size_precision": str(instrument.quantity_decimals),
    }


def _write(folder: Path, columns: dict[str, pa.Array], about: dict[str, str]) -> Path:
    times = columns["ts_init"]
    first, last = (_stamp(times[place].as_py()) for place in (0, -1))
    folder.mkdir(parents=True, exist_ok=True)
    for there in folder.glob("*_*.parquet"):
        begin, _, end = there.stem.partition("_")
        if begin <= last and first <= end and (begin, end) != (first, last):
            raise CatalogHolds(f"{there} has part of the same time", "delete it, or name another folder")
    schema = pa.schema([pa.field(name, column.type, nullable=False) for name, column in columns.items()], about)
    path = folder / f"{first}_{last}.parquet"
    with whole_file(path) as unfinished:
        pq.write_table(pa.table(list(columns.values()), schema=schema), unfinished, compression="snappy")
    return path


def _stamp(time_ns: int) -> str:
    seconds, rest = divmod(time_ns, 10**9)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H-%M-%S}-{rest:09}Z"


def _nanoseconds(times_ms: pl.Series) -> pa.Array:
    return (times_ms.cast(pl.UInt64) * 1_000_000).to_arrow()


def _fixed_floats(values: pl.Series, decimals: int) -> pa.Array:
    """Return floats that are the nearest to whole ticks or lots."""
    return _fixed((values * 10**decimals).round().cast(pl.Int64), decimals)


def _fixed(units: pl.Series, decimals: int) -> pa.Array:
    """Return ticks or lots as 128-bit integers of `DECIMALS`, which is what a decimal of Arrow is in memory."""
    scale = pl.lit(10 ** (DECIMALS - decimals), pl.Int128)
    wide = units.to_frame("units").select((pl.col("units").cast(pl.Int128) * scale).cast(pl.Decimal(38, 0)))
    wide = wide["units"].rechunk().to_arrow()
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(16), len(wide), [None, wide.buffers()[1]], offset=wide.offset)
