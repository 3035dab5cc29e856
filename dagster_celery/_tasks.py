"""Dagster's tasks, defined on an app."""

from collections.abc import Mapping, Sequence
from typing import Any

from dagster._grpc.types import ExecuteStepArgs
from dagster._serdes import serialize_value, unpack_value

from dagster_celery._celery_app.app import CeleryApp
from dagster_celery._celery_app.task import Task
from dagster_taskiq.execution import instances
from dagster_taskiq.execution.run_tasks import execute_job, resume_job
from dagster_taskiq.execution.step_task import execute_plan
from dagster_taskiq.wire.task_names import EXECUTE_JOB, EXECUTE_PLAN, RESUME_JOB


def create_task(celery_app: CeleryApp, **task_kwargs: Any) -> Task:
    """Define the task that executes a step.

    Args:
        celery_app: the app.
        task_kwargs: options of the task.

    Returns:
        The task. It takes packed ``ExecuteStepArgs`` and ``ReconstructableJob.to_dict()``, and
        returns the step's events, serialized. If a run loop has sent it, it returns ``None``: the
        run loop reads the events from Dagster's event log.
    """

    def _execute_plan(
        self: Task,
        execute_step_args_packed: dict[str, Any],
        executable_dict: dict[str, Any],
        **others: Any,
    ) -> list[str] | None:
        execute_plan(execute_step_args_packed, executable_dict, **others)
        return None if self.request.run_id else _events_of(execute_step_args_packed)

    return celery_app.task(bind=True, name=EXECUTE_PLAN, **task_kwargs)(_execute_plan)


def create_execute_job_task(celery: CeleryApp, **task_kwargs: Any) -> Task:
    """Define the task that executes a run; it takes packed ``ExecuteRunArgs``.

    Args:
        celery: the app.
        task_kwargs: options of the task.
    """

    def _execute_job(
        self: Task,
        execute_job_args_packed: dict[str, Any],
        include: Sequence[str] = (),
        **others: Any,
    ) -> int:
        execute_job(execute_job_args_packed, include, **others)
        return 0

    return celery.task(bind=True, name=EXECUTE_JOB, **task_kwargs)(_execute_job)


def create_resume_job_task(celery: CeleryApp, **task_kwargs: Any) -> Task:
    """Define the task that resumes a run; it takes packed ``ResumeRunArgs``.

    Args:
        celery: the app.
        task_kwargs: options of the task.
    """

    def _resume_job(
        self: Task,
        resume_job_args_packed: dict[str, Any],
        include: Sequence[str] = (),
        previous_task_id: str = "",
        **others: Any,
    ) -> int:
        resume_job(resume_job_args_packed, include, previous_task_id, **others)
        return 0

    return celery.task(bind=True, name=RESUME_JOB, **task_kwargs)(_resume_job)


def _events_of(execute_step_args_packed: Mapping[str, Any]) -> list[str]:
    """Return the events of the steps of these arguments from the event log, serialized."""
    args = unpack_value(dict(execute_step_args_packed), as_type=ExecuteStepArgs)
    logs = instances.instance_of(args).all_logs(args.run_id)
    events = [entry.dagster_event for entry in logs]
    keys = args.step_keys_to_execute or ()
    return [serialize_value(each) for each in events if each and each.step_key in keys]
