"""The LMDB that the assets project into, or leave alone."""

from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from resources.home import Home
from resources.lmdb import LmdbNotOurs, LmdbStore
from resources.stores import open_stores
from resources.timescale.store import MarketStore
from resources.timescale.tables import CANDLE
from resources.wiring import LmdbProjection, MarketDatabase
from trading.market.candle import CANDLE_SCHEMA
from trading.market.instrument import Instrument
from trading.market.timeframe import DAY_MS, Timeframe
from trading_assets.checks import CHECKS
from trading_assets.indicators import lmdb_candles
from trading_assets.partitions import partition_key, symbols

DAY = 1_700_006_400_000


def bars(*opens: int) -> pl.DataFrame:
    known = {"source": "kline", "complete": True, "n_present": 1, "n_expected": 1}
    rows = [
        {"open_time": at, "open": 1.0, "high": 2.0, "low": 0.5, "close": 1.5, "volume": 7.0} | known for at in opens
    ]
    return pl.DataFrame(rows, schema=CANDLE_SCHEMA)


def test_the_lmdb_of_an_external_producer_is_observed_and_never_written(
    tmp_path: Path, market: MarketStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = LmdbStore(tmp_path / "theirs", 1)
    for database in ("candles_3m", "candles_4h"):
        theirs.write(database, "XYZUSDT", bars(DAY), DAY, DAY + DAY_MS)
    before = (theirs.path / "data.mdb").read_bytes()
    market.register([Instrument("sim", "XYZUSDT", "XYZ", "USDT", 2, 5)])
    market.write(CANDLE, "XYZUSDT", bars(DAY + 180_000), DAY, DAY + DAY_MS, Timeframe.M3)
    monkeypatch.setenv("LMDB_PATH", str(theirs.path))
    monkeypatch.setenv("TRADING_POSTGRES_URL", market._dsn)
    home = Home(tmp_path / "home")
    home.create("simulated", {})
    with open_stores(home.path) as stores:
        with pytest.raises(LmdbNotOurs, match="external producer"):
            stores.lmdb.write("candles_3m", "XYZUSDT", bars(DAY + 180_000), DAY, DAY + DAY_MS)
        seen = materialized(home)
        assert seen["dagster/partition_row_count"].value == 2
        assert (seen["producer"].value, seen["changed_lmdb"].value) == ("external", 0)
        assert CHECKS["lmdb_candles"][1](stores, ["XYZUSDT"]) is None
    assert (theirs.path / "data.mdb").read_bytes() == before


def materialized(home: Home) -> dict:
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(symbols.name or "", ["XYZUSDT"])
        resources = {"market": MarketDatabase(home=str(home.path)), "lmdb": LmdbProjection(home=str(home.path))}
        key = partition_key("XYZUSDT", "2023-11-15")
        done = dg.materialize([lmdb_candles], instance=instance, resources=resources, partition_key=key)
        (event,) = done.get_asset_materialization_events()
        return dict(event.materialization.metadata)
