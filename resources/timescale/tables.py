"""A table of the market database is keyed by symbol and time and moves as columns.

Each table is described once, by its key and its frame schema; reading and writing are the same few statements for all.
A frame crosses the wire as CSV: PostgreSQL and polars both print the shortest text that reads back as the same float,
so a value survives bit for bit, nulls included, and neither side handles single rows in Python.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import polars as pl

from trading.market.candle import CANDLE_SCHEMA, RANK
from trading.market.derivatives import DERIVATIVE_SCHEMA
from trading.market.trade import TRADE_SCHEMA
from trading.microstructure.book_minutes import BOOK_MINUTE_SCHEMA
from trading.microstructure.order_flow import MINUTE_FLOW_SCHEMA
from trading.microstructure.profile_minutes import PROFILE_MINUTE_SCHEMA
from trading.rag.features import FEATURES


@dataclass(frozen=True)
class Table:
    """One table of schema `md`.

    Attributes:
        name: Name inside the schema.
        time: The frame's time column (epoch ms); in the database it is `time_column`, a `timestamptz`.
        time_column: Its name in the database.
        key: Frame columns that identify a row inside one symbol (and timeframe).
        schema: Frame columns in order.
        by_timeframe: Whether rows also belong to a timeframe.
        ranked: Whether a row of a lower source rank never replaces one of a higher rank.
        moments: Database names of further frame columns that are epoch ms here and `timestamptz` there.
    """

    name: str
    time: str
    time_column: str
    key: tuple[str, ...]
    schema: dict[str, type[pl.DataType] | pl.DataType]
    by_timeframe: bool = False
    ranked: bool = False
    moments: Mapping[str, str] = field(default_factory=dict)

    def column(self, name: str) -> str:
        """Return the database's name of a frame column."""
        return self.time_column if name == self.time else self.moments.get(name, name)

    def is_moment(self, name: str) -> bool:
        """Tell whether a frame column is epoch ms here and `timestamptz` in the database."""
        return name == self.time or name in self.moments

    @property
    def columns(self) -> list[str]:
        """Database names of the frame's columns, in order."""
        return [self.column(name) for name in self.schema]

    @property
    def scope(self) -> tuple[str, ...]:
        """Columns that every row of one write shares."""
        return ("symbol_id", "timeframe") if self.by_timeframe else ("symbol_id",)


INDICATOR_SCHEMA: Final[dict[str, type[pl.DataType]]] = {
    "open_time": pl.Int64,
    **dict.fromkeys(
        ("ema_20", "ema_50", "ema_200", "macd", "macd_signal", "macd_hist", "rsi_7", "rsi_14", "atr_3", "atr_14"),
        pl.Float64,
    ),
    "warm": pl.Boolean,
}

TRADE: Final = Table("trade", "time_ms", "time", ("agg_trade_id",), dict(TRADE_SCHEMA))
RECONCILIATION: Final = Table(
    "trade_reconciliation",
    "day_ms",
    "time",
    ("day_ms",),
    {
        "day_ms": pl.Int64,
        "verdict": pl.String,
        "reason": pl.String,
        **dict.fromkeys(("websocket_rows", "rest_rows", "archive_rows", "differing_rows", "first_differing"), pl.Int64),
    },
)
CANDLE: Final = Table(
    "candle", "open_time", "open_time", ("open_time",), dict(CANDLE_SCHEMA), by_timeframe=True, ranked=True
)
INDICATOR: Final = Table(
    "indicator", "open_time", "open_time", ("open_time",), dict(INDICATOR_SCHEMA), by_timeframe=True
)
DERIVATIVE: Final = Table(
    "derivative",
    "time_ms",
    "time",
    ("time_ms", "kind", "known_at_ms"),
    dict(DERIVATIVE_SCHEMA),
    moments={"known_at_ms": "known_at"},
)


def encode(table: Table, frame: pl.DataFrame, scope: tuple[int | str, ...]) -> bytes:
    """Return the frame as CSV with the scope's values in front of each row."""
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


def decode(table: Table, csv: io.BytesIO) -> pl.DataFrame:
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


def select(table: Table) -> str:
    """Return the column list of a query that `decode` reads."""
    return ", ".join(
        f"(extract(epoch FROM {table.column(name)}) * 1000)::bigint" if table.is_moment(name) else name
        for name in table.schema
    )


def upsert(table: Table, staging: str) -> str:
    """Return the statement that makes rows of `staging` facts and changes nothing that is already so."""
    key = [*table.scope, *(table.column(name) for name in table.key)]
    columns = [*table.scope, *table.columns]
    values = [name for name in columns if name not in key]
    old, new = (", ".join(f"{row}.{name}" for name in values) for row in ("t", "excluded"))
    changed = f"({old}) IS DISTINCT FROM ({new})"
    if table.ranked:
        changed = f"{rank('excluded.source')} >= {rank('t.source')} AND {changed}"
    return (
        f"INSERT INTO md.{table.name} AS t ({', '.join(columns)}) SELECT {', '.join(columns)} FROM {staging} "  # noqa: S608
        f"ON CONFLICT ({', '.join(key)}) DO UPDATE SET {', '.join(f'{name} = excluded.{name}' for name in values)} "
        f"WHERE {changed} RETURNING xmax = 0 AS inserted"
    )


def rank(source: str) -> str:
    """Return the SQL of a source's rank."""
    return "CASE " + source + "".join(f" WHEN '{name}' THEN {value}" for name, value in RANK.items()) + " END"


def _floats(*names: str) -> dict[str, type[pl.DataType] | pl.DataType]:
    return dict.fromkeys(names, pl.Float64)


def _series(*names: str) -> dict[str, type[pl.DataType] | pl.DataType]:
    return {name: pl.List(pl.Float64) for name in names}


SNAPSHOT: Final = Table(
    "snapshot",
    "ts_ms",
    "time",
    ("ts_ms",),
    {
        "ts_ms": pl.Int64,
        **_floats("price", "rsi_7", "rsi_14", "macd", "ema_20"),
        **_series("mid_prices", "ema_20_values", "macd_values", "rsi_7_values", "rsi_14_values"),
        **_floats("ema_20_4h", "ema_50_4h", "atr_3_4h", "atr_14_4h", "current_volume_4h", "avg_volume_4h"),
        **_series("macd_4h_values", "rsi_14_4h_values"),
        **_floats("open_interest_latest", "open_interest_avg_24h", "funding_rate"),
        **_floats("price_change_1h", "price_change_4h", "ema_ratio_20_50", "rsi_7_slope", "macd_slope"),
        "gap_bars": pl.Int32,
        "warm": pl.Boolean,
        "complete": pl.Boolean,
        "digest": pl.String,
    },
)
OUTCOME: Final = Table(
    "outcome",
    "ts_ms",
    "time",
    ("ts_ms",),
    {
        "ts_ms": pl.Int64,
        **_floats("outcome_15m", "outcome_1h", "outcome_4h", "outcome_24h"),
        **_floats("max_runup_1h", "max_drawdown_1h", "max_runup_4h", "max_drawdown_4h"),
        **_floats("max_runup_24h", "max_drawdown_24h"),
        "hit_stop_loss": pl.Boolean,
        "hit_take_profit": pl.Boolean,
        "first_touch": pl.String,
        "matures_at_ms": pl.Int64,
        "complete": pl.Boolean,
    },
)
FEATURE: Final = Table("feature", "ts_ms", "time", ("ts_ms",), {"ts_ms": pl.Int64, **_floats(*FEATURES)})

PROFILE_MINUTE: Final = Table("profile_minute", "minute", "minute", ("minute",), dict(PROFILE_MINUTE_SCHEMA))
VOLUME_PROFILE: Final = Table(
    "volume_profile",
    "day",
    "day",
    ("day",),
    {
        **dict.fromkeys(("day", "trade_count"), pl.Int64),
        "proven_share": pl.Float64,
        "missing": pl.String,
        **_floats("price_low", "price_high", "bin_size", "point_of_control"),
        **_floats("value_area_low", "value_area_high", "value_area_pct", "total_volume"),
        **_series("bin_low", "bin_buy_volume", "bin_sell_volume"),
        "bin_trade_count": pl.List(pl.Int64),
    },
)
LIQUIDITY_VACUUM: Final = Table(
    "liquidity_vacuum",
    "day",
    "day",
    ("day", "price_low"),
    {
        "day": pl.Int64,
        **_floats("price_low", "price_high", "actual_volume", "median_volume", "deficit_pct"),
        **dict.fromkeys(("severity", "expected_impact"), pl.String),
        **_floats("stop_long", "stop_short"),
    },
)
ORDER_FLOW: Final = Table("order_flow", "minute", "minute", ("minute",), {**MINUTE_FLOW_SCHEMA, **_floats("close")})
ORDER_BOOK: Final = Table("order_book", "minute", "minute", ("minute",), dict(BOOK_MINUTE_SCHEMA))
MARKET_REPORT: Final = Table(
    "market_report",
    "day",
    "day",
    ("day",),
    {**dict.fromkeys(("day", "as_of_ms", "sections_known"), pl.Int64), "markdown": pl.String},
)
MEASURES: Final = (PROFILE_MINUTE, VOLUME_PROFILE, LIQUIDITY_VACUUM, ORDER_FLOW, ORDER_BOOK, MARKET_REPORT)
"""What trades and order books say, by minute and by day."""
