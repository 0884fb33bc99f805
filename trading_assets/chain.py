"""Run Dagster jobs in this process, one after the other, as told on standard input.

The first line, `begin`, comes once the stores' servers answer. Each further one asks for one job: `instruments`,
`hot_values`, `memory SYMBOL FIRST_DAY LAST_DAY` (from the journal to the market memory) or `measures SYMBOL FIRST_DAY
LAST_DAY` (of trades and books). The first line printed says how many assets these two have, `{"assets_a_symbol": n}`; then
each asset prints one JSON line when it is done, and each job one at its end: `{"run": id, "success": …, "checks":
{"passed": n, "failed": n}, "failures": […]}`. The import of Dagster is paid once, while whoever asks still prepares.
"""

import json
import os
import sys
import warnings

import dagster as dg

# Partitions in two dimensions and backfill policies are beta in Dagster 1.13; saying so at each start helps nobody.
warnings.filterwarnings("ignore", category=dg.BetaWarning)

from trading_assets.automation import MEASURES, MEMORY  # noqa: E402
from trading_assets.definitions import defs  # noqa: E402
from trading_assets.partitions import range_tags  # noqa: E402

PARTS = {"memory": MEMORY, "measures": MEASURES}
"""Of the chain, by command."""


def run_job(instance: dg.DagsterInstance, command: str, *arguments: str) -> None:
    """Run one job and print its outcome."""
    name, tags, selection = "upkeep", {}, [dg.AssetKey(command)]
    if command in PARTS:
        # Nobody looks on here, and drawing takes seconds; what the UI launches draws.
        name, tags = "market_chain", range_tags(*arguments) | {"plots": "no"}
        selection = sorted(PARTS[command].resolve(defs.resolve_asset_graph()))
    result = defs.resolve_job_def(name).execute_in_process(
        instance=instance,
        tags=tags,
        asset_selection=selection,
        raise_on_error=False,
        run_config={"loggers": {"console": {"config": {"log_level": "WARNING"}}}},
    )
    evaluations = result.get_asset_check_evaluations()
    failed = [evaluation for evaluation in evaluations if not evaluation.passed]
    errors = [
        f"{event.step_key}: {(event.event_specific_data.error.cause or event.event_specific_data.error).message.strip()}"  # pyright: ignore
        for event in result.all_events
        if event.is_step_failure
    ]
    outcome = {
        "run": result.run_id,
        "success": result.success,
        "checks": {"passed": len(evaluations) - len(failed), "failed": len(failed)},
        "failures": [f"{e.asset_key.to_user_string()}: {e.description}" for e in failed] + errors,
    }
    print(json.dumps(outcome), flush=True)


def main() -> None:
    """Run each job that a line of standard input asks for."""
    graph = defs.resolve_asset_graph()
    print(json.dumps({"assets_a_symbol": sum(len(part.resolve(graph)) for part in PARTS.values())}), flush=True)
    if sys.stdin.readline():
        with dg.DagsterInstance.get() as instance:
            for line in sys.stdin:
                run_job(instance, *line.split())


if __name__ == "__main__":
    main()
    # All that was opened is closed; to take apart what was imported would take another second.
    sys.stdout.flush()
    os._exit(0)
