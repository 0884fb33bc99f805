"""What trades and order books of one symbol and day say: where volume is, who takes it, how wide and deep the book is.

Trades are first summed into profile minutes, from which every longer window is a merge; what is made of a day's trades is
made of these. Books stay in the journal, and their minutes go into the database. What cannot be known has no row, a null,
or a row that says why.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import dagster as dg

from resources.wiring import MarketDatabase, TradeJournalReader
from trading.market.timeframe import DAY_MS, MINUTE_MS, Timeframe
from trading_assets.candles import candles_1m
from trading_assets.catalogue import daily
from trading_assets.materialized import column_schema, draws, record_days
from trading_assets.partitions import SymbolWindow, day_key, symbol_window
from trading_assets.trades import agg_trades, trade_batches

if TYPE_CHECKING:
    import polars as pl

    from resources.timescale.store import MarketStore
    from resources.timescale.tables import Table

REPORT_RECENT_MS = 5 * MINUTE_MS
"""How far back from its moment a report looks for flow, anomalies and health."""


def write_days(
    context: dg.AssetExecutionContext,
    market: "MarketStore",
    table: "Table",
    window: SymbolWindow,
    rows_of: "Callable[[int], pl.DataFrame]",
    since_ms: int = 0,
    **describe: "Callable[[pl.DataFrame], Any]",
) -> None:
    """Write what `rows_of` makes of each day, one day at a time: one of a busy symbol is all that memory need hold.

    Args:
        context: Of the asset.
        market: Where to.
        table: Where to.
        window: Days of the run.
        rows_of: Rows of the day that begins at a moment; days before `since_ms` are left as they are.
        since_ms: First moment whose sources are still kept.
        describe: Metadata by name, made of the rows of the last day; None says nothing.
    """
    from resources.timescale.writing import Written

    written, rows = Written(), None
    for day_ms in range(window.lo_ms, window.hi_ms, DAY_MS):
        if day_ms >= since_ms:
            rows = rows_of(day_ms)
            written += market.write(table, window.symbol, rows, day_ms, day_ms + DAY_MS, exact=True)
    wanted = {name: make for name, make in describe.items() if name != "plot" or draws(context)}
    last = {} if rows is None or rows.is_empty() else {name: make(rows) for name, make in wanted.items()}
    record_days(context, market, table, window, written, **{k: v for k, v in last.items() if v is not None})


@dg.asset(
    **daily("microstructure", "postgres"),
    deps=[agg_trades],
    metadata=column_schema(
        {
            "minute": "timestamptz",
            "tick": "bigint[], rising",
            "buy_lots": "bigint[], taker bought",
            "sell_lots": "bigint[], taker sold",
            "trade_count": "bigint[], aggregate trades",
        }
    ),
)
def profile_minutes(context: dg.AssetExecutionContext, market: MarketDatabase) -> None:
    """One row is what traded in one minute at each price, keyed by the minute; any minutes merge into one exact profile."""
    from resources.retired_trades import trades_of
    from resources.timescale.tables import PROFILE_MINUTE
    from trading.microstructure.profile_minutes import profile_minutes as minutes_of

    window = symbol_window(context)
    write_days(
        context,
        market.store,
        PROFILE_MINUTE,
        window,
        lambda day_ms: minutes_of(trades_of(market.store, window.symbol, day_ms, day_ms + DAY_MS)),
    )


@dg.asset(
    **daily("microstructure", "postgres"),
    deps=[profile_minutes],
    metadata=column_schema(
        {
            "day": "timestamptz",
            "trade_count": "bigint",
            "proven_share": "float8, of the day, 0 … 1",
            "missing": "text, why there is no profile",
            **dict.fromkeys(("price_low", "price_high", "bin_size", "point_of_control"), "float8, quote currency"),
            **dict.fromkeys(("value_area_low", "value_area_high"), "float8, quote currency"),
            "value_area_pct": "float8, at least 70",
            "total_volume": "float8, base currency",
            "bin_low": "float8[], rising",
            **dict.fromkeys(("bin_buy_volume", "bin_sell_volume"), "float8[], base currency"),
            "bin_trade_count": "bigint[]",
        }
    ),
)
def volume_profiles(context: dg.AssetExecutionContext, market: MarketDatabase) -> None:
    """One row is the volume profile of one UTC day, or why there is none: fewer than 1,000 trades; keyed by the day."""
    import polars as pl

    from resources.retired_trades import proven_of
    from resources.timescale.tables import VOLUME_PROFILE
    from trading.microstructure.day_rows import profile_row
    from trading_assets.plots import embedded, profile_plot
    from trading_assets.tools.sources import share

    window = symbol_window(context)
    instrument, proven = market.store.instrument(window.symbol), proven_of(market.store, window.symbol)

    def rows_of(day_ms: int) -> "pl.DataFrame":
        profile = _profile(market.store, window.symbol, day_ms)
        proven_share = share(proven, day_ms, day_ms + DAY_MS)
        rows = [profile_row(day_ms, profile, proven_share)] if proven_share or profile.trade_count else []
        return pl.DataFrame(rows, schema=VOLUME_PROFILE.schema)

    def drawn(rows: "pl.DataFrame") -> "dg.MarkdownMetadataValue | None":
        profile = _profile(market.store, window.symbol, rows["day"][0])
        return None if isinstance(profile, Exception) else embedded(profile_plot(profile, instrument), "volume profile")

    write_days(
        context,
        market.store,
        VOLUME_PROFILE,
        window,
        rows_of,
        point_of_control=lambda rows: rows["point_of_control"][0],
        missing=lambda rows: rows["missing"][0],
        plot=drawn,
    )


@dg.asset(
    **daily("microstructure", "postgres"),
    deps=[profile_minutes],
    metadata=column_schema(
        {
            "day": "timestamptz",
            **dict.fromkeys(("price_low", "price_high"), "float8, quote currency"),
            **dict.fromkeys(("actual_volume", "median_volume"), "float8, base currency a bin"),
            "deficit_pct": "float8",
            "severity": "low | medium | high | critical",
            "expected_impact": "fast_movement | moderate | negligible",
            **dict.fromkeys(("stop_long", "stop_short"), "float8, beyond this vacuum"),
        }
    ),
)
def liquidity_vacuums(context: dg.AssetExecutionContext, market: MarketDatabase) -> None:
    """One row is one range of prices in which hardly anything traded on one UTC day, keyed by day and lower edge."""
    import polars as pl

    from resources.timescale.tables import LIQUIDITY_VACUUM
    from trading.microstructure.day_rows import vacuum_row
    from trading.microstructure.vacuums import vacuums_in_profile

    window = symbol_window(context)
    instrument = market.store.instrument(window.symbol)

    def rows_of(day_ms: int) -> "pl.DataFrame":
        profile = _profile(market.store, window.symbol, day_ms)
        found = () if isinstance(profile, Exception) else vacuums_in_profile(profile)
        return pl.DataFrame([vacuum_row(day_ms, v, instrument) for v in found], schema=LIQUIDITY_VACUUM.schema)

    write_days(context, market.store, LIQUIDITY_VACUUM, window, rows_of)


@dg.asset(
    **daily("microstructure", "postgres"),
    deps=[profile_minutes, candles_1m],
    metadata=column_schema(
        {
            "minute": "timestamptz",
            "trade_count": "bigint, aggregate trades",
            **dict.fromkeys(("buy_volume", "sell_volume"), "float8, base currency, by the taker's side"),
            "delta": "float8, bought less sold",
            "cumulative_delta": "float8, since the day's first minute here",
            "close": "float8, of the minute's candle, quote currency",
        }
    ),
)
def order_flow(context: dg.AssetExecutionContext, market: MarketDatabase) -> None:
    """One row is what takers bought and sold in one minute, with the delta of its UTC day so far, keyed by the minute."""
    from resources.timescale.tables import CANDLE, ORDER_FLOW
    from trading.microstructure.order_flow import flow_of_minutes
    from trading_assets.plots import embedded, flow_plot

    window = symbol_window(context)
    instrument = market.store.instrument(window.symbol)

    def rows_of(day_ms: int) -> "pl.DataFrame":
        bars = market.store.read(CANDLE, window.symbol, day_ms, day_ms + DAY_MS, Timeframe.M1, where="complete")
        flow = flow_of_minutes(_minutes(market.store, window.symbol, day_ms), instrument)
        return flow.join(bars.select("close", minute="open_time"), on="minute", how="left", maintain_order="left")

    write_days(
        context,
        market.store,
        ORDER_FLOW,
        window,
        rows_of,
        cumulative_delta=lambda rows: rows["cumulative_delta"][-1],
        plot=lambda rows: embedded(flow_plot(rows, instrument), "cumulative delta and price"),
    )


@dg.asset(
    **daily("microstructure", "postgres", "rocksdb"),
    deps=[trade_batches],
    metadata=column_schema(
        {
            "minute": "timestamptz",
            "seconds": "bigint, of this minute that are known",
            "spread_bps": "float8, mean",
            "spread_bps_max": "float8",
            "imbalance": "float8, -1 … 1, mean",
            **dict.fromkeys(("bid_volume", "ask_volume"), "float8, top 20 levels, base currency, mean"),
            **dict.fromkeys(("best_bid", "best_ask", "mid_price", "microprice"), "float8, of the last book"),
            "buy_10k_bps … sell_50k_bps": "float8, slippage in the last book; null where it is too thin",
        }
    ),
)
def order_books(context: dg.AssetExecutionContext, market: MarketDatabase, journal: TradeJournalReader) -> None:
    """One row is one minute of order books: spread, balance, depth and cost of market orders, keyed by the minute.

    The books themselves, one at the end of each second, stay in the journal for as long as it keeps anything.
    """
    from resources.timescale.tables import ORDER_BOOK
    from trading.microstructure.book_minutes import book_minutes
    from trading_assets.plots import book_plot, embedded

    window = symbol_window(context)
    instrument = market.store.instrument(window.symbol)
    with journal.read() as kept:
        write_days(
            context,
            market.store,
            ORDER_BOOK,
            window,
            lambda day_ms: book_minutes(kept.books(window.symbol, day_ms, day_ms + DAY_MS), instrument),
            since_ms=kept.kept_since_ms(window.symbol),
            seconds=lambda rows: int(rows["seconds"].sum()),
            plot=lambda rows: embedded(book_plot(rows, instrument), "spread and imbalance"),
        )


@dg.asset(
    **daily("microstructure", "postgres", "rocksdb"),
    deps=[volume_profiles, liquidity_vacuums, order_flow, order_books],
    metadata=column_schema(
        {
            "day": "timestamptz",
            "as_of_ms": "bigint, the day's end or the newest event",
            "sections_known": "bigint, of 11",
            "markdown": "text",
        }
    ),
)
def market_reports(context: dg.AssetExecutionContext, market: MarketDatabase, journal: TradeJournalReader) -> None:
    """One row is the report on one market at the end of one UTC day, or now while it lasts, keyed by the day.

    Each section says how old and how complete its data are, or why it is missing.
    """
    import polars as pl

    from resources.timescale.tables import MARKET_REPORT
    from trading.microstructure.report import SECTIONS, Known, markdown
    from trading.microstructure.survey import survey
    from trading_assets.tools.sources import newest_ms, observed

    window = symbol_window(context)
    instrument = market.store.instrument(window.symbol)
    known = market.store.noted_days("profile_minutes", window.symbol).keys()
    known |= market.store.noted_days("order_books", window.symbol).keys()
    with journal.read() as kept:

        def rows_of(day_ms: int) -> "pl.DataFrame":
            if day_key(day_ms) not in known:
                return pl.DataFrame(schema=MARKET_REPORT.schema)
            newest, end_ms = newest_ms(market.stores, kept, window.symbol), day_ms + DAY_MS
            as_of_ms = newest if day_ms < newest < end_ms else end_ms
            seen = observed(market.stores, kept, instrument, as_of_ms, as_of_ms - day_ms, REPORT_RECENT_MS)
            report = survey(seen)
            sections = sum(isinstance(getattr(report, name), Known) for name in SECTIONS)
            return pl.DataFrame([(day_ms, as_of_ms, sections, markdown(report))], MARKET_REPORT.schema, orient="row")

        write_days(
            context,
            market.store,
            MARKET_REPORT,
            window,
            rows_of,
            since_ms=kept.kept_since_ms(window.symbol),
            report=lambda rows: dg.MetadataValue.md(rows["markdown"][0]),
        )


def _minutes(market: "MarketStore", symbol: str, day_ms: int) -> "pl.DataFrame":
    from resources.timescale.tables import PROFILE_MINUTE

    return market.read(PROFILE_MINUTE, symbol, day_ms, day_ms + DAY_MS)


def _profile(market: "MarketStore", symbol: str, day_ms: int) -> Any:
    """Return the profile of a day, or the refusal that says why there is none."""
    from trading.microstructure.day_rows import day_profile

    return day_profile(_minutes(market, symbol, day_ms), market.instrument(symbol), day_ms)
