"""Runs that Dagster's own processes launch and terminate: the daemon and the webserver."""

import json
import os
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from dagster import DagsterEventType, DagsterRun, DagsterRunStatus
from dagster._core.scheduler.instigation import ScheduleInstigatorData
from dagster._core.workspace.load_target import GrpcServerTarget
from dagster_graphql.client.query import LAUNCH_PARTITION_BACKFILL_MUTATION
from dagster_graphql.test.utils import execute_dagster_graphql

from compat_tests.brokers import BROKERS
from compat_tests.checkout import ROOT
from compat_tests.executor.runs import Outcome
from compat_tests.executor.scratch import SCRATCH_TAG, Scratch
from compat_tests.launcher.fleet import LOCATION, Fleet, open_fleet
from compat_tests.preloaded import Program, start_program
from compat_tests.servers import free_port
from compat_tests.waiting import eventually
from compat_tests.workers import running_worker
from dagster_taskiq.tags import TASK_ID_TAG

#: The repository of the code location.
REPOSITORY = {"repositoryName": "__repository__", "repositoryLocationName": LOCATION}
#: Longer than the interval of any loop of the daemon: what it has missed at first, it does then.
PATIENCE = 120.0

LAUNCH = """
mutation ($params: ExecutionParams!) {
  launchRun(executionParams: $params) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on PythonError { message stack }
  }
}
"""
TERMINATE = """
mutation ($id: String!, $policy: TerminateRunPolicy) {
  terminateRun(runId: $id, terminatePolicy: $policy) { __typename }
}
"""


@contextmanager
def dagster_process(
    home: Path, target: GrpcServerTarget, module: str, *arguments: str
) -> Iterator["subprocess.Popen[bytes] | Program"]:
    """Run one of Dagster's own commands for an instance and the code server."""
    workspace = home / "workspace.yaml"
    server = {"host": target.host, "port": target.port, "location_name": LOCATION}
    workspace.write_text(yaml.safe_dump({"load_from": [{"grpc_server": server}]}))
    environment = {**os.environ, "DAGSTER_HOME": str(home), "PYTHONPATH": str(ROOT)}
    command = [*arguments, "-w", str(workspace)]
    process = start_program(module, command, home / f"{module}.log", environment)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


# The daemon.


def runs_with(fleet: Fleet, tag: str) -> list[DagsterRun]:
    return [run for run in fleet.instance.get_runs() if tag in run.tags]


def start_schedule_of_last_month(fleet: Fleet) -> None:
    """Turn the schedule on, as if that had been so long ago that a tick of it is due."""
    location = fleet.workspace.create_request_context().get_code_location(LOCATION)
    (repository,) = location.get_repositories().values()
    schedule = repository.get_schedule("monthly")
    state = fleet.instance.start_schedule(schedule)
    since = time.time() - 32 * 24 * 3600
    data = ScheduleInstigatorData(schedule.cron_schedule, start_timestamp=since)
    fleet.instance.update_instigator_state(state.with_data(data))


def start_sensor(fleet: Fleet) -> None:
    location = fleet.workspace.create_request_context().get_code_location(LOCATION)
    (repository,) = location.get_repositories().values()
    fleet.instance.start_sensor(repository.get_sensor("once"))


def start_backfill(fleet: Fleet, scratch: Scratch) -> str:
    selector = {
        "partitionSetName": "whole_by_partition_partition_set",
        "repositorySelector": REPOSITORY,
    }
    result = execute_dagster_graphql(
        fleet.workspace.create_request_context(),
        LAUNCH_PARTITION_BACKFILL_MUTATION,
        variables={
            "backfillParams": {
                "selector": selector,
                "partitionNames": ["a", "b"],
                "tags": [{"key": SCRATCH_TAG, "value": str(scratch.directory)}],
            }
        },
    )
    launched = result.data["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched
    return str(launched["backfillId"])


def test_the_daemon_launches_queued_scheduled_sensed_and_backfilled_runs(
    fleet: Fleet, code_server: GrpcServerTarget, tmp_path: Path
) -> None:
    """All in one start of the daemon, which takes long."""
    home = tmp_path / "daemon"
    scratch = Scratch(home / "notes")
    scratch.directory.mkdir(parents=True)
    queue = {"dequeue_interval_seconds": 1}
    coordinator = {"module": "dagster", "class": "QueuedRunCoordinator", "config": queue}
    with open_fleet(
        home,
        fleet.settings,
        code_server,
        run_coordinator=coordinator,
        run_monitoring={"enabled": True, "poll_interval_seconds": 1},
    ) as queued:
        start_schedule_of_last_month(queued)
        start_sensor(queued)
        backfill = start_backfill(queued, scratch)
        submitted = queued.create("whole", scratch)
        queued.instance.submit_run(submitted.run_id, queued.workspace.create_request_context())
        assert submitted.status is DagsterRunStatus.QUEUED

        with dagster_process(home, code_server, "dagster._daemon", "run"):
            queued.wait(submitted, PATIENCE)
            for tag, number in (
                ("dagster/schedule_name", 1),
                ("dagster/sensor_name", 1),
                ("dagster/backfill", 2),
            ):
                eventually(
                    lambda tag=tag, number=number: len(runs_with(queued, tag)) >= number,
                    f"{number} runs with {tag}",
                    PATIENCE,
                )
            eventually(
                lambda: all(run.is_finished for run in queued.instance.get_runs()),
                "all runs have ended",
                PATIENCE,
            )

        runs = queued.instance.get_runs()
        assert {run.status for run in runs} == {DagsterRunStatus.SUCCESS}
        assert all(run.tags[TASK_ID_TAG] == run.run_id for run in runs)
        assert {run.tags["dagster/backfill"] for run in runs_with(queued, "dagster/backfill")} == {
            backfill
        }
        scheduled = len(runs_with(queued, "dagster/schedule_name"))
        assert scratch.count("first") == scratch.count("second") == 1
        assert sorted(scratch.lines("turns")) == [*["schedule"] * scheduled, "sensor"]
        assert sorted(scratch.lines("partitions")) == ["a", "b"]
        for run in runs:
            Outcome(queued.instance, run.run_id, scratch).assert_sound()


# The webserver.


class Webserver:
    """The GraphQL API of a ``dagster-webserver`` for a fleet."""

    def __init__(self, fleet: Fleet, port: int) -> None:
        self.fleet = fleet
        self.port = port

    def ask(self, query: str, variables: Mapping[str, Any]) -> Any:
        """Send a query, and return its data."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/graphql",
            data=json.dumps({"query": query, "variables": variables}).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            body = json.load(answer)
        assert "errors" not in body, body
        return body["data"]

    def answers(self) -> bool:
        try:
            return bool(self.ask("{ version }", {})["version"])
        except (urllib.error.URLError, ConnectionError):
            return False

    def launch(self, job: str, scratch: Scratch, tags: Mapping[str, str] | None = None) -> Outcome:
        """Click on "Launch run"."""
        all_tags = {SCRATCH_TAG: str(scratch.directory), **(tags or {})}
        parameters = {
            "selector": {**REPOSITORY, "jobName": job},
            "runConfigData": {},
            "executionMetadata": {
                "tags": [{"key": key, "value": value} for key, value in all_tags.items()]
            },
        }
        launched = self.ask(LAUNCH, {"params": parameters})["launchRun"]
        assert launched["__typename"] == "LaunchRunSuccess", launched
        return Outcome(self.fleet.instance, launched["run"]["runId"], scratch)

    def terminate(self, outcome: Outcome, policy: str = "SAFE_TERMINATE") -> str:
        """Click on "Terminate", and return what it came to."""
        data = self.ask(TERMINATE, {"id": outcome.run_id, "policy": policy})
        return str(data["terminateRun"]["__typename"])


@pytest.fixture(scope="module", params=BROKERS)
def webserver(
    request: pytest.FixtureRequest,
    fleet_of_kind: Callable[[str], Fleet],
    code_server: GrpcServerTarget,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Webserver]:
    """A webserver that launches by itself what it is asked to, with no daemon in between."""
    home = tmp_path_factory.mktemp("webserver")
    settings = fleet_of_kind(request.param).settings
    coordinator = {"module": "dagster._core.run_coordinator", "class": "DefaultRunCoordinator"}
    with open_fleet(home, settings, code_server, run_coordinator=coordinator) as fleet:
        web = Webserver(fleet, free_port())
        arguments = ("-h", "127.0.0.1", "-p", str(web.port))
        with dagster_process(home, code_server, "dagster_webserver", *arguments) as process:

            def ready() -> bool:
                assert process.poll() is None, "the webserver has ended"
                return web.answers()

            eventually(ready, "the webserver answers", PATIENCE)
            yield web


def assert_stopped(outcome: Outcome, scratch: Scratch) -> None:
    (pid,) = map(int, scratch.lines("waiting"))
    eventually(lambda: not psutil.pid_exists(pid), f"process {pid} is gone")
    assert scratch.count("released") == 0
    assert outcome.status is DagsterRunStatus.CANCELED
    assert len(outcome.of(DagsterEventType.RUN_CANCELED)) == 1


def test_the_webserver_launches_a_run(webserver: Webserver, scratch: Scratch) -> None:
    outcome = webserver.launch("spread", scratch)

    webserver.fleet.wait(outcome)
    assert outcome.status is DagsterRunStatus.SUCCESS
    assert scratch.count("first") == scratch.count("second") == 1
    assert webserver.terminate(outcome) == "TerminateRunFailure", "it has ended"


@pytest.mark.parametrize("job", ["whole_that_waits", "spread_that_waits"])
def test_the_webserver_terminates_what_another_process_launched(
    webserver: Webserver, scratch: Scratch, job: str
) -> None:
    outcome = webserver.fleet.launch(job, scratch)
    scratch.wait_for("waiting")

    assert webserver.terminate(outcome) == "TerminateRunSuccess"

    webserver.fleet.wait(outcome)
    assert_stopped(outcome, scratch)
    outcome.assert_sound()


def test_another_process_terminates_what_the_webserver_launched(
    webserver: Webserver, scratch: Scratch
) -> None:
    outcome = webserver.launch("whole_that_waits", scratch)
    scratch.wait_for("waiting")

    assert webserver.fleet.terminate(outcome)

    webserver.fleet.wait(outcome)
    assert_stopped(outcome, scratch)


@pytest.mark.parametrize(
    "job", ["whole_that_waits", "spread_that_waits", "whole_that_ignores_sigterm"]
)
def test_a_run_that_is_marked_as_canceled_at_once_is_stopped_all_the_same(
    webserver: Webserver, scratch: Scratch, job: str
) -> None:
    outcome = webserver.launch(job, scratch)
    scratch.wait_for("waiting")

    answer = webserver.terminate(outcome, "MARK_AS_CANCELED_IMMEDIATELY")

    assert answer == "TerminateRunSuccess"
    (pid,) = map(int, scratch.lines("waiting"))
    eventually(lambda: not psutil.pid_exists(pid), f"process {pid} is gone")
    workers = webserver.fleet.client.workers
    eventually(lambda: not any(each.running for each in workers()), "the worker is free")
    assert scratch.count("released") == 0
    # How often it is said is Dagster's: it does not look whether the run has ended by itself.
    assert outcome.of(DagsterEventType.RUN_CANCELED)
    assert not outcome.of(DagsterEventType.RUN_FAILURE)
    assert outcome.status is DagsterRunStatus.CANCELED


def test_a_waiting_run_that_is_marked_as_canceled_at_once_never_starts(
    webserver: Webserver, scratch: Scratch, tmp_path: Path
) -> None:
    """Dagster does not ask the launcher then: the worker that gets the message drops it."""
    queue = "web-marked"
    fleet = webserver.fleet
    outcome = webserver.launch("whole", scratch, {"dagster-taskiq/queue": queue})
    assert outcome.says(f'Sent the run to queue "{queue}"')

    answer = webserver.terminate(outcome, "MARK_AS_CANCELED_IMMEDIATELY")

    assert answer == "TerminateRunSuccess"
    with running_worker(fleet.settings, tmp_path, "-q", queue, "-c", "1", name=queue):
        eventually(lambda: outcome.says("Dropped the run's task", "CANCELED already"), "dropped")
    assert outcome.status is DagsterRunStatus.CANCELED
    assert scratch.count("first") == 0
