"""hftbacktest's events: trades and changes of an order book in one array, by exchange time, in nanoseconds.

Of a book its best levels at the end of each second are known. An event is a level that came, changed or went since the one
before, what went first, so that no book between two of them is crossed. When an event was received is not kept: `local_ts`
is `exch_ts`, to which hftbacktest itself can add a latency.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from resources.whole_file import whole_file
from trading.market.instrument import Instrument

DEPTH, TRADE, SNAPSHOT = 1, 2, 4
AT_EXCHANGE, LOCALLY, BUY, SELL = 1 << 31, 1 << 30, 1 << 29, 1 << 28

EVENT: Final = np.dtype(
    [
        *(("ev", "u8"), ("exch_ts", "i8"), ("local_ts", "i8"), ("px", "f8"), ("qty", "f8")),
        *(("order_id", "u8"), ("ival", "i8"), ("fval", "f8")),
    ],
    align=True,
)


def events(trades: pl.DataFrame, books: pl.DataFrame, instrument: Instrument) -> NDArray[Any]:
    """Return an array of `EVENT`.

    Args:
        trades: `TRADE_SCHEMA`, by time.
        books: Schema of `BOOK_SNAPSHOT`, by time.
        instrument: Gives the size of a tick and a lot.
    """
    changes = np.array(list(_changes(books)), dtype=np.dtype("u8, i8, f8, f8"))
    made = np.zeros(len(changes) + len(trades), EVENT)
    book, traded = made[: len(changes)], made[len(changes) :]
    book["ev"], book["exch_ts"], book["px"], book["qty"] = (changes[name] for name in ("f0", "f1", "f2", "f3"))
    traded["ev"] = TRADE | np.where(trades["buyer_is_maker"].to_numpy(), SELL, BUY)
    traded["exch_ts"] = trades["time_ms"].to_numpy()
    traded["px"] = trades["price"].to_numpy() / 10**instrument.price_decimals
    traded["qty"] = trades["quantity"].to_numpy() / 10**instrument.quantity_decimals
    made["ev"] |= np.uint64(AT_EXCHANGE | LOCALLY)
    made["exch_ts"] *= 1_000_000
    made["local_ts"] = made["exch_ts"]
    return made[np.argsort(made["exch_ts"], kind="stable")]


def write(path: Path, made: NDArray[Any]) -> Path:
    """Write events as the `data` of an `.npz` file."""
    with whole_file(path) as unfinished, unfinished.open("wb") as file:
        np.savez_compressed(file, data=made)
    return path


def _changes(books: pl.DataFrame) -> Iterator[tuple[int, int, float, float]]:
    """Yield (kind and side, time in ms, price, quantity) of every level that differs from the book before."""
    before: dict[int, dict[float, float]] = {BUY: {}, SELL: {}}
    kind = SNAPSHOT
    for row in books.iter_rows(named=True):
        now = {
            BUY: dict(zip(row["bid_price"], row["bid_quantity"], strict=True)),
            SELL: dict(zip(row["ask_price"], row["ask_quantity"], strict=True)),
        }
        for side in now:
            for price in sorted(before[side].keys() - now[side].keys()):
                yield DEPTH | side, row["time_ms"], price, 0.0
        for side, levels in now.items():
            for price, quantity in levels.items():
                if before[side].get(price) != quantity:
                    yield kind | side, row["time_ms"], price, quantity
        before, kind = now, DEPTH
