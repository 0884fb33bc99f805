"""The keys of symbols × days are those that Dagster's own definition gives, and are worked out once."""

from collections.abc import Iterator
from datetime import UTC, datetime

import dagster as dg
import pytest

from trading_assets.partitions import SymbolDays, days, symbols

STOCK = dg.MultiPartitionsDefinition({"symbol": symbols, "day": days})
RANGE = dg.PartitionKeyRange("2026-11-01|BTCUSDT", "2026-11-19|BTCUSDT")
NIGHT = datetime(2026, 11, 20, 23, 59, 59, tzinfo=UTC)
MORNING, NOON = datetime(2026, 11, 21, tzinfo=UTC), datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.fixture
def ours() -> SymbolDays:
    return SymbolDays()


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions(symbols.name or "", ["BTCUSDT"])
        yield instance


def test_all_keys_follow_the_day_and_the_symbols(ours: SymbolDays, instance: dg.DagsterInstance) -> None:
    seen = []
    for moment, names in ((NIGHT, []), (MORNING, []), (NOON, ["ETHUSDT"])):
        instance.add_dynamic_partitions(symbols.name or "", names)
        with dg.partition_loading_context(moment, instance):
            seen.append(list(ours.get_partition_keys()))
            assert seen[-1] == STOCK.get_partition_keys()
        assert ours.get_partition_keys(moment, instance) == seen[-1]
    assert len(seen[1]) == len(seen[0]) + 1
    assert len(seen[2]) == len(seen[1]) * 2


def test_a_range_has_the_keys_of_its_symbol_only(ours: SymbolDays, instance: dg.DagsterInstance) -> None:
    instance.add_dynamic_partitions(symbols.name or "", ["ETHUSDT"])
    with dg.partition_loading_context(NIGHT, instance):
        for wanted in (RANGE, dg.PartitionKeyRange("2026-11-01|ETHUSDT", "2026-11-02|ETHUSDT"), RANGE):
            assert ours.get_partition_keys_in_range(wanted) == STOCK.get_partition_keys_in_range(wanted)


def test_a_range_of_an_unknown_symbol_is_refused_each_time(ours: SymbolDays, instance: dg.DagsterInstance) -> None:
    wanted = dg.PartitionKeyRange("2026-11-01|NOPEUSDT", "2026-11-02|NOPEUSDT")
    with dg.partition_loading_context(NIGHT, instance):
        for _ in range(2):
            with pytest.raises(dg.DagsterInvalidInvocationError):
                ours.get_partition_keys_in_range(wanted)


def test_keys_are_worked_out_once(ours: SymbolDays, instance: dg.DagsterInstance) -> None:
    with dg.partition_loading_context(NIGHT.replace(hour=8), instance):
        every, ranged = ours.get_partition_keys(), ours.get_partition_keys_in_range(RANGE)
    with dg.partition_loading_context(NIGHT, instance):
        assert ours.get_partition_keys() is every
        assert ours.get_partition_keys_in_range(RANGE) is ranged
