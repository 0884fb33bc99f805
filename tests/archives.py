"""Archives made for tests: folders in the exchange's layout, and a server that can break off."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
from aiohttp import web

from resources.simulator.archive import zipped
from resources.timescale.loop import wait
from trading.market.archive import ArchiveFile, TradeForm, archive_of_trades
from trading.market.instrument import Instrument


def publish_bytes(root: Path, file: ArchiveFile, content: bytes) -> str:
    """Put a zip and its checksum into an archive, over what is there; return the checksum."""
    place = root / file.path
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(content)
    sha256 = hashlib.sha256(content).hexdigest()
    place.with_name(f"{place.name}.CHECKSUM").write_text(f"{sha256}  {place.name}\n", encoding="utf-8")
    return sha256


def publish(root: Path, file: ArchiveFile, trades: pl.DataFrame, instrument: Instrument) -> str:
    """Put the trades of a period into an archive, over what is there; return the checksum."""
    content = archive_of_trades(trades, instrument, TradeForm.of_spot(file.period))
    return publish_bytes(root, file, zipped(content, f"{file.name}.csv"))


class Server:
    """Serves a folder over HTTP.

    Attributes:
        url: Root of what is served.
        asked: Path and `Range` of every request.
        break_off: How many bytes of each zip come before the connection breaks, one entry a request.
        refuse: Statuses with which the next requests are answered.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.url = root, ""
        self.asked: list[tuple[str, str]] = []
        self.break_off: list[int] = []
        self.refuse: list[int] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer one request."""
        wanted = request.headers.get("Range", "")
        self.asked.append((request.path.rsplit("/", 1)[1], wanted))
        if self.refuse:
            return web.Response(status=self.refuse.pop(0))
        file = self.root / request.path.removeprefix("/")
        if not file.is_file():
            return web.Response(status=404)
        content = file.read_bytes()
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted else 0
        if start >= len(content):
            return web.Response(status=416)
        response = web.StreamResponse(status=206 if wanted else 200)
        response.content_length = len(content) - start
        await response.prepare(request)
        if file.suffix == ".zip" and self.break_off:
            await response.write(content[start : start + self.break_off.pop(0)])
            assert request.transport is not None
            request.transport.close()
            return response
        await response.write(content[start:])
        return response


@contextmanager
def serving(root: Path) -> Iterator[Server]:
    """Yield a running server of a folder."""
    server = Server(root)
    app = web.Application()
    app.router.add_get("/{path:.*}", server.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)

    async def start() -> int:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return int(runner.addresses[0][1])

    server.url = f"http://127.0.0.1:{wait(start())}"
    try:
        yield server
    finally:
        wait(runner.cleanup())
