"""The event log on the home's own PostgreSQL."""

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import dagster as dg
from dagster import DagsterEvent, DagsterEventType, EventLogEntry
from dagster._core.events import AssetMaterializationPlannedData
from dagster_postgres.event_log import PostgresEventLogStorage

from resources.home import Home
from resources.servers import running
from resources.settings import load_settings
from sensors.event_log import PooledEventLogStorage
from sensors.storages import RunStorage, ScheduleStorage
from tests.sensors.conftest import OfHome

RUN = "11111111-1111-1111-1111-111111111111"


def planned(number: int) -> EventLogEntry:
    what = AssetMaterializationPlannedData(dg.AssetKey("candles"), partition=f"2026-11-20|S{number}")
    event = DagsterEvent(DagsterEventType.ASSET_MATERIALIZATION_PLANNED.value, "chain", event_specific_data=what)
    return EventLogEntry(None, 20, "", RUN, time.time(), "candles", "chain", dagster_event=event)


def said() -> EventLogEntry:
    return EventLogEntry(None, 20, "any other event", RUN, time.time(), None, "chain")


def test_the_instance_stores_over_kept_connections_faster_than_stock_and_makes_a_pool_once(
    of_home: OfHome,
) -> None:
    storage = of_home.instance.event_log_storage
    assert isinstance(storage, PooledEventLogStorage)
    stock = PostgresEventLogStorage(of_home.url)
    events = [planned(number) for number in range(100)]
    seconds = {}
    for name, kept in (("stock", stock), ("pooled", storage)):
        started = time.perf_counter()
        for event in [*events, said()]:
            kept.store_event(event)
        seconds[name] = time.perf_counter() - started
    assert len(storage.get_logs_for_run(RUN)) == 202
    assert seconds["pooled"] < seconds["stock"] / 2, seconds
    # Two runs that meet a new pool at once both ask for it to be made.
    assert [storage.initialize_concurrency_limit_to_default("lmdb") for _ in range(2)] == [True, True]
    assert storage.get_concurrency_info("lmdb").slot_count == 1


def test_all_who_find_no_tables_at_once_come_up(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.create("simulated", {})
    at_once = Barrier(6)

    def made(url: str) -> int:
        at_once.wait()
        runs = RunStorage(postgres_url=url)
        PooledEventLogStorage(postgres_url=url)
        ScheduleStorage(postgres_url=url)
        return runs.get_runs_count()

    with running(home, load_settings(home.path, {}), ("postgres",)) as urls, ThreadPoolExecutor(6) as threads:
        assert list(threads.map(made, [urls.dagster] * 6)) == [0] * 6
