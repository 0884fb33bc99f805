"""A network that fails: a TCP proxy on loopback whose connections can be cut, silenced, delayed and throttled.

It knows nothing of what it carries, so websocket and REST fail alike. Each fault is told from the test's thread and
holds for every connection that is open; `healthy` ends the lasting ones.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

PIECE: Final = 2**14
LOOK_S: Final = 0.02


class Proxy:
    """A proxy to one port of loopback, or to a socket's file; see `proxy`.

    Attributes:
        port: Where it listens.
        opened: Connections so far.
        swallowed: Answers that `swallow` kept from the clients.
    """

    def __init__(self, target: int | Path) -> None:
        self.port = self.opened = self.swallowed = 0
        self._target = target
        self._words, self._every, self._said = b"", 1, 0
        self._unanswered: set[int] = set()
        self._silent, self._bytes_a_second = False, 0.0
        self._delays_s: tuple[float, ...] = (0.0,)
        self._left: int | None = None
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter]] = set()
        self._loop = asyncio.new_event_loop()

    # -- faults ------------------------------------------------------------------------------------------------------

    def healthy(self) -> None:
        """Carry everything again; what was silenced goes on where it stopped."""
        self._silent, self._delays_s, self._bytes_a_second, self._left = False, (0.0,), 0.0, None
        self._words = b""

    def cut(self) -> None:
        """End every connection as a peer does that closes its sockets."""
        self._ending(lambda writer: writer.close())

    def reset(self) -> None:
        """End every connection with a reset, which throws away what is on its way."""
        self._ending(_reset)

    def half_open(self) -> None:
        """Carry nothing more and close nothing; new connections are accepted and as silent."""
        self._silent = True

    def delay(self, *seconds: float) -> None:
        """Carry everything later; of several delays each connection in turn has its own."""
        self._delays_s = seconds

    def throttle(self, bytes_a_second: float) -> None:
        """Carry at most so much on each connection and in each direction."""
        self._bytes_a_second = bytes_a_second

    def truncate(self, after_bytes: int) -> None:
        """Carry so many more bytes to the clients, and then end the connection that would carry the next one."""
        self._left = after_bytes

    def swallow(self, words: bytes, every: int = 1) -> None:
        """Let these words through to the target, and end the connection when the answer comes; of several, some."""
        self._words, self._every = words, every

    # -- carrying ----------------------------------------------------------------------------------------------------

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carry one connection until either side ends it."""
        number, self.opened = self.opened, self.opened + 1
        try:
            if isinstance(self._target, Path):
                from_target, to_target = await asyncio.open_unix_connection(self._target)
            else:
                from_target, to_target = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            _reset(writer)
            return
        pair = writer, to_target
        self._pairs.add(pair)
        ways = [self._carry(number, reader, to_target), self._carry(number, from_target, writer, to_client=True)]
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.gather(*ways)
        finally:
            self._pairs.discard(pair)
            for end in pair:
                end.close()

    async def _carry(
        self, number: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, to_client: bool = False
    ) -> None:
        on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(64)
        reading = asyncio.create_task(self._read(number, reader, on_the_way))
        with contextlib.suppress(OSError):
            while True:
                due_s, piece = await on_the_way.get()
                await asyncio.sleep(due_s - self._loop.time())
                while self._silent and not writer.is_closing():
                    await asyncio.sleep(LOOK_S)
                if to_client and number in self._unanswered:
                    self._unanswered.discard(number)
                    self.swallowed += 1
                    _reset(writer)
                    break
                if not to_client and self._words and self._words in piece:
                    self._said += 1
                    if self._said % self._every == 0:
                        self._unanswered.add(number)
                if to_client and self._left is not None:
                    piece, self._left = piece[: self._left], max(0, self._left - len(piece))
                writer.write(piece)
                await writer.drain()
                if not piece or (to_client and self._left == 0):
                    break
                if self._bytes_a_second:
                    await asyncio.sleep(len(piece) / self._bytes_a_second)
        if to_client and self._left == 0:
            self._left = None
        reading.cancel()
        writer.close()

    async def _read(self, number: int, reader: asyncio.StreamReader, to: "asyncio.Queue[tuple[float, bytes]]") -> None:
        piece = b" "
        while piece:
            try:
                piece = await reader.read(PIECE)
            except OSError:
                piece = b""
            await to.put((self._loop.time() + self._delays_s[number % len(self._delays_s)], piece))

    def _ending(self, end: Callable[[asyncio.StreamWriter], None]) -> None:
        def all_of_them() -> None:
            for pair in list(self._pairs):
                for writer in pair:
                    end(writer)

        self._loop.call_soon_threadsafe(all_of_them)

    # -- its thread --------------------------------------------------------------------------------------------------

    def serve(self, listening: threading.Event) -> None:
        """Run until `close`."""
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self.accept, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        listening.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    def close(self) -> None:
        """Stop serving."""
        self.reset()
        self._loop.call_soon_threadsafe(self._loop.stop)


def _reset(writer: asyncio.StreamWriter) -> None:
    opened = writer.get_extra_info("socket")
    if opened is not None and not writer.is_closing():
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


@contextmanager
def proxy(target: int | Path) -> Iterator[Proxy]:
    """Carry what comes in on a port of its own to `target`, on loopback or a socket's file, until the end of the block."""
    between, listening = Proxy(target), threading.Event()
    thread = threading.Thread(target=between.serve, args=(listening,), daemon=True)
    thread.start()
    assert listening.wait(10)
    try:
        yield between
    finally:
        between.close()
        thread.join(10)
