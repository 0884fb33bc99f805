import os
import subprocess
import sys
import textwrap
from pathlib import Path

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
