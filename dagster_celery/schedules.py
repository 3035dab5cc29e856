"""Schedules for ``beat_schedule``, for projects without Celery: ``celery.schedules`` has the same.

Those of Celery itself can be used as well.
"""

from dagster_celery._celery_app.beat.crontab import crontab, schedule, solar
from dagster_celery._door import door

__all__ = ["crontab", "schedule", "solar"]

door(__name__)
