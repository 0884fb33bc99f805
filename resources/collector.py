"""The collector: trades of some symbols off the exchange's stream into the journal, with every hole repaired by id.

What to do is decided by `trading.stream.collector`; here are the sockets, the clock and the store. A trade is
acknowledged when the journal has it. `python -m resources.collector` runs it without Dagster.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, Final

from websockets.exceptions import WebSocketException

from resources.binance import BinanceRest, UnknownSymbol
from resources.book_feed import BookFeed
from resources.collecting_program import collected, common_options, program
from resources.control import controlled
from resources.home import home_of
from resources.journal import TradeJournal
from resources.live_tap import SOON_S, LiveTap
from resources.retention import verified
from resources.rocksdb import PATIENCE_S, JournalDamaged
from resources.side_streams import SideStreams
from resources.stream_set import KLINES, MARKS, SPOT, USDM
from resources.text_socket import listening
from resources.watch import Watch
from trading.errors import TradingError
from trading.market.instrument import Instrument
from trading.market.timeframe import DAY_MS
from trading.market.trade import AggTrade
from trading.stream.collector import TICK_S, CollectorCore, Compile, Quarantine
from trading.stream.connections import LIFETIME_S, Connect, Disconnect
from trading.stream.contiguity import IdRange, Ledger
from trading.stream.repair import FOREVER_MS, Fetch
from trading.stream.wire import BadFrame, far_ahead

LOOK_S: Final = 1.0
"""How often a collector that is to end asks for the exchange's clock, and an idle one lets the journal sync."""

LINGER_S: Final = 1.0
"""How long a connection that is closed is still listened to: its successor may bring later trades sooner."""

TIDY_S: Final = 60.0
TRADE_BYTES: Final = 136
"""What a waiting trade takes: a struct with seven integers."""

_log = logging.getLogger(__name__)


class Collector:
    """One collector of one journal.

    Args:
        journal: Open for writing.
        rest: The exchange's REST interface, for repairs.
        ws_url: Root of the exchange's streams that carries trades.
        instruments: What is collected, by name.
        wanted: Exchange time from which trades are wanted where the journal has none yet, and up to which, by name.
        ack: Called with (symbol, last id) after trades are stored.
        seed: Of the jitter between connections.
        retention_days: How long the journal keeps what the database has too.
        lifetime_s: After which a connection is replaced.
        beside: Streams that are taken in the same connection; see `resources.stream_set`.
        by_age: Drop what is older than `retention_days` although no database has it.
        clock_ms: The exchange's clock; no first event is believed that lies far ahead of it.
        tap: Takes further what was acknowledged.
    """

    def __init__(
        self,
        journal: TradeJournal,
        rest: BinanceRest,
        ws_url: str,
        instruments: Mapping[str, Instrument],
        wanted: Mapping[str, tuple[int, int]],
        ack: Callable[[str, int], None] | None = None,
        seed: int = 0,
        retention_days: int = 7,
        lifetime_s: float = LIFETIME_S,
        beside: Sequence[str] = (),
        by_age: bool = False,
        clock_ms: int = 0,
        tap: LiveTap | None = None,
    ) -> None:
        self._tap, self._soon = tap, False
        self._journal, self._rest, self._instruments = journal, rest, dict(instruments)
        streams = "/".join(f"{name.lower()}@{kind}" for name in instruments for kind in ("aggTrade", *beside))
        self._url = f"{ws_url.rstrip('/')}/stream?streams={streams}"
        self._ack, self._retention_ms, self._by_age = ack, retention_days * DAY_MS, by_age
        ranges = {name: _held(journal, name) for name in instruments}
        # What the journal dropped is in the database; it is not to be fetched again.
        wanted = {name: (max(since, journal.kept_since_ms(name)), until) for name, (since, until) in wanted.items()}
        uniform = random.Random(seed).uniform  # noqa: S311
        self._core = CollectorCore(
            self._instruments, ranges, wanted, uniform, lifetime_s=lifetime_s, marks=MARKS in beside, clock_ms=clock_ms
        )
        self._until_ms = max(until_ms for _, until_ms in wanted.values())
        self._books: BookFeed | None = None
        self._side = SideStreams(journal)
        self._connections: dict[int, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        self._awake, self._stopping = asyncio.Event(), False
        self._heard_s = self._stored_s = self._looked_s = self._tidied_s = time.monotonic()
        self._watch = Watch(instruments)
        self.statistics: Counter[str] = Counter()

    # -- life --------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Collect until `stop`, or until all that is wanted is there.

        Raises:
            TradingError: The journal cannot be written; what was acknowledged is kept.
        """
        try:
            commands = {
                "checkpoint": self._checkpoint,
                "status": self._said,
                "repair": self._repair,
                "stop": self._told,
            }
            async with controlled(self._journal.directory, commands):
                while not self._stopping:
                    await self._turn()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        self.flush()
        self._journal.checkpoint()

    def beside(self, books: BookFeed) -> None:
        """Keep books for as long as the collector runs; when that fails, so does the collector."""
        self._books = books
        self._begin(books.run())

    def stop(self) -> None:
        """Ask for the end; `run` flushes and makes a checkpoint before it returns."""
        self._stopping = True
        self._awake.set()

    def ask_again(self) -> None:
        """Ask for everything that is missing, ids that the exchange once did not have included."""
        self._core.ask_again(time.monotonic())
        self._awake.set()

    def flush(self) -> None:
        """Store what is pending and acknowledge it; what could not be stored once ends the collector."""
        if self._failure is not None:
            raise self._failure
        pending, began_s = self._core.take_pending(), time.monotonic()
        try:
            self.statistics["new_batches"] += self._journal.append(pending.trades, pending.ledgers, pending.fills)
        except Exception as error:
            # The core holds these trades as stored: whoever asked for this flush, no later one may claim them.
            self._failure = error
            self._awake.set()
            raise
        self._stored_s = time.monotonic()
        for name, trades in pending.trades.items():
            self.statistics["trades"] += len(trades)
            if self._ack is not None:
                self._ack(name, max(trade.agg_trade_id for trade in trades))
        newest = {name: (len(trades), trades[-1].time_ms) for name, trades in pending.trades.items()}
        waits = [fill.waited_ms for fills in pending.fills.values() for fill in fills if fill.hole]
        self._watch.stored(newest, self._stored_s - began_s, waits)
        if self._tap is not None:
            self._tap.stored(pending, self._core.newest_ms)
        self._side.store(pending.beside, pending.ledgers)

    def status(self) -> dict[str, Any]:
        """Return statistics and each symbol's last id, open holes, and ids that the exchange does not have."""
        streams = self._core.streams
        symbols = {
            name: {
                "last_id": (stream.ledger.next_id or 0) - 1,
                "holes": len(stream.ledger.open_holes()),
                "relisted": stream.relisted,
                "settled": stream.settled,
                "proven_until_ms": stream.proven_until_ms,
            }
            for name, stream in streams.items()
        }
        absent = [(name, *hole) for name, stream in streams.items() for hole in stream.ledger.absent_holes()]
        return {
            **self.statistics,
            **self._core.statistics,
            **self._side.statistics,
            "holes": sum(stream.holes for stream in streams.values()),
            "repaired": sum(stream.repaired for stream in streams.values()),
            "pending_bytes": TRADE_BYTES * self._core.pending,
            **self._watch.status(),
            "bad_frames": dict(self._core.bad_frames),
            "quiet_s": round(time.monotonic() - self._heard_s, 1),
            "symbols": symbols,
            "absent": absent,
            **({} if self._books is None else {"books": self._books.status()}),
        }

    # -- what readers and commands ask for -----------------------------------------------------------------------------

    def _checkpoint(self) -> str:
        self.flush()
        return f"ok {self._journal.checkpoint().name}"

    def _said(self) -> str:
        return json.dumps(self.status())

    def _repair(self) -> str:
        self.ask_again()
        return self._said()

    def _told(self) -> str:
        self.stop()
        return "ok"

    # -- the loop ----------------------------------------------------------------------------------------------------

    async def _turn(self) -> None:
        """Decide, act and store once, then wait until something happened or the next turn is due."""
        if self._failure is not None:
            raise self._failure
        now_s = time.monotonic()
        self._core.tick(now_s)
        self._carry_out()
        if self._core.pending or now_s - self._stored_s >= LOOK_S:
            self.flush()
        if self._until_ms == FOREVER_MS and now_s - self._tidied_s >= TIDY_S:
            self._tidied_s = now_s
            self._tidy()
        if self._until_ms < FOREVER_MS and now_s - self._looked_s >= LOOK_S:
            self._looked_s = now_s
            if self._ending is None or self._ending.done():
                self._ending = self._begin(self._end())  # not awaited: an exchange may ban an address for days
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._awake.wait(), TICK_S)
        self._awake.clear()
        self._soon = False

    def _tidy(self) -> None:
        """Seal an hour that has closed, and drop what is old and known to be in the database."""
        # By the earlier of two clocks: one wrong answer of the exchange, which is believed ever after, must not drop it all.
        now_ms = min(self._core.newest_ms, int(time.time() * 1000))
        for name in self._instruments:
            until_ms = FOREVER_MS if self._by_age else verified(self._journal.directory, name)
            self._journal.maintain(name, now_ms, self._retention_ms, until_ms)

    def _carry_out(self) -> None:
        for command in self._core.commands():
            match command:
                case Connect(number):
                    self._connections[number] = self._begin(self._connection(number))
                case Disconnect(number, reason):
                    _log.info("connection %d is closed: %s", number, reason)
                    self._close(number)
                case Fetch():
                    self._begin(self._fetch(command))
                case Compile():
                    self._begin(asyncio.to_thread(self._core.scanner.compile))
                case Quarantine(time_ms, reason, frame):
                    _log.warning("frame kept aside: %s", reason)
                    self._journal.quarantine(time_ms, reason, frame)

    def _close(self, number: int) -> None:
        if (connection := self._connections.pop(number, None)) is not None:
            asyncio.get_running_loop().call_later(LINGER_S, connection.cancel)

    def _begin(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._failure = task.exception()
        self._awake.set()

    async def _end(self) -> None:
        """Stop when the exchange's clock has come to the end and all that is wanted is there; ask for the last of it."""
        with contextlib.suppress(TradingError):
            if await self._rest.server_time() < self._until_ms:
                return
            if self._core.complete:
                self.stop()
            else:
                self._core.look(time.monotonic())

    # -- network -----------------------------------------------------------------------------------------------------

    async def _connection(self, number: int) -> None:
        """Hand on the frames of one connection until it ends, all that are there at once."""
        frames = list[bytes]()
        try:
            async with listening(self._url, self._core.binary) as socket:
                _log.info("connection %d is open", number)
                self._core.connected(number, time.monotonic())
                self._awake.set()
                while True:
                    frames.append(await socket.recv(decode=False))  # one that is not UTF-8 must not end the connection
                    if len(frames) == 1:
                        # The loop comes to it when no further frame is there.
                        asyncio.get_running_loop().call_soon(self._hand_on, number, frames)
        except (OSError, WebSocketException, TimeoutError) as error:
            _log.warning("connection %d is lost: %s: %s", number, type(error).__name__, error)
        self._hand_on(number, frames)
        self._connections.pop(number, None)
        self._core.disconnected(number, time.monotonic())

    def _hand_on(self, number: int, frames: list[bytes]) -> None:
        if not frames:
            return
        self._heard_s = time.monotonic()
        try:
            self._core.received(number, frames, self._heard_s)
        except Exception as error:  # the loop would only log it; the next turn raises it
            self._failure = error
            self._awake.set()
        frames.clear()
        if self._tap is not None and not self._soon:
            self._soon = True
            asyncio.get_running_loop().call_later(SOON_S, self._awake.set)

    async def _fetch(self, fetch: Fetch) -> None:
        """Ask for one page of trades."""
        start_ms = fetch.since_ms if fetch.from_id is None else None
        try:
            asked_ms = await self._rest.server_time()
            page = await self._rest.agg_trades(
                self._instruments[fetch.symbol], fetch.from_id, start_ms, limit=fetch.limit
            )
            await self._check_times(page, asked_ms)
        except TradingError as error:
            _log.warning("%s: no page of trades: %s", fetch.symbol, error)
            self._core.refused(fetch, time.monotonic())
        else:
            self._core.fetched(fetch, asked_ms, page, time.monotonic())

    async def _check_times(self, page: Sequence[AggTrade], asked_ms: int) -> None:
        """Refuse a page with a trade far ahead of the exchange's clock, which would prove all the time up to it."""
        newest_ms = max((trade.time_ms for trade in page), default=0)
        if far_ahead(newest_ms, asked_ms) and far_ahead(newest_ms, await self._rest.server_time()):
            raise BadFrame("future_time", f"a page ends at {newest_ms}")


def _held(journal: TradeJournal, symbol: str) -> list[IdRange]:
    """Return what the journal holds; what its ledger claims and no readable batch holds is a hole again."""
    ledger = Ledger(journal.ledger(symbol))
    try:
        missing = journal.verify(symbol)
    except JournalDamaged as error:
        _log.error("%s: %s; %d batches are set aside", symbol, error.message, journal.set_aside_damaged(symbol))
        missing = journal.verify(symbol)
    for first, last in missing:
        ledger.forget(first, last)
    return ledger.ranges


async def collect(options: argparse.Namespace) -> dict[str, Any]:
    """Run one collector as the command line says and return its status."""
    streams, home = USDM if options.venue == "binance_usdm" else SPOT, home_of(options.journal)
    rest = streams.rest(options.rest, budget_file=None if home is None else home.rest_budget_file)
    ws_url = options.ws.rstrip("/")
    beside = (*streams.beside, KLINES) if options.check_klines else streams.beside
    try:
        with TradeJournal.write(options.journal, PATIENCE_S, options.durability) as journal:
            names = options.symbols.split(",")
            instruments = await rest.instruments(names, options.venue)
            for name in names:
                if name not in instruments:
                    raise UnknownSymbol(f"the exchange does not trade {name[:40]} as {streams.kind}", "check --symbols")
            ack = _ack_to(options.ack_fd) if options.ack_fd is not None else None
            clock_ms = await rest.server_time()
            since_ms = _each(options.since_ms or [clock_ms], names)
            wanted = dict(zip(names, zip(since_ms, _each(options.until_ms, names), strict=True), strict=True))
            trades_url = ws_url + streams.trades_root
            collector = Collector(
                journal,
                rest,
                trades_url,
                instruments,
                wanted,
                ack,
                lifetime_s=options.lifetime_s,
                beside=beside,
                clock_ms=clock_ms,
            )
            if options.again:
                collector.ask_again()
            if options.books:
                collector.beside(BookFeed(journal, rest, ws_url + streams.books_root, instruments, options.books))
            return await collected(collector, options.metrics_port)
    finally:
        await rest.close()


def _each(values: list[int], names: list[str]) -> list[int]:
    return values * len(names) if len(values) == 1 else values


def _ack_to(descriptor: int) -> Callable[[str, int], None]:
    def ack(symbol: str, last_id: int) -> None:
        os.write(descriptor, f"{symbol} {last_id}\n".encode())

    return ack


def main() -> int:
    """Run the collector until it is told to stop; the last line of output is its status as JSON."""
    parser = common_options(__doc__)
    parser.add_argument("--rest", required=True)
    parser.add_argument("--ws", required=True)
    parser.add_argument("--venue", default="binance", help="binance_usdm: perpetual contracts; any other name: spot")
    parser.add_argument("--since-ms", type=int, nargs="+", help="one for each symbol, or for all")
    parser.add_argument("--until-ms", type=int, nargs="+", default=[FOREVER_MS], help="one for each symbol, or for all")
    parser.add_argument("--lifetime-s", type=float, default=LIFETIME_S, help="replace a connection that is so old")
    parser.add_argument(
        "--books", type=int, choices=[0, 100, 1000], default=0, help="keep books, of diffs of so many ms"
    )
    parser.add_argument("--check-klines", action="store_true", help="compare klines of minutes that are proven")
    parser.add_argument("--again", action="store_true", help="ask also for ids that the exchange once did not have")
    options = parser.parse_args()
    return program(collect(options), options.log)


if __name__ == "__main__":
    sys.exit(main())
