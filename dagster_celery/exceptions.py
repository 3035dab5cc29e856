"""What tasks and results raise: what Celery's users import from ``celery.exceptions``.

Where Celery is imported, each of them that is raised is also of Celery's class of that name.
"""

from dagster_celery._celery_app.task_errors import (
    ChordError,
    Ignore,
    MaxRetriesExceededError,
    Reject,
    Retry,
    SoftTimeLimitExceeded,
)
from dagster_taskiq.errors import TaskRevokedError, WorkerLostError

__all__ = [
    "ChordError",
    "Ignore",
    "MaxRetriesExceededError",
    "Reject",
    "Retry",
    "SoftTimeLimitExceeded",
    "TaskRevokedError",
    "WorkerLostError",
]
