"""A collector that runs on a thread of this process, for whoever watches it from synchronous code."""

import asyncio
import logging
import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

from resources.binance import BinanceRest, UnknownSymbol
from resources.book_feed import BookFeed
from resources.collecting_program import metrics
from resources.collector import Collector
from resources.home import Home
from resources.journal import TradeJournal
from resources.live_feed import LiveFeed
from resources.live_tap import LiveTap
from resources.rocksdb import PATIENCE_S
from resources.servers import Urls, running
from resources.settings import load_settings
from resources.stream_set import KLINES, SPOT, USDM, StreamSet
from resources.timescale.dead_letters import DeadLetters
from resources.timescale.store import MarketStore
from trading.errors import TradingError
from trading.market.instrument import Instrument
from trading.stream.repair import FOREVER_MS

FIRST_S: Final = 3.0
"""So long a collector waits for its stores: what it then collects is live from the beginning."""

AGAIN_S: Final = 10.0
"""How often stores are asked for that did not answer in time."""

LEAVE_S: Final = 10.0
"""So long a collector that is to stop waits for stores that it has just asked for."""

STOP_S: Final = 25
"""Time to flush and to make a checkpoint; `trading up` waits a little longer."""


_log = logging.getLogger(__name__)


class CollectorEnded(TradingError):
    """The collector ended although nobody asked it to."""


class Collection:
    """A collector of one kind of market of the home's symbols; see `collection`."""

    def __init__(self, home: Home, streams: StreamSet) -> None:
        self._home, self._streams = home, streams
        self._settings = load_settings(home.path)
        self._collector: Collector | None = None
        self._feed: LiveFeed | None = None
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
            status = self._collector.status() if self._collector is not None else {"symbols": {}}
            yield status if self._feed is None else {**status, "live": self._feed.status()}
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
        settings, streams, contracts = self._settings, self._streams, self._streams is USDM
        rest_url = settings.futures_rest_url if contracts else settings.exchange_rest_url
        ws_url = (settings.futures_ws_url if contracts else settings.exchange_ws_url).rstrip("/")
        rest = streams.rest(rest_url, budget_file=self._home.rest_budget_file)
        try:
            directory = self._home.journal_dir(streams.kind)
            with TradeJournal.write(directory, PATIENCE_S, settings.journal_durability) as journal:
                instruments, clock_ms = await self._instruments(rest), await rest.server_time()
                tap = None if contracts or settings.live == "off" else LiveTap(journal, instruments)
                collector = Collector(
                    journal,
                    rest,
                    ws_url + streams.trades_root,
                    instruments,
                    dict.fromkeys(instruments, (clock_ms, FOREVER_MS)),
                    retention_days=settings.journal_retention_days,
                    beside=(*streams.beside, KLINES),
                    by_age=contracts,
                    clock_ms=clock_ms,
                    tap=tap,
                )
                collector.beside(BookFeed(journal, rest, ws_url + streams.books_root, instruments, tap=tap))
                self._collector = collector
                port = settings.metrics_port
                with metrics(port + 1 if port and contracts else port, collector):
                    async with self._live(tap, instruments, journal):
                        await collector.run()
        finally:
            await rest.close()

    @asynccontextmanager
    async def _live(
        self, tap: LiveTap | None, instruments: dict[str, Instrument], journal: TradeJournal
    ) -> AsyncIterator[None]:
        """Take what is acknowledged into the database and to live readers, where that is wanted."""
        if tap is None:
            yield
            return
        with ExitStack() as stack:
            beginning = asyncio.create_task(self._begin_live(tap, instruments, journal, stack))
            try:
                await asyncio.wait([beginning], timeout=FIRST_S)
                yield
            finally:
                beginning.cancel()
                await asyncio.gather(beginning, return_exceptions=True)
                if self._feed is not None:
                    await self._feed.stop()

    async def _begin_live(
        self, tap: LiveTap, instruments: dict[str, Instrument], journal: TradeJournal, stack: ExitStack
    ) -> None:
        """Begin as soon as both stores answer; a collector runs for months and does not wait for them."""
        try:
            urls = await self._stores(stack)
            venue = "sim" if self._home.kind == "simulated" else "binance"
            letters = DeadLetters(self._home.dead_letters_dir)
            feed = LiveFeed(
                tap, instruments, lambda: MarketStore(urls.postgres, venue), urls.redis, journal.ledger, letters
            )
            feed.start()
            self._feed = feed
        except Exception:
            _log.exception("nothing goes into the database live; the assets of the day bring what the journal holds")

    async def _stores(self, stack: ExitStack) -> Urls:
        """Return where the stores are once both answer; they are kept until the stack is closed."""

        def enter() -> Urls:
            return stack.enter_context(running(self._home, self._settings, ("postgres", "redis")))

        while True:
            entering = asyncio.ensure_future(asyncio.to_thread(enter))
            try:
                return await asyncio.shield(entering)
            except asyncio.CancelledError:
                # A thread cannot be stopped, and what it enters is to be left.
                await asyncio.wait([entering], timeout=LEAVE_S)
                raise
            except Exception as error:
                what = f"{type(error).__name__}: {error}"
                _log.error("nothing goes into the database live: %s; tried again in %.0f s", what, AGAIN_S)
                await asyncio.sleep(AGAIN_S)

    async def _instruments(self, rest: BinanceRest) -> dict[str, Instrument]:
        """Return the markets of the home's symbols; not every symbol has a contract."""
        names = self._settings.symbols
        found = await rest.instruments(names, "sim" if self._home.kind == "simulated" else "binance")
        if not found:
            raise UnknownSymbol(f"none of {', '.join(names)} is traded as {self._streams.kind}", "check the symbols")
        for name in names:
            if name not in found:
                _log.warning("%s is not traded as %s", name, self._streams.kind)
        return found


@contextmanager
def collection(kind: str) -> Iterator[Collection]:
    """Collect `spot` or `usdm` as the settings of the home in TRADING_HOME say, until the end of the block."""
    streams = {streams.kind: streams for streams in (SPOT, USDM)}[kind]
    collecting = Collection(Home(Path(os.environ.get("TRADING_HOME", ".trading"))), streams)
    collecting.start()
    try:
        yield collecting
    finally:
        collecting.stop()
