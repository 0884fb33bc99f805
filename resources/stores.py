"""The stores of one home, each opened when it is first asked for and closed with the rest.

Scripts, the command line and Dagster's resources all reach the stores through `open_stores`, so that one process has
one connection pool and one lease on the home's servers, however many ask.
"""

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path

import polars as pl

from resources.archive import Archive
from resources.binance import PAGE, BinanceRest, InvalidInterval
from resources.data_provider import DataProvider
from resources.derivatives import FuturesExchange
from resources.home import Home
from resources.lake import LakeReader
from resources.live_follower import LiveFollower
from resources.lmdb import LmdbStore
from resources.qdrant import SnapshotIndex
from resources.redis import HotValues
from resources.servers import process, running
from resources.settings import Settings, load_settings
from resources.timescale.dead_letters import DeadLetters
from resources.timescale.ingestion import DataIngestionPipeline
from resources.timescale.loop import wait
from resources.timescale.quarantine import RefusedRows
from resources.timescale.store import MarketStore
from resources.timescale.tables import CANDLE
from trading.errors import TradingError
from trading.market.instrument import Instrument
from trading.market.timeframe import CANDLE_TIMEFRAMES, MINUTE_MS, Timeframe
from trading.market.trade import AggTrade
from trading.provider.cache import DataCacheManager
from trading.provider.provider import UnifiedDataProvider
from trading.provider.validation import DataValidator


class ExchangeNotSet(TradingError):
    """No exchange is known to this process."""


class Exchange:
    """The exchange's REST interface for synchronous callers.

    Args:
        base_url: Root of the REST interface.
        venue: Venue under which its instruments are kept.
        budget_file: Where the processes of a home share what they use; None: this one asks alone.
    """

    def __init__(self, base_url: str, venue: str, budget_file: Path | None = None) -> None:
        self.venue = venue
        self._base_url, self._budget_file = base_url, budget_file
        self._finest: dict[str, Timeframe] = {}

    @cached_property
    def _rest(self) -> BinanceRest:
        if not self._base_url:
            raise ExchangeNotSet("no exchange is set", "set TRADING_EXCHANGE_REST_URL or run inside 'trading up'")
        return BinanceRest(self._base_url, budget_file=self._budget_file)

    def now_ms(self) -> int:
        """Return the exchange's clock, epoch milliseconds."""
        return wait(self._rest.server_time())

    def instruments(self, symbols: tuple[str, ...]) -> dict[str, Instrument]:
        """Return instruments by name."""
        return wait(self._rest.instruments(symbols, self.venue))

    def klines(self, instrument: Instrument, timeframe: Timeframe, lo_ms: int, hi_ms: int) -> pl.DataFrame:
        """Return closed klines with open time in `[lo_ms, hi_ms)` as `CANDLE_SCHEMA`."""
        return wait(self._rest.klines(instrument, timeframe, lo_ms, hi_ms))

    def trades(
        self, instrument: Instrument, from_id: int | None = None, start_ms: int | None = None, limit: int = PAGE
    ) -> list[AggTrade]:
        """Return one page of aggregate trades, oldest first, from an id or from a time on."""
        return wait(self._rest.agg_trades(instrument, from_id, start_ms, limit=limit))

    def trade(self, instrument: Instrument, agg_trade_id: int) -> AggTrade | None:
        """Return the trade of an id, or None where the exchange serves none or no exchange is set."""
        if not self._base_url:
            return None
        page = self.trades(instrument, from_id=agg_trade_id, limit=1)
        return page[0] if page and page[0].agg_trade_id == agg_trade_id else None

    def finest(self, instrument: Instrument, at_ms: int) -> Timeframe:
        """Return the shortest timeframe of which this exchange serves klines of an instrument."""
        if instrument.name not in self._finest:
            for timeframe in CANDLE_TIMEFRAMES:
                try:
                    self.klines(instrument, timeframe, at_ms, at_ms + timeframe.ms)
                except InvalidInterval:
                    continue
                self._finest[instrument.name] = timeframe
                break
            else:
                raise InvalidInterval(f"the exchange serves no klines of {instrument.name}")
        return self._finest[instrument.name]

    def close(self) -> None:
        """Close the connections."""
        if "_rest" in self.__dict__:
            wait(self._rest.close())


class Stores:
    """All stores of one home; see `open_stores`."""

    def __init__(self, home: Home, settings: Settings, stack: ExitStack) -> None:
        self.home = home
        self.settings = settings
        self._stack = stack
        self._opening = threading.RLock()

    @cached_property
    def urls(self):
        """URLs of the home's servers, which run as long as this object is open."""
        with self._opening:
            return self._stack.enter_context(running(self.home, self.settings, ("postgres", "redis", "qdrant")))

    @property
    def venue(self) -> str:
        """`sim` in a simulated home, `binance` in a live one."""
        return "sim" if self.home.kind == "simulated" else "binance"

    @cached_property
    def market(self) -> MarketStore:
        """The market database; a replica of it, where one is set, answers the data provider."""
        store = MarketStore(self.urls.postgres, self.venue, self.settings.postgres_read_url)
        store.lake = self.lake
        return self._stack.enter_context(store)

    @cached_property
    def _ended_ms(self) -> int:
        """Where a simulated market ends that nobody keeps going, epoch ms; 0: time goes on."""
        if self.home.kind != "simulated" or process.alive("exchange", self.home.run_dir) is not None:
            return 0
        spans = [self.market.span(CANDLE, symbol, Timeframe.M1) for symbol in self.market.instruments()]
        return max([self.home.clock.get("end_ms", 0), *(span[1] + MINUTE_MS for span in spans if span)])

    @cached_property
    def clock(self) -> Callable[[], int]:
        """Returns the present, epoch ms: this machine's, or the end of a simulated market that nobody keeps going."""
        ended_ms = self._ended_ms
        return lambda: ended_ms or time.time_ns() // 1_000_000

    @cached_property
    def provider(self) -> DataProvider:
        """What was known of a symbol at a moment, from the database and, of days that went from there, from the lake."""
        return DataProvider(UnifiedDataProvider(self.market.queries(), self.clock))

    @cached_property
    def live_provider(self) -> DataProvider:
        """The same, with what is told live in a cache of this process: questions about the present are answered from it."""
        follower, clock, ended_ms = self.follower, self.clock, self._ended_ms

        def present() -> int:
            return max(follower.clock_ms, ended_ms) if ended_ms else follower.present_ms() or clock()

        return DataProvider(UnifiedDataProvider(self.market.queries(), present, cache=follower.cache))

    @cached_property
    def follower(self) -> LiveFollower:
        """What fills that cache."""
        follower = LiveFollower(self.urls.redis, self.settings.symbols, self.market.queries())
        follower.start()
        self._stack.callback(follower.stop)
        return follower

    def ingestion(self, cache: DataCacheManager | None = None) -> DataIngestionPipeline:
        """Return the way of rows of one's own into the market database, for `async with` on a loop of the caller's.

        What the database refuses goes to the home's dead letters, what cannot have happened into a file beside them.

        Args:
            cache: Shows rows at once, before they are stored.
        """
        instruments, letters = self.market.instruments(), DeadLetters(self.home.dead_letters_dir)
        checks = DataValidator(instruments, self.clock, RefusedRows(letters.refused_file))
        return DataIngestionPipeline(self.market, letters, self.clock, checks, cache, instruments)

    @cached_property
    def lmdb(self) -> LmdbStore:
        """The projection of candles and indicators, or what an external producer keeps at LMDB_PATH."""
        path, gigabytes = self.settings.lmdb_path, self.settings.lmdb_max_size_gb
        return LmdbStore(path or self.home.lmdb_dir, gigabytes, ours=path is None)

    @cached_property
    def lake(self) -> LakeReader:
        """Closed days as Parquet files."""
        return LakeReader(self.settings.lake_path or self.home.lake_dir, self.venue)

    @cached_property
    def index(self) -> SnapshotIndex:
        """The searchable market states."""
        index = SnapshotIndex(self.urls.qdrant)
        index.ensure()
        return index

    @cached_property
    def hot(self) -> HotValues:
        """The hot values."""
        return HotValues(self.urls.redis)

    @cached_property
    def exchange(self) -> Exchange:
        """The exchange, simulated or real."""
        exchange = Exchange(self.settings.exchange_rest_url, self.venue, self.home.rest_budget_file)
        self._stack.callback(exchange.close)
        return exchange

    @cached_property
    def archive(self) -> Archive:
        """The exchange's archive; one without files where none is set."""
        archive = Archive(self.settings.archive_url, self.home.archive_dir)
        self._stack.callback(archive.close)
        return archive

    @cached_property
    def futures(self) -> FuturesExchange:
        """The exchange's futures root, which it need not have."""
        futures = FuturesExchange(self.settings.futures_rest_url, self.home.rest_budget_file)
        self._stack.callback(futures.close)
        return futures


_open: dict[tuple[int, Path], tuple[Stores, ExitStack, int]] = {}
"""By process too: a fork inherits handles that it may neither use nor close, and so opens its own."""

_registry = threading.RLock()
os.register_at_fork(before=_registry.acquire, after_in_parent=_registry.release, after_in_child=_registry.release)


@contextmanager
def open_stores(home_path: Path) -> Iterator[Stores]:
    """Yield the stores of a home; the last one out of a process closes them."""
    path = home_path.resolve()
    key = (os.getpid(), path)
    with _registry:
        if key not in _open:
            stack = ExitStack()
            _open[key] = (Stores(Home(path), load_settings(path), stack), stack, 0)
        stores, stack, users = _open[key]
        _open[key] = (stores, stack, users + 1)
    try:
        yield stores
    finally:
        if os.getpid() == key[0]:  # a fork that leaves the block must not give up its parent's lease
            with _registry:
                users = _open[key][2] - 1
                _open[key] = (stores, stack, users)
                if not users:
                    del _open[key]
                    stack.close()
