"""Dagster's tasks, to be defined on an app. Every broker of ``dagster_taskiq.app`` has them."""

from dagster_celery._door import door
from dagster_celery._tasks import create_execute_job_task, create_resume_job_task, create_task

__all__ = ["create_execute_job_task", "create_resume_job_task", "create_task"]

door(__name__)
