"""Importing the modules that have the tasks and their schedules."""

import sys
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

from dagster_taskiq.errors import ConfigError


def import_modules(names: Iterable[str]) -> None:
    """Import modules, those of the working directory too.

    Raises:
        ConfigError: one cannot be imported.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    for name in names:
        try:
            import_module(name)
        except ConfigError:
            raise
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
            raise ConfigError(f"Cannot import the module {name}: {problem}") from error
