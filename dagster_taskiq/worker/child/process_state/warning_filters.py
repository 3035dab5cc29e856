"""Python's warnings: which are shown, how, and which have been shown."""

import logging
import warnings
from collections.abc import Callable
from typing import Any


class WarningFilters:
    """The filters. What was shown once is shown once to the next task again."""

    name = "warnings filters"
    of_thread = False

    def read(self) -> list[Any]:
        """Return the filters, the first one first."""
        return list(warnings.filters)

    def restore(self, wanted: list[Any]) -> None:
        """Set the filters, and let modules forget which warnings they have shown."""
        # Python's own way of saying so to all modules: they compare the version of the filters.
        warnings.resetwarnings()
        warnings.filters[:] = wanted  # type: ignore[index] # it is a list
        vars(warnings)["onceregistry"].clear()


def show() -> Callable[..., Any]:
    """Return what shows a warning."""
    return warnings.showwarning


def set_show(wanted: Callable[..., Any]) -> None:
    """Set what shows a warning."""
    logging.captureWarnings(False)  # forgets what it has replaced
    warnings.showwarning = wanted
