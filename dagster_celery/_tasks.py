"""Dagster's tasks, defined on an app.

What they do is imported when they are executed: a worker's first process, which only reads what
there is on the app, does without Dagster.
"""

from collections.abc import Sequence
from typing import Any

from dagster_celery._celery_app.adopted import served
from dagster_celery._celery_app.app import CeleryApp
from dagster_celery._celery_app.task import Task
from dagster_taskiq.wire.task_names import EXECUTE_JOB, EXECUTE_PLAN, RESUME_JOB


def create_task(celery_app: CeleryApp, **task_kwargs: Any) -> Task:
    """Define the task that executes a step.

    Args:
        celery_app: the app.
        task_kwargs: options of the task.

    Returns:
        The task. It takes packed ``ExecuteStepArgs`` and ``ReconstructableJob.to_dict()``, and
        returns the events of this execution of the step, serialized. If a run loop has sent it, it
        returns ``None``: the run loop reads the events from Dagster's event log.
    """

    def _execute_plan(
        self: Task,
        execute_step_args_packed: dict[str, Any],
        executable_dict: dict[str, Any],
        **others: Any,
    ) -> list[str] | None:
        from dagster._serdes import serialize_value  # noqa: PLC0415

        from dagster_taskiq.execution.step_task import execute_plan, step_events  # noqa: PLC0415

        if self.request.run_id:
            execute_plan(execute_step_args_packed, executable_dict, **others)
            return None
        events = step_events(execute_step_args_packed, executable_dict)
        return [serialize_value(each) for each in events]

    return served(celery_app).task(bind=True, name=EXECUTE_PLAN, **task_kwargs)(_execute_plan)


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
        from dagster_taskiq.execution.run_tasks import execute_job  # noqa: PLC0415

        execute_job(execute_job_args_packed, include, **others)
        return 0

    return served(celery).task(bind=True, name=EXECUTE_JOB, **task_kwargs)(_execute_job)


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
        from dagster_taskiq.execution.run_tasks import resume_job  # noqa: PLC0415

        resume_job(resume_job_args_packed, include, previous_task_id, **others)
        return 0

    return served(celery).task(bind=True, name=RESUME_JOB, **task_kwargs)(_resume_job)
