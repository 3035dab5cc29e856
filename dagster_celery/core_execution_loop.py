"""``core_celery_execution_loop``: executes a plan whose steps a function sends.

Write an executor that returns the events of ``dagster_taskiq.runs.run_loop.RunLoop``.
"""

from dagster_celery._door import door
from dagster_celery._execution_loop import DELEGATE_MARKER, core_celery_execution_loop
from dagster_celery._make_app import make_app
from dagster_taskiq.runs.run_loop import TICK_SECONDS

__all__ = ["DELEGATE_MARKER", "TICK_SECONDS", "core_celery_execution_loop", "make_app"]

door(__name__)
