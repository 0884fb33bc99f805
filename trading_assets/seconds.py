"""Series of one second of one symbol and day: bars of its trades, and its order books as they stood.

The collector brings the same rows as they come; here a day is made anew from what the journal and the database hold of it,
and what was right is left as it is. Of a day that is open only what has already reached them is said to be all there is.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import dagster as dg

from resources.wiring import ExchangeClient, MarketDatabase, TradeJournalReader
from trading.market.timeframe import DAY_MS, SECOND_MS, Timeframe
from trading_assets.candles import CANDLE_COLUMNS
from trading_assets.catalogue import daily
from trading_assets.materialized import column_schema, record_days
from trading_assets.partitions import symbol_window
from trading_assets.trades import agg_trades, trade_batches

if TYPE_CHECKING:
    import polars as pl

    from resources.timescale.tables import Table


def _write_days(
    context: dg.AssetExecutionContext,
    market: MarketDatabase,
    exchange: ExchangeClient,
    table: "Table",
    made: "Callable[[int], tuple[pl.DataFrame, int]]",
    since_ms: int = 0,
) -> None:
    """Write what is made of each day from `since_ms` on: rows, and up to which moment they are all there is."""
    from resources.timescale.writing import Written

    window, written = symbol_window(context), Written()
    for day_ms in range(window.lo_ms, window.hi_ms, DAY_MS):
        if day_ms >= since_ms:
            rows, until_ms = made(day_ms)
            now_ms = exchange.client.now_ms()
            written += market.store.write(table, window.symbol, rows, day_ms, until_ms, None, True, now_ms)
    record_days(context, market.store, table, window, written)


@dg.asset(**daily("microstructure", "postgres"), deps=[agg_trades], metadata=column_schema(CANDLE_COLUMNS))
def candles_1s(context: dg.AssetExecutionContext, market: MarketDatabase, exchange: ExchangeClient) -> None:
    """One row is one closed 1s bar in which something traded, keyed by its open time, made from trades."""
    import polars as pl

    from resources.timescale.tables import CANDLE_1S, TRADE
    from trading.market.candle import candles_from_trades

    symbol = symbol_window(context).symbol
    instrument = market.store.instrument(symbol)

    def made(day_ms: int) -> "tuple[pl.DataFrame, int]":
        trades = market.store.read(TRADE, symbol, day_ms, day_ms + DAY_MS)
        open_day = exchange.client.now_ms() < day_ms + DAY_MS
        last_ms = int(trades["time_ms"].max() or day_ms)  # pyright: ignore
        until_ms = Timeframe.S1.floor(last_ms) if open_day else day_ms + DAY_MS
        bars = candles_from_trades(trades, instrument, Timeframe.S1, market.store.proven(symbol))
        return bars.filter(pl.col("open_time") < until_ms), until_ms

    _write_days(context, market, exchange, CANDLE_1S, made)


@dg.asset(
    **daily("microstructure", "postgres", "rocksdb"),
    deps=[trade_batches],
    metadata=column_schema(
        {
            "time": "timestamptz",
            "last_update_id": "bigint",
            **dict.fromkeys(("bid_price", "ask_price"), "float8[], best first, 20 levels at most"),
            **dict.fromkeys(("bid_quantity", "ask_quantity"), "float8[], base currency"),
            "known_at": "timestamptz",
        }
    ),
)
def book_snapshots(
    context: dg.AssetExecutionContext,
    market: MarketDatabase,
    journal: TradeJournalReader,
    exchange: ExchangeClient,
) -> None:
    """One row is one order book as it stood at the end of a second in which it changed, keyed by its newest change."""
    from resources.timescale.tables import BOOK_SNAPSHOT
    from trading.provider.book_seconds import book_snapshots as rows_of
    from trading.provider.book_seconds import uncrossed

    symbol = symbol_window(context).symbol
    instrument = market.store.instrument(symbol)
    with journal.read() as kept:

        def made(day_ms: int) -> "tuple[pl.DataFrame, int]":
            rows = uncrossed(rows_of(kept.books(symbol, day_ms, day_ms + DAY_MS), instrument))
            return rows, int(rows["time_ms"][-1]) + 1 if len(rows) else day_ms

        _write_days(context, market, exchange, BOOK_SNAPSHOT, made, kept.kept_since_ms(symbol))


@dg.asset(
    **daily("microstructure", "postgres", "rocksdb"),
    deps=[trade_batches],
    metadata=column_schema(
        {
            "time": "timestamptz, begin of the second",
            **dict.fromkeys(("best_bid", "best_ask"), "float8, quote currency"),
            **dict.fromkeys(("bid_volume_1", "bid_volume_5"), "float8, top 1 and 5 levels, base currency"),
            "bid_volume": "float8, top 20 levels, base currency",
            **dict.fromkeys(("ask_volume_1", "ask_volume_5"), "float8, top 1 and 5 levels, base currency"),
            "ask_volume": "float8, top 20 levels, base currency",
            "mid_price": "float8, quote currency",
            "spread_bps": "float8",
            **dict.fromkeys(("imbalance_1", "imbalance_5", "imbalance_20"), "float8, -1 … 1, of so many levels"),
            "snapshots": "integer, books of this second; 0: one stands from before",
            "known_at": "timestamptz",
        }
    ),
)
def book_seconds(
    context: dg.AssetExecutionContext,
    market: MarketDatabase,
    journal: TradeJournalReader,
    exchange: ExchangeClient,
) -> None:
    """One row is one second at whose end the order book is known: best prices, depth and balance, keyed by the second."""
    from resources.timescale.tables import BOOK_1S
    from trading.provider.book_seconds import book_seconds as rows_of

    symbol = symbol_window(context).symbol
    instrument = market.store.instrument(symbol)
    with journal.read() as kept:

        def made(day_ms: int) -> "tuple[pl.DataFrame, int]":
            rows = rows_of(kept.books(symbol, day_ms, day_ms + DAY_MS), instrument)
            return rows, int(rows["time_ms"][-1]) + SECOND_MS if len(rows) else day_ms

        _write_days(context, market, exchange, BOOK_1S, made, kept.kept_since_ms(symbol))
