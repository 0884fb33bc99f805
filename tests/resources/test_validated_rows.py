"""The database's own constraints refuse no row that was accepted, so that no batch fails for one of its rows."""

from collections.abc import Iterator
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resources.timescale.store import MarketStore
from resources.timescale.tables import BOOK_1S, BOOK_SNAPSHOT, CANDLE, TRADE, Table
from tests.trading.provider.test_validation import (
    BAD_BARS,
    BAD_BOOKS,
    BAD_SECONDS,
    BAD_TRADES,
    NOW,
    ROWS,
    BadRows,
    changed,
)
from trading.market.instrument import Instrument
from trading.market.timeframe import DAY_MS, MINUTE_MS, Timeframe
from trading.provider.pipeline import Series
from trading.provider.validation import DataValidator

NAME = "CHKUSDT"


@pytest.fixture(scope="module")
def store(market: MarketStore) -> Iterator[MarketStore]:
    market.register([Instrument("sim", NAME, "CHK", "USDT", 2, 3)])
    yield market
    for table in (CANDLE, TRADE, BOOK_SNAPSHOT, BOOK_1S):
        market.write(table, NAME, pl.DataFrame(schema=table.schema), *DAY, *OF_BARS[table.name], exact=True)


DAY = (NOW // DAY_MS * DAY_MS, (NOW // DAY_MS + 1) * DAY_MS)
OF_BARS: dict[str, tuple[Timeframe, ...]] = {"candle": (Timeframe.M1,), "trade": (), "book_snapshot": (), "book_1s": ()}


@pytest.mark.parametrize(
    ("kind", "table", "cases"),
    [
        ("bar", CANDLE, BAD_BARS),
        ("trade", TRADE, BAD_TRADES),
        ("book", BOOK_SNAPSHOT, BAD_BOOKS),
        ("second", BOOK_1S, BAD_SECONDS),
    ],
)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_what_is_accepted_the_database_takes(
    store: MarketStore, kind: str, table: Table, cases: BadRows, data: st.DataObject
) -> None:
    rows: list[dict[str, Any]] = data.draw(st.lists(changed(kind, cases), min_size=1, max_size=12))
    check = DataValidator({NAME}, lambda: 0)
    for number, row in enumerate(rows):
        row[table.time] = NOW - number * MINUTE_MS
        if kind == "trade":
            row["agg_trade_id"] += number
    frame = pl.DataFrame(rows, ROWS[kind][1])
    accepted = check.rows(Series(table.name, NAME, Timeframe.M1 if kind == "bar" else None), frame)
    store.write(table, NAME, accepted, *DAY, *OF_BARS[table.name], recorded_at_ms=NOW)
    written = store.read(table, NAME, *DAY, *OF_BARS[table.name])
    assert set(accepted.select(table.key).rows()) <= set(written.select(table.key).rows())
