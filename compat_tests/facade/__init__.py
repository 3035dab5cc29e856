"""What the names of dagster-celery promise, held against dagster-celery itself."""
