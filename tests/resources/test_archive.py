"""An archive's file counts only whole and as its checksum says, wherever it comes from."""

import gzip
import io
import os
import signal
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from resources.archive import Archive, ArchiveUnreachable, BadZip, NotPublished, WrongChecksum, unpacked
from resources.simulator.archive import MarketArchive, zipped
from resources.simulator.recording import Recording
from resources.simulator.synthetic import SyntheticMarket
from tests.archives import publish, publish_bytes, serving
from tests.recorded import recorded
from trading.errors import TradingError
from trading.market.archive import ArchiveFile, UnknownColumns
from trading.market.instrument import Instrument
from trading.market.timeframe import DAY_MS, Timeframe

MARKET = SyntheticMarket(7, ["BTCUSDT"])
INSTRUMENT = MARKET.instrument("BTCUSDT")
DAY = "2025-03-01"
FILE = ArchiveFile("BTCUSDT", DAY)
TRADES = MARKET.trades("BTCUSDT", FILE.span_ms()[0], FILE.span_ms()[0] + 3_600_000)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    publish(tmp_path / "published", FILE, TRADES, INSTRUMENT)
    return tmp_path / "published"


def test_a_folder_and_a_url_give_the_same_trades(root: Path, tmp_path: Path) -> None:
    here = Archive(str(root), tmp_path / "cache").day(INSTRUMENT, DAY)
    with serving(root) as server:
        there = Archive(server.url + "/", tmp_path / "cache")
        fetched = there.day(INSTRUMENT, DAY)
        there.close()
    assert here.trades.equals(TRADES) and fetched.trades.equals(TRADES)
    assert (here.name, here.sha256) == (fetched.name, fetched.sha256)


def test_a_file_is_fetched_once_while_its_checksum_stays(root: Path, tmp_path: Path) -> None:
    with serving(root) as server:
        for _ in range(2):
            archive = Archive(server.url, tmp_path / "cache")
            archive.day(INSTRUMENT, DAY)
            archive.close()
        assert [name for name, _ in server.asked].count(f"{FILE.name}.zip") == 1
        publish(root, FILE, TRADES.head(100), INSTRUMENT)
        assert len(archive.day(INSTRUMENT, DAY).trades) == 100
        archive.close()


def test_a_broken_connection_is_resumed_where_it_broke(root: Path, tmp_path: Path) -> None:
    size = (root / FILE.path).stat().st_size
    with serving(root) as server:
        archive = Archive(server.url, tmp_path / "cache")
        server.break_off = [1000, 2000]
        assert archive.day(INSTRUMENT, DAY).trades.equals(TRADES)
        archive.close()
    ranges = [wanted for name, wanted in server.asked if name.endswith(".zip")]
    assert size > 3000
    assert ranges == ["", "bytes=1000-", "bytes=3000-"]


def test_a_server_in_trouble_is_asked_again_and_one_that_stays_so_is_named(root: Path, tmp_path: Path) -> None:
    with serving(root) as server:
        archive = Archive(server.url, tmp_path / "cache")
        server.refuse = [503, 502]
        assert archive.day(INSTRUMENT, DAY).trades.equals(TRADES)
        server.refuse = [503] * 9
        with pytest.raises(ArchiveUnreachable, match="HTTP 503 after 5 tries"):
            archive.day(INSTRUMENT, DAY)
        archive.close()
    with pytest.raises(ArchiveUnreachable, match="is no folder"):
        Archive(str(tmp_path / "nowhere"), tmp_path).day(INSTRUMENT, DAY)


def test_what_is_not_there_yet_is_not_published(root: Path, tmp_path: Path) -> None:
    with serving(root) as server:
        for archive in (Archive(server.url, tmp_path), Archive(str(root), tmp_path), Archive("", tmp_path)):
            with pytest.raises(NotPublished):  # row 41 of the bad inputs
                archive.day(INSTRUMENT, "2025-03-02")
            archive.close()


def test_a_wrong_checksum_is_fetched_thrice_and_nothing_is_kept(root: Path, tmp_path: Path) -> None:
    place = root / FILE.path
    place.write_bytes(place.read_bytes()[:-1] + b"x")  # row 42 of the bad inputs
    with serving(root) as server:
        archive = Archive(server.url, tmp_path / "cache")
        with pytest.raises(WrongChecksum, match="is not the file whose checksum"):
            archive.day(INSTRUMENT, DAY)
        archive.close()
    assert [name for name, _ in server.asked].count(place.name) == 3
    assert not [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]
    with pytest.raises(WrongChecksum, match="is not the file whose checksum"):
        Archive(str(root), tmp_path).day(INSTRUMENT, DAY)


@pytest.mark.parametrize("text", ["", "abc  x.zip", "0" * 64 + "  ETHUSDT-aggTrades-2025-03-01.zip", "<html>"])
def test_a_checksum_of_nothing_or_of_another_file_is_refused(root: Path, tmp_path: Path, text: str) -> None:
    (root / f"{FILE.path}.CHECKSUM").write_text(text, encoding="utf-8")
    with pytest.raises(WrongChecksum, match="has no checksum"):
        Archive(str(root), tmp_path).day(INSTRUMENT, DAY)
    (root / f"{FILE.path}.CHECKSUM").unlink()
    with pytest.raises(WrongChecksum, match="cannot be verified"):
        Archive(str(root), tmp_path).day(INSTRUMENT, DAY)


def packed(*members: tuple[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return sink.getvalue()


def lying(content: bytes) -> bytes:
    """Return a zip that declares one byte less than it holds."""
    whole, size = packed((f"{FILE.name}.csv", content)), len(content).to_bytes(4, "little")
    assert whole.count(size) == 2
    return whole.replace(size, (len(content) - 1).to_bytes(4, "little"))


ROW = b"1,2.5,1,1,1,1740787200000000,True,True\n"
GOOD = zipped(ROW * 9, f"{FILE.name}.csv")

# Row 44 of the bad inputs, and what else can be wrong with a zip whose checksum is right.
ZIPS = {
    "two members": (packed((f"{FILE.name}.csv", ROW), ("readme.txt", b"")), "holds 2 files, not one"),
    "no member": (packed(), "holds 0 files"),
    "a path that leads out": (packed((f"../{FILE.name}.csv", ROW)), r"holds '\.\./BTCUSDT"),
    "another symbol": (packed(("ETHUSDT-aggTrades-2025-03-01.csv", ROW)), "holds 'ETHUSDT-aggTrades"),
    "another day": (packed(("BTCUSDT-aggTrades-2025-03-02.csv", ROW)), "2025-03-02.csv', not"),
    "a bomb": (packed((f"{FILE.name}.csv", b"0" * 10**6)), "would unpack .* bytes to 1000000"),
    "a declared size that lies": (lying(ROW * 9), "is damaged: Bad CRC-32"),
    "an end cut off": (GOOD[:-30], "is damaged"),
    "half": (GOOD[: len(GOOD) // 2], "is damaged"),
    "flipped bits": (GOOD[:80] + bytes([GOOD[80] ^ 255]) + GOOD[81:], "is damaged"),
    "nothing": (b"", "is damaged"),
    "a page": (b"<html></html>", "is damaged: File is not a zip file"),
}


@pytest.mark.parametrize(("content", "said"), ZIPS.values(), ids=ZIPS.keys())
def test_a_bad_zip_is_refused_by_what_is_wrong(tmp_path: Path, content: bytes, said: str) -> None:
    publish_bytes(tmp_path, FILE, content)
    with pytest.raises(BadZip, match=said) as refused:
        Archive(str(tmp_path), tmp_path).day(INSTRUMENT, DAY)
    assert f"{FILE.name}.zip" in refused.value.message


def test_a_good_zip_with_bad_rows_is_refused_whole(tmp_path: Path) -> None:
    publish_bytes(tmp_path, FILE, zipped(b"1,2,3\n", f"{FILE.name}.csv"))
    with pytest.raises(UnknownColumns):
        Archive(str(tmp_path), tmp_path).day(INSTRUMENT, DAY)


def test_a_day_that_has_no_file_is_taken_from_its_month(tmp_path: Path) -> None:
    month, start_ms = ArchiveFile("BTCUSDT", "2025-03"), FILE.span_ms()[0]
    hours = [MARKET.trades("BTCUSDT", start_ms + n * DAY_MS, start_ms + n * DAY_MS + 60_000) for n in range(3)]
    publish(tmp_path, month, pl.concat(hours), INSTRUMENT)
    archive = Archive(str(tmp_path), tmp_path)
    for n, day in enumerate((DAY, "2025-03-02", "2025-03-03", "2025-03-04")):
        found = archive.day(INSTRUMENT, day)
        assert found.name == month.name
        assert found.trades.equals(hours[n] if n < 3 else hours[0].clear())


KILLED = textwrap.dedent("""
    import sys
    from pathlib import Path
    from resources.archive import Archive
    from resources.simulator.synthetic import SyntheticMarket
    archive = Archive(sys.argv[1], Path(sys.argv[2]))
    print("asking", flush=True)
    archive.day(SyntheticMarket(7, ["BTCUSDT"]).instrument("BTCUSDT"), sys.argv[3])
""")


def test_a_process_killed_while_fetching_leaves_no_file_that_counts(root: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with serving(root) as server:
        server.break_off = [1500, 0, 0, 0, 0, 0]  # then the connection breaks without a byte until the kill
        command = [sys.executable, "-c", KILLED, server.url, str(cache), DAY]
        with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
            while not any(file.stat().st_size for file in cache.rglob("*.part")):
                assert process.poll() is None
            os.kill(process.pid, signal.SIGKILL)
        server.break_off, server.asked = [], []
        (part,) = [file for file in cache.rglob("*") if file.is_file()]
        held = part.stat().st_size
        assert part.suffix == ".part" and 0 < held <= 1500
        archive = Archive(server.url, cache)
        assert archive.day(INSTRUMENT, DAY).trades.equals(TRADES)
        archive.close()
    assert (f"{FILE.name}.zip", f"bytes={held}-") in server.asked


def of_market(market: SyntheticMarket | Recording, now_ms: int) -> Callable[[ArchiveFile], bytes | None]:
    return MarketArchive(market, lambda: now_ms).file


@pytest.mark.parametrize("day", ["2024-12-31", "2025-01-01"])
def test_the_simulated_exchange_archives_its_past_days_byte_for_byte_the_same(day: str) -> None:
    file = ArchiveFile("BTCUSDT", day)
    _, end_ms = file.span_ms()
    assert of_market(MARKET, end_ms - 1)(file) is None
    content = of_market(MARKET, end_ms)(file)
    assert content is not None and content == of_market(SyntheticMarket(7, ["BTCUSDT"]), end_ms + DAY_MS)(file)
    row = unpacked(content, file).split(b"\n")[0].split(b",")
    assert len(row[5]) == (13 if day < "2025" else 16)
    assert of_market(MARKET, end_ms)(ArchiveFile("NOPEUSDT", day)) is None


def test_the_simulated_archive_gives_the_trades_and_bars_of_its_market(tmp_path: Path) -> None:
    start_ms, end_ms = FILE.span_ms()
    served = of_market(MARKET, end_ms)
    bars_file = ArchiveFile("BTCUSDT", DAY, Timeframe.M15)
    for file in (FILE, bars_file):
        publish_bytes(tmp_path, file, served(file) or b"")
    archive = Archive(str(tmp_path), tmp_path)
    assert archive.day(INSTRUMENT, DAY).trades.equals(MARKET.trades("BTCUSDT", start_ms, end_ms))
    bars, _ = archive.klines(bars_file)
    assert bars["open_time"].to_list() == list(range(start_ms, end_ms, Timeframe.M15.ms))


def test_a_recorded_day_is_archived_as_the_exchange_did(tmp_path: Path) -> None:
    (tmp_path / "aggTrades").mkdir()
    name = "XRPETH_spot_20191011_20191013.rest.jsonl.gz"
    (tmp_path / "aggTrades" / name).write_bytes(recorded(f"aggtrades/{name}").read_bytes())
    file = ArchiveFile("XRPETH", "2019-10-12")
    content = of_market(Recording(tmp_path), 2**45)(file)
    published = recorded("aggtrades/XRPETH-aggTrades-2019-10-12.csv.gz").read_bytes()
    assert content is not None and unpacked(content, file) == gzip.decompress(published)


def test_prices_of_another_market_are_refused(root: Path, tmp_path: Path) -> None:
    coarse = Instrument("sim", "BTCUSDT", "BTC", "USDT", 0, 5)
    with pytest.raises(TradingError, match="no multiple of 10"):
        Archive(str(root), tmp_path).day(coarse, DAY)
