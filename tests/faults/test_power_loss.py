"""The loss of power: whatever it leaves of the log, the journal is what it was at one moment, and never wrong."""

import os
import random
import shutil
import tempfile
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import polars as pl
import pytest

from resources.journal import TradeJournal
from resources.rocksdb import JournalDamaged, JournalFailed
from tests.synthetic import synthetic_trades
from trading.market.timeframe import HOUR_MS
from trading.stream.contiguity import IdRange

SOAK = bool(os.environ.get("SOAK"))
CUTS, FLIPS = (5_000, 2_000) if SOAK else (150, 120)
TIME_BOX_S = 900 if SOAK else 8
START_MS = 1_760_000_400_000
END_MS = START_MS + 3 * HOUR_MS
STEP_MS = 120_000
STATE = ("CURRENT", "MANIFEST")
SYMBOLS = ("BTCUSDT", "ETHUSDT")
TRADES = {name: synthetic_trades(name, START_MS, END_MS) for name in SYMBOLS}
GENUINE = {name: {msgspec.structs.astuple(trade) for trade in TRADES[name]} for name in SYMBOLS}


class Moment(NamedTuple):
    """What a journal held when its log was that long."""

    log_bytes: int
    held: list[tuple[pl.DataFrame, list[IdRange]]]


class History(NamedTuple):
    """A journal as its dead writer left it, and all that it ever was."""

    folder: Path
    moments: list[Moment]

    @property
    def log(self) -> Path:
        return newest_log(self.folder)


def newest_log(folder: Path) -> Path:
    return max((folder / "live").glob("*.log"), key=lambda file: int(file.stem))


def held(journal: TradeJournal) -> list[tuple[pl.DataFrame, list[IdRange]]]:
    return [(journal.trades(name, 0, 10**13 - 1), journal.ledger(name)) for name in SYMBOLS]


def same(one: list[tuple[pl.DataFrame, list[IdRange]]], other: list[tuple[pl.DataFrame, list[IdRange]]]) -> bool:
    return all(a.equals(b) and c == d for (a, c), (b, d) in zip(one, other, strict=True))


def changes(journal: TradeJournal) -> Iterator[None]:
    """Make one change after the other: appends of two minutes, and now and then a hole, an hour sealed or dropped."""
    for lo_ms in range(START_MS, END_MS, STEP_MS):
        until_ms = lo_ms + STEP_MS
        arrived = {name: [t for t in TRADES[name] if lo_ms <= t.time_ms < until_ms] for name in SYMBOLS}
        known = {name: [t for t in TRADES[name] if t.time_ms < until_ms] for name in SYMBOLS}
        ledgers = {n: [IdRange(k[0].agg_trade_id, k[-1].agg_trade_id, START_MS, until_ms)] for n, k in known.items()}
        journal.append(arrived, ledgers)
        yield
        if lo_ms == START_MS + HOUR_MS + 10 * STEP_MS:
            for name in SYMBOLS:
                journal.seal(name, START_MS)
                yield
        if lo_ms == START_MS + 2 * HOUR_MS + 10 * STEP_MS:
            journal.retire("BTCUSDT", START_MS + HOUR_MS)
            yield


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: thousands of copies are opened, and each opening syncs."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shared if os.access(shared, os.W_OK) else tmp_path) as folder:
        yield Path(folder)


@pytest.fixture(scope="module", params=["one_log", "tables_and_a_log"])
def history(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> History:
    """Write a journal and copy it as it lies on disk while its writer lives; half of it in tables, or all in the log."""
    folder, left = tmp_path_factory.mktemp("power") / "journal", tmp_path_factory.mktemp("left") / "journal"
    moments: list[Moment] = []
    with TradeJournal.write(folder) as journal:
        moments.append(Moment(0, held(journal)))
        for number, _ in enumerate(changes(journal)):
            if request.param == "tables_and_a_log" and number == 40:
                journal.checkpoint()  # writes the tables and begins a log
                moments = [Moment(0, held(journal))]
            else:
                moments.append(Moment(newest_log(folder).stat().st_size, held(journal)))
        shutil.copytree(folder, left)
    assert len({moment.log_bytes for moment in moments}) == len(moments)
    return History(left, moments)


def copied(history: History, folder: Path) -> Path:
    """Copy a journal anew."""
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "live").mkdir(parents=True)
    shutil.copy(history.folder / "FORMAT", folder)
    for file in (history.folder / "live").iterdir():
        shutil.copyfile(file, folder / "live" / file.name)
    return folder


def test_a_log_cut_anywhere_leaves_what_was_stored_before_the_cut(history: History, memory: Path) -> None:
    """Power takes only what lies behind the last sync; so a cut that leaves all before it takes nothing synced."""
    content, seed = history.log.read_bytes(), random.Random(17)
    length = len(content)
    edges = [m.log_bytes + near for m in history.moments for near in (-1, 0, 1) if 0 <= m.log_bytes + near <= length]
    offsets = seed.sample(edges, min(len(edges), CUTS // 3)) + [seed.randrange(length + 1) for _ in range(CUTS)]
    seed.shuffle(offsets)
    began, done, ends = time.monotonic(), 0, [moment.log_bytes for moment in history.moments]
    for offset in offsets[:CUTS]:
        folder = copied(history, memory / "cut")
        os.truncate(newest_log(folder), offset)
        if done % 2:
            os.truncate(newest_log(folder), length)  # some file systems leave zeros instead
            offset = next((n for n in range(offset, length) if content[n]), length)
        with TradeJournal.write(folder) as journal:
            expected = history.moments[bisect_right(ends, offset) - 1]
            as_it_was = same(held(journal), expected.held)
            assert as_it_was, f"cut at {offset} of {length}"
            assert all(journal.verify(name) == [] for name in SYMBOLS)
        done += 1
        if time.monotonic() - began > TIME_BOX_S:
            break
    print(f"{done} cuts of a log of {length} bytes with {len(ends)} moments: always one of them, the last whole one")
    assert done > 50


def test_a_journal_goes_on_after_its_log_was_cut(history: History, memory: Path) -> None:
    folder = copied(history, memory / "cut")
    os.truncate(newest_log(folder), history.log.stat().st_size // 2)
    with TradeJournal.write(folder) as journal:
        journal.append(TRADES, {})
    with TradeJournal.write(folder) as journal:
        for name in SYMBOLS:
            ids = set(journal.trades(name, 0, 10**13 - 1)["agg_trade_id"])
            assert ids == {trade.agg_trade_id for trade in TRADES[name]}


def test_damage_anywhere_is_an_error_or_an_earlier_moment_and_never_a_wrong_trade(
    history: History, memory: Path
) -> None:
    seed, began, outcomes = random.Random(23), time.monotonic(), Counter[str]()
    files = [
        f for f in (history.folder / "live").iterdir() if f.suffix in (".log", ".sst") or f.name.split("-")[0] in STATE
    ]
    names = sorted(file.name for file in files if file.stat().st_size)
    for number in range(FLIPS):
        folder = copied(history, memory / "flip")
        damaged = folder / "live" / names[number % len(names)]
        content = bytearray(damaged.read_bytes())
        for _ in range(seed.choice((1, 1, 32))):
            content[seed.randrange(len(content))] ^= 1 << seed.randrange(8)
        if damaged.name.startswith("MANIFEST") and seed.random() < 0.2:
            del content[seed.randrange(len(content)) :]
        damaged.write_bytes(content)
        try:
            with TradeJournal.write(folder) as journal:
                now = held(journal)
                a_moment = any(same(now, moment.held) for moment in history.moments)
                if a_moment:
                    assert all(journal.verify(name) == [] for name in SYMBOLS)
                    outcomes["the same" if same(now, history.moments[-1].held) else "an earlier moment"] += 1
                else:
                    # One whose end is missing looks as after a loss of power, so tables are forgotten; `verify` names them.
                    assert damaged.name.startswith("MANIFEST"), damaged
                    assert all(
                        set(frame.rows()) <= GENUINE[name] for name, (frame, _) in zip(SYMBOLS, now, strict=True)
                    )
                    outcomes["tables forgotten"] += 1
        except (JournalDamaged, JournalFailed) as error:
            outcomes[type(error).__name__] += 1
        if time.monotonic() - began > TIME_BOX_S:
            break
    print(f"{outcomes.total()} damages: {dict(outcomes)}")
    assert {"an earlier moment", "JournalDamaged"} <= set(outcomes)
