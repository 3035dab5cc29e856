"""The defaults of dagster-celery: RabbitMQ on ``$DAGSTER_CELERY_BROKER_HOST`` or this machine."""

import os

from dagster_celery._door import door

broker_url = f"pyamqp://guest@{os.getenv('DAGSTER_CELERY_BROKER_HOST', 'localhost')}:5672//"

backend = "rpc://"

result_backend = backend

#: The priority of a step that has no priority tag.
task_default_priority = 5

#: The queue of whatever has no queue tag.
task_default_queue = "dagster"

#: Without effect, as a worker here takes one message for each free slot.
worker_prefetch_multiplier = 4

#: Without effect, as a broker that is away is tried again until it answers.
broker_transport_options = {
    "max_retries": 3,
    "interval_start": 0,
    "interval_step": 0.2,
    "interval_max": 0.5,
}

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
