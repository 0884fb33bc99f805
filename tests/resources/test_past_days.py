"""Days that no collector saw: the archive completes them, proves them, and never replaces what came off the stream."""

import os
import signal
import subprocess
import sys
import textwrap
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import polars as pl
import psycopg2
import pytest

from resources.gap_ledger import gaps
from resources.home import Home
from resources.journal import TradeJournal
from resources.past_days import StoredTrades, store_trades
from resources.settings import load_settings
from resources.simulator.archive import zipped
from resources.stores import Stores
from resources.timescale.archive_versions import ArchiveVersion, archive_versions
from resources.timescale.store import MarketStore
from resources.timescale.tables import TRADE
from tests.archives import publish, publish_bytes
from trading.market.archive import ArchiveFile, UnknownColumns
from trading.market.instrument import Instrument
from trading.market.timeframe import DAY_MS, HOUR_MS
from trading.market.trade import AggTrade, trades_frame
from trading.stream.contiguity import IdRange

START_MS = 1_700_006_400_000  # 2023-11-15
DAYS = ("2023-11-15", "2023-11-16", "2023-11-17")
TRADES = trades_frame([AggTrade(n, 100 + n, 1, n, n, START_MS + n * HOUR_MS + HOUR_MS // 2, False) for n in range(72)])
"""One trade an hour on three days, at half past."""


def time_of(number: int) -> int:
    return START_MS + number * HOUR_MS + HOUR_MS // 2


class World:
    """A market database, a journal and an archive of one symbol."""

    def __init__(self, market: MarketStore, folder: Path, name: str, stack: ExitStack) -> None:
        self.instrument = Instrument("sim", name, name[:-4], "USDT", 2, 5)
        self.market, self.root = market, folder / "archive"
        self.root.mkdir()
        market.register([self.instrument])
        self.journal = stack.enter_context(TradeJournal.write(folder / "journal"))
        environment = {"TRADING_ARCHIVE_URL": str(self.root), "TRADING_SYMBOLS": name}
        self.stores = Stores(Home(folder), load_settings(folder, environment), stack)
        self.stores.__dict__["market"] = market  # the session's database instead of one of this home

    def publish(self, day: int, trades: pl.DataFrame) -> str:
        lo_ms = START_MS + day * DAY_MS
        inside = trades.filter(pl.col("time_ms").is_between(lo_ms, lo_ms + DAY_MS, "left"))
        return publish(self.root, ArchiveFile(self.instrument.name, DAYS[day]), inside, self.instrument)

    def collect(self, trades: pl.DataFrame, from_ms: int, until_ms: int) -> None:
        """Have the journal hold trades, and claim the time from `from_ms` to `until_ms`."""
        rows = [AggTrade(*row) for row in trades.rows()]
        claim = IdRange(rows[0].agg_trade_id, rows[-1].agg_trade_id, from_ms, until_ms)
        self.journal.append({self.instrument.name: rows}, {self.instrument.name: [claim]})

    def store(self, first: int, days: int = 1) -> StoredTrades:
        lo_ms = START_MS + first * DAY_MS
        return store_trades(self.stores, self.journal, self.instrument.name, lo_ms, lo_ms + days * DAY_MS)

    def stored(self) -> pl.DataFrame:
        return self.market.read(TRADE, self.instrument.name, START_MS, START_MS + 3 * DAY_MS)

    def versions(self, day: int) -> list[ArchiveVersion]:
        return archive_versions(self.market, self.instrument.name, DAYS[day])

    @property
    def coverage(self) -> list[IdRange]:
        return self.market.trade_coverage(self.instrument.name)


@pytest.fixture
def world(market: MarketStore, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    with ExitStack() as stack:
        yield World(market, tmp_path, f"A{zlib.crc32(request.node.name.encode()) % 10**6}USDT", stack)


def changed(number: int, **values: int) -> pl.DataFrame:
    """Return all trades with one of them otherwise."""
    here = pl.col("agg_trade_id") == number
    return TRADES.with_columns(pl.when(here).then(v).otherwise(pl.col(k)).alias(k) for k, v in values.items())


def test_a_day_of_the_archive_proves_what_lies_between_its_trades(world: World) -> None:
    world.publish(1, TRADES)
    stored = world.store(0, days=3)
    assert stored.written.inserted == 24
    assert world.stored().equals(TRADES[24:48])
    assert world.coverage == [IdRange(25, 46, time_of(24) + 1, time_of(47))]
    (version,) = world.versions(1)
    assert (version.version, version.rows, version.added, version.taken) == (1, 24, ((24, 47),), ((24, 47),))
    (gap,) = gaps(world.market, [world.instrument.name])
    assert (gap["first_id"], gap["last_id"], gap["state"], gap["repaired_from"]) == (24, 47, "repaired", "archive")


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_days_that_follow_each_other_prove_midnight(world: World, order: tuple[int, ...]) -> None:
    for day in order:
        world.publish(day, TRADES)
        world.store(day)
    world.store(0, days=3)
    assert world.coverage == [IdRange(1, 70, time_of(0) + 1, time_of(71))]


def test_a_day_read_again_changes_nothing(world: World) -> None:
    world.publish(1, TRADES)
    world.store(1)
    coverage, again = world.coverage, world.store(1)
    assert again.written.changed == 0 and not again.archived[0].is_new
    assert world.coverage == coverage
    assert len(world.versions(1)) == 1


def test_what_is_lost_from_the_database_comes_back_from_the_file(world: World) -> None:
    world.publish(1, TRADES)
    world.store(1)
    world.market.execute(
        "DELETE FROM md.trade USING md.symbol s WHERE trade.symbol_id = s.symbol_id AND s.name = $1 AND agg_trade_id = 30",
        world.instrument.name,
    )
    assert world.store(1).written.inserted == 1
    assert world.stored().equals(TRADES[24:48])


def test_the_archive_completes_the_day_on_which_collecting_began(world: World) -> None:
    world.publish(1, TRADES)
    world.collect(TRADES[40:60], time_of(39) + 1, time_of(59))
    world.store(0, days=3)
    assert world.stored().equals(TRADES[24:60])
    assert world.coverage == [IdRange(25, 58, time_of(24) + 1, time_of(59))]
    assert world.versions(1)[0].added == ((24, 39),)


def test_a_day_that_the_journal_proves_is_not_asked_of_the_archive(world: World) -> None:
    world.publish(1, changed(30, price=1))
    world.collect(TRADES, START_MS, START_MS + 3 * DAY_MS)
    assert world.store(0, days=3).archived == []
    assert world.stored().equals(TRADES)


def test_where_they_differ_the_streams_trade_stays_and_the_id_is_named(world: World) -> None:
    world.collect(TRADES[40:60], time_of(39) + 1, time_of(59))
    world.publish(1, changed(45, price=1))
    world.store(1)
    assert world.stored().equals(TRADES[24:48])
    assert world.versions(1)[0].kept == ((45, 45),)
    # Also when the journal has dropped its old hours: what was stored off the stream is never the archive's.
    world.journal.retire(world.instrument.name, START_MS + 3 * DAY_MS)
    world.publish(1, changed(45, price=2))
    world.store(1)
    assert world.stored().equals(TRADES[24:48])
    assert world.versions(1)[1].kept == ((45, 45),)


def test_an_id_that_is_stored_under_another_day_stays_there_and_is_named(world: World) -> None:
    world.collect(changed(30, time_ms=time_of(50))[30:31], time_of(50), time_of(50))
    world.publish(1, TRADES)
    world.store(2)
    world.store(1)
    assert world.versions(1)[0].kept == ((30, 30),)
    assert world.stored().filter(pl.col("agg_trade_id") == 30)["time_ms"].to_list() == [time_of(50)]


def test_a_file_issued_anew_is_a_new_version_whose_changes_are_counted(world: World) -> None:
    first = world.publish(1, TRADES.filter(pl.col("agg_trade_id") != 30))
    world.store(1)
    assert world.coverage == [
        IdRange(25, 28, time_of(24) + 1, time_of(29)),
        IdRange(32, 46, time_of(31) + 1, time_of(47)),
    ]
    second = world.publish(1, changed(40, quantity=7).filter(pl.col("agg_trade_id") != 35))
    stored = world.store(1)
    assert (stored.written.inserted, stored.written.updated, stored.written.deleted) == (1, 1, 0)
    assert world.stored().equals(changed(40, quantity=7)[24:48])
    assert world.coverage == [IdRange(25, 46, time_of(24) + 1, time_of(47))]
    before, after = world.versions(1)
    assert (before.sha256, after.sha256, after.version) == (first, second, 2)
    assert (after.added, after.changed, after.withdrawn) == (((30, 30),), ((40, 40),), ((35, 35),))
    assert after.taken == ((24, 47),)


def test_a_file_that_lacks_rows_is_loaded_and_the_hole_stays_unproven(world: World) -> None:
    world.publish(1, TRADES.filter(~pl.col("agg_trade_id").is_in([30, 31])))  # row 48 of the bad inputs
    world.store(1)
    assert [(r.proven_from_ms, r.proven_until_ms) for r in world.coverage] == [
        (time_of(24) + 1, time_of(29)),
        (time_of(32) + 1, time_of(47)),
    ]


def test_of_a_bad_file_nothing_is_stored(world: World) -> None:
    file = ArchiveFile(world.instrument.name, DAYS[1])
    publish_bytes(world.root, file, zipped(b"24,1.00,1.0\n", f"{file.name}.csv"))
    with pytest.raises(UnknownColumns):
        world.store(1)
    assert world.stored().is_empty() and world.coverage == [] and world.versions(1) == []


def test_an_edge_is_proven_by_a_neighbour_that_the_exchange_knows(world: World) -> None:
    world.publish(1, TRADES)

    class Known:
        """An exchange that still serves the trade after the day, and no longer the one before it."""

        def trade(self, instrument: Instrument, number: int) -> AggTrade | None:
            return AggTrade(*TRADES.row(number)) if number == 48 else None

    world.stores.__dict__["exchange"] = Known()
    world.store(1)
    coverage = [IdRange(25, 47, time_of(24) + 1, START_MS + 2 * DAY_MS)]
    assert world.coverage == coverage
    del world.stores.__dict__["exchange"]
    world.store(1)  # what was proven once stays so, also when the exchange does not answer
    assert world.coverage == coverage


KILLED = textwrap.dedent("""
    import sys
    from pathlib import Path
    import polars as pl
    from resources.archive import Archive
    from resources.past_days import take_from_archive
    from resources.timescale.store import MarketStore
    from trading.market.trade import TRADE_SCHEMA
    dsn, root, symbol, day_ms = sys.argv[1:]
    with MarketStore(dsn, "sim") as market:
        archive = Archive(root, Path(root))
        take_from_archive(market, archive, market.instrument(symbol), int(day_ms), pl.DataFrame(schema=TRADE_SCHEMA))
""")


def test_a_process_killed_while_importing_leaves_no_half_of_a_day(world: World) -> None:
    world.publish(1, TRADES)
    holder = psycopg2.connect(world.market._dsn)
    holder.cursor().execute("LOCK TABLE md.trade IN EXCLUSIVE MODE")  # the import waits with its rows at hand
    arguments = [world.market._dsn, str(world.root), world.instrument.name, str(START_MS + DAY_MS)]
    with subprocess.Popen([sys.executable, "-c", KILLED, *arguments], cwd=Path(__file__).parents[2]) as process:
        while not world.versions(1):
            assert process.poll() is None
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    holder.close()
    assert world.stored().is_empty() and world.coverage == []
    assert world.store(1).written.inserted == 24
    assert [version.taken for version in world.versions(1)] == [((24, 47),)]
    world.publish(1, changed(40, quantity=7))
    assert world.store(1).written.updated == 1
