"""``CeleryRunLauncher``, the run launcher of dagster-celery.

Write ``dagster_taskiq.TaskiqRunLauncher``.
"""

from dagster_celery._door import door
from dagster_celery._launcher import CeleryRunLauncher

__all__ = ["CeleryRunLauncher"]

door(__name__)
