"""The defaults of dagster-celery: RabbitMQ on ``$DAGSTER_CELERY_BROKER_HOST`` or this machine.

Every name here is a setting of an app (:func:`dagster_celery.make_app.make_app`), so nothing else
is defined here.
"""

import os

broker_url = f"pyamqp://guest@{os.getenv('DAGSTER_CELERY_BROKER_HOST', 'localhost')}:5672//"

backend = "rpc://"

result_backend = backend

#: The priority of a step that has no priority tag.
task_default_priority = 5

#: The queue of steps and runs that have no queue tag.
task_default_queue = "dagster"

#: Without effect: a worker takes one message for each free slot.
worker_prefetch_multiplier = 4

#: Without effect: a broker that cannot be reached is tried again until it answers.
broker_transport_options = {
    "max_retries": 3,
    "interval_start": 0,
    "interval_step": 0.2,
    "interval_max": 0.5,
}
