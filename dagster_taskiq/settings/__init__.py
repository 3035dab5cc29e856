"""Where broker and backend are, and how long things take."""

from dagster_taskiq.settings.settings import Settings

__all__ = ["Settings"]
