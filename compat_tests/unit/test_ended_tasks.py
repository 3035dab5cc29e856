"""What is written for a step whose task has ended."""

from collections.abc import Collection

import pytest
from dagster import DagsterInstance
from dagster_shared.error import SerializableErrorInfo

from compat_tests.unit.doubles import EmptyLog, FakeClient, make_step
from dagster_taskiq.runs.ended_tasks import EndedTasks
from dagster_taskiq.runs.outcomes import Outcomes
from dagster_taskiq.runs.progress import Progress
from dagster_taskiq.runs.resumption import Resumption
from dagster_taskiq.runs.servers import Servers
from dagster_taskiq.runs.steps_in_flight import StepInFlight, StepsInFlight
from dagster_taskiq.wire.records import TaskState
from dagster_taskiq.wire.watching_tasks import EXECUTE_STEP_DOCKER


class LogReader(Progress):
    """Finds the ends of some steps when the log is read."""

    def __init__(self, steps: StepsInFlight) -> None:
        self._steps = steps
        self.ends: set[str] = set()

    def update(self, step_keys: Collection[str] = ()) -> None:
        for key in self.ends.intersection(step_keys):
            step = self._steps.get(key)
            if step is not None:
                self._steps.end_step(step)


class Recorder(Outcomes):
    """Notes what would be written, by the key of the step."""

    def __init__(self) -> None:
        self.errors: dict[str, SerializableErrorInfo] = {}

    def record(self, step: StepInFlight, error: SerializableErrorInfo) -> None:
        self.errors[step.key] = error


class Rerunner(Resumption):
    """Notes which steps would be run again, and why."""

    def __init__(self) -> None:
        self.again: dict[str, str] = {}
        self.watched_again: dict[str, str] = {}

    def run_again(self, step: StepInFlight, why: str) -> None:
        self.again[step.key] = why

    def watch_again(self, step: StepInFlight, why: str) -> None:
        self.watched_again[step.key] = why


class Run:
    def __init__(self, instance: DagsterInstance) -> None:
        self.client = FakeClient()
        self.steps = StepsInFlight()
        self.log = EmptyLog()
        self.reader = LogReader(self.steps)
        self.outcomes = Recorder()
        self.resumption = Rerunner()
        self.ended_tasks = EndedTasks(
            Servers(self.client, self.steps, self.log.report),
            self.steps,
            self.log,
            self.reader,
            self.outcomes,
            self.resumption,
            instance,
            "run",
        )

    def end(self, key: str, state: TaskState, task_name: str = "") -> StepInFlight:
        """Put a step in flight whose task has ended in this state."""
        step = make_step(key)
        self.steps.add(step)
        self.client.add(key, state, name=task_name)
        self.steps.report_task_end(key)
        return step


@pytest.fixture
def run(instance: DagsterInstance) -> Run:
    return Run(instance)


@pytest.mark.parametrize(
    ("state", "error"),
    [
        (TaskState.FAILURE, "TaskFailedError"),
        (TaskState.REVOKED, "TaskRevokedError"),
        (TaskState.LOST, "WorkerLostError"),
    ],
)
def test_a_step_without_an_end_fails_with_an_error_of_its_own(
    run: Run, state: TaskState, error: str
) -> None:
    step = run.end("a", state)
    run.ended_tasks.settle()
    recorded = run.outcomes.errors["a"]
    assert recorded.cls_name == error
    assert f'The task of step "a" ended before the step did ({state.value}).' in recorded.message
    assert step.task_ended


def test_a_step_whose_end_is_in_the_log_is_left_alone(run: Run) -> None:
    run.end("a", TaskState.SUCCESS)
    run.reader.ends = {"a"}
    run.ended_tasks.settle()
    assert (run.outcomes.errors, run.steps.keys, run.steps.finalizing) == ({}, [], [])


def test_the_end_of_a_task_that_has_returned_is_looked_for_again(run: Run) -> None:
    step = run.end("a", TaskState.SUCCESS)
    run.ended_tasks.settle()
    assert run.outcomes.errors == {}
    assert step.end_missing_since is not None
    run.reader.ends = {"a"}
    run.ended_tasks.settle()
    assert (run.outcomes.errors, run.steps.keys, run.steps.finalizing) == ({}, [], [])


def test_a_task_that_has_returned_long_ago_without_an_end_fails_its_step(run: Run) -> None:
    step = run.end("a", TaskState.SUCCESS)
    step.end_missing_since = 0.0
    run.ended_tasks.settle()
    assert run.outcomes.errors["a"].cls_name == "StepEndMissingError"


def test_a_step_that_had_died_before_the_run_was_resumed_is_run_again(run: Run) -> None:
    run.end("a", TaskState.LOST).rerun_reason = "its worker was lost"
    run.ended_tasks.settle()
    assert run.resumption.again == {"a": "its worker was lost"}
    assert (run.outcomes.errors, run.steps.keys) == ({}, [])


def test_a_step_that_a_dead_task_only_watched_is_watched_again(run: Run) -> None:
    run.end("a", TaskState.LOST, EXECUTE_STEP_DOCKER)
    run.end("b", TaskState.FAILURE, EXECUTE_STEP_DOCKER)
    run.ended_tasks.settle()
    assert run.resumption.watched_again.keys() == {"a"}
    # One that has ended by itself has said what became of the step.
    assert run.outcomes.errors.keys() == {"b"}


def test_a_task_whose_server_does_not_answer_is_looked_at_again(run: Run) -> None:
    run.end("a", TaskState.LOST)
    run.client.is_down = True
    run.ended_tasks.settle()
    assert run.outcomes.errors == {}
    run.client.is_down = False
    run.ended_tasks.settle()
    assert run.outcomes.errors.keys() == {"a"}


def test_a_task_that_has_not_ended_after_all_leaves_its_step_in_flight(run: Run) -> None:
    run.end("a", TaskState.STARTED)
    run.ended_tasks.settle()
    assert (run.outcomes.errors, run.steps.keys) == ({}, ["a"])
