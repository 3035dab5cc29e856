"""Tasks that a worker gives to its own children, about tasks that were executed before."""

from typing import Any

from dagster._grpc.types import ExecuteRunArgs, ExecuteStepArgs, ResumeRunArgs
from dagster._serdes import unpack_value

from dagster_taskiq.client import client_for
from dagster_taskiq.errors import NoInstanceError, TaskRevokedError
from dagster_taskiq.execution.instances import find_run, instance_of
from dagster_taskiq.execution.pool_slots import free_step
from dagster_taskiq.execution.run_ends import PROCESS_ENDED, end_run, stop_steps
from dagster_taskiq.execution.task_beginnings import begun_tasks
from dagster_taskiq.settings.worker_fleet import process_settings
from dagster_taskiq.wire.records import TaskState


def finalize_run(
    args_packed: dict[str, Any], task_id: str, worker_id: str, why: str, may_resume: bool
) -> None:
    """Write the end of a run whose process has died in this worker, and stop its steps.

    Args:
        args_packed: the packed arguments with which the run was sent.
        task_id: the run's task.
        worker_id: the worker that had started it.
        why: what happened, for the run's event log.
        may_resume: whether another process may go on with the run.

    Raises:
        TaskRevokedError: the task is not this worker's any more; another process ends the run.
        ServerUnavailableError: the backend does not answer.
    """
    args = unpack_value(args_packed, as_type=(ExecuteRunArgs, ResumeRunArgs))
    instance = instance_of(args)
    client = client_for(process_settings())
    task = client.tasks([task_id]).get(task_id)
    if task is not None and (task.state, task.worker) != (TaskState.STARTED, worker_id):
        raise TaskRevokedError(f"Task {task_id} is {task.state.value}.")
    if end_run(instance, args.run_id, why, may_resume=may_resume):
        stop_steps(instance, client, args.run_id, PROCESS_ENDED)


def has_begun(args_packed: dict[str, Any], task_id: str) -> bool:
    """Return whether a worker has begun a task before, according to its run's event log.

    Asked if the backend has lost the task's record. A message that is no task of ours, or whose
    run is not here, has begun nothing; why it cannot be executed is reported when it is started.

    Args:
        args_packed: the packed arguments with which the task was sent.
        task_id: the task.
    """
    kinds: Any = (ExecuteStepArgs, ExecuteRunArgs, ResumeRunArgs)
    try:
        args = unpack_value(args_packed, as_type=kinds)
    except Exception:  # whatever is wrong with a message
        return False
    try:
        instance = instance_of(args)
    except NoInstanceError:
        return False
    return task_id in begun_tasks(instance, args.run_id)


def free_step_of_ended_run(args_packed: dict[str, Any]) -> None:
    """Free what a step that was stopped or died holds in Dagster's pools, if its run has ended.

    As long as the run goes on, its loop does that.

    Args:
        args_packed: the packed arguments with which the step was sent.

    Raises:
        RunNotFoundError: the run is not in this worker's instance.
    """
    args = unpack_value(args_packed, as_type=ExecuteStepArgs)
    instance = instance_of(args)
    if find_run(instance, args.run_id).is_finished:
        for step_key in args.step_keys_to_execute or ():
            free_step(instance, args.run_id, step_key)
