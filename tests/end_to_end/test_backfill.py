"""Backfills as the UI starts them: one bad day among many, its retry, and a refresh beside a long one."""

import os
import time
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
import psycopg2
import pytest

from resources.home import Home
from resources.servers import postgres
from tests.end_to_end.running import Running, until
from trading_assets.definitions import defs

DAYS = 31
SYMBOLS = ("BTCUSDT", "ETHUSDT")
FIRST, BAD = date(2026, 8, 1), date(2026, 8, 3)
LAUNCH = """
mutation ($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message }
} }
"""
RETRY = """
mutation ($params: ReexecutionParams!) { reexecutePartitionBackfill(reexecutionParams: $params) {
  __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message }
} }
"""
BACKFILL = """
query ($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill {
  status runs(limit: 100) { status tags { key value } }
} } }
"""
ASSETS = "{ assetNodes { assetKey { path } isPartitioned partitionStats { numMaterialized numFailed } } }"
MADE_BY = """
query ($partition: String!) { assetNodes {
  assetKey { path } isPartitioned latestMaterializationByPartition(partitions: [$partition]) { runId }
} }
"""
POISON = """
CREATE FUNCTION md.poison() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.open_time >= '{day}Z' AND NEW.open_time < '{day}Z'::timestamptz + interval '24 hours' AND NEW.symbol_id = (
        SELECT symbol_id FROM md.symbol WHERE name = 'BTCUSDT') THEN RAISE EXCEPTION 'a bad day'; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER poison BEFORE INSERT OR UPDATE ON md.candle FOR EACH ROW EXECUTE FUNCTION md.poison();
"""


def partitions(days: int) -> list[str]:
    return [f"{FIRST + timedelta(days=n)}|{symbol}" for symbol in SYMBOLS for n in range(days)]


def statistics(up: Running) -> dict[str, tuple[int, int]]:
    """Return by asset how many partitions are green and red; one that a schedule is just making again is neither."""
    nodes = [node for node in up.ui.ask(ASSETS)["assetNodes"] if node["isPartitioned"]]
    return {
        node["assetKey"]["path"][-1]: tuple(node["partitionStats"][n] for n in ("numMaterialized", "numFailed"))
        for node in nodes
    }


def made_of(name: str) -> set[str]:
    """Return an asset and all that are made of it."""
    graph = defs.resolve_asset_graph()
    found, left = set[str](), [dg.AssetKey(name)]
    while left:
        key = left.pop()
        found.add(key.to_user_string())
        left += [child for child in graph.get(key).child_keys if child.to_user_string() not in found]
    return found


def launch(up: Running, keys: Sequence[str]) -> str:
    selection = [{"path": [name]} for name in statistics(up)]
    answer = up.ui.ask(LAUNCH, {"params": {"partitionNames": list(keys), "assetSelection": selection}})
    assert "backfillId" in answer["launchPartitionBackfill"], answer
    return answer["launchPartitionBackfill"]["backfillId"]


def backfill(up: Running, name: str) -> dict[str, Any]:
    return up.ui.ask(BACKFILL, {"id": name})["partitionBackfillOrError"]


def database(up: Running, statement: str) -> None:
    connection = psycopg2.connect(postgres.url(Home(up.home)))
    with connection, connection.cursor() as cursor:
        cursor.execute(statement)
    connection.close()


def test_one_partition_is_materialized(up: Running) -> None:
    partition = "2026-07-31|BTCUSDT"
    run = up.ui.launch("__ASSET_JOB", sorted(statistics(up)), {"dagster/partition": partition})
    until(lambda: up.ui.status(run) == "SUCCESS", 60, "one partition")
    nodes = [node for node in up.ui.ask(MADE_BY, {"partition": partition})["assetNodes"] if node["isPartitioned"]]
    assert len(nodes) > 20
    for node in nodes:
        assert node["latestMaterializationByPartition"] == [{"runId": run}], node


@pytest.mark.timeout(600)
@pytest.mark.skipif(not os.environ.get("SOAK"), reason="three minutes; SOAK=1 runs it, over 31 days")
def test_one_bad_day_is_red_and_all_others_are_green_until_its_retry(up: Running) -> None:
    before = statistics(up)
    database(up, POISON.format(day=BAD))
    failed = launch(up, partitions(DAYS))
    until(lambda: backfill(up, failed)["status"] == "COMPLETED_FAILED", 500, "the backfill")
    total = DAYS * len(SYMBOLS)
    needs_bars = made_of("candles_1m")
    after = {
        name: (green + total - 1, 1) if name in needs_bars else (green + total, 0)
        for name, (green, _) in before.items()
    }
    # The daemon may call the backfill done between the failure of a range and the start of its halves.
    until(lambda: statistics(up) == after, 120, "the halves of the failed range")

    database(up, "DROP TRIGGER poison ON md.candle; DROP FUNCTION md.poison()")
    params = {"parentRunId": failed, "strategy": "FROM_FAILURE"}
    retried = up.ui.ask(RETRY, {"params": params})["reexecutePartitionBackfill"]["backfillId"]
    until(lambda: backfill(up, retried)["status"] == "COMPLETED_SUCCESS", 120, "the retry")
    (run,) = backfill(up, retried)["runs"]
    assert {"key": "dagster/asset_partition_range_start", "value": f"{BAD}|BTCUSDT"} in run["tags"]
    whole = {name: (green + total, 0) for name, (green, _) in before.items()}
    until(lambda: statistics(up) == whole, 120, "all green")


def test_a_refresh_starts_and_questions_are_answered_beside_a_long_backfill_and_nothing_is_left_of_it(
    up: Running,
) -> None:
    long = launch(up, partitions(100))
    until(lambda: "STARTED" in {run["status"] for run in backfill(up, long)["runs"]}, 60, "the long backfill")
    assert up.collects()
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    asked = time.monotonic()
    tags = {"dagster/partition": f"{today}|BTCUSDT", "dagster/priority": "10", "refresh": "today"}
    refresh = up.ui.launch("market_chain", tags=tags)
    until(lambda: up.ui.status(refresh) in ("STARTED", "SUCCESS"), 30, "the refresh")
    print(f"refresh started after {time.monotonic() - asked:.1f} s")
    for question in (["status"], ["similar", "ETHUSDT"]):
        asked = time.monotonic()
        answer = up.command(*question)
        print(f"{question[0]} answered after {time.monotonic() - asked:.1f} s")
        # A few days are too few for a state: then the answer says so.
        assert "has no market state yet" in answer.get("error", "has no market state yet"), answer
    until(lambda: up.ui.status(refresh) == "SUCCESS", 60, "the refreshed day")
    assert backfill(up, long)["status"] == "REQUESTED"
    cancel = "mutation ($id: String!) { cancelPartitionBackfill(backfillId: $id) { __typename } }"
    up.ui.ask(cancel, {"id": long})
    up.stop()
