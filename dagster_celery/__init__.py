"""The names of dagster-celery, on top of ``dagster_taskiq``."""

from dagster_taskiq.version import __version__

__all__ = ["__version__"]
