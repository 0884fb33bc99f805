import json

import pytest
from typer.testing import CliRunner

from benchmarks import candles, indicators, profile
from benchmarks.comparison import OURS, UnequalResults, compare
from trading_assets.cli.main import app


@pytest.mark.parametrize(("module", "size"), [(candles, 5_000), (indicators, 5_000), (profile, 5_000)])
def test_every_way_that_is_measured_gives_our_result(module, size: int) -> None:
    for comparison in module.comparisons(size):
        assert all(rate > 0 for rate in comparison.describe()["rates"].values())


def test_ways_with_different_results_are_not_compared() -> None:
    with pytest.raises(UnequalResults, match="sum: wrong"):
        compare("sum", 1, "sums", {OURS: lambda: 1, "wrong": lambda: 2}, lambda ours, other: ours == other)


def test_an_unknown_benchmark_is_one_clear_sentence() -> None:
    answer = CliRunner().invoke(app, ["bench", "weather", "--json"])
    assert answer.exit_code == 1
    assert "candles" in json.loads(answer.stdout.splitlines()[-1])["hint"]
