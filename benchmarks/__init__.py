"""How fast this project is, measured beside dagster-celery: docs/explanation/performance.md."""
