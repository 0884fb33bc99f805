"""What a perpetual contract says beside its trades: how much of it is open, what funding costs, what it is marked at.

Rates are fractions of the notional for one funding interval, prices are in the quote coin and finer than a tick, open
interest is in the base coin. Unknown is None, never 0.

Kept are versions: what a venue says otherwise later is a row of its own beside the earlier one, each with the moment
since which it is known.
"""

from collections.abc import Sequence
from typing import Final

import msgspec
import polars as pl


class AssetContext(msgspec.Struct, frozen=True):
    """What a venue says of one contract at one moment.

    Attributes:
        time_ms: Exchange time; None where the venue does not say.
        open_interest: Contracts that are open, in the base coin.
        open_interest_value: The same in the quote coin.
        funding_rate: Of the funding that comes next.
        funding_interval_h: Hours between fundings.
        next_funding_time_ms: When it comes.
        mark_price: What positions are valued at.
        index_price: Of the market under the contract; Hyperliquid calls it oracle price.
        partial: Only what has changed is given; see `after`.
    """

    time_ms: int | None = None
    open_interest: float | None = None
    open_interest_value: float | None = None
    funding_rate: float | None = None
    funding_interval_h: int | None = None
    next_funding_time_ms: int | None = None
    mark_price: float | None = None
    index_price: float | None = None
    partial: bool = False

    def after(self, earlier: "AssetContext | None") -> "AssetContext":
        """Return the whole context, where this one may name only what changed since `earlier`."""
        if not self.partial or earlier is None:
            return self
        given = {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}
        return msgspec.structs.replace(earlier, **given | {"partial": earlier.partial})


class OpenInterest(msgspec.Struct, frozen=True):
    """Open interest at one moment: in the base coin, and in the quote coin where the venue says."""

    time_ms: int
    open_interest: float
    open_interest_value: float | None = None


class Funding(msgspec.Struct, frozen=True):
    """One funding that was settled, as a fraction of the notional; with the mark price where the venue says."""

    time_ms: int
    funding_rate: float
    mark_price: float | None = None


DERIVATIVE_SCHEMA: Final[dict[str, type[pl.DataType]]] = {
    "kind": pl.String,
    "time_ms": pl.Int64,
    "known_at_ms": pl.Int64,
    **dict.fromkeys(("open_interest", "open_interest_value", "funding_rate", "mark_price", "index_price"), pl.Float64),
}
VALUES: Final = tuple(DERIVATIVE_SCHEMA)[3:]


def open_interest_rows(values: Sequence[OpenInterest], known_at_ms: int) -> pl.DataFrame:
    """Return open interest as `DERIVATIVE_SCHEMA`, known since a moment, but never before its own."""
    return _rows("open_interest", known_at_ms, values, "open_interest", "open_interest_value")


def funding_rows(values: Sequence[Funding], known_at_ms: int) -> pl.DataFrame:
    """Return settled fundings as `DERIVATIVE_SCHEMA`, known since a moment, but never before their own."""
    return _rows("funding", known_at_ms, values, "funding_rate", "mark_price")


def mark_rows(values: Sequence[AssetContext], known_at_ms: int) -> pl.DataFrame:
    """Return mark and index prices with the funding announced, as `DERIVATIVE_SCHEMA`; contexts without a time are out."""
    dated = [value for value in values if value.time_ms is not None]
    return _rows("mark", known_at_ms, dated, "mark_price", "index_price", "funding_rate")


def _rows(
    kind: str, known_at_ms: int, values: Sequence[OpenInterest | Funding | AssetContext], *columns: str
) -> pl.DataFrame:
    taken = [{name: getattr(value, name) for name in ("time_ms", *columns)} for value in values]
    frame = pl.DataFrame(taken, schema={name: DERIVATIVE_SCHEMA[name] for name in ("time_ms", *columns)})
    absent = [pl.lit(None, pl.Float64).alias(name) for name in VALUES if name not in columns]
    known = pl.max_horizontal(pl.col("time_ms"), pl.lit(known_at_ms, pl.Int64))
    return frame.with_columns(pl.lit(kind).alias("kind"), known.alias("known_at_ms"), *absent).select(
        list(DERIVATIVE_SCHEMA)
    )


def as_known(rows: pl.DataFrame, known_by_ms: int | None = None) -> pl.DataFrame:
    """Return of each kind and time the version that was known last, by a moment (inclusive) or at all.

    Args:
        rows: `DERIVATIVE_SCHEMA`, all versions in any order.
        known_by_ms: What was recorded later is not seen.
    """
    seen = rows if known_by_ms is None else rows.filter(pl.col("known_at_ms") <= known_by_ms)
    return seen.sort("time_ms", "kind", "known_at_ms").unique(["kind", "time_ms"], keep="last", maintain_order=True)


def news(held: pl.DataFrame, found: pl.DataFrame) -> pl.DataFrame:
    """Return the rows that were found and say anything else than the version that is held, each kind and time once."""
    said = as_known(held).drop("known_at_ms")
    # Nulls are equal here: a value that stays unknown is no news.
    return as_known(found).join(said, on=["kind", "time_ms", *VALUES], how="anti", nulls_equal=True)
