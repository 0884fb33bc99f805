"""What was written for a symbol and day: rows and an order-free digest of them, which a check compares with what is there.

An asset records a day as a whole when it has written it. Who adds to an open day afterwards keeps the record in step, in the
transaction of the rows: digests are sums, so that of a day changes by what its rows do. A row that is changed by anybody
else still makes the day differ from its record.
"""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from resources.timescale.tables import Table
from resources.timescale.writing import Target, Written, take_turn

DIGEST: Final = "sum(hashtextextended(line, 0))::text || ':' || sum(hashtextextended(line, 1))::text"
"""SQL of an order-free digest of rows: the sums of two independent 64-bit hashes of each row's text, `line`."""


class _Sums(NamedTuple):
    rows: int = 0
    first: int = 0
    second: int = 0
    complete: int = 0


async def record_days(connection: Any, target: Target, asset: str) -> dict[str, int]:
    """Record each day of a target's range as what `asset` wrote, inside the caller's transaction; return rows by day."""
    days = _day(target.lo_ms), _day(target.hi_ms)
    await take_turn(connection, target)
    statement = (
        f"WITH written AS ({_sums(target)}), gone AS (DELETE FROM md.day WHERE symbol_id = $1 AND asset = $2 "
        "AND day >= $3 AND day < $4 AND day NOT IN (SELECT day FROM written)) "
        "INSERT INTO md.day AS d SELECT $1, $2, day, rows, digest, complete FROM written "
        "ON CONFLICT (symbol_id, asset, day) DO UPDATE "
        "SET rows = excluded.rows, digest = excluded.digest, complete = excluded.complete RETURNING day, rows"
    )
    rows = await connection.fetch(statement, target.scope[0], asset, *days)
    return {row["day"].isoformat(): row["rows"] for row in rows}


async def in_step(connection: Any, target: Target, asset: str, write: Callable[[], Awaitable[Written]]) -> Written:
    """Write rows, inside the caller's transaction, and let the record of what `asset` wrote follow them.

    A day that has no record yet gets one of all its rows.
    """
    await take_turn(connection, target)
    before = await _read(connection, target)
    written = await write()
    after = await _read(connection, target) if written.changed else before
    for day in sorted(before.keys() | after.keys()):
        was, now = before.get(day, _Sums()), after.get(day, _Sums())
        change = [after - before for before, after in zip(was, now, strict=True)]
        outcome = await connection.execute(
            "UPDATE md.day SET rows = rows + $4::bigint, complete = complete + $7::bigint, digest = "
            "(split_part(digest, ':', 1)::numeric + $5::text::numeric)::text || ':' || "
            "(split_part(digest, ':', 2)::numeric + $6::text::numeric)::text "
            "WHERE symbol_id = $1 AND asset = $2 AND day = $3",
            *(target.scope[0], asset, day, change[0], str(change[1]), str(change[2]), change[3]),
        )
        if outcome == "UPDATE 0":
            lo_ms = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1000
            await record_days(connection, target.of(lo_ms, lo_ms + 86_400_000), asset)
    return written


async def _read(connection: Any, target: Target) -> dict[Any, _Sums]:
    rows = await connection.fetch(_sums(target))
    return {
        row["day"]: _Sums(row["rows"], *(int(part) for part in row["digest"].split(":")), row["complete"] or 0)
        for row in rows
    }


def _sums(target: Target) -> str:
    complete = "count(*) FILTER (WHERE complete)" if "complete" in target.table.schema else "NULL::bigint"
    return (
        f"SELECT day, count(*) AS rows, {DIGEST} AS digest, {complete} AS complete "
        f"FROM {lines(target.table, target.inside('t'))} GROUP BY 1"
    )


def lines(table: Table, condition: str) -> str:
    """Return the SQL, to select from, of `day` and `line` of the rows `t` of a table that meet a condition.

    A line is the text of what a row says, whenever that was known. To make it is most of the work, and OFFSET 0 has it made
    once, where the planner would put its expression into each hash. Symbol and completeness go with it.
    """
    said = f"ROW({', '.join(f't.{name}' for name in [*table.scope, *table.facts])})" if table.revised else "t"
    complete = ", t.complete" if "complete" in table.schema else ""
    return (
        f"(SELECT t.symbol_id, t.{table.time_column}::date AS day, {said}::text AS line{complete} "
        f"FROM md.{table.relation} t WHERE {condition} OFFSET 0) AS lines"
    )


def _day(time_ms: int) -> Any:
    return datetime.fromtimestamp(time_ms / 1000, UTC).date()
