"""The exchange's archive: past days and months as zip files with a checksum beside each, in a folder or behind a URL.

A file counts only whole: it is fetched aside, resumed where a connection broke, checked against its published SHA-256
and then read from the very bytes that were checked. The exchange issues files anew, so the checksum is asked for each
time and is the version of what was read; a file in the cache is used while its checksum is still the published one. An
archive is another host than the exchange's REST interface and counts no weight: a home's budget is not spent here.
"""

import asyncio
import fcntl
import hashlib
import io
import os
import random
import re
import zipfile
import zlib
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote

import aiohttp
import polars as pl

from resources.timescale.loop import wait
from trading.errors import TradingError
from trading.market.archive import ArchiveFile, BadArchive, klines_of_archive, trades_of_archive
from trading.market.instrument import Instrument

FETCHES: Final = 3
"""A file whose checksum is wrong is fetched again twice: a file that is being replaced heals so, a bad one does not."""

TRIES: Final = 5
SILENCE_S: Final = 30
PIECE_BYTES: Final = 2**18
LARGEST_ZIP: Final = 2**30
LARGEST_CSV: Final = 2**31
LARGEST_RATIO: Final = 100
"""CSV of trades shrinks to a fifth; what shrinks further than this was made to fill a memory."""


class NotPublished(TradingError):
    """The archive has no such file (yet): a day appears on the day after, a month in the week after."""


class ArchiveUnreachable(TradingError):
    """The archive does not answer, or is no folder."""


class WrongChecksum(BadArchive):
    """A file is not the one that its checksum was published for, or has none."""


class BadZip(BadArchive):
    """A file is no zip with the one member that it should have."""


class ArchivedTrades(NamedTuple):
    """Trades of one day with the name and SHA-256 of the file that they are from."""

    trades: pl.DataFrame
    name: str
    sha256: str


class Archive:
    """One archive.

    Args:
        root: A folder, or an http(s) URL, with `data/spot/…` below it; empty: an archive without files.
        cache: Folder for what is fetched from a URL.
    """

    def __init__(self, root: str, cache: Path) -> None:
        self.root = root.rstrip("/")
        self._cache = cache
        self._remote = root.startswith(("http://", "https://"))
        self._session: aiohttp.ClientSession | None = None
        self._month: tuple[ArchiveFile, ArchivedTrades] | None = None

    def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            wait(self._session.close())
            self._session = None

    def day(self, instrument: Instrument, day: str) -> ArchivedTrades:
        """Return the trades of one UTC day `YYYY-MM-DD`, from its own file or else from its month's.

        Raises:
            NotPublished: The archive has neither.
            ArchiveUnreachable: It does not answer.
            BadArchive: A file is not what it should be; see `trading.market.archive` for the forms.
        """
        try:
            return self.trades(instrument, ArchiveFile(instrument.name, day))
        except NotPublished:
            month = ArchiveFile(instrument.name, day[:7])
            if self._month is None or self._month[0] != month or self._month[1].sha256 != self.checksum(month):
                self._month = month, self.trades(instrument, month)
            low, high = ArchiveFile(instrument.name, day).span_ms()
            trades, name, sha256 = self._month[1]
            return ArchivedTrades(trades.filter(pl.col("time_ms").is_between(low, high, "left")), name, sha256)

    def trades(self, instrument: Instrument, file: ArchiveFile) -> ArchivedTrades:
        """Return the trades of one file; raises like `day`."""
        content, sha256 = self.read(file)
        return ArchivedTrades(trades_of_archive(content, instrument, file), file.name, sha256)

    def klines(self, file: ArchiveFile) -> tuple[pl.DataFrame, str]:
        """Return the klines of one file as `CANDLE_SCHEMA` and its SHA-256; raises like `day`."""
        content, sha256 = self.read(file)
        return klines_of_archive(content, file), sha256

    def read(self, file: ArchiveFile) -> tuple[bytes, str]:
        """Return the verified CSV of one file and the SHA-256 of its zip; raises like `day`."""
        for _ in range(FETCHES):
            published = self.checksum(file)
            content = self._fetched(file, published)
            if hashlib.sha256(content).hexdigest() == published:
                return unpacked(content, file), published
            if not self._remote:
                break
            self._place(file, published).unlink(missing_ok=True)
        raise WrongChecksum(
            f"{file.name}.zip is not the file whose checksum {published[:12]}… is published", "try again later"
        )

    def checksum(self, file: ArchiveFile) -> str:
        """Return the published SHA-256 of a file's zip; raises like `day`."""
        path = file.path + ".CHECKSUM"
        text = (wait(self._get(path)) if self._remote else self._local(path)).decode(errors="replace").strip()
        found = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](\S+)", text)
        if found is None or found[2] != f"{file.name}.zip":
            raise WrongChecksum(f"{file.name}.zip has no checksum but {text[:60]!r} beside it", "try again later")
        return found[1].lower()

    # -- bytes -------------------------------------------------------------------------------------------------------

    def _fetched(self, file: ArchiveFile, sha256: str) -> bytes:
        if not self._remote:
            return self._local(file.path)
        place = self._place(file, sha256)
        place.parent.mkdir(parents=True, exist_ok=True)
        part = place.with_suffix(".part")
        with part.open("ab") as sink:
            fcntl.flock(sink, fcntl.LOCK_EX)  # another process may fetch the same file
            if not place.exists():
                wait(self._download(file.path, part))
                with part.open("rb") as written:
                    os.fsync(written.fileno())
                part.replace(place)
            else:
                part.unlink(missing_ok=True)
        return place.read_bytes()

    def _place(self, file: ArchiveFile, sha256: str) -> Path:
        """Return where a version is kept: a part of one version is never resumed with bytes of another."""
        return (self._cache / file.path).with_name(f"{file.name}.{sha256[:16]}.zip")

    def _local(self, path: str) -> bytes:
        if not self.root:
            raise NotPublished("no archive is set", "set TRADING_ARCHIVE_URL")
        root = Path(self.root).expanduser()
        if not root.is_dir():
            raise ArchiveUnreachable(f"{root} is no folder", "set TRADING_ARCHIVE_URL to a folder or a URL")
        wanted = root / path
        if wanted.is_file():
            return wanted.read_bytes()
        if path.endswith(".CHECKSUM") and wanted.with_suffix("").is_file():
            raise WrongChecksum(f"{path} is absent, so that its zip cannot be verified", "get it from the archive")
        raise NotPublished(f"{path} is not in {root}", "a day appears in the archive on the day after")

    async def _get(self, path: str) -> bytes:
        sink = io.BytesIO()
        await self._retried(path, sink)
        return sink.getvalue()

    async def _download(self, path: str, part: Path) -> None:
        with part.open("r+b") as sink:
            sink.seek(0, os.SEEK_END)
            await self._retried(path, sink)

    async def _retried(self, path: str, sink: io.BufferedRandom | io.BytesIO) -> None:
        """Append to `sink` what it lacks of a file."""
        problem = ""
        for attempt in range(TRIES):
            try:
                problem = await self._append(path, sink)
            except (aiohttp.ClientError, TimeoutError) as error:
                problem = f"{type(error).__name__}: {error}"
            if not problem:
                return
            await asyncio.sleep(random.uniform(0, min(5.0, 0.1 * 2**attempt)))  # noqa: S311
        raise ArchiveUnreachable(
            f"{self.root} refuses {path}: {problem} after {TRIES} tries", "check TRADING_ARCHIVE_URL"
        )

    async def _append(self, path: str, sink: io.BufferedRandom | io.BytesIO) -> str:
        """Ask once for the rest of a file; return what went wrong, or nothing."""
        if self._session is None:
            timeout = aiohttp.ClientTimeout(total=None, sock_connect=SILENCE_S, sock_read=SILENCE_S)
            self._session = aiohttp.ClientSession(timeout=timeout, auto_decompress=False)
        held = sink.tell()
        headers = {"Range": f"bytes={held}-"} if held else {}
        async with self._session.get(f"{self.root}/{quote(path)}", headers=headers) as answer:
            if answer.status == 404:
                raise NotPublished(f"{path} is not in {self.root}", "a day appears in the archive on the day after")
            if answer.status == 416 or (answer.status == 200 and held):
                sink.seek(0)
                sink.truncate()
            if answer.status not in (200, 206):
                return f"HTTP {answer.status}"
            async for piece in answer.content.iter_chunked(PIECE_BYTES):
                sink.write(piece)
                if sink.tell() > LARGEST_ZIP:
                    raise BadZip(f"{path} is larger than {LARGEST_ZIP} bytes", "is it an archive of this exchange?")
            sink.flush()
        return ""


def unpacked(content: bytes, file: ArchiveFile) -> bytes:
    """Return the one member of a zip; raises `BadZip` for anything else than a whole zip with just that member."""
    name, bad = f"{file.name}.zip", "get the file again"
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as packed:
            members = packed.infolist()
            if len(members) != 1:
                raise BadZip(f"{name} holds {len(members)} files, not one", bad)
            (member,) = members
            if member.filename != f"{file.name}.csv":
                raise BadZip(f"{name} holds {member.filename[:80]!r}, not {file.name}.csv", bad)
            if member.file_size > min(LARGEST_CSV, LARGEST_RATIO * max(member.compress_size, 1)):
                raise BadZip(f"{name} would unpack {len(content)} bytes to {member.file_size}", bad)
            return packed.read(member)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise BadZip(f"{name} is damaged: {error}", bad) from None
