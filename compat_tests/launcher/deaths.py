"""Helpers for runs that die: their processes, their tasks, how they end, and whose they are."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil
from dagster import DagsterEventType, DagsterInstance
from dagster._core.launcher import CheckRunHealthResult, WorkerStatus
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import GrpcServerTarget

from compat_tests.executor.runs import Outcome
from compat_tests.launcher.fleet import Fleet
from compat_tests.waiting import eventually
from compat_tests.workers import WorkerProcess
from dagster_taskiq.tags import QUEUE_TAG, TASK_ID_TAG
from dagster_taskiq.wire.records import Task

#: The queue of the second worker, which tests may kill.
SECOND_QUEUE = "second"
#: Tags of a run that the second worker shall execute; its steps go to the shared one.
ON_SECOND = {QUEUE_TAG: SECOND_QUEUE}
#: Tags of a run that nobody executes.
ON_NOBODY = {QUEUE_TAG: "nobody"}
#: How often Dagster resumes a run of the fleets that resume.
ATTEMPTS = 2

#: Finds the fleet of a kind of broker whose runs are resumed so often.
MonitoredFleet = Callable[[str, int], Fleet]
#: Finds a fleet's second worker.
SecondWorker = Callable[[Fleet], WorkerProcess]


@contextmanager
def reopened(fleet: Fleet, code_server: GrpcServerTarget) -> Iterator[Fleet]:
    """Open a fleet's instance and workspace once more, as another process would."""
    with (
        DagsterInstance.from_config(fleet.instance.root_directory) as instance,
        WorkspaceProcessContext(instance, code_server) as workspace,
    ):
        yield Fleet(fleet.settings, instance, workspace)


def end_all_runs(fleet: Fleet) -> None:
    """Leave nothing for the next look of the run monitoring, whatever a test has left."""
    for run in fleet.instance.get_runs():
        if not run.is_finished:
            fleet.instance.run_launcher.terminate(run.run_id)
            fleet.instance.report_run_canceled(run)


def taken_by(outcome: Outcome) -> list[int]:
    """Return the processes that have taken a run, one after the other."""
    return [
        int(str(event.engine_event_data.metadata["pid"].value))
        for event in outcome.of(DagsterEventType.ENGINE_EVENT)
        if "has taken the run" in str(event.message)
    ]


def wait_until_taken(outcome: Outcome, times: int = 1) -> int:
    """Wait until so many processes have taken a run, and return the last of them."""
    return eventually(lambda: taken_by(outcome)[times - 1 :], f"the run is taken {times} x")[0]


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def is_running(pid: int) -> bool:
    try:
        # One that nobody has waited for yet is dead all the same.
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until_gone(pid: int) -> None:
    eventually(lambda: not is_running(pid), f"process {pid} is gone")


def task_of(fleet: Fleet, outcome: Outcome) -> Task:
    """Return the record of the task that has a run."""
    task_id = outcome.run.tags[TASK_ID_TAG]
    return fleet.client.tasks([task_id])[task_id]


def wait_until_task_ended(fleet: Fleet, outcome: Outcome) -> Task:
    eventually(lambda: task_of(fleet, outcome).state.is_final, "the run's task has ended")
    return task_of(fleet, outcome)


def wait_until_unhealthy(fleet: Fleet, outcome: Outcome) -> CheckRunHealthResult:
    """Wait until a run's health is FAILED, with nothing but RUNNING before."""

    def failed() -> CheckRunHealthResult | None:
        found = fleet.health(outcome)
        assert found.status in (WorkerStatus.RUNNING, WorkerStatus.FAILED)
        return found if found.status is WorkerStatus.FAILED else None

    result: CheckRunHealthResult = eventually(failed, "the run's health is FAILED")
    return result


def ends_of(outcome: Outcome) -> list[DagsterEventType]:
    """Return the events that end a run; one it should be."""
    ends = (
        DagsterEventType.RUN_SUCCESS,
        DagsterEventType.RUN_FAILURE,
        DagsterEventType.RUN_CANCELED,
    )
    return [event.event_type for event in outcome.events if event.event_type in ends]
