"""The distribution ``dagster-celery``: its releases, what stands in for it, and its leftovers."""
