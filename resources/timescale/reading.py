"""A reader asks one venue's part of a market database for rows, as frames; of days that went from there, it asks the lake.

What is asked for is the caller's; nothing here knows what a bar or a book is.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, Final

import polars as pl

from resources.timescale import relations
from resources.timescale.binary_copy import HEADER, LAST_MS, TRAILER, decode, select
from resources.timescale.tables import Table
from resources.timescale.writing import moment
from trading.market.instrument import Instrument, UnknownInstrument
from trading.market.timeframe import DAY_MS
from trading.provider.frames import Source
from trading.provider.moments import BadRange

if TYPE_CHECKING:
    from resources.lake import LakeReader

LONGEST_MS: Final = 2**53
"""End of a range that has none; every moment is before it."""
STREAMED_BYTES: Final = 4 * 2**20
"""What is taken from a stream at a time."""
_EPOCH: Final = date(1970, 1, 1)


class Reader:
    """Reads what one venue has.

    Attributes:
        run: Returns what its argument returns of a connection that it lends; see `DatabaseConnectionManager.run`.
        sources: Where the last answer of a table came from, where that may be elsewhere than the database.
        bound: Whether all is asked of one connection, so that only one question is asked at a time.

    Args:
        run: See above.
        venue: Whose symbols are asked for.
        lake: Where days lie whose rows have gone from the database; None: nowhere.

    Raises:
        UnknownInstrument: Of a symbol that the venue does not have here.
    """

    def __init__(self, run: Callable[..., Awaitable[Any]], venue: str, lake: "LakeReader | None" = None) -> None:
        self.run = run
        self.sources: dict[str, Source] = {}
        self.bound = False
        self._venue, self._lake = venue, lake
        self._known: dict[str, tuple[int, Instrument]] = {}

    def on(self, connection: Any) -> "Reader":
        """Return a reader that asks only this connection."""
        reader = Reader(lambda call, **_: call(connection), self._venue, self._lake)
        reader._known, reader.bound = self._known, True
        return reader

    async def instrument(self, symbol: str) -> Instrument:
        """Return an instrument by its exchange name."""
        await self.symbol_id(symbol)
        return self._known[symbol][1]

    async def symbol_id(self, symbol: str) -> int:
        """Return the key under which the rows of a symbol are."""
        if symbol not in self._known:
            await self._learn()
        if symbol not in self._known:
            listed = ", ".join(self._known) or "none yet"
            raise UnknownInstrument(f"{symbol} is not in this database", f"known: {listed}")
        return self._known[symbol][0]

    async def names(self, symbol_ids: Sequence[int]) -> list[str]:
        """Return the exchange name of each key."""
        if not set(symbol_ids) <= {symbol_id for symbol_id, _ in self._known.values()}:
            await self._learn()
        names = {symbol_id: name for name, (symbol_id, _) in self._known.items()}
        return [names[symbol_id] for symbol_id in symbol_ids]

    async def _learn(self) -> None:
        query = (
            "SELECT symbol_id, venue, name, base, quote, price_decimals, quantity_decimals, kind FROM md.symbol "
            "WHERE venue = $1 ORDER BY name"
        )
        for row in await self.run(lambda c: c.fetch(query, self._venue)):
            values = dict(row)
            self._known[row["name"]] = (values.pop("symbol_id"), Instrument(**values))

    async def series(
        self,
        table: Table,
        symbol: str,
        lo_ms: int | None,
        hi_ms: int | None,
        limit: int | None,
        as_of_ms: int | None,
        known_by_ms: int | None,
        wanted: str = "true",
    ) -> pl.DataFrame:
        """Return the rows of a table that begin in `[lo_ms, hi_ms)` and are over by `as_of_ms`, as known, in order of time.

        Args:
            table: One without timeframes.
            symbol: Exchange name.
            lo_ms: None: from the first on.
            hi_ms: None: to the last.
            limit: At most so many, the latest of the range.
            as_of_ms: None: all.
            known_by_ms: Versions known by then; None: those known today.
            wanted: SQL condition on a row.

        Raises:
            BadRange: `hi_ms` is before `lo_ms`.
        """
        symbol_id = await self.symbol_id(symbol)
        lo_ms, hi_ms = span(lo_ms, hi_ms, as_of_ms, table.length_ms)
        time = table.time_column
        condition = f"symbol_id = {symbol_id} AND {time} >= {moment(lo_ms)} AND {time} < {moment(hi_ms)}"
        held = await self.last(
            table, f"FROM ({relations.versions(table, condition, known_by_ms)}) AS t WHERE {wanted}", limit
        )
        retired: list[pl.DataFrame] = []
        if self._lake is not None and (limit is None or len(held) < limit):
            retired = await self._retired(table, symbol, lo_ms, hi_ms, limit, known_by_ms, wanted)
        self.sources[table.name] = "database" if not retired else "mixed" if len(held) else "lake"
        if not retired:
            return held
        # A day is noted before it goes, so that for a moment it may be in both.
        rows = pl.concat([held, *retired], rechunk=True).unique(table.key, keep="first").sort(table.time)
        return rows if limit is None else rows.tail(limit)

    async def _retired(
        self, table: Table, symbol: str, lo_ms: int, hi_ms: int, limit: int | None, known_by_ms: int | None, wanted: str
    ) -> list[pl.DataFrame]:
        """Return what the lake has of the days that went from the database, the latest first."""
        query = (
            "SELECT day FROM md.day WHERE symbol_id = $1 AND asset = $2 AND day >= $3 AND day <= $4 ORDER BY day DESC"
        )
        first, last = (_day(max(lo_ms, 0)), _day(min(hi_ms - 1, LAST_MS)))
        asked = self._known[symbol][0], f"retention_{table.name}", first, last
        found: list[pl.DataFrame] = []
        for (day,) in await self.run(lambda c: c.fetch(query, *asked)) if first <= last else ():
            start_ms = (day - _EPOCH).days * DAY_MS
            rows = await asyncio.to_thread(
                self._lake_day, table.name, symbol, max(lo_ms, start_ms), min(hi_ms, start_ms + DAY_MS), known_by_ms
            )
            found.append(rows.filter(pl.sql_expr(wanted)) if wanted != "true" else rows)
            if limit is not None and sum(map(len, found)) >= limit:
                break
        return [rows for rows in found if len(rows)]

    def _lake_day(self, name: str, symbol: str, lo_ms: int, hi_ms: int, known_by_ms: int | None) -> pl.DataFrame:
        assert self._lake is not None  # noqa: S101
        return self._lake.read(name, symbol, lo_ms, hi_ms, known_by_ms=known_by_ms).collect()

    async def last(self, table: Table, source: str, limit: int | None) -> pl.DataFrame:
        """Return the rows in order of time, or the last of them."""
        if limit is None:
            return await self.frame(table, f"{source} ORDER BY {table.time_column}")
        return (await self.frame(table, f"{source} ORDER BY {table.time_column} DESC LIMIT {int(limit)}")).reverse()

    async def frame(self, table: Table, source: str) -> pl.DataFrame:
        """Return the rows that a table's columns, selected from a source, give: SQL from FROM on."""
        query = f"SELECT {select(table)} {source}"

        async def copied(connection: Any) -> bytearray:
            rows = bytearray()

            async def sink(part: bytes) -> None:  # a file would be written to by another thread, part by part
                rows.extend(part)

            await connection.copy_from_query(query, output=sink, format="binary")
            return rows

        return decode(table, await self.run(copied))

    async def stream(self, table: Table, source: str, take: Callable[[pl.DataFrame], Awaitable[None]]) -> None:
        """Give the rows to `take` in pieces, each awaited before more is read; nothing is asked twice."""
        query = f"SELECT {select(table)} {source}"

        async def streamed(connection: Any) -> None:
            rows = bytearray()

            async def taken() -> None:
                frame = decode(table, bytes(rows) if rows.endswith(TRAILER) else bytes(rows) + TRAILER)
                rows[:] = HEADER
                await take(frame)

            async def sink(whole_rows: bytes) -> None:
                rows.extend(whole_rows)
                if len(rows) >= STREAMED_BYTES:
                    await taken()

            await connection.copy_from_query(query, output=sink, format="binary")
            if len(rows) > len(HEADER) + len(TRAILER):
                await taken()

        await self.run(streamed, patience_s=0.0, statement_s=None)


def span(lo_ms: int | None, hi_ms: int | None, as_of_ms: int | None, length_ms: int) -> tuple[int, int]:
    """Return the range of times of rows that begin in `[lo_ms, hi_ms)` and end, `length_ms` later, by `as_of_ms`."""
    lo_ms = 0 if lo_ms is None else lo_ms
    hi_ms = LONGEST_MS if hi_ms is None else hi_ms
    if hi_ms < lo_ms:
        raise BadRange(f"the range ends at {hi_ms}, before it begins at {lo_ms}", "give its earlier end first")
    return lo_ms, hi_ms if as_of_ms is None else min(hi_ms, as_of_ms - length_ms + 1)


def _day(time_ms: int) -> date:
    return _EPOCH + timedelta(days=time_ms // DAY_MS)
