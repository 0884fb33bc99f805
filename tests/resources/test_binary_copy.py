"""Binary COPY says exactly what CSV says, in both directions, for every table of the market database.

PostgreSQL and polars both print the shortest text that reads back as the same float, so CSV is true bit for bit.
"""

import io
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import asyncpg
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resources.timescale import binary_copy, tables
from resources.timescale.binary_copy import NotBinaryCopy
from resources.timescale.counted import NotStorable
from resources.timescale.loop import wait
from resources.timescale.store import MarketStore
from resources.timescale.tables import Table

TABLES = [
    replace(table, name=table.relation, schema=table.stored, counted=None)
    for table in vars(tables).values()
    if isinstance(table, Table)
]
FLOATS = st.floats(allow_nan=False, width=64) | st.sampled_from([0.1, -0.0, 5e-324, 1e308, 2**53 + 1.0])
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=9)
VALUES = {
    pl.Int64: st.integers(-(2**63), 2**63 - 1),
    pl.Int32: st.integers(-(2**31), 2**31 - 1),
    pl.Float64: FLOATS,
    pl.Boolean: st.booleans(),
    pl.String: TEXTS,
}
MOMENTS = st.integers(-62_135_596_800_000, 253_402_300_799_999)


def as_text(table: Table, frame: pl.DataFrame, scope: tuple[int | str, ...]) -> bytes:
    """Return a frame as CSV with the scope's values in front of each row."""
    columns: list[pl.Expr] = [pl.lit(value).alias(name) for name, value in zip(table.scope, scope, strict=True)]
    for name, kind in table.schema.items():
        column = pl.col(name)
        if table.is_moment(name):
            column = pl.from_epoch(column, time_unit="ms").dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ")
        elif isinstance(kind, pl.List):
            items = column.list.eval(pl.element().cast(pl.String).fill_null("NULL")).list.join(",")
            column = pl.concat_str(pl.lit("{"), items, pl.lit("}"))
        columns.append(column.alias(name))
    return frame.select(columns).write_csv(include_header=False).encode()


def from_text(table: Table, csv: io.BytesIO) -> pl.DataFrame:
    """Return the frame of a CSV whose time column is epoch milliseconds."""
    wire = {name: pl.String if isinstance(kind, pl.List) else kind for name, kind in table.schema.items()}
    if not csv.getbuffer().nbytes:
        return pl.DataFrame(schema=table.schema)
    booleans = [name for name, kind in table.schema.items() if kind == pl.Boolean]
    # PostgreSQL writes t and f.
    frame = pl.read_csv(
        csv, has_header=False, schema={name: pl.String if name in booleans else kind for name, kind in wire.items()}
    )
    lists = [
        pl.col(name)
        .str.strip_chars("{}")
        .str.split(",")
        .list.eval(pl.when(pl.element() == "NULL").then(None).otherwise(pl.element()).cast(kind.inner))
        for name, kind in table.schema.items()
        if isinstance(kind, pl.List)
    ]
    return frame.with_columns(
        *(pl.col(name) == "t" for name in booleans),  # null stays null
        *lists,
    )


def text_columns(table: Table) -> str:
    """Return the column list of a query that `from_text` reads."""
    return ", ".join(
        f"(extract(epoch FROM {table.column(name)}) * 1000)::bigint" if table.is_moment(name) else name
        for name in table.schema
    )


@pytest.fixture(scope="module")
def connection(market: MarketStore) -> Iterator[asyncpg.Connection]:
    opened = wait(asyncpg.connect(market._dsn, server_settings={"timezone": "UTC"}))
    yield opened
    wait(opened.close())


@st.composite
def frames(draw: st.DrawFn, table: Table) -> pl.DataFrame:
    """Frames whose columns are each without nulls, with some, or null throughout; a list is null, empty or holds nulls."""
    rows = draw(st.integers(0, 12))
    columns = []
    for name, kind in table.schema.items():
        values = MOMENTS if table.is_moment(name) else None
        if isinstance(kind, pl.List):
            # CSV tells no empty list and no list of one null from its text; binary COPY alone is tried with those below.
            values = st.lists(VALUES[kind.inner] | st.none(), min_size=2, max_size=4)
        values = VALUES[kind] if values is None else values
        nullable = name != table.time and draw(st.booleans())
        found = draw(st.lists(values | st.none() if nullable else values, min_size=rows, max_size=rows))
        columns.append(pl.Series(name, found, dtype=kind))
    return pl.DataFrame(columns)


def stored(connection: asyncpg.Connection, table: Table, scope: tuple[Any, ...], copied: bytes, way: str) -> str:
    columns = [*table.scope, *table.columns]
    source = f"SELECT {', '.join(columns)} FROM md.{table.name} LIMIT 0"
    wait(connection.execute(f"DROP TABLE IF EXISTS pg_temp.as_{way}; CREATE TEMP TABLE as_{way} AS {source}"))
    wait(connection.copy_to_table(f"as_{way}", columns=columns, source=io.BytesIO(copied), format=way))
    return out(connection, f"SELECT * FROM as_{way}", "csv").decode()


def out(connection: asyncpg.Connection, query: str, way: str) -> bytes:
    sink = io.BytesIO()
    wait(connection.copy_from_query(query, output=sink, format=way))
    return sink.getvalue()


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(data=st.data())
def test_binary_and_csv_store_the_same_and_read_the_same(
    connection: asyncpg.Connection, table: Table, data: st.DataObject
) -> None:
    frame = data.draw(frames(table))
    scope = (7, "1m") if table.by_timeframe else (7,)
    as_csv = stored(connection, table, scope, as_text(table, frame, scope), "csv")
    assert stored(connection, table, scope, binary_copy.encode(table, frame, scope), "binary") == as_csv
    copied = out(connection, f"SELECT {binary_copy.select(table)} FROM as_binary", "binary")
    assert _bits(binary_copy.decode(table, copied)) == _bits(frame)
    in_csv = from_text(table, io.BytesIO(out(connection, f"SELECT {text_columns(table)} FROM as_binary", "csv")))
    if "" not in (value for column in frame.iter_columns() if column.dtype == pl.String for value in column):
        assert _bits(in_csv) == _bits(frame)


def _bits(frame: pl.DataFrame) -> list[Any]:
    """Return rows whose floats are told apart by their bits: -0.0 equals 0.0 otherwise."""
    return [
        (name, str(dtype), [repr(value) for value in frame[name].to_list()]) for name, dtype in frame.schema.items()
    ]


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lists=st.lists(st.none() | st.lists(FLOATS | st.none(), max_size=3), max_size=8))
def test_lists_that_are_empty_null_or_hold_nulls_come_back(
    connection: asyncpg.Connection, lists: list[list[float | None] | None]
) -> None:
    table = Table("t", "at", "at", ("at",), {"at": pl.Int64, "values": pl.List(pl.Float64)})
    frame = pl.DataFrame({"at": range(len(lists)), "values": lists}, schema=table.schema)
    wait(connection.execute("CREATE TEMP TABLE lists (symbol_id smallint, at timestamptz, values float8[])"))
    sent = io.BytesIO(binary_copy.encode(table, frame, (1,)))
    wait(connection.copy_to_table("lists", source=sent, format="binary"))
    assert binary_copy.decode(table, out(connection, "SELECT at, values FROM lists", "binary")).equals(frame)
    wait(connection.execute("DROP TABLE lists"))


@given(
    runs=st.lists(
        st.tuples(st.sampled_from(["trades", "incomplete_trades", "", None]), st.integers(1, 90)), max_size=12
    )
)
def test_rows_of_changing_layout_come_back_each_as_it_was(runs: list[tuple[str | None, int]]) -> None:
    table = Table("t", "at", "at", ("at",), {"at": pl.Int64, "source": pl.String, "value": pl.Float64})
    sources = [source for source, rows in runs for _ in range(rows)]
    numbers = list(range(len(sources)))
    frame = pl.DataFrame([numbers, sources, [None if n % 7 == 3 else n / 3 for n in numbers]], schema=table.schema)
    for part in (frame, frame.with_columns(value=pl.lit(1.5))):
        assert binary_copy.decode(table, binary_copy.encode(table, part, ())).equals(part)


def test_the_widths_of_the_database_are_those_of_the_schemas(connection: asyncpg.Connection) -> None:
    query = "SELECT column_name, udt_name FROM information_schema.columns WHERE table_schema = 'md' AND table_name = $1"
    wire = {pl.Int64: "int8", pl.Int32: "int4", pl.Float64: "float8", pl.Boolean: "bool", pl.String: "text"}
    for table in TABLES:
        there = dict(wait(connection.fetch(query, table.name)))
        for name, kind in table.schema.items():
            of_lists = (
                {pl.Float64: "_float8", pl.Int64: "_int8"}[kind.inner] if isinstance(kind, pl.List) else wire.get(kind)
            )
            assert there[table.column(name)] == ("timestamptz" if table.is_moment(name) else of_lists), (
                table.name,
                name,
            )


def test_a_time_that_the_database_cannot_hold_is_refused_before_it_is_sent() -> None:
    table = Table("t", "at", "at", ("at",), {"at": pl.Int64})
    for at in (2**63 - 1, -(2**63), 253_402_300_800_000):
        with pytest.raises(NotStorable, match="years 1 to 9999"):
            binary_copy.encode(table, pl.DataFrame({"at": [at]}), (1,))


@pytest.mark.parametrize(
    "columns", ["1::bigint, 2", "1::int, 1::float8", "1::bigint", "1::bigint, 'long'", "1::bigint, 1::bigint, 3"]
)
def test_an_answer_with_other_columns_is_refused(connection: asyncpg.Connection, columns: str) -> None:
    table = Table("t", "id", "id", ("id",), {"id": pl.Int64, "value": pl.Float64})
    for rows in (1, 2):
        copied = out(connection, f"SELECT {columns} FROM generate_series(1, {rows})", "binary")
        with pytest.raises(NotBinaryCopy):
            binary_copy.decode(table, copied)
