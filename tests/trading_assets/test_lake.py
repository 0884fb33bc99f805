"""Closed days enter the lake by the chain, once; damage to a file turns its check red, and a run repairs it."""

import math
import os
import shutil
from collections.abc import Iterator
from typing import Any

import dagster as dg
import polars as pl
import pytest

from resources.home import Home
from resources.lake import MANIFEST
from resources.simulator.clock import Clock
from resources.simulator.server import SimulatedExchange
from resources.stores import Stores, open_stores
from resources.timescale.loop import wait
from resources.timescale.store import MarketStore
from resources.timescale.tables import CANDLE
from resources.wiring import ExchangeClient, MarketDatabase
from tests.synthetic import MARKET
from trading.market.candle import native_candles
from trading.market.instrument import Instrument
from trading.market.timeframe import DAY_MS, HOUR_MS, MINUTE_MS, Timeframe
from trading_assets.checks import lake_as_exported
from trading_assets.lake import lake
from trading_assets.partitions import day_key, partition_key, symbols

SYMBOL = "LAKEUSDT"
DAY = 1_760_054_400_000
NOW = DAY + 3 * DAY_MS + HOUR_MS


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory, market: MarketStore) -> Iterator[Stores]:
    """Minutes of three days and an hour, the second of which has none, at an exchange whose clock stands in the fourth."""
    server = SimulatedExchange([MARKET], Clock(NOW, NOW, math.inf))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRADING_POSTGRES_URL", market._dsn)
        patch.setenv("TRADING_EXCHANGE_REST_URL", f"http://127.0.0.1:{wait(server.start())}")
        home = Home(tmp_path_factory.mktemp("lake"))
        home.create("simulated", {})
        market.register([Instrument("sim", SYMBOL, "LAKE", "USDT", 2, 5)])
        opens = [at for at in range(DAY, NOW, MINUTE_MS) if not DAY + DAY_MS <= at < DAY + 2 * DAY_MS]
        bars = pl.DataFrame({"open_time": opens}).with_columns(
            open=2.0, high=3.0, low=1.0, close=2.5, volume=1.0, quote_volume=2.0, trade_count=3
        )
        market.write(CANDLE, SYMBOL, native_candles(bars), DAY, NOW, Timeframe.M1)
        with open_stores(home.path) as opened:
            yield opened
    wait(server.stop())


def run(stores: Stores, first_ms: int, last_ms: int) -> dict[str, Any]:
    """Materialize days; return their metadata by day."""
    home = str(stores.home.path)
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(symbols.name or "", [SYMBOL])
        tags = {
            "dagster/asset_partition_range_start": partition_key(SYMBOL, day_key(first_ms)),
            "dagster/asset_partition_range_end": partition_key(SYMBOL, day_key(last_ms)),
        }
        wired = {"market": MarketDatabase(home=home), "exchange": ExchangeClient(home=home)}
        done = dg.materialize([lake], instance=instance, resources=wired, tags=tags, selection=[lake])
        told = {}
        for event in done.get_asset_materialization_events():
            metadata = event.materialization.metadata
            told[str(event.partition).split("|")[0]] = {name: value.value for name, value in metadata.items()}
        return told


def test_closed_days_enter_the_lake_and_the_day_that_lasts_does_not(stores: Stores) -> None:
    told = run(stores, DAY - DAY_MS, NOW)
    days = [day_key(DAY + n * DAY_MS) for n in range(-1, 4)]
    assert [told[day]["dagster/partition_row_count"] for day in days] == [0, 1440, 0, 1440, 0]
    assert told[days[-1]]["changed_lake"] == 3 and told[days[-1]]["written_bytes"] > 0
    assert told[days[-1]]["reason"] == "the day is not over"
    assert stores.lake.days("candle", SYMBOL) == days[1:4], "a day on which nothing is held is known to be so"
    assert stores.lake.days("trade", SYMBOL) == []
    assert len(stores.lake.read("candle", SYMBOL, 0, 2**45, Timeframe.M1).collect()) == 2 * 1440
    assert run(stores, DAY - DAY_MS, NOW)[days[-1]]["changed_lake"] == 0


def test_the_check_turns_red_for_each_damage_and_a_run_makes_it_green(stores: Stores) -> None:
    newest, older = day_key(DAY + 2 * DAY_MS), day_key(DAY)
    assert lake_as_exported(stores, [SYMBOL]) is None
    for damage, day, said in (
        (flip_a_bit, newest, "SHA-256"),
        (cut_short, older, "bytes"),
        (lose_the_file, older, "is gone"),
        (lose_the_day, older, "0 entries, 1440 written"),
        (spoil_the_manifest, older, MANIFEST),
    ):
        damage(stores, day)
        finding = lake_as_exported(stores, [SYMBOL])
        assert finding and said in finding and day in finding and SYMBOL in finding
        run(stores, DAY, NOW)
        assert lake_as_exported(stores, [SYMBOL]) is None


def flip_a_bit(stores: Stores, day: str) -> None:
    manifest = stores.lake.manifest("candle", SYMBOL, day)
    assert manifest is not None
    path = stores.lake.file(manifest)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(stores: Stores, day: str) -> None:
    manifest = stores.lake.manifest("candle", SYMBOL, day)
    assert manifest is not None
    os.truncate(stores.lake.file(manifest), manifest.bytes // 2)


def lose_the_file(stores: Stores, day: str) -> None:
    manifest = stores.lake.manifest("candle", SYMBOL, day)
    assert manifest is not None
    stores.lake.file(manifest).unlink()


def lose_the_day(stores: Stores, day: str) -> None:
    shutil.rmtree(stores.lake.day_dir("candle", SYMBOL, day))


def spoil_the_manifest(stores: Stores, day: str) -> None:
    (stores.lake.day_dir("candle", SYMBOL, day) / MANIFEST).write_bytes(b"{")
