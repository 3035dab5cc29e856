"""Processes of runs, and their workers, that die: the run ends, says why, and leaves nothing."""

import signal

import psutil
import pytest
from dagster import DagsterEventType, DagsterRunStatus
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.launcher import WorkerStatus
from dagster._core.origin import JobPythonOrigin
from dagster._core.storage.tags import MAX_RUNTIME_SECONDS_TAG
from dagster._core.utils import make_new_run_id

from compat_tests.executor.runs import Outcome
from compat_tests.executor.scratch import Scratch
from compat_tests.launcher.deaths import (
    ON_SECOND,
    SECOND_QUEUE,
    SecondWorker,
    ends_of,
    is_running,
    kill,
    task_of,
    wait_until_gone,
    wait_until_taken,
    wait_until_task_ended,
    wait_until_unhealthy,
)
from compat_tests.launcher.fleet import Fleet
from compat_tests.waiting import eventually
from compat_tests.workers import freeze
from dagster_taskiq.wire.records import TaskState

pytest_plugins = ["compat_tests.launcher.monitored_fleets"]

SUCCESS, FAILURE = DagsterRunStatus.SUCCESS, DagsterRunStatus.FAILURE
CANCELED, STARTED = DagsterRunStatus.CANCELED, DagsterRunStatus.STARTED


@pytest.mark.oldest
def test_a_run_whose_process_exits_fails_with_the_exit_code(fleet: Fleet, scratch: Scratch) -> None:
    outcome = fleet.run("whole_that_dies", scratch)
    assert outcome.status is FAILURE
    assert "exit code 7" in outcome.run_failure()
    assert scratch.count("died") == 1
    assert "exit code 7" in wait_until_task_ended(fleet, outcome).error
    # It has ended, so there is nothing left for Dagster to do.
    assert fleet.health(outcome).status is WorkerStatus.SUCCESS


def test_a_run_whose_process_is_killed_fails_with_the_signal(
    fleet: Fleet, scratch: Scratch
) -> None:
    outcome = fleet.launch("whole_that_waits", scratch)
    scratch.wait_for("waiting")
    kill(wait_until_taken(outcome))
    fleet.wait(outcome)
    assert outcome.status is FAILURE
    assert "SIGKILL" in outcome.run_failure()
    assert "worker shared-" in outcome.run_failure()
    wait_until_task_ended(fleet, outcome)
    assert ends_of(outcome) == [DagsterEventType.RUN_FAILURE]


def test_a_run_whose_op_calls_sys_exit_fails_and_says_so(fleet: Fleet, scratch: Scratch) -> None:
    outcome = fleet.run("whole_that_leaves", scratch)
    assert outcome.status is FAILURE
    assert "SystemExit" in outcome.run_failure() + outcome.failure("leaves")
    assert scratch.count("leaves") == 1
    wait_until_task_ended(fleet, outcome)
    assert ends_of(outcome) == [DagsterEventType.RUN_FAILURE]
    # Neither the worker nor its next child has taken harm.
    assert fleet.run("whole", scratch).status is SUCCESS


def test_a_run_whose_code_does_not_load_fails_and_says_why(fleet: Fleet, scratch: Scratch) -> None:
    made = fleet.create("whole", scratch).run
    origin = made.job_code_origin
    assert origin is not None
    # As after a deploy that the code server has and the worker has not.
    pointer = ModuleCodePointer("compat_tests.launcher.no_such_module", "defs", None)
    elsewhere = origin.repository_origin._replace(code_pointer=pointer)
    moved = made._replace(
        run_id=make_new_run_id(), job_code_origin=JobPythonOrigin("whole", elsewhere)
    )
    fleet.instance.add_run(moved)
    outcome = Outcome(fleet.instance, moved.run_id, scratch)
    fleet.instance.launch_run(outcome.run_id, fleet.workspace.create_request_context())
    fleet.wait(outcome)
    assert outcome.status is FAILURE
    assert "no_such_module" in outcome.run_failure()
    wait_until_task_ended(fleet, outcome)
    assert ends_of(outcome) == [DagsterEventType.RUN_FAILURE]
    assert scratch.count("first") == 0


def test_a_run_that_is_being_cancelled_when_its_process_dies_is_canceled(
    fleet: Fleet, scratch: Scratch
) -> None:
    outcome = fleet.launch("whole_that_ignores_sigterm", scratch)
    scratch.wait_for("waiting")
    assert fleet.terminate(outcome)
    kill(wait_until_taken(outcome))
    fleet.wait(outcome)
    assert outcome.status is CANCELED
    wait_until_task_ended(fleet, outcome)
    assert ends_of(outcome) == [DagsterEventType.RUN_CANCELED]


def test_when_the_process_of_a_run_dies_its_steps_elsewhere_are_stopped(
    fleet: Fleet, scratch: Scratch
) -> None:
    outcome = fleet.launch("relay", scratch)
    scratch.wait_for("held-began")
    kill(wait_until_taken(outcome))
    fleet.wait(outcome)
    assert outcome.status is FAILURE
    assert "SIGKILL" in outcome.run_failure()
    wait_until_gone(int(scratch.lines("held-began")[0]))
    assert_stopped_in_the_middle(outcome)
    # Slots and seats are free again.
    assert fleet.run("spread", scratch).status is SUCCESS


def assert_stopped_in_the_middle(outcome: Outcome) -> None:
    """Check that a relay, its held step being gone, has come no further and ended once."""
    scratch = outcome.scratch
    assert (scratch.count("begins"), scratch.count("held-began")) == (1, 1)
    assert (scratch.count("held-ended"), scratch.total("ends-")) == (0, 0)
    assert len(ends_of(outcome)) == 1


def test_a_frozen_worker_is_given_up_and_does_nothing_more_when_it_thaws(
    watched: Fleet, second_worker: SecondWorker, scratch: Scratch
) -> None:
    worker = second_worker(watched)
    outcome = watched.launch("whole_that_ticks", scratch, tags=ON_SECOND)
    scratch.wait_for("tick")
    watched.wait_for(outcome, STARTED)
    pid = wait_until_taken(outcome)
    freeze([psutil.Process(worker.pid)], watched.settings)
    try:
        health = wait_until_unhealthy(watched, outcome)
        # Whoever is told that it is lost may start it elsewhere: it must not run any more.
        assert not is_running(pid)
        assert worker.name in str(health.msg)
        assert "has been silent for" in str(health.msg)
        ticks = scratch.count("tick")
        assert watched.monitor() == []
        assert outcome.status is FAILURE
        assert worker.name in outcome.run_failure()
    finally:
        worker.signal(signal.SIGCONT)
    # The worker goes on with other work, and says nothing more of what it had lost.
    assert watched.run("whole", scratch, tags=ON_SECOND).status is SUCCESS
    assert scratch.count("tick") == ticks
    assert task_of(watched, outcome).state is TaskState.LOST
    assert ends_of(outcome) == [DagsterEventType.RUN_FAILURE]


def test_a_draining_worker_finishes_its_run_with_its_steps_and_takes_no_other(
    fleet: Fleet, second_worker: SecondWorker, scratch: Scratch
) -> None:
    worker = second_worker(fleet)
    # Nobody else serves the queue of these steps.
    steps_on_second = {"execution": {"config": {"queue": SECOND_QUEUE}}}
    held = fleet.launch("relay", scratch, tags=ON_SECOND, config=steps_on_second)
    scratch.wait_for("held-began")
    worker.signal(signal.SIGTERM)
    eventually(lambda: "Draining" in worker.output(), "the worker is draining")
    queued = fleet.launch("whole", scratch, tags=ON_SECOND)
    scratch.note("go")
    assert worker.wait() == 0
    assert held.status is SUCCESS
    held.assert_sound()
    assert (scratch.count("held-ended"), scratch.count("ends-1")) == (1, 1)
    assert task_of(fleet, queued).state is TaskState.WAITING
    assert fleet.health(queued).status is WorkerStatus.RUNNING
    assert fleet.terminate(queued)
    assert queued.status is CANCELED
    assert scratch.count("first") == 0


@pytest.mark.parametrize("job", ["whole_relay", "relay"])
def test_a_run_that_exceeds_its_maximum_runtime_is_stopped_and_fails_once(
    watched: Fleet, scratch: Scratch, job: str
) -> None:
    outcome = watched.launch(job, scratch, tags={MAX_RUNTIME_SECONDS_TAG: "0.5"})
    scratch.wait_for("held-began")

    def ended() -> bool:
        assert watched.monitor() == []
        return outcome.run.is_finished

    eventually(ended, "the run monitoring ends the run")
    assert outcome.status is FAILURE
    wait_until_gone(int(scratch.lines("held-began")[0]))
    wait_until_task_ended(watched, outcome)
    assert outcome.status is FAILURE
    assert_stopped_in_the_middle(outcome)
    assert outcome.of(DagsterEventType.RUN_CANCELING)
