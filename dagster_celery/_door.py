"""Modules that warn when one of their names is imported, and name what to write instead."""

import sys
from types import ModuleType
from typing import Any

from dagster_celery._translate.names import NAMES
from dagster_celery._warnings import warn_importer


class _Door(ModuleType):
    """A module that warns when one of its public names is read from another module.

    Code in the module itself reads its globals from the module's dictionary, not by this method.
    """

    def __getattribute__(self, name: str) -> Any:
        value = super().__getattribute__(name)
        module = super().__getattribute__("__name__")
        instead = NAMES.get(module, {}).get(name)
        if instead is not None:
            warn_importer(f"{module}.{name} is an older name; {instead}.", depth=2)
        return value


def door(module: str) -> None:
    """Have a module warn about its names, which ``_translate.names`` lists.

    Python's documentation allows to replace a module's class ("Customizing module attribute
    access"). A module's ``__getattr__`` (PEP 562) is called only for names that are not there.

    Args:
        module: its ``__name__``.
    """
    sys.modules[module].__class__ = _Door
