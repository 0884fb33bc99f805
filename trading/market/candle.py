"""A candle is what happened on one symbol in one closed interval of one timeframe.

Buckets are epoch arithmetic on exchange time. A candle made from trades is complete when the aggregate trade ids of its
whole interval are proven contiguous; a rolled-up one when all its parts are there and complete. Nothing here repairs
ids (`trading.stream.contiguity` does) and nothing here stores anything. Volumes are summed as integer lots, so that a
sum does not depend on its order and a rolled-up bar equals the bar made from the trades.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from trading.errors import TradingError
from trading.market.instrument import Instrument, exact_quotient
from trading.market.timeframe import Timeframe

CANDLE_SCHEMA: Final[dict[str, type[pl.DataType]]] = {
    "open_time": pl.Int64,
    "open": pl.Float64,
    "high": pl.Float64,
    "low": pl.Float64,
    "close": pl.Float64,
    "volume": pl.Float64,
    "quote_volume": pl.Float64,
    "trade_count": pl.Int64,
    "first_agg_trade_id": pl.Int64,
    "last_agg_trade_id": pl.Int64,
    "source": pl.String,
    "complete": pl.Boolean,
    "n_present": pl.Int32,
    "n_expected": pl.Int32,
    "known_at_ms": pl.Int64,
}
"""`known_at_ms` is when the exchange's clock stood as this version was recorded; null in a bar that nobody recorded yet."""

SUMMED: Final = ("agg_trade_id", "price", "quantity", "first_trade_id", "last_trade_id")

RANK: Final = {"trades": 4, "kline": 3, "incomplete_trades": 2, "rollup": 1}
"""Which source of one candle is believed; a write never replaces a higher rank by a lower one."""


class WrongTimeframe(TradingError):
    """A timeframe cannot be rolled up into another."""


def empty_candles() -> pl.DataFrame:
    """Return a frame of `CANDLE_SCHEMA` without rows."""
    return pl.DataFrame(schema=CANDLE_SCHEMA)


def candles_from_trades(
    trades: pl.DataFrame, instrument: Instrument, timeframe: Timeframe, proven: Sequence[tuple[int, int]]
) -> pl.DataFrame:
    """Return one candle for each bucket that holds a trade.

    Args:
        trades: `TRADE_SCHEMA`, ordered by aggregate trade id.
        instrument: Gives the size of a tick and a lot.
        timeframe: Length of a candle.
        proven: Half-open ranges of exchange time (ms) whose ids are contiguous. A bucket inside one of them is complete
            and its source is `trades`; any other is `incomplete_trades`.

    Returns:
        `CANDLE_SCHEMA`, ordered by open time; buckets without a trade have no row.
    """
    if np.any(trades["quantity"].to_numpy() == 0):  # kept as it came, and yet nothing changed hands at its price
        trades = trades.filter(pl.col("quantity") != 0)
    if trades.is_empty():
        return empty_candles()
    bars = _sums(trades, timeframe)
    inside = pl.Series(whole_buckets(bars["open_time"].to_numpy(), timeframe.ms, proven))
    money = instrument.price_decimals + instrument.quantity_decimals
    return bars.with_columns(
        *(exact_quotient(bars[name], instrument.price_decimals) for name in ("open", "high", "low", "close")),
        exact_quotient(bars["volume"], instrument.quantity_decimals),
        exact_quotient(bars["quote_volume"].cast(pl.Float64), money),
        complete=inside,
        source=pl.when(inside).then(pl.lit("trades")).otherwise(pl.lit("incomplete_trades")),
        n_present=pl.lit(1, pl.Int32),
        n_expected=pl.lit(1, pl.Int32),
        known_at_ms=None,
    ).select(pl.col(name).cast(kind) for name, kind in CANDLE_SCHEMA.items())


def _sums(trades: pl.DataFrame, timeframe: Timeframe) -> pl.DataFrame:
    """Return prices in ticks and sums in lots of each bucket, by rising `open_time`.

    Trades of one bucket lie side by side, so that columns are reduced between edges, ten times as fast as grouping. One
    more column as long as the trades would cost as much as all the rest: its pages come fresh from the system.
    """
    times = trades["time_ms"].to_numpy()
    if np.any(times[1:] < times[:-1]):  # ids are in order, yet the exchange's clock may step back
        trades = trades.sort(pl.col("time_ms") // timeframe.ms, maintain_order=True)
    open_times, ends = _edges(trades["time_ms"].to_numpy(), timeframe)
    starts = np.append(0, ends[:-1] + 1)
    ids, price, lots, first, last = (trades[name].to_numpy() for name in SUMMED)
    bars = {
        "open_time": open_times,
        "open": price[starts],
        "high": np.maximum.reduceat(price, starts),
        "low": np.minimum.reduceat(price, starts),
        "close": price[ends],
        "volume": np.add.reduceat(lots, starts),
        # Each sum may pass 2^63 and wrap; their difference is right all the same.
        "trade_count": np.add.reduceat(last, starts) - np.add.reduceat(first, starts) + ends - starts + 1,
        "first_agg_trade_id": ids[starts],
        "last_agg_trade_id": ids[ends],
    }
    if np.max(bars["high"] * 1.0 * bars["volume"]) < 2**62:
        return pl.DataFrame(bars | {"quote_volume": np.add.reduceat(price * lots, starts)})
    paid = (trades["price"].cast(pl.Int128) * trades["quantity"]).cum_sum()[ends]
    return pl.DataFrame(bars | {"quote_volume": paid - paid.shift(1, fill_value=0)})


def _edges(times: NDArray[np.int64], timeframe: Timeframe) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the open time of each bucket that holds a moment, and the place of its last one."""
    buckets = times // timeframe.ms
    ends = np.append(np.flatnonzero(buckets[1:] != buckets[:-1]), len(buckets) - 1)
    return buckets[ends] * timeframe.ms, ends


def native_candles(bars: pl.DataFrame) -> pl.DataFrame:
    """Return the exchange's own bars, complete as they are: what `CANDLE_SCHEMA` has beside prices and sums is added."""
    return bars.with_columns(
        first_agg_trade_id=None,
        last_agg_trade_id=None,
        source=pl.lit("kline"),
        complete=True,
        n_present=1,
        n_expected=1,
        known_at_ms=None,
    ).select(pl.col(name).cast(kind) for name, kind in CANDLE_SCHEMA.items())


def merge_sources(from_trades: pl.DataFrame, klines: pl.DataFrame) -> pl.DataFrame:
    """Return one bar for each open time: contiguous trades before klines before incomplete trades."""
    return _best(from_trades, klines, pl.col("source").replace_strict(RANK, return_dtype=pl.Int32))


def fuller(bars: pl.DataFrame, others: pl.DataFrame) -> pl.DataFrame:
    """Return one bar for each open time: the one of which the larger share is present; on a tie that of `bars`."""
    return _best(bars, others, pl.col("n_present") / pl.col("n_expected"))


def _best(bars: pl.DataFrame, others: pl.DataFrame, worth: pl.Expr) -> pl.DataFrame:
    if bars.is_empty() or others.is_empty():
        return others if bars.is_empty() else bars
    return (
        pl.concat([bars, others])
        .sort(worth, descending=True, maintain_order=True)
        .unique("open_time", keep="first", maintain_order=True)
        .sort("open_time")
    )


def whole_buckets(opened: NDArray[np.int64], length_ms: int, ranges: Sequence[tuple[int, int]]) -> NDArray[np.bool_]:
    """Return for each open time whether one of some ranges covers its bucket; in a store of years there are thousands."""
    since, until = np.array(sorted(ranges), np.int64).reshape(-1, 2).T
    before = np.searchsorted(since, opened, side="right")
    furthest = np.maximum.accumulate(np.append(np.iinfo(np.int64).min, until))[before]
    return furthest >= opened + length_ms


def unproven(lo_ms: int, hi_ms: int, proven: Sequence[tuple[int, int]], timeframe: Timeframe) -> list[tuple[int, int]]:
    """Return the half-open ranges of whole buckets inside `[lo_ms, hi_ms)` that no proven range covers."""
    ranges: list[tuple[int, int]] = []
    start = lo_ms
    for lo, hi in sorted(proven):
        first, last = timeframe.ceil(lo), timeframe.floor(hi)
        if last <= start or first >= hi_ms or last <= first:
            continue
        if first > start:
            ranges.append((start, first))
        start = max(start, last)
    if start < hi_ms:
        ranges.append((start, hi_ms))
    return ranges


def empty_bars(
    bars: pl.DataFrame, lo_ms: int, hi_ms: int, proven: Sequence[tuple[int, int]], timeframe: Timeframe
) -> list[int]:
    """Return the open times in `[lo_ms, hi_ms)` of buckets that are proven to have had no trade, and so have no bar."""
    opens = np.arange(lo_ms, hi_ms, timeframe.ms)
    for lo, hi in unproven(lo_ms, hi_ms, proven, timeframe):
        opens = opens[(opens < lo) | (opens >= hi)]
    return np.setdiff1d(opens, bars["open_time"].to_numpy()).tolist()


def roll_up(
    candles: pl.DataFrame,
    source: Timeframe,
    target: Timeframe,
    instrument: Instrument,
    empty: Sequence[tuple[int, int]] = (),
) -> pl.DataFrame:
    """Return the bars of `target` made from finer bars.

    Args:
        candles: `CANDLE_SCHEMA` of timeframe `source`, ordered by open time.
        source: A timeframe that divides `target`.
        target: The timeframe to make.
        instrument: Gives the size of a lot.
        empty: Half-open ranges of exchange time (ms) in which a bucket without a row is proven to hold no trade; there
            a missing part is present, and empty.

    Returns:
        `CANDLE_SCHEMA`. A bar that lacks a part, or holds an incomplete one, has `complete = false`. It is known when the
        last of its parts was.

    Raises:
        WrongTimeframe: `source` does not divide `target`.
    """
    if target.ms <= source.ms or target.ms % source.ms:
        raise WrongTimeframe(f"{target} bars cannot be made from {source} bars")
    if candles.is_empty():
        return empty_candles()
    lot = float(10**instrument.quantity_decimals)
    bucket = pl.col("open_time") // target.ms * target.ms
    bars = (
        candles.with_columns(
            bucket=bucket,
            lots=(pl.col("volume") * lot).round(),
            present=pl.when(pl.col("complete")).then(1).otherwise(0),
        )
        .group_by("bucket", maintain_order=True)
        .agg(
            open=pl.col("open").first(),
            high=pl.col("high").max(),
            low=pl.col("low").min(),
            close=pl.col("close").last(),
            # Lots are whole numbers below 2^53, so this float sum is exact in any order.
            volume=pl.col("lots").sum(),
            quote_volume=pl.col("quote_volume").sum(),
            trade_count=pl.when(pl.col("trade_count").is_null().any())
            .then(None)
            .otherwise(pl.col("trade_count").sum()),
            first_agg_trade_id=pl.col("first_agg_trade_id").min(),
            last_agg_trade_id=pl.col("last_agg_trade_id").max(),
            n_present=pl.col("present").sum(),
            known_at_ms=pl.col("known_at_ms").max(),
            open_times=pl.col("open_time"),
        )
        .sort("bucket")
        .rename({"bucket": "open_time"})
    )
    n_expected = target.ms // source.ms
    empties = _empty_parts(bars, source, target, empty)
    return bars.with_columns(
        exact_quotient(bars["volume"], instrument.quantity_decimals),
        n_present=pl.col("n_present") + empties,
        n_expected=pl.lit(n_expected),
        complete=(pl.col("n_present") + empties) == n_expected,
        source=pl.lit("rollup"),
    ).select(pl.col(name).cast(kind) for name, kind in CANDLE_SCHEMA.items())


def _empty_parts(
    bars: pl.DataFrame, source: Timeframe, target: Timeframe, empty: Sequence[tuple[int, int]]
) -> pl.Series:
    """Count, for each bar, the parts without a row that lie in a proven range."""
    counts = [0] * len(bars)
    n_expected = target.ms // source.ms
    for index, (open_time, open_times) in enumerate(bars.select("open_time", "open_times").iter_rows()):
        if len(open_times) == n_expected:
            continue
        have = set(open_times)
        close_time = open_time + target.ms
        for lo, hi in empty:
            first = source.ceil(max(lo, open_time))
            for part in range(first, min(hi, close_time) - source.ms + 1, source.ms):
                if part not in have:
                    counts[index] += 1
                    have.add(part)
    return pl.Series("empty_parts", counts, dtype=pl.Int64)


def lacking(
    candles: pl.DataFrame, timeframe: Timeframe, lo_ms: int, hi_ms: int, proven: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Return the half-open ranges (ms) inside `[lo_ms, hi_ms)` without a complete bar that no proven range covers."""
    holes = missing_bars(candles.filter("complete"), timeframe, lo_ms, hi_ms)
    return [part for lo, hi in holes for part in unproven(lo, hi, proven, timeframe)]


def missing_bars(candles: pl.DataFrame, timeframe: Timeframe, lo_ms: int, hi_ms: int) -> list[tuple[int, int]]:
    """Return the half-open ranges (ms) inside `[lo_ms, hi_ms)` that have no row, in order."""
    edges = np.concatenate(([lo_ms - timeframe.ms], candles["open_time"].to_numpy(), [timeframe.ceil(hi_ms)]))
    before = np.flatnonzero(np.diff(edges) > timeframe.ms)
    return list(zip((edges[before] + timeframe.ms).tolist(), edges[before + 1].tolist(), strict=True))
