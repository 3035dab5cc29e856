"""Tasks that ``app.autodiscover_tasks()`` finds."""

from celery import shared_task


@shared_task
def discovered(number: int) -> int:
    return number * 2
