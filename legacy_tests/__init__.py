"""dagster-celery's own tests, unmodified, run against the ``dagster_celery`` of this project."""
