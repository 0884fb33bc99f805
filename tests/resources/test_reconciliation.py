"""What the journal, a simulated exchange's REST and its archive say of one day, side by side."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from resources.gap_ledger import gaps
from resources.home import Home
from resources.journal import TradeJournal
from resources.past_days import store_trades, take_from_exchange
from resources.reconciliation import reconcile_days
from resources.settings import load_settings
from resources.simulator.synthetic import SyntheticMarket
from resources.stores import Stores
from resources.timescale.store import MarketStore
from resources.timescale.tables import RECONCILIATION, TRADE
from tests.archives import publish
from trading.market.archive import ArchiveFile
from trading.market.timeframe import DAY_MS
from trading.market.trade import AggTrade
from trading.stream.contiguity import IdRange
from trading_assets.cli.demo import simulated_exchange

SYMBOL, DAY = "QUAYUSDT", "2025-03-01"
MARKET = SyntheticMarket(7, [SYMBOL])
LO_MS = ArchiveFile(SYMBOL, DAY).span_ms()[0]
HI_MS = LO_MS + DAY_MS
TRADES = MARKET.trades(SYMBOL, LO_MS, HI_MS)
COLLECTED = TRADES[4_000:8_000]
"""The collector ran for some hours of the day."""


@pytest.fixture(scope="module")
def exchange_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    home = Home(tmp_path_factory.mktemp("exchange"))
    home.create("simulated", {})
    arguments = ("--seed", "7", "--symbols", SYMBOL)
    with simulated_exchange(home, (HI_MS + DAY_MS, HI_MS + DAY_MS), arguments, dict(os.environ)) as url:
        yield url


@pytest.fixture
def stores(market: MarketStore, exchange_url: str, tmp_path: Path) -> Iterator[Stores]:
    market.register([MARKET.instrument(SYMBOL)])
    identity = market.fetch("SELECT symbol_id FROM md.symbol WHERE name = $1", SYMBOL)[0]["symbol_id"]
    for table in ("trade", "trade_coverage", "archive_version"):
        market.execute(f"DELETE FROM md.{table} WHERE symbol_id = $1", identity)
    (tmp_path / "archive").mkdir()
    environment = {"TRADING_ARCHIVE_URL": str(tmp_path / "archive"), "TRADING_EXCHANGE_REST_URL": exchange_url}
    with ExitStack() as stack:
        stores = Stores(Home(tmp_path), load_settings(tmp_path, environment), stack)
        stores.__dict__["market"] = market  # the session's database instead of one of this home
        yield stores


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[TradeJournal]:
    with TradeJournal.write(tmp_path / "journal") as opened:
        yield opened


def collect(journal: TradeJournal, trades: pl.DataFrame) -> None:
    claim = IdRange(
        trades["agg_trade_id"][0], trades["agg_trade_id"][-1], trades["time_ms"][0] + 1, trades["time_ms"][-1]
    )
    journal.append({SYMBOL: [AggTrade(*row) for row in trades.rows()]}, {SYMBOL: [claim]})


def verdict(stores: Stores, journal: TradeJournal) -> dict[str, Any]:
    frame = reconcile_days(stores, journal, SYMBOL, LO_MS, HI_MS)
    stores.market.write(RECONCILIATION, SYMBOL, frame, LO_MS, HI_MS)
    assert stores.market.read(RECONCILIATION, SYMBOL, LO_MS, HI_MS).equals(frame)
    return frame.row(0, named=True)


def otherwise(trades: pl.DataFrame, number: int) -> pl.DataFrame:
    here = pl.col("agg_trade_id") == number
    return trades.with_columns(quantity=pl.when(here).then(pl.col("quantity") + 1).otherwise(pl.col("quantity")))


def publish_day(stores: Stores, trades: pl.DataFrame) -> None:
    publish(Path(stores.archive.root), ArchiveFile(SYMBOL, DAY), trades, MARKET.instrument(SYMBOL))


def test_a_day_on_which_all_three_agree_is_equal(stores: Stores, journal: TradeJournal) -> None:
    collect(journal, COLLECTED)
    publish_day(stores, TRADES)
    row = verdict(stores, journal)
    assert (row["verdict"], row["differing_rows"]) == ("equal", 0)
    assert (row["websocket_rows"], row["archive_rows"]) == (4_000, len(TRADES))
    assert 2_000 <= row["rest_rows"] <= 5_000
    assert "websocket and archive agree on 4000 ids" in row["reason"]


def test_a_trade_that_the_archive_has_otherwise_is_named(stores: Stores, journal: TradeJournal) -> None:
    number = COLLECTED["agg_trade_id"][1_234]
    collect(journal, COLLECTED)
    publish_day(stores, otherwise(TRADES, number))
    row = verdict(stores, journal)
    assert (row["verdict"], row["first_differing"]) == ("differs", number)
    assert f"websocket and archive differ at 1 ids: {number}" in row["reason"]


def test_a_trade_that_the_stream_brought_otherwise_is_named_by_both(stores: Stores, journal: TradeJournal) -> None:
    number = COLLECTED["agg_trade_id"][7]  # on the first page, which is always asked for
    collect(journal, otherwise(COLLECTED, number))
    publish_day(stores, TRADES)
    row = verdict(stores, journal)
    assert (row["verdict"], row["differing_rows"], row["first_differing"]) == ("differs", 1, number)
    assert "websocket and rest differ" in row["reason"] and "websocket and archive differ" in row["reason"]


def test_what_the_archive_lacks_and_rest_has_is_named(stores: Stores, journal: TradeJournal) -> None:
    lost = TRADES["agg_trade_id"][5_000:5_003].to_list()  # row 48 of the bad inputs
    publish_day(stores, TRADES.filter(~pl.col("agg_trade_id").is_in(lost)))
    row = verdict(stores, journal)
    assert row["reason"] == f"rest and archive differ at 3 ids: {lost[0]}…{lost[-1]}"


def test_a_day_of_one_source_is_not_comparable_and_says_why(stores: Stores, journal: TradeJournal) -> None:
    row = verdict(stores, journal)
    assert row["verdict"] == "not_comparable"
    assert "websocket: the journal holds no trade of this day" in row["reason"]
    assert "archive: data/spot/monthly" in row["reason"]


def test_a_bad_file_has_no_say_and_fails_nothing(stores: Stores, journal: TradeJournal) -> None:
    collect(journal, COLLECTED)
    publish_day(stores, TRADES[::-1])
    row = verdict(stores, journal)
    assert (row["verdict"], row["archive_rows"]) == ("equal", 0)


def test_rest_adds_what_is_stored_nowhere_and_asks_for_nothing_else(stores: Stores, journal: TradeJournal) -> None:
    collect(journal, COLLECTED)
    store_trades(stores, journal, SYMBOL, LO_MS, HI_MS)
    told: list[tuple[int, int]] = []
    instrument = MARKET.instrument(SYMBOL)
    written = take_from_exchange(stores.market, stores.exchange, instrument, LO_MS, lambda *far: told.append(far))
    assert written.inserted == len(TRADES) - len(COLLECTED)
    assert stores.market.read(TRADE, SYMBOL, LO_MS, HI_MS).equals(TRADES)
    assert len(told) <= (len(TRADES) - len(COLLECTED)) // 1_000 + 3
    assert [time_ms for time_ms, _ in told] == sorted(time_ms for time_ms, _ in told)
    store_trades(stores, journal, SYMBOL, LO_MS, HI_MS)
    assert stores.market.proven(SYMBOL) == [(LO_MS, HI_MS)]
    told.clear()
    again = take_from_exchange(stores.market, stores.exchange, instrument, LO_MS, lambda *far: told.append(far))
    assert again.changed == 0 and len(told) <= 2
    named = [row for row in gaps(stores.market, [SYMBOL]) if row["repaired_from"] == "rest"]
    assert sum(row["ids"] for row in named) == len(TRADES) - len(COLLECTED)
    assert {row["state"] for row in named} == {"repaired"}


def test_the_archive_and_the_exchanges_neighbours_prove_a_day_alone(stores: Stores, journal: TradeJournal) -> None:
    publish_day(stores, TRADES)
    stored = store_trades(stores, journal, SYMBOL, LO_MS, HI_MS)
    assert stored.written.inserted == len(TRADES)
    assert stores.market.proven(SYMBOL) == [(LO_MS, HI_MS)]
