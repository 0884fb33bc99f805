"""The projection says what the journal's ledger says, and keeps what the journal does not speak of any more."""

from itertools import count
from pathlib import Path

import polars as pl
import pytest

from resources.gap_ledger import NoSuchGap, explain, gaps, note_brought, project
from resources.journal import TradeJournal
from resources.timescale.store import MarketStore
from resources.timescale.tables import TRADE
from trading.market.instrument import Instrument
from trading.market.timeframe import HOUR_MS
from trading.market.trade import AggTrade, trades_frame
from trading.stream.contiguity import IdRange, Ledger
from trading.stream.repair import Fill

START_MS = 1_700_006_400_000
_numbers = count()


@pytest.fixture
def symbol(market: MarketStore) -> str:
    name = f"GAP{next(_numbers)}USDT"
    market.register([Instrument("sim", name, name[:-4], "USDT", 2, 5)])
    return name


def at(number: int) -> int:
    return START_MS + number * HOUR_MS


def ranges(market: MarketStore, symbol: str) -> list[tuple[int, int, str, str]]:
    query = (
        "SELECT first_id, last_id, state, origin FROM md.trade_range JOIN md.symbol USING (symbol_id) "
        "WHERE name = $1 ORDER BY first_id, origin"
    )
    return [tuple(row) for row in market.fetch(query, symbol)]


LEDGER = [
    IdRange(0, 9, at(0), at(9)),
    IdRange(12, 19, at(12), at(19), absent_before=True),
    IdRange(25, 30, at(25), at(31)),
]
FILLS = [Fill(3, 4, at(3), at(4), hole=True, waited_ms=700)]
PROJECTED = [
    (0, 9, "complete", "websocket"),
    (3, 4, "complete", "rest"),
    (10, 11, "absent", "nowhere"),
    (12, 19, "complete", "websocket"),
    (20, 24, "repairing", "nowhere"),
    (25, 30, "complete", "websocket"),
]


def test_every_state_is_told_apart_and_a_note_explains(market: MarketStore, symbol: str, tmp_path: Path) -> None:
    with TradeJournal.write(tmp_path / "journal") as journal:
        journal.append({}, {symbol: LEDGER}, {symbol: FILLS})
        for _ in range(2):  # twice is the same
            project(journal, market, symbol)
            assert ranges(market, symbol) == PROJECTED
        explain(market, symbol, 10, 11, "maintenance of 14 November")
        told = [(row["first_id"], row["ids"], row["state"], row["note"]) for row in gaps(market, [symbol])]
        assert told == [
            (3, 2, "repaired", None),
            (10, 2, "explained", "maintenance of 14 November"),
            (20, 5, "repairing", None),
        ]
        with pytest.raises(NoSuchGap):
            explain(market, symbol, 12, 19, "nothing is missing here")

        late = [AggTrade(n, 100, 1, n, n, at(n), False) for n in range(20, 25)]
        market.write(TRADE, symbol, trades_frame(late[:4]), at(20), at(25))
        assert [(row["state"], row["missing"]) for row in gaps(market, [symbol])][2] == ("repairing", 1)
        market.write(TRADE, symbol, trades_frame(late), at(20), at(25))
        assert [(row["state"], row["missing"]) for row in gaps(market, [symbol])][2] == ("repaired", 0)

        filled = [LEDGER[0], IdRange(12, 30, at(12), at(31), absent_before=True)]
        journal.append({}, {symbol: filled}, {symbol: [Fill(20, 24, at(20), at(24), hole=True, waited_ms=900)]})
        project(journal, market, symbol)
        assert [row["state"] for row in gaps(market, [symbol])] == ["repaired", "explained", "repaired"]


def test_what_the_journal_retired_stays(market: MarketStore, symbol: str, tmp_path: Path) -> None:
    with TradeJournal.write(tmp_path / "journal") as journal:
        trades = [
            AggTrade(n, 100, 1, n, n, at(n), False)
            for claim in LEDGER
            for n in range(claim.first_id, claim.last_id + 1)
        ]
        journal.append({symbol: trades}, {symbol: LEDGER}, {symbol: FILLS})
        project(journal, market, symbol)
        journal.retire(symbol, at(15))
        assert journal.kept_since_ms(symbol) == at(15)
        project(journal, market, symbol)
    left = ranges(market, symbol)
    assert [row for row in left if row[1] < 12] == [row for row in PROJECTED if row[1] < 12]
    assert sorted(n for first, last, _, origin in left if origin == "websocket" for n in range(first, last + 1)) == [
        trade.agg_trade_id for trade in trades
    ]


def brought(first: int, last: int) -> pl.DataFrame:
    return trades_frame([AggTrade(n, 100, 1, n, n, at(n), False) for n in range(first, last + 1)])


def test_what_archive_and_backfill_brought_is_named_as_theirs(market: MarketStore, symbol: str, tmp_path: Path) -> None:
    with TradeJournal.write(tmp_path / "journal") as journal:
        journal.append({}, {symbol: LEDGER}, {symbol: FILLS})
        project(journal, market, symbol)
        for origin, first, last in (("archive", 20, 22), ("rest", 23, 24), ("archive", 40, 49), ("rest", 60, 62)):
            market.write(TRADE, symbol, brought(first, last), at(first), at(last + 1))
            for _ in range(2):
                note_brought(market, symbol, origin, brought(first, last))
                project(journal, market, symbol)

        told = [
            (r["first_id"], r["last_id"], r["state"], r["missing"], r["repaired_from"]) for r in gaps(market, [symbol])
        ]
        assert told == [
            (3, 4, "repaired", 0, "rest"),
            (10, 11, "absent", 2, None),
            (20, 24, "repaired", 0, "archive, rest"),
            (40, 49, "repaired", 0, "archive"),
            (60, 62, "repaired", 0, "rest"),
        ]

        grown = [*LEDGER[:2], IdRange(22, 45, at(22), at(46))]
        journal.append({}, {symbol: grown}, {})
        project(journal, market, symbol)
    otherwise = [row for row in ranges(market, symbol) if row[3] in ("archive", "rest")]
    assert [(first, last, origin) for first, last, _, origin in otherwise] == [
        (3, 4, "rest"),
        (20, 21, "archive"),
        (46, 49, "archive"),
        (60, 62, "rest"),
    ]


def test_ids_that_came_over_rest_and_were_lost_again_are_noted_once(
    market: MarketStore, symbol: str, tmp_path: Path
) -> None:
    fills = [Fill(n, last, at(n), at(last), hole=True, waited_ms=5) for n, last in ((90, 105), (100, 200))]
    with TradeJournal.write(tmp_path / "journal") as journal:
        journal.append({}, {symbol: [IdRange(1, 300, at(1), at(300))]}, {symbol: fills})
        project(journal, market, symbol)
        lost = Ledger([IdRange(1, 300, at(1), at(300))])
        lost.forget(100, 160)
        journal.append({}, {symbol: lost.ranges}, {})
        for _ in range(2):
            project(journal, market, symbol)
        assert ranges(market, symbol) == [
            (1, 99, "complete", "websocket"),
            (90, 99, "complete", "rest"),
            (100, 160, "repairing", "nowhere"),
            (100, 160, "complete", "rest"),
            (161, 200, "complete", "rest"),
            (161, 300, "complete", "websocket"),
        ]


def test_what_an_earlier_repair_brought_stays_noted_between_what_a_later_one_adds(
    market: MarketStore, symbol: str
) -> None:
    later = pl.concat([brought(30, 35), brought(50, 54), brought(60, 62)])
    for trades, noted in ((brought(40, 49), [(40, 49)]), (later, [(30, 35), (40, 54), (60, 62)])):
        for _ in range(2):
            note_brought(market, symbol, "rest", trades)
            assert [row[:2] for row in ranges(market, symbol)] == noted
    note_brought(market, symbol, "rest", brought(60, 61))
    assert [row[:2] for row in ranges(market, symbol)] == noted
