"""The market database: instruments, trades with their coverage, candles, and what is derived from them.

PostgreSQL is the truth for all that is asked. Every write is idempotent and says how many rows it inserted and
updated: writing what is already there changes nothing. A write into a range that is empty goes in by COPY alone.
"""

import hashlib
import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any, TypeVar

import asyncpg
import polars as pl

from resources.timescale.loop import wait
from resources.timescale.migrations import apply, backend_of, migrations
from resources.timescale.tables import TRADE, Table, decode, encode, select, upsert
from trading.errors import TradingError
from trading.market.instrument import Instrument
from trading.market.timeframe import Timeframe
from trading.stream.contiguity import IdRange

T = TypeVar("T")
STATEMENT_TIMEOUT_S = 120


class UnknownInstrument(TradingError):
    """A symbol is not in this database."""


class DatabaseUnavailable(TradingError):
    """The market database cannot be reached."""


@dataclass(frozen=True)
class Written:
    """Rows that a write inserted, updated and deleted; the rest were already so."""

    inserted: int = 0
    updated: int = 0
    deleted: int = 0

    @property
    def changed(self) -> int:
        """All rows that are not as they were."""
        return self.inserted + self.updated + self.deleted

    def __add__(self, other: "Written") -> "Written":
        """Return the sum of two writes."""
        return Written(self.inserted + other.inserted, self.updated + other.updated, self.deleted + other.deleted)


class MarketStore:
    """The market database of one venue.

    Args:
        dsn: PostgreSQL URL.
        venue: Venue whose instruments are read and written.
    """

    def __init__(self, dsn: str, venue: str) -> None:
        self.venue = venue
        self._dsn = dsn
        self._pool: asyncpg.Pool | None = None
        self._ids: dict[str, int] = {}

    def __enter__(self) -> "MarketStore":
        """Connect and bring the schema up to date."""
        try:
            self._pool = wait(self._connect())
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise DatabaseUnavailable(
                f"the market database does not answer: {error}", "check TRADING_POSTGRES_URL or run 'trading doctor'"
            ) from error
        wait(self._migrate())
        return self

    def __exit__(self, *_: object) -> None:
        """Close all connections."""
        if self._pool is not None:
            wait(self._pool.close())
            self._pool = None

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
    ) -> pl.DataFrame:
        """Return the rows with time in `[lo_ms, hi_ms)`, ordered by key, as the table's schema."""
        scope = self._scope(table, symbol, timeframe)
        order = ", ".join(table.column(name) for name in table.key)
        condition = " AND ".join(f"{name} = {_literal(value)}" for name, value in zip(table.scope, scope, strict=True))
        query = (
            f"SELECT {select(table)} FROM md.{table.name} WHERE {condition} AND {where} "  # noqa: S608
            f"AND {table.time_column} >= to_timestamp({int(lo_ms)} / 1000.0) "
            f"AND {table.time_column} < to_timestamp({int(hi_ms)} / 1000.0) ORDER BY {order}"
        )
        return decode(table, self._copy_out(query))

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
        condition = " AND ".join(f"{name} = {_literal(value)}" for name, value in zip(table.scope, scope, strict=True))
        time = table.time_column
        query = (
            f"SELECT (extract(epoch FROM min({time})) * 1000)::bigint FROM (SELECT {time} FROM md.{table.name} "  # noqa: S608
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
        """
        scope = self._scope(table, symbol, timeframe)
        csv = encode(table, frame.select(list(table.schema)), scope)
        return wait(self._write(table, scope, csv, (lo_ms, hi_ms), exact))

    def drop(self, table: Table, symbol: str, times_ms: Sequence[int], timeframe: Timeframe | None = None) -> Written:
        """Delete the rows at some moments, where there are any."""
        scope = self._scope(table, symbol, timeframe)
        condition = " AND ".join(f"{name} = {_literal(value)}" for name, value in zip(table.scope, scope, strict=True))
        moments = [datetime.fromtimestamp(at_ms / 1000, UTC) for at_ms in times_ms]
        statement = f"DELETE FROM md.{table.name} WHERE {condition} AND {table.time_column} = ANY($1)"  # noqa: S608
        return Written(deleted=int(self.execute(statement, moments).rsplit(" ", 1)[1]) if moments else 0)

    async def _write(
        self, table: Table, scope: tuple[Any, ...], csv: bytes, window: tuple[int, int], exact: bool
    ) -> Written:
        columns = [*table.scope, *table.columns]
        inside = (
            " AND ".join(f"t.{name} = {_literal(value)}" for name, value in zip(table.scope, scope, strict=True))
            + f" AND t.{table.time_column} >= to_timestamp({window[0]} / 1000.0)"
            + f" AND t.{table.time_column} < to_timestamp({window[1]} / 1000.0)"
        )
        async with self._connected().acquire() as connection, connection.transaction():
            # Two writers of one table and symbol take turns, so that "empty" below stays true until the commit.
            await connection.execute("SELECT pg_advisory_xact_lock(hashtext($1), $2)", table.name, scope[0])
            empty = not await connection.fetchval(f"SELECT EXISTS (SELECT 1 FROM md.{table.name} AS t WHERE {inside})")  # noqa: S608
            if empty and table is not TRADE:
                return Written(inserted=await _copy_in(connection, "md", table.name, columns, csv))
            await connection.execute(
                f"CREATE TEMP TABLE staging ON COMMIT DROP AS SELECT {', '.join(columns)} FROM md.{table.name} LIMIT 0"  # noqa: S608
            )
            await _copy_in(connection, None, "staging", columns, csv)
            deleted = 0
            if exact:
                key = ", ".join(table.column(name) for name in table.key)
                outcome = await connection.execute(
                    f"DELETE FROM md.{table.name} AS t WHERE {inside} AND ({key}) NOT IN (SELECT {key} FROM staging)"  # noqa: S608
                )
                deleted = int(outcome.rsplit(" ", 1)[1])
            touched = await connection.fetch(upsert(table, "staging"))
            await connection.execute("DROP TABLE staging")
            inserted = sum(row["inserted"] for row in touched)
            return Written(inserted, len(touched) - inserted, deleted)

    # -- coverage and counts -----------------------------------------------------------------------------------------

    def trade_coverage(self, symbol: str) -> list[IdRange]:
        """Return what is proven by ids, in order of time; ranges that go on across midnight are one."""
        query = (
            "SELECT first_id, last_id, (extract(epoch FROM proven_from) * 1000)::bigint AS proven_from_ms, "
            "(extract(epoch FROM proven_until) * 1000)::bigint AS proven_until_ms "
            "FROM md.trade_coverage WHERE symbol_id = $1 ORDER BY proven_from"
        )
        found: list[IdRange] = []
        for row in self._run(lambda c: c.fetch(query, self._id(symbol))):
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
        symbol_id = self._id(symbol)
        rows = [(symbol_id, r.first_id, r.last_id, float(r.proven_from_ms), float(r.proven_until_ms)) for r in ranges]
        wait(self._replace_coverage(symbol_id, float(day_ms), rows))

    async def _replace_coverage(self, symbol_id: int, day_ms: float, rows: list[tuple[Any, ...]]) -> None:
        delete = (
            "DELETE FROM md.trade_coverage WHERE symbol_id = $1 AND proven_from >= to_timestamp($2 / 1000.0) "
            "AND proven_from < to_timestamp($2 / 1000.0) + interval '24 hours'"
        )
        insert = (
            "INSERT INTO md.trade_coverage VALUES ($1, $2, $3, to_timestamp($4 / 1000.0), to_timestamp($5 / 1000.0))"
        )
        async with self._connected().acquire() as connection, connection.transaction():
            await connection.execute(delete, symbol_id, day_ms)
            await connection.executemany(insert, rows)

    def counts(self, table: Table) -> dict[str, int]:
        """Return rows by timeframe, or under `""` for a table without timeframes, of this venue."""
        group = "timeframe" if table.by_timeframe else "''"
        query = (
            f"SELECT {group} AS label, count(*) AS n FROM md.{table.name} JOIN md.symbol USING (symbol_id) "  # noqa: S608
            "WHERE venue = $1 GROUP BY 1 ORDER BY 1"
        )
        return {row["label"]: row["n"] for row in self._run(lambda c: c.fetch(query, self.venue))}

    def span(self, table: Table, symbol: str, timeframe: Timeframe | None = None) -> tuple[int, int] | None:
        """Return the first and last time (ms) held, or None."""
        scope = self._scope(table, symbol, timeframe)
        condition = " AND ".join(f"{name} = {_literal(value)}" for name, value in zip(table.scope, scope, strict=True))
        time = table.time_column
        query = (
            f"SELECT (extract(epoch FROM min({time})) * 1000)::bigint AS lo, "  # noqa: S608
            f"(extract(epoch FROM max({time})) * 1000)::bigint AS hi FROM md.{table.name} WHERE {condition}"
        )
        row = self._run(lambda c: c.fetchrow(query))
        return None if row is None or row["lo"] is None else (row["lo"], row["hi"])

    def record_days(
        self, table: Table, asset: str, symbol: str, lo_ms: int, hi_ms: int, timeframe: Timeframe | None = None
    ) -> dict[str, int]:
        """Record rows and digest of each day of `[lo_ms, hi_ms)` as what `asset` wrote; return rows by day."""
        scope = self._scope(table, symbol, timeframe)
        condition = " AND ".join(
            f"t.{name} = {_literal(value)}" for name, value in zip(table.scope, scope, strict=True)
        )
        time = f"t.{table.time_column}"
        complete = "count(*) FILTER (WHERE t.complete)" if "complete" in table.schema else "NULL::bigint"
        statement = (
            "WITH written AS ("  # noqa: S608
            f"SELECT {time}::date AS day, count(*) AS rows, {day_digest('t')} AS digest, {complete} AS complete "
            f"FROM md.{table.name} t WHERE {condition} "
            f"AND {time} >= to_timestamp($3 / 1000.0) AND {time} < to_timestamp($4 / 1000.0) GROUP BY 1"
            "), gone AS (DELETE FROM md.day WHERE symbol_id = $1 AND asset = $2 "
            "AND day >= to_timestamp($3 / 1000.0)::date AND day < to_timestamp($4 / 1000.0)::date "
            "AND day NOT IN (SELECT day FROM written)) "
            "INSERT INTO md.day AS d SELECT $1, $2, day, rows, digest, complete FROM written "
            "ON CONFLICT (symbol_id, asset, day) DO UPDATE "
            "SET rows = excluded.rows, digest = excluded.digest, complete = excluded.complete RETURNING day, rows"
        )
        rows = self._run(lambda c: c.fetch(statement, self._id(symbol), asset, float(lo_ms), float(hi_ms)))
        return {row["day"].isoformat(): row["rows"] for row in rows}

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
        condition = f"AND t.timeframe = {_literal(timeframe.value)}" if timeframe else ""
        ids = [self._id(symbol) for symbol in symbols]
        query = (
            f"WITH found AS (SELECT t.symbol_id, t.{table.time_column}::date AS day, count(*) AS rows, "  # noqa: S608
            f"{day_digest('t')} AS digest FROM md.{table.name} t WHERE t.symbol_id = ANY($2) {condition} GROUP BY 1, 2), "
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
            f"SELECT s.name, {', '.join(f't.{name}' for name in [*table.scope[1:], *table.columns])} "  # noqa: S608
            f"FROM md.{table.name} t JOIN md.symbol s USING (symbol_id) WHERE s.venue = {_literal(self.venue)} "
            f"ORDER BY s.name, {', '.join(f't.{name}' for name in key)}"
        )
        return hashlib.sha256(self._copy_out(query).getbuffer()).hexdigest()

    def fetch(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        """Run a query with values passed apart and return its rows."""
        return self._run(lambda c: c.fetch(query, *arguments))

    def execute(self, statement: str, *arguments: object) -> str:
        """Run a statement with values passed apart and return its status."""
        return self._run(lambda c: c.execute(statement, *arguments))

    # -- connections -------------------------------------------------------------------------------------------------

    def _connected(self) -> asyncpg.Pool:
        if self._pool is None:
            raise DatabaseUnavailable("the market database is not open", "use it as a context manager")
        return self._pool

    def _run(self, call: Callable[[Any], Any]) -> Any:
        async def once() -> Any:
            async with self._connected().acquire() as connection:
                return await call(connection)

        return wait(once())

    def _copy_out(self, query: str) -> io.BytesIO:
        sink = io.BytesIO()
        self._run(lambda c: c.copy_from_query(query, output=sink, format="csv"))
        sink.seek(0)
        return sink

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

    async def _connect(self) -> asyncpg.Pool:
        return await asyncpg.create_pool(
            self._dsn,
            min_size=1,
            max_size=4,
            timeout=10,
            command_timeout=STATEMENT_TIMEOUT_S,
            server_settings={"timezone": "UTC"},
        )

    async def _migrate(self) -> None:
        async with self._connected().acquire() as connection:
            await apply(connection, migrations(await backend_of(connection)))


def day_digest(row: str) -> str:
    """Return the SQL of an order-free digest of rows: the sum of two independent 64-bit hashes of their text."""
    text = f"{row}::text"
    return f"sum(hashtextextended({text}, 0)::numeric)::text || ':' || sum(hashtextextended({text}, 1)::numeric)::text"


async def _copy_in(connection: Any, schema: str | None, table: str, columns: list[str], csv: bytes) -> int:
    outcome = await connection.copy_to_table(
        table, schema_name=schema, columns=columns, source=io.BytesIO(csv), format="csv"
    )
    return int(outcome.rsplit(" ", 1)[1])


def _literal(value: int | str) -> str:
    """Return a symbol id, timeframe or venue as SQL; COPY takes no parameters."""
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"
