"""Queries: what the market database says of a moment, as frames.

Every query takes two moments. `as_of_ms` is when one asks: no bar, second or minute that ends later and no book or trade
that happened later is in the answer. `known_by_ms` is whose knowledge answers: the version of each row that was recorded by
then, and of a bar that was not stored then, what the minutes that were known make of it. None means today's. Moments
and ranges are epoch milliseconds, ranges are half-open, frames are in order of time. Nothing here judges whether an
answer is good enough; `trading.provider` does.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np
import polars as pl

from resources.timescale import relations
from resources.timescale.reading import Reader, span
from resources.timescale.tables import (
    BOOK_1S,
    BOOK_SNAPSHOT,
    CANDLE,
    CANDLE_1S,
    INDICATOR,
    PROFILE_MINUTE,
    TRADE,
)
from resources.timescale.writing import literal, moment
from trading.market.instrument import Instrument
from trading.market.timeframe import CANDLE_TIMEFRAMES, DAY_MS, MINUTE_MS, SECOND_MS, Timeframe
from trading.microstructure.volume_profile import VolumeProfile, volume_profile_of_minutes
from trading.provider.book_minutes import book_minutes
from trading.provider.book_seconds import LONGEST_WINDOW_MS, mean_imbalances
from trading.provider.frames import IMBALANCE_WINDOWS, Aggregation, Source

if TYPE_CHECKING:
    from resources.lake import LakeReader

SPARE: Final = 1.05
"""A query for the last N bars looks back over the length of that many times N before it looks further."""

VERSION: Final = replace(CANDLE, schema={"timeframe": pl.String, **CANDLE.schema, "withdrawn": pl.Boolean})
_LATEST: Final = replace(CANDLE, schema={"symbol_id": pl.Int16, "symbols": pl.Int64, **CANDLE.schema})
_MULTI: Final = replace(CANDLE, schema={"part": pl.Int32, **CANDLE.schema})
_OPENS: Final = replace(CANDLE, schema={"open_time": pl.Int64})
_MULTI_INDICATOR: Final = replace(INDICATOR, schema={"part": pl.Int32, **INDICATOR.schema})


T = TypeVar("T")
Ask = Callable[[Any], Awaitable[T]]
"""Asks an asyncpg connection whose session is in UTC."""


class MarketQueries:
    """The questions to one venue's part of a market database.

    All are coroutines of the loop that owns the connections (`resources.timescale.loop`).

    Args:
        run: Returns what an `Ask` returns, of a connection that it lends; see `DatabaseConnectionManager.run`.
        venue: Whose symbols are asked for.
        lake: Where days lie whose rows have gone from the database; None: nowhere.

    Raises:
        UnknownInstrument: From every query, where the venue has no such symbol here.
    """

    def __init__(self, run: Callable[..., Awaitable[Any]], venue: str, lake: "LakeReader | None" = None) -> None:
        self.venue = venue
        self._reader = Reader(run, venue, lake)

    async def together(self, ask: Callable[["MarketQueries"], Awaitable[T]]) -> T:
        """Return what `ask` returns of these queries on one connection, which all see the database at one moment.

        It may be asked again from the first on, where the database goes away meanwhile.
        """

        async def once(connection: Any) -> T:
            queries = MarketQueries(self._reader.run, self.venue)
            queries._reader = self._reader.on(connection)
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                return await ask(queries)

        return await self._reader.run(once)

    def source_of(self, table: str) -> Source:
        """Return where the rows of a table's last answer came from; of questions that are asked one after the other."""
        return self._reader.sources.get(table, "database")

    # -- bars --------------------------------------------------------------------------------------------------------

    async def query_ohlcv_data(
        self,
        symbol: str,
        timeframe: Timeframe,
        lo_ms: int | None = None,
        hi_ms: int | None = None,
        *,
        limit: int | None = None,
        as_of_ms: int | None = None,
        known_by_ms: int | None = None,
        incomplete: bool = False,
        columns: Sequence[str] | None = None,
    ) -> pl.DataFrame:
        """Return closed bars that open in `[lo_ms, hi_ms)`, `CANDLE_SCHEMA`.

        Args:
            symbol: Exchange name.
            timeframe: Of the bars.
            lo_ms: None: from the first on.
            hi_ms: None: to the last.
            limit: At most so many, the latest of the range.
            as_of_ms: Bars that close by then; None: all.
            known_by_ms: Versions known by then.
            incomplete: Whether bars that lack trades, or minutes, are wanted too.
            columns: Those that are wanted, `open_time` among them; None: all.

        Raises:
            BadRange: `hi_ms` is before `lo_ms`.
        """
        wanted = "true" if incomplete else "complete"
        if timeframe is Timeframe.S1:
            seconds = await self._reader.series(CANDLE_1S, symbol, lo_ms, hi_ms, limit, as_of_ms, known_by_ms, wanted)
            return seconds if columns is None else seconds.select(columns)
        table = CANDLE if columns is None else replace(CANDLE, schema={name: CANDLE.schema[name] for name in columns})
        symbol_id = await self._reader.symbol_id(symbol)
        lo_ms, hi_ms = span(lo_ms, hi_ms, as_of_ms, timeframe.ms)

        async def bars(from_ms: int) -> pl.DataFrame:
            relation = relations.ohlcv(str(symbol_id), timeframe, from_ms, hi_ms, known_by_ms)
            return await self._reader.last(table, f"FROM ({relation}) AS t WHERE {wanted}", limit)

        if limit is None:
            return await bars(lo_ms)
        near_ms = max(lo_ms, hi_ms - int(SPARE * limit + 2) * timeframe.ms)
        found = await bars(near_ms)
        return found if len(found) == limit or near_ms == lo_ms else await bars(lo_ms)

    async def query_multi_timeframe_ohlcv(
        self,
        symbol: str,
        timeframes: Sequence[Timeframe],
        as_of_ms: int,
        limit: int,
        *,
        known_by_ms: int | None = None,
        incomplete: bool = False,
    ) -> dict[Timeframe, pl.DataFrame]:
        """Return the last `limit` bars of each timeframe that close by `as_of_ms`, in one round trip.

        Where a timeframe has fewer in the length of `limit` bars and a few more, it is asked for again without that bound.
        """
        symbol_id = await self._reader.symbol_id(symbol)
        wanted = "true" if incomplete else "complete"

        async def bars(near: bool, of: Sequence[Timeframe]) -> dict[Timeframe, pl.DataFrame]:
            parts: list[str] = []
            for part, timeframe in enumerate(of):
                hi_ms = as_of_ms - timeframe.ms + 1
                lo_ms = hi_ms - int(SPARE * limit + 2) * timeframe.ms if near else 0
                relation = relations.ohlcv(str(symbol_id), timeframe, lo_ms, hi_ms, known_by_ms)
                parts.append(
                    f"(SELECT {part} AS part, * FROM ({relation}) AS t WHERE {wanted} "
                    f"ORDER BY open_time DESC LIMIT {int(limit)})"
                )
            return _by_timeframe(await self._reader.frame(_MULTI, _in_order(parts)), of)

        rolled = [timeframe for timeframe in timeframes if timeframe is not Timeframe.S1]
        found = await bars(True, rolled) if rolled else {}
        short = [timeframe for timeframe in rolled if len(found[timeframe]) < limit]
        found |= await bars(False, short) if short else {}
        if Timeframe.S1 in timeframes:
            found[Timeframe.S1] = await self.query_ohlcv_data(
                symbol, Timeframe.S1, limit=limit, as_of_ms=as_of_ms, known_by_ms=known_by_ms, incomplete=incomplete
            )
        return {timeframe: found[timeframe] for timeframe in timeframes}

    async def query_latest_ohlcv(
        self,
        timeframe: Timeframe,
        as_of_ms: int,
        *,
        known_by_ms: int | None = None,
        within_ms: int = DAY_MS,
        incomplete: bool = False,
    ) -> pl.DataFrame:
        """Return the last bar of every symbol that closes by `as_of_ms`: `name` and `CANDLE_SCHEMA`, by name.

        Symbols without a bar that opened in the last `within_ms` are missing.
        """
        hi_ms, last_ms = as_of_ms - timeframe.ms + 1, timeframe.floor(as_of_ms) - timeframe.ms
        ours = f"SELECT symbol_id FROM md.symbol WHERE venue = {literal(self.venue)}"
        wanted, found = "true" if incomplete else "complete", pl.DataFrame(schema=_LATEST.schema)
        if known_by_ms is None:
            # Of most symbols the bar that closed last is there; one scan for all costs half of a look for each.
            found = await self._reader.frame(
                _LATEST,
                f"FROM md.ohlcv_{timeframe}, (SELECT count(*) AS symbols FROM ({ours}) AS o) AS o WHERE {wanted} "
                f"AND symbol_id = ANY(ARRAY({ours})) AND open_time = {moment(last_ms)}",
            )
        if found.is_empty() or len(found) < found["symbols"][0]:
            relation = relations.ohlcv("o.symbol_id", timeframe, hi_ms - within_ms, hi_ms, known_by_ms)
            told = ", ".join(map(str, found["symbol_id"]))
            others = await self._reader.frame(
                _LATEST,
                f"FROM ({ours} AND symbol_id <> ALL('{{{told}}}')) AS o CROSS JOIN LATERAL (SELECT 0::bigint AS symbols, * "
                f"FROM ({relation}) AS b WHERE {wanted} ORDER BY open_time DESC LIMIT 1) AS t",
            )
            found = pl.concat([found, others])
        names = await self._reader.names(found["symbol_id"].to_list())
        bars = pl.DataFrame([pl.Series("name", names, pl.String), *found.get_columns()[2:]])
        by_name = sorted(range(len(names)), key=names.__getitem__)
        return bars if by_name == list(range(len(names))) else bars[by_name]

    async def query_indicators(
        self,
        symbol: str,
        timeframes: Sequence[Timeframe],
        as_of_ms: int,
        limit: int,
        *,
        known_by_ms: int | None = None,
    ) -> dict[Timeframe, pl.DataFrame]:
        """Return the last `limit` rows of each timeframe whose bars close by `as_of_ms`, `INDICATOR_SCHEMA`."""
        if not timeframes:
            return {}
        symbol_id = await self._reader.symbol_id(symbol)
        parts: list[str] = []
        for part, timeframe in enumerate(timeframes):
            rows = relations.versions(
                INDICATOR,
                f"symbol_id = {symbol_id} AND timeframe = '{timeframe}' "
                f"AND open_time < {moment(as_of_ms - timeframe.ms + 1)}",
                known_by_ms,
            )
            parts.append(f"(SELECT {part} AS part, * FROM ({rows}) AS t ORDER BY open_time DESC LIMIT {int(limit)})")
        return _by_timeframe(await self._reader.frame(_MULTI_INDICATOR, _in_order(parts)), timeframes)

    async def stream_versions(
        self,
        symbol: str,
        timeframes: Sequence[Timeframe],
        lo_ms: int,
        hi_ms: int,
        take: Callable[[pl.DataFrame], Awaitable[None]],
    ) -> None:
        """Give every version of the bars that close in `(lo_ms, hi_ms]` to `take`, in the order in which they became known.

        Frames have the columns of `VERSION`. One whose `withdrawn` is true says that the bar of this time is no longer known
        to be there. `take` is awaited before more is read, and the database holds its order meanwhile; nothing is asked
        twice.
        """
        versions = relations.every_version(await self._reader.symbol_id(symbol), timeframes, lo_ms, hi_ms)
        await self._reader.stream(VERSION, versions, take)

    async def query_generated(
        self, symbol: str, bars: Mapping[Timeframe, pl.DataFrame], *, known_by_ms: int | None = None
    ) -> dict[Timeframe, tuple[int, ...]]:
        """Return the open times of those of the bars that are not stored but made, by timeframe where there are any.

        The bars are all there are between the first and the last, or all that are complete.
        """
        symbol_id = await self._reader.symbol_id(symbol)
        stored: dict[Timeframe, str] = {}
        for timeframe, rows in bars.items():
            condition = (
                f"symbol_id = {symbol_id} AND timeframe = '{timeframe}' AND open_time >= {moment(rows['open_time'][0])} "
                f"AND open_time < {moment(rows['open_time'][-1] + 1)}"
            )
            wanted = "complete" if rows["complete"].all() else "true"
            stored[timeframe] = f"({relations.versions(CANDLE, condition, known_by_ms)}) AS t WHERE {wanted}"
        counts = ", ".join(f"(SELECT count(*) FROM {relation})" for relation in stored.values())
        counted = zip(bars.items(), await self._reader.run(lambda c: c.fetchrow(f"SELECT {counts}")), strict=True)
        generated: dict[Timeframe, tuple[int, ...]] = {}
        for (timeframe, rows), count in counted:
            if count < len(rows):
                opens = await self._reader.frame(_OPENS, f"FROM {stored[timeframe]}")
                made = np.setdiff1d(rows["open_time"].to_numpy(), opens["open_time"].to_numpy())
                generated[timeframe] = tuple(made.tolist())
        return generated

    async def query_first(self, symbol: str) -> int | None:
        """Return the open time (ms) of the first bar of which there is or was a version, or None."""
        symbol_id = await self._reader.symbol_id(symbol)
        firsts = ", ".join(
            f"(SELECT min(open_time) FROM md.{name} WHERE symbol_id = {symbol_id} AND timeframe = '{timeframe}')"
            for name in (CANDLE.name, f"{CANDLE.name}_revision")
            for timeframe in CANDLE_TIMEFRAMES
        )
        query = f"SELECT (extract(epoch FROM least({firsts})) * 1000)::bigint"
        return await self._reader.run(lambda c: c.fetchval(query))

    async def query_empty(
        self, symbol: str, absent: Mapping[Timeframe, Sequence[int]]
    ) -> dict[Timeframe, tuple[int, ...]]:
        """Return which bars, given by the open times at which there is none, are proven empty, by timeframe.

        One is where every trade of its interval is held, and there is none. Bars may be absent for other reasons: they are
        made after their trades are kept, or could not be kept themselves.
        """
        symbol_id = await self._reader.symbol_id(symbol)
        opens = [at for times in absent.values() for at in times]
        lengths = [timeframe.ms for timeframe, times in absent.items() for _ in times]
        if not opens:
            return {}
        # One statement, so that coverage and trades are of one moment; the look into an interval ends at its first trade.
        query = (
            "SELECT open_ms, length_ms FROM unnest($1::bigint[], $2::bigint[]) AS a (open_ms, length_ms), "
            "LATERAL (SELECT to_timestamp(open_ms / 1000.0) AS lo, to_timestamp((open_ms + length_ms) / 1000.0) AS hi) AS i "
            "WHERE tstzrange(lo, hi) <@ (SELECT range_agg(tstzrange(proven_from, proven_until)) FROM md.trade_coverage "
            f"WHERE symbol_id = {symbol_id} AND proven_until > {moment(min(opens))}) "
            f"AND (SELECT time FROM md.trade WHERE symbol_id = {symbol_id} AND time >= lo AND time < hi "
            "ORDER BY time LIMIT 1) IS NULL ORDER BY open_ms"
        )
        proven = await self._reader.run(lambda c: c.fetch(query, opens, lengths))
        return {t: tuple(at for at, length_ms in proven if length_ms == t.ms) for t in absent}

    # -- order books -------------------------------------------------------------------------------------------------

    async def query_orderbook_snapshots(
        self,
        symbol: str,
        lo_ms: int | None = None,
        hi_ms: int | None = None,
        *,
        limit: int | None = None,
        as_of_ms: int | None = None,
        known_by_ms: int | None = None,
    ) -> pl.DataFrame:
        """Return the books of moments in `[lo_ms, hi_ms)` up to and with `as_of_ms`; of `limit` see `query_ohlcv_data`."""
        return await self._reader.series(BOOK_SNAPSHOT, symbol, lo_ms, hi_ms, limit, as_of_ms, known_by_ms)

    async def query_orderbook_aggregated(
        self,
        symbol: str,
        aggregation: Aggregation,
        lo_ms: int | None = None,
        hi_ms: int | None = None,
        *,
        limit: int | None = None,
        as_of_ms: int | None = None,
        known_by_ms: int | None = None,
    ) -> pl.DataFrame:
        """Return the seconds (`1s`) or minutes (`1m`) that begin in `[lo_ms, hi_ms)` and end by `as_of_ms`.

        A minute is made of its seconds, see `book_minutes`; of `limit` see `query_ohlcv_data`.
        """
        if aggregation == "1s":
            return await self._reader.series(BOOK_1S, symbol, lo_ms, hi_ms, limit, as_of_ms, known_by_ms)
        lo_ms, hi_ms = span(lo_ms, hi_ms, as_of_ms, MINUTE_MS)
        lo_ms, hi_ms = Timeframe.M1.ceil(lo_ms), Timeframe.M1.ceil(hi_ms)

        async def minutes(from_ms: int) -> pl.DataFrame:
            seconds = await self._reader.series(BOOK_1S, symbol, from_ms, hi_ms, None, None, known_by_ms)
            found = book_minutes(seconds)
            return found if limit is None else found.tail(limit)

        near_ms = lo_ms if limit is None else max(lo_ms, hi_ms - int(SPARE * limit + 2) * MINUTE_MS)
        found = await minutes(near_ms)
        return found if len(found) == limit or near_ms == lo_ms else await minutes(lo_ms)

    async def query_orderbook_imbalances(
        self,
        symbol: str,
        lo_ms: int,
        hi_ms: int,
        *,
        as_of_ms: int | None = None,
        known_by_ms: int | None = None,
    ) -> pl.DataFrame:
        """Return what `imbalances_at` says at the end of each second that begins in `[lo_ms, hi_ms)` and ends by `as_of_ms`.

        Columns are `time_ms`, the begin of the second, and `imbalance_1s`, `_5s`, `_15s`, `_60s`, null where nothing of the
        window is known; seconds at whose end the book is not known are left out.
        """
        before_ms = lo_ms - LONGEST_WINDOW_MS
        seconds = await self._reader.series(BOOK_1S, symbol, before_ms, hi_ms, None, as_of_ms, known_by_ms)
        times, values = seconds["time_ms"].to_numpy(), seconds["imbalance_20"].to_numpy()
        asked = [int(time) for time in times if time >= lo_ms]
        means = [mean_imbalances(times, values, time + SECOND_MS) for time in asked]
        columns = {f"imbalance_{window}s": [mean[window] for mean in means] for window in IMBALANCE_WINDOWS}
        schema = {"time_ms": pl.Int64, **dict.fromkeys(columns, pl.Float64)}
        return pl.DataFrame({"time_ms": asked, **columns}, schema=schema)

    # -- trades ------------------------------------------------------------------------------------------------------

    async def query_trades(self, symbol: str, lo_ms: int, hi_ms: int, *, as_of_ms: int | None = None) -> pl.DataFrame:
        """Return the trades of `[lo_ms, hi_ms)` up to and with `as_of_ms`, `TRADE_SCHEMA`, by id."""
        rows = await self._reader.series(TRADE, symbol, lo_ms, hi_ms, None, as_of_ms, None)
        return rows.sort("agg_trade_id")

    async def query_volume_profile(
        self, symbol: str, as_of_ms: int, length_ms: int = DAY_MS, bin_ticks: int | None = None
    ) -> VolumeProfile:
        """Return the profile of the whole minutes of `length_ms` that end by `as_of_ms`.

        Raises:
            InsufficientTrades: Too few of them hold trades.
            BadBinSize: `bin_ticks` is below 1 or gives too many bins.
        """
        symbol_id = await self._reader.symbol_id(symbol)
        hi_ms = Timeframe.M1.floor(as_of_ms)
        lo_ms = hi_ms - length_ms // MINUTE_MS * MINUTE_MS
        middle_ms = Timeframe.M1.floor((lo_ms + hi_ms) // 2)
        halves = [
            self._reader.frame(
                PROFILE_MINUTE,
                f"FROM md.profile_minute WHERE symbol_id = {symbol_id} AND minute >= {moment(first_ms)} "
                f"AND minute < {moment(end_ms)} ORDER BY minute",
            )
            for first_ms, end_ms in ((lo_ms, middle_ms), (middle_ms, hi_ms))
        ]
        # The server takes longest to write out the lists, and two connections do it at a time.
        frames = [await half for half in halves] if self._reader.bound else await asyncio.gather(*halves)
        return volume_profile_of_minutes(pl.concat(frames), await self.instrument(symbol), lo_ms, hi_ms, bin_ticks)

    async def instrument(self, symbol: str) -> Instrument:
        """Return one instrument of the venue."""
        return await self._reader.instrument(symbol)


def _in_order(parts: Sequence[str]) -> str:
    return f"FROM ({' UNION ALL '.join(parts)}) AS t ORDER BY part, open_time"


def _by_timeframe(rows: pl.DataFrame, timeframes: Sequence[Timeframe]) -> dict[Timeframe, pl.DataFrame]:
    """Cut rows in the order of their parts, one for each timeframe, into these."""
    edges = np.searchsorted(rows.to_series(0).to_numpy(), np.arange(len(timeframes) + 1)).tolist()
    columns = pl.DataFrame(rows.get_columns()[1:])
    return {timeframe: columns[edges[part] : edges[part + 1]] for part, timeframe in enumerate(timeframes)}
