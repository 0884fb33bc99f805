import json

import pytest
from typer.testing import CliRunner

from benchmarks import candles, indicators, profile, trades
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


def test_ways_with_different_results_are_not_compared() -> None:
    with pytest.raises(UnequalResults, match="sum: wrong"):
        compare("sum", 1, "sums", {OURS: lambda: 1, "wrong": lambda: 2}, lambda ours, other: ours == other)


def test_an_unknown_benchmark_is_one_clear_sentence() -> None:
    answer = CliRunner().invoke(app, ["bench", "weather", "--json"])
    assert answer.exit_code == 1
    assert "candles" in json.loads(answer.stdout.splitlines()[-1])["hint"]
