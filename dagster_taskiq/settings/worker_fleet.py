"""The settings of the worker to which this process belongs, if it is a child of one."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dagster_taskiq.settings.settings import Settings

_worker_settings: "Settings | None" = None


def set_worker_settings(settings: "Settings") -> None:
    """Note that this process works for a worker with these settings.

    What is executed here and names no broker then uses the worker's: the steps of a run that was
    launched onto a fleet go to the same fleet (see ``fleet`` in :meth:`Settings.from_dict`).
    """
    global _worker_settings  # noqa: PLW0603 - it is what worker_settings() returns
    _worker_settings = settings


def worker_settings() -> "Settings | None":
    """Return the settings of the worker to which this process belongs; ``None`` elsewhere."""
    return _worker_settings


def process_settings() -> "Settings":
    """Return the settings of the worker to which this process belongs, else the environment's.

    Raises:
        ConfigError: as :meth:`Settings.from_dict`.
    """
    # Imported here: warnings ask for the worker's settings, also in a health probe.
    from dagster_taskiq.settings.settings import Settings  # noqa: PLC0415

    return _worker_settings or Settings.from_dict({})
