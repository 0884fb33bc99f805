"""What was known when, kept the plain way: every write as it came, replayed from the first for each question."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import polars as pl
from hypothesis import strategies as st

from resources.timescale.store import MarketStore
from resources.timescale.tables import BOOK_1S, BOOK_SNAPSHOT, CANDLE, CANDLE_1S, INDICATOR, Table
from trading.market.candle import RANK
from trading.market.instrument import Instrument
from trading.market.timeframe import MINUTE_MS, Timeframe
from trading.provider.book_tops import BEST, VOLUMES, completed

T0 = 1_700_006_400_000
"""Midnight, so that every timeframe opens there."""
MINUTES = 12
END = T0 + 60 * MINUTE_MS
Row = dict[str, Any]
Series = tuple[str, Timeframe | None]
"""Name of a table, and timeframe where it has one."""

TABLES: dict[str, Table] = {table.name: table for table in (CANDLE, CANDLE_1S, INDICATOR, BOOK_SNAPSHOT, BOOK_1S)}
MINUTE, THREE, FIVE = (("candle", timeframe) for timeframe in (Timeframe.M1, Timeframe.M3, Timeframe.M5))
SECOND, BOOK, BOOK_SECOND = (("candle_1s", None), ("book_snapshot", None), ("book_1s", None))
MEASURE = ("indicator", Timeframe.M3)


def length_ms(series: Series) -> int:
    """Return how long after its time a row of a series is over."""
    name, timeframe = series
    return timeframe.ms if timeframe else TABLES[name].length_ms


@dataclass(frozen=True)
class Write:
    """Rows of one series by time, recorded at a moment; with `exact` all there is in that range."""

    recorded_ms: int
    series: Series
    rows: dict[int, Row]
    exact: tuple[int, int] | None = None


@dataclass
class Oracle:
    """All that was written of one symbol, in the order in which it was recorded."""

    writes: list[Write] = field(default_factory=list)

    def known(self, series: Series, known_by_ms: int) -> dict[int, Row]:
        """Return the rows of a series as they were known at a moment, by time."""
        state: dict[int, Row] = {}
        for write in self.writes:
            if write.recorded_ms > known_by_ms:
                break
            if write.series != series:
                continue
            if write.exact:
                for time in [t for t in state if write.exact[0] <= t < write.exact[1] and t not in write.rows]:
                    del state[time]
            for time, row in write.rows.items():
                before = state.get(time)
                if before and {**before, "known_at_ms": 0} == {**row, "known_at_ms": 0}:
                    continue
                if before and "source" in row and RANK[row["source"]] < RANK[before["source"]]:
                    continue
                state[time] = {**row, "known_at_ms": write.recorded_ms}
        return dict(sorted(state.items()))

    def rows(self, series: Series, as_of_ms: int, known_by_ms: int) -> list[Row]:
        """Return what was over at `as_of_ms` and known at `known_by_ms`, in order."""
        found = self.known(series, known_by_ms)
        return [row for time, row in found.items() if time + length_ms(series) <= as_of_ms]

    def bars(self, timeframe: Timeframe, as_of_ms: int, known_by_ms: int) -> list[Row]:
        """Return bars: stored ones, and where there is none what the minutes make."""
        if timeframe in (Timeframe.S1, Timeframe.M1):
            return self.rows(SECOND if timeframe is Timeframe.S1 else MINUTE, as_of_ms, known_by_ms)
        inside: dict[int, list[Row]] = defaultdict(list)
        for time, row in self.known(MINUTE, known_by_ms).items():
            inside[timeframe.floor(time)].append(row)
        made = {time: rolled(time, parts, timeframe.ms // MINUTE_MS) for time, parts in inside.items()}
        found = made | self.known(("candle", timeframe), known_by_ms)
        return [row for time, row in sorted(found.items()) if time + timeframe.ms <= as_of_ms]


def rolled(open_time: int, parts: list[Row], expected: int) -> Row:
    """Return the bar that `expected` parts make, of which these are there."""
    whole = sum(part["complete"] for part in parts)
    return {
        "open_time": open_time,
        "open": parts[0]["open"],
        "high": max(part["high"] for part in parts),
        "low": min(part["low"] for part in parts),
        "close": parts[-1]["close"],
        "volume": float(sum(Decimal(str(part["volume"])) for part in parts)),
        "quote_volume": float(sum(Decimal(str(part["quote_volume"])) for part in parts)),
        "trade_count": sum(part["trade_count"] for part in parts),
        "first_agg_trade_id": min(part["first_agg_trade_id"] for part in parts),
        "last_agg_trade_id": max(part["last_agg_trade_id"] for part in parts),
        "source": "rollup",
        "complete": whole == expected,
        "n_present": whole,
        "n_expected": expected,
        "known_at_ms": max(part["known_at_ms"] for part in parts),
    }


def put(store: MarketStore, symbol: str, write: Write) -> None:
    """Make one write a fact of the database."""
    table, timeframe = TABLES[write.series[0]], write.series[1]
    rows = [{**row, "known_at_ms": write.recorded_ms} for row in write.rows.values()]
    frame = pl.DataFrame(rows, schema=table.schema)
    lo_ms, hi_ms = write.exact or (min(write.rows, default=T0), max(write.rows, default=T0) + 1)
    store.write(table, symbol, frame, lo_ms, hi_ms, timeframe, bool(write.exact), recorded_at_ms=write.recorded_ms)


def register(store: MarketStore, symbol: str) -> None:
    """Make a symbol known."""
    store.register([Instrument("sim", symbol, symbol[:3], "USDT", 2, 5)])


def bar(open_time: int, source: str = "trades", volume: float = 1.0) -> Row:
    """Return a bar of one price."""
    return {
        "open_time": open_time,
        **dict.fromkeys(("open", "high", "low", "close"), 100.0),
        "volume": volume,
        "quote_volume": round(100 * volume, 6),
        "trade_count": 3,
        "first_agg_trade_id": open_time // 1000,
        "last_agg_trade_id": open_time // 1000 + 2,
        "source": source,
        "complete": source != "incomplete_trades",
        "n_present": 1,
        "n_expected": 1,
    }


_prices = st.integers(9_990, 10_010)


@st.composite
def _bar(draw: st.DrawFn, time: int) -> Row:
    prices = [draw(_prices) / 100 for _ in range(2)]
    volume, source = draw(st.integers(0, 10**6)), draw(st.sampled_from(["trades", "kline", "incomplete_trades"]))
    return bar(time, source, volume / 10**5) | {
        "open": prices[0],
        "high": max(prices),
        "low": min(prices),
        "close": prices[1],
        "trade_count": volume % 7,
    }


@st.composite
def _book(draw: st.DrawFn, time: int) -> Row:
    middle = draw(_prices)
    levels = draw(st.integers(1, 3))
    quantities = st.lists(st.integers(1, 500).map(lambda lots: lots / 100), min_size=levels, max_size=levels)
    return {
        "time_ms": time,
        "last_update_id": draw(st.integers(0, 10**6)),
        "bid_price": [(middle - 1 - level) / 100 for level in range(levels)],
        "bid_quantity": draw(quantities),
        "ask_price": [(middle + 1 + level) / 100 for level in range(levels)],
        "ask_quantity": draw(quantities),
    }


@st.composite
def _book_second(draw: st.DrawFn, time: int) -> Row:
    middle, sided = draw(_prices), draw(st.sampled_from([(True, True), (False, True), (True, False), (False, False)]))
    best = [(middle + step) / 100 if there else None for step, there in zip((-1, 1), sided, strict=True)]
    lots = [sorted(draw(st.lists(st.integers(0, 500), min_size=3, max_size=3))) for _ in BEST]
    volumes = [lot / 100 for side in lots for lot in side]
    tops = pl.DataFrame([[*best, *volumes]], dict.fromkeys((*BEST, *VOLUMES), pl.Float64), orient="row")
    return {"time_ms": time, **completed(tops).row(0, named=True), "snapshots": draw(st.integers(0, 3))}


@st.composite
def _measure(draw: st.DrawFn, time: int) -> Row:
    names = [name for name in INDICATOR.schema if name not in ("open_time", "warm", "known_at_ms")]
    value = draw(st.none() | st.integers(1, 9).map(lambda n: n / 7))
    return {"open_time": time, **dict.fromkeys(names, value), "warm": value is not None}


_KINDS = {
    MINUTE: _bar,
    THREE: _bar,
    FIVE: _bar,
    SECOND: _bar,
    BOOK: _book,
    BOOK_SECOND: _book_second,
    MEASURE: _measure,
}


@st.composite
def histories(draw: st.DrawFn, series: Iterable[Series] = tuple(_KINDS), most: int = 8) -> Oracle:
    """Writes at rising moments: new rows, corrections, late ones, ranges written anew, and with that deletions."""
    oracle, recorded_ms = Oracle(), T0 + 2 * MINUTE_MS
    of = draw(st.lists(st.sampled_from(list(series)), min_size=1, max_size=3, unique=True))  # few, so that rows meet
    for _ in range(draw(st.integers(2, most))):
        recorded_ms += draw(st.integers(1, 4 * MINUTE_MS))
        one = draw(st.sampled_from(of))
        step = length_ms(one) or 700
        over = range(T0, min(T0 + MINUTES * step, recorded_ms - step + 1), step)
        chosen = list(over) if draw(st.booleans()) else [time for time in over if draw(st.booleans())]
        exact = None
        if draw(st.integers(0, 3)) == 0:
            exact = (T0, T0 + draw(st.integers(1, MINUTES)) * step)
            chosen = [time for time in chosen if time < exact[1]]
        rows = {time: draw(_KINDS[one](time)) for time in chosen}
        if rows or exact:
            oracle.writes.append(Write(recorded_ms, one, rows, exact))
    return oracle


def moments(oracle: Oracle) -> st.SearchStrategy[int]:
    """Moments of either axis, most often those at which something is recorded or over, and the ones just before."""
    recorded = st.sampled_from([write.recorded_ms for write in oracle.writes] or [T0])
    edge = st.integers(0, 40).map(lambda minute: T0 + minute * MINUTE_MS)
    anywhere = st.integers(T0 - 1, T0 + 40 * MINUTE_MS)
    return st.one_of(recorded, recorded, recorded.map(lambda moment: moment - 1), edge, anywhere)
