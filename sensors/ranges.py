"""What follows when a run over a range of days fails: each half is asked for again, until the bad day stands alone.

One run over many days is what makes a backfill cheap, and what would let one bad day hold up all others. Every write is
idempotent, so that repeating the good days changes no row; a month with one bad day costs ten runs more, not thirty.
"""

from collections.abc import Iterator
from typing import Final

import dagster as dg
from dagster import DagsterEventType, DagsterRun, DagsterRunStatus
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    BACKFILL_ID_TAG,
    PRIORITY_TAG,
)

from trading_assets.automation import chain
from trading_assets.partitions import days, range_tags

BLAMELESS: Final = frozenset(
    {
        *("StoreUnreachable", "DatabaseUnavailable", "CacheUnavailable", "IndexUnavailable"),
        *("ExchangeNotSet", "ArchiveUnreachable", "JournalHeld"),
    }
)
"""Errors that no day is to blame for: a smaller range would meet them too."""

HALF_OF: Final = "half_of"


def halves(days: list[str]) -> list[tuple[str, str]]:
    """Return the first and last day of each half of a range; of a single day there are none."""
    middle = len(days) // 2
    return [(part[0], part[-1]) for part in (days[:middle], days[middle:]) if part] if middle else []


@dg.run_status_sensor(
    run_status=DagsterRunStatus.FAILURE,
    request_job=chain,
    minimum_interval_seconds=5,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Asks for both halves of a failed range of days, so that one bad day does not hold up the others.",
)
def split_failed_ranges(context: dg.RunStatusSensorContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
    """Look at one failed run of the chain or of some of its assets."""
    run = context.dagster_run
    first, last = (run.tags.get(tag) for tag in (ASSET_PARTITION_RANGE_START_TAG, ASSET_PARTITION_RANGE_END_TAG))
    if first is None or last is None:
        yield dg.SkipReason(f"{run.job_name} covered no range of days")
    elif blameless := _causes(context.instance, run) & BLAMELESS:
        yield dg.SkipReason(f"{first} to {last} failed by {', '.join(blameless)}, which no day is to blame for")
    else:
        yield from _requests(run, first, last)


def _requests(run: DagsterRun, first: str, last: str) -> Iterator[dg.RunRequest]:
    (first_day, symbol), (last_day, _) = first.split("|"), last.split("|")
    kept = {tag: run.tags[tag] for tag in (BACKFILL_ID_TAG, PRIORITY_TAG) if tag in run.tags}
    for start, end in halves(list(days.get_partition_keys_in_range(dg.PartitionKeyRange(first_day, last_day)))):
        yield dg.RunRequest(
            run_key=f"{run.run_id}/{start}",
            tags=kept | range_tags(symbol, start, end) | {HALF_OF: run.run_id},
            asset_selection=list(run.asset_selection) if run.asset_selection else None,
        )


def _causes(instance: dg.DagsterInstance, run: DagsterRun) -> set[str]:
    """Return the names of the errors that a run's steps failed by, with what caused them."""
    names: set[str] = set()
    for record in instance.get_records_for_run(run.run_id, of_type=DagsterEventType.STEP_FAILURE).records:
        event = record.event_log_entry.dagster_event
        error = event.step_failure_data.error if event is not None else None
        while error is not None:
            names.add(error.cls_name or "")
            error = error.cause
    return names
