"""The schema as numbered SQL files, each applied once, and what a database says of itself.

Files lie in `sql/common`, `sql/plain` and `sql/timescale`; a database gets the common ones and those of its backend, by
number. What was applied is kept in `md.schema_migration` with the digest of the file, so that a file that was changed
afterwards, and a schema that a newer program laid, are refused instead of guessed at. There is no way back down: a
backup is.
"""

import hashlib
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources as package_files
from typing import Any, Final

import asyncpg

from trading.errors import TradingError

WITHOUT_TRANSACTION: Final = "-- transaction: off"
"""First line of a file whose statements cannot run inside a transaction; each of them ends with a line that ends with a
semicolon, and each may be met again after a failure halfway."""

WAIT_S: Final = 60
"""How long a process waits for another one that changes the schema."""

_LOCK: Final = "SELECT {}(hashtext('md.schema_migration'))"
_HISTORY: Final = """
CREATE SCHEMA IF NOT EXISTS md;
CREATE TABLE IF NOT EXISTS md.schema_migration (
    name       text PRIMARY KEY,
    backend    text NOT NULL,
    sha256     text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    took_ms    integer NOT NULL
);
"""
_NOTE: Final = "INSERT INTO md.schema_migration (name, backend, sha256, took_ms) VALUES ($1, $2, $3, $4)"


class Backend(StrEnum):
    """What a server can do."""

    PLAIN = "plain"
    TIMESCALE = "timescale"


class SchemaRefused(TradingError):
    """The schema of a database is not one that this program can work with."""


class SchemaBusy(TradingError):
    """Somebody else changes the schema."""


@dataclass(frozen=True)
class Migration:
    """One file.

    Attributes:
        name: File name, e.g. `0001_market.sql`; its number is the order.
        backend: `common`, `plain` or `timescale`.
        sql: What it says.
    """

    name: str
    backend: str
    sql: str

    @property
    def sha256(self) -> str:
        """Digest of what it says."""
        return hashlib.sha256(self.sql.encode()).hexdigest()

    @property
    def transactional(self) -> bool:
        """Whether it is applied wholly or not at all."""
        return not self.sql.startswith(WITHOUT_TRANSACTION)

    def statements(self) -> list[str]:
        """Return what is sent at once: everything, or single statements where no transaction may hold them."""
        if self.transactional:
            return [self.sql]
        parts = [part.strip() for part in (self.sql + "\n").split(";\n")]
        return [part for part in parts if part]


def migrations(backend: Backend) -> list[Migration]:
    """Return the files that a database of a backend is made of, in order."""
    return sorted(_files("common", backend.value), key=lambda migration: migration.name)


def _files(*folders: str) -> Iterator[Migration]:
    for folder in folders:
        directory = package_files.files("resources.timescale") / "sql" / folder
        if directory.is_dir():
            for file in directory.iterdir():
                if file.name.endswith(".sql"):
                    yield Migration(file.name, folder, file.read_text(encoding="utf-8"))


async def backend_of(connection: Any) -> Backend:
    """Return what the server behind an asyncpg connection is, by its extensions and by nothing else."""
    extended = await connection.fetchval("SELECT EXISTS (SELECT 1 FROM pg_extension WHERE extname = 'timescaledb')")
    return Backend.TIMESCALE if extended else Backend.PLAIN


async def pending(connection: Any, files: list[Migration]) -> list[Migration]:
    """Return the files that were not applied yet; changes nothing.

    Raises:
        SchemaRefused: An applied file says something else now, or is not known to this program.
    """
    if await connection.fetchval("SELECT to_regclass('md.schema_migration') IS NULL"):
        return files
    applied = {
        row["name"]: row["sha256"] for row in await connection.fetch("SELECT name, sha256 FROM md.schema_migration")
    }
    unknown = sorted(applied.keys() - {file.name for file in files})
    if unknown:
        raise SchemaRefused(
            f"the database has a schema of a newer version, or of another backend: {', '.join(unknown)}",
            "use the version of trading-assets that made it, or another database",
        )
    changed = [file.name for file in files if file.name in applied and applied[file.name] != file.sha256]
    if changed:
        raise SchemaRefused(
            f"{', '.join(changed)} says something else than when it was applied",
            "restore the file; a change of the schema is a file of its own",
        )
    return [file for file in files if file.name not in applied]


async def apply(connection: Any, files: list[Migration]) -> list[str]:
    """Apply what was not applied yet and return the names; of several processes one does it, the others wait.

    Raises:
        SchemaRefused: As `pending` says.
        SchemaBusy: Another process has been at it for `WAIT_S`.
    """
    try:
        async with connection.transaction():
            await connection.execute(f"SET LOCAL lock_timeout = '{WAIT_S}s'")
            await connection.execute(_LOCK.format("pg_advisory_lock"))
    except asyncpg.LockNotAvailableError:
        raise SchemaBusy(
            f"another process has been changing the schema of the market database for {WAIT_S} s",
            "try again when it has done so; 'trading migrate plan' says what is missing",
        ) from None
    try:
        await connection.execute(_HISTORY)
        await _take_over(connection, files)
        missing = await pending(connection, files)
        for migration in missing:
            await _apply(connection, migration)
        return [migration.name for migration in missing]
    finally:
        await connection.execute(_LOCK.format("pg_advisory_unlock"))


async def _take_over(connection: Any, files: list[Migration]) -> None:
    """Take over the list without digests that databases had before there was a history."""
    if await connection.fetchval("SELECT to_regclass('public.market_schema') IS NULL"):
        return
    async with connection.transaction():
        done = {row["name"] for row in await connection.fetch("SELECT name FROM public.market_schema")}
        await connection.executemany(_NOTE, [(f.name, f.backend, f.sha256, 0) for f in files if f.name in done])
        await connection.execute("DROP TABLE public.market_schema")


async def _apply(connection: Any, migration: Migration) -> None:
    started = time.monotonic()
    async with connection.transaction() if migration.transactional else nullcontext():
        for statement in migration.statements():
            await connection.execute(statement)
        took_ms = round(1000 * (time.monotonic() - started))
        await connection.execute(_NOTE, migration.name, migration.backend, migration.sha256, took_ms)
