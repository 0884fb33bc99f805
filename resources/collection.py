"""A collector that runs on a thread of this process, for whoever watches it from synchronous code."""

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from resources.binance import BinanceRest
from resources.book_feed import BookFeed
from resources.collector import Collector, metrics
from resources.home import Home
from resources.journal import TradeJournal
from resources.rocksdb import PATIENCE_S
from resources.settings import load_settings
from trading.errors import TradingError
from trading.stream.repair import FOREVER_MS

STOP_S: Final = 25
"""Time to flush and to make a checkpoint; `trading up` waits a little longer."""


class CollectorEnded(TradingError):
    """The collector ended although nobody asked it to."""


class Collection:
    """A collector of the home's symbols; see `collection`."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._settings = load_settings(home.path)
        self._collector: Collector | None = None
        self._loop = asyncio.new_event_loop()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="collector", daemon=True)

    def start(self) -> None:
        """Begin to collect."""
        self._thread.start()

    def stop(self) -> None:
        """Let the collector flush, make a checkpoint and close the journal; return when it has.

        Raises:
            CollectorEnded: It did not within `STOP_S`.
        """
        if self._collector is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._collector.stop)
        self._thread.join(STOP_S)
        if self._thread.is_alive():
            raise CollectorEnded(f"the collector has not stopped within {STOP_S} s", "its last checkpoint is readable")

    def beats(self) -> Iterator[dict[str, Any]]:
        """Yield the collector's status every second for as long as it runs.

        Raises:
            CollectorEnded: It ended by itself; the cause says why.
        """
        while self._thread.is_alive():
            yield self._collector.status() if self._collector is not None else {"symbols": {}}
            self._thread.join(1)
        hint = self._failure.hint if isinstance(self._failure, TradingError) else ""
        raise CollectorEnded(f"the collector ended: {self._failure or 'it was told to stop'}", hint) from self._failure

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._collect())
        except BaseException as error:  # handed to the thread that watches
            self._failure = error
        finally:
            self._loop.close()

    async def _collect(self) -> None:
        venue = "sim" if self._home.kind == "simulated" else "binance"
        rest = BinanceRest(self._settings.exchange_rest_url, budget_file=self._home.rest_budget_file)
        try:
            durability = self._settings.journal_durability
            with TradeJournal.write(self._home.rocksdb_dir, PATIENCE_S, durability) as journal:
                instruments = await rest.instruments(self._settings.symbols, venue)
                wanted = dict.fromkeys(instruments, (await rest.server_time(), FOREVER_MS))
                ws_url, days = self._settings.exchange_ws_url, self._settings.journal_retention_days
                collector = Collector(journal, rest, ws_url, instruments, wanted, retention_days=days)
                collector.beside(BookFeed(journal, rest, ws_url, instruments))
                self._collector = collector
                with metrics(self._settings.metrics_port, collector):
                    await collector.run()
        finally:
            await rest.close()


@contextmanager
def collection() -> Iterator[Collection]:
    """Collect as the settings of the home in TRADING_HOME say, until the end of the block."""
    collecting = Collection(Home(Path(os.environ.get("TRADING_HOME", ".trading"))))
    collecting.start()
    try:
        yield collecting
    finally:
        collecting.stop()
