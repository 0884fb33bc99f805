"""Rows become facts by one statement, which keeps what it replaces.

New rows are staged and compared with what is there; only those that differ are written. Where a table keeps its
revisions, the version that a row replaces, and a row that is no longer so, move to the revision table in the same statement,
so that no moment of knowledge has two versions of one row, or none.
"""

import io
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import polars as pl

from resources.timescale.binary_copy import encode
from resources.timescale.tables import CANDLE, TRADE, Table, rank
from trading.market.timeframe import DAY_MS, Timeframe

if TYPE_CHECKING:
    from resources.timescale.backend import Storage


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


@dataclass(frozen=True)
class Target:
    """Where rows go: a table, the scope that they share, the range of time that they describe.

    Attributes:
        table: The table.
        scope: Symbol id, and timeframe where the table has one.
        lo_ms: Start of the range.
        hi_ms: End of it.
        recorded_at_ms: The exchange's clock at the write; see `dated`.
    """

    table: Table
    scope: tuple[int | str, ...]
    lo_ms: int
    hi_ms: int
    recorded_at_ms: int | None = None

    @property
    def columns(self) -> list[str]:
        """All columns of the table, scope first."""
        return [*self.table.scope, *self.table.columns]

    @property
    def key(self) -> list[str]:
        """Columns of the primary key."""
        return [*self.table.scope, *(self.table.column(name) for name in self.table.key)]

    def of(self, lo_ms: int, hi_ms: int) -> "Target":
        """Return the target of another range."""
        return replace(self, lo_ms=lo_ms, hi_ms=hi_ms)

    def inside(self, row: str) -> str:
        """Return the SQL that is true of rows of scope and range; literals, so that partitions are left out early."""
        time = f"{row}.{self.table.time_column}"
        return (
            " AND ".join(
                f"{row}.{name} = {literal(value)}" for name, value in zip(self.table.scope, self.scope, strict=True)
            )
            + f" AND {time} >= {moment(self.lo_ms)} AND {time} < {moment(self.hi_ms)}"
        )


@dataclass(frozen=True)
class Rows:
    """Rows on their way.

    Attributes:
        content: As `resources.timescale.binary_copy.encode` writes them.
        first_ms: Earliest time.
        end_ms: Moment just after the latest one; equal to `first_ms` where there are no rows.
        ids: First and last id of trades, which may be stored under another time.
    """

    content: bytes
    first_ms: int
    end_ms: int
    ids: tuple[int, int] | None = None

    @classmethod
    def of(cls, frame: pl.DataFrame, target: Target) -> "Rows":
        """Return a frame of the target's table as rows."""
        table = target.table
        content = encode(table, frame, target.scope)
        if frame.is_empty():
            return cls(content, target.lo_ms, target.lo_ms)
        first, last = (int(edge) for edge in frame.select(lo=pl.min(table.time), hi=pl.max(table.time)).row(0))
        ids = None
        if table is TRADE:
            lowest, highest = frame.select(lo=pl.min("agg_trade_id"), hi=pl.max("agg_trade_id")).row(0)
            ids = (int(lowest), int(highest))
        return cls(content, first, last + 1, ids)


def dated(
    table: Table,
    frame: pl.DataFrame,
    timeframe: Timeframe | None,
    live_since_ms: int | None,
    recorded_at_ms: int | None,
) -> pl.DataFrame:
    """Return the frame with the moment since which each row is known.

    A row that does not say is known at its end where it ended before the stream began or the write is undated, and since
    the write elsewhere; nothing is known before it ended.
    """
    end = pl.col(table.time) + (timeframe.ms if timeframe and table.by_timeframe else table.length_ms)
    recorded = pl.lit(recorded_at_ms, pl.Int64)
    if recorded_at_ms is None or live_since_ms is None:
        assumed = end
    else:
        assumed = pl.when(end <= live_since_ms).then(end).otherwise(recorded)
    return frame.with_columns(known_at_ms=pl.max_horizontal(end, pl.coalesce("known_at_ms", assumed)))


async def take_turn(connection: Any, target: Target) -> None:
    """Wait for other writers of a table and symbol, so that what is found in a transaction stays true until its commit."""
    await connection.execute("SELECT pg_advisory_xact_lock(hashtext($1), $2)", target.table.name, target.scope[0])


Around = Callable[[Any, Target, Callable[[], Awaitable[Written]]], Awaitable[Written]]
"""Makes a write in a transaction, given its connection and target, and does what belongs to it."""


async def write(
    connection: Any, storage: "Storage", target: Target, rows: Rows, exact: bool, around: Around | None = None
) -> Written:
    """Make rows facts in one transaction, and have the bars that are made of them follow.

    Args:
        connection: asyncpg connection outside a transaction.
        storage: How the server keeps rows.
        target: Where to.
        rows: The rows.
        exact: Rows of the range that the frame lacks are no longer so.
        around: Called with the write, inside the transaction.
    """

    def put() -> Awaitable[Written]:
        return write_rows(connection, storage, target, rows, exact)

    touched = (target.lo_ms, target.hi_ms) if exact else (rows.first_ms, rows.end_ms)
    async with connection.transaction():
        await storage.begin(connection, target.table, rows.first_ms, rows.end_ms)
        written = await (around(connection, target, put) if around else put())
        if written.changed and _of_a_minute(target):
            await storage.roll_up(connection, int(target.scope[0]), *touched)
    if _of_a_minute(target):  # also when nothing changed: what did may have been cut off after its commit
        await storage.catch_up(connection, *touched)
    return written


async def drop(connection: Any, storage: "Storage", target: Target, moments: list[Any]) -> Written:
    """Delete rows of some moments in one transaction, and have the bars that were made of them follow."""
    async with connection.transaction():
        await storage.begin(connection, target.table, target.lo_ms, target.lo_ms)
        written = await drop_rows(connection, target, moments)
        if written.changed and _of_a_minute(target):
            await storage.roll_up(connection, int(target.scope[0]), target.lo_ms, target.hi_ms)
    if _of_a_minute(target):
        await storage.catch_up(connection, target.lo_ms, target.hi_ms)
    return written


def _of_a_minute(target: Target) -> bool:
    return target.table is CANDLE and target.scope[1] == Timeframe.M1


async def write_rows(connection: Any, storage: "Storage", target: Target, rows: Rows, exact: bool) -> Written:
    """Make staged rows facts, inside the caller's transaction; see `write`."""
    table = target.table
    await take_turn(connection, target)
    there = target.inside("t")
    if rows.ids is not None:
        # The time of a trade may be told anew, by milliseconds; a day around keeps the search out of all other partitions.
        there = (
            f"t.symbol_id = {target.scope[0]} AND t.agg_trade_id BETWEEN {rows.ids[0]} AND {rows.ids[1]} "
            f"AND t.time >= {moment(rows.first_ms - DAY_MS)} AND t.time < {moment(rows.end_ms + DAY_MS)}"
        )
    found = f"SELECT EXISTS (SELECT 1 FROM md.{table.relation} AS t WHERE {there})"
    if exact and rows.ids is not None:  # other trades of the range are no longer so
        found += f" OR EXISTS (SELECT 1 FROM md.{table.relation} AS t WHERE {target.inside('t')})"
    if table.revised:  # what was taken back there may come again
        found += f" OR EXISTS (SELECT 1 FROM md.{table.relation}_revision AS t WHERE {target.inside('t')})"
    if not await connection.fetchval(found):
        return Written(inserted=await _copy_in(connection, "md", table.relation, target.columns, rows.content))
    # What is compared is about as much on either side. Statistics that are older than the rows say that there are none, and
    # then the planner goes through all of one side for each row of the other.
    await connection.execute(
        "SET LOCAL enable_nestloop = off; "
        f"CREATE TEMP TABLE staging ON COMMIT DROP AS SELECT {', '.join(target.columns)} FROM md.{table.relation} LIMIT 0"
    )
    await _copy_in(connection, None, "staging", target.columns, rows.content)
    written = Written()
    writes, exact = await storage.make_way(connection, target, exact)
    if writes:
        moved = rows.ids is not None and await connection.fetchval(f"SELECT EXISTS (SELECT 1 {_MOVED} AND {there})")
        row = await connection.fetchrow(_statement(target, exact, there if moved else ""))
        written = Written(row["inserted"] - row["moved"], row["updated"] + row["moved"], row["deleted"])
    await connection.execute("DROP TABLE staging; SET LOCAL enable_nestloop = DEFAULT")
    return written


async def drop_rows(connection: Any, target: Target, moments: list[Any]) -> Written:
    """Delete rows of some moments, inside the caller's transaction."""
    table = target.table
    there = f"md.{table.relation} AS t WHERE {target.inside('t')} AND t.{table.time_column} = ANY($1)"
    if not await connection.fetchval(f"SELECT EXISTS (SELECT 1 FROM {there})", moments):
        return Written()  # most often so; a deletion of nothing would all the same open what is in a columnstore
    gone = f"DELETE FROM {there}"
    if not table.revised:
        return Written(deleted=int((await connection.execute(gone, moments)).rsplit(" ", 1)[1]))
    columns = ", ".join(target.columns)
    statement = (
        f"WITH gone AS ({gone} RETURNING {_of('t', target.columns)}) "
        f"INSERT INTO md.{table.relation}_revision ({columns}, superseded_at) SELECT {columns}, {_gone_at(target)} FROM gone"
    )
    return Written(deleted=int((await connection.execute(statement, moments)).rsplit(" ", 1)[1]))


_MOVED = "FROM staging s JOIN md.trade t USING (symbol_id, agg_trade_id) WHERE t.time <> s.time"


def _statement(target: Target, exact: bool, moved_from: str) -> str:
    """Return the one statement that writes what differs from `staging` and says how many rows that were.

    `moved_from` is true of rows that may hold a staged trade under its former time; empty: there is none.
    """
    table, columns, key = target.table, target.columns, target.key
    facts = [name for name in columns if name not in key and name in (*table.scope, *table.facts)]
    same_key = " AND ".join(f"t.{name} = s.{name}" for name in key)
    differs = f"({_of('t', facts)}) IS DISTINCT FROM ({_of('s', facts)})"
    if table.ranked:
        differs = f"{rank('s.source')} >= {rank('t.source')} AND {differs}"
    known = ""
    if table.revised:
        # A row that was taken back and comes again was not known in between; null makes no other moment less.
        again = f"greatest(max(t.superseded_at), CASE WHEN count(*) > 0 THEN {_recorded(target)}::timestamptz END)"
        taken_back = f"SELECT {again} FROM md.{table.relation}_revision t WHERE {same_key}"
        known = (
            f", CASE WHEN t.{key[0]} IS NULL THEN greatest(s.known_at, ({taken_back})) "
            f"WHEN s.known_at > t.known_at THEN s.known_at ELSE greatest({_recorded(target)}, t.known_at) END AS since"
        )
    values = [f"since AS {name}" if name == "known_at" and table.revised else name for name in columns]
    updates = ", ".join(f"{name} = excluded.{name}" for name in columns if name not in key)
    parts = [
        f"changed AS MATERIALIZED (SELECT {_of('s', columns)}, {', '.join(f't.{name} AS old_{name}' for name in columns)}"
        f"{known} FROM staging s LEFT JOIN md.{table.relation} t ON {same_key} AND {target.inside('t')} "
        f"WHERE t.{key[0]} IS NULL OR ({differs}))",
        f"written AS (INSERT INTO md.{table.relation} AS t ({', '.join(columns)}) SELECT {', '.join(values)} FROM changed "
        f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {updates})",
    ]
    if exact:
        parts.append(
            f"gone AS (DELETE FROM md.{table.relation} t WHERE {target.inside('t')} "
            f"AND NOT EXISTS (SELECT 1 FROM staging s WHERE {same_key}) RETURNING {_of('t', columns)})"
        )
    if moved_from:
        parts.append(
            f"moved AS (DELETE FROM md.trade t USING staging s WHERE t.symbol_id = s.symbol_id "
            f"AND t.agg_trade_id = s.agg_trade_id AND t.time <> s.time AND {moved_from} RETURNING 1)"
        )
    if table.revised:
        former = (
            f"SELECT {', '.join(f'old_{name}' for name in columns)}, since FROM changed WHERE old_{key[0]} IS NOT NULL"
        )
        if exact:
            former += f" UNION ALL SELECT {', '.join(columns)}, {_gone_at(target)} FROM gone"
        parts.append(
            f"kept AS (INSERT INTO md.{table.relation}_revision ({', '.join(columns)}, superseded_at) {former})"
        )
    deleted = "(SELECT count(*) FROM gone)" if exact else "0"
    moved = "(SELECT count(*) FROM moved)" if moved_from else "0"
    return (
        f"WITH {', '.join(parts)} SELECT count(*) FILTER (WHERE old_{key[0]} IS NULL) AS inserted, "
        f"count(old_{key[0]}) AS updated, {deleted} AS deleted, {moved} AS moved FROM changed"
    )


def _recorded(target: Target) -> str:
    """Return the SQL of the moment of an undated write's or a dated write's record; null sorts under every other."""
    return "NULL" if target.recorded_at_ms is None else moment(target.recorded_at_ms)


def _gone_at(target: Target) -> str:
    return f"greatest({_recorded(target)}, known_at)"


def _of(row: str, columns: list[str]) -> str:
    return ", ".join(f"{row}.{name}" for name in columns)


def literal(value: int | str) -> str:
    """Return a symbol id, timeframe or venue as SQL; COPY takes no parameters."""
    return str(value) if isinstance(value, int) else "'" + value.replace("'", "''") + "'"


def moment(time_ms: int) -> str:
    """Return epoch milliseconds as the SQL of a `timestamptz`."""
    return f"to_timestamp({int(time_ms)} / 1000.0)"


async def _copy_in(connection: Any, schema: str | None, table: str, columns: list[str], rows: bytes) -> int:
    outcome = await connection.copy_to_table(
        table, schema_name=schema, columns=columns, source=io.BytesIO(rows), format="binary"
    )
    return int(outcome.rsplit(" ", 1)[1])
