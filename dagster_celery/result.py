"""Results of tasks: what Celery's users import from ``celery.result``."""

from dagster_celery._celery_app.results import (
    AsyncResult,
    EagerResult,
    GroupResult,
    result_from_tuple,
)

__all__ = ["AsyncResult", "EagerResult", "GroupResult", "result_from_tuple"]
