"""What was repeated is forgotten, on the home's own PostgreSQL; what a day was closed with is not."""

import dagster as dg
import pytest

from sensors import old_runs
from tests.sensors.conftest import OfHome
from trading_assets.definitions import build_defs

DAYS = dg.StaticPartitionsDefinition(["2026-11-20", "2026-11-21"])


@dg.asset(partitions_def=DAYS)
def bars() -> None:
    """Is there."""


def materialized(instance: dg.DagsterInstance, day: str, schedule: str) -> str:
    tags = {old_runs.SCHEDULE_NAME_TAG: schedule} if schedule else {}
    return dg.materialize([bars], instance=instance, partition_key=day, tags=tags).run_id


def test_runs_that_were_repeated_are_forgotten_and_what_they_materialized_stays_so(
    of_home: OfHome, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = of_home.instance
    repeated = [materialized(instance, "2026-11-20", "refresh_today") for _ in range(3)]
    kept = [materialized(instance, "2026-11-20", "close_days"), materialized(instance, "2026-11-21", "")]
    logs = [of_home.home.dagster_home / "storage" / run_id for run_id in (repeated[0], kept[0])]
    assert all(folder.is_dir() for folder in logs)
    assert old_runs.forget_runs.execute_in_process(instance=instance).success
    assert all(instance.get_run_by_id(run_id) for run_id in (*repeated, *kept)), "none is old yet"

    monkeypatch.setattr(old_runs, "KEPT_DAYS", -1)
    monkeypatch.setattr(old_runs, "AT_ONCE", 2)
    assert old_runs.forget_runs.execute_in_process(instance=instance).success
    *forgotten, last = repeated
    assert not any(instance.get_run_by_id(run_id) for run_id in forgotten)
    assert not any(instance.all_logs(run_id) for run_id in forgotten)
    assert all(instance.get_run_by_id(run_id) for run_id in (last, *kept))
    assert instance.get_materialized_partitions(dg.AssetKey("bars")) == set(DAYS.get_partition_keys())
    assert [folder.is_dir() for folder in logs] == [False, True]


def test_only_runs_of_schedules_that_there_are_are_forgotten() -> None:
    schedules = {schedule.name for schedule in build_defs().schedules or ()}
    assert set(old_runs.REPEATED) < schedules
