"""The collector of Bybit and Hyperliquid, whose trade ids are identities: what is heard is kept, what is not is named.

No id says which trade is missing, and nothing can be asked for by id. So after each break the venue's list of recent
trades is asked for until it bridges the break or can no longer do so, and what stays between is named `missing`
(`trading.stream.identities`). The list is asked for now and then besides: a trade in it that the stream has left out
costs the connection. A trade is acknowledged when the journal has it.

`python -m resources.identity_collector --venue bybit --symbols BTCUSDT --journal FOLDER` runs it.
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
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final, Protocol

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import WebSocketException

from resources.bybit import BybitRest
from resources.collecting_program import collected, common_options, program
from resources.control import controlled
from resources.home import home_of
from resources.hyperliquid import HyperliquidRest
from resources.identity_journal import IdentityJournal
from resources.rocksdb import PATIENCE_S, JournalDamaged
from resources.text_socket import listening
from resources.watch import Watch
from trading.errors import TradingError
from trading.market.identified import IdentifiedTrade
from trading.market.instrument import Instrument
from trading.stream import bybit, hyperliquid
from trading.stream.backoff import Backoff
from trading.stream.identities import Identities
from trading.stream.identity_core import IdentityCore
from trading.stream.venue import Dialect
from trading.stream.wire import BadFrame, far_ahead

BATCH_S: Final = 1.0
FIRST_LIST_S: Final = 1.0
LOOK_S: Final = 60.0
GRACE_S: Final = 3.0
"""How much later than a list the stream may bring a trade without having left it out."""

MESSAGE_BYTES: Final = 2**22

_log = logging.getLogger(__name__)


class RecentTrades(Protocol):
    """Serves the newest trades of a market."""

    async def trades(self, instrument: Instrument) -> list[IdentifiedTrade]:
        """Return them, oldest first, with nothing left out between them."""
        ...


class IdentityCollector:
    """One collector of one journal.

    Args:
        journal: Open for writing.
        rest: The venue's REST interface.
        dialect: How the venue is spoken to.
        ws_url: Where its stream is.
        instruments: What is collected, by name.
        ack: Called with (symbol, ids) after trades are stored.
        seed: Of the jitter between connections.
        lifetime_s: After which a connection is given up for a new one; None: neither venue asks for that.
        look_s: How often a list of recent trades is held against the stream.
    """

    def __init__(
        self,
        journal: IdentityJournal,
        rest: RecentTrades,
        dialect: Dialect,
        ws_url: str,
        instruments: Mapping[str, Instrument],
        ack: Callable[[str, Sequence[str]], None] | None = None,
        seed: int = 0,
        lifetime_s: float | None = None,
        look_s: float = LOOK_S,
    ) -> None:
        self._journal, self._rest, self._dialect, self._url = journal, rest, dialect, ws_url
        self._instruments = {name: journal.keep(instrument) for name, instrument in instruments.items()}
        held = {name: _held(journal, name) for name in instruments}
        self._core = IdentityCore(dialect, self._instruments, held)
        self._broken = {name: asyncio.Event() for name in instruments}
        self._ack, self._lifetime_s, self._look_s = ack, lifetime_s, look_s
        self._backoff = Backoff(random.Random(seed).uniform)  # noqa: S311
        self._listening: asyncio.Task[None] | None = None
        self._stop, self._connected = asyncio.Event(), asyncio.Event()
        self._watch = Watch(instruments)
        self._heard_s = time.monotonic()
        self._failure: Exception | None = None
        self.statistics: Counter[str] = Counter()

    # -- life --------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Collect until `stop`.

        Raises:
            TradingError: The journal cannot be written; what was acknowledged is kept.
        """
        commands = {"checkpoint": self._checkpoint, "status": lambda: json.dumps(self.status()), "stop": self._told}
        works = [self._stop.wait(), self._stay_connected(), *map(self._lists, self._instruments)]
        async with controlled(self._journal.directory, commands):
            tasks = [asyncio.create_task(work) for work in works]
            try:
                while not self._stop.is_set():
                    self.flush()
                    await _first(*tasks, timeout_s=BATCH_S)
            finally:
                await _cancelled(*tasks)
        self.flush()
        self._journal.checkpoint()

    def stop(self) -> None:
        """Ask for the end; `run` flushes and makes a checkpoint before it returns."""
        self._stop.set()

    def flush(self) -> None:
        """Store what came, with what can be said of the time up to then; what could not be stored ends the collector."""
        if self._failure is not None:
            raise self._failure
        began_s, seen = time.monotonic(), self._core.take_seen()
        try:
            self._journal.append(seen, int(time.time() * 1000), self._core.take_bad())
        except Exception as error:
            # The core remembers these trades as stored: no list would bring them again.
            self._failure = error
            raise
        stored = {name: news.trades for name, news in seen.items() if news.trades}
        for name, trades in stored.items():
            self.statistics["trades"] += len(trades)
            if self._ack is not None:
                self._ack(name, [trade.trade_id for trade in trades])
        newest = {name: (len(trades), max(t.time_ms for t in trades)) for name, trades in stored.items()}
        self._watch.stored(newest, time.monotonic() - began_s, ())

    def status(self) -> dict[str, Any]:
        """Return statistics and, of each market, what is missing in it."""
        return {
            **self.statistics,
            **self._core.statistics,
            **self._watch.status(),
            "bad_frames": dict(self._core.bad_frames),
            "quiet_s": round(time.monotonic() - self._heard_s, 1),
            "symbols": self._core.status(),
        }

    def _checkpoint(self) -> str:
        self.flush()
        return f"ok {self._journal.checkpoint().name}"

    def _told(self) -> str:
        self.stop()
        return "ok"

    # -- connections -------------------------------------------------------------------------------------------------

    async def _stay_connected(self) -> None:
        while True:
            began_s = time.monotonic()
            self._listening = asyncio.create_task(self._listen())
            try:
                await _first(self._listening, timeout_s=self._lifetime_s)
            finally:
                await _cancelled(self._listening)
            self._connected.clear()
            self._core.disconnected()
            self.statistics["reconnects"] += 1
            await asyncio.sleep(self._backoff.pause_s(time.monotonic() - began_s))

    async def _listen(self) -> None:
        """Take the frames of one connection until it ends."""
        try:
            # The venue's own ping takes the place of the protocol's: its answer shows that more than a proxy lives.
            async with listening(self._url, self._binary, ping_s=None, most_bytes=MESSAGE_BYTES) as socket:
                for message in self._dialect.subscribe(list(self._instruments)):
                    await socket.send(message)
                _log.info("connected to %s", self._url)
                self._core.connected()
                self._connected.set()
                self._ask(self._instruments)
                pinging = asyncio.create_task(self._ping(socket))
                try:
                    while True:
                        frame = await socket.recv(decode=False)  # one that is not UTF-8 must not end the connection
                        self._heard_s = time.monotonic()
                        self._ask(self._core.received(frame, self._heard_s))
                finally:
                    await _cancelled(pinging)
        except (OSError, WebSocketException, TimeoutError, BadFrame) as error:
            _log.warning("the connection is lost: %s: %s", type(error).__name__, error)

    def _binary(self, frame: bytes) -> None:
        self._ask(self._core.binary(frame))

    async def _ping(self, socket: ClientConnection) -> None:
        """Ping as the venue asks; close a connection on which nothing is heard from one ping to the next."""
        while True:
            pinged_s = time.monotonic()
            await asyncio.sleep(self._dialect.ping_s)
            if self._heard_s < pinged_s:
                _log.warning("the connection is silent")
                self.statistics["stalls"] += 1
                await socket.close()
            await socket.send(self._dialect.ping)

    # -- lists -------------------------------------------------------------------------------------------------------

    def _ask(self, names: Iterable[str]) -> None:
        for name in names:
            self._broken[name].set()

    async def _lists(self, name: str) -> None:
        """Ask for lists: after a break soon and again, until one bridges it or none can; else now and then."""
        pause_s = FIRST_LIST_S
        while True:
            await self._connected.wait()  # what comes after the list is to be heard
            self._broken[name].clear()
            pause_s = self._look_s if await self._listed(name) else min(2 * pause_s, self._look_s)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._broken[name].wait(), pause_s)
                pause_s = FIRST_LIST_S

    async def _listed(self, name: str) -> bool:
        """Take one list, and tell whether a list can do no more; a stream that has left out trades is begun anew."""
        try:
            trades = await self._rest.trades(self._instruments[name])
            # Where our clock is slow, the stream's trades still say what time it is.
            clock_ms = max(self._core.newest_ms, int(time.time() * 1000))
            if far_ahead(max((trade.time_ms for trade in trades), default=0), clock_ms):
                raise BadFrame("future_time", "a list with such a trade would bridge all the time up to it")
        except TradingError as error:
            _log.warning("%s: no list of trades: %s", name, error)
            self.statistics["refused"] += 1
            return False
        if self._core.unheard(name, trades):
            await asyncio.sleep(GRACE_S)
        if unheard := self._core.unheard(name, trades):
            _log.warning("%s: the stream has left out %d trades", name, unheard)
            if self._listening is not None:
                self._listening.cancel()
        return self._core.take_list(name, trades, time.monotonic())


def _held(journal: IdentityJournal, symbol: str) -> Identities:
    """Return what the journal holds; the seconds of batches that cannot be read are missing until a list brings them."""
    try:
        newest = journal.newest(symbol)
    except JournalDamaged as error:
        _log.error("%s: %s; %d batches are set aside", symbol, error.message, journal.set_aside_damaged(symbol))
        newest = journal.newest(symbol)
    return Identities.held(journal.stretches(symbol), newest)


async def _first(*tasks: "asyncio.Future[Any]", timeout_s: float | None = None) -> None:
    """Wait until one of some tasks has ended, or for some time; raises what a task raised."""
    done, _ = await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        if not task.cancelled():
            task.result()


async def _cancelled(*tasks: "asyncio.Future[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


# -- the program -----------------------------------------------------------------------------------------------------

VENUES: Final = {
    "bybit": ("https://api.bybit.com", "wss://stream.bybit.com/v5/public/{category}", bybit.DIALECT),
    "hyperliquid": ("https://api.hyperliquid.xyz", "wss://api.hyperliquid.xyz/ws", hyperliquid.DIALECT),
}
"""REST root, stream and dialect by venue."""


async def collect(options: argparse.Namespace) -> dict[str, Any]:
    """Run one collector as the command line says and return its status."""
    root, stream, dialect = VENUES[options.venue]
    root, stream = options.rest or root, options.ws or stream.format(category=options.category)
    home = home_of(options.journal)
    budget = None if home is None else home.rest_budget_file
    rest = BybitRest(root, options.category, budget) if options.venue == "bybit" else HyperliquidRest(root, budget)
    try:
        with IdentityJournal.write(options.journal, PATIENCE_S, options.durability) as journal:
            instruments = await rest.instruments(options.symbols.split(","))
            ack = _ack_to(options.ack_fd) if options.ack_fd is not None else None
            collector = IdentityCollector(
                journal, rest, dialect, stream, instruments, ack, 0, options.lifetime_s, options.look_s
            )
            return await collected(collector, options.metrics_port)
    finally:
        await rest.close()


def _ack_to(descriptor: int) -> Callable[[str, Sequence[str]], None]:
    def ack(symbol: str, trade_ids: Sequence[str]) -> None:
        os.write(descriptor, "".join(f"{symbol} {trade_id}\n" for trade_id in trade_ids).encode())

    return ack


def main() -> int:
    """Run the collector until it is told to stop, and end as `resources.collector` does: with its status as JSON."""
    parser = common_options(__doc__)
    parser.add_argument("--venue", choices=list(VENUES), required=True)
    parser.add_argument("--category", choices=list(bybit.QUANTITY_STEPS), default="linear", help="of Bybit's markets")
    parser.add_argument("--rest", help="another root of the REST interface")
    parser.add_argument("--ws", help="another URL of the stream")
    parser.add_argument("--lifetime-s", type=float, help="give up a connection that is so old; default: never")
    parser.add_argument("--look-s", type=float, default=LOOK_S, help="hold REST's recent trades against the stream")
    options = parser.parse_args()
    return program(collect(options), options.log)


if __name__ == "__main__":
    sys.exit(main())
