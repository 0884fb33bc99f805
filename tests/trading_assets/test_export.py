"""What the stores hold, as a file of either form."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from resources.timescale import tables
from resources.timescale.store import MarketStore
from resources.timescale.tables import INDICATOR, TRADE, VOLUME_PROFILE, Table
from resources.whole_file import FileNotWritten
from trading.market.instrument import Instrument
from trading.market.timeframe import HOUR_MS, Timeframe
from trading_assets.cli.export import DATASETS, BadExport, export

SYMBOL = "EXPUSDT"
START = 1_700_006_400_000
LAST = START + 2 * HOUR_MS
TABLES: dict[str, Table] = {name: getattr(tables, kept) for name, kept in DATASETS.items()}

LISTS: dict[Any, list[Any]] = {pl.Float64(): [0.1, None, 2.5], pl.Int64(): [3, 2**60]}


def rows(table: Table) -> pl.DataFrame:
    """Two rows an hour apart: the first has a value in every column, the second as many nulls as it may have."""
    kinds = {pl.Float64: 0.1, pl.Int64: 7, pl.Int32: 1, pl.String: "kline", pl.Boolean: True}
    full: dict[str, Any] = {
        name: LISTS[kind.inner] if isinstance(kind, pl.List) else kinds[kind] for name, kind in table.schema.items()
    }
    if table is VOLUME_PROFILE:
        full["missing"] = None
    sparse = {name: None if value == 0.1 and table is INDICATOR else value for name, value in full.items()}
    times = {table.time: START + HOUR_MS}
    frame = pl.DataFrame([full | {table.time: START}, sparse | times], schema=table.schema)
    return frame.with_columns(agg_trade_id=pl.Series([1, 2])) if table is TRADE else frame


@pytest.fixture(scope="module")
def stored(market: MarketStore) -> MarketStore:
    market.register([Instrument("sim", SYMBOL, "EXP", "USDT", 2, 5)])
    for table in TABLES.values():
        market.write(table, SYMBOL, rows(table), START, LAST, Timeframe.M3 if table.by_timeframe else None)
    return market


@pytest.mark.parametrize("dataset", DATASETS)
def test_both_forms_hold_the_same_and_a_list_is_json_in_csv(stored: MarketStore, tmp_path: Path, dataset: str) -> None:
    timeframe = "3m" if TABLES[dataset].by_timeframe else ""
    csv, parquet = tmp_path / "out.csv", tmp_path / "out.parquet"
    assert export(stored, dataset, SYMBOL, timeframe, START, LAST, csv) == 2
    assert export(stored, dataset, SYMBOL, timeframe, START, LAST, parquet) == 2
    assert sorted(tmp_path.iterdir()) == [csv, parquet]
    text, exact = pl.read_csv(csv, infer_schema=False), pl.read_parquet(parquet)
    assert text.columns == exact.columns and len(text) == len(exact) == 2
    for name, kind in exact.schema.items():
        if isinstance(kind, pl.List):
            assert [json.loads(value) for value in text[name]] == exact[name].to_list() == [LISTS[kind.inner]] * 2
        elif kind.is_numeric():
            assert text[name].cast(kind).equals(exact[name])


def test_a_timeframe_that_is_not_kept_is_refused_and_those_that_are_kept_are_named(
    stored: MarketStore, tmp_path: Path
) -> None:
    for timeframe in ("1h", "7m", ""):
        with pytest.raises(BadExport, match=f"--timeframe {timeframe}") as refusal:
            export(stored, "indicators", SYMBOL, timeframe, START, LAST, tmp_path / "out.csv")
        assert "3m" in refusal.value.hint and "1h" not in refusal.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_is_named_as_it_was_given(stored: MarketStore, tmp_path: Path) -> None:
    taken = tmp_path / "taken.csv"
    taken.mkdir()
    for out in (tmp_path / "absent" / "out.csv", tmp_path / "absent" / "out.parquet", taken):
        with pytest.raises(FileNotWritten, match=f"{out} cannot be written"):
            export(stored, "features", SYMBOL, "", START, LAST, out)
    assert list(tmp_path.iterdir()) == [taken]
