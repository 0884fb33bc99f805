"""Runs that Dagster need not remember: those that were repeated since, with what they materialized.

A run of the chain writes some 300 events, half a megabyte, and each symbol's today is refreshed every quarter of an hour:
kept for ever, that would fill a disk within months. The last one is kept of each, so that a day stays materialized that
nothing closed, and so is whatever a person launched.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

import dagster as dg
from dagster import DagsterRunStatus, RunRecord, RunsFilter

KEPT_DAYS: Final = 7
AT_ONCE: Final = 200
REPEATED: Final = ("refresh_today", "keep_hot", "look_after", "forget_repeated")
"""Schedules whose runs the next ones repeat."""

SCHEDULE_NAME_TAG: Final = "dagster/schedule_name"
PARTITION_TAG: Final = "dagster/partition"
FINISHED: Final = (DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE, DagsterRunStatus.CANCELED)


def _repeated(instance: dg.DagsterInstance, before: datetime) -> Iterator[str]:
    """Return the old runs after which the same schedule had the same partition made again."""
    for schedule in REPEATED:
        newest: dict[str, str] = {}
        cursor, records = None, list[RunRecord]()
        while records or cursor is None:
            wanted = RunsFilter(tags={SCHEDULE_NAME_TAG: schedule}, statuses=FINISHED)
            records = instance.get_run_records(wanted, limit=AT_ONCE, cursor=cursor)
            for record in records:  # the newest first
                run = record.dagster_run
                partition = run.tags.get(PARTITION_TAG, "")
                if partition in newest and record.create_timestamp < before:
                    yield run.run_id
                elif run.status is DagsterRunStatus.SUCCESS:
                    newest.setdefault(partition, run.run_id)
            cursor = records[-1].dagster_run.run_id if records else ""


@dg.op(out=dg.Out(dg.Nothing))
def forget(context: dg.OpExecutionContext) -> None:
    """Delete old runs of `REPEATED` schedules with their events and logs."""
    count = 0
    for run_id in list(_repeated(context.instance, datetime.now(UTC) - timedelta(days=KEPT_DAYS))):
        context.instance.delete_run(run_id)
        context.instance.compute_log_manager.delete_logs(prefix=[run_id])
        count += 1
    context.log.info("%d runs of more than %d days ago are forgotten", count, KEPT_DAYS)


@dg.job(
    name="forget_runs",
    executor_def=dg.in_process_executor,
    description="Forget what Dagster remembers of runs that were repeated since.",
)
def forget_runs() -> None:
    """One step."""
    forget()


forget_repeated: Final = dg.ScheduleDefinition(
    name="forget_repeated",
    job=forget_runs,
    cron_schedule="25 2 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
