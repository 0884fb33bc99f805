"""A write takes as long as its rows ask for, also where the server's statistics are older than they are."""

import polars as pl

from benchmarks.store import FIRST_MS, SYMBOL, candles
from resources.timescale.migrations import Backend
from resources.timescale.store import MarketStore
from resources.timescale.tables import CANDLE
from resources.timescale.writing import Written
from tests import databases
from trading.market.instrument import Instrument
from trading.market.timeframe import DAY_MS, Timeframe

DAYS = 60
END_MS = FIRST_MS + DAYS * DAY_MS


def test_rows_of_which_the_statistics_know_nothing_are_not_compared_each_with_each(postgres: str) -> None:
    # Each with each takes more than twice as long as a statement may last here, and otherwise a hundredth of it.
    with databases.database(postgres, Backend.PLAIN) as dsn, MarketStore(dsn, "sim", statement_s=4.0) as store:
        store.register([Instrument("sim", SYMBOL, "BTC", "USDT", 2, 5)])
        store.write(CANDLE, SYMBOL, candles(DAYS * 24, Timeframe.H1), FIRST_MS, END_MS, Timeframe.H1)
        store.execute("ANALYZE md.candle")
        found = store.fetch(
            "SELECT inhrelid::regclass::text AS name FROM pg_inherits WHERE inhparent = 'md.candle'::regclass"
        )
        for partition in found:
            store.execute(f"ALTER TABLE {partition['name']} SET (autovacuum_enabled = false)")
        bars = candles(DAYS * 480, Timeframe.M3)

        def write(frame: pl.DataFrame) -> Written:
            return store.write(CANDLE, SYMBOL, frame, FIRST_MS, END_MS, Timeframe.M3, exact=True)

        assert write(bars) == Written(inserted=len(bars))
        assert write(bars) == Written()
        assert write(bars[1:]) == Written(deleted=1)
