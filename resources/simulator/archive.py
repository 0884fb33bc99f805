"""The simulated market's past days and months as its archive serves them: a zip and its checksum, made when asked for.

A file is a function of the market and its name, byte for byte. What has not ended by the exchange's clock is not there.
"""

import asyncio
import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

import polars as pl
from aiohttp import web

from resources.simulator.wire import rest_klines
from trading.market.archive import ArchiveFile, TradeForm, archive_of_trades
from trading.market.instrument import Instrument
from trading.market.timeframe import Timeframe


class TradedMarket(Protocol):
    """What an archive is made of."""

    symbols: tuple[str, ...]

    def instrument(self, symbol: str) -> Instrument: ...  # noqa: D102
    def intervals(self, symbol: str) -> tuple[Timeframe, ...]: ...  # noqa: D102
    def trades(self, symbol: str, lo_ms: int, hi_ms: int) -> pl.DataFrame: ...  # noqa: D102
    def klines(self, symbol: str, timeframe: Timeframe, lo_ms: int, hi_ms: int) -> pl.DataFrame: ...  # noqa: D102


class MarketArchive:
    """The archive of one market.

    Args:
        market: What was traded.
        now_ms: The exchange's clock.
    """

    def __init__(self, market: TradedMarket, now_ms: Callable[[], int]) -> None:
        self._market, self._now_ms = market, now_ms
        self._zipped = lru_cache(8)(self._zip)

    async def answer(self, request: web.Request) -> web.Response:
        """Answer a request for a path of the archive's layout."""
        path = request.path.removeprefix("/")
        file = ArchiveFile.of_path(path.removesuffix(".CHECKSUM"))
        content = None if file is None else await asyncio.to_thread(self.file, file)
        if file is None or content is None:
            return web.Response(status=404, text="NoSuchKey")
        if path.endswith(".CHECKSUM"):
            return web.Response(text=f"{hashlib.sha256(content).hexdigest()}  {file.name}.zip\n")
        return web.Response(body=content, content_type="application/zip")

    def file(self, file: ArchiveFile) -> bytes | None:
        """Return the zip of a file, or None where there is none (yet)."""
        if file.symbol not in self._market.symbols or file.span_ms()[1] > self._now_ms():
            return None
        if file.timeframe is not None and file.timeframe not in self._market.intervals(file.symbol):
            return None
        return self._zipped(file)

    def _zip(self, file: ArchiveFile) -> bytes | None:
        instrument, span = self._market.instrument(file.symbol), file.span_ms()
        if file.timeframe is None:
            trades = self._market.trades(file.symbol, *span)
            content = archive_of_trades(trades, instrument, TradeForm.of_spot(file.period))
        else:
            bars = self._market.klines(file.symbol, file.timeframe, *span)
            rows = json.loads(rest_klines(bars, instrument, file.timeframe)) if len(bars) else []
            content = "".join(",".join(map(str, row)) + "\n" for row in rows).encode()
        return zipped(content, f"{file.name}.csv") if content else None


def zipped(content: bytes, name: str) -> bytes:
    """Return a zip with one member, the same bytes for the same content."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        member = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
        archive.writestr(member, content, zipfile.ZIP_DEFLATED, compresslevel=6)
    return packed.getvalue()
