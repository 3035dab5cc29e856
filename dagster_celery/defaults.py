"""The defaults of dagster-celery. ``taskiq_executor`` needs none of them: it has its own."""

from dagster_celery._defaults import (
    backend,
    broker_transport_options,
    broker_url,
    result_backend,
    task_default_priority,
    task_default_queue,
    worker_prefetch_multiplier,
)
from dagster_celery._door import door

__all__ = [
    "backend",
    "broker_transport_options",
    "broker_url",
    "result_backend",
    "task_default_priority",
    "task_default_queue",
    "worker_prefetch_multiplier",
]

door(__name__)
