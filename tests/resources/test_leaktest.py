"""The test for leaks finds none in what is there, finds one that is made, and leaves nothing behind."""

import polars as pl
import pytest

from resources.leaktest import NothingToTest, leaktest
from resources.timescale import relations
from resources.timescale.store import MarketStore
from resources.timescale.tables import CANDLE, Table
from resources.timescale.writing import moment
from tests.oracle import BOOK, BOOK_SECOND, MINUTE, SECOND, T0, THREE, Write, bar, put, register
from trading.market.timeframe import HOUR_MS, MINUTE_MS, SECOND_MS, Timeframe
from trading.provider.book_tops import VOLUMES, completed


@pytest.fixture(scope="module")
def symbol(market: MarketStore) -> str:
    """An hour of minutes, of three minutes, of seconds and books, known as they came."""
    register(market, "LEAKUSDT")
    for minute in range(0, 60, 3):
        now = T0 + (minute + 3) * MINUTE_MS
        opens = [T0 + (minute + part) * MINUTE_MS for part in range(3)]
        put(market, "LEAKUSDT", Write(now, MINUTE, {at: bar(at) for at in opens}))
        put(market, "LEAKUSDT", Write(now, THREE, {opens[0]: bar(opens[0])}))
        put(market, "LEAKUSDT", Write(now, SECOND, {now - SECOND_MS: bar(now - SECOND_MS)}))
        book = {
            "last_update_id": 1,
            "bid_price": [99.0],
            "bid_quantity": [1.0],
            "ask_price": [101.0],
            "ask_quantity": [2.0],
        }
        put(market, "LEAKUSDT", Write(now, BOOK, {now - 1: {"time_ms": now - 1, **book}}))
        tops = {"best_bid": 99.0, "best_ask": 101.0, **dict.fromkeys(VOLUMES, 1.0), "ask_volume": 2.0}
        second = {"time_ms": now - SECOND_MS, **completed(pl.DataFrame(tops)).row(0, named=True), "snapshots": 1}
        put(market, "LEAKUSDT", Write(now, BOOK_SECOND, {now - SECOND_MS: second}))
    return "LEAKUSDT"


def test_nothing_that_comes_later_changes_an_answer_and_nothing_of_the_noise_stays(
    market: MarketStore, symbol: str
) -> None:
    before = _rows(market, symbol)
    found = leaktest(market, symbol, 5)
    assert (found.moments, found.answers, found.leaks) == (5, 15, ())
    assert found.noise > 50
    assert _rows(market, symbol).equals(before)


@pytest.mark.parametrize(
    ("table_rows", "told"),
    [
        ("md.{name} WHERE {condition}", "recorded at"),
        ("md.{name} WHERE {condition} AND known_at <= {at}", "became known later"),
    ],
    ids=["looks ahead", "forgets what was known"],
)
def test_a_question_that_leaks_is_found(
    market: MarketStore, symbol: str, monkeypatch: pytest.MonkeyPatch, table_rows: str, told: str
) -> None:
    def leaking(table: Table, condition: str, known_by_ms: int | None) -> str:
        at = "'infinity'" if known_by_ms is None else moment(known_by_ms)
        return f"SELECT {', '.join(table.columns)} FROM " + table_rows.format(
            name=table.relation, condition=condition, at=at
        )

    monkeypatch.setattr(relations, "versions", leaking)
    assert any(told in leak for leak in leaktest(market, symbol, 3).leaks)


def test_a_symbol_without_bars_is_refused(market: MarketStore) -> None:
    register(market, "NOBARSUSDT")
    with pytest.raises(NothingToTest):
        leaktest(market, "NOBARSUSDT", 1)


def _rows(market: MarketStore, symbol: str) -> pl.DataFrame:
    return market.read(CANDLE, symbol, T0 - HOUR_MS, T0 + 2 * HOUR_MS, Timeframe.M1)
