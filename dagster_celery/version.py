"""The version of the distribution that this package comes with."""

from dagster_taskiq.version import __version__

__all__ = ["__version__"]
