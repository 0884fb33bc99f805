"""Derivatives data as the simulated exchange serves it, also when it refuses, fails and answers in pages."""

import asyncio
from pathlib import Path

import polars as pl
import pytest

from resources.binance import UnknownSymbol
from resources.binance_usdm import UsdmRest, oldest_kept_ms
from resources.derivatives import Fetched, FuturesExchange, fetch_from
from resources.simulator.faults import FaultPlan
from tests.resources.simulated import START_MS, SYMBOL, exchange
from trading.market.timeframe import DAY_MS, HOUR_MS, MINUTE_MS

LO_MS, HI_MS = START_MS // DAY_MS * DAY_MS - 40 * DAY_MS, START_MS // DAY_MS * DAY_MS + DAY_MS


def fetched(folder: Path, faults: FaultPlan | None = None, symbol: str = SYMBOL) -> Fetched:
    async def ask() -> Fetched:
        async with exchange(faults=faults, limit=True) as one:
            rest = UsdmRest(one.http, folder / "rest_budget.json")
            try:
                return await fetch_from(rest, symbol, LO_MS, HI_MS)
            finally:
                await rest.close()

    return asyncio.run(ask())


def test_forty_days_are_served_as_far_as_the_exchange_keeps_them(tmp_path: Path) -> None:
    found = fetched(tmp_path)
    times = {kind: part["time_ms"].to_list() for (kind,), part in found.rows.sort("time_ms").group_by("kind")}
    step = 5 * MINUTE_MS
    oldest = -(-oldest_kept_ms(found.now_ms) // step) * step
    # The last one is open interest now, between two five minutes.
    assert times["open_interest"] == [*range(oldest, found.now_ms + 1, step), found.now_ms]
    assert [time // (8 * HOUR_MS) for time in times["funding"]] == list(
        range(LO_MS // (8 * HOUR_MS), found.now_ms // (8 * HOUR_MS) + 1)
    )
    assert len(times["mark"]) == 1
    assert found.rows.select((pl.col("known_at_ms") >= pl.col("time_ms")).all()).item()
    assert (
        found.rows.filter(pl.col("kind") == "mark")
        .select("mark_price", "index_price", "funding_rate")
        .null_count()
        .sum_horizontal()
        .item()
        == 0
    )


@pytest.mark.parametrize(
    "faults",
    [
        FaultPlan(seed=5, rest_429=0.2, retry_after_s=0),
        FaultPlan(seed=5, rest_5xx=0.2),
        FaultPlan(seed=5, rest_refused=0.2),
    ],
    ids=["429", "5xx", "refused"],
)
def test_an_exchange_that_refuses_and_fails_says_the_same_in_the_end(tmp_path: Path, faults: FaultPlan) -> None:
    assert fetched(tmp_path, faults).rows.equals(fetched(tmp_path).rows)


def test_a_symbol_that_nobody_trades_is_an_error_of_its_own(tmp_path: Path) -> None:
    with pytest.raises(UnknownSymbol):
        fetched(tmp_path, symbol="NOPEUSDT")


def test_without_a_root_there_is_nothing_to_fetch() -> None:
    found = FuturesExchange("").fetch(SYMBOL, LO_MS, HI_MS)
    assert (found.absent, len(found.rows)) == ("no futures root is set; set TRADING_FUTURES_REST_URL", 0)
