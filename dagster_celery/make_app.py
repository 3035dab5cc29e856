"""``make_app``, which makes the app of workers and senders. Write ``dagster_taskiq.app.make``."""

from dagster_celery._door import door
from dagster_celery._make_app import make_app, make_app_with_task_routes

__all__ = ["make_app", "make_app_with_task_routes"]

door(__name__)
