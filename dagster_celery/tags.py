"""The tags of dagster-celery. Write those of ``dagster_taskiq.tags`` instead; both are read."""

from dagster_celery._door import door
from dagster_taskiq import tags

DAGSTER_CELERY_STEP_PRIORITY_TAG = tags.OLDER_NAMES[tags.PRIORITY_TAG]
DAGSTER_CELERY_RUN_PRIORITY_TAG = tags.OLDER_NAMES[tags.RUN_PRIORITY_TAG]
DAGSTER_CELERY_QUEUE_TAG = tags.OLDER_NAMES[tags.QUEUE_TAG]
DAGSTER_CELERY_TASK_ID_TAG = tags.OLDER_NAMES[tags.TASK_ID_TAG]

__all__ = [
    "DAGSTER_CELERY_QUEUE_TAG",
    "DAGSTER_CELERY_RUN_PRIORITY_TAG",
    "DAGSTER_CELERY_STEP_PRIORITY_TAG",
    "DAGSTER_CELERY_TASK_ID_TAG",
]

door(__name__)
