"""The pieces that tasks are made of, without a worker."""

from typing import Any

import pytest
from dagster import (
    DagsterInstance,
    DagsterRun,
    DagsterRunStatus,
    JobDefinition,
    job,
    op,
    reconstructable,
)
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import pack_value

from dagster_taskiq.errors import (
    CodeLoadError,
    NoInstanceError,
    RunNotFoundError,
    StartsOverError,
    TaskRevokedError,
)
from dagster_taskiq.execution import instances, internal_tasks, run_tasks
from dagster_taskiq.execution.code_loading import load_job
from dagster_taskiq.execution.stop_note import StopNote
from dagster_taskiq.execution.task_context import StopRequest, TaskContext, task_context
from dagster_taskiq.executor import taskiq_executor
from dagster_taskiq.wire.stop_causes import StopCause


@op
def nothing() -> None:
    """Do nothing."""


@job
def by_dagster() -> None:
    nothing()


@job(executor_def=taskiq_executor)
def by_workers() -> None:
    nothing()


def messages_of(instance: DagsterInstance, run: DagsterRun) -> list[str]:
    return [entry.message for entry in instance.all_logs(run.run_id)]


# -- the note about a stop -------------------------------------------------------------------


def note_of(instance: DagsterInstance, run: DagsterRun, *answers: StopRequest | None) -> list[str]:
    """Return what is written if the worker is asked so often, and answers so."""
    remaining = list(answers)
    context = TaskContext("w", stop_request=lambda: remaining.pop(0))
    with task_context(context), StopNote(instance, run, 'Step "a"', "a") as note:
        while len(remaining) > 1:
            note.write_if_stopped()
    return messages_of(instance, run)


def test_a_stop_by_the_worker_is_noted_once(instance: DagsterInstance) -> None:
    run = instance.create_run_for_job(by_dagster)
    stop = StopRequest("It exceeded its time limit.", StopCause.TIME_LIMIT)
    assert note_of(instance, run, None, stop) == [
        'Step "a" is stopped: it exceeded its time limit.'
    ]


def test_a_task_that_is_cancelled_or_not_stopped_is_not_noted(instance: DagsterInstance) -> None:
    run = instance.create_run_for_job(by_dagster)
    assert note_of(instance, run, None, None) == []
    assert note_of(instance, run, StopRequest("cancelled", StopCause.CANCELLED), None) == []


# -- the run of a message --------------------------------------------------------------------


def test_a_run_of_another_storage_is_not_found(instance: DagsterInstance) -> None:
    with pytest.raises(RunNotFoundError, match="must use the same run storage"):
        instances.find_run(instance, "no-such-run")


def test_a_message_without_an_instance_is_refused_and_has_begun_nothing() -> None:
    origin = reconstructable(by_dagster).get_python_origin()
    args = ExecuteRunArgs(origin, "run", instance_ref=None)
    with pytest.raises(NoInstanceError):
        instances.instance_of(args)
    packed: Any = pack_value(args)
    assert not internal_tasks.has_begun(packed, "task")
    assert not internal_tasks.has_begun({"no": "arguments"}, "task")


@pytest.mark.parametrize("status", [DagsterRunStatus.STARTED, DagsterRunStatus.SUCCESS])
def test_a_run_that_has_started_is_not_started_again(
    instance: DagsterInstance, status: DagsterRunStatus
) -> None:
    run = instance.create_run_for_job(by_dagster, status=status)
    with pytest.raises(TaskRevokedError, match=status.value):
        run_tasks._run_to_execute(instance, run.run_id, run_tasks.STARTABLE)
    (message,) = messages_of(instance, run)
    assert message.startswith("Dropped the run's task on worker")


def test_a_run_that_is_cancelled_before_it_starts_ends(instance: DagsterInstance) -> None:
    run = instance.create_run_for_job(by_dagster, status=DagsterRunStatus.CANCELING)
    with pytest.raises(TaskRevokedError):
        run_tasks._run_to_execute(instance, run.run_id, run_tasks.STARTABLE)
    assert instances.find_run(instance, run.run_id).status is DagsterRunStatus.CANCELED


# -- resuming --------------------------------------------------------------------------------


@pytest.mark.parametrize("started", [by_dagster, by_workers])
def test_a_run_is_only_resumed_by_an_executor_that_does_not_start_over(
    instance: DagsterInstance, started: JobDefinition
) -> None:
    run_id = by_dagster.execute_in_process(instance=instance).run_id
    if started is by_workers:
        run_tasks._refuse_to_start_over(instance, run_id, started)
        return
    with pytest.raises(StartsOverError, match=r"1 step\(s\) had begun"):
        run_tasks._refuse_to_start_over(instance, run_id, started)


def test_a_run_of_which_nothing_has_begun_may_start_over(instance: DagsterInstance) -> None:
    run = instance.create_run_for_job(by_dagster)
    run_tasks._refuse_to_start_over(instance, run.run_id, by_dagster)


# -- loading ---------------------------------------------------------------------------------


def test_a_job_is_loaded_after_the_modules_that_are_included(instance: DagsterInstance) -> None:
    run = instance.create_run_for_job(by_dagster)
    origin = reconstructable(by_dagster).get_python_origin()
    assert load_job(instance, run, origin, ["compat_tests.waiting"]).name == "by_dagster"
    with pytest.raises(CodeLoadError, match=r"Cannot import compat_tests\.broken_module"):
        load_job(instance, run, origin, ["compat_tests.broken_module"])
