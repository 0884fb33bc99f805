"""A partition is one symbol on one UTC day.

Symbols are dynamic keys, kept in step with the database's instruments. The last day is today, so that a day can be
refreshed while it fills; the first is the day the exchange opened.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from functools import lru_cache
from itertools import product
from typing import Any, Final

import dagster as dg

from trading.market.timeframe import DAY_MS

symbols: Final = dg.DynamicPartitionsDefinition(name="symbol")
days: Final = dg.DailyPartitionsDefinition(start_date="2017-07-14", end_offset=1)


class SymbolDays(dg.MultiPartitionsDefinition):
    """Symbols × days, whose keys are worked out once.

    Of each key that an asset says something of, Dagster makes all keys of the run's range anew and asks its database
    twice whether the symbol exists; for each check it makes all keys that there are. On 180 days × 23 assets that was
    two fifths of a run's CPU. A range that was valid once stays so in a process, also when its symbol is taken out.
    """

    def __init__(self) -> None:
        super().__init__({"symbol": symbols, "day": days})

    @lru_cache(maxsize=1)  # noqa: B019
    def get_partition_keys_in_range(
        self, partition_key_range: dg.PartitionKeyRange, dynamic_partitions_store: Any = None
    ) -> Sequence[dg.MultiPartitionKey]:
        """Return the keys of a range, in order."""
        return super().get_partition_keys_in_range(partition_key_range, dynamic_partitions_store)

    def get_partition_keys(
        self, current_time: datetime | None = None, dynamic_partitions_store: Any = None
    ) -> Sequence[dg.MultiPartitionKey]:
        """Return all keys, which change with the UTC day and with the symbols."""
        with dg.partition_loading_context(current_time, dynamic_partitions_store) as now:
            return _all_keys(now.effective_dt.astimezone(UTC).date(), tuple(symbols.get_partition_keys()))


@lru_cache(maxsize=1)
def _all_keys(today: date, names: tuple[str, ...]) -> Sequence[dg.MultiPartitionKey]:
    keys = product(days.get_partition_keys(datetime.combine(today, time(), UTC)), names)
    return [dg.MultiPartitionKey({"day": day, "symbol": name}) for day, name in keys]


symbol_days: Final = SymbolDays()


@dataclass(frozen=True)
class SymbolWindow:
    """What one run covers: one symbol over consecutive whole UTC days, as half-open epoch milliseconds."""

    symbol: str
    lo_ms: int
    hi_ms: int

    def days(self) -> list[str]:
        """Return the days as partition keys of the day dimension."""
        return [day_key(ms) for ms in range(self.lo_ms, self.hi_ms, DAY_MS)]


def day_key(time_ms: int) -> str:
    """Return the UTC day that holds a moment, `YYYY-MM-DD`."""
    return datetime.fromtimestamp(time_ms // 1000, UTC).strftime("%Y-%m-%d")


def day_ms(key: str) -> int:
    """Return the first moment (ms) of a UTC day `YYYY-MM-DD`."""
    return int(datetime.strptime(key, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()) * 1000


def partition_key(symbol: str, day: str) -> str:
    """Return the text of a partition key; dimensions stand in the order of their names."""
    return f"{day}|{symbol}"


def range_tags(symbol: str, first_day: str, last_day: str) -> dict[str, str]:
    """Return the tags that make one run cover a symbol from `first_day` to `last_day`, both included."""
    return {
        "dagster/asset_partition_range_start": partition_key(symbol, first_day),
        "dagster/asset_partition_range_end": partition_key(symbol, last_day),
    }


def symbol_window(context: dg.AssetExecutionContext) -> SymbolWindow:
    """Return what this run covers."""
    keys = [key.keys_by_dimension for key in context.partition_keys]  # pyright: ignore
    moments = sorted(day_ms(key["day"]) for key in keys)
    (symbol,) = {key["symbol"] for key in keys}
    return SymbolWindow(symbol, moments[0], moments[-1] + DAY_MS)
