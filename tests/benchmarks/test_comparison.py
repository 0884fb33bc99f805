import json
import os

import pytest
from typer.testing import CliRunner

from benchmarks import cache, candles, indicators, live, profile, store, store_queries, trades
from benchmarks.comparison import OURS, Measure, UnequalResults, compare
from trading_assets.cli.main import app


@pytest.mark.parametrize(("module", "size"), [(candles, 5_000), (indicators, 5_000), (profile, 5_000)])
def test_every_way_that_is_measured_gives_our_result(module, size: int) -> None:
    for comparison in module.comparisons(size):
        assert all(rate > 0 for rate in comparison.describe()["rates"].values())


def test_what_trades_take_and_how_fast_they_come_back_is_measured_with_equal_results() -> None:
    measured = {}
    for comparison in trades.comparisons(100_000):
        measured |= {comparison.name: comparison.describe()} | comparison.ratios()
        if isinstance(comparison, Measure):
            assert comparison.value > 0
    ratios = {"parse_vs_json", "parse_alone_vs_json", "read_hot_vs_rows", "read_sealed_vs_rows", "retention_vs_keys"}
    sizes = {"bytes_per_trade_hot", "bytes_per_trade_sealed", "bytes_per_trade_parquet_synthetic"}
    assert ratios | sizes | {"read_24h_s"} <= set(measured)
    assert measured["bytes_per_trade_sealed_synthetic"] < measured["bytes_per_trade_parquet_synthetic"]


def test_candles_reach_the_database_in_each_way_and_the_same_rows_again_change_none() -> None:
    measured = {}
    for found in store.comparisons(500):
        measured |= {found.name: found.describe()} | found.ratios()
    assert {"ingest_vs_row_by_row", "ingest_vs_executemany", "ingest_rows_s", "replay_rows_s"} <= measured.keys()
    assert measured["backend"] == "plain"
    assert measured["replay_rows_changed"] == measured["replay_rows_changed_1m"] == 0


def test_each_question_to_the_database_is_measured_and_a_day_is_the_same_as_dictionaries() -> None:
    measured = {}
    for found in store_queries.comparisons(days=2, symbols=3):
        measured |= {found.name: found.describe()} | found.ratios()
    figures = {"inference_live_p99_ms", "one_day_1m_p50_ms", "multi_timeframe_p99_ms", "profile_24h_ms"}
    assert figures | {"latest_500_ms", "one_day_vs_dicts", "backtest_candles_s"} <= measured.keys()


def test_the_last_bars_come_from_memory_in_each_way_while_others_are_written() -> None:
    measured = {}
    for found in cache.comparisons(50):
        measured |= {found.name: found.describe()} | found.ratios()
    assert {"cache_vs_pandas", "cache_vs_frame", "cache_vs_list"} <= measured.keys()
    assert all(measured[f"{name}_p99_ms"] > 0 for name in ("cache_read", "cache_frame", "cache_pandas"))


@pytest.mark.skipif(not os.environ.get("SOAK"), reason="takes a minute and a half around a midnight: SOAK=1")
def test_what_happens_is_seen_in_the_answers_of_a_live_provider_with_its_age() -> None:
    measured = {found.name: found.describe() for found in live.comparisons(40)}
    for kind in ("trade", "bar_1s", "bar_1m", "bar_3m", "bar_4h", "bar_1d", "indicator_3m", "indicator_4h", "book"):
        assert measured[f"live_{kind}_p50_ms"] >= measured["live_sent_p50_ms"] > 0, kind


def test_ways_with_different_results_are_not_compared() -> None:
    with pytest.raises(UnequalResults, match="sum: wrong"):
        compare("sum", 1, "sums", {OURS: lambda: 1, "wrong": lambda: 2}, lambda ours, other: ours == other)


def test_an_unknown_benchmark_is_one_clear_sentence() -> None:
    answer = CliRunner().invoke(app, ["bench", "weather", "--json"])
    assert answer.exit_code == 1
    assert "candles" in json.loads(answer.stdout.splitlines()[-1])["hint"]
