"""What a database server says of itself, and whether the market database can live there.

A server that cannot be written to, is too old, or counts days in another time zone is refused before anything is asked of
it, each with what to do. `findings` looks further, for `trading migrate verify`: at the schema, the partitions and the jobs.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

from resources.timescale.backend import PARTITIONED
from resources.timescale.connections import SESSION
from resources.timescale.migrations import Backend, Migration, SchemaRefused, backend_of, migrations, pending
from resources.timescale.trouble import ServerInRecovery, ServerReadOnly
from trading.errors import TradingError

OLDEST_POSTGRES: Final = 16
OLDEST_TIMESCALE: Final = (2, 29)


class ServerTooOld(TradingError):
    """The server, or its extension, lacks what the schema needs."""


class WrongTimeZone(TradingError):
    """The server answers in another time zone than was asked for."""


@dataclass(frozen=True)
class Server:
    """What a server says of itself.

    Attributes:
        backend: What it can do.
        postgres: Version of PostgreSQL, e.g. `18.4`.
        timescale: Version of the extension; empty without.
        licence: Under which the extension runs, or would; empty where the server has not loaded it.
        time_zone: In which this session speaks of times.
        in_recovery: Whether it replays a log and takes no writes.
        read_only: Whether this session may not write.
    """

    backend: Backend
    postgres: str
    timescale: str
    licence: str
    time_zone: str
    in_recovery: bool
    read_only: bool

    @property
    def recent(self) -> bool:
        """Whether its versions are ones that the schema was proven on, or newer."""
        return _number(self.postgres) >= (OLDEST_POSTGRES,) and (
            self.backend is Backend.PLAIN or _number(self.timescale) >= OLDEST_TIMESCALE
        )


async def look_at(connection: Any) -> Server:
    """Return what the server behind an asyncpg connection says of itself."""
    row = await connection.fetchrow(
        "SELECT current_setting('server_version') AS postgres, current_setting('timezone') AS time_zone, "
        "pg_is_in_recovery() AS in_recovery, current_setting('transaction_read_only')::boolean AS read_only, "
        "coalesce((SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'), '') AS timescale, "
        "coalesce(current_setting('timescaledb.license', true), '') AS licence"
    )
    return Server(backend=await backend_of(connection), **row)


def require(server: Server) -> None:
    """Refuse a server that the market database cannot live on.

    Raises:
        ServerInRecovery: It takes no writes because it is a replica or is starting.
        ServerReadOnly: It takes no writes because it was told so.
        ServerTooOld: It, or its extension, is of a version or an edition that lacks what is needed.
        WrongTimeZone: It does not speak UTC although it was asked to.
    """
    if server.in_recovery:
        raise ServerInRecovery
    if server.read_only:
        raise ServerReadOnly
    if not server.recent:
        raise ServerTooOld(
            f"PostgreSQL {server.postgres}{server.timescale and ' with TimescaleDB ' + server.timescale} is too old",
            f"PostgreSQL {OLDEST_POSTGRES} is needed, and TimescaleDB, if any, {'.'.join(map(str, OLDEST_TIMESCALE))}",
        )
    if server.backend is Backend.TIMESCALE and server.licence != "timescale":
        raise ServerTooOld(
            f"TimescaleDB runs under the licence {server.licence!r}, without columnstore and continuous aggregates",
            "install the Community edition; images whose name ends in -oss are another",
        )
    if server.time_zone != SESSION["timezone"]:
        raise WrongTimeZone(
            f"the server answers in time zone {server.time_zone}, though UTC was asked for",
            "let its pooler or login trigger leave the time zone of a session alone",
        )


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at; `trouble` is empty where it is as it should be."""

    what: str
    found: str
    trouble: str = ""


async def findings(connection: Any) -> list[Finding]:
    """Return what there is to say about a market database; changes nothing."""
    server = await look_at(connection)
    kind = f"PostgreSQL {server.postgres}{server.timescale and ', TimescaleDB ' + server.timescale}"
    try:
        require(server)
        trouble = ""
    except TradingError as error:
        trouble = str(error)
    found = [Finding("server", f"{server.backend}: {kind}, time zone {server.time_zone}", trouble)]
    found.append(await _schema(connection, migrations(server.backend)))
    if found[-1].trouble:
        return found
    if server.backend is Backend.PLAIN:
        return [*found, *await _partitions(connection)]
    return [*found, *await _jobs(connection)]


async def _schema(connection: Any, files: list[Migration]) -> Finding:
    try:
        missing = await pending(connection, files)
    except SchemaRefused as error:
        return Finding("schema", "another", str(error))
    names = ", ".join(file.name for file in missing)
    return Finding(
        "schema", f"{len(files) - len(missing)} of {len(files)} files", names and f"not applied yet: {names}"
    )


async def _partitions(connection: Any) -> list[Finding]:
    rows = await connection.fetch(
        "SELECT c.relname AS name, count(i.inhrelid) AS parts FROM pg_class c "
        "LEFT JOIN pg_inherits i ON i.inhparent = c.oid "
        "WHERE c.relnamespace = 'md'::regnamespace AND c.relkind = 'p' GROUP BY 1"
    )
    parts = {row["name"]: row["parts"] for row in rows}
    whole = [table.relation for table in PARTITIONED if table.relation not in parts]
    behind = await connection.fetchval("SELECT count(*) FROM md.rollup_dirty")
    return [
        Finding("partitions", f"{sum(parts.values())} of {len(parts)} tables", _list("not partitioned", whole)),
        Finding(
            "roll-ups",
            f"{behind} ranges to be made",
            _list("run", ["SELECT md.refresh_rollup('-infinity', 'infinity')"] * bool(behind)),
        ),
    ]


async def _jobs(connection: Any) -> list[Finding]:
    """Compare the scheduler's jobs with ours: one for the columnstore of each hypertable, one for the roll-ups, no other."""
    rows = await connection.fetch(
        "SELECT coalesce(j.hypertable_name, 'the schema') AS name, j.proc_name, s.last_run_status "
        "FROM timescaledb_information.jobs j LEFT JOIN timescaledb_information.job_stats s USING (job_id) "
        "WHERE j.hypertable_schema = 'md' OR j.proc_schema = 'md'"
    )
    hypertables = await connection.fetch(
        "SELECT hypertable_name AS name FROM timescaledb_information.hypertables WHERE hypertable_schema = 'md' "
        "UNION ALL SELECT view_name FROM timescaledb_information.continuous_aggregates WHERE view_schema = 'md'"
    )
    names = {row["name"] for row in hypertables}
    wanted = Counter([*((name, "policy_compression") for name in names), ("the schema", "keep_rollups")])
    there = Counter((row["name"], row["proc_name"]) for row in rows)
    missing, others = (sorted(f"{job} of {name}" for name, job in few) for few in (wanted - there, there - wanted))
    failed = sorted(f"{row['proc_name']} of {row['name']}" for row in rows if row["last_run_status"] == "Failed")
    whole = [table.relation for table in PARTITIONED if table.relation not in names]
    return [
        Finding("hypertables", str(len(hypertables)), _list("none", whole)),
        Finding(
            "jobs", str(len(rows)), "; ".join(filter(None, (_list("missing", missing), _list("not ours", others))))
        ),
        Finding("last runs", f"{len(failed)} failed", _list("failed", failed)),
    ]


def _list(what: str, names: list[str]) -> str:
    return f"{what}: {', '.join(names)}" if names else ""


def _number(version: str) -> tuple[int, ...]:
    digits = version.split()[0].split("-")[0].split("beta")[0].split("rc")[0].split(".")
    return tuple(int(digit) for digit in digits if digit.isdigit())
