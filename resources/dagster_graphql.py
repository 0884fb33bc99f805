"""Dagster's webserver over GraphQL, for whoever starts runs without importing Dagster."""

import json
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any, Final

from trading.errors import TradingError

REPOSITORY: Final = "__repository__"
LOCATION: Final = "trading"
TIMEOUT_S: Final = 30
FINISHED: Final = frozenset({"SUCCESS", "FAILURE", "CANCELED"})

_LOCATIONS = "{ workspaceOrError { ... on Workspace { locationEntries { name loadStatus locationOrLoadError { __typename ... on PythonError { message } } } } } }"  # noqa: E501
_LAUNCH = """
mutation ($params: ExecutionParams!) { launchRun(executionParams: $params) {
  __typename
  ... on LaunchRunSuccess { run { runId } }
  ... on PythonError { message }
  ... on RunConfigValidationInvalid { errors { message } }
  ... on PipelineNotFoundError { message }
  ... on UnauthorizedError { message }
  ... on InvalidSubsetError { message }
} }
"""
_TERMINATE = """
mutation ($run: String!) { terminateRun(runId: $run) {
  __typename
  ... on TerminateRunFailure { message }
  ... on PythonError { message }
} }
"""
_STEPS = """
query ($run: ID!) { runOrError(runId: $run) { ... on Run { executionPlan { steps { key } } stepStats { status } } } }
"""
_RUN = "query ($run: ID!) { runOrError(runId: $run) { __typename ... on Run { status } } }"


class DagsterRefused(TradingError):
    """Dagster did not do what it was asked."""


class DagsterUi:
    """One webserver.

    Args:
        url: Its root, e.g. `http://127.0.0.1:3000`.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, query: str, variables: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return the data that answers a query.

        Raises:
            DagsterRefused: The webserver found an error in it.
            OSError: It does not answer.
        """
        body = json.dumps({"query": query, "variables": dict(variables or {})}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})  # noqa: S310
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            content = json.load(answer)
        if content.get("errors"):
            raise DagsterRefused(f"Dagster: {content['errors'][0]['message']}")
        return content["data"]

    def loaded(self) -> bool:
        """Return whether it answers and has loaded the definitions.

        Raises:
            DagsterRefused: The definitions cannot be loaded.
        """
        try:
            entries = self.ask(_LOCATIONS)["workspaceOrError"].get("locationEntries", [])
        except OSError:
            return False
        for entry in entries:
            if (entry["locationOrLoadError"] or {}).get("__typename") == "PythonError":
                message = entry["locationOrLoadError"]["message"].strip().splitlines()[-1]
                raise DagsterRefused(f"the definitions do not load: {message}", "run 'dg check defs'")
        return bool(entries) and all(entry["loadStatus"] == "LOADED" for entry in entries)

    def launch(self, job: str, assets: Sequence[str] = (), tags: Mapping[str, str] | None = None) -> str:
        """Ask for a run of a job, or of some of its assets, and return the run's id."""
        selector: dict[str, Any] = {
            "repositoryName": REPOSITORY,
            "repositoryLocationName": LOCATION,
            "pipelineName": job,
        }
        if assets:
            selector["assetSelection"] = [{"path": [name]} for name in assets]
        written = [{"key": key, "value": value} for key, value in (tags or {}).items()]
        params = {"selector": selector, "runConfigData": "{}", "executionMetadata": {"tags": written}}
        answer = self.ask(_LAUNCH, {"params": params})["launchRun"]
        if answer["__typename"] != "LaunchRunSuccess":
            reason = answer.get("message") or answer.get("errors") or answer["__typename"]
            raise DagsterRefused(f"{job} was not started: {reason}")
        return answer["run"]["runId"]

    def status(self, run_id: str) -> str:
        """Return a run's status, e.g. `STARTED`."""
        return self.ask(_RUN, {"run": run_id})["runOrError"].get("status", "UNKNOWN")

    def steps(self, run_id: str) -> tuple[int, int]:
        """Return how many steps of a run have succeeded, and how many there are."""
        run = self.ask(_STEPS, {"run": run_id})["runOrError"]
        planned = (run.get("executionPlan") or {}).get("steps", [])
        return sum(step["status"] == "SUCCESS" for step in run.get("stepStats", [])), len(planned)

    def terminate(self, run_id: str) -> None:
        """Ask a run to end, as Terminate in the UI does."""
        answer = self.ask(_TERMINATE, {"run": run_id})["terminateRun"]
        if answer["__typename"] != "TerminateRunSuccess":
            raise DagsterRefused(f"{run_id} was not terminated: {answer.get('message', answer['__typename'])}")
