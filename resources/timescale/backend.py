"""What plain PostgreSQL and TimescaleDB do in different ways, behind the same few verbs.

The queries of the store know tables and views alone. Where rows lie, how bars above one minute are kept up to date, how old
rows become small and how they go is said here, once for each kind of server.
"""

from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Final, Protocol

import asyncpg

from resources.timescale.migrations import Backend
from resources.timescale.tables import BOOK_1S, BOOK_SNAPSHOT, CANDLE, CANDLE_1S, INDICATOR, TRADE, Table
from resources.timescale.writing import Target
from trading.errors import TradingError
from trading.market.timeframe import DAY_MS

PARTITIONED: Final = (TRADE, CANDLE, CANDLE_1S, INDICATOR, BOOK_SNAPSHOT, BOOK_1S)
RETAINED: Final = (TRADE, CANDLE_1S, BOOK_SNAPSHOT, BOOK_1S)
"""Tables whose old rows may go; candles of a minute and more, and what is made of them, are kept for good."""

FEW: Final = 1_000
"""Up to so many changed rows go into the columnstore as they are; each opens the batch of a thousand rows that it is in."""


class RetentionRefused(TradingError):
    """Rows may not be dropped."""


class RefreshRefused(TradingError):
    """A range cannot be refreshed."""


class Storage(Protocol):
    """Where the rows of a kind of server lie."""

    async def begin(self, connection: Any, table: Table, lo_ms: int, hi_ms: int) -> None:
        """Prepare a transaction for rows with time in `[lo_ms, hi_ms)`."""
        ...

    async def ensure_partitions(self, connection: Any, table: Table, lo_ms: int, hi_ms: int) -> int:
        """Make the partitions of `[lo_ms, hi_ms)` and return how many were not there."""
        ...

    async def make_way(self, connection: Any, target: Target, exact: bool) -> tuple[bool, bool]:
        """Prepare the range for what is staged; tell whether there is anything to write, and anything to delete."""
        ...

    async def roll_up(self, connection: Any, symbol_id: int, lo_ms: int, hi_ms: int) -> None:
        """Follow a change of 1m bars with open time in `[lo_ms, hi_ms)`, inside its transaction."""
        ...

    async def catch_up(self, connection: Any, lo_ms: int, hi_ms: int) -> None:
        """Follow a change of 1m bars with open time in `[lo_ms, hi_ms)`, after its commit."""
        ...

    async def refresh(self, connection: Any, lo_ms: int, hi_ms: int) -> None:
        """Bring the bars made of the 1m bars of `[lo_ms, hi_ms)` up to date, whoever wrote these; outside a transaction.

        Raises:
            RefreshRefused: The range is empty.
        """
        ...

    async def compress(self, connection: Any, until_ms: int) -> list[str]:
        """Make what lies before a moment small, where the server can, and return the names of what was made so."""
        ...

    async def retain(self, connection: Any, table: Table, keep_from_ms: int, verified_until_ms: int) -> list[str]:
        """Drop the whole UTC days before both moments, with their former versions, and return what was dropped.

        Args:
            connection: asyncpg connection outside a transaction.
            table: One of `RETAINED`.
            keep_from_ms: Rows from here on are wanted.
            verified_until_ms: Rows before here were read back from the lake and found equal.

        Raises:
            RetentionRefused: Rows of this table are kept for good.
        """
        ...


class Partitions:
    """Plain PostgreSQL: declared partitions, bars above one minute in a table, no columnstore."""

    async def begin(self, connection: Any, table: Table, lo_ms: int, hi_ms: int) -> None:
        """Have the partitions that the rows go to."""
        await self.ensure_partitions(connection, table, lo_ms, hi_ms)

    async def ensure_partitions(self, connection: Any, table: Table, lo_ms: int, hi_ms: int) -> int:
        """Make the partitions of `[lo_ms, hi_ms)` and return how many were not there."""
        if table not in PARTITIONED or lo_ms >= hi_ms:
            return 0
        return await connection.fetchval(
            "SELECT md.ensure_partitions($1, $2, $3)", table.relation, _at(lo_ms), _at(hi_ms)
        )

    async def make_way(self, connection: Any, target: Target, exact: bool) -> tuple[bool, bool]:
        """Nothing is in the way here."""
        return True, exact

    async def roll_up(self, connection: Any, symbol_id: int, lo_ms: int, hi_ms: int) -> None:
        """Log the range and make its bars, so that no view lags behind the commit."""
        logged = "INSERT INTO md.rollup_dirty (symbol_id, lo, hi) VALUES ($1, $2, $3)"
        await connection.execute(logged, symbol_id, _at(lo_ms), _at(hi_ms))
        await self.refresh(connection, lo_ms, hi_ms)

    async def catch_up(self, connection: Any, lo_ms: int, hi_ms: int) -> None:
        """The commit brought everything."""

    async def refresh(self, connection: Any, lo_ms: int, hi_ms: int) -> None:
        """Make the bars of the logged ranges that touch `[lo_ms, hi_ms)`."""
        _closed(lo_ms, hi_ms)
        await connection.execute("SELECT md.refresh_rollup($1, $2)", _at(lo_ms), _at(hi_ms))

    async def compress(self, connection: Any, until_ms: int) -> list[str]:
        """Nothing becomes small here."""
        return []

    async def retain(self, connection: Any, table: Table, keep_from_ms: int, verified_until_ms: int) -> list[str]:
        """Drop partitions; see `Storage.retain`."""
        dropped = "SELECT md.drop_partitions($1, $2)"
        return await _retain(connection, table, min(keep_from_ms, verified_until_ms), dropped, table.relation)


class Hypertables:
    """TimescaleDB: hypertables with a columnstore, bars above one minute as continuous aggregates."""

    async def begin(self, connection: Any, table: Table, lo_ms: int, hi_ms: int) -> None:
        """Let the transaction open as many batches of the columnstore as its rows lie in."""
        if table in PARTITIONED:
            await connection.execute("SET LOCAL timescaledb.max_tuples_decompressed_per_dml_transaction = 0")

    async def ensure_partitions(self, connection: Any, table: Table, lo_ms: int, hi_ms: int) -> int:
        """A hypertable makes its chunks itself."""
        return 0

    async def make_way(self, connection: Any, target: Target, exact: bool) -> tuple[bool, bool]:
        """Compare before anything is opened in the columnstore, and take a range out of it that changes much.

        A range that is deleted by its literal bounds goes as whole batches and costs nothing; a thousand rows changed one by
        one, or a deletion that has to look at each row, would open every batch.
        """
        table = target.table
        if table not in PARTITIONED or not await connection.fetchval(
            _ANY_IN_COLUMNSTORE, table.relation, *_range(target)
        ):
            return True, exact
        facts = ", ".join(name for name in target.columns if name in (*table.scope, *table.facts))
        key = ", ".join(target.key)
        there = f"md.{table.relation} AS t WHERE {target.inside('t')}"
        changed, gone = await connection.fetchrow(
            f"SELECT (SELECT count(*) FROM (SELECT {facts} FROM staging EXCEPT SELECT {facts} FROM {there}) AS c), "
            f"(SELECT count(*) FROM (SELECT {key} FROM {there} EXCEPT SELECT {key} FROM staging) AS g WHERE {exact})"
        )
        if gone or changed > FEW:
            columns = ", ".join(target.columns)
            # TimescaleDB 2.29.2 writes past the end of a text that an unprojected scan gives to CREATE TABLE AS; one more
            # column makes it a projected one.
            await connection.execute(
                f"CREATE TEMP TABLE taken_out ON COMMIT DROP AS SELECT {columns}, 0 AS projected FROM {there}; "
                f"DELETE FROM {there}; INSERT INTO md.{table.relation} ({columns}) SELECT {columns} FROM taken_out; "
                "DROP TABLE taken_out"
            )
        return bool(changed or gone), bool(gone)

    async def roll_up(self, connection: Any, symbol_id: int, lo_ms: int, hi_ms: int) -> None:
        """The server notes what was invalidated itself."""

    async def catch_up(self, connection: Any, lo_ms: int, hi_ms: int) -> None:
        """Refresh what lies before the watermarks; what lies behind them, the views compute when asked.

        A history that is loaded leaves them more and more to compute, so that is refreshed too when it is long: no question
        waits for the hourly job. Only an owner may refresh. What another writes late is refreshed by the hourly job, and the
        views lag until then.
        """
        with suppress(asyncpg.InsufficientPrivilegeError):
            until = await connection.fetchval(_FAR_BEHIND, _at(hi_ms))
            await connection.execute(
                "CALL md.refresh_rollups($1, $2, $3)", _at(lo_ms), until or _at(hi_ms), until is None
            )

    async def refresh(self, connection: Any, lo_ms: int, hi_ms: int) -> None:
        """Materialize the bars of `[lo_ms, hi_ms)` that are over, and late changes in it."""
        _closed(lo_ms, hi_ms)
        await connection.execute("CALL md.refresh_rollups($1, $2, false)", _at(lo_ms), _at(hi_ms))

    async def compress(self, connection: Any, until_ms: int) -> list[str]:
        """Bring the chunks that end at or before a moment into the columnstore, wholly."""
        chunks = [row["chunk"] for row in await connection.fetch(_IN_ROWSTORE, _at(until_ms))]
        for chunk in chunks:
            await connection.execute(
                f"CALL convert_to_columnstore('{chunk}', if_not_columnstore => true, recompress => true)"
            )
        return chunks

    async def retain(self, connection: Any, table: Table, keep_from_ms: int, verified_until_ms: int) -> list[str]:
        """Drop chunks; see `Storage.retain`."""
        dropped = "SELECT drop_chunks($1::text::regclass, older_than => $2::timestamptz)"
        return await _retain(connection, table, min(keep_from_ms, verified_until_ms), dropped, f"md.{table.relation}")


STORAGES: Final[Mapping[Backend, Storage]] = {Backend.PLAIN: Partitions(), Backend.TIMESCALE: Hypertables()}

_ANY_IN_COLUMNSTORE: Final = """
    SELECT EXISTS (
        SELECT FROM timescaledb_information.chunks WHERE hypertable_schema = 'md' AND hypertable_name = $1 AND is_compressed
        AND range_start < $3 AND range_end > $2
    )
"""
_FAR_BEHIND: Final = """
    SELECT least($1, now() - interval '1 hour') FROM _timescaledb_catalog.continuous_agg
    WHERE user_view_schema = 'md' AND user_view_name = 'candle_rollup_3m' AND least($1, now() - interval '1 hour')
        > _timescaledb_functions.to_timestamp(_timescaledb_functions.cagg_watermark(mat_hypertable_id)) + interval '7 days'
"""
"""Until when to materialize where rows end more than a week after what is: 10,000 bars of each symbol, which a view makes in
some milliseconds. The last hour is left to the job."""
_IN_ROWSTORE: Final = """
    SELECT chunk::text FROM (
        SELECT format('%I.%I', chunk_schema, chunk_name)::regclass AS chunk, range_start
        FROM timescaledb_information.chunks WHERE hypertable_schema = 'md' AND range_end <= $1
    ) AS chunks
    WHERE _timescaledb_functions.chunk_status_text(chunk) <> '{COMPRESSED}' ORDER BY range_start, 1
"""


async def _retain(connection: Any, table: Table, before_ms: int, statement: str, name: str) -> list[str]:
    if table not in RETAINED:
        raise RetentionRefused(
            f"rows of md.{table.name} are kept for good",
            f"retention is for {', '.join(kept.name for kept in RETAINED)}",
        )
    before = _at(before_ms - before_ms % DAY_MS)
    async with connection.transaction():
        await connection.execute("SET LOCAL lock_timeout = '10s'")  # who reads is not kept waiting behind us for long
        dropped = [row[0] for row in await connection.fetch(statement, name, before)]
        if table.revised:
            former = f"DELETE FROM md.{table.relation}_revision WHERE {table.time_column} < $1"
            await connection.execute(former, before)
        if table is TRADE:  # coverage is of what is held; without rows it would prove that nothing traded
            await connection.execute("DELETE FROM md.trade_coverage WHERE proven_until <= $1", before)
    return dropped


def _closed(lo_ms: int | None, hi_ms: int | None) -> None:
    if lo_ms is None or hi_ms is None or lo_ms >= hi_ms:
        raise RefreshRefused(f"nothing lies in [{lo_ms}, {hi_ms})", "give a start and a later end, epoch milliseconds")


def _range(target: Target) -> tuple[datetime, datetime]:
    return _at(target.lo_ms), _at(target.hi_ms)


def _at(time_ms: int) -> datetime:
    return datetime.fromtimestamp(time_ms / 1000, UTC)
