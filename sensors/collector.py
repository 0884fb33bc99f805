"""The collector of the spot streams as a long run, and the sensor that keeps it alive.

The job is one op that lasts until it is ended. It writes the journal, a heartbeat file every second and an observation
every minute; each quarter of an hour that has closed without a hole is a materialization of `trade_batches`. Terminate
in the UI means stop for good; any other end means launch again.
"""

import signal
import time
from collections.abc import Iterator
from typing import Any, Final

import dagster as dg
from dagster import DagsterRunStatus, RunRecord, RunsFilter

from sensors.desire import StreamFiles
from trading.market.timeframe import Timeframe
from trading.stream.supervision import RECENT_S, Launch, Situation, Terminate, Wish, supervise

STREAM: Final = "spot"
JOB: Final = "collect_spot"
TRADE_BATCHES: Final = dg.AssetKey("trade_batches")
OBSERVE_S: Final = 60
IN_PROGRESS: Final = (
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
)


@dg.op(
    out=dg.Out(dg.Nothing),
    pool=f"stream:{STREAM}",
    description="Collect trades until terminated; flushes and makes a checkpoint before it ends.",
)
def collect_trades(context: dg.OpExecutionContext) -> Iterator[Any]:
    """Run the collector in this process and report what it does."""
    files = StreamFiles(STREAM)
    files.set_wish(Wish.RUNNING)
    files.beat({})  # names this process to the supervisor before the imports, which may take long
    from resources.collection import collection

    try:
        with collection() as collecting:
            yield from _reports(files, collecting.beats())
    except BaseException:
        # An end that a person asked for shows in the run's status; a shutdown does not, and changes no wish.
        run = context.instance.get_run_by_id(context.run_id)
        if run is not None and run.status is DagsterRunStatus.CANCELING:
            files.set_wish(Wish.STOPPED)
        raise


def _reports(files: StreamFiles, beats: Iterator[dict[str, Any]]) -> Iterator[Any]:
    observed, window = time.monotonic() - OBSERVE_S, _window_ms()
    for status in beats:
        files.beat(status)
        if time.monotonic() - observed >= OBSERVE_S and status["symbols"]:
            observed = time.monotonic()
            yield dg.AssetObservation(TRADE_BATCHES, metadata=_metadata(status))
        if _window_ms() > window and not any(symbol["holes"] for symbol in status["symbols"].values()):
            window, closed = _window_ms(), window
            start = dg.MetadataValue.timestamp(closed / 1000)
            yield dg.AssetMaterialization(TRADE_BATCHES, metadata=_metadata(status) | {"window_start": start})


def _window_ms() -> int:
    return Timeframe.M15.floor(int(time.time() * 1000))


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
    if not _exchange_known():
        return dg.SkipReason("no exchange is set; set TRADING_EXCHANGE_WS_URL or run 'trading up'")
    last = next(iter(context.instance.get_run_records(RunsFilter(job_name=JOB), limit=1)), None)
    decision = supervise(_situation(context.instance, last))
    if isinstance(decision, Launch):
        if last is not None:
            # A run that was killed keeps its place in the pool until run monitoring comes by, a minute later.
            context.instance.event_log_storage.free_concurrency_slots_for_run(last.dagster_run.run_id)
        # One launch for each end of a run: a tick that is repeated asks for the same key and changes nothing.
        after = last.dagster_run.run_id if last is not None else "the first"
        request = dg.RunRequest(run_key=f"{STREAM}/after {after}", tags={"launched": decision.reason})
        return dg.SensorResult([request])
    if isinstance(decision, Terminate) and last is not None:
        return dg.SkipReason(_end(context.instance, last, decision))
    return dg.SkipReason(decision.reason)


def _exchange_known() -> bool:
    from resources.settings import load_settings

    return bool(load_settings(StreamFiles(STREAM).home).exchange_ws_url)


def _situation(instance: dg.DagsterInstance, last: RunRecord | None) -> Situation:
    now, status = time.time(), last.dagster_run.status if last is not None else None
    failed = instance.get_run_records(RunsFilter(job_name=JOB, statuses=[DagsterRunStatus.FAILURE]), limit=10)
    recent = [end for record in failed if now - (end := record.end_time or now) < RECENT_S]
    beat = StreamFiles(STREAM).last_beat()
    return Situation(
        wish=StreamFiles(STREAM).wish(),
        canceled=status is DagsterRunStatus.CANCELED,
        in_progress=status in IN_PROGRESS,
        started=status is DagsterRunStatus.STARTED,
        running_s=now - (last.start_time or now) if last is not None else 0.0,
        heartbeat_age_s=beat.age_s if beat is not None else None,
        failures=len(recent),
        since_failure_s=now - max(recent) if recent else RECENT_S,
    )


def _end(instance: dg.DagsterInstance, last: RunRecord, decision: Terminate) -> str:
    """End the silent run without Dagster's own termination, which would read as an operator's wish."""
    beat = StreamFiles(STREAM).last_beat()
    process = beat.process() if beat is not None else None
    if process is None:
        instance.report_run_failed(last.dagster_run, message=f"{decision.reason}; its process is gone")
        return f"{decision.reason}; its process is gone, its run is marked failed"
    process.send_signal(signal.SIGKILL if decision.force else signal.SIGINT)
    return f"{decision.reason}; {'killed process' if decision.force else 'asked to end: process'} {process.pid}"
