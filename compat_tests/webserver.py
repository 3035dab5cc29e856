"""Dagster's webserver as its page asks it: over HTTP, in GraphQL."""

import json
import urllib.request
from collections.abc import Sequence
from typing import Any

from compat_tests.waiting import eventually

#: How long an answer may take, in seconds; the first one loads the code location.
ANSWER_SECONDS = 60.0

LOCATIONS = """
query Locations {
  workspaceOrError { ... on Workspace { locationEntries {
    name locationOrLoadError { ... on RepositoryLocation { repositories { name } } }
  } } }
}
"""
RUN = """
query Run($id: ID!) {
  runOrError(runId: $id) {
    ... on Run { status tags { key value } stepStats { stepKey status } }
  }
}
"""
EVENTS = """
query Events($id: ID!) {
  logsForRun(runId: $id) {
    ... on EventConnection { events {
      ... on MessageEvent { message }
      ... on ErrorEvent { error { message } }
    } }
  }
}
"""
TERMINATE = """
mutation Terminate($id: String!) {
  terminateRun(runId: $id) { __typename }
}
"""
LAUNCH = """
mutation Launch($params: ExecutionParams!) {
  launchRun(executionParams: $params) { ... on LaunchRunSuccess { run { runId } } }
}
"""


class Webserver:
    """A webserver, and what one does on its page.

    Args:
        url: its address, without a path.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, query: str, **variables: Any) -> Any:
        """Return the value of the only field of an answer."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/graphql", body, headers)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=ANSWER_SECONDS) as response:
            answer = json.load(response)
        assert "errors" not in answer, answer
        (value,) = answer["data"].values()
        return value

    def is_up(self) -> bool:
        """Return whether it answers, and has loaded a code location."""
        try:
            return self.location() is not None
        except OSError:
            return False

    def location(self) -> tuple[str, str] | None:
        """Return the names of its first code location and of that one's repository."""
        for each in self.ask(LOCATIONS)["locationEntries"]:
            for repository in (each["locationOrLoadError"] or {}).get("repositories", ()):
                return each["name"], repository["name"]
        return None

    def launch(self, job: str, location: str = "", **more: Any) -> str:
        """Launch a run with no config; return its id.

        Args:
            job: the name of its job.
            location: the code location. Default: the first.
            more: further parameters of the execution; ``selector`` is added to that of the job.
        """
        name, repository = (location, "__repository__") if location else self.location()
        selector = {
            "repositoryLocationName": name,
            "repositoryName": repository,
            "jobName": job,
            **more.pop("selector", {}),
        }
        params = {"selector": selector, "runConfigData": {}, "mode": "default", **more}
        return str(self.ask(LAUNCH, params=params)["run"]["runId"])

    def terminate(self, run_id: str) -> None:
        """Do what the button "Terminate" does."""
        assert self.ask(TERMINATE, id=run_id)["__typename"] == "TerminateRunSuccess"

    def run(self, run_id: str) -> Any:
        """Return a run's status, tags and steps."""
        return self.ask(RUN, id=run_id)

    def messages(self, run_id: str) -> Sequence[str]:
        """Return the texts of a run's events, and of their errors."""
        events = self.ask(EVENTS, id=run_id)["events"]
        errors = [each["error"]["message"] for each in events if each.get("error")]
        return [*(each["message"] for each in events), *errors]

    def wait_for_status(self, run_id: str, status: str, timeout: float = 60.0) -> Any:
        """Wait until a run has a status, and return it; fail if it ends with another one."""

        def look() -> Any:
            run = self.run(run_id)
            ended = run["status"] in ("SUCCESS", "FAILURE", "CANCELED")
            assert run["status"] == status or not ended, (run, self.messages(run_id))
            return run if run["status"] == status else None

        return eventually(look, timeout=timeout)
