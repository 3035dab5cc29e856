"""The version of the distribution that this package comes with."""

from dagster_celery._door import door
from dagster_taskiq.version import __version__

__all__ = ["__version__"]

door(__name__)
