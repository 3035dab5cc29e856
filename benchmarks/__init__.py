"""How fast this project is, measured beside dagster-celery with Celery: see docs/performance.md."""
