"""dagster-celery, on top of ``dagster_taskiq``: the names that its projects use.

The public modules have the names that they have in dagster-celery, and only import what they offer.
A name that is imported from one of them warns, and the warning names what to write instead.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dagster_shared.libraries import DagsterLibraryRegistry

from dagster_celery._door import door
from dagster_celery._warnings import DagsterCeleryDeprecationWarning, DagsterCeleryWarning
from dagster_taskiq.distribution.leftover import warn_of_leftover
from dagster_taskiq.version import __version__

if TYPE_CHECKING:
    from dagster_celery import config as config
    from dagster_celery import defaults as defaults
    from dagster_celery import executor as executor
    from dagster_celery import version as version
    from dagster_celery.executor import celery_executor

__all__ = [
    "DagsterCeleryDeprecationWarning",
    "DagsterCeleryWarning",
    "__version__",
    "celery_executor",
]

#: The modules that can be read from the package without being imported first: dagster-celery itself
#: imports them with the package.
_MODULES = ("config", "defaults", "executor", "version")


def __getattr__(name: str) -> Any:
    # Imported when it is first read: Dagster takes seconds to import, and the command line has to
    # start the fork server before that.
    if name == "celery_executor":
        return import_module("dagster_celery.executor").celery_executor
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


warn_of_leftover(stacklevel=2)
# Dagster shows the libraries of a code location. Those of its own have the releases of Dagster.
DagsterLibraryRegistry.register("dagster-celery", __version__, is_dagster_package=False)
door(__name__)
