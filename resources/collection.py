"""A collector that runs on a thread of this process, for whoever watches it from synchronous code."""

import asyncio
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from resources.binance import BinanceRest
from resources.collector import Collector
from resources.home import Home
from resources.rocksdb import TradeJournal
from resources.settings import load_settings
from trading.errors import TradingError
from trading.market.timeframe import Timeframe


class CollectorEnded(TradingError):
    """The collector ended although nobody asked it to."""


class Collection:
    """A running collector; see `collection`."""

    def __init__(self, collector: Collector, thread: threading.Thread, failure: list[BaseException]) -> None:
        self._collector, self._thread, self._failure = collector, thread, failure
        self._window = _window()

    def beats(self) -> Iterator[dict[str, Any]]:
        """Yield the collector's status every second for as long as it runs."""
        while self._thread.is_alive():
            yield self._collector.status()
            time.sleep(1)
        raise CollectorEnded(f"the collector ended: {self._failure[0] if self._failure else 'no reason given'}")

    def window_closed(self) -> bool:
        """Return whether a quarter of an hour has closed since this was last asked."""
        before, self._window = self._window, _window()
        return before != self._window


@contextmanager
def collection() -> Iterator[Collection]:
    """Collect as the home's settings say; flush, make a checkpoint and close the journal at the end."""
    home = Home(Path(os.environ.get("TRADING_HOME", ".trading")))
    settings = load_settings(home.path)
    venue = "sim" if home.kind == "simulated" else "binance"
    loop = asyncio.new_event_loop()
    failure: list[BaseException] = []
    with TradeJournal.write(home.rocksdb_dir) as journal:
        rest = BinanceRest(settings.exchange_rest_url)
        instruments = loop.run_until_complete(rest.instruments(settings.symbols, venue))
        collector = Collector(journal, rest, settings.exchange_ws_url, instruments)

        def run() -> None:
            try:
                loop.run_until_complete(collector.run())
            except BaseException as error:  # handed to the thread that watches
                failure.append(error)

        thread = threading.Thread(target=run, name="collector", daemon=True)
        thread.start()
        try:
            yield Collection(collector, thread, failure)
        finally:
            loop.call_soon_threadsafe(collector.stop)
            thread.join(20)
            loop.run_until_complete(rest.close())


def _window() -> int:
    return int(time.time() * 1000) // Timeframe.M15.ms
