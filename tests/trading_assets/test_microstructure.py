"""What is made of a day's trades and books: once, exactly, with the reason where there is nothing, and checked."""

import base64
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pytest
from PIL import Image

from resources.home import Home
from resources.journal import TradeJournal
from resources.stores import Stores, open_stores
from resources.timescale.store import MarketStore
from resources.timescale.tables import (
    CANDLE,
    LIQUIDITY_VACUUM,
    MARKET_REPORT,
    ORDER_BOOK,
    ORDER_FLOW,
    PROFILE_MINUTE,
    TRADE,
    VOLUME_PROFILE,
)
from resources.wiring import MarketDatabase, TradeJournalReader
from tests.synthetic import MARKET, synthetic_trades
from trading.market.book import BookSnapshot
from trading.market.candle import candles_from_trades
from trading.market.timeframe import DAY_MS, HOUR_MS, MINUTE_MS, SECOND_MS, Timeframe
from trading.microstructure.order_flow import order_flow as flow_of_trades
from trading.microstructure.profile_minutes import profile_minutes as minutes_of_trades
from trading.microstructure.volume_profile import volume_profile, volume_profile_of_minutes
from trading.stream.book_recorder import BookRecord
from trading.stream.contiguity import IdRange
from trading_assets.checks import CHECKS
from trading_assets.microstructure import (
    liquidity_vacuums,
    market_reports,
    order_books,
    order_flow,
    profile_minutes,
    volume_profiles,
)
from trading_assets.partitions import day_key, partition_key, symbols
from trading_assets.plots import LARGEST, book_plot, flow_plot
from trading_assets.row_checks import MEASURES
from trading_assets.trades import agg_trades, trade_batches

SYMBOL = "ETHUSDT"
DAY = 1_760_054_400_000
FEW = DAY + DAY_MS
"""The day after has an hour of trades: too few for a profile."""

END = FEW + HOUR_MS
BOOKS = (DAY + 3 * HOUR_MS, DAY + 5 * HOUR_MS)
ASSETS = [profile_minutes, volume_profiles, liquidity_vacuums, order_flow, order_books, market_reports]
TABLES = {
    "profile_minutes": PROFILE_MINUTE,
    "volume_profiles": VOLUME_PROFILE,
    "liquidity_vacuums": LIQUIDITY_VACUUM,
    "order_flow": ORDER_FLOW,
    "order_books": ORDER_BOOK,
    "market_reports": MARKET_REPORT,
}


def book_records(lo_ms: int, hi_ms: int) -> list[BookRecord]:
    """A book a second whose spread and balance wander, and which is unknown for ten minutes in the middle."""
    found, rng = [], np.random.default_rng(3)
    for place, second_ms in enumerate(range(lo_ms, hi_ms, SECOND_MS)):
        if lo_ms + HOUR_MS <= second_ms < lo_ms + HOUR_MS + 10 * MINUTE_MS:
            continue
        half, steps = int(rng.integers(1, 9)), np.arange(20)
        bids = np.column_stack((250_000 - half - steps, rng.integers(100, 90_000, 20)))
        asks = np.column_stack((250_000 + half + steps, rng.integers(100, 90_000, 20)))
        follows = bool(found) and found[-1].second_ms == second_ms - SECOND_MS
        found.append(BookRecord(follows, BookSnapshot(second_ms + 400, place, bids, asks)))
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, market: MarketStore) -> Iterator[Home]:
    """A home whose journal holds a day and an hour of trades and two hours of books, on the session's database."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRADING_POSTGRES_URL", market._dsn)
        made = Home(tmp_path_factory.mktemp("measures"))
        made.create("simulated", {})
        market.register([MARKET.instrument(SYMBOL)])
        market.execute(f"DELETE FROM md.day USING md.symbol s WHERE day.symbol_id = s.symbol_id AND name = '{SYMBOL}'")
        for table in (TRADE, CANDLE, *TABLES.values()):
            timeframe = Timeframe.M1 if table.by_timeframe else None
            market.write(table, SYMBOL, pl.DataFrame(schema=table.schema), 0, 2 * DAY, timeframe, exact=True)
        trades = synthetic_trades(SYMBOL, DAY, END)
        claim = IdRange(trades[0].agg_trade_id, trades[-1].agg_trade_id, DAY, END)
        with TradeJournal.write(made.rocksdb_dir) as journal:
            journal.append({SYMBOL: trades}, {SYMBOL: [claim]})
            journal.append_books({SYMBOL: book_records(*BOOKS)})
        yield made


def run(home: Home, assets: list[Any], first: int, last: int | None = None) -> dict[str, dict[str, Any]]:
    """Materialize some assets over days; return the metadata of each one's last day."""
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(symbols.name or "", [SYMBOL])
        wired = {"market": MarketDatabase(home=str(home.path)), "journal": TradeJournalReader(home=str(home.path))}
        tags = {
            "dagster/asset_partition_range_start": partition_key(SYMBOL, day_key(first)),
            "dagster/asset_partition_range_end": partition_key(SYMBOL, day_key(last or first)),
        }
        done = dg.materialize([*assets, trade_batches], instance=instance, resources=wired, tags=tags, selection=assets)
        events = done.get_asset_materialization_events()
        events.sort(key=lambda event: event.partition or "")
        return {e.asset_key.to_user_string(): dict(e.materialization.metadata) for e in events if e.asset_key}


@pytest.fixture(scope="module")
def made(home: Home, market: MarketStore) -> dict[str, dict[str, Any]]:
    run(home, [agg_trades], DAY, FEW)
    trades = market.read(TRADE, SYMBOL, DAY, END)
    bars = candles_from_trades(trades, market.instrument(SYMBOL), Timeframe.M1, market.proven(SYMBOL))
    market.write(CANDLE, SYMBOL, bars, DAY, END, Timeframe.M1)
    return {"few": run(home, ASSETS, DAY, FEW), "day": run(home, ASSETS, DAY)}


@pytest.fixture
def stores(home: Home, made: dict) -> Iterator[Stores]:
    with open_stores(home.path) as opened:
        yield opened


def test_any_window_of_profile_minutes_is_the_profile_of_its_trades(made: dict, market: MarketStore) -> None:
    instrument = market.instrument(SYMBOL)
    for lo_ms, hi_ms in ((DAY, END), (DAY + 7 * MINUTE_MS, DAY + 19 * HOUR_MS), (DAY + 6 * HOUR_MS, END - MINUTE_MS)):
        trades, minutes = (market.read(table, SYMBOL, lo_ms, hi_ms) for table in (TRADE, PROFILE_MINUTE))
        assert minutes.equals(minutes_of_trades(trades))
        expected = volume_profile(trades, instrument, lo_ms, hi_ms)
        assert volume_profile_of_minutes(minutes, instrument, lo_ms, hi_ms) == expected


def test_a_day_alone_changes_nothing_that_a_range_of_days_wrote(made: dict) -> None:
    assert {name: int(metadata["changed_postgres"].value) for name, metadata in made["day"].items()} == dict.fromkeys(
        TABLES, 0
    )
    counts = {name: metadata["dagster/partition_row_count"].value for name, metadata in made["day"].items()}
    assert counts["volume_profiles"] == counts["market_reports"] == 1
    assert counts["order_books"] == 110


def test_a_day_has_its_profile_with_vacuums_and_one_with_too_few_trades_the_reason(
    made: dict, market: MarketStore
) -> None:
    day, few = market.read(VOLUME_PROFILE, SYMBOL, DAY, END).iter_rows(named=True)
    expected = volume_profile(market.read(TRADE, SYMBOL, DAY, FEW), market.instrument(SYMBOL), DAY, FEW)
    assert (day["point_of_control"], day["value_area_low"]) == (expected.point_of_control, expected.value_area_low)
    assert day["bin_buy_volume"] == [b.buy_volume for b in expected.bins]
    assert (day["proven_share"], day["missing"]) == (1.0, None)
    assert (few["proven_share"], few["point_of_control"], few["bin_low"]) == (1 / 24, None, None)
    assert few["missing"].startswith("InsufficientTrades: ETHUSDT: ") and 0 < few["trade_count"] < 1_000
    vacuums = market.read(LIQUIDITY_VACUUM, SYMBOL, DAY, END)
    assert len(vacuums) and set(vacuums["day"]) == {DAY}
    assert (vacuums["stop_long"] < vacuums["price_low"]).all() and (vacuums["stop_short"] > vacuums["price_high"]).all()


def test_flow_by_minute_ends_at_the_delta_of_the_day(made: dict, market: MarketStore) -> None:
    flow = market.read(ORDER_FLOW, SYMBOL, DAY, FEW)
    expected = flow_of_trades(market.read(TRADE, SYMBOL, DAY, FEW), market.instrument(SYMBOL), DAY, FEW)
    assert flow["cumulative_delta"][-1] == expected.cumulative_delta
    assert flow["trade_count"].sum() == expected.trade_count
    bars = market.read(CANDLE, SYMBOL, DAY, FEW, Timeframe.M1)
    assert flow["close"].to_list() == bars["close"].to_list()


def test_where_no_book_was_kept_no_minute_is_and_the_report_says_so(made: dict, market: MarketStore) -> None:
    books = market.read(ORDER_BOOK, SYMBOL, DAY, END)
    assert set(books["seconds"]) == {60}
    unknown = range(BOOKS[0] + HOUR_MS, BOOKS[0] + HOUR_MS + 10 * MINUTE_MS, MINUTE_MS)
    assert not set(books["minute"]) & set(unknown)
    day, few = market.read(MARKET_REPORT, SYMBOL, DAY, END).iter_rows(named=True)
    newest: Any = market.read(TRADE, SYMBOL, FEW, END)["time_ms"].max()
    assert (day["as_of_ms"], few["as_of_ms"]) == (FEW, newest + 1)
    assert day["markdown"].startswith("# ETHUSDT\n") and "Point of control" in day["markdown"]
    assert "no order book of ETHUSDT is kept" in day["markdown"]
    assert "a profile needs 1000" in few["markdown"]
    assert made["day"]["market_reports"]["report"].value == day["markdown"]


def test_days_without_trades_and_books_have_no_row(home: Home, made: dict) -> None:
    empty = run(home, ASSETS, DAY - 2 * DAY_MS, DAY - DAY_MS)
    assert {m["dagster/partition_row_count"].value for m in empty.values()} == {0}
    assert not any("plot" in metadata or "report" in metadata for metadata in empty.values())


def test_what_the_journal_keeps_no_longer_stays_as_it_was_written(
    tmp_path: Path, home: Home, made: dict, market: MarketStore
) -> None:
    before = market.digest(ORDER_BOOK), market.digest(MARKET_REPORT)
    later = Home(tmp_path / "later")
    later.create("simulated", {})
    with TradeJournal.write(later.rocksdb_dir) as journal:
        trades = synthetic_trades(SYMBOL, DAY, END)
        journal.append({SYMBOL: trades}, {SYMBOL: [IdRange(trades[0].agg_trade_id, trades[-1].agg_trade_id, DAY, END)]})
        journal.retire(SYMBOL, DAY + 12 * HOUR_MS)
    again = run(later, [order_books, market_reports], DAY)
    assert {metadata["changed_postgres"].value for metadata in again.values()} == {0}
    assert (market.digest(ORDER_BOOK), market.digest(MARKET_REPORT)) == before


def picture(metadata: dict[str, Any]) -> Image.Image:
    head, _, encoded = metadata["plot"].value.partition("base64,")
    assert head.endswith("(data:image/png;")
    png = base64.b64decode(encoded.rstrip(")"))
    assert len(png) <= LARGEST
    return Image.open(io.BytesIO(png)).convert("RGB")


def blue(png: bytes) -> bool:
    """Whether the price is drawn."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    return bool(((pixels[..., 2] > 150) & (pixels[..., 0] < 100) & (pixels[..., 1] < 130)).any())


def test_a_run_draws_its_last_day_small_and_only_where_there_is_something(made: dict) -> None:
    for asset in ("volume_profiles", "order_flow", "order_books"):
        drawn = picture(made["day"][asset])
        assert drawn.size[0] == 900
        assert len(drawn.getcolors(1 << 20) or ()) > 8, asset
    assert "plot" not in made["few"]["volume_profiles"] and "missing" in made["few"]["volume_profiles"]
    assert "plot" not in made["few"]["order_books"]


def test_even_a_restless_day_is_drawn_small(market: MarketStore, made: dict) -> None:
    rng, instrument = np.random.default_rng(5), market.instrument(SYMBOL)
    minutes = DAY + np.arange(1440) * MINUTE_MS
    flow = pl.DataFrame({"minute": minutes, "close": rng.random(1440), "cumulative_delta": rng.normal(0, 9, 1440)})
    books = pl.DataFrame({"minute": minutes, "spread_bps": rng.random(1440), "spread_bps_max": 1 + rng.random(1440)})
    assert len(flow_plot(flow, instrument)) <= LARGEST
    assert len(book_plot(books.with_columns(imbalance=2 * pl.col("spread_bps") - 1), instrument)) <= LARGEST


def test_one_minute_is_enough_for_a_picture(market: MarketStore, made: dict) -> None:
    flow, instrument = market.read(ORDER_FLOW, SYMBOL, DAY, FEW).head(1), market.instrument(SYMBOL)
    known, unknown = (flow_plot(rows, instrument) for rows in (flow, flow.with_columns(close=None)))
    assert blue(known) and not blue(unknown), "a point shows the price that no line can"


DAMAGE: dict[str, str] = {
    "profile_minutes": "UPDATE md.profile_minute SET buy_lots = array_replace(buy_lots, buy_lots[1], buy_lots[1] + 1)",
    "volume_profiles": "UPDATE md.volume_profile SET point_of_control = value_area_high + 1 WHERE missing IS NULL",
    "liquidity_vacuums": "UPDATE md.liquidity_vacuum SET stop_long = price_low",
    "order_flow": "UPDATE md.order_flow SET delta = delta + 0.001",
    "order_books": "UPDATE md.order_book SET imbalance = 1.5",
    "market_reports": "UPDATE md.market_report SET markdown = ''",
}


OF_SECONDS = {"candles_1s", "book_snapshots", "book_seconds"}
"""Damaged and repaired in the end-to-end tests, with the journal that they are rebuilt from."""


def findings(stores: Stores) -> dict[str, str]:
    found = {name: CHECKS[name][1](stores, [SYMBOL]) for name in ("agg_trades", *TABLES)}
    return {name: finding for name, finding in found.items() if finding}


def test_each_check_sees_what_no_honest_row_is_and_its_asset_repairs_it(home: Home, stores: Stores) -> None:
    assert set(MEASURES) - OF_SECONDS | {"profile_minutes"} == set(DAMAGE)
    repair: dict[str, Callable[..., Any]] = {asset.key.to_user_string(): asset for asset in ASSETS}
    for name, damage in DAMAGE.items():
        stores.market.execute(damage)
        found = findings(stores)
        assert list(found) == [name]
        assert "materialize" not in found[name], "the range is named before the digest"
        run(home, [repair[name]], DAY, FEW)
        assert not findings(stores)


def test_a_row_too_many_is_found_and_goes(home: Home, stores: Stores) -> None:
    stores.market.execute(
        "INSERT INTO md.order_book (symbol_id, minute, seconds) SELECT symbol_id, to_timestamp($1), 60 "
        "FROM md.symbol WHERE name = $2",
        DAY / 1000,
        SYMBOL,
    )
    assert "111 rows, 110 written" in findings(stores)["order_books"]
    assert run(home, [order_books], DAY)["order_books"]["changed_postgres"].value == 1
    assert not findings(stores)


def test_trades_that_were_lost_are_no_fault_of_the_minutes_but_minutes_left_behind_by_repaired_trades_are(
    home: Home, stores: Stores
) -> None:
    minute = "minute = (SELECT min(minute) FROM md.profile_minute)"
    before = stores.market.fetch(f"SELECT * FROM md.profile_minute WHERE {minute}")
    (first,) = stores.market.fetch(
        "SELECT min(agg_trade_id) FROM md.trade JOIN md.symbol USING (symbol_id) WHERE name = $1 AND time >= $2",
        SYMBOL,
        pl.Series([FEW]).cast(pl.Datetime("ms", "UTC"))[0],
    )
    assert before
    stores.market.execute("DELETE FROM md.trade WHERE agg_trade_id = $1", first[0])
    assert list(findings(stores)) == ["agg_trades"]
    # What is recorded anew without the lost trade is a fact that the minutes contradict.
    stores.market.record_days(TRADE, "agg_trades", SYMBOL, FEW, FEW + DAY_MS)
    assert "profile_minutes" in findings(stores)
    run(home, [agg_trades], FEW)
    assert not findings(stores)
