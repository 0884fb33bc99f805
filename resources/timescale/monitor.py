"""How the market database is doing: how long questions take and how they are planned, how large tables are and will be.

Each measurement is a sample in `md.monitor`; what is too slow, too large or planned badly is said here and nowhere else.
Times are wall time as a caller meets it, fetching and decoding included.
"""

import asyncio
import json
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Final

import asyncpg

from resources.timescale.backend import PARTITIONED
from resources.timescale.connections import SESSION
from resources.timescale.migrations import Backend, backend_of
from resources.timescale.queries import MarketQueries
from resources.timescale.tables import BOOK_1S, BOOK_SNAPSHOT, TRADE
from trading.errors import TradingError
from trading.market.timeframe import CANDLE_TIMEFRAMES, DAY_MS, HOUR_MS, MINUTE_MS, Timeframe

ROUNDS: Final = 21
BIG_ROWS: Final = 10_000
"""A table of fewer rows is read from end to end sooner than by an index."""

ROOM_DAYS: Final = 30
"""A disk that will be full sooner than this is an alarm."""

SMALLER: Final = dict.fromkeys((TRADE.name, BOOK_SNAPSHOT.relation, BOOK_1S.relation), 0.80)
"""Share of its bytes that the columnstore is to save, by table; an alarm from `BIG_BYTES` on."""

BIG_BYTES: Final = 256 * 2**20
KEPT: Final = "interval '400 days'"

Ask = Callable[[MarketQueries, str, int], Awaitable[Any]]


@dataclass(frozen=True)
class Shape:
    """A question that is asked often.

    Attributes:
        name: Its name.
        most_ms: What its 99th percentile may be, warm.
        ask: Asks it of a symbol at a moment.
    """

    name: str
    most_ms: float
    ask: Ask


SHAPES: Final = (
    Shape("one_day_1m", 100, lambda q, s, at: q.query_ohlcv_data(s, Timeframe.M1, at - DAY_MS, at)),
    Shape(
        "one_day_1m_as_known",
        100,
        lambda q, s, at: q.query_ohlcv_data(s, Timeframe.M1, at - DAY_MS, at, known_by_ms=at),
    ),
    Shape("one_hour_1s", 100, lambda q, s, at: q.query_ohlcv_data(s, Timeframe.S1, at - HOUR_MS, at)),
    Shape("last_500_1m", 100, lambda q, s, at: q.query_ohlcv_data(s, Timeframe.M1, limit=500, as_of_ms=at)),
    Shape("multi_timeframe", 100, lambda q, s, at: q.query_multi_timeframe_ohlcv(s, CANDLE_TIMEFRAMES, at, 500)),
    Shape("latest_of_all", 100, lambda q, s, at: q.query_latest_ohlcv(Timeframe.M1, at)),
    Shape("indicators_3m", 100, lambda q, s, at: q.query_indicators(s, [Timeframe.M3], at, 500)),
    Shape("last_book", 100, lambda q, s, at: q.query_orderbook_snapshots(s, limit=1, as_of_ms=at)),
    Shape("imbalances_5m", 100, lambda q, s, at: q.query_orderbook_imbalances(s, at - 5 * MINUTE_MS, at)),
    Shape("book_seconds_10m", 100, lambda q, s, at: q.query_orderbook_aggregated(s, "1s", at - 10 * MINUTE_MS, at)),
    Shape("profile_24h", 400, lambda q, s, at: q.query_volume_profile(s, at)),
    Shape("trades_10m", 100, lambda q, s, at: q.query_trades(s, at - 10 * MINUTE_MS, at)),
)


@dataclass(frozen=True)
class Latency:
    """How long one shape takes.

    Attributes:
        shape: Which.
        first_ms: On a connection that was just opened.
        p50_ms: Warm, the median.
        p99_ms: Warm, the 99th percentile.
        scanned: Big tables that are read from end to end for it.
    """

    shape: str
    first_ms: float
    p50_ms: float
    p99_ms: float
    scanned: tuple[str, ...]

    def samples(self) -> dict[str, float]:
        """Return what is kept of it, by name."""
        return {
            f"{self.shape}.first_ms": self.first_ms,
            f"{self.shape}.p50_ms": self.p50_ms,
            f"{self.shape}.p99_ms": self.p99_ms,
            f"{self.shape}.scanned": len(self.scanned),
        }


@dataclass(frozen=True)
class Size:
    """How large one table is.

    Attributes:
        table: Which.
        rows: About how many there are.
        total_bytes: With indexes and all partitions.
        saved: Share of its bytes that the columnstore saves of what is in it; None: nothing is.
    """

    table: str
    rows: int
    total_bytes: int
    saved: float | None = None


class _Overheard:
    """A connection that remembers what it was asked."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.asked: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._connection, name)
        if name not in ("fetch", "fetchrow", "fetchval", "copy_from_query"):
            return method

        def call(query: str, *arguments: Any, **named: Any) -> Any:
            self.asked.append((query, arguments))
            return method(query, *arguments, **named)

        return call


async def latencies(dsn: str, venue: str, symbol: str, at_ms: int, rounds: int = ROUNDS) -> list[Latency]:
    """Ask each of `SHAPES` of a symbol at a moment, first on a new connection and then again and again.

    A shape whose question has no answer, as of trades where there are none, is timed all the same.
    """
    found: list[Latency] = []
    for shape in SHAPES:
        connection = _Overheard(await asyncpg.connect(dsn, server_settings=dict(SESSION), timeout=10))
        try:
            queries = MarketQueries(partial(_in_turn, connection, asyncio.Lock()), venue)
            times_ms = [await _timed(shape, queries, symbol, at_ms) for _ in range(rounds + 1)]
            asked = {query: arguments for query, arguments in connection.asked if query.lstrip().startswith("SELECT")}
            scanned = {
                name for query, arguments in asked.items() for name in await _scanned(connection, query, arguments)
            }
        finally:
            await connection.close()
        warm = sorted(times_ms[1:])
        at = int(0.99 * (len(warm) - 1))
        found.append(Latency(shape.name, times_ms[0], statistics.median(warm), warm[at], tuple(sorted(scanned))))
    return found


async def _in_turn(connection: Any, turn: asyncio.Lock, call: Callable[[Any], Awaitable[Any]], **_: Any) -> Any:
    """Let a question that would take two connections ask over one."""
    async with turn:
        return await call(connection)


async def _timed(shape: Shape, queries: MarketQueries, symbol: str, at_ms: int) -> float:
    start = time.perf_counter()
    with suppress(TradingError):  # it says that there is too little to answer; that took its time too
        await shape.ask(queries, symbol, at_ms)
    return 1000 * (time.perf_counter() - start)


async def _scanned(connection: Any, query: str, arguments: tuple[Any, ...]) -> set[str]:
    """Return the big tables that the plan of a query reads from end to end."""
    explained = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {query}", *arguments)
    names = {
        node["Relation Name"] for node in _nodes(json.loads(explained)[0]["Plan"]) if node["Node Type"] == "Seq Scan"
    }
    big = await connection.fetch(
        "SELECT relname FROM pg_class WHERE relname = ANY($1) AND reltuples >= $2", sorted(names), float(BIG_ROWS)
    )
    return {row["relname"] for row in big}


def _nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from _nodes(part)


async def sizes(connection: Any) -> list[Size]:
    """Return how large each table of the market is, partitions and indexes included, the largest first.

    On TimescaleDB what is materialized of longer bars is a table too.
    """
    names = await connection.fetch(
        "SELECT relname AS name FROM pg_class WHERE relnamespace = 'md'::regnamespace AND relkind IN ('r', 'p') "
        "AND NOT relispartition"
    )
    hyper: dict[str, str] = {}
    if await backend_of(connection) is Backend.TIMESCALE:
        hyper = {table.relation: f"md.{table.relation}" for table in PARTITIONED} | {
            row["name"]: row["relation"] for row in await connection.fetch(_AGGREGATES)
        }
    found = [await _plain(connection, row["name"]) for row in names if row["name"] not in hyper]
    found += [await _hyper(connection, name, relation) for name, relation in hyper.items()]
    return sorted(found, key=lambda size: -size.total_bytes)


_AGGREGATES: Final = """
    SELECT view_name AS name, format('%I.%I', materialization_hypertable_schema, materialization_hypertable_name) AS relation
    FROM timescaledb_information.continuous_aggregates WHERE view_schema = 'md'
"""


async def _plain(connection: Any, name: str) -> Size:
    row = await connection.fetchrow(
        "SELECT coalesce(sum(pg_total_relation_size(t.relid)), 0)::bigint AS bytes, "
        "coalesce(sum(greatest(c.reltuples, 0)) FILTER (WHERE t.isleaf), 0)::bigint AS rows "
        "FROM pg_partition_tree(format('md.%I', $1::text)::regclass) t JOIN pg_class c ON c.oid = t.relid",
        name,
    )
    if not row["bytes"]:  # a table without partitions is no tree of them
        row = await connection.fetchrow(
            "SELECT pg_total_relation_size(oid) AS bytes, greatest(reltuples, 0)::bigint AS rows "
            "FROM pg_class WHERE oid = format('md.%I', $1::text)::regclass",
            name,
        )
    return Size(name, row["rows"], row["bytes"])


async def _hyper(connection: Any, name: str, relation: str) -> Size:
    row = await connection.fetchrow(
        "SELECT hypertable_size(t) AS bytes, approximate_row_count(t) AS rows, s.before, s.after "
        "FROM (SELECT $1::text::regclass AS t) AS named LEFT JOIN LATERAL ("
        "SELECT sum(before_compression_total_bytes) AS before, sum(after_compression_total_bytes) AS after "
        "FROM hypertable_columnstore_stats(t)) AS s ON true",
        relation,
    )
    saved = 1 - float(row["after"]) / float(row["before"]) if row["before"] else None
    return Size(name, row["rows"] or 0, row["bytes"] or 0, saved)


async def keep(connection: Any, monitor: str, samples: Mapping[str, float]) -> None:
    """Keep samples of now, and let go of those that are too old to tell anything."""
    await connection.executemany(
        "INSERT INTO md.monitor (monitor, name, value) VALUES ($1, $2, $3) "
        "ON CONFLICT (monitor, name, time) DO UPDATE SET value = excluded.value",
        [(monitor, name, float(value)) for name, value in samples.items()],
    )
    await connection.execute(f"DELETE FROM md.monitor WHERE monitor = $1 AND time < now() - {KEPT}", monitor)


async def latest(connection: Any, monitor: str) -> dict[str, float]:
    """Return the newest sample of each thing of a monitor, by name."""
    rows = await connection.fetch(
        "SELECT DISTINCT ON (name) name, value FROM md.monitor WHERE monitor = $1 ORDER BY name, time DESC", monitor
    )
    return {row["name"]: row["value"] for row in rows}


async def history(connection: Any, monitor: str, name: str) -> list[tuple[datetime, float]]:
    """Return all samples of one thing, oldest first."""
    rows = await connection.fetch(
        "SELECT time, value FROM md.monitor WHERE monitor = $1 AND name = $2 ORDER BY time", monitor, name
    )
    return [(row["time"], row["value"]) for row in rows]


def too_slow(samples: Mapping[str, float]) -> list[str]:
    """Return what the newest samples of latencies say against the database, in words."""
    found: list[str] = []
    for shape in SHAPES:
        p99_ms = samples.get(f"{shape.name}.p99_ms", 0.0)
        if p99_ms > shape.most_ms:
            found.append(f"{shape.name}: p99 {p99_ms:.0f} ms, {shape.most_ms:.0f} ms is the most")
        if samples.get(f"{shape.name}.scanned", 0.0):
            found.append(f"{shape.name}: a big table is read from end to end")
    return found


def too_large(samples: Mapping[str, float]) -> list[str]:
    """Return what the newest samples of sizes say against the database, in words."""
    found: list[str] = []
    room = samples.get("days_of_room")
    if room is not None and room < ROOM_DAYS:
        found.append(f"at this rate the disk is full in {room:.0f} days")
    for name, share in SMALLER.items():
        saved = samples.get(f"{name}.saved")
        if saved is not None and saved < share and samples.get(f"{name}.bytes", 0.0) >= BIG_BYTES:
            found.append(f"{name}: the columnstore saves {100 * saved:.0f} %, {100 * share:.0f} % is the least")
    return found


async def rows_written(connection: Any) -> float:
    """Return how many rows were inserted or updated since the server began to count."""
    return await connection.fetchval(
        "SELECT coalesce(sum(n_tup_ins + n_tup_upd), 0)::float8 FROM pg_stat_user_tables "
        "WHERE schemaname IN ('md', '_timescaledb_internal')"
    )


async def rows_a_second(connection: Any) -> float | None:
    """Return how many rows were written a second since `rows_written` was last kept, or None where nobody can say."""
    last = await connection.fetchrow(
        "SELECT value, extract(epoch FROM now() - time)::float8 AS seconds FROM md.monitor "
        "WHERE monitor = 'rows_refused' AND name = 'rows_written' ORDER BY time DESC LIMIT 1"
    )
    written = await rows_written(connection)
    if last is None or not last["seconds"] or written < last["value"]:  # a server that crashed counts from 0
        return None
    return (written - last["value"]) / last["seconds"]


def days_of_room(samples: Sequence[tuple[datetime, float]], free_bytes: float) -> float | None:
    """Return for how many days `free_bytes` last if all bytes go on growing as they did, or None where nobody can say.

    The rate is that of a straight line through the samples (least squares), which must span a day. The disk's reserve is not
    free.
    """
    if len(samples) < 3:
        return None
    start = samples[0][0]
    days = [(at - start).total_seconds() / 86_400 for at, _ in samples]
    if days[-1] < 1:
        return None
    rate = statistics.linear_regression(days, [value for _, value in samples]).slope
    return max(0.0, free_bytes) / rate if rate > 0 else None
