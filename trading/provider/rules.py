"""A rule says which rows cannot have happened, once for one row and once for columns, side by side.

Both forms know the same rules in the same order, so that a row gets the same verdict on the live path and in a batch. Odd
rows that an exchange may send are not refused: a bar without volume, a book without a side, a trade of no quantity.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import Any, Final, cast

import numpy as np
import polars as pl

from trading.market.book import BOOK_SNAPSHOT_SCHEMA
from trading.market.candle import CANDLE_SCHEMA, RANK
from trading.market.instrument import LARGEST
from trading.market.timeframe import SECOND_MS
from trading.market.trade import TRADE_SCHEMA
from trading.provider.book_seconds import BOOK_1S_SCHEMA
from trading.provider.book_tops import BEST, FOLLOWING, VOLUMES, agree, tops_of
from trading.stream.wire import MILLISECONDS

Row = Mapping[str, Any]
Breaks = Callable[[Row], Any]


class Reason(StrEnum):
    """Why a row is refused; the first that holds, in this order, is the one."""

    UNKNOWN_SYMBOL = "unknown_symbol"
    UNKNOWN_TIMEFRAME = "unknown_timeframe"
    WRONG_TYPE = "wrong_type"
    MISSING = "missing"
    NOT_FINITE = "not_finite"
    BAD_TIME = "bad_time"
    FUTURE_TIME = "future_time"
    OFF_GRID = "off_grid"
    BAD_IDS = "bad_ids"
    UNEVEN_SIDES = "uneven_sides"
    NOT_POSITIVE = "not_positive"
    TOO_LARGE = "too_large"
    NEGATIVE_VOLUME = "negative_volume"
    HIGH_BELOW_LOW = "high_below_low"
    OUTSIDE_RANGE = "outside_range"
    UNKNOWN_SOURCE = "unknown_source"
    BAD_COUNTS = "bad_counts"
    UNSORTED_BOOK = "unsorted_book"
    CROSSED_BOOK = "crossed_book"
    FALLING_DEPTH = "falling_depth"
    DOES_NOT_FOLLOW = "does_not_follow"


@dataclass(frozen=True)
class Rule:
    """What is refused: for one row, and for columns (null there means it is not)."""

    reason: Reason
    breaks: Breaks
    broken: pl.Expr


@dataclass(frozen=True)
class Kind:
    """A kind of rows: its columns, and the rules in the order in which they are asked."""

    name: str
    schema: Mapping[str, Any]
    rules: tuple[Rule, ...]


_PRICES: Final = ("open", "high", "low", "close")
_MONEY: Final = (*_PRICES, "volume", "quote_volume")
_AMOUNTS: Final = ("volume", "quote_volume", "trade_count")
_SIDES: Final = (("bid_price", "bid_quantity"), ("ask_price", "ask_quantity"))
_LEVELS: Final = tuple(name for side in _SIDES for name in side)


def _any(conditions: Sequence[pl.Expr]) -> pl.Expr:
    return pl.any_horizontal(conditions)


def _below(names: Sequence[str], least: float, reason: Reason) -> Rule:
    """Refuse known numbers below `least`."""
    return Rule(
        reason,
        lambda row: any(row[name] is not None and row[name] < least for name in names),
        _any([pl.col(name) < least for name in names]),
    )


def _missing(names: Sequence[str]) -> Rule:
    return Rule(
        Reason.MISSING,
        lambda row: any(row[name] is None for name in names),
        _any([pl.col(name).is_null() for name in names]),
    )


def _not_finite(names: Sequence[str]) -> Rule:
    return Rule(
        Reason.NOT_FINITE,
        lambda row: any(row[name] is not None and not math.isfinite(row[name]) for name in names),
        _any([~pl.col(name).is_finite() for name in names]),
    )


def _bad_time(name: str, known_at: str = "") -> tuple[Rule, ...]:
    """Refuse a time that is not in milliseconds, and one far ahead of the exchange's clock (`latest_ms`, null: unknown)."""
    names = (name, known_at) if known_at else (name,)
    return (
        Rule(
            Reason.BAD_TIME,
            # A range looks for NumPy's integers one by one.
            lambda row: any(row[time] is not None and int(row[time]) not in MILLISECONDS for time in names),
            _any([~pl.col(time).is_between(MILLISECONDS.start, MILLISECONDS.stop, closed="left") for time in names]),
        ),
        Rule(
            Reason.FUTURE_TIME,
            lambda row: row["latest_ms"] is not None and row[name] > row["latest_ms"],
            pl.col(name) > pl.col("latest_ms"),
        ),
    )


def _bad_ids(*names: str) -> Rule:
    """Refuse known ids that fall, are negative, or too large to be subtracted."""

    def breaks(row: Row) -> bool:
        ids = [row[name] for name in names if row[name] is not None]
        return any(not 0 <= number < LARGEST for number in ids) or any(b < a for a, b in pairwise(ids))

    columns = [pl.col(name) for name in names]
    return Rule(
        Reason.BAD_IDS,
        breaks,
        _any([(c < 0) | (c >= LARGEST) for c in columns] + [after < before for before, after in pairwise(columns)]),
    )


def _in_lists(condition: pl.Expr, names: Sequence[str] = _LEVELS) -> pl.Expr:
    return _any([pl.col(name).list.eval(condition).list.any() for name in names])


def _levels(row: Row) -> list[Any]:
    return [number for name in _LEVELS for number in row[name]]


def _crossed(row: Row) -> bool:
    bids, asks = row["bid_price"], row["ask_price"]
    return bool(bids) and bool(asks) and bids[0] >= asks[0]


CANDLES: Final = Kind(
    "candle",
    CANDLE_SCHEMA,
    (
        _missing(("open_time", *_PRICES, "volume", "source", "complete", "n_present", "n_expected")),
        _not_finite(_MONEY),
        *_bad_time("open_time", "known_at_ms"),
        Rule(
            Reason.OFF_GRID,
            lambda row: row["open_time"] % row["length_ms"],
            pl.col("open_time") % pl.col("length_ms") != 0,
        ),
        _bad_ids("first_agg_trade_id", "last_agg_trade_id"),
        Rule(Reason.NOT_POSITIVE, lambda row: min(row[n] for n in _PRICES) <= 0, pl.min_horizontal(_PRICES) <= 0),
        _below(_AMOUNTS, 0, Reason.NEGATIVE_VOLUME),
        Rule(Reason.HIGH_BELOW_LOW, lambda row: row["high"] < row["low"], pl.col("high") < pl.col("low")),
        Rule(
            Reason.OUTSIDE_RANGE,
            lambda row: max(row["open"], row["close"]) > row["high"] or min(row["open"], row["close"]) < row["low"],
            (pl.max_horizontal("open", "close") > pl.col("high"))
            | (pl.min_horizontal("open", "close") < pl.col("low")),
        ),
        Rule(Reason.UNKNOWN_SOURCE, lambda row: row["source"] not in RANK, ~pl.col("source").is_in(list(RANK))),
        Rule(
            Reason.BAD_COUNTS,
            lambda row: row["n_expected"] < 1 or not 0 <= row["n_present"] <= row["n_expected"],
            (pl.col("n_expected") < 1) | (pl.col("n_present") < 0) | (pl.col("n_present") > pl.col("n_expected")),
        ),
    ),
)

TRADES: Final = Kind(
    "trade",
    TRADE_SCHEMA,
    (
        _missing(tuple(TRADE_SCHEMA)),
        *_bad_time("time_ms"),
        _bad_ids("agg_trade_id"),
        _bad_ids("first_trade_id", "last_trade_id"),
        Rule(Reason.NOT_POSITIVE, lambda row: row["price"] <= 0, pl.col("price") <= 0),
        _below(("quantity",), 0, Reason.NEGATIVE_VOLUME),
        Rule(
            Reason.TOO_LARGE,
            lambda row: max(row["price"], row["quantity"]) >= LARGEST,
            pl.max_horizontal("price", "quantity") >= LARGEST,
        ),
    ),
)

BOOKS: Final = Kind(
    "book",
    BOOK_SNAPSHOT_SCHEMA,
    (
        _missing(("time_ms", "last_update_id", *_LEVELS)),
        Rule(Reason.MISSING, lambda row: None in _levels(row), _in_lists(pl.element().is_null())),
        Rule(
            Reason.NOT_FINITE,
            lambda row: not all(map(math.isfinite, _levels(row))),
            _in_lists(~pl.element().is_finite()),
        ),
        *_bad_time("time_ms", "known_at_ms"),
        _bad_ids("last_update_id"),
        Rule(
            Reason.UNEVEN_SIDES,
            lambda row: any(len(row[price]) != len(row[quantity]) for price, quantity in _SIDES),
            _any([pl.col(price).list.len() != pl.col(quantity).list.len() for price, quantity in _SIDES]),
        ),
        Rule(
            Reason.NOT_POSITIVE,
            lambda row: any(number <= 0 for number in _levels(row)),
            _in_lists(pl.element() <= 0),
        ),
        Rule(
            Reason.UNSORTED_BOOK,
            lambda row: (
                any(b >= a for a, b in pairwise(row["bid_price"])) or any(b <= a for a, b in pairwise(row["ask_price"]))
            ),
            _in_lists(pl.element().diff() >= 0, ("bid_price",)) | _in_lists(pl.element().diff() <= 0, ("ask_price",)),
        ),
        Rule(
            Reason.CROSSED_BOOK,
            _crossed,
            pl.col("bid_price").list.first() >= pl.col("ask_price").list.first(),
        ),
    ),
)


def _falls(row: Row) -> bool:
    return any(row[after] < row[before] for before, after in _DEEPER)


def _follow(rows: pl.DataFrame) -> pl.Series:
    tops = tops_of(rows)
    return pl.Series(tops.exact & agree(rows, tops))


def _follows(row: Row) -> bool:
    values = {name: row[name] for name in _OF_TOPS}
    return _follow(pl.DataFrame([values], dict.fromkeys(_OF_TOPS, pl.Float64))).item()


_OF_TOPS: Final = (*BEST, *VOLUMES, *FOLLOWING)
_DEEPER: Final = (*pairwise(VOLUMES[:3]), *pairwise(VOLUMES[3:]))
SECONDS: Final = Kind(
    "book_second",
    BOOK_1S_SCHEMA,
    (
        _missing(("time_ms", *VOLUMES, "snapshots")),
        _not_finite(_OF_TOPS),
        *_bad_time("time_ms", "known_at_ms"),
        Rule(Reason.OFF_GRID, lambda row: row["time_ms"] % SECOND_MS, pl.col("time_ms") % SECOND_MS != 0),
        Rule(
            Reason.NOT_POSITIVE,
            lambda row: any(row[name] is not None and row[name] <= 0 for name in BEST),
            _any([pl.col(name) <= 0 for name in BEST]),
        ),
        _below(VOLUMES, 0, Reason.NEGATIVE_VOLUME),
        _below(("snapshots",), 0, Reason.BAD_COUNTS),
        Rule(
            Reason.CROSSED_BOOK,
            lambda row: None not in (row["best_bid"], row["best_ask"]) and row["best_bid"] >= row["best_ask"],
            pl.col("best_bid") >= pl.col("best_ask"),
        ),
        Rule(Reason.FALLING_DEPTH, _falls, _any([pl.col(after) < pl.col(before) for before, after in _DEEPER])),
        # What follows from the best prices and volumes is not kept, and would come back as something else.
        Rule(
            Reason.DOES_NOT_FOLLOW,
            lambda row: not _follows(row),
            ~pl.struct(_OF_TOPS).map_batches(lambda rows: _follow(rows.struct.unnest()), pl.Boolean),
        ),
    ),
)


def wrong_type(kind: Kind, row: Row) -> Reason | None:
    """Return `WRONG_TYPE` where a value is not of its column's kind; integers may stand for floats."""
    ok = all(row.get(name) is None or _FITS[dtype](row[name]) for name, dtype in kind.schema.items())
    return None if ok else Reason.WRONG_TYPE


def _integer(value: Any, bits: int = 64) -> bool:
    return (
        isinstance(value, int | np.integer)
        and not isinstance(value, bool)
        and -(2 ** (bits - 1)) <= value < 2 ** (bits - 1)
    )


def _number(value: Any) -> bool:
    return isinstance(value, float | np.floating) or _integer(value)


def _numbers(values: Any) -> bool:
    if not isinstance(values, list | tuple):
        return False
    return all(value is None or _number(value) for value in cast("Sequence[Any]", values))


_FITS: Final[Mapping[Any, Callable[[Any], bool]]] = {
    pl.Int64: _integer,
    pl.Int32: lambda value: _integer(value, 32),
    pl.Float64: _number,
    pl.String: lambda value: isinstance(value, str),
    pl.Boolean: lambda value: isinstance(value, bool | np.bool_),
    pl.List(pl.Float64): _numbers,
}


def as_kind(kind: Kind, rows: pl.DataFrame) -> tuple[pl.DataFrame, Reason | None]:
    """Return the rows with exactly the kind's columns, and why that cannot be."""
    columns: list[pl.Series] = []
    for name, dtype in kind.schema.items():
        if name not in rows.columns:
            columns.append(pl.Series(name, [None], dtype).new_from_index(0, len(rows)))
        elif _may_cast(rows[name].dtype, pl.List(pl.Float64) if dtype == pl.List else dtype):
            columns.append(rows[name].cast(dtype))
        else:
            return rows.clear().select(), Reason.WRONG_TYPE
    return pl.DataFrame(columns), None


def _may_cast(found: Any, wanted: Any) -> bool:
    """Say whether each value of one kind is a value of the other."""
    if isinstance(found, pl.List) and isinstance(wanted, pl.List):
        return _may_cast(found.inner, wanted.inner)
    return found in (wanted, pl.Null) or (found in (pl.Int64, pl.Int32) and wanted in (pl.Float64, pl.Int64))
