"""One small home on which the documents' code runs: two days of a market, of which the last eight hours have trades."""

from collections.abc import Iterator

import polars as pl
import pytest

from resources.home import Home
from resources.stores import open_stores
from resources.timescale.store import MarketStore
from resources.timescale.tables import BOOK_1S, BOOK_SNAPSHOT, CANDLE, CANDLE_1S, PROFILE_MINUTE, TRADE
from tests.databases import beside
from tests.synthetic import MARKET
from trading.market.candle import candles_from_trades, merge_sources, native_candles, roll_up
from trading.market.timeframe import DAY_MS, HOUR_MS, MINUTE_MS, ROLLED_UP, SECOND_MS, Timeframe
from trading.microstructure.profile_minutes import profile_minutes
from trading.provider.book_tops import VOLUMES, completed
from trading.stream.contiguity import IdRange

SYMBOL = "BTCUSDT"
END = 1_760_054_400_000 + 2 * DAY_MS
LIVE = END - 8 * HOUR_MS
HOLE = (END - 3 * HOUR_MS + 30 * SECOND_MS, END - 3 * HOUR_MS + 5 * MINUTE_MS)
"""Its trades came an hour late; it begins in the middle of a minute."""


@pytest.fixture(scope="package")
def home(tmp_path_factory: pytest.TempPathFactory, market: MarketStore) -> Iterator[Home]:
    made = Home(tmp_path_factory.mktemp("docs"))
    made.create("simulated", {"source": "synthetic", "seed": 5, "end_ms": END, "symbols": [SYMBOL]})
    with beside(market) as dsn, pytest.MonkeyPatch.context() as patch:
        with MarketStore(dsn, "sim") as store:
            fill(store)
        patch.setenv("TRADING_HOME", str(made.path))
        patch.setenv("TRADING_POSTGRES_URL", dsn)
        with open_stores(made.path) as stores:  # each document opens them too; the servers start once
            assert stores.urls
            yield made


def fill(store: MarketStore) -> None:
    """Write klines of the first days and trades of the last hours, with a hole that is repaired an hour later."""
    store.register([instrument := MARKET.instrument(SYMBOL)])
    trades = MARKET.trades(SYMBOL, LIVE, END)
    opens = pl.DataFrame({"open_time": range(END - 2 * DAY_MS, LIVE, MINUTE_MS)})
    price = instrument.price(int(trades["price"][0]))
    klines = native_candles(
        opens.with_columns(
            open=price, high=price + 2, low=price - 2, close=price + 1, volume=1.0, quote_volume=price, trade_count=3
        )
    )
    known = trades.filter(~pl.col("time_ms").is_between(*HOLE, closed="left"))
    for rows, proven, at_ms in (
        (known, [(LIVE, HOLE[0]), (HOLE[1], END)], None),
        (trades, [(LIVE, END)], HOLE[1] + HOUR_MS),
    ):
        minutes = merge_sources(candles_from_trades(rows, instrument, Timeframe.M1, proven), klines)
        store.write(CANDLE, SYMBOL, minutes, END - 2 * DAY_MS, END, Timeframe.M1, recorded_at_ms=at_ms)
        for timeframe in ROLLED_UP:
            longer = roll_up(minutes, Timeframe.M1, timeframe, instrument, proven)
            store.write(CANDLE, SYMBOL, longer, END - 2 * DAY_MS, END, timeframe, recorded_at_ms=at_ms)
    store.write(TRADE, SYMBOL, trades, LIVE, END)
    ids = (int(trades["agg_trade_id"][0]), int(trades["agg_trade_id"][-1]))
    store.set_trade_coverage(SYMBOL, LIVE // DAY_MS * DAY_MS, [IdRange(*ids, LIVE, END)])
    store.record_days(TRADE, "agg_trades", SYMBOL, LIVE, END)
    store.record_days(CANDLE, "candles_1m", SYMBOL, END - 2 * DAY_MS, END, Timeframe.M1)
    store.write(PROFILE_MINUTE, SYMBOL, profile_minutes(trades), LIVE, END)
    last = trades.filter(pl.col("time_ms") >= END - HOUR_MS)
    seconds = candles_from_trades(last, instrument, Timeframe.S1, [(END - HOUR_MS, END)])
    store.write(CANDLE_1S, SYMBOL, seconds, END - HOUR_MS, END)
    books = [
        (at, n, [price - 0.01], [1.0 + n % 3], [price + 0.01], [2.0], at)
        for n, at in enumerate(range(END - 10 * MINUTE_MS, END, SECOND_MS))
    ]
    frame = pl.DataFrame(books, schema=BOOK_SNAPSHOT.schema, orient="row")
    store.write(BOOK_SNAPSHOT, SYMBOL, frame, END - HOUR_MS, END)
    second = {"best_bid": price - 0.01, "best_ask": price + 0.01, "snapshots": 1}
    second |= {name: 1.0 if name.startswith("bid") else 2.0 for name in VOLUMES}
    of_second = [{"time_ms": at} | second for at in range(END - 10 * MINUTE_MS, END, SECOND_MS)]
    rows = pl.DataFrame(of_second, schema=BOOK_1S.schema)
    store.write(BOOK_1S, SYMBOL, completed(rows), END - HOUR_MS, END)
