"""What one process opens of a home."""

import os
import subprocess
import sys
import textwrap
from contextlib import ExitStack
from pathlib import Path

import polars as pl

from resources.home import Home
from resources.servers import Urls
from resources.settings import load_settings
from resources.stores import Stores
from resources.timescale.store import MarketStore
from resources.timescale.tables import CANDLE
from tests.databases import beside
from trading.market.candle import native_candles
from trading.market.instrument import Instrument
from trading.market.timeframe import MINUTE_MS, Timeframe
from trading_assets.cli.status import replica

FORK = textwrap.dedent("""
    import os, sys, warnings
    from pathlib import Path
    from resources.home import Home
    from resources.journal import TradeJournal
    from resources.stores import open_stores
    from trading.market.instrument import Instrument

    home = Home(Path(sys.argv[1]))
    home.create("simulated", {})
    with TradeJournal.write(home.rocksdb_dir) as journal:
        journal.checkpoint()

    def look() -> list[str]:
        with open_stores(home.path) as stores, TradeJournal.read(home.rocksdb_dir) as journal:
            assert journal.ledger("BTCUSDT") == []
            return list(stores.market.instruments())

    with open_stores(home.path) as stores:
        stores.market.register([Instrument("sim", "BTCUSDT", "BTC", "USDT", 2, 5)])
        assert look() == ["BTCUSDT"]
        warnings.simplefilter("ignore")  # that a process with threads forks is what this is about
        child = os.fork()
        if not child:
            assert look() == ["BTCUSDT"]
            os._exit(7)  # as multiprocessing ends a fork
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert look() == ["BTCUSDT"]
        print("both read")
""")


def test_a_fork_opens_stores_of_its_own_and_leaves_its_parent_its_own(tmp_path: Path) -> None:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("TRADING_")}
    command = [sys.executable, "-c", FORK, str(tmp_path / "home")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.stdout == "both read\n", done.stderr


def test_the_replica_answers_the_provider_and_nobody_who_reads_what_was_just_written(
    market: MarketStore, tmp_path: Path
) -> None:
    began_ms = 1_760_000_040_000
    (home := Home(tmp_path / "home")).create("simulated", {})
    with beside(market) as here, beside(market) as there, ExitStack() as stack:
        for dsn, price in ((here, 1.0), (there, 2.0)):
            with MarketStore(dsn, "sim") as store:
                store.register([Instrument("sim", "BTCUSDT", "BTC", "USDT", 2, 5)])
                numbers = dict.fromkeys(("open", "high", "low", "close", "volume", "quote_volume"), price)
                bar = native_candles(pl.DataFrame({"open_time": [began_ms], **numbers, "trade_count": [1]}))
                store.write(CANDLE, "BTCUSDT", bar, began_ms, began_ms + 1, Timeframe.M1)
        stores = Stores(home, load_settings(home.path, {"TRADING_POSTGRES_READ_URL": there}), stack)
        stores.urls = Urls(here, "", "", "")
        assert stores.clock() == began_ms + MINUTE_MS
        answer = stores.provider.get_multi_timeframe_data("BTCUSDT", ["1m"])[Timeframe.M1]
        assert answer["close"].to_list() == [2.0]
        assert stores.market.read(CANDLE, "BTCUSDT", 0, began_ms + 1, Timeframe.M1)["close"].to_list() == [1.0]
        assert replica(stores.market) == {"answers": True, "lag_s": 0, "fallbacks": 0}
