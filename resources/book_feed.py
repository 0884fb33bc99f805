"""Order books off the exchange's depth streams into the journal: the best levels at the end of each second.

Which diff follows which, and when a book must be fetched anew, is decided by `trading.stream.book_recorder`; here are the
socket, the REST snapshots and the store. A book that is not in step is not recorded, so nothing false is ever kept.
"""

import asyncio
import contextlib
import logging
import random
import time
from collections import Counter
from collections.abc import Coroutine, Mapping
from typing import Any, Final

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosedOK, WebSocketException

from resources.binance import BinanceRest
from resources.journal import TradeJournal
from resources.live_tap import SOON_S, LiveTap
from resources.text_socket import listening
from trading.errors import TradingError
from trading.market.instrument import Instrument
from trading.stream.backoff import Backoff
from trading.stream.book_recorder import BookRecorder
from trading.stream.book_sync import SNAPSHOT_LEVELS, Reason
from trading.stream.events import DepthDiff, ServerShutdown, decode_event
from trading.stream.wire import BadFrame

TURN_S: Final = 0.25
FIRST_PAUSE_S: Final = 0.5
LONGEST_PAUSE_S: Final = 30.0
SILENT_S: Final = 60.0
"""A stream that has brought nothing for this long is compared with REST: the market is quiet, or the stream has stalled."""

_log = logging.getLogger(__name__)


class StreamStalled(TradingError):
    """A connection answers, and yet does not deliver what REST knows."""


class BookFeed:
    """The books of some symbols over one connection.

    Args:
        journal: Open for writing.
        rest: The exchange's REST interface, for snapshots.
        ws_url: Root of the exchange's streams.
        instruments: Whose books, by name.
        every_ms: How often the exchange sums changes into a diff: 100 or 1000.
        seed: Of the jitter between connections.
        tap: Takes further what was stored.
    """

    def __init__(
        self,
        journal: TradeJournal,
        rest: BinanceRest,
        ws_url: str,
        instruments: Mapping[str, Instrument],
        every_ms: int = 100,
        seed: int = 0,
        tap: LiveTap | None = None,
    ) -> None:
        self._journal, self._rest, self._instruments, self._tap = journal, rest, dict(instruments), tap
        streams = "/".join(f"{name.lower()}@depth@{every_ms}ms" for name in instruments)
        self._url = f"{ws_url.rstrip('/')}/stream?streams={streams}"
        self._backoff = Backoff(random.Random(seed).uniform)  # noqa: S311
        self._recorders = {name: BookRecorder() for name in instruments}
        self._heard_s, self._not_before_s = dict.fromkeys(instruments, 0.0), dict.fromkeys(instruments, 0.0)
        self._newest_ms = self._clock_ms = 0
        self._awake, self._soon = asyncio.Event(), False
        self.statistics: Counter[str] = Counter()

    async def run(self) -> None:
        """Keep the books until cancelled; what was recorded by then is stored.

        Raises:
            TradingError: The journal cannot be written.
        """
        try:
            await self._keep_connected()
        finally:
            self._store()

    async def _keep_connected(self) -> None:
        while True:
            opened_s = time.monotonic()
            try:
                await self._connection()
            except (OSError, WebSocketException, TimeoutError, StreamStalled) as error:
                _log.warning("the book stream is lost: %s: %s", type(error).__name__, error)
            self.statistics["reconnects"] += 1
            for recorder in self._recorders.values():
                recorder.resync(Reason.GAP)
            await asyncio.sleep(self._backoff.pause_s(time.monotonic() - opened_s))

    def status(self) -> dict[str, Any]:
        """Return statistics, and of each symbol whether its book is in step and why it was fetched anew how often."""
        books = {
            name: {"in_step": recorder.sync.needs is None, **recorder.sync.counts}
            for name, recorder in self._recorders.items()
        }
        return {**self.statistics, "symbols": books}

    async def _connection(self) -> None:
        async with listening(self._url, self._binary) as socket:
            _log.info("the book stream is open")
            self._heard_s = dict.fromkeys(self._instruments, time.monotonic())
            works = (self._keep_stored(), self._keep_in_step())
            keeping = [asyncio.create_task(_closing(socket, work)) for work in works]
            try:
                with contextlib.suppress(ConnectionClosedOK):
                    while True:
                        self._take(await socket.recv(decode=False))
            finally:
                for task in keeping:
                    task.cancel()
                ended = await asyncio.gather(*keeping, return_exceptions=True)
            failures = (failure for failure in ended if isinstance(failure, Exception))
            raise next(failures, ConnectionError("the exchange closed the stream"))

    async def _keep_stored(self) -> None:
        """Store what is recorded; no answer is waited for here, as an exchange may ban an address for days."""
        while True:
            self._store()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._awake.wait(), TURN_S)
            self._awake.clear()
            self._soon = False

    async def _keep_in_step(self) -> None:
        """Fetch the books that are needed, and compare the silent ones."""
        while True:
            for symbol, recorder in self._recorders.items():
                if recorder.sync.needs is not None and time.monotonic() >= self._not_before_s[symbol]:
                    await self._fetch(symbol)
                elif time.monotonic() - self._heard_s[symbol] > SILENT_S:
                    await self._compare(symbol)
            await asyncio.sleep(TURN_S)

    def _binary(self, _frame: bytes) -> None:
        self.statistics["bad_unexpected_binary"] += 1

    def _take(self, frame: bytes) -> None:
        try:
            decoded = decode_event(frame, self._instruments, max(self._newest_ms, self._clock_ms))
        except BadFrame as error:
            self.statistics[f"bad_{error.reason}"] += 1
            return
        if isinstance(decoded, ServerShutdown):
            raise ConnectionError("the exchange announced the end of the connection")
        if decoded is not None and isinstance(decoded[1], DepthDiff):
            symbol, event = decoded
            self._heard_s[symbol] = time.monotonic()
            self._newest_ms = max(self._newest_ms, event.time_ms)
            self._recorders[symbol].diff(event)
            if self._tap is not None and self._recorders[symbol].records and not self._soon:
                self._soon = True
                asyncio.get_running_loop().call_later(SOON_S, self._awake.set)

    async def _fetch(self, symbol: str) -> None:
        recorder = self._recorders[symbol]
        try:
            await self._ask_clock()
            recorder.snapshot(await self._rest.depth(self._instruments[symbol], SNAPSHOT_LEVELS))
        except TradingError as error:
            _log.warning("%s: no snapshot of the book: %s", symbol, error)
        needs = recorder.sync.needs
        pause_s = FIRST_PAUSE_S if needs is None else min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** min(needs.refused, 10))
        self._not_before_s[symbol] = time.monotonic() + pause_s

    async def _compare(self, symbol: str) -> None:
        """Tell a quiet market from a stalled stream."""
        try:
            await self._ask_clock()
            known = await self._rest.depth(self._instruments[symbol], 5)
        except TradingError:
            return
        sync = self._recorders[symbol].sync
        # A book that never saw a diff has no time on spot, but it has an id.
        if sync.needs is None and known.last_update_id > sync.last_update_id:
            raise StreamStalled(f"{symbol}: nothing for {SILENT_S:.0f} s, though its book has changed")
        self._heard_s[symbol] = time.monotonic()

    async def _ask_clock(self) -> None:
        """Ask for the exchange's clock: after an outage or a silence the next diff lies far ahead of the one before it."""
        with contextlib.suppress(TradingError):
            self._clock_ms = await self._rest.server_time()

    def _store(self) -> None:
        arrived = {name: recorder.records for name, recorder in self._recorders.items() if recorder.records}
        if arrived:
            self._journal.append_books(arrived)
            if self._tap is not None:
                self._tap.books(arrived, self._newest_ms)
            for name, records in arrived.items():
                self.statistics["records"] += len(records)
                self._recorders[name].records = []


async def _closing(socket: ClientConnection, work: Coroutine[Any, Any, None]) -> None:
    """Do some work for a connection, and close it when that ends."""
    try:
        await work
    finally:
        await socket.close()
