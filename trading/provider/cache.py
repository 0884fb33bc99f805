"""What is newest of each symbol, in memory: the last minutes of books, trades and seconds, the last bars of each timeframe.

One writer puts in what was checked; any number of threads read, and none waits for another. An answer as of a moment holds
what had ended by then: never an open bar, and never a row of later. What is known of the past may be corrected; the cache
has only the last version, so a question with a time of knowledge is not for it. Nothing here reads from a store.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import polars as pl

from trading.errors import TradingError
from trading.indicators.columns import INDICATOR_SCHEMA
from trading.market.book import BOOK_SNAPSHOT_SCHEMA
from trading.market.candle import CANDLE_SCHEMA, RANK
from trading.market.timeframe import MINUTE_MS, SECOND_MS, Timeframe
from trading.market.trade import TRADE_SCHEMA
from trading.provider.book_seconds import BOOK_1S_SCHEMA, mean_imbalances
from trading.provider.ports import Absence
from trading.provider.ring import Ring
from trading.provider.rows import Layout, Rows

WINDOW_MS: Final = 5 * MINUTE_MS
GRACE_MS: Final = MINUTE_MS
"""Kept beyond the window, so that whoever looks back a whole window from a moment ago finds its first row."""
BARS: Final = 1_024
MOST_ROWS: Final = 500_000

_ALWAYS: Final = 2**63 - 1


class UnknownTable(TradingError):
    """The cache keeps no such rows."""


class Contents(NamedTuple):
    """What the rows of one table are.

    Attributes:
        schema: Their columns.
        key: The column by which they are ordered, each once.
        time: When each begins.
        length_ms: How long it lasts, where that is not its timeframe's length.
        rank: Text column and what its texts are worth.
    """

    schema: Mapping[str, Any]
    key: str
    time: str
    length_ms: int = 0
    rank: tuple[str, Mapping[str, int]] | None = None


TABLES: Final = {
    "candle": Contents(CANDLE_SCHEMA, "open_time", "open_time", rank=("source", RANK)),
    "indicator": Contents(INDICATOR_SCHEMA, "open_time", "open_time"),
    "trade": Contents(TRADE_SCHEMA, "agg_trade_id", "time_ms"),
    "book_snapshot": Contents(BOOK_SNAPSHOT_SCHEMA, "time_ms", "time_ms"),
    "book_1s": Contents(BOOK_1S_SCHEMA, "time_ms", "time_ms", length_ms=SECOND_MS),
}


class CacheStatistics(msgspec.Struct, frozen=True):
    """What the cache has and did.

    Attributes:
        rows: Kept now.
        nbytes: Of their buffers.
        hits: Answers with all that was asked for.
        misses: Other answers.
        writes: Rows put in.
        evictions: Rows that grew too old, or were too many.
        corrections: Rows that took the place of one with their key.
        late: Rows that came after a later one.
        outranked: Rows that gave way to a better or later one with their key.
    """

    rows: int = 0
    nbytes: int = 0
    hits: int = 0
    misses: int = 0
    writes: int = 0
    evictions: int = 0
    corrections: int = 0
    late: int = 0
    outranked: int = 0


class DataCacheManager:
    """The newest rows of all symbols.

    A moment that is not given is the exchange's clock.

    Args:
        clock: The exchange's clock, epoch ms; 0 while nothing is known of it: then all rows have ended.
        window_ms: How much event time of books, trades and seconds is kept, and `GRACE_MS` more.
        bars: How many bars of each longer timeframe are kept, and of indicators.
        most_rows: The most rows that are kept of one table and symbol.
    """

    def __init__(
        self,
        clock: Callable[[], int],
        window_ms: int = WINDOW_MS,
        bars: int = BARS,
        most_rows: int = MOST_ROWS,
    ) -> None:
        self._clock, self._kept_ms, self._bars, self._most_rows = clock, window_ms + GRACE_MS, bars, most_rows
        self._layouts = {table: Layout(contents.schema) for table, contents in TABLES.items()}
        self._rings: dict[tuple[str, str, str | None], Ring] = {}
        self._covered: dict[tuple[str, str, str | None], int] = {}
        self._absences: dict[str, Absence] = {}
        self._hits = self._misses = self._writes = 0

    def put(
        self,
        table: str,
        symbol: str,
        rows: pl.DataFrame | Mapping[str, Any],
        timeframe: Timeframe | None = None,
    ) -> None:
        """Take rows that were checked; only one thread at a time may.

        Args:
            table: `candle`, `candle_1s`, `indicator`, `trade`, `book_snapshot` or `book_1s`.
            symbol: Whose they are.
            rows: A frame, or one row, of the table's columns; bars are closed. Late and corrected rows find their place.
            timeframe: Of candles and indicators.

        Raises:
            UnknownTable: There is no such table.
        """
        if table == "candle_1s":
            table, timeframe = "candle", Timeframe.S1
        ring = self._rings.get((table, symbol, timeframe))
        if ring is None:
            ring = self._rings[table, symbol, timeframe] = self._ring(table, timeframe)
        if isinstance(rows, pl.DataFrame):
            ring.extend(self._layouts[table].pack(rows))
            self._writes += len(rows)
        else:
            contents = TABLES[table]
            ring.append(self._layouts[table].row(rows), rows[contents.key], rows[contents.time])
            self._writes += 1
        if _has_window(timeframe):
            # By the rows' own time, so that a recording is kept as it was; yet none of the future empties the cache.
            ring.evict_before(min(ring.published.ended_ms, self._clock() or _ALWAYS) - self._kept_ms)

    def forget(self, symbol: str) -> None:
        """Drop all rows of a symbol, and what was said of them, as after its stream was not followed for a while."""
        for kept in (self._covered, self._rings):
            for key in [key for key in kept if key[1] == symbol]:
                del kept[key]
        self._absences.pop(symbol, None)

    def covers(self, table: str, symbol: str, from_ms: int, timeframe: Timeframe | None = None) -> None:
        """Say that all rows of a table from a moment on were put in, and will be; so a row that is absent is nowhere.

        Whoever follows a stream says so of the moment since which it does, or of the first row that it loaded before.
        """
        table, timeframe = ("candle", Timeframe.S1) if table == "candle_1s" else (table, timeframe)
        self._covered[table, symbol, timeframe] = from_ms

    def lacks(self, symbol: str, absence: Absence) -> None:
        """Say which bars are nowhere, as they are now; who says it looks again once in a while."""
        self._absences[symbol] = absence

    def absence(self, symbol: str) -> Absence | None:
        """Return which bars of a symbol are nowhere, or None where nobody says so."""
        return self._absences.get(symbol)

    def covered_from(self, table: str, symbol: str, timeframe: Timeframe | None = None) -> int | None:
        """Return the moment (ms) from which on the cache has all rows of a table, or None where nobody says so."""
        table, timeframe = ("candle", Timeframe.S1) if table == "candle_1s" else (table, timeframe)
        from_ms, ring = self._covered.get((table, symbol, timeframe)), self._rings.get((table, symbol, timeframe))
        return from_ms if from_ms is None or ring is None else max(from_ms, ring.evicted_ms + 1)

    def get_latest_ohlcv(
        self, symbol: str, timeframe: Timeframe, limit: int, as_of_ms: int | None = None
    ) -> pl.DataFrame:
        """Return the last closed bars, `CANDLE_SCHEMA`, oldest first; fewer where the cache has no more."""
        return self._frame("candle", symbol, limit, timeframe, as_of_ms)

    def get_latest_indicators(
        self, symbol: str, timeframe: Timeframe, limit: int, as_of_ms: int | None = None
    ) -> pl.DataFrame:
        """Return the indicators of the last closed bars, oldest first."""
        return self._frame("indicator", symbol, limit, timeframe, as_of_ms)

    def get_latest_trades(self, symbol: str, limit: int, as_of_ms: int | None = None) -> pl.DataFrame:
        """Return the last trades, `TRADE_SCHEMA`, by id."""
        return self._frame("trade", symbol, limit, None, as_of_ms)

    def get_latest_orderbook(self, symbol: str, as_of_ms: int | None = None) -> pl.DataFrame:
        """Return the last book, `BOOK_SNAPSHOT_SCHEMA`, one row or none."""
        return self._frame("book_snapshot", symbol, 1, None, as_of_ms)

    def get_book_seconds(self, symbol: str, lo_ms: int, as_of_ms: int | None = None) -> pl.DataFrame | None:
        """Return the book's seconds from `lo_ms` on that had ended; None where the cache reaches back less far."""
        ring, covered_ms = self._rings.get(("book_1s", symbol, None)), self.covered_from("book_1s", symbol)
        rows = (
            pl.DataFrame(schema=BOOK_1S_SCHEMA) if ring is None else ring.frame(self._most_rows, self._moment(as_of_ms))
        )
        reached_ms = [*rows["time_ms"].head(1), *([] if covered_ms is None else [covered_ms])]
        whole = min(reached_ms, default=_ALWAYS) <= lo_ms
        self._count(whole)
        return rows.slice(int(np.searchsorted(rows["time_ms"].to_numpy(), lo_ms))) if whole else None

    def get_latest_imbalances(self, symbol: str, as_of_ms: int | None = None) -> dict[int, float | None]:
        """Return the book's mean imbalance over the last 1, 5, 15 and 60 closed seconds; see `mean_imbalances`.

        A window that begins before the cache's first second is absent: what the cache lacks is not unknown.
        """
        ring = self._rings.get(("book_1s", symbol, None))
        if ring is None or not len(ring):
            self._misses += 1
            return {}
        moment = self._moment(as_of_ms)
        rows = ring.view(self._most_rows, moment)
        moment = min(moment, ring.published.ended_ms) if moment == _ALWAYS else moment
        means = mean_imbalances(rows["time_ms"], rows["imbalance_20"], moment)
        lo_ms = moment // SECOND_MS * SECOND_MS
        held = {w: mean for w, mean in means.items() if len(rows) and rows["time_ms"][0] <= lo_ms - w * SECOND_MS}
        self._count(len(held) == len(means))
        return held

    def frame(self, table: str, symbol: str, timeframe: Timeframe | None = None) -> pl.DataFrame:
        """Return all rows of a table, those that have not ended too."""
        table, timeframe = ("candle", Timeframe.S1) if table == "candle_1s" else (table, timeframe)
        return self._frame(table, symbol, self._most_rows, timeframe, _ALWAYS)

    def view(
        self, table: str, symbol: str, limit: int, timeframe: Timeframe | None = None, as_of_ms: int | None = None
    ) -> Rows:
        """Return the last rows that had ended as they lie in memory, without a copy, oldest first; not to be written.

        They stay as they are, whatever comes later. `trading.provider.rows` says what an unknown value is there.
        """
        ring = self._rings.get((table, symbol, timeframe))
        rows = ring.view(limit, self._moment(as_of_ms)) if ring else self._layouts[table].no_rows
        self._count(len(rows) == limit)
        return rows

    def texts(self, table: str) -> Sequence[str]:
        """Return the texts whose places the rows of a view hold."""
        return self._layouts[table].texts

    def statistics(self) -> CacheStatistics:
        """Return what the cache has and did."""
        rings = list(self._rings.values())
        return CacheStatistics(
            rows=sum(map(len, rings)),
            nbytes=sum(ring.nbytes for ring in rings),
            hits=self._hits,
            misses=self._misses,
            writes=self._writes,
            evictions=sum(ring.evicted for ring in rings),
            corrections=sum(ring.corrected for ring in rings),
            late=sum(ring.late for ring in rings),
            outranked=sum(ring.outranked for ring in rings),
        )

    def _frame(
        self, table: str, symbol: str, limit: int, timeframe: Timeframe | None, as_of_ms: int | None
    ) -> pl.DataFrame:
        ring = self._rings.get((table, symbol, timeframe))
        if ring is None:
            self._misses += 1
            return pl.DataFrame(schema=TABLES[table].schema)
        frame = ring.frame(limit, self._moment(as_of_ms))
        self._count(len(frame) == limit)
        return frame

    def _moment(self, as_of_ms: int | None) -> int:
        return self._clock() or _ALWAYS if as_of_ms is None else as_of_ms

    def _count(self, whole: bool) -> None:
        if whole:
            self._hits += 1
        else:
            self._misses += 1

    def _ring(self, table: str, timeframe: Timeframe | None) -> Ring:
        contents = TABLES.get(table)
        if contents is None:
            raise UnknownTable(f"the cache keeps no {table}", f"it keeps {', '.join(TABLES)}")
        return Ring(
            self._layouts[table],
            contents.key,
            contents.time,
            contents.length_ms if timeframe is None else timeframe.ms,
            self._most_rows if _has_window(timeframe) else self._bars,
            contents.rank,
        )


def _has_window(timeframe: Timeframe | None) -> bool:
    """Tell whether rows are kept by the time they are of; longer bars are by their number."""
    return timeframe is None or timeframe is Timeframe.S1
