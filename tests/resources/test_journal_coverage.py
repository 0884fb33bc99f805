"""What is proven is what the database holds, never what the journal alone claims."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from resources.journal import TradeJournal
from resources.journal_coverage import take_over_coverage
from resources.timescale.store import MarketStore
from resources.timescale.tables import TRADE
from trading.market.instrument import Instrument
from trading.market.timeframe import DAY_MS, HOUR_MS
from trading.market.trade import AggTrade
from trading.stream.contiguity import IdRange

START_MS = 1_700_006_400_000  # a UTC midnight
END_MS = START_MS + 3 * DAY_MS
LAST_ID = 71
"""One trade an hour on three days, at half past."""


def time_of(number: int) -> int:
    return START_MS + number * HOUR_MS + HOUR_MS // 2


@pytest.fixture
def symbol(market: MarketStore, request: pytest.FixtureRequest) -> str:
    name = f"{abs(hash(request.node.name)) % 10**6}USDT"
    market.register([Instrument("sim", name, name[:-4], "USDT", 2, 5)])
    return name


@pytest.fixture
def journal(tmp_path: Path, symbol: str) -> Iterator[TradeJournal]:
    trades = [AggTrade(n, 100, 1, n, n, time_of(n), False) for n in range(LAST_ID + 1)]
    with TradeJournal.write(tmp_path / "journal") as opened:
        opened.append({symbol: trades}, {symbol: [IdRange(0, LAST_ID, START_MS, END_MS)]})
        yield opened


def materialize(market: MarketStore, journal: TradeJournal, symbol: str, first_day: int, days: int = 1) -> None:
    lo_ms, hi_ms = START_MS + first_day * DAY_MS, START_MS + (first_day + days) * DAY_MS
    market.write(TRADE, symbol, journal.trades(symbol, lo_ms, hi_ms), lo_ms, hi_ms)
    take_over_coverage(journal, market, symbol, lo_ms, hi_ms)


def test_one_day_proves_that_day_alone(market: MarketStore, journal: TradeJournal, symbol: str) -> None:
    materialize(market, journal, symbol, 1)
    assert market.trade_coverage(symbol) == [IdRange(24, 47, START_MS + DAY_MS, START_MS + 2 * DAY_MS)]


def test_days_that_follow_each_other_are_one_range(market: MarketStore, journal: TradeJournal, symbol: str) -> None:
    for day in (2, 0, 1, 1):
        materialize(market, journal, symbol, day)
    assert market.trade_coverage(symbol) == [IdRange(0, LAST_ID, START_MS, END_MS)]


def test_what_the_journal_lost_is_not_proven(market: MarketStore, journal: TradeJournal, symbol: str) -> None:
    for lost in (5, 24, 47, LAST_ID):  # inside a day, at its start, at its end, and the last of all
        journal.delete_batch(symbol, time_of(lost) // 1000 * 1000)
    materialize(market, journal, symbol, 0, days=3)
    assert market.trade_coverage(symbol) == [
        IdRange(0, 3, START_MS, time_of(4)),
        IdRange(7, 22, time_of(6) + 1, time_of(23)),
        IdRange(26, 45, time_of(25) + 1, time_of(46)),
        IdRange(49, 69, time_of(48) + 1, time_of(70)),
    ]


def test_what_the_database_still_holds_stays_proven(market: MarketStore, journal: TradeJournal, symbol: str) -> None:
    materialize(market, journal, symbol, 0, days=3)
    journal.delete_batch(symbol, time_of(30) // 1000 * 1000)
    materialize(market, journal, symbol, 1)
    assert market.trade_coverage(symbol) == [IdRange(0, LAST_ID, START_MS, END_MS)]
