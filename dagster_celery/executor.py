"""``celery_executor``, the executor of dagster-celery. Write ``dagster_taskiq.taskiq_executor``."""

from dagster_celery._door import door
from dagster_celery._executor import CELERY_CONFIG, CeleryExecutor, celery_executor

__all__ = ["CELERY_CONFIG", "CeleryExecutor", "celery_executor"]

door(__name__)
