"""What no row of an asset's table may be, asset by asset; the rest of its check is whether all rows are as written."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trading.market.timeframe import CANDLE_TIMEFRAMES, Timeframe

if TYPE_CHECKING:
    from collections.abc import Sequence

    from resources.stores import Stores

DAY_MS = "86400000"
EPOCH_MS = "(extract(epoch FROM m.{}) * 1000)::bigint"


@dataclass(frozen=True)
class RowRule:
    """What no row of an asset may be.

    Attributes:
        check: Name of the asset's check.
        table: The asset's table, by its name in `resources.timescale.tables`.
        wrong: SQL that is true of a wrong row `m` of the symbol `s`.
        what: The same in words.
        timeframe: Of the rows, where the table has one.
    """

    check: str
    table: str
    wrong: str | Callable[[], str]
    what: str
    timeframe: Timeframe | None = None

    def first_wrong(self, stores: "Stores", symbols: "Sequence[str]") -> str | None:
        """Return the key of the first wrong row and what is wrong with it, or None."""
        table = self.kept_in()
        wrong = self.wrong if isinstance(self.wrong, str) else self.wrong()
        scope = f"AND m.timeframe = '{self.timeframe.value}'" if self.timeframe else ""
        rows = stores.market.fetch(
            f"SELECT s.name, m.{table.time_column} AS at FROM md.{table.relation} m JOIN md.symbol s USING (symbol_id) "  # noqa: S608
            f"WHERE s.venue = $1 AND s.name = ANY($2) {scope} AND ({wrong}) ORDER BY s.name, at LIMIT 1",
            stores.venue,
            symbols,
        )
        timeframe = f" {self.timeframe}" if self.timeframe else ""
        return f"{rows[0]['name']}{timeframe} {rows[0]['at'].isoformat()}: {self.what}" if rows else None

    def kept_in(self) -> Any:
        """Return the table."""
        from resources.timescale import tables

        return getattr(tables, self.table)


def _candles(timeframe: Timeframe) -> RowRule:
    off_grid = f"{EPOCH_MS.format('open_time')} % {timeframe.ms} <> 0"
    return RowRule("spaced_and_as_made", "CANDLE", off_grid, "opens off the grid", timeframe)


def _indicators(timeframe: Timeframe) -> RowRule:
    wrong = (
        "NOT m.rsi_7 BETWEEN 0 AND 100 OR NOT m.rsi_14 BETWEEN 0 AND 100 OR m.atr_3 < 0 OR m.atr_14 < 0 "
        "OR 'NaN' IN (m.ema_20, m.ema_50, m.ema_200, m.macd, m.macd_signal, m.macd_hist, m.atr_3, m.atr_14)"
    )
    return RowRule("in_range_and_as_made", "INDICATOR", wrong, "indicator out of range", timeframe)


def _out_of_bounds() -> str:
    from trading.rag.features import CLIP, FEATURES

    return " OR ".join(f"abs(m.{name}) > {CLIP} + 0.01" for name in FEATURES)


MEASURES: dict[str, RowRule] = {
    "volume_profiles": RowRule(
        "in_range_and_as_made",
        "VOLUME_PROFILE",
        "(m.missing IS NULL) <> (m.trade_count >= 1000) OR m.value_area_pct < 70 "
        "OR NOT m.point_of_control BETWEEN m.value_area_low AND m.value_area_high "
        "OR (SELECT sum(n) FROM unnest(m.bin_trade_count) n) <> m.trade_count",
        "the profile contradicts itself",
    ),
    "liquidity_vacuums": RowRule(
        "in_range_and_as_made",
        "LIQUIDITY_VACUUM",
        "NOT m.price_low < m.price_high OR NOT m.deficit_pct BETWEEN 0 AND 100 "
        "OR m.stop_long >= m.price_low OR m.stop_short <= m.price_high",
        "no vacuum, or a stop inside it",
    ),
    "order_flow": RowRule(
        "in_range_and_as_made",
        "ORDER_FLOW",
        "abs(m.delta - (m.buy_volume - m.sell_volume)) > 1e-9 * (1 + m.buy_volume + m.sell_volume)",
        "delta is not bought less sold",
    ),
    "order_books": RowRule(
        "in_range_and_as_made",
        "ORDER_BOOK",
        "NOT m.seconds BETWEEN 1 AND 60 OR m.spread_bps <= 0 OR m.spread_bps_max < m.spread_bps - 1e-9 "
        "OR NOT m.imbalance BETWEEN -1 AND 1 OR m.best_bid >= m.best_ask",
        "no book, or a crossed one",
    ),
    "candles_1s": RowRule(
        "spaced_and_as_made", "CANDLE_1S", f"{EPOCH_MS.format('open_time')} % 1000 <> 0", "opens off the grid"
    ),
    "book_snapshots": RowRule(
        "in_range_and_as_made",
        "BOOK_SNAPSHOT",
        "cardinality(m.bid_lots) > 20 OR cardinality(m.ask_lots) > 20 OR 0 <= ANY (m.bid_steps) "
        "OR 0 >= ANY (m.ask_steps || m.bid_lots || m.ask_lots)",
        "levels out of order, or nothing at a price",
    ),
    "book_seconds": RowRule(
        "spaced_and_as_made", "BOOK_1S", f"{EPOCH_MS.format('time')} % 1000 <> 0", "begins off the grid"
    ),
    "market_reports": RowRule(
        "in_range_and_as_made",
        "MARKET_REPORT",
        f"m.markdown NOT LIKE '# ' || s.name || '%' OR m.as_of_ms > {EPOCH_MS.format('day')} + {DAY_MS}",
        "no report on this market and day",
    ),
}

RULES: dict[str, RowRule] = {
    **{f"candles_{timeframe}": _candles(timeframe) for timeframe in CANDLE_TIMEFRAMES},
    **{f"indicators_{timeframe}": _indicators(timeframe) for timeframe in (Timeframe.M3, Timeframe.H4)},
    "market_snapshots": RowRule("as_taken", "SNAPSHOT", "m.price <= 0", "a price that is none"),
    "snapshot_outcomes": RowRule(
        "nothing_known_early",
        "OUTCOME",
        f"m.matures_at_ms <> {EPOCH_MS.format('time')} + {DAY_MS}",
        "outcome known before it happened",
    ),
    "snapshot_features": RowRule("finite_and_as_taken", "FEATURE", _out_of_bounds, "feature out of range"),
    **MEASURES,
}
"""By asset."""
