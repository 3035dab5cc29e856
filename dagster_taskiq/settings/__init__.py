"""Where broker and backend are, and how long things take."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dagster_taskiq.settings.settings import Settings

__all__ = ["Settings"]


def __getattr__(name: str) -> Any:
    # Imported when it is asked for: a health probe needs no settings, and runs every few seconds.
    if name != "Settings":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module("dagster_taskiq.settings.settings").Settings
