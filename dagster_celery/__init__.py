"""The names of dagster-celery, on top of ``dagster_taskiq``.

Here so far: the tags, the version and the command line. Executor, launcher and app object follow.
"""

from dagster_celery.version import __version__

__all__ = ["__version__"]
