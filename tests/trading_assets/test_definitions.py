"""Every asset has what its page in the UI should show, and a change of the lineage shows in a diff."""

import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import dagster as dg
import pytest

from trading_assets.automation import close_days, refresh_today
from trading_assets.definitions import defs
from trading_assets.partitions import day_key, day_ms, partition_key, symbols

LINEAGE = Path(__file__).with_name("lineage.txt")
GRAPH = defs.resolve_asset_graph()
NODES = [GRAPH.get(key) for key in sorted(GRAPH.get_all_asset_keys(), key=str)]
NAMES = [node.key.to_user_string() for node in NODES]


@pytest.mark.parametrize("node", NODES, ids=NAMES)
def test_an_asset_says_what_it_is_and_who_answers_for_it(node) -> None:
    groups = {"sources", "trades", "candles", "microstructure", "indicators", "rag", "derivatives", "operations"}
    assert node.group_name in groups
    assert node.owners
    assert node.kinds
    assert node.description and "One" in node.description
    schema = node.metadata["dagster/column_schema"]
    assert getattr(schema, "value", schema).columns
    assert node.freshness_policy is not None


@pytest.mark.parametrize("name", NAMES)
def test_an_asset_has_a_check(name: str) -> None:
    assert GRAPH.get_check_keys_for_assets({dg.AssetKey(name)})


@pytest.mark.parametrize("name", NAMES)
def test_an_asset_is_brought_up_to_date_by_itself(name: str) -> None:
    scheduled = {
        key
        for schedule in defs.schedules or []
        for key in defs.resolve_job_def(schedule.job_name).asset_layer.selected_asset_keys
    }
    # The collectors' supervisor reports those two.
    assert dg.AssetKey(name) in scheduled | {dg.AssetKey("trade_batches"), dg.AssetKey("contract_batches")}


def test_the_lineage_is_the_one_that_was_agreed() -> None:
    lines = []
    for node in NODES:
        checks = sorted(key.name for key in GRAPH.get_check_keys_for_assets({node.key}))
        parents = ", ".join(sorted(key.to_user_string() for key in node.parent_keys)) or "nothing"
        kinds = ", ".join(sorted(node.kinds))
        lines.append(
            f"{node.group_name}/{node.key.to_user_string()} from {parents}; {kinds}; checked by {', '.join(checks)}"
        )
    lines += [f"schedule {s.name} {s.cron_schedule}" for s in defs.schedules or []]
    lines += [f"sensor {s.name}" for s in defs.sensors or []]
    lines += [f"job {job.name}" for job in defs.jobs or []]
    text = "\n".join(lines) + "\n"
    if os.environ.get("AGREE"):  # AGREE=1 writes the lineage anew; the change then shows in the diff
        LINEAGE.write_text(text, encoding="utf-8")
    assert text == LINEAGE.read_text(encoding="utf-8")


def evaluated(schedule: dg.ScheduleDefinition, moment: datetime) -> list[str]:
    return [request.partition_key or "" for request in requested(schedule, moment)]


def requested(schedule: dg.ScheduleDefinition, moment: datetime) -> Sequence[dg.RunRequest]:
    with TemporaryDirectory() as folder, dg.DagsterInstance.local_temp(folder) as instance:
        instance.add_dynamic_partitions(symbols.name or "", ["BTCUSDT", "ETHUSDT"])
        with dg.build_schedule_context(
            instance, scheduled_execution_time=moment, repository_def=defs.get_repository_def()
        ) as context:
            return schedule.evaluate_tick(context).run_requests or []


def test_the_daily_run_asks_for_yesterday_and_for_the_day_whose_outcomes_matured() -> None:
    keys = evaluated(close_days, datetime(2026, 11, 21, 0, 10, tzinfo=UTC))
    assert keys == [
        partition_key(symbol, day) for symbol in ("BTCUSDT", "ETHUSDT") for day in ("2026-11-19", "2026-11-20")
    ]


@pytest.mark.parametrize(
    ("hour", "minute", "day"), [(23, 58, "2026-11-20"), (0, 2, "2026-11-21"), (0, 10, "2026-11-21")]
)
def test_the_refresh_asks_for_today_at_any_minute(hour: int, minute: int, day: str) -> None:
    date = 20 if hour else 21
    keys = evaluated(refresh_today, datetime(2026, 11, date, hour, minute, tzinfo=UTC))
    assert keys == [partition_key("BTCUSDT", day), partition_key("ETHUSDT", day)]


@pytest.mark.parametrize(("minute", "plots"), [(0, "yes"), (15, "no"), (45, "no")])
def test_one_refresh_an_hour_draws(minute: int, plots: str) -> None:
    requests = requested(refresh_today, datetime(2026, 11, 20, 9, minute, tzinfo=UTC))
    assert {request.tags["plots"] for request in requests} == {plots}


@pytest.mark.parametrize("key", ["2025-02-30|BTCUSDT", "2026-11-20|NOPEUSDT", "2099-01-01|BTCUSDT", "BTCUSDT"])
def test_a_partition_that_does_not_exist_is_refused_before_anything_runs(key: str) -> None:
    with TemporaryDirectory() as folder, dg.DagsterInstance.local_temp(folder) as instance:
        instance.add_dynamic_partitions(symbols.name or "", ["BTCUSDT"])
        with pytest.raises(dg.DagsterError, match="partition"):
            defs.resolve_job_def("market_chain").execute_in_process(partition_key=key, instance=instance)
        assert not instance.get_runs()


def test_a_day_key_and_its_first_moment_are_each_others_inverse() -> None:
    assert day_key(day_ms("2024-02-29")) == "2024-02-29"


def test_loading_the_definitions_imports_no_heavy_library() -> None:
    program = (
        "import sys, warnings; warnings.simplefilter('ignore'); import trading_assets.definitions; "
        "print(sorted({'polars', 'pandas', 'numba', 'numpy', 'pyarrow', 'qdrant_client', 'asyncpg', 'aiohttp', 'lmdb', "
        "'rocksdict', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
