"""The collector's supervisor on a Dagster instance, and the files it reads."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dagster as dg
import psutil
import pytest
from dagster import DagsterRunStatus

from resources.servers.process import started_s
from sensors import collector
from sensors.collector import collect_spot, collect_usdm, collector_supervisor
from sensors.desire import StreamFiles
from trading.market.timeframe import Timeframe
from trading.stream.supervision import Wish


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> StreamFiles:
    monkeypatch.setenv("TRADING_HOME", str(tmp_path))
    monkeypatch.setenv("TRADING_EXCHANGE_WS_URL", "ws://127.0.0.1:1")
    return StreamFiles("spot")


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


@contextmanager
def clock_set(monkeypatch: pytest.MonkeyPatch, step_s: float) -> Iterator[None]:
    """Set the wall clock, and with it the boot as Linux then tells it."""
    now, boot = time.time, psutil._pslinux.boot_time
    with monkeypatch.context() as patched:
        patched.setattr(collector.time, "time", lambda: now() + step_s)
        patched.setattr(psutil._pslinux, "boot_time", lambda: boot() + step_s)
        yield


def tick(instance: dg.DagsterInstance) -> dg.SensorResult | dg.SkipReason:
    return collector_supervisor(dg.build_sensor_context(instance=instance))


def run_with(instance: dg.DagsterInstance, *statuses: DagsterRunStatus, job: dg.JobDefinition = collect_spot) -> str:
    run = instance.create_run_for_job(job, status=DagsterRunStatus.NOT_STARTED)
    for status in statuses:
        if status is DagsterRunStatus.CANCELING:
            instance.report_run_canceling(run)
        elif status is DagsterRunStatus.CANCELED:
            instance.report_run_canceled(run)
        elif status is DagsterRunStatus.FAILURE:
            instance.report_run_failed(run)
        else:
            event = dg.DagsterEvent("PIPELINE_START", job.name, message="")
            instance.report_dagster_event(event, run_id=run.run_id)
    return run.run_id


def test_a_wanted_stream_without_a_run_is_launched(files: StreamFiles, instance: dg.DagsterInstance) -> None:
    decision = tick(instance)
    assert isinstance(decision, dg.SensorResult)
    assert len(decision.run_requests or []) == 1


def test_contracts_are_launched_once_spot_is_under_way_and_only_where_they_have_a_root(
    files: StreamFiles, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRADING_FUTURES_REST_URL", "http://127.0.0.1:1")
    assert [request.job_name for request in tick(instance).run_requests] == ["collect_spot"]
    run_with(instance, DagsterRunStatus.STARTED)
    decision = tick(instance)
    assert isinstance(decision, dg.SkipReason) and "usdm: no futures are set" in (decision.skip_message or "")
    monkeypatch.setenv("TRADING_FUTURES_WS_URL", "ws://127.0.0.1:1")
    assert [request.job_name for request in tick(instance).run_requests] == ["collect_usdm"]


def test_contracts_stopped_by_an_operator_stay_so_while_spot_comes_back(
    files: StreamFiles, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRADING_FUTURES_REST_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("TRADING_FUTURES_WS_URL", "ws://127.0.0.1:1")
    ended = (DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING, DagsterRunStatus.CANCELED)
    run_with(instance, *ended, job=collect_usdm)
    run_with(instance, DagsterRunStatus.STARTED, DagsterRunStatus.FAILURE)
    assert [request.job_name for request in tick(instance).run_requests] == ["collect_spot"]
    run_with(instance, DagsterRunStatus.STARTED)
    decision = tick(instance)
    assert isinstance(decision, dg.SkipReason) and "usdm: stopped by an operator" in (decision.skip_message or "")


def test_a_repeated_tick_asks_for_the_same_run(files: StreamFiles, instance: dg.DagsterInstance) -> None:
    run_with(instance, DagsterRunStatus.FAILURE)
    keys = {tick(instance).run_requests[0].run_key for _ in range(2)}
    assert len(keys) == 1


def test_a_canceled_run_stays_stopped(files: StreamFiles, instance: dg.DagsterInstance) -> None:
    run_with(instance, DagsterRunStatus.STARTED, DagsterRunStatus.CANCELING, DagsterRunStatus.CANCELED)
    assert isinstance(tick(instance), dg.SkipReason)


def test_a_failed_run_is_followed_by_another(files: StreamFiles, instance: dg.DagsterInstance) -> None:
    run_with(instance, DagsterRunStatus.STARTED, DagsterRunStatus.FAILURE)
    assert isinstance(tick(instance), dg.SensorResult)


def test_without_an_exchange_nothing_is_launched(
    files: StreamFiles, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TRADING_EXCHANGE_WS_URL")
    decision = tick(instance)
    assert isinstance(decision, dg.SkipReason) and "no exchange" in (decision.skip_message or "")


def test_a_silent_process_is_ended_without_touching_the_wish(files: StreamFiles, instance: dg.DagsterInstance) -> None:
    run_id = run_with(instance, DagsterRunStatus.STARTED)
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        beat = files.home / "run" / "heartbeat" / "spot.json"
        files.beat({})
        own = {"pid": process.pid, "started": started_s(process.pid), "beat_s": time.monotonic() - 3600}
        beat.write_text(json.dumps(json.loads(beat.read_text()) | own))
        started = instance.get_run_records()[0].start_time or 0
        # Its start is moved back, as a run this test could wait for would make it slow.
        assert started
        from trading.stream.supervision import Terminate

        record = instance.get_run_records()[0]
        reason = collector._end(instance, "spot", record, Terminate("no heartbeat for 40 s", force=True))
        assert "killed process" in reason
        assert process.wait(10) == -9
        assert "marked failed" in collector._end(instance, "spot", record, Terminate("no heartbeat", force=True))
        assert instance.get_run_by_id(run_id).status is DagsterRunStatus.FAILURE
        assert files.wish() is Wish.RUNNING
    finally:
        process.kill()


def test_a_reused_pid_is_not_taken_for_the_collector(files: StreamFiles) -> None:
    files.beat({})
    beat = files.home / "run" / "heartbeat" / "spot.json"
    assert files.last_beat().process() is not None
    beat.write_text(json.dumps(json.loads(beat.read_text()) | {"started": 1.0}))
    assert files.last_beat().process() is None


def test_a_collector_lives_on_when_the_wall_clock_is_set_or_the_machine_has_slept(
    files: StreamFiles, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_with(instance, DagsterRunStatus.STARTED)
    files.beat({})
    for step_s in (-8 * 3600.0, 8 * 3600.0):
        with clock_set(monkeypatch, step_s):
            decision = tick(instance)
            assert isinstance(decision, dg.SkipReason) and "spot: alive" in (decision.skip_message or "")
            assert files.last_beat().process() is not None


def test_a_collector_that_failed_is_launched_though_the_wall_clock_was_set_back(
    files: StreamFiles, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_with(instance, DagsterRunStatus.STARTED, DagsterRunStatus.FAILURE)
    with clock_set(monkeypatch, -3600.0):
        assert [request.job_name for request in tick(instance).run_requests] == ["collect_spot"]


def test_the_beat_of_a_home_that_was_copied_while_it_ran_is_not_the_copy_s(files: StreamFiles, tmp_path: Path) -> None:
    files.beat({})
    shutil.copytree(files.home / "run", tmp_path / "copy" / "run")
    assert files.last_beat() is not None
    assert StreamFiles("spot", tmp_path / "copy").last_beat() is None


def test_a_beat_of_before_a_boot_or_that_a_loss_of_power_emptied_is_none(files: StreamFiles) -> None:
    files.beat({})
    beat = files.home / "run" / "heartbeat" / "spot.json"
    beat.write_text(json.dumps(json.loads(beat.read_text()) | {"beat_s": time.monotonic() + 1e6}))
    assert files.last_beat() is None
    beat.write_text("")
    assert files.last_beat() is None


def test_the_wish_is_kept(files: StreamFiles) -> None:
    assert files.wish() is Wish.RUNNING
    files.set_wish(Wish.STOPPED)
    assert StreamFiles("spot", files.home).wish() is Wish.STOPPED


def windows_reported(files: StreamFiles, monkeypatch: pytest.MonkeyPatch, *proven: dict[str, int]) -> list[list[int]]:
    """Return which windows, counted from the one in which collecting began, are reported at each beat."""
    began_ms = Timeframe.M15.floor(int(time.time() * 1000))
    monkeypatch.setattr(collector, "_window_ms", lambda: began_ms)
    told: list[list[int]] = []

    def beats() -> Iterator[dict[str, Any]]:
        for ends in proven:
            told.append([])
            symbols = {name: {"holes": 0, "proven_until_ms": began_ms + end} for name, end in ends.items()}
            yield {"symbols": symbols}

    for event in collector._reports(files, collector.BATCHES["spot"], beats()):
        if isinstance(event, dg.AssetMaterialization):
            start_s = event.metadata["window_start"].value
            told[-1].append(round((start_s * 1000 - began_ms) / Timeframe.M15.ms))
    return told


def test_a_quarter_of_an_hour_is_reported_once_every_symbol_has_passed_its_end(
    files: StreamFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    quarter = Timeframe.M15.ms
    behind, level = {"BTCUSDT": quarter, "ETHUSDT": quarter - 1}, {"BTCUSDT": quarter, "ETHUSDT": quarter}
    assert windows_reported(files, monkeypatch, {}, behind, level, level) == [[], [], [0], []]


def test_the_quarters_of_an_hour_that_a_hole_held_up_are_all_reported(
    files: StreamFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    held_up, filled = {"BTCUSDT": 5, "ETHUSDT": 3 * Timeframe.M15.ms}, {"BTCUSDT": 3 * Timeframe.M15.ms + 5}
    assert windows_reported(files, monkeypatch, held_up, held_up | filled) == [[], [0, 1, 2]]
