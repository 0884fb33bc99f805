"""All versions of a table's rows: those known now and those that others took the place of.

They leave the database and come back as one relation, so that a copy of them elsewhere can be proven equal by the database
itself: the copy is staged in a temporary table and its digest worked out by the same SQL.
"""

import io
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from resources.timescale.binary_copy import decode, encode, select
from resources.timescale.day_record import DIGEST
from resources.timescale.store import MarketStore
from resources.timescale.tables import Table
from resources.timescale.writing import moment


@dataclass(frozen=True)
class Summary:
    """What all versions of some rows amount to.

    Attributes:
        rows: Rows as they are known now.
        superseded: Versions that others took the place of.
        digest: Order-free digest of all of them; empty where there is none.
    """

    rows: int = 0
    superseded: int = 0
    digest: str = ""


def versioned(table: Table) -> Table:
    """Return the relation of all versions of a table's rows: all timeframes together, and `superseded_at_ms` at the end."""
    if not table.revised:
        return table
    timeframe = {"timeframe": pl.String} if table.by_timeframe else {}
    return replace(
        table,
        schema=timeframe | table.schema | {"superseded_at_ms": pl.Int64},
        moments={**table.moments, "superseded_at_ms": "superseded_at"},
        by_timeframe=False,
    )


def read_versions(market: MarketStore, table: Table, symbol: str, lo_ms: int, hi_ms: int) -> pl.DataFrame:
    """Return all versions of the rows with time in `[lo_ms, hi_ms)`, as the schema of `versioned`, in order."""
    all_of = versioned(table)
    order = [name for name in ("timeframe", "known_at", "superseded_at") if name in all_of.columns]
    order[1:1] = [table.column(name) for name in table.order or table.key]
    query = f"SELECT {select(all_of)} FROM {_relation(market, table, symbol, lo_ms, hi_ms)} ORDER BY {', '.join(order)}"
    return decode(all_of, market._copy_out(query, "binary").getbuffer())


def summary(market: MarketStore, table: Table, symbol: str, lo_ms: int, hi_ms: int) -> Summary:
    """Return what all versions of the rows with time in `[lo_ms, hi_ms)` amount to."""
    (row,) = market.fetch(_summary(table, _relation(market, table, symbol, lo_ms, hi_ms)))
    return Summary(*row)


def summary_of_copy(market: MarketStore, table: Table, symbol: str, frame: pl.DataFrame) -> Summary:
    """Return what the rows of a frame of `versioned` amount to, once the database has taken them back."""
    all_of = versioned(table)
    rows = encode(all_of, frame, (market._id(symbol),))
    columns = [*all_of.scope, *all_of.columns]

    async def staged(connection: Any) -> Any:
        nothing = _relation(market, table, symbol, 0, 0)
        await connection.execute(
            f"CREATE TEMP TABLE copied ON COMMIT DROP AS SELECT {', '.join(columns)} FROM {nothing}"
        )
        await connection.copy_to_table("copied", columns=columns, source=io.BytesIO(rows), format="binary")
        row = await connection.fetchrow(_summary(table, "copied AS t"))
        await connection.execute("DROP TABLE copied")
        return row

    return Summary(*market._run(staged, transaction=True))


def first_row_ms(market: MarketStore, table: Table, symbol: str) -> int | None:
    """Return the time of the earliest row of which there is or was a version, or None."""
    names = [table.relation, f"{table.relation}_revision"] if table.revised else [table.relation]
    firsts = (f"(SELECT min({table.time_column}) FROM md.{name} WHERE symbol_id = $1)" for name in names)
    query = f"SELECT (extract(epoch FROM least({', '.join(firsts)})) * 1000)::bigint"
    return market.fetch(query, market._id(symbol))[0][0]


def _relation(market: MarketStore, table: Table, symbol: str, lo_ms: int, hi_ms: int) -> str:
    inside = (
        f"t.symbol_id = {market._id(symbol)} "
        f"AND t.{table.time_column} >= {moment(lo_ms)} AND t.{table.time_column} < {moment(hi_ms)}"
    )
    if not table.revised:
        return f"(SELECT * FROM md.{table.relation} AS t WHERE {inside}) AS t"
    columns = ", ".join(f"t.{name}" for name in ["symbol_id", *versioned(table).columns[:-1]])
    return (
        f"(SELECT {columns}, NULL::timestamptz AS superseded_at FROM md.{table.relation} AS t WHERE {inside} "
        f"UNION ALL SELECT {columns}, t.superseded_at FROM md.{table.relation}_revision AS t WHERE {inside}) AS t"
    )


def _summary(table: Table, relation: str) -> str:
    line = f"ROW({', '.join(f't.{name}' for name in versioned(table).columns)})::text AS line"
    now = "t.superseded_at IS NULL" if table.revised else "true"
    return (
        "SELECT n, total - n, digest FROM (SELECT count(*) FILTER (WHERE now) AS n, count(*) AS total, "
        f"coalesce({DIGEST}, '') AS digest FROM (SELECT {line}, {now} AS now FROM {relation} OFFSET 0) AS lines) AS counted"
    )
