"""The collectors of spot and of perpetual contracts as long runs, and the sensor that keeps them alive.

A job is one op that lasts until it is ended. It writes the journal of its kind of market, a heartbeat file every second and
an observation every minute; each quarter of an hour that every symbol has passed without a hole is a materialization of its
batches, in order and once a run.
Terminate in the UI means stop for good; any other end means launch again.
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

BATCHES: Final = {"spot": dg.AssetKey("trade_batches"), "usdm": dg.AssetKey("contract_batches")}
"""By kind of market, which is also the name of the stream: what its collector reports."""

OBSERVE_S: Final = 60
IN_PROGRESS: Final = (
    DagsterRunStatus.QUEUED,
    DagsterRunStatus.STARTING,
    DagsterRunStatus.STARTED,
    DagsterRunStatus.CANCELING,
)


def collecting_job(kind: str) -> dg.JobDefinition:
    """Return the job that collects one kind of market."""

    @dg.op(
        name=f"collect_{kind}_trades",
        out=dg.Out(dg.Nothing),
        pool=f"stream:{kind}",
        description="Collect until terminated; flushes and makes a checkpoint before it ends.",
    )
    def collect_trades(context: dg.OpExecutionContext) -> Iterator[Any]:
        yield from _collect(context, kind)

    @dg.job(
        name=f"collect_{kind}",
        executor_def=dg.in_process_executor,
        tags={"stream": kind, "dagster/priority": "20"},
        description=f"Collect trades and books of all symbols ({kind}) off the websocket until terminated.",
    )
    def collect() -> None:
        collect_trades()

    return collect


collect_spot: Final = collecting_job("spot")
collect_usdm: Final = collecting_job("usdm")


def _collect(context: dg.OpExecutionContext, kind: str) -> Iterator[Any]:
    """Run the collector in this process and report what it does."""
    files = StreamFiles(kind)
    files.set_wish(Wish.RUNNING)
    files.beat({})  # names this process to the supervisor before the imports, which may take long
    from resources.collection import collection

    try:
        with collection(kind) as collecting:
            yield from _reports(files, BATCHES[kind], collecting.beats())
    except BaseException:
        # An end that a person asked for shows in the run's status; a shutdown does not, and changes no wish.
        run = context.instance.get_run_by_id(context.run_id)
        if run is not None and run.status is DagsterRunStatus.CANCELING:
            files.set_wish(Wish.STOPPED)
        raise


def _reports(files: StreamFiles, batches: dg.AssetKey, beats: Iterator[dict[str, Any]]) -> Iterator[Any]:
    observed, window = time.monotonic() - OBSERVE_S, _window_ms()
    for status in beats:
        files.beat(status)
        if time.monotonic() - observed >= OBSERVE_S and status["symbols"]:
            observed = time.monotonic()
            yield dg.AssetObservation(batches, metadata=_metadata(status))
        proven_ms = min((symbol["proven_until_ms"] for symbol in status["symbols"].values()), default=0)
        while proven_ms >= window + Timeframe.M15.ms:
            start = dg.MetadataValue.timestamp(window / 1000)
            yield dg.AssetMaterialization(batches, metadata=_metadata(status) | {"window_start": start})
            window += Timeframe.M15.ms


def _window_ms() -> int:
    return Timeframe.M15.floor(int(time.time() * 1000))


def _metadata(status: dict[str, Any]) -> dict[str, Any]:
    numbers = {name: value for name, value in status.items() if isinstance(value, int | float)}
    return numbers | {"symbols": dg.MetadataValue.json(status["symbols"])}


@dg.sensor(
    jobs=[collect_spot, collect_usdm],
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Keeps each collector as the operator wants it: relaunches a dead one, leaves a stopped one alone.",
)
def collector_supervisor(context: dg.SensorEvaluationContext) -> dg.SensorResult | dg.SkipReason:
    """Look at each collector's runs and heartbeat and act as `trading.stream.supervision` says.

    One is launched at a time, spot first, so that two that start do not wait for each other's imports.
    """
    said = []
    for kind in BATCHES:
        outcome = _look_after(context.instance, kind)
        if isinstance(outcome, dg.RunRequest):
            return dg.SensorResult([outcome])
        said.append(f"{kind}: {outcome}")
    return dg.SkipReason("; ".join(said))


def _look_after(instance: dg.DagsterInstance, kind: str) -> dg.RunRequest | str:
    """Return the run that a stream needs, or what there is to say."""
    if unknown := _unknown(kind):
        return unknown
    job = f"collect_{kind}"
    last = next(iter(instance.get_run_records(RunsFilter(job_name=job), limit=1)), None)
    decision = supervise(_situation(instance, kind, last))
    if isinstance(decision, Launch):
        if last is not None:
            # A run that was killed keeps its place in the pool until run monitoring comes by, a minute later.
            instance.event_log_storage.free_concurrency_slots_for_run(last.dagster_run.run_id)
        # One launch for each end of a run: a tick that is repeated asks for the same key and changes nothing.
        after = last.dagster_run.run_id if last is not None else "the first"
        return dg.RunRequest(run_key=f"{kind}/after {after}", job_name=job, tags={"launched": decision.reason})
    if isinstance(decision, Terminate) and last is not None:
        return _end(instance, kind, last, decision)
    return decision.reason


def _unknown(kind: str) -> str:
    """Return why nobody can collect a kind of market, where that is so."""
    from resources.settings import load_settings

    settings = load_settings(StreamFiles(kind).home)
    if kind == "usdm":
        roots = settings.futures_ws_url and settings.futures_rest_url
        return "" if roots else "no futures are set; set TRADING_FUTURES_WS_URL and TRADING_FUTURES_REST_URL"
    return "" if settings.exchange_ws_url else "no exchange is set; set TRADING_EXCHANGE_WS_URL or run 'trading up'"


def _situation(instance: dg.DagsterInstance, kind: str, last: RunRecord | None) -> Situation:
    now, status = time.time(), last.dagster_run.status if last is not None else None
    failed = instance.get_run_records(
        RunsFilter(job_name=f"collect_{kind}", statuses=[DagsterRunStatus.FAILURE]), limit=10
    )
    # One that lies ahead is of before the wall clock was set back, and nobody knows how long ago that was.
    recent = [end for record in failed if 0 <= now - (end := record.end_time or now) < RECENT_S]
    beat = StreamFiles(kind).last_beat()
    return Situation(
        wish=StreamFiles(kind).wish(),
        canceled=status is DagsterRunStatus.CANCELED,
        in_progress=status in IN_PROGRESS,
        started=status is DagsterRunStatus.STARTED,
        running_s=now - (last.start_time or now) if last is not None else 0.0,
        heartbeat_age_s=beat.age_s if beat is not None else None,
        failures=len(recent),
        since_failure_s=now - max(recent) if recent else RECENT_S,
    )


def _end(instance: dg.DagsterInstance, kind: str, last: RunRecord, decision: Terminate) -> str:
    """End the silent run without Dagster's own termination, which would read as an operator's wish."""
    beat = StreamFiles(kind).last_beat()
    process = beat.process() if beat is not None else None
    if process is None:
        instance.report_run_failed(last.dagster_run, message=f"{decision.reason}; its process is gone")
        return f"{decision.reason}; its process is gone, its run is marked failed"
    process.send_signal(signal.SIGKILL if decision.force else signal.SIGINT)
    return f"{decision.reason}; {'killed process' if decision.force else 'asked to end: process'} {process.pid}"
