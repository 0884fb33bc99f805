"""The collector: trades of some symbols off one websocket into the journal, with every hole repaired by id.

It acknowledges a trade when the journal has it on disk. On every start, reconnect and hole it asks the exchange by id
for what it lacks before it goes on; what the exchange refuses stays named in the ledger and is asked for again.
`python -m resources.collector` runs it without Dagster.
"""

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from resources.binance import BinanceRest, ExchangeRefused
from resources.journal import TradeJournal
from resources.rocksdb import PATIENCE_S, control_socket
from trading.errors import TradingError
from trading.market.instrument import Instrument
from trading.market.trade import AggTrade
from trading.stream.backoff import Backoff
from trading.stream.contiguity import Arrival, Ledger
from trading.stream.wire import BadFrame, decode

PAGE: Final = 1000
IDLE_S: Final = 0.25
QUEUE_BYTES: Final = 64 * 2**20
FLUSH_TRADES: Final = 2_000
QUARANTINED: Final = 100
SILENCE_S: Final = 60.0
"""A connection that answers pings and sends nothing for this long is taken for dead."""


class Collector:
    """One collector of one journal.

    Args:
        journal: Open for writing.
        rest: The exchange's REST interface, for repairs.
        ws_url: Root of the exchange's streams.
        instruments: What is collected, by name.
        since_ms: Exchange time from which trades are wanted where the journal has none yet; None: now.
        ack: Called with (symbol, last id) after trades are stored.
        seed: Of the jitter between connections.
    """

    def __init__(
        self,
        journal: TradeJournal,
        rest: BinanceRest,
        ws_url: str,
        instruments: Mapping[str, Instrument],
        since_ms: int | None = None,
        ack: Callable[[str, int], None] | None = None,
        seed: int = 0,
    ) -> None:
        self._journal, self._rest, self._instruments = journal, rest, dict(instruments)
        streams = "/".join(f"{name.lower()}@aggTrade" for name in instruments)
        self._url = f"{ws_url.rstrip('/')}/stream?streams={streams}"
        self._since_ms, self._ack = since_ms, ack
        self._ledgers = {name: Ledger(journal.ledger(name)) for name in instruments}
        self._pending: dict[str, list[AggTrade]] = {name: [] for name in instruments}
        self._backoff = Backoff(random.Random(seed).uniform)  # noqa: S311
        self._absent: set[tuple[str, int, int]] = set()
        self._newest_ms = 0
        self._last_frame = time.monotonic()
        self._until_ms: int | None = None
        self._stopping = asyncio.Event()
        self.statistics: Counter[str] = Counter()
        self.bad_frames: Counter[str] = Counter()

    # -- life --------------------------------------------------------------------------------------------------------

    async def run(self, until_ms: int | None = None) -> None:
        """Collect until `stop`, or until the exchange's clock has reached `until_ms` and nothing is missing."""
        self._until_ms = until_ms
        if self._since_ms is None:
            self._since_ms = await self._rest.server_time()
        self._find_lost_batches()
        async with self._control():
            while not self._stopping.is_set():
                connected = time.monotonic()
                try:
                    await self._connection()
                except (OSError, WebSocketException, TimeoutError, ExchangeRefused) as error:
                    self.statistics["reconnects"] += 1
                    print(f"connection lost: {type(error).__name__}: {error}", file=sys.stderr)
                if not self._stopping.is_set():
                    pause = self._backoff.pause_s(time.monotonic() - connected)
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._stopping.wait(), pause)
            self.flush()
            self._journal.checkpoint()

    def stop(self) -> None:
        """Ask for the end; `run` flushes and makes a checkpoint before it returns."""
        self._stopping.set()

    def flush(self) -> None:
        """Store what is pending and acknowledge it."""
        arrived = {name: trades for name, trades in self._pending.items() if trades}
        ledgers = {name: self._ledgers[name].ranges for name in self._instruments}
        self.statistics["new_batches"] += self._journal.append(arrived, ledgers)
        for name, trades in arrived.items():
            self._pending[name] = []
            self.statistics["trades"] += len(trades)
            if self._ack is not None:
                self._ack(name, max(trade.agg_trade_id for trade in trades))

    def status(self) -> dict[str, Any]:
        """Return statistics and each symbol's last id and holes."""
        symbols = {
            name: {"last_id": (ledger.next_id or 0) - 1, "holes": len(ledger.holes())}
            for name, ledger in self._ledgers.items()
        }
        quiet = round(time.monotonic() - self._last_frame, 1)
        return {
            **self.statistics,
            "bad_frames": dict(self.bad_frames),
            "quiet_s": quiet,
            "symbols": symbols,
            "absent": sorted(self._absent),
        }

    # -- one connection ----------------------------------------------------------------------------------------------

    async def _connection(self) -> None:
        """Connect, catch up over REST, and take frames until the connection or the collector ends."""
        async with connect(
            self._url, max_size=2**20, ping_interval=3, ping_timeout=3, close_timeout=1, open_timeout=10, max_queue=1024
        ) as socket:
            frames: asyncio.Queue[str | bytes | None] = asyncio.Queue()
            receiving = asyncio.create_task(self._receive(socket, frames))
            try:
                # The socket is open before REST is asked, so nothing can fall between the two.
                await self._catch_up()
                await self._take_frames(frames, receiving)
            finally:
                receiving.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await receiving

    async def _receive(self, socket: ClientConnection, frames: "asyncio.Queue[str | bytes | None]") -> None:
        """Put frames on the queue; when too many bytes wait, close the socket: repair is safer than memory."""
        try:
            async for frame in socket:
                self._last_frame = time.monotonic()
                self.statistics["queue_bytes"] += len(frame)
                frames.put_nowait(frame)
                if self.statistics["queue_bytes"] > QUEUE_BYTES:
                    self.statistics["queue_overflows"] += 1
                    return
        except WebSocketException:
            return
        finally:
            frames.put_nowait(None)

    async def _take_frames(self, frames: "asyncio.Queue[str | bytes | None]", receiving: "asyncio.Task[None]") -> None:
        self._last_frame = looked = time.monotonic()
        while not self._stopping.is_set():
            # A busy stream must not keep holes waiting, so this is a matter of time and not of silence.
            if time.monotonic() - looked >= IDLE_S:
                await self._look_around()
                looked = time.monotonic()
            try:
                frame = await asyncio.wait_for(frames.get(), IDLE_S)
            except TimeoutError:
                self._journal.sync(when_due=True)
                continue
            while frame is not None:
                self.statistics["queue_bytes"] -= len(frame)
                await self._take(frame)
                if frames.empty():
                    break
                frame = frames.get_nowait()
            self.flush()
            if frame is None:
                self.statistics["queue_bytes"] = 0
                raise ConnectionError("the exchange closed the stream" if receiving.done() else "the queue is full")

    async def _look_around(self) -> None:
        """Repair what is left to repair, see whether the end is reached, and notice a silent peer."""
        await self._repair_holes()
        if self._until_ms is not None and await self._rest.server_time() >= self._until_ms:
            await self._catch_up()
            holes = {(symbol, *hole) for symbol, ledger in self._ledgers.items() for hole in ledger.holes()}
            if holes <= self._absent:
                self._stopping.set()
        elif time.monotonic() - self._last_frame > SILENCE_S:
            raise TimeoutError(f"no frame for {SILENCE_S:.0f} s")

    # -- trades ------------------------------------------------------------------------------------------------------

    async def _take(self, frame: str | bytes) -> None:
        try:
            decoded = await self._decode(frame)
        except BadFrame as error:
            self.bad_frames[error.reason] += 1
            if self.bad_frames.total() <= QUARANTINED:
                raw = frame.encode() if isinstance(frame, str) else frame
                self._journal.quarantine(self.bad_frames.total(), str(error), raw[:4096])
            return
        if decoded is None:
            return
        symbol, trade = decoded
        ledger = self._ledgers[symbol]
        if ledger.next_id is None:
            await self._begin(symbol)
        arrival = ledger.arrival(trade)
        if arrival is Arrival.KNOWN:
            self.statistics["duplicates"] += 1
            return
        if arrival is Arrival.AFTER_HOLE:
            self.statistics["holes"] += 1
            with contextlib.suppress(ExchangeRefused):  # the hole stays in the ledger and is asked for again
                await self._repair(symbol, ledger.next_id or 0, trade.agg_trade_id - 1)
        self._hold(symbol, [trade])

    async def _decode(self, frame: str | bytes) -> tuple[str, AggTrade] | None:
        try:
            return decode(frame, self._instruments, self._newest_ms)
        except BadFrame as error:
            if error.reason != "future_time":
                raise
        # A thin market may be silent for longer than a trade may lie ahead: only the exchange's clock decides.
        with contextlib.suppress(ExchangeRefused):
            self._newest_ms = max(self._newest_ms, await self._rest.server_time())
        return decode(frame, self._instruments, self._newest_ms)

    def _hold(self, symbol: str, trades: Sequence[AggTrade]) -> None:
        ledger = self._ledgers[symbol]
        for trade in trades:
            if not ledger.holds(trade.agg_trade_id):
                ledger.take(trade)
                self._pending[symbol].append(trade)
                self._newest_ms = max(self._newest_ms, trade.time_ms)
        if sum(map(len, self._pending.values())) >= FLUSH_TRADES:
            self.flush()

    async def _begin(self, symbol: str) -> None:
        """Find the first trade at or after `since_ms`, so that the ledger knows where its proof begins."""
        since_ms = self._since_ms or 0
        page = await self._rest.agg_trades(self._instruments[symbol], start_ms=since_ms, limit=PAGE)
        if page:
            self._ledgers[symbol].open(page[0].agg_trade_id, since_ms)
            self._hold(symbol, page)

    async def _catch_up(self) -> None:
        """Fetch by id what the exchange had when this was called and we lack, and note until when that is all.

        What happens meanwhile arrives on the stream.
        """
        called_ms = await self._rest.server_time()
        for symbol, ledger in self._ledgers.items():
            if ledger.next_id is None:
                await self._begin(symbol)
            while ledger.next_id is not None:
                asked_ms = await self._rest.server_time()
                page = await self._rest.agg_trades(self._instruments[symbol], from_id=ledger.next_id, limit=PAGE)
                self.statistics["repaired"] += len(page)
                self._hold(symbol, page)
                if not page:
                    ledger.confirm(asked_ms)
                if not page or page[-1].time_ms > called_ms:
                    break
        await self._repair_holes()
        self.flush()

    async def _repair_holes(self) -> None:
        for symbol, ledger in self._ledgers.items():
            for first, last in ledger.holes():
                if (symbol, first, last) not in self._absent:
                    await self._repair(symbol, first, last)

    async def _repair(self, symbol: str, first: int, last: int) -> None:
        """Fetch the ids `first` … `last` page by page; a short page is not the end, an empty one is."""
        wanted = first
        while wanted <= last:
            page = await self._rest.agg_trades(
                self._instruments[symbol], from_id=wanted, limit=min(PAGE, last - wanted + 1)
            )
            if not page or page[0].agg_trade_id > last:
                # The exchange goes on behind these ids: it never issued them, or serves them no more.
                self._absent |= {(symbol, wanted, last)} if page else set()
                return
            self.statistics["repaired"] += len(page)
            self._hold(symbol, [trade for trade in page if trade.agg_trade_id <= last])
            wanted = page[-1].agg_trade_id + 1

    def _find_lost_batches(self) -> None:
        """Treat what the ledger claims and no batch holds as holes, which are repaired like any other."""
        for symbol, ledger in self._ledgers.items():
            for first, last in self._journal.verify(symbol):
                ledger.forget(first, last)

    # -- control -----------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _control(self) -> AsyncIterator[None]:
        """Answer `checkpoint`, `status` and `stop` on the journal's socket."""
        path = control_socket(self._journal.directory)
        path.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self._answer, str(path))
        path.chmod(0o600)
        try:
            yield
        finally:
            server.close()
            path.unlink(missing_ok=True)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        command = (await reader.readline()).strip()
        if command == b"checkpoint":
            self.flush()
            answer = f"ok {self._journal.checkpoint().name}"
        elif command == b"status":
            answer = json.dumps(self.status())
        elif command == b"stop":
            self.stop()
            answer = "ok"
        else:
            answer = "error unknown command"
        writer.write(answer.encode() + b"\n")
        await writer.drain()
        writer.close()


async def collect(options: argparse.Namespace) -> dict[str, Any]:
    """Run one collector as the command line says and return its status."""
    rest = BinanceRest(options.rest)
    try:
        with TradeJournal.write(options.journal, PATIENCE_S, options.durability) as journal:
            instruments = await rest.instruments(options.symbols.split(","), options.venue)
            ack = _ack_to(options.ack_fd) if options.ack_fd is not None else None
            collector = Collector(journal, rest, options.ws, instruments, options.since_ms, ack)
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, collector.stop)
            await collector.run(options.until_ms)
            return collector.status()
    finally:
        await rest.close()


def _ack_to(descriptor: int) -> Callable[[str, int], None]:
    def ack(symbol: str, last_id: int) -> None:
        os.write(descriptor, f"{symbol} {last_id}\n".encode())

    return ack


def main() -> int:
    """Run the collector until it is told to stop; the last line of output is its status as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--rest", required=True)
    parser.add_argument("--ws", required=True)
    parser.add_argument("--symbols", required=True)
    parser.add_argument("--venue", default="binance")
    parser.add_argument("--durability", choices=["second", "fsync"], default="second")
    parser.add_argument("--since-ms", type=int)
    parser.add_argument("--until-ms", type=int)
    parser.add_argument("--ack-fd", type=int)
    try:
        print(json.dumps(asyncio.run(collect(parser.parse_args()))), flush=True)
    except TradingError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
