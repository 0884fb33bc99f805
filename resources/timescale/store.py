"""The market database: instruments, trades with their coverage, candles, and what is derived from them.

PostgreSQL is the truth for all that is asked. Every write is idempotent and says how many rows it inserted and
updated: writing what is already there changes nothing. A write into a range that is empty goes in by COPY alone.
"""

import hashlib
import io
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, date, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import asyncpg
import polars as pl

from resources.timescale.backend import STORAGES, Storage
from resources.timescale.binary_copy import decode, select
from resources.timescale.connections import DatabaseConnectionManager
from resources.timescale.day_record import DIGEST, in_step, lines, record_days
from resources.timescale.loop import wait
from resources.timescale.migrations import Backend, apply, migrations
from resources.timescale.queries import MarketQueries
from resources.timescale.server import look_at, require
from resources.timescale.tables import Table
from resources.timescale.writing import Around, Rows, Target, Written, dated, drop, literal, moment, write
from trading.market.instrument import Instrument, UnknownInstrument
from trading.market.timeframe import Timeframe
from trading.stream.contiguity import IdRange, united

if TYPE_CHECKING:
    from resources.lake import LakeReader

_RANGE = (
    "first_id, last_id, (extract(epoch FROM proven_from) * 1000)::bigint AS proven_from_ms, "
    "(extract(epoch FROM proven_until) * 1000)::bigint AS proven_until_ms"
)


class MarketStore:
    """The market database of one venue.

    Args:
        dsn: PostgreSQL URL.
        venue: Venue whose instruments are read and written.
        read_dsn: URL of a replica that may answer `queries()`, where what was just written may not be yet; empty: none.
        connecting: Further arguments of `DatabaseConnectionManager`.
    """

    def __init__(self, dsn: str, venue: str, read_dsn: str = "", **connecting: Any) -> None:
        self.venue = venue
        self.connections = DatabaseConnectionManager(dsn, read_dsn, **connecting)
        self._dsn = dsn
        self._ids: dict[str, int] = {}
        self._storage: Storage = STORAGES[Backend.PLAIN]
        self.lake: LakeReader | None = None
        """Where days lie that went from here; None: nowhere."""

    def __enter__(self) -> "MarketStore":
        """Connect and bring the schema up to date."""
        wait(self.connections.open())
        try:
            wait(self._migrate())
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Close all connections."""
        wait(self.connections.close())

    # -- instruments -------------------------------------------------------------------------------------------------

    def register(self, instruments: Iterable[Instrument]) -> None:
        """Make instruments known; their decimals follow the exchange."""
        rows = [(i.venue, i.name, i.base, i.quote, i.kind, i.price_decimals, i.quantity_decimals) for i in instruments]
        statement = (
            "INSERT INTO md.symbol AS s (venue, name, base, quote, kind, price_decimals, quantity_decimals) "
            "SELECT $1, $2, $3, $4, $5, $6, $7 WHERE NOT EXISTS (SELECT 1 FROM md.symbol WHERE venue = $1 AND name = $2) "
            "ON CONFLICT (venue, name) DO NOTHING"
        )
        self._run(lambda c: c.executemany(statement, rows))

    def instruments(self) -> dict[str, Instrument]:
        """Return the venue's instruments by name."""
        query = (
            "SELECT symbol_id, venue, name, base, quote, price_decimals, quantity_decimals, kind FROM md.symbol "
            "WHERE venue = $1 ORDER BY name"
        )
        rows = self._run(lambda c: c.fetch(query, self.venue))
        self._ids = {row["name"]: row["symbol_id"] for row in rows}
        return {row["name"]: Instrument(**{k: v for k, v in row.items() if k != "symbol_id"}) for row in rows}

    def instrument(self, symbol: str) -> Instrument:
        """Return one instrument.

        Raises:
            UnknownInstrument: The venue has none of that name here.
        """
        known = self.instruments()
        if symbol not in known:
            listed = ", ".join(known) or "none yet"
            raise UnknownInstrument(f"{symbol} is not in this database", f"known: {listed}")
        return known[symbol]

    # -- frames ------------------------------------------------------------------------------------------------------

    def read(
        self,
        table: Table,
        symbol: str,
        lo_ms: int,
        hi_ms: int,
        timeframe: Timeframe | None = None,
        where: str = "true",
        known_by_ms: int | None = None,
    ) -> pl.DataFrame:
        """Return the rows with time in `[lo_ms, hi_ms)`, in order, as the table's schema.

        Args:
            table: One of `resources.timescale.tables`.
            symbol: Whose rows.
            lo_ms: Start of the range.
            hi_ms: End of it.
            timeframe: Of the rows, where the table has one.
            where: SQL that is true of the rows that are wanted.
            known_by_ms: Return the version of each row that was known at this moment; None: the latest.
        """
        target = Target(table, self._scope(table, symbol, timeframe), lo_ms, hi_ms)
        order = ", ".join(table.column(name) for name in table.order or table.key)
        relation = f"md.{table.relation} AS t WHERE {target.inside('t')}"
        if known_by_ms is not None:
            relation = _known_by(target, known_by_ms)
        query = f"SELECT {select(table)} FROM {relation} AND {where} ORDER BY {order}"
        return decode(table, self._copy_out(query, "binary").getbuffer())

    def last_before(
        self,
        table: Table,
        symbol: str,
        before_ms: int,
        rows: int,
        timeframe: Timeframe | None = None,
        where: str = "true",
    ) -> int | None:
        """Return the time (ms) of the row that is `rows` rows before `before_ms`, or of the first, or None."""
        scope = self._scope(table, symbol, timeframe)
        condition = " AND ".join(f"{name} = {literal(value)}" for name, value in zip(table.scope, scope, strict=True))
        time = table.time_column
        query = (
            f"SELECT (extract(epoch FROM min({time})) * 1000)::bigint FROM (SELECT {time} FROM md.{table.relation} "
            f"WHERE {condition} AND {where} AND {time} < to_timestamp($1 / 1000.0) ORDER BY {time} DESC LIMIT $2) AS t"
        )
        return self._run(lambda c: c.fetchval(query, float(before_ms), rows))

    def write(
        self,
        table: Table,
        symbol: str,
        frame: pl.DataFrame,
        lo_ms: int,
        hi_ms: int,
        timeframe: Timeframe | None = None,
        exact: bool = False,
        recorded_at_ms: int | None = None,
        record_of: str = "",
    ) -> Written:
        """Make the rows of a frame facts, in one transaction.

        Args:
            table: Where to.
            symbol: Whose rows they are.
            frame: The table's schema; times inside `[lo_ms, hi_ms)`.
            lo_ms: Start of the range that the frame describes.
            hi_ms: End of it.
            timeframe: Of the rows, where the table has one.
            exact: The frame is all there is in the range: rows that it lacks are deleted.
            recorded_at_ms: The exchange's clock, since which new rows of a table with revisions are known if they do not say
                otherwise and did not end before the stream began. None: what is written counts as never having been
                otherwise.
            record_of: Asset whose record of the days is to follow what is written, where it does not record them itself.
        """
        target = Target(table, self._scope(table, symbol, timeframe), lo_ms, hi_ms, recorded_at_ms)
        if table.revised:
            since_ms = None if recorded_at_ms is None else self.live_since_ms(symbol)
            frame = dated(table, frame, timeframe, since_ms, recorded_at_ms)
        rows = Rows.of(frame, target)
        around: Around | None = (lambda c, t, put: in_step(c, t, record_of, put)) if record_of else None
        return self._run(lambda c: write(c, self._storage, target, rows, exact, around))

    def drop(
        self,
        table: Table,
        symbol: str,
        times_ms: Sequence[int],
        timeframe: Timeframe | None = None,
        recorded_at_ms: int | None = None,
    ) -> Written:
        """Delete the rows at some moments, where there are any; of `recorded_at_ms` see `write`."""
        if not times_ms:
            return Written()
        scope = self._scope(table, symbol, timeframe)
        target = Target(table, scope, min(times_ms), max(times_ms) + 1, recorded_at_ms)
        moments = [datetime.fromtimestamp(at_ms / 1000, UTC) for at_ms in times_ms]
        return self._run(lambda c: drop(c, self._storage, target, moments))

    def retain(self, table: Table, keep_from_ms: int, verified_until_ms: int) -> list[str]:
        """Drop the days before both moments and return the partitions that went; see `Storage.retain`."""
        return self._run(lambda c: self._storage.retain(c, table, keep_from_ms, verified_until_ms))

    def refresh(self, lo_ms: int, hi_ms: int) -> None:
        """Bring the bars made of the 1m bars of `[lo_ms, hi_ms)` up to date; see `Storage.refresh`."""
        self._run(lambda c: self._storage.refresh(c, lo_ms, hi_ms), statement_s=None)

    def compress(self, until_ms: int) -> list[str]:
        """Make what lies before a moment small and return the names of what was made so; see `Storage.compress`."""
        return self._run(lambda c: self._storage.compress(c, until_ms), statement_s=None)

    def live_since_ms(self, symbol: str) -> int | None:
        """Return the moment since which the stream proves trades, before which bars count as known at their close."""
        query = (
            "SELECT (extract(epoch FROM min(from_time)) * 1000)::bigint FROM md.trade_range "
            "WHERE symbol_id = $1 AND state = 'complete' AND origin = 'websocket'"
        )
        symbol_id = self._id(symbol)
        return self._run(lambda c: c.fetchval(query, symbol_id))

    def queries(self) -> MarketQueries:
        """Return the questions to this database that take a moment and a moment of knowledge."""
        return MarketQueries(partial(self.connections.run, read=True), self.venue, self.lake)

    # -- coverage and counts -----------------------------------------------------------------------------------------

    def trade_coverage(self, symbol: str) -> list[IdRange]:
        """Return what is proven by ids, in order of time; ranges that go on across midnight are one."""
        query = f"SELECT {_RANGE} FROM md.trade_coverage WHERE symbol_id = $1 ORDER BY proven_from"
        symbol_id, found = self._id(symbol), list[IdRange]()
        for row in self._run(lambda c: c.fetch(query, symbol_id)):
            if found and (row["proven_from_ms"], row["first_id"]) == (found[-1].proven_until_ms, found[-1].last_id + 1):
                found[-1].last_id, found[-1].proven_until_ms = row["last_id"], row["proven_until_ms"]
            else:
                found.append(IdRange(**row))
        return found

    def proven(self, symbol: str) -> list[tuple[int, int]]:
        """Return the half-open stretches of exchange time (ms) in which every trade is held."""
        return [(r.proven_from_ms, r.proven_until_ms) for r in self.trade_coverage(symbol)]

    def set_trade_coverage(self, symbol: str, day_ms: int, ranges: Iterable[IdRange]) -> None:
        """Replace what is proven of one UTC day."""
        symbol_id, ranges = self._id(symbol), list(ranges)
        self._run(lambda c: _replace_coverage(c, symbol_id, day_ms, lambda _: ranges), transaction=True)

    def extend_trade_coverage(self, symbol: str, day_ms: int, ranges: Iterable[IdRange]) -> None:
        """Add ranges of one UTC day, whose trades are stored, to what is proven of it."""
        symbol_id, added = self._id(symbol), list(ranges)
        self._run(
            lambda c: _replace_coverage(c, symbol_id, day_ms, lambda held: united([*held, *added])), transaction=True
        )

    def counts(self, table: Table) -> dict[str, int]:
        """Return rows by timeframe, or under `""` for a table without timeframes, of this venue."""
        group = "timeframe" if table.by_timeframe else "''"
        query = (
            f"SELECT {group} AS label, count(*) AS n FROM md.{table.relation} JOIN md.symbol USING (symbol_id) "
            "WHERE venue = $1 GROUP BY 1 ORDER BY 1"
        )
        return {row["label"]: row["n"] for row in self._run(lambda c: c.fetch(query, self.venue))}

    def span(self, table: Table, symbol: str, timeframe: Timeframe | None = None) -> tuple[int, int] | None:
        """Return the first and last time (ms) held, or None."""
        scope = self._scope(table, symbol, timeframe)
        condition = " AND ".join(f"{name} = {literal(value)}" for name, value in zip(table.scope, scope, strict=True))
        time = table.time_column
        query = (
            f"SELECT (extract(epoch FROM min({time})) * 1000)::bigint AS lo, "
            f"(extract(epoch FROM max({time})) * 1000)::bigint AS hi FROM md.{table.relation} WHERE {condition}"
        )
        row = self._run(lambda c: c.fetchrow(query))
        return None if row is None or row["lo"] is None else (row["lo"], row["hi"])

    def record_days(
        self, table: Table, asset: str, symbol: str, lo_ms: int, hi_ms: int, timeframe: Timeframe | None = None
    ) -> dict[str, int]:
        """Record rows and digest of each day of `[lo_ms, hi_ms)` as what `asset` wrote; return rows by day."""
        target = Target(table, self._scope(table, symbol, timeframe), lo_ms, hi_ms)
        return self._run(lambda c: record_days(c, target, asset), transaction=True)

    def note_days(self, asset: str, symbol: str, days: dict[str, tuple[int, str]], window: list[str]) -> None:
        """Record rows and digest by day of what `asset` wrote into another store; `window` lists all days it covered."""
        symbol_id = self._id(symbol)
        rows = [(symbol_id, asset, date.fromisoformat(day), *days[day]) for day in sorted(days)]
        insert = (
            "INSERT INTO md.day VALUES ($1, $2, $3, $4, $5) "
            "ON CONFLICT (symbol_id, asset, day) DO UPDATE SET rows = excluded.rows, digest = excluded.digest"
        )
        gone = [date.fromisoformat(day) for day in window if day not in days]
        self.execute("DELETE FROM md.day WHERE symbol_id = $1 AND asset = $2 AND day = ANY($3)", symbol_id, asset, gone)
        self._run(lambda c: c.executemany(insert, rows))

    def noted_days(self, asset: str, symbol: str) -> dict[str, tuple[int, str]]:
        """Return rows and digest by day as recorded by `note_days`."""
        query = "SELECT day, rows, digest FROM md.day WHERE symbol_id = $1 AND asset = $2 ORDER BY day"
        return {
            row["day"].isoformat(): (row["rows"], row["digest"]) for row in self.fetch(query, self._id(symbol), asset)
        }

    def damaged_days(
        self, table: Table, asset: str, symbols: Sequence[str], timeframe: Timeframe | None = None
    ) -> list[tuple[str, str, int, int]]:
        """Return (symbol, day, rows recorded, rows there) of the days that are not as `asset` wrote them."""
        condition = f"AND t.timeframe = {literal(timeframe.value)}" if timeframe else ""
        ids = [self._id(symbol) for symbol in symbols]
        query = (
            f"WITH found AS (SELECT symbol_id, day, count(*) AS rows, {DIGEST} AS digest "
            f"FROM {lines(table, f't.symbol_id = ANY($2) {condition}')} GROUP BY 1, 2), "
            "recorded AS (SELECT * FROM md.day WHERE asset = $1 AND symbol_id = ANY($2)) "
            "SELECT s.name, coalesce(f.day, r.day) AS day, coalesce(r.rows, 0) AS recorded, coalesce(f.rows, 0) AS found "
            "FROM found f FULL JOIN recorded r ON f.symbol_id = r.symbol_id AND f.day = r.day "
            "JOIN md.symbol s ON s.symbol_id = coalesce(f.symbol_id, r.symbol_id) "
            "WHERE f.digest IS DISTINCT FROM r.digest ORDER BY 1, 2"
        )
        rows = self._run(lambda c: c.fetch(query, asset, ids))
        return [(row["name"], row["day"].isoformat(), row["recorded"], row["found"]) for row in rows]

    def digest(self, table: Table) -> str:
        """Return SHA-256 over all rows of this venue in key order, the same for the same content."""
        key = [*table.scope[1:], *(table.column(name) for name in table.key)]
        query = (
            f"SELECT s.name, {', '.join(f't.{name}' for name in [*table.scope[1:], *table.facts])} "
            f"FROM md.{table.relation} t JOIN md.symbol s USING (symbol_id) WHERE s.venue = {literal(self.venue)} "
            f"ORDER BY s.name, {', '.join(f't.{name}' for name in key)}"
        )
        return hashlib.sha256(self._copy_out(query).getbuffer()).hexdigest()

    def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """Run a query with values passed apart and return its rows."""
        return self._run(lambda c: c.fetch(query, *arguments))

    def execute(self, statement: str, *arguments: object) -> str:
        """Run a statement with values passed apart and return its status."""
        return self._run(lambda c: c.execute(statement, *arguments), idempotent=False)

    # -- connections -------------------------------------------------------------------------------------------------

    def _run(self, call: Callable[[Any], Any], **how: bool | float | None) -> Any:
        return wait(self.connections.run(call, **how))

    def _copy_out(self, query: str, form: str = "csv") -> io.BytesIO:
        async def copied(connection: Any) -> io.BytesIO:
            sink = io.BytesIO()
            await connection.copy_from_query(query, output=sink, format=form)
            sink.seek(0)
            return sink

        return self._run(copied)

    def _id(self, symbol: str) -> int:
        if symbol not in self._ids:
            self.instrument(symbol)
        return self._ids[symbol]

    def _scope(self, table: Table, symbol: str, timeframe: Timeframe | None) -> tuple[Any, ...]:
        if not table.by_timeframe:
            return (self._id(symbol),)
        if timeframe is None:
            raise ValueError(f"md.{table.name} is kept by timeframe")
        return (self._id(symbol), timeframe.value)

    async def _migrate(self) -> None:
        async with self.connections.connection() as connection:
            server = await look_at(connection)
            require(server)
            await apply(connection, migrations(server.backend))
            self._storage = STORAGES[server.backend]


async def _replace_coverage(
    connection: Any, symbol_id: int, day_ms: int, change: Callable[[list[IdRange]], list[IdRange]]
) -> None:
    where = (
        "FROM md.trade_coverage WHERE symbol_id = $1 AND proven_from >= to_timestamp($2 / 1000.0) "
        "AND proven_from < to_timestamp($2 / 1000.0) + interval '24 hours'"
    )
    insert = "INSERT INTO md.trade_coverage VALUES ($1, $2, $3, to_timestamp($4 / 1000.0), to_timestamp($5 / 1000.0))"
    await connection.execute("SELECT pg_advisory_xact_lock(hashtext('trade_coverage'), $1)", symbol_id)
    held = [IdRange(**row) for row in await connection.fetch(f"SELECT {_RANGE} {where}", symbol_id, float(day_ms))]
    rows = [(symbol_id, r.first_id, r.last_id, float(r.proven_from_ms), float(r.proven_until_ms)) for r in change(held)]
    await connection.execute(f"DELETE {where}", symbol_id, float(day_ms))
    await connection.executemany(insert, rows)


def _known_by(target: Target, known_by_ms: int) -> str:
    """Return the relation of the versions that were known at a moment, up to its first condition."""
    table, at = target.table, moment(known_by_ms)
    if not table.revised:
        raise ValueError(f"md.{table.name} keeps no versions")
    columns = ", ".join(target.columns)
    return (
        f"(SELECT {columns} FROM md.{table.relation} AS t WHERE {target.inside('t')} AND known_at <= {at} "
        f"UNION ALL SELECT {columns} FROM md.{table.relation}_revision AS t WHERE {target.inside('t')} "
        f"AND known_at <= {at} AND superseded_at > {at}) AS t WHERE true"
    )
