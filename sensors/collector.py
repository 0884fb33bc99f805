"""The collector of the spot streams as a backed job, and the sensor that keeps it alive.

The job is one long op in its own run. It writes the journal, a heartbeat file every second and an observation every
minute; each quarter of an hour that has closed is reported as a materialization of `trade_batches`. Terminate in the UI
means stop for good; any other end means launch again.
"""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import dagster as dg
from dagster import DagsterRunStatus, RunsFilter

from trading.stream.supervision import RECENT_S, Launch, Situation, Terminate, Wish, supervise

STREAM: Final = "spot"
JOB: Final = "collect_spot"
IN_PROGRESS: Final = [
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.NOT_STARTED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
]
TRADE_BATCHES: Final = dg.AssetKey("trade_batches")
OBSERVE_S: Final = 60


class _Folder:
    """The supervisor's files in the home: the operator's wish and the collector's heartbeat."""

    def __init__(self) -> None:
        self._path = Path(os.environ.get("TRADING_HOME", ".trading")) / "run"

    def wish(self) -> Wish:
        file = self._path / f"{STREAM}.wish"
        return Wish(file.read_text(encoding="utf-8")) if file.exists() else Wish.RUNNING

    def set_wish(self, wish: Wish) -> None:
        self._path.mkdir(parents=True, exist_ok=True)
        unfinished = self._path / f"{STREAM}.wish.unfinished"
        unfinished.write_text(wish.value, encoding="utf-8")
        unfinished.replace(self._path / f"{STREAM}.wish")

    def beat(self, status: dict[str, Any]) -> None:
        unfinished = self._path / f"{STREAM}.heartbeat.unfinished"
        unfinished.write_text(json.dumps(status), encoding="utf-8")
        unfinished.replace(self._path / f"{STREAM}.heartbeat")

    def heartbeat_age_s(self) -> float | None:
        file = self._path / f"{STREAM}.heartbeat"
        return time.time() - file.stat().st_mtime if file.exists() else None


@dg.op(
    out=dg.Out(dg.Nothing),
    pool=f"stream:{STREAM}",
    description="Collect trades until terminated; flushes and makes a checkpoint before it ends.",
)
def collect_trades(context: dg.OpExecutionContext) -> Iterator[Any]:
    """Run the collector in this process and report what it does."""
    from resources.collection import collection

    folder = _Folder()
    folder.set_wish(Wish.RUNNING)
    with collection() as running:
        observed = 0.0
        try:
            for status in running.beats():
                folder.beat(status)
                if time.monotonic() - observed >= OBSERVE_S:
                    observed = time.monotonic()
                    yield dg.AssetObservation(TRADE_BATCHES, metadata=_metadata(status))
                if running.window_closed():
                    yield dg.AssetMaterialization(TRADE_BATCHES, metadata=_metadata(status))
        except BaseException:
            # Terminate arrives as an interrupt; a user's wish shows in the run's status, a shutdown does not.
            run = context.instance.get_run_by_id(context.run_id)
            if run is not None and run.status in (DagsterRunStatus.CANCELING, DagsterRunStatus.CANCELED):
                folder.set_wish(Wish.STOPPED)
            raise


def _metadata(status: dict[str, Any]) -> dict[str, Any]:
    numbers = {name: value for name, value in status.items() if isinstance(value, int | float)}
    return numbers | {"symbols": dg.MetadataValue.json(status["symbols"])}


@dg.job(
    name=JOB,
    executor_def=dg.in_process_executor,
    tags={"stream": STREAM, "dagster/priority": "20"},
    description="Collect trades of all symbols off the websocket into the journal, until terminated.",
)
def collect_spot() -> None:
    """One run collects; the supervisor keeps one running."""
    collect_trades()


@dg.sensor(
    job=collect_spot,
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Keeps the collector as the operator wants it: relaunches a dead one, leaves a stopped one alone.",
)
def collector_supervisor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Look at the collector's runs and heartbeat and act as `trading.stream.supervision` says."""
    decision = supervise(_situation(context.instance))
    if isinstance(decision, Launch):
        attempt = int(context.cursor or "0") + 1
        request = dg.RunRequest(run_key=f"{STREAM}/{attempt}", tags={"launched": decision.reason})
        return dg.SensorResult([request], cursor=str(attempt))
    if isinstance(decision, Terminate):
        for run in context.instance.get_runs(RunsFilter(job_name=JOB, statuses=IN_PROGRESS)):
            context.instance.report_run_failed(run, message=decision.reason)
    return dg.SkipReason(decision.reason)


def _situation(instance: dg.DagsterInstance) -> Situation:
    now = time.time()
    current = instance.get_run_records(RunsFilter(job_name=JOB, statuses=IN_PROGRESS), limit=1)
    failed = instance.get_run_records(RunsFilter(job_name=JOB, statuses=[DagsterRunStatus.FAILURE]), limit=10)
    recent = [record.end_time or now for record in failed if now - (record.end_time or now) < RECENT_S]
    started = bool(current) and current[0].dagster_run.status is DagsterRunStatus.STARTED
    return Situation(
        wish=_Folder().wish(),
        in_progress=bool(current),
        started=started,
        running_s=now - (current[0].start_time or now) if started else 0.0,
        heartbeat_age_s=_Folder().heartbeat_age_s(),
        failures=len(recent),
        since_failure_s=now - max(recent) if recent else RECENT_S,
    )
