"""freqtrade's data folder: one file a pair and timeframe, and one of a pair's trades, as feather or JSON.

A candle's date is its open time. freqtrade fills a missing bar itself, with the last close and no volume.
"""

from pathlib import Path
from typing import Final

import msgspec
import polars as pl
from pyarrow import feather

from resources.whole_file import whole_file
from trading.market.instrument import Instrument, exact_quotient
from trading.market.timeframe import Timeframe

FORMS: Final = ("feather", "json")


def write_candles(folder: Path, instrument: Instrument, bars: pl.DataFrame, timeframe: Timeframe, form: str) -> Path:
    """Write `{BASE}_{QUOTE}-{timeframe}`: columns date, open, high, low, close, volume."""
    rows = bars.select(
        pl.col("open_time").cast(pl.Datetime("ms", "UTC")).alias("date"),
        *("open", "high", "low", "close", "volume"),
    )
    return _write(folder / f"{instrument.base}_{instrument.quote}-{timeframe}.{form}", rows)


def write_trades(folder: Path, instrument: Instrument, trades: pl.DataFrame, form: str) -> Path:
    """Write `{BASE}_{QUOTE}-trades`: columns timestamp (ms), id, type, side (the taker's), price, amount, cost."""
    price = exact_quotient(trades["price"], instrument.price_decimals)
    amount = exact_quotient(trades["quantity"], instrument.quantity_decimals)
    rows = trades.select(
        timestamp="time_ms",
        id=pl.col("agg_trade_id").cast(pl.String),
        type=pl.lit(None, pl.String),
        side=pl.when("buyer_is_maker").then(pl.lit("sell")).otherwise(pl.lit("buy")),
        price=price,
        amount=amount,
        cost=price * amount,
    )
    return _write(folder / f"{instrument.base}_{instrument.quote}-trades.{form}", rows)


def _write(path: Path, rows: pl.DataFrame) -> Path:
    with whole_file(path) as unfinished:
        if path.suffix == ".feather":
            feather.write_feather(rows.to_arrow(compat_level=pl.CompatLevel.oldest()), str(unfinished), "lz4")
        else:
            values = rows.with_columns(pl.col(pl.Datetime).dt.epoch("ms")).rows()
            unfinished.write_bytes(msgspec.json.encode(values))
    return path
