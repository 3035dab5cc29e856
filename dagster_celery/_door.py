"""Modules that say, to whoever imports one of their names, what to write instead."""

import sys
from types import ModuleType
from typing import Any

from dagster_celery._translate.names import NAMES
from dagster_taskiq.deprecations import warn_importer


class _Door(ModuleType):
    """A module that warns when a public name of its is read from elsewhere.

    The module's own functions read their globals from its dictionary, and do not come by here.
    """

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        module = super().__getattribute__("__name__")
        instead = NAMES.get(module, {}).get(name)
        if instead is not None:
            warn_importer(f"{module}.{name} is an older name; {instead}.", depth=2)
        return value


def door(module: str) -> None:
    """Let a module warn about its names, which ``_translate.names`` lists.

    Python documents that a module's class may be replaced (PEP 562 names the alternative, which
    serves only names that are not there).

    Args:
        module: its ``__name__``.
    """
    sys.modules[module].__class__ = _Door
