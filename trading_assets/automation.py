"""When what is materialized: the whole chain in one run, daily for what has closed, every 15 minutes for today.

A run costs about six CPU seconds and a partition inside a run about 0.03, so the chain is one job and never a run for a
single small step. The schedules are written by hand: the stock builder asks at midnight for the new day, and yesterday's
last hours would stay as they were.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Final

import dagster as dg

from trading_assets.partitions import partition_key, symbols

MEASURES: Final = dg.AssetSelection.groups("microstructure")
"""Made of trades and books alone: a day of which only klines are known has none of them."""

MEMORY: Final = dg.AssetSelection.groups("trades", "candles", "indicators", "rag", "derivatives")

LAKE: Final = dg.AssetSelection.assets("lake")
"""In the chain, so that a day which was repaired or brought later is exported anew by the run that changed it."""

chain: Final = dg.define_asset_job(
    "market_chain",
    MEMORY | MEASURES | LAKE,
    executor_def=dg.in_process_executor,
    description="One symbol over a range of days: from the journal to memory and lake, with measures and derivatives.",
    tags={"chain": "market"},
)
upkeep: Final = dg.define_asset_job(
    "upkeep",
    dg.AssetSelection.assets("instruments", "hot_values"),
    executor_def=dg.in_process_executor,
    description="Instruments from the exchange and hot values for live readers.",
)


retire_days: Final = dg.define_asset_job(
    "retire_days",
    dg.AssetSelection.assets("retention"),
    executor_def=dg.in_process_executor,
    description="Drop from PostgreSQL what is old enough and lies verified in the lake.",
)


watch_database: Final = dg.define_asset_job(
    "watch_database",
    dg.AssetSelection.assets("query_latencies", "table_sizes", "rows_refused"),
    executor_def=dg.in_process_executor,
    description="How long questions to the market database take, how large its tables are, what it refused.",
)


compare_days: Final = dg.define_asset_job(
    "compare_days",
    dg.AssetSelection.assets("live_equals_rebuild"),
    executor_def=dg.in_process_executor,
    description="One symbol over a range of days: what is stored beside what the journal makes of it.",
)


def days_to_close(now: datetime) -> list[str]:
    """Return the days that the daily run asks for: yesterday, and the day whose outcomes have just matured."""
    return [(now - timedelta(days=back)).strftime("%Y-%m-%d") for back in (2, 1)]


def _requests(
    context: dg.ScheduleEvaluationContext, days: list[str], label: str, priority: str
) -> Iterator[dg.RunRequest]:
    names = context.instance.get_dynamic_partitions(symbols.name or "")
    if not names:
        return  # nothing to ask for until "instruments" has been materialized once
    # A picture stays in the event log for good, so of a day's refreshes only the first in each hour draws.
    plots = "no" if label == "today" and context.scheduled_execution_time.minute >= 15 else "yes"
    for symbol in names:
        for day in days:
            yield dg.RunRequest(
                run_key=f"{label}/{context.scheduled_execution_time:%Y-%m-%dT%H:%M}/{symbol}/{day}",
                partition_key=partition_key(symbol, day),
                tags={"dagster/priority": priority, "refresh": label, "plots": plots},
            )


@dg.schedule(
    job=chain, cron_schedule="10 0 * * *", execution_timezone="UTC", default_status=dg.DefaultScheduleStatus.RUNNING
)
def close_days(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
    """At 00:10 UTC close yesterday and fill the outcomes that matured with it."""
    yield from _requests(context, days_to_close(context.scheduled_execution_time.astimezone(UTC)), "daily", "5")


@dg.schedule(
    job=chain, cron_schedule="*/15 * * * *", execution_timezone="UTC", default_status=dg.DefaultScheduleStatus.RUNNING
)
def refresh_today(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
    """Every quarter of an hour bring today up to date, the whole chain in one run a symbol."""
    today = context.scheduled_execution_time.astimezone(UTC).strftime("%Y-%m-%d")
    yield from _requests(context, [today], "today", "10")


@dg.schedule(
    job=compare_days,
    cron_schedule="5 0 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
def compare_yesterday(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest]:
    """At 00:05 UTC hold yesterday against its rebuild, before the run that closes it mends what differs."""
    yesterday = context.scheduled_execution_time.astimezone(UTC) - timedelta(days=1)
    yield from _requests(context, [yesterday.strftime("%Y-%m-%d")], "compare", "5")


keep_hot: Final = dg.ScheduleDefinition(
    name="keep_hot",
    job=upkeep,
    cron_schedule="5,20,35,50 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)

drop_old: Final = dg.ScheduleDefinition(
    name="drop_old",
    job=retire_days,
    cron_schedule="40 1 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)

look_after: Final = dg.ScheduleDefinition(
    name="look_after",
    job=watch_database,
    cron_schedule="35 * * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.RUNNING,
)
