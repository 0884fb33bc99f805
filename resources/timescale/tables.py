"""A table of the market database is keyed by symbol and time and moves as columns.

Each table is described once, by its key and its frame schema; reading and writing are the same few statements for all, and
a frame crosses the wire by `resources.timescale.binary_copy`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import polars as pl

from resources.timescale.book_levels import LEVELS
from resources.timescale.book_tops import TOPS
from resources.timescale.counted import Counted
from trading.indicators.columns import INDICATOR_SCHEMA
from trading.market.book import BOOK_SNAPSHOT_SCHEMA
from trading.market.candle import CANDLE_SCHEMA, RANK
from trading.market.derivatives import DERIVATIVE_SCHEMA
from trading.market.trade import TRADE_SCHEMA
from trading.microstructure.book_minutes import BOOK_MINUTE_SCHEMA
from trading.microstructure.order_flow import MINUTE_FLOW_SCHEMA
from trading.microstructure.profile_minutes import PROFILE_MINUTE_SCHEMA
from trading.provider.book_seconds import BOOK_1S_SCHEMA
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
        order: Frame columns by which rows are read; empty: the key.
        revised: Whether a version that is replaced stays in `md.{name}_revision`; such a frame ends with `known_at_ms`.
        length_ms: How long after `time` a row is over, where that is not its timeframe's length.
        moments: Database names of further frame columns that are epoch ms here and `timestamptz` there.
        counted: How the rows are kept where that is as integers; who asks in SQL has a view of the table's own name.
    """

    name: str
    time: str
    time_column: str
    key: tuple[str, ...]
    schema: dict[str, type[pl.DataType] | pl.DataType]
    by_timeframe: bool = False
    ranked: bool = False
    order: tuple[str, ...] = ()
    revised: bool = False
    length_ms: int = 0
    moments: Mapping[str, str] = field(default_factory=dict)
    counted: Counted | None = None

    @property
    def relation(self) -> str:
        """Name inside the schema of what holds the rows."""
        return self.counted.relation if self.counted else self.name

    @property
    def stored(self) -> dict[str, type[pl.DataType] | pl.DataType]:
        """What a row has in the database, by frame column."""
        return self.counted.stored(self.schema) if self.counted else self.schema

    def column(self, name: str) -> str:
        """Return the database's name of a frame column."""
        return self.time_column if name == self.time else self.moments.get(name, name)

    def is_moment(self, name: str) -> bool:
        """Tell whether a frame column is epoch ms here and `timestamptz` in the database."""
        return name == self.time or name in self.moments

    @property
    def columns(self) -> list[str]:
        """Database names of what is stored, in order."""
        return [self.column(name) for name in self.stored]

    @property
    def facts(self) -> list[str]:
        """Database names of the columns that say what was so, and not when it was known."""
        return [name for name in self.columns if not (self.revised and name == "known_at")]

    @property
    def scope(self) -> tuple[str, ...]:
        """Columns that every row of one write shares."""
        return ("symbol_id", "timeframe") if self.by_timeframe else ("symbol_id",)


TRADE: Final = Table(
    "trade", "time_ms", "time", ("time_ms", "agg_trade_id"), dict(TRADE_SCHEMA), order=("agg_trade_id",)
)
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
_KNOWN: Final = {"known_at_ms": "known_at"}
_BAR: Final = {
    "time": "open_time",
    "time_column": "open_time",
    "key": ("open_time",),
    "revised": True,
    "moments": _KNOWN,
}
CANDLE: Final = Table("candle", schema=dict(CANDLE_SCHEMA), by_timeframe=True, ranked=True, **_BAR)
CANDLE_1S: Final = Table("candle_1s", schema=dict(CANDLE_SCHEMA), ranked=True, length_ms=1_000, **_BAR)
INDICATOR: Final = Table("indicator", schema=dict(INDICATOR_SCHEMA), by_timeframe=True, **_BAR)
DERIVATIVE: Final = Table(
    "derivative",
    "time_ms",
    "time",
    ("time_ms", "kind", "known_at_ms"),
    dict(DERIVATIVE_SCHEMA),
    moments={"known_at_ms": "known_at"},
)


BOOK_SNAPSHOT: Final = Table(
    "book_snapshot",
    "time_ms",
    "time",
    ("time_ms",),
    dict(BOOK_SNAPSHOT_SCHEMA),
    revised=True,
    moments=_KNOWN,
    counted=LEVELS,
)
BOOK_1S: Final = Table(
    "book_1s",
    "time_ms",
    "time",
    ("time_ms",),
    dict(BOOK_1S_SCHEMA),
    revised=True,
    length_ms=1_000,
    moments=_KNOWN,
    counted=TOPS,
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
