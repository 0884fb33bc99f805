"""The event log on the home's own PostgreSQL."""

import time
from pathlib import Path

import dagster as dg
import pytest
from dagster import DagsterEvent, DagsterEventType, EventLogEntry
from dagster._core.events import AssetMaterializationPlannedData
from dagster_postgres.event_log import PostgresEventLogStorage

from resources.dagster_home import dagster_environment
from resources.home import Home
from resources.servers import running
from resources.settings import load_settings
from sensors.event_log import PooledEventLogStorage

RUN = "11111111-1111-1111-1111-111111111111"


def planned(number: int) -> EventLogEntry:
    what = AssetMaterializationPlannedData(dg.AssetKey("candles"), partition=f"2026-11-20|S{number}")
    event = DagsterEvent(DagsterEventType.ASSET_MATERIALIZATION_PLANNED.value, "chain", event_specific_data=what)
    return EventLogEntry(None, 20, "", RUN, time.time(), "candles", "chain", dagster_event=event)


def said() -> EventLogEntry:
    return EventLogEntry(None, 20, "any other event", RUN, time.time(), None, "chain")


def test_the_instance_stores_over_kept_connections_and_faster_than_stock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = Home(tmp_path / "home")
    home.create("simulated", {})
    with running(home, load_settings(home.path, {}), ("postgres",)) as urls:
        for name, value in dagster_environment(home, urls).items():
            monkeypatch.setenv(name, value)
        with dg.DagsterInstance.get() as instance:
            storage = instance.event_log_storage
            assert isinstance(storage, PooledEventLogStorage)
            stock = PostgresEventLogStorage(urls.dagster)
            events = [planned(number) for number in range(100)]
            seconds = {}
            for name, kept in (("stock", stock), ("pooled", storage)):
                started = time.perf_counter()
                for event in [*events, said()]:
                    kept.store_event(event)
                seconds[name] = time.perf_counter() - started
            assert len(storage.get_logs_for_run(RUN)) == 202
            assert seconds["pooled"] < seconds["stock"] / 2, seconds
