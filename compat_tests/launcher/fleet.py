"""A Dagster deployment whose runs are launched onto workers: instance, code server, monitoring."""

import logging
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from dagster import DagsterInstance, DagsterRunStatus
from dagster._core.launcher import CheckRunHealthResult
from dagster._core.origin import JobPythonOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import GrpcServerTarget
from dagster._daemon.monitoring.run_monitoring import execute_run_monitoring_iteration
from dagster._grpc.client import DagsterGrpcClient
from dagster._utils import find_free_port

from compat_tests.checkout import ROOT
from compat_tests.executor.runs import Outcome
from compat_tests.executor.scratch import SCRATCH_TAG, Scratch
from compat_tests.preloaded import Program, start_program
from compat_tests.waiting import eventually
from compat_tests.workers import executor_config
from dagster_taskiq.client import Client, client_for
from dagster_taskiq.settings.settings import Settings
from dagster_taskiq.wire.records import Worker

#: The code location of the tests.
LOCATION = "launched"
#: The module that the code server loads.
MODULE = "compat_tests.launcher.jobs"


@dataclass
class Fleet:
    """A Dagster instance with the launcher, and a workspace to launch from."""

    settings: Settings
    instance: DagsterInstance
    workspace: WorkspaceProcessContext

    @property
    def client(self) -> Client:
        return client_for(self.settings)

    @property
    def worker(self) -> Worker:
        """The one worker of the default queue; tests that ran before may have left others."""
        (found,) = [each for each in self.client.workers() if self.settings.queue in each.queues]
        return found

    def create(
        self,
        job: str,
        scratch: Scratch,
        *,
        tags: Mapping[str, str] | None = None,
        config: Mapping[str, Any] | None = None,
        origin: Callable[[JobPythonOrigin], JobPythonOrigin] = lambda found: found,
    ) -> Outcome:
        """Make a run of the code location that nobody has launched yet.

        What the code server says of where its code is goes through ``origin``.
        """
        location = self.workspace.create_request_context().get_code_location(LOCATION)
        (repository,) = location.get_repositories().values()
        remote = repository.get_full_job(job)
        plan = location.get_execution_plan(remote, dict(config or {}), None, None, self.instance)
        run = self.instance.create_run(
            job_name=job,
            run_id=None,
            run_config=dict(config or {}),
            resolved_op_selection=None,
            step_keys_to_execute=None,
            status=DagsterRunStatus.NOT_STARTED,
            tags={**remote.run_tags, SCRATCH_TAG: str(scratch.directory), **(tags or {})},
            root_run_id=None,
            parent_run_id=None,
            job_snapshot=remote.job_snapshot,
            execution_plan_snapshot=plan.execution_plan_snapshot,
            parent_job_snapshot=None,
            asset_selection=None,
            asset_check_selection=None,
            op_selection=None,
            remote_job_origin=remote.get_remote_origin(),
            job_code_origin=origin(remote.get_python_origin()),
            asset_graph=repository.asset_graph,
        )
        return Outcome(self.instance, run.run_id, scratch)

    def launch(self, job: str, scratch: Scratch, **arguments: Any) -> Outcome:
        """Make a run and launch it; it is queued when this returns."""
        outcome = self.create(job, scratch, **arguments)
        self.instance.launch_run(outcome.run_id, self.workspace.create_request_context())
        return outcome

    def run(self, job: str, scratch: Scratch, **arguments: Any) -> Outcome:
        """Launch a run and wait until it has ended."""
        return self.wait(self.launch(job, scratch, **arguments))

    def wait(self, outcome: Outcome, timeout: float = 120) -> Outcome:
        """Wait until a run has ended."""
        eventually(lambda: outcome.run.is_finished, f"run {outcome.run_id} ends", timeout)
        return outcome

    def wait_for(self, outcome: Outcome, status: DagsterRunStatus, timeout: float = 60) -> None:
        """Wait until a run has a status."""
        eventually(lambda: outcome.status is status, f"the run is {status.value}", timeout)

    def terminate(self, outcome: Outcome) -> bool:
        """Do what a click on "Terminate" does."""
        return self.instance.run_coordinator.cancel_run(outcome.run_id)

    def waiting(self) -> dict[str, int]:
        """Return how many messages wait, by queue."""
        return {row.queue: row.waiting for row in self.client.depths() if row.waiting}

    def health(self, outcome: Outcome) -> CheckRunHealthResult:
        return self.instance.run_launcher.check_run_worker_health(outcome.run)

    def monitor(self) -> list[Any]:
        """Do what the daemon's run monitoring does at each poll; return the errors it met."""
        logger = logging.getLogger("compat_tests.monitoring")
        found = list(execute_run_monitoring_iteration(self.workspace, logger))
        return [error for error in found if error is not None]


def launcher_config(settings: Settings) -> dict[str, Any]:
    """Return settings as the launcher's config in ``dagster.yaml``."""
    config = {**executor_config(settings), "include": list(settings.include)}
    del config["worker_lost"]
    return config


def write_dagster_yaml(
    home: Path, settings: Settings, more: Mapping[str, Any] | None = None
) -> None:
    """Write the ``dagster.yaml`` of an instance with the launcher."""
    document = {
        "telemetry": {"enabled": False},
        "run_launcher": {
            "module": "dagster_taskiq",
            "class": "TaskiqRunLauncher",
            "config": launcher_config(settings),
        },
        **(more or {}),
    }
    (home / "dagster.yaml").write_text(yaml.safe_dump(document))


@contextmanager
def open_fleet(
    home: Path, settings: Settings, code_server: GrpcServerTarget, **more: Any
) -> Iterator[Fleet]:
    """Open an instance at ``home``, with the launcher and ``more`` in its ``dagster.yaml``."""
    write_dagster_yaml(home, settings, more)
    with (
        DagsterInstance.from_config(str(home)) as instance,
        WorkspaceProcessContext(instance, code_server) as workspace,
    ):
        yield Fleet(settings, instance, workspace)


@contextmanager
def running_code_server(directory: Path, *arguments: str) -> Iterator[GrpcServerTarget]:
    """Start a code server for ``MODULE``, or for what ``arguments`` name."""
    port = find_free_port()
    command = ["api", "grpc", "--port", str(port)]
    command += list(arguments) or ["--module-name", MODULE, "--working-directory", str(ROOT)]
    process = start_program("dagster", command, directory / f"code-server-{port}.log")
    target = GrpcServerTarget(host="localhost", port=port, socket=None, location_name=LOCATION)
    try:
        eventually(lambda: _answers(port, process), "the code server answers")
        yield target
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            # Dagster's server lets what it was asked last end first, however long that takes.
            process.kill()
            process.wait(30)


def _answers(port: int, process: "subprocess.Popen[bytes] | Program") -> bool:
    assert process.poll() is None, "the code server has ended; see its log"
    # A plain connection first: the client prints every try that fails.
    with socket.socket() as probe:
        if probe.connect_ex(("localhost", port)) != 0:
            return False
    return DagsterGrpcClient(port=port, host="localhost").health_check_query() == "SERVING"
