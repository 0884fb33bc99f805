from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resources.journal import SETTLED_MS, TradeJournal
from resources.rocksdb import JournalFailed
from tests.synthetic import synthetic_trades, whole
from trading.market.book import BookSnapshot
from trading.market.timeframe import DAY_MS, HOUR_MS
from trading.market.trade import AggTrade, trades_frame
from trading.stream.book_recorder import BookRecord
from trading.stream.contiguity import IdRange
from trading.stream.events import MarkPrice
from trading.stream.repair import Fill

START_MS = 1_760_000_400_000
HOURS = 4
END_MS = START_MS + HOURS * HOUR_MS
FOREVER = 10**13 - 1
BTC = synthetic_trades("BTCUSDT", START_MS, END_MS)
ETH = synthetic_trades("ETHUSDT", START_MS, END_MS)
EDGES = range(START_MS, END_MS, HOUR_MS)


def seconds(trades: list[AggTrade]) -> list[int]:
    return sorted({trade.time_ms // 1000 * 1000 for trade in trades})


def during(trades: list[AggTrade], lo_ms: int, hi_ms: int) -> list[AggTrade]:
    return [trade for trade in trades if lo_ms <= trade.time_ms < hi_ms]


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[TradeJournal]:
    """Four whole hours of two symbols, in batches of a second."""
    with TradeJournal.write(tmp_path / "journal") as opened:
        claims = {"BTCUSDT": whole(BTC, START_MS, END_MS), "ETHUSDT": whole(ETH, START_MS, END_MS)}
        opened.append({"BTCUSDT": BTC, "ETHUSDT": ETH}, claims)
        yield opened


def windows(journal: TradeJournal, symbol: str) -> list[pl.DataFrame]:
    """Read all that begins or ends at, or just beside, an edge of an hour."""
    moments = [edge + near for edge in (*EDGES, END_MS) for near in (-1, 0, 1, 1_800_123)]
    return [journal.trades(symbol, lo, hi) for lo in moments for hi in moments if lo < hi]


# -- sealing -------------------------------------------------------------------------------------------------------------


def test_a_reader_sees_no_difference_after_an_hour_is_sealed(journal: TradeJournal) -> None:
    before, beside = windows(journal, "BTCUSDT"), journal.beside("BTCUSDT", START_MS + HOUR_MS, END_MS - HOUR_MS)
    assert journal.seal("BTCUSDT", START_MS + HOUR_MS) == len(seconds(during(BTC, EDGES[1], EDGES[2])))
    assert all(a.equals(b) for a, b in zip(before, windows(journal, "BTCUSDT"), strict=True))
    assert journal.beside("BTCUSDT", START_MS + HOUR_MS, END_MS - HOUR_MS) == beside
    assert journal.verify("BTCUSDT") == []
    assert journal.seconds("BTCUSDT") == [s for s in seconds(BTC) if not EDGES[1] <= s < EDGES[2]]
    journal.checkpoint()
    with TradeJournal.read(journal.directory) as reader:
        assert reader.trades("BTCUSDT", 0, FOREVER).equals(trades_frame(BTC))


def test_sealing_touches_neither_another_hour_nor_another_symbol(journal: TradeJournal) -> None:
    journal.seal("BTCUSDT", START_MS)
    assert journal.seconds("ETHUSDT") == seconds(ETH)
    assert journal.trades("ETHUSDT", 0, FOREVER).equals(trades_frame(ETH))


def test_sealing_twice_changes_nothing(journal: TradeJournal) -> None:
    assert journal.seal("BTCUSDT", START_MS) > 0
    assert journal.seal("BTCUSDT", START_MS) == 0
    assert journal.trades("BTCUSDT", 0, FOREVER).equals(trades_frame(BTC))
    assert journal.seal("XRPUSDT", START_MS) == 0


def test_only_whole_hours_are_sealed(journal: TradeJournal) -> None:
    with pytest.raises(ValueError, match="not the start of an hour"):
        journal.seal("BTCUSDT", START_MS + 1000)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.one_of(st.sampled_from(EDGES), st.sets(st.integers(0, len(BTC) - 1), max_size=40)), max_size=12))
def test_late_trades_and_sealing_in_any_order_keep_every_trade_once(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int | set[int]]
) -> None:
    with TradeJournal.write(tmp_path_factory.mktemp("late")) as journal:
        kept = set[int]()
        for step in steps:
            if isinstance(step, int):
                journal.seal("BTCUSDT", step)
            else:
                journal.append({"BTCUSDT": [BTC[n] for n in step]}, {})
                kept |= step
            assert journal.trades("BTCUSDT", 0, FOREVER).equals(trades_frame([BTC[n] for n in sorted(kept)]))


def test_the_first_of_two_trades_with_one_id_stays_when_its_hour_is_sealed(tmp_path: Path) -> None:
    first, other = BTC[0], AggTrade(BTC[0].agg_trade_id, 1, 1, 1, 1, BTC[0].time_ms, True)
    with TradeJournal.write(tmp_path) as journal:
        journal.append({"BTCUSDT": [first]}, {})
        journal.seal("BTCUSDT", START_MS)
        journal.append({"BTCUSDT": [other]}, {})
        assert journal.trades("BTCUSDT", 0, FOREVER).equals(trades_frame([first]))
        journal.seal("BTCUSDT", START_MS)
        assert journal.trades("BTCUSDT", 0, FOREVER).equals(trades_frame([first]))


def test_what_a_deleted_hour_held_is_named_sealed_or_not(journal: TradeJournal) -> None:
    journal.seal("BTCUSDT", START_MS)
    for hour in (EDGES[0], EDGES[1]):
        journal.delete_hour("BTCUSDT", hour)
    lost = during(BTC, EDGES[0], EDGES[2])
    assert journal.verify("BTCUSDT") == [(lost[0].agg_trade_id, lost[-1].agg_trade_id)]


# -- retention -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sealed", [(), EDGES[:2], EDGES])
def test_retired_hours_are_gone_with_the_claims_on_them(journal: TradeJournal, sealed: tuple[int, ...]) -> None:
    for hour in sealed:
        journal.seal("BTCUSDT", hour)
    journal.retire("BTCUSDT", EDGES[2] + 1_234_567)  # the hour that holds the moment stays whole
    left = during(BTC, EDGES[2], END_MS)
    assert journal.trades("BTCUSDT", 0, FOREVER).equals(trades_frame(left))
    assert journal.ledger("BTCUSDT") == whole(left, EDGES[2], END_MS)
    assert journal.verify("BTCUSDT") == []
    assert journal.trades("ETHUSDT", 0, FOREVER).equals(trades_frame(ETH))
    assert journal.ledger("ETHUSDT") == whole(ETH, START_MS, END_MS)


def test_books_and_mark_prices_of_a_market_that_does_not_trade_for_weeks_are_retired_too(journal: TradeJournal) -> None:
    journal.retire("BTCUSDT", END_MS + DAY_MS)
    sides = np.array([[99, 5]]), np.array([[120, 5]])
    times = range(END_MS + DAY_MS, END_MS + 8 * DAY_MS, 6 * HOUR_MS)
    journal.append_books({"BTCUSDT": [BookRecord(True, BookSnapshot(at, at, *sides)) for at in times]})
    journal.append_marks({"BTCUSDT": [MarkPrice(at, 1.0, 1.0, None, None) for at in times]})
    journal.maintain("BTCUSDT", END_MS + 8 * DAY_MS, DAY_MS, FOREVER)
    kept = [at for at in times if at >= END_MS + 7 * DAY_MS]
    assert [record.second_ms for record in journal.books("BTCUSDT", 0, FOREVER)] == kept
    assert [mark.time_ms for mark in journal.marks("BTCUSDT", 0, FOREVER)] == kept
    assert journal.kept_since_ms("BTCUSDT") == END_MS + 7 * DAY_MS


def test_what_came_over_rest_is_forgotten_with_its_trades(journal: TradeJournal) -> None:
    first = next(trade.agg_trade_id for trade in BTC if trade.time_ms >= EDGES[2])
    spans = [(first - 100, first - 90), (first - 5, first + 5), (first + 20, first + 30)]
    fills = [Fill(a, b, BTC[0].time_ms, BTC[-1].time_ms, True, 1) for a, b in spans]
    journal.append({}, {}, {"BTCUSDT": fills, "ETHUSDT": fills})
    journal.retire("BTCUSDT", EDGES[2])
    left = [(fill.first_id, fill.last_id) for fill in journal.fills("BTCUSDT")]
    assert left == [(first, first + 5), (first + 20, first + 30)]
    assert len(journal.fills("ETHUSDT")) == 3


def test_a_writer_that_still_claims_what_was_retired_is_not_believed(journal: TradeJournal) -> None:
    journal.retire("BTCUSDT", EDGES[2])
    journal.append({}, {"BTCUSDT": whole(BTC, START_MS, END_MS)})
    assert journal.ledger("BTCUSDT") == whole(during(BTC, EDGES[2], END_MS), EDGES[2], END_MS)
    assert journal.verify("BTCUSDT") == []


def test_retiring_everything_keeps_the_next_id(journal: TradeJournal) -> None:
    journal.retire("BTCUSDT", END_MS + DAY_MS)
    assert journal.trades("BTCUSDT", 0, FOREVER).is_empty()
    (left,) = journal.ledger("BTCUSDT")
    assert (left.first_id, left.last_id) == (BTC[-1].agg_trade_id + 1, BTC[-1].agg_trade_id)
    assert journal.verify("BTCUSDT") == []


def test_retiring_gives_the_space_back(journal: TradeJournal) -> None:
    def stored() -> int:
        journal.compact()
        return sum(table.stat().st_size for table in (journal.directory / "live").glob("*.sst"))

    before = stored()
    journal.retire("BTCUSDT", EDGES[3])
    journal.retire("ETHUSDT", EDGES[3])
    assert stored() < before / 2


# -- maintenance ---------------------------------------------------------------------------------------------------------


def test_maintenance_seals_each_proven_hour_once_and_leaves_the_open_one(journal: TradeJournal) -> None:
    open_hour = synthetic_trades("BTCUSDT", END_MS, END_MS + 600_000)
    journal.append({"BTCUSDT": open_hour}, {"BTCUSDT": whole(BTC + open_hour, START_MS, open_hour[-1].time_ms)})
    sealed = [journal.maintain("BTCUSDT", END_MS + 600_000, DAY_MS, END_MS) for _ in range(HOURS + 2)]
    assert sealed == [1] * HOURS + [0, 0]
    assert journal.seconds("BTCUSDT") == seconds(open_hour)
    assert journal.trades("BTCUSDT", 0, FOREVER).equals(trades_frame(BTC + open_hour))


def test_an_hour_with_a_hole_is_sealed_only_when_it_is_a_day_old(tmp_path: Path) -> None:
    hole = BTC[20]
    claims = [
        IdRange(BTC[0].agg_trade_id, hole.agg_trade_id - 1, START_MS, hole.time_ms),
        IdRange(hole.agg_trade_id + 1, BTC[-1].agg_trade_id, hole.time_ms + 1, END_MS),
    ]
    with TradeJournal.write(tmp_path) as journal:
        journal.append({"BTCUSDT": [trade for trade in BTC if trade is not hole]}, {"BTCUSDT": claims})
        assert sum(journal.maintain("BTCUSDT", END_MS, 9 * DAY_MS, 0) for _ in range(9)) == HOURS - 1
        assert max(journal.seconds("BTCUSDT")) < EDGES[1]
        assert journal.maintain("BTCUSDT", EDGES[1] + SETTLED_MS - 1, 9 * DAY_MS, 0) == 0
        assert journal.maintain("BTCUSDT", EDGES[1] + SETTLED_MS, 9 * DAY_MS, 0) == 1


@pytest.mark.parametrize(
    ("age_ms", "verified_until_ms", "kept_from_ms"),
    [
        (HOUR_MS, END_MS, EDGES[3]),
        (HOUR_MS, EDGES[1], EDGES[1]),
        (HOUR_MS, EDGES[1] + HOUR_MS - 1, EDGES[1]),
        (HOUR_MS, 0, START_MS),
        (9 * HOUR_MS, END_MS, START_MS),
    ],
)
def test_maintenance_drops_only_what_is_old_and_verified_elsewhere(
    journal: TradeJournal, age_ms: int, verified_until_ms: int, kept_from_ms: int
) -> None:
    for _ in range(HOURS):
        journal.maintain("BTCUSDT", END_MS, age_ms, verified_until_ms)
    assert journal.trades("BTCUSDT", 0, FOREVER).equals(trades_frame(during(BTC, kept_from_ms, END_MS)))
    assert journal.verify("BTCUSDT") == []
    assert journal.ledger("BTCUSDT")[0].proven_from_ms == kept_from_ms


def test_a_reader_can_neither_seal_nor_retire(journal: TradeJournal) -> None:
    journal.checkpoint()
    with TradeJournal.read(journal.directory) as reader:
        for change in (reader.seal, reader.retire):
            with pytest.raises(JournalFailed, match="read-only"):
                change("BTCUSDT", START_MS + HOUR_MS)
