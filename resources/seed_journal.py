"""Trades that another program keeps in RocksDB: lists of `[price, quantity, time, id, maker]` under a clock's key.

Keys are `trades:{symbol}:{batch_ms}` in the default column family, where `batch_ms` is the other program's clock when it
flushed and says little about the trades. Nothing is written into its directory; what was read is gone after the call.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final

import msgspec
import polars as pl
from rocksdict import AccessType, Options, Rdict

from resources.rocksdb import JournalDamaged, scan
from trading.errors import TradingError
from trading.market.instrument import LARGEST, Instrument
from trading.market.timeframe import HOUR_MS
from trading.market.trade import TRADE_SCHEMA

CLOCK_ERROR_MS: Final = HOUR_MS
"""How far a batch's key may be from its trades' times: a clock that is off, or a flush that waited."""

Number = Annotated[int, msgspec.Meta(ge=0, lt=LARGEST)]


class NoSeedJournal(TradingError):
    """A directory holds no RocksDB database that can be read."""


class _SeedTrade(msgspec.Struct, array_like=True):
    price: str
    quantity: str
    time_ms: Number
    agg_trade_id: Number
    buyer_is_maker: bool


_BATCHES: Final = msgspec.msgpack.Decoder(list[_SeedTrade])


def seed_trades(directory: Path, instrument: Instrument, lo_ms: int, hi_ms: int) -> pl.DataFrame:
    """Return the trades with time in `[lo_ms, hi_ms)` as `TRADE_SCHEMA`, ordered by id; of two with one id, the first.

    Fill ids were not kept there and are null.

    Args:
        directory: The other program's RocksDB directory.
        instrument: Whose trades, by its exact name; gives ticks and lots.
        lo_ms: First moment.
        hi_ms: End.

    Raises:
        NoSeedJournal: There is no such database, or its writer changed it under the copy.
        JournalDamaged: A batch is no list of trades.
        InexactNumber: A price or quantity is no multiple of the instrument's step.
    """
    trades: dict[int, tuple[int | None, ...]] = {}
    with tempfile.TemporaryDirectory(prefix="trading-seed-") as copy:
        _copy(directory, Path(copy))
        for key, value in _batches(directory, Path(copy), instrument.name, lo_ms, hi_ms):
            try:
                batch = _BATCHES.decode(value)
            except msgspec.DecodeError as error:
                raise JournalDamaged(
                    f"{key.decode(errors='replace')} in {directory} is no batch: {error}", "delete it there"
                ) from None
            for t in batch:
                if lo_ms <= t.time_ms < hi_ms and t.agg_trade_id not in trades:
                    price, quantity = instrument.ticks(t.price), instrument.lots(t.quantity)
                    row = (t.agg_trade_id, price, quantity, None, None, t.time_ms, t.buyer_is_maker)
                    trades[t.agg_trade_id] = row
    return pl.DataFrame([trades[number] for number in sorted(trades)], schema=TRADE_SCHEMA, orient="row")


def _copy(directory: Path, copy: Path) -> None:
    """Copy a database; its tables never change once written, so a link is a copy."""
    if not (directory / "CURRENT").is_file():
        raise NoSeedJournal(f"{directory} is no RocksDB directory", "give the folder with the file CURRENT in it")
    for file in sorted(directory.iterdir()):
        if file.suffix == ".sst":
            try:
                os.link(file, copy / file.name)
            except OSError:
                shutil.copyfile(file, copy / file.name)
        elif re.fullmatch(r"CURRENT|IDENTITY|(MANIFEST|OPTIONS)-\d+|\d+\.log", file.name):
            shutil.copyfile(file, copy / file.name)


def _batches(directory: Path, copy: Path, name: str, lo_ms: int, hi_ms: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the entries of one symbol; the digits keep `A:B` from being taken for a batch of `A`."""
    prefix = f"trades:{name}:".encode()
    first = prefix + b"%013d" % max(0, lo_ms - CLOCK_ERROR_MS)
    end = prefix + b"%013d" % min(10**13 - 1, hi_ms + CLOCK_ERROR_MS)
    try:
        database = Rdict(str(copy), Options(raw_mode=True), access_type=AccessType.read_only())
    except Exception as error:  # rocksdict raises bare exceptions
        raise NoSeedJournal(
            f"the database {directory} cannot be opened: {error}", "stop its writer, or give a copy"
        ) from None
    try:
        for key, value in scan(database, directory, first, end):
            if key.removeprefix(prefix).isdigit():
                yield key, value
    finally:
        database.close()
