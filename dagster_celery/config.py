"""What every app of dagster-celery is configured with, and the names of its tasks."""

from typing import Any

from dagster_celery._door import door
from dagster_celery.defaults import (
    broker_transport_options,
    task_default_priority,
    task_default_queue,
)
from dagster_taskiq.wire.task_names import EXECUTE_JOB, EXECUTE_PLAN, RESUME_JOB

DEFAULT_CONFIG: dict[str, Any] = {
    "worker_prefetch_multiplier": 1,
    "broker_transport_options": broker_transport_options,
    "task_default_priority": task_default_priority,
    "task_default_queue": task_default_queue,
}

TASK_EXECUTE_PLAN_NAME = EXECUTE_PLAN
TASK_EXECUTE_JOB_NAME = EXECUTE_JOB
TASK_RESUME_JOB_NAME = RESUME_JOB


class dict_wrapper:
    """An object whose attributes are the items of a dictionary."""

    def __init__(self, dictionary: dict[str, Any]) -> None:
        self.__dict__ = dictionary


__all__ = [
    "DEFAULT_CONFIG",
    "TASK_EXECUTE_JOB_NAME",
    "TASK_EXECUTE_PLAN_NAME",
    "TASK_RESUME_JOB_NAME",
    "dict_wrapper",
]

door(__name__)
